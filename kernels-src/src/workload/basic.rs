//! The tutorial kernels: vector add, softmax, matrix product.

use leankv_dsl::workload::{Check, Generator, Workload};

use super::{RecipeError, Shapes};
use crate::matmul::MatmulSpec;
use crate::reference;
use crate::softmax::SoftmaxSpec;
use crate::vector_add::VectorAddSpec;

pub(super) fn vector_add(spec: &VectorAddSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let n = shapes.get("n");
    let mut random = Generator::new(seed);
    let (x, y) = (random.f32s(n, -1.0, 1.0), random.f32s(n, -1.0, 1.0));
    Ok(Workload::new([n.div_ceil(spec.block).max(1), 1, 1])
        .view("x", &x, &[n])
        .view("y", &y, &[n])
        .view("out", &vec![9.0f32; n], &[n])
        .output("out", Check::Bits)
        .expect("out", &reference::add(&x, &y)?, Check::Bits))
}

pub(super) fn softmax(spec: &SoftmaxSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (rows, cols) = (shapes.get("rows"), shapes.get("cols"));
    let mut x = Generator::new(seed).f32s(rows * cols, -20.0, 20.0);
    // A row in which everything is masked.
    let masked = cols.min(x.len());
    x[..masked].fill(f32::NEG_INFINITY);
    let expected = reference::softmax(&x, cols)?;
    Ok(Workload::new([rows.div_ceil(spec.rows_per_program).max(1), 1, 1])
        .view("x", &x, &[rows, cols])
        .view("out", &vec![9.0f32; rows * cols], &[rows, cols])
        .output("out", Check::close(1e-5, 1e-7))
        .expect("out", &expected, Check::close(1e-5, 1e-6)))
}

pub(super) fn matmul(spec: &MatmulSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    // Rows start at multiples of 16 bytes.
    let (m, n, k) =
        (shapes.get("m"), shapes.get("n").next_multiple_of(8), shapes.get("k").next_multiple_of(8));
    let mut random = Generator::new(seed);
    let ((a, a32), (b, b32)) = (random.f16s(m * k, -1.0, 1.0), random.f16s(k * n, -1.0, 1.0));
    let check = Check::close(1e-5, 1e-6 * (k as f64 + 32.0));
    Ok(Workload::new([n.div_ceil(spec.bn).max(1), m.div_ceil(spec.bm).max(1), 1])
        .view("a", &a, &[m, k])
        .view("b", &b, &[k, n])
        .view("out", &vec![9.0f32; m * n], &[m, n])
        .output("out", check)
        .expect("out", &reference::matmul(&a32, &b32, m, n, k)?, check))
}
