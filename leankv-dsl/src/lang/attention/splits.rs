//! How the pages of a (request, KV head) are cut into splits: pages of a constant number, so that a cut depends on the list alone.
//!
//! The concatenated list of a head is its high pages, then its low ones. Split `s` takes pages `s * split_pages .. (s + 1) * split_pages` of it, as far
//! as there are any. Split 0 is there for an empty list too.

use std::ops::Range;

use crate::lang::tile::{Scalar, lit};

/// As pages of a split: all pages, in one split.
pub const ALL_PAGES: usize = 0;

/// Splits of a list of so many pages.
#[must_use]
pub const fn splits_of(pages: usize, split_pages: usize) -> usize {
    match split_pages {
        ALL_PAGES => 1,
        _ if pages == 0 => 1,
        _ => pages.div_ceil(split_pages),
    }
}

/// The pages of a split of such a list.
#[must_use]
pub fn pages_of_split(pages: usize, split_pages: usize, split: usize) -> Range<usize> {
    let each = if split_pages == ALL_PAGES { pages } else { split_pages };
    let at = |split: usize| split.saturating_mul(each).min(pages);
    at(split)..at(split + 1)
}

/// What one program works on: a request, a KV head and a split of its pages.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The request's slot, as [`PagedKv::slot`](super::PagedKv::slot) gives it.
    pub slot: Scalar<i32>,
    /// The KV head.
    pub head: Scalar<i32>,
    /// The split.
    pub split: Scalar<i32>,
    /// Pages of a split.
    pub split_pages: Scalar<i32>,
}

impl Work {
    /// All pages of a KV head.
    #[track_caller]
    pub fn all(slot: Scalar<i32>, head: Scalar<i32>) -> Work {
        Work { slot, head, split: lit(0), split_pages: lit(i32::MAX) }
    }

    /// Split number `split` of them, of `split_pages` pages. With [`ALL_PAGES`] there is no other than split 0.
    #[track_caller]
    pub fn split(self, split: Scalar<i32>, split_pages: usize) -> Work {
        match split_pages {
            ALL_PAGES => self,
            pages => Work { split, split_pages: lit(pages as i32), ..self },
        }
    }

    /// As the function [`splits_of`], in a kernel.
    #[track_caller]
    pub fn splits_of(pages: Scalar<i32>, split_pages: usize) -> Scalar<i32> {
        match split_pages {
            ALL_PAGES => lit(1),
            each => pages.cdiv(each as i32).max(1),
        }
    }

    /// Which of a tier's `mine` pages are this split's, from the first one to the one after the last. The list has `all` pages, and those of the
    /// tier follow on `before` others.
    #[track_caller]
    pub fn pages(
        &self,
        mine: Scalar<i32>,
        before: Scalar<i32>,
        all: Scalar<i32>,
    ) -> (Scalar<i32>, Scalar<i32>) {
        let from = self.split * self.split_pages;
        // A split of all pages has more than any list: the sum would be too large a number.
        let to = from + (all - from).min(self.split_pages);
        ((from - before).clamp(0, mine), (to - before).clamp(0, mine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_have_every_page_once() {
        for (pages, split_pages) in [(0, 8), (1, 8), (8, 8), (9, 8), (37, 1), (37, ALL_PAGES), (0, ALL_PAGES)]
        {
            let splits = splits_of(pages, split_pages);
            let all: Vec<usize> =
                (0..splits).flat_map(|split| pages_of_split(pages, split_pages, split)).collect();
            assert!(all.into_iter().eq(0..pages), "{pages} pages, {split_pages} a split");
            assert!(pages_of_split(pages, split_pages, splits).is_empty());
        }
        assert_eq!(
            [splits_of(0, 8), splits_of(8, 8), splits_of(9, 8), splits_of(9, ALL_PAGES)],
            [1, 1, 2, 1]
        );
    }
}
