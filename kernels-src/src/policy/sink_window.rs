//! Attention sinks and a recent window.

use leankv_dsl::lang::*;

use super::{
    HeadFacts, HeadNumbers, Needs, PRUNED, Policy, PolicyMath, StepAction, StepChoice, StepFacts,
    StepNumbers, TokenFacts,
};

/// Nothing stays but the sinks and the window, which no policy is asked about; thresholds are not read.
///
/// A step drops the token that leaves the window, or the least significant one that should have left before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkWindow;

impl Policy for SinkWindow {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, _: &HeadFacts) -> Tile<i32, 1> {
        Tile::full(tokens.sig.extents(), PRUNED)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        let late: Scalar<i32> = facts.least_high.exists.select(1, 0);
        StepAction {
            victim: facts.leaving.exists.select(2, late),
            demote: lit(false),
            evict_low: facts.least_low.exists,
        }
    }
}

impl PolicyMath for SinkWindow {
    fn prompt_tier(&self, _: f32, _: &HeadNumbers) -> i32 {
        PRUNED
    }

    fn step(&self, facts: &StepNumbers) -> StepChoice {
        let victim = match (facts.leaving, facts.least_high) {
            (Some(_), _) => 2,
            (None, Some(_)) => 1,
            (None, None) => 0,
        };
        StepChoice { victim, demote: false, evict_low: facts.least_low.is_some() }
    }

    fn needs(&self) -> Needs {
        Policy::needs(self)
    }
}
