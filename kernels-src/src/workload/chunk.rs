//! A chunk of a prompt over a filled cache of one request: attention and the significance it gives.

use leankv_dsl::lang::attention::{PagedKv, Plain, Stock};
use leankv_dsl::lang::launch::FloatTensor;
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::attention::significance;
use super::cache::Cache;
use super::floats::{Floats, rounded};
use super::{RecipeError, Shapes, filled};
use crate::chunk::{
    CachedSignificanceArgs, ChunkAttentionArgs, ChunkSignificanceArgs, ChunkSpec, cached_significance,
    chunk_attention, chunk_significance,
};
use crate::policy::Peaks;
use crate::reference::{ChunkArgs, ChunkOutput, Share, add_shares, attend_chunk};

/// Probabilities, summed over counted queries.
const MASS: Check = Check::close(2e-4, 2e-4);

/// A chunk, its cache, and what plain Rust says.
struct Chunk {
    cache: Cache,
    /// Tokens of the chunk, and how many of them come before the first query.
    n: usize,
    first: usize,
    window: usize,
    q: FloatTensor<'static, 3>,
    k: FloatTensor<'static, 3>,
    v: FloatTensor<'static, 3>,
    scale: f32,
    /// Of the queries, `[n - first, query_heads]`.
    lse: Vec<f32>,
    expected: ChunkOutput,
}

impl Chunk {
    fn new(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Chunk, RecipeError> {
        let mut random = Generator::new(seed);
        let cache = Cache::new(&spec.tiering, spec.head_dim, spec.page_bytes, shapes, &mut random)?;
        let (n, kv_heads, d) = (shapes.get("queries"), cache.kv_heads, spec.head_dim);
        let [q, k, v] = [kv_heads * spec.group, kv_heads, kv_heads]
            .map(|heads| Floats::random(spec.input, &mut random, [n, heads, d]));
        // What the kernels compute with.
        let [q32, k32, v32] = [&q, &k, &v].map(|x| rounded(&x.exact));
        let (scale, window) = (1.0 / (d.max(1) as f32).sqrt(), shapes.get("window"));
        let args = ChunkArgs {
            q: &q32,
            k: &k32,
            v: &v32,
            query_heads: kv_heads * spec.group,
            kv_heads,
            scale,
            window,
            before: cache.longest as i32,
            recent: spec.window,
        };
        let expected = attend_chunk(&args, &cache.paged())?;
        // The first queries were given before.
        let first = shapes.get("first_query").min(n.saturating_sub(window));
        let heads = kv_heads * spec.group;
        let q = Floats::given(spec.input, &q.exact[first * heads * d..], [n - first, heads, d]).tensor;
        let lse = expected.lse[first * heads..].to_vec();
        let [k, v] = [k, v].map(|x| x.tensor);
        Ok(Chunk { cache, n, first, window, q, k, v, scale, lse, expected })
    }
}

pub(super) fn attention(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let Chunk { cache, n, first, q, k, v, scale, lse, expected, .. } = Chunk::new(spec, shapes, seed)?;
    let (heads, queries) = (cache.kv_heads * spec.group, n - first);
    let out = &expected.out[first * heads * spec.head_dim..];
    let lse = given(&vec![f32::NAN; queries * heads]).output(MASS).expect(&lse, Check::close(1e-3, 1e-3));
    let args = ChunkAttentionArgs {
        q,
        k,
        v,
        before: cache.longest as i32,
        first_query: first as i32,
        scale,
        kv: cache.kv(given(&cache.arena)),
        // Weights are rounded to f16 before they meet values.
        out: filled(f32::NAN, out, Check::close(4e-3, 2e-3)).tensor_mut([queries, heads, spec.head_dim]),
        lse: lse.tensor_mut([queries, heads]),
        codecs: (),
        hooks: (),
    };
    let grid = [queries.div_ceil(spec.block_q), cache.kv_heads, 1];
    Ok(Workload::of::<chunk_attention<Stock, Plain, PagedKv>>(grid, args))
}

pub(super) fn own(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let Chunk { cache, n, first, q, k, scale, window, lse, expected, .. } = Chunk::new(spec, shapes, seed)?;
    let (peaks, kv_heads) = (Peaks::new(spec.peaks), cache.kv_heads);
    let priors = Generator::new(seed ^ 1).f32s(if peaks.kept() { n * kv_heads } else { 0 }, 0.0, 0.1);
    let word = |(at, share): (usize, &Share)| {
        let prior = priors.get(at % n * kv_heads + at / n).copied().unwrap_or(0.0);
        peaks.word(share.sum, share.most.max(prior))
    };
    let words: Vec<f32> = expected.own.iter().enumerate().map(word).collect();
    let check = Check::WordSums { rel: 2e-4, abs: 2e-4, code_bits: peaks.code_bits() };
    let args = ChunkSignificanceArgs {
        q,
        k,
        lse: given(&lse).tensor([n - first, cache.kv_heads * spec.group]),
        before: cache.longest as i32,
        first_query: first as i32,
        scale,
        window: window as i32,
        priors: given(&priors).tensor([if peaks.kept() { n } else { 0 }, kv_heads]),
        words: filled(f32::NAN, &words, check).tensor_mut([kv_heads, n]),
        hooks: (),
    };
    Ok(Workload::of::<chunk_significance<Plain>>([n.div_ceil(spec.block), cache.kv_heads, 1], args))
}

pub(super) fn cached(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let Chunk { cache, n, first, q, scale, window, lse, expected, .. } = Chunk::new(spec, shapes, seed)?;
    let peaks = Peaks::new(spec.peaks);
    let mut arena = cache.arena.clone();
    let list = cache.slots[0] as usize * cache.kv_heads;
    for (head, shares) in expected.cached.iter().enumerate() {
        add_shares(&cache.paged(), list + head, peaks, shares, &mut arena)?;
    }
    let check = significance(peaks);
    let args = CachedSignificanceArgs {
        q,
        lse: given(&lse).tensor([n - first, cache.kv_heads * spec.group]),
        before: (cache.longest + first) as i32,
        scale,
        window: window as i32,
        kv: cache.kv(given(&cache.arena).output(check).expect(&arena, check)),
        codecs: (),
        hooks: (),
    };
    let grid = [spec.splits, cache.kv_heads, 1];
    Ok(Workload::of::<cached_significance<Stock, Plain, PagedKv>>(grid, args))
}
