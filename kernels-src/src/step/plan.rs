//! Planning a decode step.

use leankv_dsl::format::{KvFormat, Tiering};
use leankv_dsl::lang::attention::{Codecs, LayeredKv, PagedKv, PerTier, Tier, Tiers, Work};
use leankv_dsl::lang::*;

use super::StepPlan;
use crate::candidates::{Best, Found, Kind, Search, Shortlist, ShortlistState};
use crate::policy::{HeadFacts, Needs, Policies, PolicySpec, Rule, SINKS, StepFacts};

/// Specialisation of [`plan_step`](fn@plan_step).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.chunk >= 1 && s.window >= 1 && s.sinks >= 0)]
pub struct PlanSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = two_tiers(), values = [two_tiers(), Tiering::single(two_tiers().high)])]
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
    /// Which tokens stay, in which tier.
    #[spec(default = PolicySpec::default(), values = PolicySpec::ALL)]
    pub policy: PolicySpec,
    /// Tokens of the recent window, that of the step included: always high.
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
    /// Whether candidates are taken from the shortlist that the last step's attention left, where it holds.
    #[spec(default = false)]
    pub shortlist: bool,
}

/// The tiering that LeanKV uses most.
pub(crate) fn two_tiers() -> Tiering {
    let format = |key, value| KvFormat::affine(key, value).expect("these widths exist");
    Tiering::two(format(8, 4), format(4, 2))
}

/// The least significant token of a tier's list, and the one that leaves the window, among those that may change.
#[device]
fn scan(
    spec: &PlanSpec,
    kv: PagedKv,
    at: Work,
    tier: &Tier,
    search: &Search,
    leaves: bool,
) -> (Found, Found) {
    let lanes = spec.block;
    let frozen = kv.frozen(at, tier.is_low());
    let (mut least, mut leaving) = (Best::none(lanes), Best::none(lanes));
    for block in kv.blocks(at, tier, 1) {
        let index = block.first_token() + iota(lanes);
        let own = block.valid() & index.ge(frozen);
        let seen = search.look(block.significance(), block.positions(), index, own);
        least = search.least(least, &seen);
        if comptime(leaves) {
            leaving = search.leaving(leaving, &seen);
        }
    }
    let leaving = if comptime(leaves) { leaving.found() } else { Found::none() };
    (least.found(), leaving)
}

/// The candidates that a policy needs of both tiers, if its plans look at the low one.
#[device]
fn scan_both(
    spec: &PlanSpec,
    kv: PagedKv,
    at: Work,
    (high, low): (&Tier, Option<&Tier>),
    search: &Search,
    needs: Needs,
) -> (Found, Found, Found) {
    let (mut least_high, mut leaving, mut least_low) = (Found::none(), Found::none(), Found::none());
    if needs.least_high || needs.leaving {
        (least_high, leaving) = scan(spec, kv, at, high, search, needs.leaving);
    }
    if let Some(tier) = low {
        least_low = scan(spec, kv, at, tier, search, false).0;
    }
    (least_high, leaving, least_low)
}

/// Decides what a decode step does to every (request, layer, KV head), from the significance of before the step.
///
/// * Shapes: `layers` is `[planned]`, the numbers of the layers that are planned, those of one tiering; `positions` is `[requests]`, the positions of the new tokens, and `prompts` is `[requests]`, the lengths of the prompts;
///   `thresholds` is `[slots, layers, kv_heads, 2]`, high and low; `kv` holds all layers; `plan` is `[requests, layers, kv_heads, StepPlan::COLUMNS]`, one
///   [`StepPlan`](super::StepPlan) each; `target` is `[requests, layers, kv_heads, 2]`, the pages of either tier that carrying the plan out
///   needs, -1 for a request that is left out (a negative slot).
/// * Grid: `[kv_heads, planned, requests]`.
/// * With `spec.shortlist`, candidates are taken from `shortlist` where that holds; without, it is not looked at. It is what
///   [`decode_attention`](fn@crate::decode::decode_attention) found, so that the plan is the same with it.
/// * Values: candidates are the tokens outside of window and sinks that are not frozen and for which a query has counted; of equally
///   significant ones the first in the sequence. Pages that a step empties are still in its
///   target, since a move may read them; the next step's target is without them.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, decode phase; the policies say which rule.
#[kernel(warps = 1)]
pub fn plan_step<C: Codecs, P: Policies>(
    #[comptime] spec: PlanSpec,
    layers: View<i32, 1>,
    positions: View<i32, 1>,
    prompts: View<i32, 1>,
    thresholds: View<f32, 4>,
    kv: LayeredKv,
    shortlist: Shortlist,
    plan: ViewMut<i32, 4>,
    target: ViewMut<i32, 4>,
    codecs: C,
    policies: P,
) {
    let tiers = Tiers::new(&codecs, &spec.tiering, spec.head_dim, spec.page_bytes, spec.block);
    let Some(tiers) = tiers else { return };
    let policy = policies.policy(&spec.policy);
    let needs = policy.needs();
    let (head, layer, request) = (program_id(0), layers.get([program_id(1)]), program_id(2));
    let kv = kv.layer(layer);
    let slot = kv.slot(request);
    let at = Work::all(slot, head);
    let position = positions.get([request]);
    let rule = Rule::new(spec.window, spec.sinks, spec.chunk, spec.window_q, spec.peaks);
    let search = Search::new(rule, prompts.get([request]), position);

    let low = tiers.low().filter(|_| needs.least_low);
    let (mut least_high, mut leaving, mut least_low) = (Found::none(), Found::none(), Found::none());
    let listed =
        spec.shortlist.then(|| shortlist.holds([slot, layer, head], ShortlistState::of(&kv, at, position)));
    if let Some(listed) = listed {
        if listed {
            let found = |kind: Kind| shortlist.found([slot, layer, head], kind);
            if needs.least_high || needs.leaving {
                least_high = found(Kind::LeastHigh);
            }
            if needs.leaving {
                leaving = found(Kind::Leaving);
            }
            if low.is_some() {
                least_low = found(Kind::LeastLow);
            }
        } else {
            (least_high, leaving, least_low) = scan_both(&spec, kv, at, (tiers.high(), low), &search, needs);
        }
    } else {
        (least_high, leaving, least_low) = scan_both(&spec, kv, at, (tiers.high(), low), &search, needs);
    }
    let threshold = |column: i32| thresholds.get([slot.max(0), layer, head, lit(column)]);
    let (len_high, len_low) = (kv.length(at, false), kv.length(at, true));
    let action = policy.step(&StepFacts {
        head: HeadFacts {
            a_high: threshold(PerTier::AT.high),
            a_low: threshold(PerTier::AT.low),
            tokens: search.tokens(),
            has_low: tiers.low().is_some(),
            layer,
            head,
        },
        len_high,
        len_low,
        least_high: least_high.candidate,
        leaving: leaving.candidate,
        least_low: least_low.candidate,
    });

    // A policy that names a candidate which does not exist, or a tier, changes nothing.
    let chosen: Scalar<i32> = action.victim.eq(2).select(leaving.index, -1);
    let chosen: Scalar<i32> = action.victim.eq(1).select(least_high.index, chosen);
    let victim = match tiers.low() {
        Some(_) => chosen,
        None => action.demote.select(-1, chosen),
    };
    let demote = victim.ge(0) & action.demote;
    let evict = action.evict_low & least_low.index.ge(0);
    let new: Scalar<i32> = victim.ge(0).select(victim, len_high);
    let next_high: Scalar<i32> = victim.ge(0).select(len_high, len_high + 1);
    let place: Scalar<i32> = evict.select(least_low.index, len_low);
    let low: Scalar<i32> = demote.select(place, -1);
    let hole: Scalar<i32> = (evict & !demote).select(least_low.index, -1);
    let moves = hole.ge(0) & hole.lt(len_low - 1);
    let source: Scalar<i32> = moves.select(len_low - 1, -1);
    let grown: Scalar<i32> = (demote & !evict).select(len_low + 1, len_low);
    let next_low: Scalar<i32> = (evict & !demote).select(len_low - 1, grown);

    let active = slot.ge(0);
    let new: Scalar<i32> = active.select(new, -1);
    let demote = demote.select(1, 0);
    let row = StepPlan { new, victim, demote, low, hole, source, len_high: next_high, len_low: next_low };
    row.store(|column, number| plan.set([request, layer, head, lit(column)], number));
    for (tier, before, after) in [(Some(tiers.high()), len_high, next_high), (tiers.low(), len_low, next_low)]
    {
        let pages = match tier {
            Some(tier) => before.max(after).cdiv(tier.layout().tokens() as i32),
            None => lit(0),
        };
        let column = PerTier::AT.of(tier.is_none_or(Tier::is_low));
        target.set([request, layer, head, lit(column)], active.select::<i32>(pages, -1));
    }
}
