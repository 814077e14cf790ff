//! What a chunk's counted queries add to the significance of the tokens cached before it, and of the chunk's own.

use half::f16;
use leankv_dsl::lang::attention::{AttentionHooks, Codecs, KvBlock, KvOperand, Work};
use leankv_dsl::lang::*;

use super::{ChunkSpec, Queries, Read};
use crate::policy::{Peaks, Received, last_behind};

/// What keys at these positions receive from the queries from chunk token `first` on, `[keys]`, of each the probability maximised over the query group; the most
/// of those queries that have the key behind their window. `logits` are `[rows, keys]`.
#[track_caller]
fn received(
    spec: &ChunkSpec,
    (logits, positions): (Tile<f32, 2>, Tile<i32, 1>),
    lse: View<f32, 2>,
    (before, first): (Scalar<i32>, Scalar<i32>),
    head: Scalar<i32>,
) -> Received {
    let lse = lse.tile((element(first), head), [spec.block_q, spec.group]).load();
    // Where a query attended to nothing, every logit is minus infinity and gives 0.
    let base = lse.gt(f32::NEG_INFINITY).select(lse, 0.0).reshape([spec.rows()]);
    let p = (logits - base.expand_dims(1)).exp();
    let p = p.reshape([spec.block_q, spec.group, spec.block]).reduce_max(1);
    let last = last_behind(before + first + iota(spec.block_q), spec.window);
    let behind = positions.expand_dims(0).le(last.expand_dims(1));
    Received { sum: p.reduce_sum(0), most: behind.select(p, 0.0).reduce_max(0) }
}

/// Adds to the pages what each cached token received from the chunk's last `window` queries: the sum over queries of the probability,
/// maximised over the query group, and to its peak the largest one of queries that have it behind their window.
///
/// * Shapes: `q`, `scale`, `kv` and `lse` as in [`chunk_attention`](fn@crate::chunk::chunk_attention) after it ran, before the
///   chunk's own tokens are written; `before` is the position of the first query.
/// * Grid: `[splits, kv_heads]`: each split adds to its own pages.
/// * Values: fixed order of summation; no atomics. Frozen tokens, which other requests share, are left as they are. A token's significance
///   and position stay where the token is.
/// * Registers: for 3 programs a multiprocessor, without which ptxas makes room for a fourth one and spills.
/// * Source: LeanKV, significance in the prompt phase, as a sum of maxima: what decode steps add too.
#[kernel(resident = 3)]
pub fn cached_significance<C: Codecs, H: AttentionHooks, K: KvOperand>(
    #[comptime] spec: ChunkSpec,
    #[arg(align = 16, element = spec.input)] q: FloatView<3>,
    lse: View<f32, 2>,
    before: Scalar<i32>,
    scale: Scalar<f32>,
    window: Scalar<i32>,
    kv: K,
    codecs: C,
    hooks: H,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (split, head) = (program_id(0), program_id(1));
    let all = Work::all(kv.slot(lit(0)), head);
    let split_pages = kv.pages(all, &tiers).cdiv(spec.splits as i32);
    let at = Work { split, split_pages, ..all };
    let count = q.extent(0).cast::<i32>();
    let (counted, peaks) = ((count - window).max(0), Peaks::new(spec.peaks));
    for tier in tiers.iter() {
        let frozen = kv.frozen(at, tier.is_low());
        for block in kv.blocks(at, tier, 1) {
            let mut all = Received::none(spec.block);
            for turn in range(0, (count - counted).cdiv(spec.block_q as i32)) {
                let first = counted + turn * spec.block_q as i32;
                let queries = Queries::load(&spec, q, Read::Again, before, first, head, &hooks);
                let exist = queries.numbers.lt(count).expand_dims(1);
                let seen = block.valid().expand_dims(0) & exist;
                let logits = block.logits(queries.q);
                let positions = block.positions();
                let logits = queries.logits(logits, positions, seen, scale, &hooks);
                all = all.and(received(&spec, (logits, positions), lse, (before, first), head));
            }
            block.update_significance(frozen, &|word| peaks.add_tile(word, all));
        }
    }
}

/// What the chunk's own tokens received from its last `window` queries: the significance they start with.
///
/// * Shapes: `q`, `k`, `before`, `first_query`, `scale` and `lse` as in [`chunk_attention`](fn@crate::chunk::chunk_attention) after it ran, for all tokens of
///   the chunk: queries before the last `window` may be missing. `priors` is `[n, kv_heads]`, what tokens' peaks start from, and is not looked at where none
///   are kept; `words` is `[kv_heads, n]`.
/// * Grid: `[ceil(n / block), kv_heads]`.
/// * Values: as [`cached_significance`](fn@cached_significance) gives them to cached tokens; a token's own query counts.
/// * Source: LeanKV, significance in the prompt phase, as a sum of maxima.
#[kernel]
pub fn chunk_significance<H: AttentionHooks>(
    #[comptime] spec: ChunkSpec,
    #[arg(align = 16, element = spec.input)] q: FloatView<3>,
    #[arg(align = 16, element = spec.input)] k: FloatView<3>,
    lse: View<f32, 2>,
    before: Scalar<i32>,
    first_query: Scalar<i32>,
    scale: Scalar<f32>,
    window: Scalar<i32>,
    priors: View<f32, 2>,
    words: ViewMut<f32, 2>,
    hooks: H,
) {
    if comptime(!spec.possible()) {
        return;
    }
    let (tile, head) = (program_id(0), program_id(1));
    let k = k.with_extent(2, spec.head_dim);
    let keys = k.tile((tile, head, 0), [spec.block, 1, spec.head_dim]).load::<f16>().squeeze(1);
    let numbers = tile * spec.block as i32 + iota(spec.block);
    let count = q.extent(0).cast::<i32>();
    let counted = (count - window).max(0);
    let zeros = Tile::zeros([spec.rows(), spec.block]);
    let mut all = Received::none(spec.block);
    for turn in range(0, (count - counted).cdiv(spec.block_q as i32)) {
        let first = counted + turn * spec.block_q as i32;
        let queries = Queries::load(&spec, q, Read::Again, before + first_query, first, head, &hooks);
        let rows = queries.numbers.expand_dims(1);
        let seen = (numbers - first_query).expand_dims(0).le(rows) & rows.lt(count);
        let positions = before + numbers;
        let logits = queries.logits(queries.q.dot(keys.t(), zeros), positions, seen, scale, &hooks);
        all = all.and(received(&spec, (logits, positions), lse, (before + first_query, first), head));
    }
    let peaks = Peaks::new(spec.peaks);
    if peaks.kept() {
        let prior = priors.tile((tile, head), [spec.block, 1]).load().squeeze(1);
        all = Received { most: all.most.max(prior), ..all };
    }
    words.tile((head, tile), [1, spec.block]).store(peaks.word_tile(all).expand_dims(0));
}
