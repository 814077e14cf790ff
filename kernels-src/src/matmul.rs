//! Matrix product: the tutorial on loops, accumulators and pipelining.

use half::f16;
use leankv_dsl::lang::*;

/// `out = a b` with f16 operands and f32 accumulation.
///
/// * Shapes: `a` is `[m, k]`, `b` is `[k, n]`, `out` is `[m, n]`; any extents, the rims are masked. Rows of `a` and `b` start at multiples of
///   16 bytes, so that they are read in 128-bit words.
/// * Grid: `[ceil(n / bn), ceil(m / bm)]`; one program computes one `[bm, bn]` tile of `out`.
/// * Rounding: products and sums in f32; the order of summation along `k` is by tiles of `bk`.
/// * `stages` is the depth of the software pipeline that loads tiles ahead.
#[kernel(
    space(bm = [64, 128], bn = [64], bk = [32], stages = [1, 3]),
    tune(bm = [16, 32, 64, 128], bn = [16, 32, 64, 128], bk = [16, 32, 64], stages = [1, 2, 3]),
    valid = |s| s.bm.saturating_mul(s.bn) <= 128 * 128
)]
pub fn matmul(
    #[comptime] bm: usize,
    #[comptime] bn: usize,
    #[comptime] bk: usize,
    #[comptime] stages: usize,
    #[arg(align = 16)] a: View<f16, 2>,
    #[arg(align = 16)] b: View<f16, 2>,
    out: ViewMut<f32, 2>,
) {
    let (col, row) = (program_id(0), program_id(1));
    let mut acc = Tile::zeros([bm, bn]);
    let turns = a.extent(1).cdiv(bk as i64).cast::<i32>();
    for k in range(0, turns).stages(stages) {
        let lhs = a.tile((row, k), [bm, bk]).load();
        let rhs = b.tile((k, col), [bk, bn]).load();
        acc = lhs.dot(rhs, acc);
    }
    out.tile((row, col), [bm, bn]).store(acc);
}
