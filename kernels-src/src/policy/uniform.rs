//! Uniform quantisation.

use leankv_dsl::lang::*;

use super::{
    HIGH, HeadFacts, HeadNumbers, Needs, Policy, PolicyMath, StepAction, StepChoice, StepFacts, StepNumbers,
    TokenFacts,
};

/// Every token in the high tier, for ever; thresholds are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uniform;

impl Policy for Uniform {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, _: &HeadFacts) -> Tile<i32, 1> {
        Tile::full(tokens.sig.extents(), HIGH)
    }

    fn step(&self, _: &StepFacts) -> StepAction {
        StepAction { victim: lit(0), demote: lit(false), evict_low: lit(false) }
    }

    fn needs(&self) -> Needs {
        Needs::NONE
    }
}

impl PolicyMath for Uniform {
    fn prompt_tier(&self, _: f32, _: &HeadNumbers) -> i32 {
        HIGH
    }

    fn step(&self, _: &StepNumbers) -> StepChoice {
        StepChoice { victim: 0, demote: false, evict_low: false }
    }

    fn needs(&self) -> Needs {
        Needs::NONE
    }
}
