//! Online softmax: running maximum, sum and output, as in flash attention.

use super::hooks::AttentionHooks;
use crate::lang::control::{Carry, Flat, Fresh};
use crate::lang::tile::Tile;

/// The running state of attention for `queries` query heads: a struct of tiles that loops carry.
#[derive(Clone, Copy, Debug)]
pub struct OnlineSoftmax {
    /// Largest logit so far, `[queries]`; minus infinity at first.
    pub max: Tile<f32, 1>,
    /// Sum of `exp(logit - max)`, `[queries]`.
    pub sum: Tile<f32, 1>,
    /// Sum of `exp(logit - max) * value`, `[queries, head_dim]`.
    pub acc: Tile<f32, 2>,
}

impl Carry for OnlineSoftmax {
    fn values(&self, out: &mut Flat) {
        self.max.values(out);
        self.sum.values(out);
        self.acc.values(out);
    }

    fn rebind(&mut self, from: &mut Fresh<'_>) {
        self.max.rebind(from);
        self.sum.rebind(from);
        self.acc.rebind(from);
    }
}

impl OnlineSoftmax {
    /// The state before any token.
    #[track_caller]
    pub fn new(queries: usize, head_dim: usize) -> OnlineSoftmax {
        OnlineSoftmax {
            max: Tile::full([queries], f32::NEG_INFINITY),
            sum: Tile::zeros([queries]),
            acc: Tile::zeros([queries, head_dim]),
        }
    }

    /// Takes in the logits `[queries, rows]` of a block, minus infinity where masked, and gives the weights `exp(logit - max)` under the
    /// new maximum. `acc` is rescaled; the caller adds the weighted values to it.
    #[track_caller]
    pub fn step(&mut self, logits: Tile<f32, 2>, hooks: &dyn AttentionHooks) -> Tile<f32, 2> {
        let (max, base) = hooks.running_max(self.max, logits);
        let weights = (logits - base.expand_dims(1)).exp();
        let old = (self.max - base).exp();
        self.sum = self.sum.fma(old, weights.reduce_sum(1));
        self.acc *= old.expand_dims(1);
        self.max = max;
        weights
    }

    /// This state and that of other tokens as one.
    #[track_caller]
    pub fn merge(&self, other: OnlineSoftmax) -> OnlineSoftmax {
        let max = self.max.max(other.max);
        let base = max.gt(f32::NEG_INFINITY).select(max, 0.0);
        let (mine, theirs) = ((self.max - base).exp(), (other.max - base).exp());
        OnlineSoftmax {
            max,
            sum: self.sum.fma(mine, other.sum * theirs),
            acc: self.acc.fma(mine.expand_dims(1), other.acc * theirs.expand_dims(1)),
        }
    }

    /// `acc / sum`: zeros where no token was attended to.
    #[track_caller]
    pub fn output(&self) -> Tile<f32, 2> {
        let sum = self.sum.gt(0.0).select(self.sum, 1.0);
        self.acc / sum.expand_dims(1)
    }

    /// Natural logarithm of the sum of exponentials of the logits; minus infinity where no token was attended to.
    #[track_caller]
    pub fn lse(&self) -> Tile<f32, 1> {
        self.sum.gt(0.0).select(self.max + self.sum.log(), f32::NEG_INFINITY)
    }
}
