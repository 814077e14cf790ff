//! A kernel in a crate of your own. `cargo test` holds its PTX to a snapshot and to a budget, without a GPU, and shows how it is tuned.

use leankv_dsl::lang::*;

/// `out[r] = sqrt(sum_c x[r, c]^2)`: the length of each row.
///
/// * Shapes: `x` is `[rows, cols]` with `cols <= block`, `out` is `[rows]`.
/// * Grid: `[ceil(rows / rows_per_program)]`.
/// * Errors: a row longer than `block` is refused when the kernel runs.
#[kernel(space(block = [64, 256], rows_per_program = [4]), tune(rows_per_program = [1, 4, 16, 64]))]
pub fn row_norm(
    #[comptime] block: usize,
    #[comptime] rows_per_program: usize,
    #[arg(align = 16)] x: View<f32, 2>,
    out: ViewMut<f32, 1>,
) {
    device_assert(x.extent(1).le(block as i64), "a row is longer than the block");
    let at = program_id(0);
    let row = x.tile((at, 0), [rows_per_program, block]).load();
    out.tile(at, [rows_per_program]).store((row * row).reduce_sum(1).sqrt());
}
