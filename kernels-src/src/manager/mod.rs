//! The page manager: every (request, layer, KV head) owns two lists of pages, and one launch moves pages for all of them.
//!
//! Everything is *rebalance*: the caller says how many pages each list shall hold, and three launches bring it there.
//! [`prepare_pages`](fn@prepare_pages) drops what is too much and counts, [`scan_pages`](fn@scan_pages) decides which requests are
//! granted what they lack, [`commit_pages`](fn@commit_pages) moves page numbers between tables and ring. Admission, growth,
//! compaction, preemption and freeing many requests are rebalances with other targets; nothing is read back in between.
//!
//! | buffer | shape | meaning |
//! |---|---|---|
//! | `table` | `[slots, lists, table_len]` | high page `k` at entry `k`, low page `k` at entry `table_len - 1 - k`, -1 where there is none |
//! | `held` | `[slots, lists, 2]` | pages of the high and of the low list: a [`PerTier`] |
//! | `lengths` | `[slots, lists, 4]` | tokens of both, and how many of them are frozen: [`Lengths`] |
//! | `page_tokens` | `[slots, lists, 2]` | tokens that a high and a low page hold, in the formats of the request and the layer; 0 for a low tier that the layer does not have |
//! | `refs`, `generation` | `[pages]` | lists that hold the page; how often it was taken |
//! | `ring` | `[pages]` | numbers of free pages, between the cursors |
//! | `cursors` | `[2]` of i64 | pages [`Moved`] since the start: `free = given - taken`, place = cursor modulo pages |
//!
//! `lists` counts (layer, KV head) pairs, layer by layer. The cursors only grow, so a full and an empty ring differ, and pages
//! given in a rebalance lie behind all that it takes: no page is taken before its last reader is done.
//!
//! [`PageState`](crate::reference::PageState) is all of it in plain Rust.
//!
//! [`PerTier`]: leankv_dsl::lang::attention::PerTier
//! [`Lengths`]: leankv_dsl::lang::attention::Lengths

mod fit;
mod fork;
mod rebalance;

pub use fit::*;
pub use fork::*;
pub use rebalance::*;

use leankv_dsl::lang::*;

/// Entries of one tier's lists in the page table: one list a lane.
#[derive(Clone, Copy, Debug)]
struct Entries {
    /// Where each list's row starts in the table, in elements.
    rows: Tile<i64, 1>,
    table_len: Scalar<i64>,
    low: bool,
}

impl Entries {
    /// Where page number `k` of each list stands.
    #[track_caller]
    fn at(&self, k: Tile<i32, 1>) -> Tile<i64, 1> {
        let k = k.cast::<i64>();
        if self.low { self.rows + (self.table_len - 1) - k } else { self.rows + k }
    }
}

/// An index that passed the ring's end at most once, brought back into it.
#[track_caller]
fn wrapped(at: Tile<i64, 1>, pages: Scalar<i64>) -> Tile<i64, 1> {
    at.ge(pages.splat(at.extents())).select(at - pages, at)
}
