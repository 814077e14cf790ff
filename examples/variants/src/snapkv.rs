//! Significance pooled over neighbours before it is judged.

use leankv_dsl::lang::*;
use leankv_kernels::policy::{HeadFacts, LeanKv, Policy, PolicyVariant, StepAction, StepFacts, TokenFacts};

/// A token is as significant as the most significant of its neighbours, so that what stands around an important token stays with it. Otherwise
/// it is LeanKV's rule; decode steps, which judge single tokens, are as there.
#[derive(Clone, Copy, Debug)]
pub struct SnapKv {
    /// How many tokens before and after it are a token's neighbours.
    pub reach: usize,
}

impl PolicyVariant for SnapKv {
    type Params = ();

    fn policy(&self, (): ()) -> Box<dyn Policy> {
        Box::new(*self)
    }

    fn given(&self) {}
}

impl Policy for SnapKv {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let [count] = tokens.sig.extents();
        let numbers = iota(count);
        let mut sig = tokens.sig;
        for distance in 1..=self.reach as i32 {
            for neighbour in [numbers - distance, numbers + distance] {
                let index = neighbour.clamp(0, count as i32 - 1);
                sig = sig.max(tokens.sig.gather(index, 0));
            }
        }
        LeanKv { late: 0 }.prompt_tier(&tokens.with_sig(sig), head)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        LeanKv { late: 0 }.step(facts)
    }
}
