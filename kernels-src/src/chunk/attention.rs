//! Attention of a chunk of a prompt: to the cache in its stored formats, then causally to the chunk itself.

use half::f16;
use leankv_dsl::lang::attention::{AttentionHooks, Codecs, KvBlock, KvOperand, OnlineSoftmax, Work};
use leankv_dsl::lang::*;

use super::{ChunkSpec, Queries, Read};

/// Attention of tokens of a chunk of one request's prompt to every cached token of both tiers and, causally, to the chunk itself.
///
/// * Shapes: `k`, `v` are `[n, kv_heads, head_dim]`, the chunk's tokens so far, after RoPE; `q` is `[m, query_heads, head_dim]`, the queries of its tokens
///   `first_query..first_query + m`, query heads of a KV head next to each other; `before` is the position of the chunk's first token, and every
///   cached token's position is less; `kv.slots` is `[1]`; `out` is `[m, query_heads, head_dim]`, `lse` is `[m, query_heads]`.
/// * Grid: `[ceil(m / block_q), kv_heads]`: one program serves the whole query group, so cached codes are decoded once for all of it.
/// * Values: logits and sums are f32; weights are rounded to f16 before they meet values. Input of other types is rounded to f16 first. The chunk's
///   own keys and values are taken as they come, unquantised (LeanKV, prompt phase). NaN in such a key gives NaN to the queries that attend to
///   it; NaN or infinity in a value gives NaN to that element of these queries, and of earlier ones that share a tile with the token. An empty cache
///   makes this causal attention.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, prompt phase, for prompts in chunks; flash attention.
#[kernel]
pub fn chunk_attention<C: Codecs, H: AttentionHooks, K: KvOperand>(
    #[comptime] spec: ChunkSpec,
    #[arg(align = 16, element = spec.input)] q: FloatView<3>,
    #[arg(align = 16, element = spec.input)] k: FloatView<3>,
    #[arg(align = 16, element = spec.input)] v: FloatView<3>,
    before: Scalar<i32>,
    first_query: Scalar<i32>,
    scale: Scalar<f32>,
    kv: K,
    #[arg(align = 16)] out: ViewMut<f32, 3>,
    lse: ViewMut<f32, 2>,
    codecs: C,
    hooks: H,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (turn, head) = (program_id(0), program_id(1));
    let at = Work::all(kv.slot(lit(0)), head);
    let [k, v] = [k, v].map(|view| view.with_extent(2, spec.head_dim));
    let tokens = k.extent(0).cast::<i32>();
    let first = turn * spec.block_q as i32;
    let load = |read| Queries::load(&spec, q, read, before + first_query, first, head, &hooks);

    let mut online = OnlineSoftmax::new(spec.rows(), spec.head_dim);
    for tier in tiers.iter() {
        let queries = load(if tier.is_low() { Read::Again } else { Read::First });
        for block in kv.blocks(at, tier, spec.stages) {
            let (products, seen) = (block.logits(queries.q), block.valid().expand_dims(0));
            let logits = queries.logits(products, block.positions(), seen, scale, &hooks);
            let weights = online.step(logits, &hooks);
            block.accumulate(weights, &mut online.values);
        }
    }

    let queries = load(Read::Last);
    let zeros = Tile::zeros([spec.rows(), spec.block]);
    let extents = [spec.block, 1, spec.head_dim];
    // Tiles above the diagonal are left out.
    let last = (first_query + first + spec.block_q as i32).min(tokens);
    for tile in range(0, last.cdiv(spec.block as i32)).stages(spec.stages) {
        let keys = k.tile((tile, head, 0), extents).load::<f16>().squeeze(1);
        let values = v.tile((tile, head, 0), extents).load::<f16>().squeeze(1);
        let numbers = tile * spec.block as i32 + iota(spec.block);
        let row = numbers.expand_dims(0);
        let seen = (row - first_query).le(queries.numbers.expand_dims(1)) & row.lt(tokens);
        let products = queries.q.dot(keys.t(), zeros);
        let logits = queries.logits(products, before + numbers, seen, scale, &hooks);
        let weights = online.step(logits, &hooks);
        let weights = online.values.weights(weights).cast::<f16>();
        online.values.acc = weights.dot(values, online.values.acc);
    }

    let found = online.finish();
    let result = hooks.output(found.output()).reshape([spec.block_q, spec.group, spec.head_dim]);
    out.with_extent(2, spec.head_dim)
        .tile((turn, head, 0), [spec.block_q, spec.group, spec.head_dim])
        .store(result);
    lse.tile((turn, head), [spec.block_q, spec.group]).store(found.lse().reshape([spec.block_q, spec.group]));
}
