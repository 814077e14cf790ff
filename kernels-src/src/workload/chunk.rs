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
    n: usize,
    window: usize,
    q: FloatTensor<'static, 3>,
    k: FloatTensor<'static, 3>,
    v: FloatTensor<'static, 3>,
    scale: f32,
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
        let [q, k, v] = [q, k, v].map(|x| x.tensor);
        Ok(Chunk { cache, n, window, q, k, v, scale, expected })
    }
}

pub(super) fn attention(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let Chunk { cache, n, q, k, v, scale, expected, .. } = Chunk::new(spec, shapes, seed)?;
    let heads = cache.kv_heads * spec.group;
    let lse = given(&vec![f32::NAN; n * heads]).output(MASS).expect(&expected.lse, Check::close(1e-3, 1e-3));
    let args = ChunkAttentionArgs {
        q,
        k,
        v,
        before: cache.longest as i32,
        scale,
        kv: cache.kv(given(&cache.arena)),
        // Weights are rounded to f16 before they meet values.
        out: filled(f32::NAN, &expected.out, Check::close(4e-3, 2e-3)).tensor_mut([n, heads, spec.head_dim]),
        lse: lse.tensor_mut([n, heads]),
        codecs: (),
        hooks: (),
    };
    let grid = [n.div_ceil(spec.block_q), cache.kv_heads, 1];
    Ok(Workload::of::<chunk_attention<Stock, Plain, PagedKv>>(grid, args))
}

pub(super) fn own(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let Chunk { cache, n, q, k, scale, window, expected, .. } = Chunk::new(spec, shapes, seed)?;
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
        lse: given(&expected.lse).tensor([n, cache.kv_heads * spec.group]),
        before: cache.longest as i32,
        scale,
        window: window as i32,
        priors: given(&priors).tensor([if peaks.kept() { n } else { 0 }, kv_heads]),
        words: filled(f32::NAN, &words, check).tensor_mut([kv_heads, n]),
        hooks: (),
    };
    Ok(Workload::of::<chunk_significance<Plain>>([n.div_ceil(spec.block), cache.kv_heads, 1], args))
}

pub(super) fn cached(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let Chunk { cache, n, q, scale, window, expected, .. } = Chunk::new(spec, shapes, seed)?;
    let peaks = Peaks::new(spec.peaks);
    let mut arena = cache.arena.clone();
    let first = cache.slots[0] as usize * cache.kv_heads;
    for (head, shares) in expected.cached.iter().enumerate() {
        add_shares(&cache.paged(), first + head, peaks, shares, &mut arena)?;
    }
    let check = significance(peaks);
    let args = CachedSignificanceArgs {
        q,
        lse: given(&expected.lse).tensor([n, cache.kv_heads * spec.group]),
        before: cache.longest as i32,
        scale,
        window: window as i32,
        kv: cache.kv(given(&cache.arena).output(check).expect(&arena, check)),
        codecs: (),
        hooks: (),
    };
    let grid = [spec.splits, cache.kv_heads, 1];
    Ok(Workload::of::<cached_significance<Stock, Plain, PagedKv>>(grid, args))
}
