//! Prefix sharing: a child reads its parent's full pages; the partly filled ones are copied.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_dsl::lang::*;

/// The pages that children need for themselves: one for each list whose last page is partly filled.
///
/// * Shapes: `parents` is `[forks]`, slots; `lengths` as in the [module](crate::manager); `targets` is `[forks, lists, 2]`, for a rebalance of the
///   children's slots, which hold nothing; `page_tokens` as in the [module](crate::manager).
/// * Grid: `[ceil(lists / block), forks]`.
#[kernel(space(block = [256, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn plan_fork(
    #[comptime] block: usize,
    parents: View<i32, 1>,
    lengths: View<i32, 3>,
    page_tokens: View<i32, 3>,
    targets: ViewMut<i32, 3>,
) {
    let (tile, fork) = (program_id(0), program_id(1));
    let parent = parents.get([fork]);
    for low in [false, true] {
        let tier = PerTier::AT.of(low);
        // A list without a low tier has 0, and no token there.
        let tokens = page_tokens.tile((parent, tile, tier), [1, block, 1]).load().max(1);
        let length = lengths.tile((parent, tile, Lengths::AT.tokens(low)), [1, block, 1]).load();
        let partly = (length % tokens).ne(0);
        targets.tile((fork, tile, tier), [1, block, 1]).store(partly.cast::<i32>());
    }
}

/// Lets children read their parents' full pages.
///
/// A child's own pages, taken after [`plan_fork`](fn@plan_fork), move behind the shared ones. Tokens in shared pages are frozen for both: they
/// are read and never written, so nobody sees what the other does later. Thresholds and tokens of a page go along.
///
/// * Shapes: `parents`, `children` are `[forks]`, slots; no child is a parent or another child; `granted` is `[forks]`, of the children's rebalance:
///   a fork that was not granted is left out. `thresholds` is `[slots, lists, 2]`; the rest as in the [module](crate::manager).
/// * Grid: `[lists, forks]`.
/// * Source: copy-on-write paging; not in the published system, whose reference counts are 0 or 1.
#[kernel(space(block = [128, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn fork_pages(
    #[comptime] block: usize,
    parents: View<i32, 1>,
    children: View<i32, 1>,
    granted: View<i32, 1>,
    page_tokens: ViewMut<i32, 3>,
    table: ViewMut<i32, 3>,
    lengths: ViewMut<i32, 3>,
    held: ViewMut<i32, 3>,
    refs: ViewMut<i32, 1>,
    thresholds: ViewMut<f32, 3>,
) {
    let (list, fork) = (program_id(0), program_id(1));
    if granted.get([fork]).eq(1) {
        let (parent, child) = (parents.get([fork]), children.get([fork]));
        let last = table.extent(2).cast::<i32>() - 1;
        for low in [false, true] {
            let (tier, at, frozen_at) =
                (PerTier::AT.of(low), Lengths::AT.tokens(low), Lengths::AT.frozen(low));
            let per_page = page_tokens.get([parent, list, lit(tier)]);
            page_tokens.set([child, list, lit(tier)], per_page);
            let tokens = per_page.max(1);
            let length = lengths.get([parent, list, lit(at)]);
            let (full, partly) = (length / tokens, (length % tokens).ne(0));
            let entry = |k: Scalar<i32>| if low { last - k } else { k };
            if partly {
                let own = table.get([child, list, entry(lit(0))]);
                table.set([child, list, entry(full)], own);
            }
            for turn in range(0, full.cdiv(block as i32)) {
                let k = turn * block as i32 + iota(block);
                let shared = k.lt(full);
                let entries = if low { last - k } else { k };
                let row = |slot: Scalar<i32>| {
                    let slot = slot.cast::<i64>() * table.stride(0);
                    slot + list.cast::<i64>() * table.stride(1) + entries.cast::<i64>()
                };
                let page = table.ptr().load_masked(row(parent), shared);
                refs.ptr().atomic().add_masked(page, 1, shared);
                table.ptr().store_masked(row(child), page, shared);
            }
            held.set([child, list, lit(tier)], full + partly.cast::<i32>());
            lengths.set([child, list, lit(at)], length);
            lengths.set([child, list, lit(frozen_at)], full * tokens);
            // Children of one parent may do this at the same time.
            let place = parent.cast::<i64>() * lengths.stride(0) + list.cast::<i64>() * lengths.stride(1);
            lengths.ptr().atomic().max(place + i64::from(frozen_at), full * tokens);
            let threshold = thresholds.get([parent, list, lit(tier)]);
            thresholds.set([child, list, lit(tier)], threshold);
        }
    }
}

/// Copies the partly filled page at the end of each list of a parent to its child.
///
/// * Shapes: as [`fork_pages`](fn@fork_pages) left them; `arena` is `[pages, page_bytes / 8]`.
/// * Grid: `[lists, forks]`.
#[kernel(space(block = [128, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn copy_tails(
    #[comptime] block: usize,
    parents: View<i32, 1>,
    children: View<i32, 1>,
    granted: View<i32, 1>,
    page_tokens: View<i32, 3>,
    table: View<i32, 3>,
    lengths: View<i32, 3>,
    #[arg(align = 16)] arena: ViewMut<i64, 2>,
) {
    let (list, fork) = (program_id(0), program_id(1));
    if granted.get([fork]).eq(1) {
        let (parent, child) = (parents.get([fork]), children.get([fork]));
        let last = table.extent(2).cast::<i32>() - 1;
        for low in [false, true] {
            let tokens = page_tokens.get([parent, list, lit(PerTier::AT.of(low))]).max(1);
            let length = lengths.get([parent, list, lit(Lengths::AT.tokens(low))]);
            if (length % tokens).ne(0) {
                let full = length / tokens;
                let entry = if low { last - full } else { full };
                let (from, to) = (table.get([parent, list, entry]), table.get([child, list, entry]));
                for part in range(0, arena.extent(1).cast::<i32>().cdiv(block as i32)) {
                    let words = arena.tile((from, part), [1, block]).load();
                    arena.tile((to, part), [1, block]).store(words);
                }
            }
        }
    }
}
