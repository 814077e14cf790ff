//! Prefill: causal flash attention over an unquantised prompt, and the significance it yields.

use half::f16;
use leankv_dsl::lang::attention::{OnlineSoftmax, Plain};
use leankv_dsl::lang::*;

use crate::members::possible;

/// Specialisation of the prefill kernels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.group >= 1 && s.group <= 16)]
pub struct PrefillSpec {
    /// Elements of a vector.
    #[spec(default = 128, values = [64, 128])]
    pub head_dim: usize,
    /// Query heads that share a KV head.
    #[spec(default = 4, values = [1, 4])]
    pub group: usize,
    /// Queries of a tile.
    #[spec(default = 64)]
    pub block_q: usize,
    /// Tokens of a tile.
    #[spec(default = 32)]
    pub block_kv: usize,
    /// Depth of the software pipeline.
    #[spec(default = 2)]
    pub stages: usize,
}

/// Causal attention of the last queries of a prompt.
///
/// * Shapes: `q` is `[queries, query_heads, head_dim]`, `k`, `v` are `[tokens, kv_heads, head_dim]`, after RoPE, `tokens >= queries`; `out` is
///   `[queries, query_heads, head_dim]`, `lse` is `[queries, query_heads]`. Query `i` sits at position `tokens - queries + i` and attends to
///   every token up to it.
/// * Grid: `[ceil(queries / block_q), query_heads]`.
/// * Values: logits and sums are f32; weights are rounded to f16 before they meet values. NaN in a key gives NaN to the queries that attend
///   to it; NaN or infinity in a value gives NaN to that element of these queries, and of earlier ones that share a tile with the token.
/// * Errors: more queries than tokens is refused when the kernel runs.
/// * Source: flash attention; LeanKV, prompt phase.
#[kernel]
pub fn prefill_attention(
    #[comptime] spec: PrefillSpec,
    #[arg(align = 16)] q: View<f16, 3>,
    #[arg(align = 16)] k: View<f16, 3>,
    #[arg(align = 16)] v: View<f16, 3>,
    scale: Scalar<f32>,
    #[arg(align = 16)] out: ViewMut<f32, 3>,
    lse: ViewMut<f32, 2>,
) {
    if comptime(!possible(spec.head_dim, spec.group)) {
        return;
    }
    let (block, head) = (program_id(0), program_id(1));
    let kv_head = head / spec.group as i32;
    let [q, k, v] = [q, k, v].map(|view| view.with_extent(2, spec.head_dim));
    let out = out.with_extent(2, spec.head_dim);
    let tokens = k.extent(0).cast::<i32>();
    let before = tokens - q.extent(0).cast::<i32>();
    device_assert(before.ge(0), "a prompt has at least as many tokens as queries");
    let positions = before + block * spec.block_q as i32 + iota(spec.block_q);
    let q_extents = [spec.block_q, 1, spec.head_dim];
    let rows = q.tile((block, head, 0), q_extents).load().squeeze(1);

    let mut online = OnlineSoftmax::new(spec.block_q, spec.head_dim);
    let zeros = Tile::zeros([spec.block_q, spec.block_kv]);
    // Tiles above the diagonal are left out.
    let last = (before + (block + 1) * spec.block_q as i32).min(tokens);
    for tile in range(0, last.cdiv(spec.block_kv as i32)).stages(spec.stages) {
        let extents = [spec.block_kv, 1, spec.head_dim];
        let keys = k.tile((tile, kv_head, 0), extents).load().squeeze(1);
        let values = v.tile((tile, kv_head, 0), extents).load().squeeze(1);
        let logits = rows.dot(keys.t(), zeros) * scale;
        let at = tile * spec.block_kv as i32 + iota(spec.block_kv);
        let at = at.expand_dims(0);
        let seen = at.le(positions.expand_dims(1)) & at.lt(tokens);
        let weights = online.step(seen.select(logits, f32::NEG_INFINITY), &Plain);
        online.acc = weights.cast::<f16>().dot(values, online.acc);
    }
    out.tile((block, head, 0), q_extents).store(online.output().expand_dims(1));
    lse.tile((block, head), [spec.block_q, 1]).store(online.lse().expand_dims(1));
}

/// The probability each token received, summed over the last `window` queries.
///
/// * Shapes: `q`, `k`, `lse` as in [`prefill_attention`](fn@prefill_attention) after it ran; `column_sums` is `[query_heads, tokens]`;
///   `group_max_sums` is `[kv_heads, tokens]`: the sum of the probability maximised over the query group, comparable with what decode steps
///   accumulate.
/// * Grid: `[ceil(tokens / block_kv), kv_heads]`.
/// * Values: fixed order of summation; no atomics.
/// * Source: LeanKV, significance in the prompt phase (window of 64 queries).
#[kernel]
pub fn prefill_significance(
    #[comptime] spec: PrefillSpec,
    #[arg(align = 16)] q: View<f16, 3>,
    #[arg(align = 16)] k: View<f16, 3>,
    lse: View<f32, 2>,
    scale: Scalar<f32>,
    window: Scalar<i32>,
    column_sums: ViewMut<f32, 2>,
    group_max_sums: ViewMut<f32, 2>,
) {
    if comptime(!possible(spec.head_dim, spec.group)) {
        return;
    }
    let (tile, kv_head) = (program_id(0), program_id(1));
    let [q, k] = [q, k].map(|view| view.with_extent(2, spec.head_dim));
    let queries = q.extent(0).cast::<i32>();
    let before = k.extent(0).cast::<i32>() - queries;
    let keys = k.tile((tile, kv_head, 0), [spec.block_kv, 1, spec.head_dim]).load().squeeze(1);
    let at = (tile * spec.block_kv as i32 + iota(spec.block_kv)).expand_dims(0);
    // The query heads of a group are worked on one after another with all keys in registers, so their tiles are short.
    let block_q = spec.block_q.min(16);
    let zeros = Tile::zeros([block_q, spec.block_kv]);

    let mut sums = vec![Tile::<f32, 1>::zeros([spec.block_kv]); spec.group];
    let mut maxima = Tile::<f32, 1>::zeros([spec.block_kv]);
    let first = (queries - window).max(0);
    for turn in range(0, (queries - first).cdiv(block_q as i32)) {
        let start = first + turn * block_q as i32;
        let query = start + iota(block_q);
        let seen = at.le((before + query).expand_dims(1)) & query.lt(queries).expand_dims(1);
        let mut best = Tile::<f32, 2>::zeros([block_q, spec.block_kv]);
        for member in 0..spec.group {
            let head = kv_head * spec.group as i32 + member as i32;
            let rows = q.tile((element(start), head, 0), [block_q, 1, spec.head_dim]).load().squeeze(1);
            let lse = lse.tile((element(start), head), [block_q, 1]).load();
            let logits = rows.dot(keys.t(), zeros) * scale - lse;
            let p = seen.select(logits, f32::NEG_INFINITY).exp();
            sums[member] += p.reduce_sum(0);
            best = best.max(p);
        }
        maxima += best.reduce_sum(0);
    }
    for (member, sum) in sums.into_iter().enumerate() {
        let head = kv_head * spec.group as i32 + member as i32;
        column_sums.tile((head, tile), [1, spec.block_kv]).store(sum.expand_dims(0));
    }
    group_max_sums.tile((kv_head, tile), [1, spec.block_kv]).store(maxima.expand_dims(0));
}
