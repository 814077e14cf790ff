//! A user's KV operand: a cache without pages. Token `t` of a (slot, KV head) is row `(slot * kv_heads + head) * capacity + t` of arrays
//! of codes and metadata, as the kernel `quantize` writes them. There is one tier.

use half::f16;
use leankv_dsl::lang::attention::{KvBlock, KvOperand, Rows, Tier, Tiers, Tokens, WeightedSum, Work};
use leankv_dsl::lang::control::{Iterable, Recorded};
use leankv_dsl::lang::*;

#[derive(Clone, Copy, KernelArg)]
pub(crate) struct Contiguous {
    #[arg(align = 128)]
    keys: Ptr<u8>,
    #[arg(align = 128)]
    key_meta: Ptr<u16>,
    #[arg(align = 128)]
    values: Ptr<u8>,
    #[arg(align = 128)]
    value_meta: Ptr<u16>,
    /// Tokens of each slot: all KV heads have as many.
    lengths: View<i32, 1>,
    kv_heads: Scalar<i32>,
    capacity: Scalar<i32>,
}

/// Some tokens of it.
pub(crate) struct Part<'t> {
    tier: &'t Tier,
    first: Scalar<i32>,
    keys: Rows,
    values: Rows,
}

impl KvOperand for Contiguous {
    type Block<'t> = Part<'t>;

    fn length(&self, at: Work, low: bool) -> Scalar<i32> {
        if low { lit(0) } else { self.lengths.get([at.slot]) }
    }

    fn pages(&self, at: Work, tiers: &Tiers) -> Scalar<i32> {
        self.length(at, false).cdiv(tiers.high().layout().block() as i32)
    }

    fn blocks<'t>(
        &self,
        at: Work,
        tier: &'t Tier,
        stages: usize,
    ) -> impl Iterable<Item = Part<'t>, Kind = Recorded> {
        let (kv, count, dim) = (*self, tier.layout().block(), tier.layout().page().head_dim() as usize);
        let length = kv.length(at, tier.is_low());
        let blocks = length.cdiv(count as i32);
        let (from, to) = at.pages(blocks, lit(0), blocks);
        range(from, to).stages(stages).map(move |number| {
            let first = number * count as i32;
            let positions = first + iota(count);
            let (tokens, valid) = (Tokens { positions, head: at.head }, positions.lt(length));
            let list = (at.slot * kv.kv_heads + at.head).cast::<i64>();
            let row = list * kv.capacity.cast::<i64>() + first.cast::<i64>();
            let rows = |codec, codes, meta| Rows::flat(codec, dim, codes, meta, row, count, valid, tokens);
            let keys = rows(&*tier.keys, kv.keys, kv.key_meta);
            Part { tier, first, keys, values: rows(&*tier.values, kv.values, kv.value_meta) }
        })
    }
}

impl KvBlock for Part<'_> {
    fn valid(&self) -> Tile<bool, 1> {
        self.keys.valid()
    }

    fn first_token(&self) -> Scalar<i32> {
        self.first
    }

    fn positions(&self) -> Tile<i32, 1> {
        self.keys.tokens().positions
    }

    fn logits(&self, q: Tile<f16, 2>) -> Tile<f32, 2> {
        self.tier.keys.logits(q, &self.keys)
    }

    fn accumulate(&self, p: Tile<f32, 2>, sum: &mut WeightedSum) {
        self.tier.values.accumulate(p, &self.values, sum);
    }
}
