//! A filled paged cache: what attention over pages reads.

use leankv_dsl::format::{SegmentKind, Tiering};
use leankv_dsl::lang::attention::{
    LayeredKvArgs, LayeredKvMutArgs, Lengths, PagedKvArgs, PagedKvMutArgs, PerTier,
};
use leankv_dsl::lang::launch::Tensor;
use leankv_dsl::workload::{Generator, Given, given};

use super::{RecipeError, Shapes};
use crate::reference::{HeadLists, PagedFormat, PagedKv, ReferenceError, write_token};

/// The numbers of all of so many layers, as launches over layers are told them.
pub(super) fn all_layers(layers: usize) -> Tensor<'static, i32, 1> {
    given(&(0..layers as i32).collect::<Vec<_>>()).tensor([layers])
}

/// Pages of several requests, each in a slot of its own.
pub(super) struct Cache {
    pub(super) requests: usize,
    /// Lists of a request: KV heads, of all layers where there are several.
    pub(super) kv_heads: usize,
    pub(super) high: PagedFormat,
    pub(super) low: Option<PagedFormat>,
    pub(super) arena: Vec<u8>,
    pub(super) table: Vec<i32>,
    pub(super) lengths: Vec<i32>,
    /// `[requests, kv_heads, 2]`: pages of the high and of the low list.
    pub(super) held: Vec<i32>,
    /// Of the requests of the launch.
    pub(super) slots: Vec<i32>,
    pub(super) table_len: usize,
    /// Tokens of the longest list, both tiers.
    pub(super) longest: usize,
}

impl Cache {
    /// A cache of random keys and values, whose lists have the lengths that the shapes ask for, in pages in random order. What no token
    /// was written to holds NaN patterns: nobody may read it. Positions of a list's tiers are mixed, each tier's in order.
    pub(super) fn new(
        tiering: &Tiering,
        head_dim: usize,
        page_bytes: usize,
        shapes: &Shapes,
        random: &mut Generator,
    ) -> Result<Cache, RecipeError> {
        Cache::with(tiering, head_dim, page_bytes, shapes, shapes.get("kv_heads"), 0, random)
    }

    /// A cache with `kv_heads` lists of each request, each tier with pages for `spare` tokens more.
    pub(super) fn with(
        tiering: &Tiering,
        head_dim: usize,
        page_bytes: usize,
        shapes: &Shapes,
        kv_heads: usize,
        spare: usize,
        random: &mut Generator,
    ) -> Result<Cache, RecipeError> {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let paged = |format| PagedFormat::new(format, narrow(head_dim), narrow(page_bytes));
        let high = paged(tiering.high)?;
        let low = tiering.low.map(paged).transpose()?;
        let requests = shapes.get("requests");
        let lists = requests * kv_heads;
        let longest = [shapes.get("tokens"), if low.is_some() { shapes.get("low_tokens") } else { 0 }];
        let tokens: Vec<[usize; 2]> = (0..lists)
            .map(|list| match list % 4 {
                _ if shapes.get("ragged") == 0 => longest,
                0 => longest,
                1 => [1, 0].map(|n: usize| n.min(longest[0])),
                2 => [0, 0],
                _ => [longest[0].saturating_sub(1), longest[1] / 2],
            })
            .collect();
        let pages = |paged: Option<&PagedFormat>, n: usize| {
            paged.map_or(0, |p| (n + spare).div_ceil(p.tokens_per_page()))
        };
        let pages_of = |&[h, l]: &[usize; 2]| pages(Some(&high), h) + pages(low.as_ref(), l);
        let table_len = tokens.iter().map(pages_of).max().unwrap_or(0) + 1;
        let total: usize = tokens.iter().map(pages_of).sum();
        let mut ids = random.permutation(total).into_iter();
        // An arena is never empty.
        let mut arena = vec![0xFF; total.max(1) * page_bytes];
        let slots = random.permutation(requests);
        let mut table = vec![-1; lists * table_len];
        let (mut lengths, mut held) = (vec![0; lists * Lengths::COLUMNS], vec![0; lists * PerTier::COLUMNS]);
        for (list, tokens) in tokens.iter().enumerate() {
            // Lists lie where their request's slot is.
            let place = slots[list / kv_heads] * kv_heads + list % kv_heads;
            let positions = mixed(*tokens);
            let [high_pages, low_pages] = [pages(Some(&high), tokens[0]), pages(low.as_ref(), tokens[1])];
            PerTier { high: high_pages as i32, low: low_pages as i32 }.put(&mut held, place);
            let [high_tokens, low_tokens] = tokens.map(|n| n as i32);
            // Some leading tokens belong to another request too.
            let [frozen_high, frozen_low] =
                tokens.map(|n| if shapes.get("ragged") == 0 { 0 } else { n as i32 / 4 });
            Lengths { high: high_tokens, low: low_tokens, frozen_high, frozen_low }.put(&mut lengths, place);
            for (tier, &n) in tokens.iter().enumerate() {
                let Some(paged) = (if tier == 0 { Some(&high) } else { low.as_ref() }) else { continue };
                let mut here = Vec::new();
                for index in 0..pages(Some(paged), n) {
                    let page = ids.next().unwrap_or(0);
                    let entry = if tier == 0 { index } else { table_len - 1 - index };
                    table[place * table_len + entry] = page as i32;
                    here.push(page);
                }
                for (t, &position) in positions[tier].iter().enumerate() {
                    let (index, slot) = (t / paged.tokens_per_page(), t % paged.tokens_per_page());
                    let (key, value) = (random.f32s(head_dim, -1.5, 2.5), random.f32s(head_dim, -1.0, 1.0));
                    let significance = random.f32s(1, 0.0, 2.0)[0];
                    let bytes = &mut arena[here[index] * page_bytes..][..page_bytes];
                    write_token(paged, bytes, slot as u32, &key, &value, significance, position)?;
                }
            }
        }
        let slots = slots.into_iter().map(|slot| slot as i32).collect();
        let longest = tokens.iter().map(|[h, l]| h + l).max().unwrap_or(0);
        Ok(Cache { requests, kv_heads, high, low, arena, table, lengths, held, slots, table_len, longest })
    }

    /// For a launch over the first request alone, and its slot.
    pub(super) fn of_first(mut self) -> Result<(Cache, usize), RecipeError> {
        self.slots.truncate(1);
        match self.slots[..] {
            [slot] => Ok((self, slot as usize)),
            _ => Err(ReferenceError::Shape { what: "requests", expected: 1, got: 0 }.into()),
        }
    }

    /// Page numbers of a list, counted over slots and KV heads: of the high tier, and of the low tier.
    pub(super) fn ids(&self, list: usize) -> [Vec<i32>; 2] {
        let row = &self.table[list * self.table_len..][..self.table_len];
        [row.to_vec(), row.iter().rev().copied().collect()]
    }

    /// For the reference: where a list with these [`ids`](Cache::ids) keeps its tokens.
    pub(super) fn lists<'a>(&'a self, [high_ids, low_ids]: &'a [Vec<i32>; 2]) -> HeadLists<'a> {
        HeadLists { high: &self.high, low: self.low.as_ref(), high_ids, low_ids }
    }

    /// For the reference.
    pub(super) fn paged(&self) -> PagedKv<'_> {
        PagedKv {
            high: &self.high,
            low: self.low.as_ref(),
            arena: &self.arena,
            slots: &self.slots,
            page_table: &self.table,
            lengths: &self.lengths,
            table_len: self.table_len,
        }
    }

    fn own_slots(&self) -> Tensor<'static, i32, 1> {
        given(&self.slots).tensor([self.slots.len()])
    }

    /// Extents of tables and the like that have so many numbers a list.
    fn extents(&self, columns: usize) -> [usize; 3] {
        [self.requests, self.kv_heads, columns]
    }

    /// As [`extents`](Cache::extents), of `layers` layers.
    pub(super) fn of_layers(&self, layers: usize, columns: usize) -> [usize; 4] {
        [self.requests, layers, self.kv_heads.checked_div(layers).unwrap_or(0), columns]
    }

    /// For a kernel: its `kv`, with these pages.
    pub(super) fn kv(&self, arena: Given<u8>) -> PagedKvArgs<'static> {
        PagedKvArgs {
            arena: arena.slice_mut(),
            slots: self.own_slots(),
            table: given(&self.table).tensor(self.extents(self.table_len)),
            lengths: given(&self.lengths).tensor(self.extents(4)),
        }
    }

    /// As [`kv`](Cache::kv), to write.
    pub(super) fn kv_mut(&self, arena: Given<u8>, lengths: Given<i32>) -> PagedKvMutArgs<'static> {
        PagedKvMutArgs {
            arena: arena.slice_mut(),
            slots: self.own_slots(),
            table: given(&self.table).tensor(self.extents(self.table_len)),
            lengths: lengths.tensor_mut(self.extents(4)),
        }
    }

    /// For a kernel over `layers` layers: its `kv`.
    pub(super) fn layered(&self, layers: usize) -> LayeredKvArgs<'static> {
        LayeredKvArgs {
            arena: given(&self.arena).slice_mut(),
            slots: self.own_slots(),
            table: given(&self.table).tensor(self.of_layers(layers, self.table_len)),
            lengths: given(&self.lengths).tensor(self.of_layers(layers, 4)),
        }
    }

    /// As [`layered`](Cache::layered), to write.
    pub(super) fn layered_mut(
        &self,
        layers: usize,
        arena: Given<u8>,
        lengths: Given<i32>,
    ) -> LayeredKvMutArgs<'static> {
        LayeredKvMutArgs {
            arena: arena.slice_mut(),
            slots: self.own_slots(),
            table: given(&self.table).tensor(self.of_layers(layers, self.table_len)),
            lengths: lengths.tensor_mut(self.of_layers(layers, 4)),
        }
    }

    /// Bytes of the 32-byte sectors in which the listed tokens' codes and metadata lie, and their positions where they are needed: of
    /// each page, the sectors of the leading rows of these segments, a sector that two of them share counted once. Nothing less lets
    /// attention over all tokens be computed; significance, padding and rows after the last token are not in it.
    pub(super) fn least_read_bytes(&self, positions: bool) -> u64 {
        let tiers = [Some(&self.high), self.low.as_ref()];
        let mut sectors = 0u64;
        for lengths in self.lengths.chunks(Lengths::COLUMNS).map(|row| Lengths::get(row, 0)) {
            for (paged, tokens) in tiers.iter().zip([lengths.high, lengths.low]) {
                let Some(layout) = paged.map(PagedFormat::layout) else { continue };
                let mut left = tokens as u32;
                while left > 0 {
                    let rows = left.min(layout.tokens_per_page());
                    left -= rows;
                    let mut touched = vec![false; layout.page_bytes().div_ceil(32) as usize];
                    for segment in layout.segments() {
                        let read = match segment.kind {
                            SegmentKind::Significance => false,
                            SegmentKind::Positions => positions,
                            _ => true,
                        };
                        if read && segment.row_bytes > 0 {
                            let last = segment.row(rows).div_ceil(32);
                            touched[(segment.offset / 32) as usize..last as usize].fill(true);
                        }
                    }
                    sectors += touched.iter().filter(|t| **t).count() as u64;
                }
            }
        }
        32 * sectors
    }
}

/// Positions `0..high + low` shared out to both tiers of a list, as evenly as can be; the first one is high.
fn mixed([high, low]: [usize; 2]) -> [Vec<i32>; 2] {
    let all = high + low;
    let highs: Vec<i32> = (0..high).map(|t| (t * all / high) as i32).collect();
    let lows = (0..all as i32).filter(|position| highs.binary_search(position).is_err()).collect();
    [highs, lows]
}

#[cfg(test)]
mod tests {
    use super::mixed;

    #[test]
    fn tiers_share_all_positions() {
        assert_eq!(mixed([2, 3]), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(mixed([3, 0]), [vec![0, 1, 2], vec![]]);
        assert_eq!(mixed([0, 2]), [vec![], vec![0, 1]]);
        assert_eq!(mixed([37, 41]).concat().len(), 78);
    }
}
