//! A chunk of a prompt over a filled cache of one request: attention and the significance it gives.

use half::f16;
use leankv_dsl::workload::{Check, Generator, Workload};

use super::cache::Cache;
use super::{RecipeError, Shapes};
use crate::chunk::ChunkSpec;
use crate::reference::{ChunkArgs, ChunkOutput, attend_chunk};

/// Probabilities, summed over counted queries.
const MASS: Check = Check::close(2e-4, 2e-4);

/// A chunk, its cache, and what plain Rust says.
struct Chunk {
    cache: Cache,
    n: usize,
    window: usize,
    q: Vec<f16>,
    k: Vec<f16>,
    v: Vec<f16>,
    scale: f32,
    expected: ChunkOutput,
}

impl Chunk {
    fn new(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Chunk, RecipeError> {
        let mut random = Generator::new(seed);
        let cache = Cache::new(&spec.tiering, spec.head_dim, spec.page_bytes, shapes, &mut random)?;
        let (n, kv_heads, d) = (shapes.get("queries"), cache.kv_heads, spec.head_dim);
        let (q, q32) = random.f16s(n * kv_heads * spec.group * d, -1.0, 1.0);
        let (k, k32) = random.f16s(n * kv_heads * d, -1.0, 1.0);
        let (v, v32) = random.f16s(n * kv_heads * d, -1.0, 1.0);
        let (scale, window) = (1.0 / (d.max(1) as f32).sqrt(), shapes.get("window"));
        let args = ChunkArgs {
            q: &q32,
            k: &k32,
            v: &v32,
            query_heads: kv_heads * spec.group,
            kv_heads,
            scale,
            window,
        };
        let expected = attend_chunk(&args, &cache.paged())?;
        Ok(Chunk { cache, n, window, q, k, v, scale, expected })
    }

    /// The arguments that all kernels of a chunk share.
    fn workload(&self, spec: &ChunkSpec, programs: usize) -> Workload {
        let heads = self.cache.kv_heads * spec.group;
        Workload::new([programs, self.cache.kv_heads, 1])
            .view("q", &self.q, &[self.n, heads, spec.head_dim])
            .scalar("before", self.cache.longest as i32)
            .scalar("scale", self.scale)
    }
}

pub(super) fn attention(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let chunk = Chunk::new(spec, shapes, seed)?;
    let (n, d) = (chunk.n, spec.head_dim);
    let (kv_heads, heads) = (chunk.cache.kv_heads, chunk.cache.kv_heads * spec.group);
    // Weights are rounded to f16 before they meet values.
    let check = Check::close(4e-3, 2e-3);
    let workload = chunk
        .workload(spec, n.div_ceil(spec.block_q))
        .view("k", &chunk.k, &[n, kv_heads, d])
        .view("v", &chunk.v, &[n, kv_heads, d])
        .view("out", &vec![f32::NAN; n * heads * d], &[n, heads, d])
        .view("lse", &vec![f32::NAN; n * heads], &[n, heads])
        .output("out", check)
        .output("lse", MASS)
        .expect("out", &chunk.expected.out, check)
        .expect("lse", &chunk.expected.lse, Check::close(1e-3, 1e-3));
    Ok(chunk.cache.arguments(workload))
}

pub(super) fn own(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let chunk = Chunk::new(spec, shapes, seed)?;
    let (n, kv_heads) = (chunk.n, chunk.cache.kv_heads);
    Ok(chunk
        .workload(spec, n.div_ceil(spec.block))
        .view("k", &chunk.k, &[n, kv_heads, spec.head_dim])
        .view("lse", &chunk.expected.lse, &[n, kv_heads * spec.group])
        .scalar("window", chunk.window as i32)
        .view("mass", &vec![f32::NAN; kv_heads * n], &[kv_heads, n])
        .output("mass", MASS)
        .expect("mass", &chunk.expected.mass, MASS))
}

pub(super) fn cached(spec: &ChunkSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let chunk = Chunk::new(spec, shapes, seed)?;
    let workload = chunk
        .workload(spec, spec.splits)
        .view("lse", &chunk.expected.lse, &[chunk.n, chunk.cache.kv_heads * spec.group])
        .scalar("window", chunk.window as i32);
    Ok(chunk.cache.arguments(workload).output("kv.arena", Check::WordSums { abs: 1e-3 }))
}
