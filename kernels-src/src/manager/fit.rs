//! Pages for the tokens that lists hold.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_dsl::lang::*;

/// The pages that lists need for the tokens they hold and for `more_high` and `more_low` ones: targets of a rebalance. Where `demotes` is not 0 the low list has room
/// for all tokens of the high one, too.
///
/// * Shapes: `slots` is `[requests]`; `page_tokens` and `lengths` as in the [module](crate::manager); `targets` is `[requests, lists, 2]`.
/// * Grid: `[ceil(lists / block), requests]`.
/// * Values: the targets of a request with a negative slot are -1, and those of a tier that a layer does not have are 0.
#[kernel(space(block = [256, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn fit_pages(
    #[comptime] block: usize,
    slots: View<i32, 1>,
    more_high: Scalar<i32>,
    more_low: Scalar<i32>,
    demotes: Scalar<i32>,
    page_tokens: View<i32, 3>,
    lengths: View<i32, 3>,
    targets: ViewMut<i32, 3>,
) {
    let (tile, request) = (program_id(0), program_id(1));
    let (slot, extents) = (slots.get([request]), [1, block, 1]);
    let row = slot.max(0);
    let tokens_of = |low: bool| lengths.tile((row, tile, Lengths::AT.tokens(low)), extents).load();
    let demoted = demotes.ne(0).splat(extents).select(tokens_of(false), 0);
    for (low, tokens) in [(false, tokens_of(false) + more_high), (true, tokens_of(true) + more_low + demoted)]
    {
        let tier = PerTier::AT.of(low);
        let per_page = page_tokens.tile((row, tile, tier), extents).load();
        let pages: Tile<i32, 3> = per_page.gt(0).select(tokens.cdiv(per_page.max(1)), 0);
        targets.tile((request, tile, tier), extents).store(slot.ge(0).splat(extents).select(pages, -1));
    }
}
