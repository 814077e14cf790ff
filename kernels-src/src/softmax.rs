//! Softmax over rows: the tutorial on reductions and masking.

use leankv_dsl::lang::*;

/// `out[r, c] = exp(x[r, c] - max_r) / sum_c exp(x[r, c] - max_r)`, row by row, in one pass over a row that fits a tile.
///
/// * Shapes: `x`, `out` are `[rows, cols]` with `cols <= block`; what lies beyond `cols` counts as minus infinity.
/// * Grid: `[ceil(rows / rows_per_program)]`.
/// * Values: a row of minus infinity (everything masked) gives zeros; a row with NaN gives NaN.
/// * Errors: a row longer than `block` is refused when the kernel runs, since its sum would be wrong.
#[kernel(space(block = [128, 1024], rows_per_program = [1, 4]), tune(rows_per_program = [1, 2, 4, 8, 16]))]
pub fn softmax(
    #[comptime] block: usize,
    #[comptime] rows_per_program: usize,
    x: View<f32, 2>,
    out: ViewMut<f32, 2>,
) {
    device_assert(x.extent(1).le(block as i64), "a row is longer than the block");
    let at = (program_id(0), 0);
    let extents = [rows_per_program, block];
    let row = x.tile(at, extents).load_or(f32::NEG_INFINITY);
    out.tile(at, extents).store(row.softmax(1));
}
