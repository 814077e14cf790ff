//! Element-wise sum of two vectors: the first tutorial.

use leankv_dsl::lang::*;

/// `out[i] = x[i] + y[i]`.
///
/// * Shapes: `x`, `y`, `out` are `[n]`; `out` decides which elements are written, and the launch passes three views of one length.
/// * Grid: `[ceil(n / block)]`; program `p` does elements `p * block ..`.
/// * Errors: none beyond the launch's; the last tile is masked, so any `n` works.
#[kernel(space(block = [256, 1024]), tune(block = [64, 256, 1024, 4096, 16384]))]
pub fn vector_add(#[comptime] block: usize, x: View<f32, 1>, y: View<f32, 1>, out: ViewMut<f32, 1>) {
    let at = program_id(0);
    let sum = x.tile(at, [block]).load() + y.tile(at, [block]).load();
    out.tile(at, [block]).store(sum);
}
