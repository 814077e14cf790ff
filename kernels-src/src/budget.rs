//! A byte budget instead of thresholds: what every possible threshold would cost is tallied, and the loosest one that fits is taken.
//!
//! Thresholds are multiples of `1 / tokens`, so what counts is a token's *ratio*: significance times tokens. [`tally_tokens`](fn@tally_tokens)
//! counts, for every (request, layer, KV head) and a fixed ladder of [edges](Ladder), the tokens at or above each edge;
//! [`solve_budget`](fn@solve_budget) turns the counts of all heads into pages, since pages are what memory is made of, and sets the
//! thresholds. Two launches, whatever the number of requests, layers and heads, and nothing is read back.
//!
//! The high threshold stands [`gap`](BudgetSpec::gap) edges above the low one.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{Codecs, LayeredKv, Tier, Tiers, Work};
use leankv_dsl::lang::*;

use crate::policy::{Judged, Progress, Rule};

/// The thresholds that a budget can choose from: 0, then four an octave from 2^-12 to 2^19, at 1, 5/4, 3/2 and 7/4 of a power of two.
///
/// The edges are numbers whose mantissa ends after two bits, so that the rung of a ratio is an integer shift of its bits, equal on every
/// executor.
#[derive(Clone, Copy, Debug)]
pub struct Ladder;

impl Ladder {
    /// Rungs, edge 0 included.
    pub const RUNGS: usize = 128;
    /// Bits of an f32 below the two that count.
    const SHIFT: u32 = 21;
    /// What the shifted bits of the lowest edge above zero are: 2^-12.
    const FIRST: i32 = (127 - 12) << 2;

    /// The threshold of a rung: 0 for rung 0 and below, the highest one above the last rung.
    #[must_use]
    pub fn edge(rung: i32) -> f32 {
        match rung.clamp(0, Self::RUNGS as i32 - 1) {
            0 => 0.0,
            rung => f32::from_bits(((rung - 1 + Self::FIRST) << Self::SHIFT) as u32),
        }
    }

    /// The highest rung whose edge a ratio reaches; a ratio that is no number reaches all of them.
    #[must_use]
    pub fn rung(ratio: f32) -> i32 {
        if ratio.is_nan() {
            return Self::RUNGS as i32 - 1;
        }
        let bits = (ratio.max(0.0).to_bits() >> Self::SHIFT) as i32;
        (bits - Self::FIRST + 1).clamp(0, Self::RUNGS as i32 - 1)
    }

    /// As [`edge`](Ladder::edge), in a kernel.
    #[track_caller]
    pub fn edge_scalar(rung: Scalar<i32>) -> Scalar<f32> {
        let rung = rung.clamp(0, Self::RUNGS as i32 - 1);
        let edge = ((rung - 1 + Self::FIRST) << Self::SHIFT as i32).bitcast::<f32>();
        rung.gt(0).select(edge, 0.0)
    }

    /// As [`rung`](Ladder::rung), in a kernel.
    #[track_caller]
    pub fn rung_tile(ratio: Tile<f32, 1>) -> Tile<i32, 1> {
        let last = Self::RUNGS as i32 - 1;
        let bits = ratio.max(0.0).bitcast::<i32>() >> Self::SHIFT as i32;
        let rung = (bits - Self::FIRST + 1).clamp(0, last);
        ratio.ne(ratio).select(last, rung)
    }
}

/// Specialisation of [`tally_tokens`](fn@tally_tokens) and [`solve_budget`](fn@solve_budget).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.chunk >= 1 && s.window >= 1 && s.sinks >= 0 && s.gap >= 0)]
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
    #[spec(default = 32)]
    pub block: usize,
    /// Tokens of the recent window: always high.
    #[spec(default = 64)]
    pub window: i32,
    /// Attention sinks: tokens at positions `0..sinks` are always high.
    #[spec(default = 0)]
    pub sinks: i32,
    /// Tokens of a chunk of a prompt.
    #[spec(default = 512)]
    pub chunk: usize,
    /// How many of a chunk's last queries count towards significance.
    #[spec(default = 64)]
    pub window_q: usize,
    /// Edges between the low and the high threshold: 4 are a factor of 2.
    #[spec(default = 16)]
    pub gap: i32,
}

impl BudgetSpec {
    #[track_caller]
    fn tiers(&self, codecs: &dyn Codecs) -> Option<Tiers> {
        Tiers::new(codecs, &self.tiering, self.head_dim, self.page_bytes, self.block)
    }
}

/// Counts, for every list and every edge of the [`Ladder`], the tokens whose ratio is at or above it.
///
/// * Shapes: `tokens` is `[requests]`, the lengths of the sequences; `prompts` is `[requests]`, the lengths of their prompts; `kv` holds all layers;
///   `tally` is `[requests, layers, kv_heads, 2, RUNGS]`: tokens of the high list, of the low list.
/// * Grid: `[kv_heads, layers, requests]`.
/// * Values: tokens that no policy is asked about (window, sinks, frozen, not counted yet) are at or above every edge. A request that
///   is left out (a negative slot) has no tokens.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, thresholds as multiples of `1 / N`; the ladder is this project's.
#[kernel]
pub fn tally_tokens<C: Codecs>(
    #[comptime] spec: BudgetSpec,
    tokens: View<i32, 1>,
    prompts: View<i32, 1>,
    kv: LayeredKv,
    tally: ViewMut<i32, 5>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (head, layer, request) = (program_id(0), program_id(1), program_id(2));
    let kv = kv.layer(layer);
    let at = Work { head, slot: kv.slot(request), split: lit(0), splits: 1 };
    let (tokens, prompt) = (tokens.get([request]), prompts.get([request]));
    let rule = Rule::new(spec.window, spec.sinks, spec.chunk, spec.window_q);
    let now = Progress::new(prompt, tokens);
    let rungs = iota(Ladder::RUNGS).expand_dims(1);
    let mut counts = vec![Tile::<i32, 1>::zeros([Ladder::RUNGS]); 2];
    for tier in tiers.iter() {
        let frozen = kv.frozen(at, tier.is_low());
        let mut count = Tile::<i32, 1>::zeros([Ladder::RUNGS]);
        for block in kv.blocks(at, tier, 1) {
            let index = block.first_token() + iota(spec.block);
            let Judged { sig, open } = rule.judge(now, block.significance(), block.positions());
            let rung = Ladder::rung_tile(sig * tokens.cast::<f32>());
            let rung: Tile<i32, 1> = (open & index.ge(frozen)).select(rung, Ladder::RUNGS as i32 - 1);
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

/// Sets the thresholds of requests with a budget to the loosest ones under which their pages fit it.
///
/// * Shapes: `slots` is `[requests]`; `budgets` is `[requests]`, bytes, negative for a request whose thresholds stay; `tally` as
///   [`tally_tokens`](fn@tally_tokens) left it; `thresholds` is `[slots, layers, kv_heads, 2]`, high and low; `pages` is `[requests]`: the
///   pages that the lists take under the new thresholds, -1 where nothing was set.
/// * Grid: `[requests]`.
/// * Values: the same thresholds for all layers and heads. Where even the highest edge does not fit (window and frozen tokens
///   are above every edge), the highest edge is set. A low token that reaches the high threshold stays low.
/// * Errors: formats that do not fit the page are refused at specialisation.
#[kernel(warps = 1)]
pub fn solve_budget<C: Codecs>(
    #[comptime] spec: BudgetSpec,
    slots: View<i32, 1>,
    budgets: View<i64, 1>,
    tally: View<i32, 5>,
    thresholds: ViewMut<f32, 4>,
    pages: ViewMut<i32, 1>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let request = program_id(0);
    let (slot, budget) = (slots.get([request]), budgets.get([request]));
    let (layers, heads) = (tally.extent(1).cast::<i32>(), tally.extent(2).cast::<i32>());
    let rungs = iota(Ladder::RUNGS);
    let gap = if tiers.low().is_some() { spec.gap } else { 0 };
    let below = (rungs - gap).max(0);
    let per_page = |tier: &Tier| tier.layout().tokens() as i32;
    if slot.ge(0) & budget.ge(0) {
        let mut need = Tile::<i64, 1>::zeros([Ladder::RUNGS]);
        for layer in range(0, layers) {
            for head in range(0, heads) {
                let at_edge = |list: i32, rung: Tile<i32, 1>| {
                    let extents = [1, 1, 1, 1, Ladder::RUNGS];
                    let from = rung.cast::<i64>();
                    let counts = tally.tile((request, layer, head, list, from), extents).load();
                    counts.reshape([Ladder::RUNGS])
                };
                let high = at_edge(0, rungs);
                need += high.cdiv(per_page(tiers.high())).cast::<i64>();
                if let Some(tier) = tiers.low() {
                    let low = at_edge(1, below) + at_edge(0, below) - high;
                    need += low.cdiv(per_page(tier)).cast::<i64>();
                }
            }
        }
        let fits = (need * spec.page_bytes as i64).le(budget.splat([Ladder::RUNGS]));
        let rung = fits.select(rungs, Ladder::RUNGS as i32 - 1).reduce_min(0);
        let (high, low) = (Ladder::edge_scalar(rung), Ladder::edge_scalar(rung - gap));
        for layer in range(0, layers) {
            for head in range(0, heads) {
                thresholds.set([slot, layer, head, lit(0)], high);
                thresholds.set([slot, layer, head, lit(1)], low);
            }
        }
        let taken = rungs.eq(rung).select(need, 0i64).reduce_sum(0);
        pages.set([request], taken.cast::<i32>());
    } else {
        pages.set([request], -1);
    }
}

#[cfg(test)]
mod tests {
    use super::Ladder;

    #[test]
    fn a_ratio_reaches_the_edges_at_or_below_it() {
        for rung in 1..Ladder::RUNGS as i32 {
            let edge = Ladder::edge(rung);
            assert!(edge > Ladder::edge(rung - 1));
            assert_eq!(Ladder::rung(edge), rung);
            assert_eq!(Ladder::rung(f32::from_bits(edge.to_bits() - 1)), rung - 1, "just below {edge}");
        }
        assert_eq!(Ladder::edge(1), 1.0 / 4096.0);
        assert_eq!(Ladder::edge(2), 1.25 / 4096.0);
        assert_eq!([0.0, -1.0, 1e-30].map(Ladder::rung), [0; 3]);
        assert_eq!([f32::NAN, f32::INFINITY, 1e30].map(Ladder::rung), [127; 3]);
    }
}
