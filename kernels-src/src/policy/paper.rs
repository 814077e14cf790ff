//! LeanKV, as the paper writes it.

use leankv_dsl::lang::*;

use super::{
    HIGH, HeadFacts, HeadNumbers, LOW, PRUNED, Policy, PolicyMath, StepAction, StepChoice, StepFacts,
    StepNumbers, TokenFacts,
};

/// Algorithm 1 of the paper: the token that leaves the window is placed at once.
///
/// With `c` the token that leaves and both thresholds times `1 / tokens`:
///
/// 1. `sig(c) > high`: it stays high; then the least significant high token stays above `high`, is demoted in the band and
///    dropped below `low`;
/// 2. `low <= sig(c) <= high`: it goes to the low tier; then the least significant low token is dropped below `low`;
/// 3. else it is dropped.
///
/// Where no token leaves (a sink leaves the window but stays) the step goes on as after a token that stays high. Without a low
/// tier, what would be low stays high. Prompt: the same bands; the base is `1 / tokens` and not one over the position, since
/// only late queries count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paper;

impl Policy for Paper {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let (low, high) = head.cuts(head.base());
        let kept = match head.has_low {
            true => tokens.sig.le(high).select(LOW, HIGH),
            false => Tile::full(tokens.sig.extents(), HIGH),
        };
        tokens.sig.lt(low).select(PRUNED, kept)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let (low, high) = facts.head.cuts(facts.head.base());
        let has_low = lit(facts.head.has_low);
        let (leaving, worst) = (facts.leaving, facts.least_high);
        let drops = leaving.exists & leaving.sig.lt(low);
        let falls = leaving.exists & !drops & leaving.sig.le(high) & has_low;
        let stays = !drops & !falls;
        let drop_worst = stays & worst.exists & worst.sig.lt(low);
        let demote_worst = stays & worst.exists & !worst.sig.lt(low) & worst.sig.le(high) & has_low;
        let one: Scalar<i32> = (drop_worst | demote_worst).select(1, 0);
        StepAction {
            victim: stays.select(one, 2),
            demote: falls | demote_worst,
            evict_low: falls & facts.least_low.exists & facts.least_low.sig.lt(low),
        }
    }
}

impl PolicyMath for Paper {
    fn prompt_tier(&self, sig: f32, head: &HeadNumbers) -> i32 {
        let (low, high) = head.cuts(head.base());
        match sig {
            _ if sig < low => PRUNED,
            _ if head.has_low && sig <= high => LOW,
            _ => HIGH,
        }
    }

    fn step(&self, facts: &StepNumbers) -> StepChoice {
        let (low, high) = facts.head.cuts(facts.head.base());
        let drops = |sig: f32| sig < low;
        let falls = |sig: f32| facts.head.has_low && sig >= low && sig <= high;
        let evict = facts.least_low.is_some_and(drops);
        match (facts.leaving, facts.least_high) {
            (Some(c), _) if drops(c) => StepChoice { victim: 2, demote: false, evict_low: false },
            (Some(c), _) if falls(c) => StepChoice { victim: 2, demote: true, evict_low: evict },
            (_, Some(v)) if drops(v) || falls(v) => {
                StepChoice { victim: 1, demote: falls(v), evict_low: false }
            }
            _ => StepChoice { victim: 0, demote: false, evict_low: false },
        }
    }
}
