//! A byte budget instead of thresholds: what every possible threshold would cost is tallied, and the loosest one that fits is taken.
//!
//! Thresholds are multiples of `1 / tokens`, so what counts is a token's *ratio*: significance times tokens. [`tally_tokens`](fn@tally_tokens)
//! counts, for every (request, layer, KV head) and a fixed ladder of [edges](Ladder), the tokens at or above each edge;
//! [`price_tally`](fn@price_tally) turns the counts of all heads into pages, since pages are what memory is made of, and
//! [`solve_budget`](fn@solve_budget) sets the thresholds of requests that have a budget alone, or one together; [`make_room`](fn@make_room) says what
//! demoting by them needs. Four launches, whatever the number of requests, layers and heads (all but the third once for each tiering), and
//! nothing is read back.
//!
//! One rung is solved for, for all layers and heads of a request. How the thresholds of a layer stand to it, its [`LayerRungs`] say. Where a head's pages have places left, its low threshold
//! is lowered until they are filled.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{Codecs, LayeredKv, PerTier, Tier, Tiers, Work};
use leankv_dsl::lang::*;

use crate::policy::{Judged, Progress, Rule, SINKS};

/// The thresholds that a budget can choose from: 0, then four an octave from 2^-12 to 2^19, at 1, 5/4, 3/2 and 7/4 of a power of two, and
/// infinity, which no token reaches about which a policy is asked.
///
/// The edges are numbers whose mantissa ends after two bits, so that the rung of a ratio is an integer shift of its bits, equal on every
/// executor.
#[derive(Clone, Copy, Debug)]
pub struct Ladder;

impl Ladder {
    /// Rungs, 0 and infinity included.
    pub const RUNGS: usize = 128;
    /// The rung of infinity.
    pub const LAST: i32 = Self::RUNGS as i32 - 1;
    /// Bits of an f32 below the two that count.
    const SHIFT: u32 = 21;
    /// What the shifted bits of the lowest edge above zero are: 2^-12.
    const FIRST: i32 = (127 - 12) << 2;

    /// The threshold of a rung: 0 for rung 0 and below, infinity from the last one on.
    #[must_use]
    pub fn edge(rung: i32) -> f32 {
        match rung.clamp(0, Self::LAST) {
            0 => 0.0,
            Self::LAST => f32::INFINITY,
            rung => f32::from_bits(((rung - 1 + Self::FIRST) << Self::SHIFT) as u32),
        }
    }

    /// The highest rung whose edge a finite ratio reaches: never the last one.
    #[must_use]
    pub fn rung(ratio: f32) -> i32 {
        let bits = (ratio.max(0.0).to_bits() >> Self::SHIFT) as i32;
        (bits - Self::FIRST + 1).clamp(0, Self::LAST - 1)
    }

    /// As [`edge`](Ladder::edge), in a kernel.
    #[track_caller]
    pub fn edge_scalar(rung: Scalar<i32>) -> Scalar<f32> {
        let edge = ((rung.clamp(1, Self::LAST) - 1 + Self::FIRST) << Self::SHIFT as i32).bitcast::<f32>();
        let edge: Scalar<f32> = rung.ge(Self::LAST).select(f32::INFINITY, edge);
        rung.gt(0).select(edge, 0.0)
    }

    /// As [`rung`](Ladder::rung), in a kernel.
    #[track_caller]
    pub fn rung_tile(ratio: Tile<f32, 1>) -> Tile<i32, 1> {
        let bits = ratio.max(0.0).bitcast::<i32>() >> Self::SHIFT as i32;
        (bits - Self::FIRST + 1).clamp(0, Self::LAST - 1)
    }
}

row! {
    /// Where the thresholds of a layer stand on the [`Ladder`].
    pub struct LayerRungs {
        /// Rungs from the one that is solved for up to the high threshold; may be negative.
        lift,
        /// Rungs from the high threshold down to the low one; 0 for formats without a low tier.
        gap,
    }
}

impl LayerRungs {
    /// The rungs of the high and of the low threshold where `rung` is solved for. Infinity stays infinity, whatever the lift.
    #[must_use]
    pub fn of(self, rung: i32) -> PerTier {
        let lifted = if rung >= Ladder::LAST { Ladder::LAST } else { rung + self.lift };
        let high = lifted.clamp(0, Ladder::LAST);
        PerTier { high, low: (high - self.gap).max(0) }
    }
}

/// As [`LayerRungs::of`], in a kernel.
#[track_caller]
fn rungs_of<const R: usize>(of: LayerRungs<Tile<i32, R>>, rung: Tile<i32, R>) -> PerTier<Tile<i32, R>> {
    let lifted = (rung + of.lift).clamp(0, Ladder::LAST);
    let high = rung.ge(Ladder::LAST).select(Ladder::LAST, lifted);
    PerTier { high, low: (high - of.gap).max(0) }
}

/// Specialisation of [`tally_tokens`](fn@tally_tokens) and [`price_tally`](fn@price_tally).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.chunk >= 1 && s.window >= 1 && s.sinks >= 0)]
pub struct BudgetSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = crate::step::two_tiers(), values = [crate::step::two_tiers(), Tiering::single(crate::step::two_tiers().high)])]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128)]
    pub head_dim: usize,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Tokens that are looked at together.
    #[spec(default = 32, tune = [8, 16, 32, 64, 128])]
    pub block: usize,
    /// Tokens of the recent window: always high.
    #[spec(default = 64)]
    pub window: i32,
    /// Attention sinks: tokens at positions `0..sinks` are always high.
    #[spec(default = SINKS)]
    pub sinks: i32,
    /// Tokens of a chunk of a prompt.
    #[spec(default = 512)]
    pub chunk: usize,
    /// How many of a chunk's last queries count towards significance.
    #[spec(default = 64)]
    pub window_q: usize,
    /// Weight of tokens' peaks in their scores, in thousandths; 0 keeps none ([`Peaks`](crate::policy::Peaks)).
    #[spec(default = 0)]
    pub peaks: u32,
}

impl BudgetSpec {
    #[track_caller]
    fn tiers(&self, codecs: &dyn Codecs) -> Option<Tiers> {
        Tiers::new(codecs, &self.tiering, self.head_dim, self.page_bytes, self.block)
    }
}

/// As [`pages_for`], in a kernel. Elements are alternatives, one for each rung.
#[track_caller]
fn pages_of(tiers: &Tiers, high: Tile<i32, 1>, low: Tile<i32, 1>, ahead: Scalar<i32>) -> Tile<i32, 1> {
    let per_page = |tier: &Tier| tier.layout().tokens() as i32;
    let in_high = per_page(tiers.high());
    let all = (high + ahead).cdiv(in_high);
    let Some(in_low) = tiers.low().map(per_page) else { return all };
    // Most pages are taken when the tokens to come are all high, or as many are low as begin a page there: another low page takes
    // more tokens than a high one.
    let low_pages = low.cdiv(in_low);
    let first = low_pages * in_low - low + 1;
    let one = (high + (ahead - first).max(0)).cdiv(in_high) + 1;
    let more = first.le(ahead).select(one.max(all), all);
    low_pages + more
}

/// As the kernels count them: the pages of one head with so many tokens in its high and its low list, and room for `ahead` tokens more in
/// whichever of the two they come to lie. `per_page` has the tokens of a page of either tier, none for the low one where there is one tier.
#[must_use]
pub fn pages_for([high, low]: [usize; 2], per_page: (usize, Option<usize>), ahead: usize) -> usize {
    let (in_high, in_low) = per_page;
    let all = (high + ahead).div_ceil(in_high);
    let Some(in_low) = in_low else { return all };
    let low_pages = low.div_ceil(in_low);
    let first = low_pages * in_low - low + 1;
    let one = (high + ahead.saturating_sub(first)).div_ceil(in_high) + 1;
    low_pages + if first <= ahead { all.max(one) } else { all }
}

/// Counts, for every list of layers of one tiering and every edge of the [`Ladder`], the tokens whose ratio is at or above it.
///
/// * Shapes: `layers` is `[tallied]`, the numbers of those layers; `tokens` is `[requests]`, the lengths of the sequences; `prompts` is `[requests]`, the lengths of their prompts; `kv` holds all layers;
///   `tally` is `[requests, layers, kv_heads, 2, RUNGS]`: tokens of the high list, of the low list.
/// * Grid: `[kv_heads, tallied, requests]`.
/// * Values: tokens that no policy is asked about (window, sinks, frozen, not counted yet) are at or above every edge. A request that
///   is left out (a negative slot) has no tokens.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, thresholds as multiples of `1 / N`; the ladder is this project's.
#[kernel]
pub fn tally_tokens<C: Codecs>(
    #[comptime] spec: BudgetSpec,
    layers: View<i32, 1>,
    tokens: View<i32, 1>,
    prompts: View<i32, 1>,
    kv: LayeredKv,
    tally: ViewMut<i32, 5>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (head, layer, request) = (program_id(0), layers.get([program_id(1)]), program_id(2));
    let kv = kv.layer(layer);
    let at = Work::all(kv.slot(request), head);
    let (tokens, prompt) = (tokens.get([request]), prompts.get([request]));
    let rule = Rule::new(spec.window, spec.sinks, spec.chunk, spec.window_q, spec.peaks);
    let now = Progress::new(prompt, tokens);
    let rungs = iota(Ladder::RUNGS).expand_dims(1);
    let mut counts = vec![Tile::<i32, 1>::zeros([Ladder::RUNGS]); 2];
    for tier in tiers.iter() {
        let frozen = kv.frozen(at, tier.is_low());
        let mut count = Tile::<i32, 1>::zeros([Ladder::RUNGS]);
        for block in kv.blocks(at, tier, 1) {
            let index = block.first_token() + iota(spec.block);
            let Judged { sig, open, .. } = rule.judge(now, block.significance(), block.positions());
            let rung = Ladder::rung_tile(sig * tokens.cast::<f32>());
            let rung: Tile<i32, 1> = (open & index.ge(frozen)).select(rung, Ladder::LAST);
            let rung: Tile<i32, 1> = block.valid().select(rung, -1);
            let reached = rung.expand_dims(0).ge(rungs);
            count += reached.cast::<i32>().reduce_sum(1);
        }
        counts[usize::from(tier.is_low())] = count;
    }
    for (list, count) in counts.into_iter().enumerate() {
        let place = tally.tile((request, layer, head, list as i32, 0), [1, 1, 1, 1, Ladder::RUNGS]);
        place.store(count.reshape([1, 1, 1, 1, Ladder::RUNGS]));
    }
}

/// Pages that the lists of each request in layers of one tiering would take under every rung that a budget can be solved with.
///
/// * Shapes: `layers` is `[priced]`, the numbers of those layers; `tally` as [`tally_tokens`](fn@tally_tokens) left it; `ahead` is `[requests]`;
///   `stands` is `[requests, layers, 2]`, rows of [`LayerRungs`]; `prices` is `[requests, RUNGS]`.
/// * Grid: `[requests]`.
/// * Values: where `more` is not 0, on top of what is in `prices`, that of layers of other tierings; else in its place. Enough for `ahead` tokens more in every list, in whichever tier they come to lie, so that what is solved for holds for as many
///   steps. A low token that reaches the high threshold stays low.
/// * Errors: formats that do not fit the page are refused at specialisation.
#[kernel(warps = 1)]
pub fn price_tally<C: Codecs>(
    #[comptime] spec: BudgetSpec,
    layers: View<i32, 1>,
    more: Scalar<i32>,
    tally: View<i32, 5>,
    ahead: View<i32, 1>,
    stands: View<i32, 3>,
    prices: ViewMut<i64, 2>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let request = program_id(0);
    let ahead = ahead.get([request]);
    let heads = tally.extent(2).cast::<i32>();
    let before = prices.tile((request, 0), [1, Ladder::RUNGS]).load().squeeze(0);
    let mut need = more.ne(0).splat([Ladder::RUNGS]).select(before, 0i64);
    for number in range(0, layers.extent(0).cast::<i32>()) {
        let layer = layers.get([number]);
        let stands =
            LayerRungs::load(|column| stands.get([request, layer, lit(column)]).splat([Ladder::RUNGS]));
        let at = rungs_of(stands, iota(Ladder::RUNGS));
        for head in range(0, heads) {
            let at_edge = |list: i32, rung: Tile<i32, 1>| {
                let extents = [1, 1, 1, 1, Ladder::RUNGS];
                let from = rung.cast::<i64>();
                let counts = tally.tile((request, layer, head, list, from), extents).load();
                counts.reshape([Ladder::RUNGS])
            };
            let high = at_edge(0, at.high);
            let low = match tiers.low() {
                Some(_) => at_edge(1, at.low) + at_edge(0, at.low) - high,
                None => Tile::zeros([Ladder::RUNGS]),
            };
            need += pages_of(&tiers, high, low, ahead).cast::<i64>();
        }
    }
    prices.tile((request, 0), [1, Ladder::RUNGS]).store(need.expand_dims(0));
}

row! {
    /// Requests that share a budget, next to each other.
    pub struct BudgetGroup {
        /// The first of them.
        first,
        /// How many there are.
        count,
    }
}

/// Sets the thresholds of requests with a budget to the loosest ones under which their pages fit it. Requests that share a budget, of
/// whatever formats, get the same rung.
///
/// * Shapes: `slots` is `[requests]`; `stands` is `[requests, layers, 2]`, rows of [`LayerRungs`];
///   `prices` is `[requests, RUNGS]`, as [`price_tally`](fn@price_tally) left it; `groups` is `[groups, 2]`, rows of [`BudgetGroup`]; `budgets` is `[groups]`, bytes, negative for a group whose thresholds stay; `thresholds` is `[slots, layers, kv_heads, 2]`, high
///   and low; `pages` is `[groups]`: the pages that the lists take under the new thresholds, `rungs` is `[requests]`: the rung that was
///   taken; -1 where nothing was set.
/// * Grid: `[groups]`.
/// * Values: the same rung for all layers and heads. Where even infinity does not fit (window, sinks and frozen tokens stay under every
///   threshold), infinity is set, and `pages` is more than the budget has. A request with a negative slot costs nothing and keeps its thresholds.
#[kernel(warps = 1, space(page_bytes = [6784]))]
pub fn solve_budget(
    #[comptime] page_bytes: usize,
    slots: View<i32, 1>,
    stands: View<i32, 3>,
    prices: View<i64, 2>,
    groups: View<i32, 2>,
    budgets: View<i64, 1>,
    thresholds: ViewMut<f32, 4>,
    pages: ViewMut<i32, 1>,
    rungs: ViewMut<i32, 1>,
) {
    let group = program_id(0);
    let BudgetGroup { first, count } = BudgetGroup::load(|column| groups.get([group, lit(column)]));
    let budget = budgets.get([group]);
    let (layers, heads) = (thresholds.extent(1).cast::<i32>(), thresholds.extent(2).cast::<i32>());
    let all = iota(Ladder::RUNGS);
    if budget.ge(0) {
        let mut need = Tile::<i64, 1>::zeros([Ladder::RUNGS]);
        for request in range(first, first + count) {
            let price = prices.tile((request, 0), [1, Ladder::RUNGS]).load().squeeze(0);
            need += slots.get([request]).ge(0).splat([Ladder::RUNGS]).select(price, 0i64);
        }
        let fits = (need * page_bytes as i64).le(budget.splat([Ladder::RUNGS]));
        let rung = fits.select(all, Ladder::LAST).reduce_min(0);
        for request in range(first, first + count) {
            let slot = slots.get([request]);
            rungs.set([request], slot.ge(0).select(rung, -1));
            if slot.ge(0) {
                for layer in range(0, layers) {
                    let stands = LayerRungs::load(|column| stands.get([request, layer, lit(column)]));
                    let at = rungs_of(stands, rung);
                    let (high, low) = (Ladder::edge_scalar(at.high), Ladder::edge_scalar(at.low));
                    for head in range(0, heads) {
                        let pair = PerTier { high, low };
                        pair.store(|column, edge| thresholds.set([slot, layer, head, lit(column)], edge));
                    }
                }
            }
        }
        let taken = all.eq(rung).select(need, 0i64).reduce_sum(0);
        pages.set([group], taken.cast::<i32>());
    } else {
        for request in range(first, first + count) {
            rungs.set([request], -1);
        }
        pages.set([group], -1);
    }
}

/// Lowers the low threshold of each head as far as the pages that it is to have hold the tokens kept by that: nothing is dropped for which
/// there is a place. Then says which pages of the low tier demotion needs, as targets of a rebalance; what is demoted finds no room
/// otherwise, and stays high.
///
/// * Shapes: `layers` is `[made]`, the numbers of the layers, of one tiering; `tally` as [`tally_tokens`](fn@tally_tokens) and `rungs` as
///   [`solve_budget`](fn@solve_budget) left it; `slots`, `ahead` and `stands` as there; a request whose slot in `moving`, `[requests]`, is negative has thresholds set and no target; `held` is
///   `[slots, layers, kv_heads, 2]`; `thresholds` is `[slots, layers, kv_heads, 2]`; `targets` is `[requests, layers, kv_heads, 2]`.
/// * Grid: `[kv_heads, made, requests]`.
/// * Values: no list is to lose pages; -1 where nothing is wanted.
/// * Errors: formats that do not fit the page are refused at specialisation.
#[kernel(warps = 1)]
pub fn make_room<C: Codecs>(
    #[comptime] spec: BudgetSpec,
    layers: View<i32, 1>,
    slots: View<i32, 1>,
    moving: View<i32, 1>,
    rungs: View<i32, 1>,
    ahead: View<i32, 1>,
    stands: View<i32, 3>,
    tally: View<i32, 5>,
    held: View<i32, 4>,
    thresholds: ViewMut<f32, 4>,
    targets: ViewMut<i32, 4>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (head, layer, request) = (program_id(0), layers.get([program_id(1)]), program_id(2));
    let (slot, rung) = (slots.get([request]), rungs.get([request]));
    let mut wanted: Scalar<i32> = lit(-1);
    if slot.ge(0) & rung.ge(0) {
        let stands = LayerRungs::load(|column| stands.get([request, layer, lit(column)]));
        let PerTier { high: rung, low: below } = rungs_of(stands, rung);
        let at_all = |list: i32| {
            let counts = tally.tile((request, layer, head, list, 0), [1, 1, 1, 1, Ladder::RUNGS]).load();
            counts.reshape([Ladder::RUNGS])
        };
        let all = iota(Ladder::RUNGS);
        let at = |counts: Tile<i32, 1>, rung: Scalar<i32>| {
            all.eq(rung.splat([Ladder::RUNGS])).select(counts, 0).reduce_sum(0)
        };
        // What stays under every low threshold that there is.
        let of_high = at_all(0);
        let (high, low) = match tiers.low() {
            Some(_) => {
                let high = at(of_high, rung).splat([Ladder::RUNGS]);
                (high, (of_high + at_all(1) - high).max(0))
            }
            None => (of_high, Tile::zeros([Ladder::RUNGS])),
        };
        let need = pages_of(&tiers, high, low, ahead.get([request]));
        let fits = all.le(below.splat([Ladder::RUNGS])) & need.le(at(need, below).splat([Ladder::RUNGS]));
        let lowest = fits.select(all, Ladder::LAST).reduce_min(0);
        thresholds.set([slot, layer, head, lit(PerTier::AT.low)], Ladder::edge_scalar(lowest));
        if let Some(tier) = tiers.low() {
            let pages = at(low, lowest).cdiv(tier.layout().tokens() as i32);
            let more = pages.max(held.get([slot, layer, head, lit(PerTier::AT.low)]));
            wanted = moving.get([request]).ge(0).select(more, -1);
        }
    }
    targets.set([request, layer, head, lit(PerTier::AT.high)], -1);
    targets.set([request, layer, head, lit(PerTier::AT.low)], wanted);
}

#[cfg(test)]
mod tests {
    use super::Ladder;

    #[test]
    fn a_ratio_reaches_the_edges_at_or_below_it() {
        for rung in 1..Ladder::LAST {
            let edge = Ladder::edge(rung);
            assert!(edge > Ladder::edge(rung - 1));
            assert_eq!(Ladder::rung(edge), rung);
            assert_eq!(Ladder::rung(f32::from_bits(edge.to_bits() - 1)), rung - 1, "just below {edge}");
        }
        assert_eq!(Ladder::edge(1), 1.0 / 4096.0);
        assert_eq!(Ladder::edge(2), 1.25 / 4096.0);
        assert_eq!([0.0, -1.0, 1e-30].map(Ladder::rung), [0; 3]);
        assert_eq!([1e30, f32::MAX].map(Ladder::rung), [Ladder::LAST - 1; 2], "no ratio is infinite");
        assert_eq!([Ladder::LAST, Ladder::LAST + 1].map(Ladder::edge), [f32::INFINITY; 2]);
    }
}
