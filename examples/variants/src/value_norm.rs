//! Significance weighted by how large a token's value is.

use leankv_dsl::lang::*;
use leankv_kernels::policy::{HeadFacts, LeanKv, Policy, PolicyVariant, StepAction, StepFacts, TokenFacts};

/// Attention to a token whose value is small changes little (value-aware token pruning, arXiv 2406.12335): its share of attention counts times the
/// norm of its value, relative to the mean norm of the tokens that are judged with it. Otherwise it is LeanKV's rule.
#[derive(Clone, Copy, Debug)]
pub struct ValueNorm;

impl PolicyVariant for ValueNorm {
    type Params = ();

    fn policy(&self, (): ()) -> Box<dyn Policy> {
        Box::new(*self)
    }

    fn given(&self) {}
}

impl Policy for ValueNorm {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        let [_, norms] = tokens.norms();
        // Rows that do not exist are zero.
        let count = norms.gt(0.0).cast::<f32>().reduce_sum(0).max(1.0);
        let mean = norms.reduce_sum(0) / count;
        LeanKv { late: 0 }.prompt_tier(&tokens.with_sig(tokens.sig * norms / mean.max(1e-6)), head)
    }

    fn step(&self, facts: &StepFacts) -> StepAction {
        LeanKv { late: 0 }.step(facts)
    }
}
