//! LeanKV, as we do it.

use leankv_dsl::lang::*;

use super::{
    HeadFacts, HeadNumbers, Needs, Policy, PolicyMath, StepAction, StepChoice, StepFacts, StepNumbers,
    TokenFacts, tier_by_cuts, tier_of_number,
};

/// The released rule's reuse of places, with each candidate judged on its own.
///
/// * Prompt: pruned below `a_low / tokens`, low below `a_high / tokens`, else high.
/// * Step: the least significant high token outside of the window is dropped below `a_low / tokens` and demoted below
///   `a_high / tokens`; the least significant low token is dropped below `a_low / tokens`. So lengths can fall (the released rule
///   never lets them) and no token below the threshold waits for a demotion to happen beside it.
/// * A demoted token never comes back, so demotion may be late: with `late` per cent a step demotes only below
///   `(1 - late / 100) * a_high / tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeanKv {
    /// Hysteresis of demotion in per cent of the high threshold, below 100.
    pub late: u8,
}

impl LeanKv {
    fn patience(self) -> f32 {
        1.0 - f32::from(self.late.min(100)) / 100.0
    }
}

impl Policy for LeanKv {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let (low, high) = head.cuts(head.base());
        tier_by_cuts(tokens.sig, low, high)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let (low, high) = facts.head.cuts(facts.head.base());
        let worst = facts.least_high;
        let drop = worst.exists & worst.sig.lt(low);
        let demote = match facts.head.has_low {
            true => worst.exists & !drop & worst.sig.lt(high * self.patience()),
            false => lit(false),
        };
        StepAction {
            victim: (drop | demote).select(1, 0),
            demote,
            evict_low: facts.least_low.exists & facts.least_low.sig.lt(low),
        }
    }

    fn needs(&self) -> Needs {
        Needs { leaving: false, ..Needs::ALL }
    }
}

impl PolicyMath for LeanKv {
    fn prompt_tier(&self, sig: f32, head: &HeadNumbers) -> i32 {
        tier_of_number(sig, head.cuts(head.base()))
    }

    fn step(&self, facts: &StepNumbers) -> StepChoice {
        let (low, high) = facts.head.cuts(facts.head.base());
        let below = |sig: Option<f32>, cut: f32| sig.is_some_and(|sig| sig < cut);
        let drop = below(facts.least_high, low);
        let demote = facts.head.has_low && !drop && below(facts.least_high, high * self.patience());
        StepChoice { victim: i32::from(drop || demote), demote, evict_low: below(facts.least_low, low) }
    }

    fn needs(&self) -> Needs {
        Policy::needs(self)
    }
}
