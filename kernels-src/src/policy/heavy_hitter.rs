//! Heavy hitters only.

use leankv_dsl::lang::*;

use super::{
    HIGH, HeadFacts, HeadNumbers, Needs, PRUNED, Policy, PolicyMath, StepAction, StepChoice, StepFacts,
    StepNumbers, TokenFacts, tier_of_number,
};

/// A fixed number of tokens a head: the least significant one makes room (H2O). One tier.
///
/// * `a_high` is the number of tokens to keep, window and sinks included, as f32.
/// * `a_low` decides in the prompt: pruned below `a_low / tokens`. Who sets a budget solves for it; a step drops one token and adds
///   one, so what a prompt leaves above the budget stays above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeavyHitter;

impl Policy for HeavyHitter {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        tokens.sig.lt(head.a_low * head.base()).select(PRUNED, HIGH)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let full = (facts.len_high + facts.len_low).cast::<f32>().ge(facts.head.a_high);
        let victim = (full & facts.least_high.exists).select(1, 0);
        StepAction { victim, demote: lit(false), evict_low: lit(false) }
    }

    fn needs(&self) -> Needs {
        Needs { least_high: true, ..Needs::NONE }
    }
}

impl PolicyMath for HeavyHitter {
    fn prompt_tier(&self, sig: f32, head: &HeadNumbers) -> i32 {
        let cut = head.a_low * head.base();
        tier_of_number(sig, (cut, cut))
    }

    fn step(&self, facts: &StepNumbers) -> StepChoice {
        let full = (facts.len_high + facts.len_low) as f32 >= facts.head.a_high;
        StepChoice { victim: i32::from(full && facts.least_high.is_some()), demote: false, evict_low: false }
    }

    fn needs(&self) -> Needs {
        Policy::needs(self)
    }
}
