//! Small programs a user starts from.
//!
//! | program | what it shows |
//! |---|---|
//! | `vector_add` | a kernel, its specialisation, masked tiles, a launch |
//! | `softmax` | reductions, several rows a program, a requirement stated to the specialisation |
//! | `matmul` | a recorded loop with a carried accumulator, a software pipeline, `dot` on f16 |
//! | `own_codec` | a compression variant in one file, in the stock page writer and attention kernels |
//! | `kv_cache` | the LeanKV cache: prompts in chunks, decode steps in batches, thresholds and budgets |
//!
//! Each runs on the host device and checks its result: `cargo run --release -p leankv-examples --bin vector_add`.

/// `len` reproducible numbers in `-1..1`.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The largest difference between two slices.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
