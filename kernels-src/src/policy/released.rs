//! LeanKV, as its authors released it.

use leankv_dsl::lang::*;

use super::{
    HeadFacts, HeadNumbers, Needs, Policy, PolicyMath, StepAction, StepChoice, StepFacts, StepNumbers,
    TokenFacts, tier_by_cuts, tier_of_number,
};

/// The rule of the released code, one victim a step.
///
/// With `m_h`, `m_l` the least significance in the high tier outside of the window and in the low tier, infinite where there is none,
/// and `p` the new token's position:
///
/// 1. `m_h < a_low / p` and `m_h < m_l`: the new token overwrites the high victim;
/// 2. else `m_h < a_high / p` and `m_l < a_low / p`: the high victim is demoted into the low victim's place;
/// 3. else `m_h < a_high / p`: the high victim is demoted into a new low place;
/// 4. else the new token is appended.
///
/// The total never falls. Prompt: as [`LeanKv`](super::LeanKv).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released;

impl Policy for Released {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let (low, high) = head.cuts(head.base());
        tier_by_cuts(tokens.sig, low, high)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let position = HeadFacts { tokens: facts.head.tokens - 1, ..facts.head };
        let (low, high) = position.cuts(position.base());
        let least_high: Scalar<f32> = facts.least_high.exists.select(facts.least_high.sig, f32::INFINITY);
        let least_low: Scalar<f32> = facts.least_low.exists.select(facts.least_low.sig, f32::INFINITY);
        let overwrite = least_high.lt(low) & least_high.lt(least_low);
        let demote = match facts.head.has_low {
            true => !overwrite & least_high.lt(high),
            false => lit(false),
        };
        StepAction {
            victim: (overwrite | demote).select(1, 0),
            demote,
            evict_low: demote & least_low.lt(low),
        }
    }

    fn needs(&self) -> Needs {
        Needs { leaving: false, ..Needs::ALL }
    }
}

impl PolicyMath for Released {
    fn prompt_tier(&self, sig: f32, head: &HeadNumbers) -> i32 {
        tier_of_number(sig, head.cuts(head.base()))
    }

    fn step(&self, facts: &StepNumbers) -> StepChoice {
        let position = HeadNumbers { tokens: facts.head.tokens - 1, ..facts.head };
        let (low, high) = position.cuts(position.base());
        let least_high = facts.least_high.unwrap_or(f32::INFINITY);
        let least_low = facts.least_low.unwrap_or(f32::INFINITY);
        let overwrite = least_high < low && least_high < least_low;
        let demote = facts.head.has_low && !overwrite && least_high < high;
        StepChoice { victim: i32::from(overwrite || demote), demote, evict_low: demote && least_low < low }
    }

    fn needs(&self) -> Needs {
        Policy::needs(self)
    }
}
