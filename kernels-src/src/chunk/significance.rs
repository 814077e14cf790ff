//! What a chunk's counted queries add to the significance of the tokens cached before it.

use half::f16;
use leankv_dsl::lang::attention::{AttentionHooks, Codecs, PagedKv, Work};
use leankv_dsl::lang::*;

use super::{ChunkSpec, Queries, Read};

/// Adds to the pages what each cached token received from the chunk's last `window` queries: the sum over queries of the probability,
/// maximised over the query group.
///
/// * Shapes: `q`, `before`, `scale`, `kv` and `lse` as in [`chunk_attention`](fn@crate::chunk::chunk_attention) after it ran, before the
///   chunk's own tokens are written.
/// * Grid: `[splits, kv_heads]`: each split adds to its own pages.
/// * Values: fixed order of summation; no atomics. Frozen tokens, which other requests share, are left as they are. A token's significance
///   and position stay where the token is.
/// * Source: LeanKV, significance in the prompt phase, as a sum of maxima: what decode steps add too.
#[kernel]
pub fn cached_significance<C: Codecs, H: AttentionHooks>(
    #[comptime] spec: ChunkSpec,
    #[arg(align = 16)] q: View<f16, 3>,
    lse: View<f32, 2>,
    before: Scalar<i32>,
    scale: Scalar<f32>,
    window: Scalar<i32>,
    kv: PagedKv,
    codecs: C,
    hooks: H,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (split, head) = (program_id(0), program_id(1));
    let at = Work { head, slot: kv.slot(lit(0)), split, splits: spec.splits };
    let count = q.extent(0).cast::<i32>();
    let counted = (count - window).max(0);
    for tier in tiers.iter() {
        let frozen = kv.frozen(at, tier.is_low());
        for block in kv.blocks(at, tier, 1) {
            let mut sums = Tile::<f32, 1>::zeros([spec.block]);
            for turn in range(0, (count - counted).cdiv(spec.block_q as i32)) {
                let first = counted + turn * spec.block_q as i32;
                let queries = Queries::load(&spec, q, Read::Again, before, first, head, &hooks);
                let lse = lse.tile((element(first), head), [spec.block_q, spec.group]).load();
                // Where a query attended to nothing, every logit is minus infinity and gives 0.
                let base = lse.gt(f32::NEG_INFINITY).select(lse, 0.0).reshape([spec.rows()]);
                let exist = queries.numbers.lt(count).expand_dims(1);
                let seen = block.valid().expand_dims(0) & exist;
                let logits = block.logits(queries.q);
                let logits = queries.logits(logits, block.positions(), seen, scale, &hooks);
                let p = (logits - base.expand_dims(1)).exp();
                sums += p.reshape([spec.block_q, spec.group, spec.block]).reduce_max(1).reduce_sum(0);
            }
            block.add_significance(sums, frozen);
        }
    }
}
