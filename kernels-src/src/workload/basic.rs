//! The tutorial kernels: vector add, softmax, matrix product.

use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::{RecipeError, Shapes, filled};
use crate::matmul::{MatmulArgs, MatmulSpec, matmul as matmul_kernel};
use crate::reference;
use crate::softmax::{SoftmaxArgs, SoftmaxSpec, softmax as softmax_kernel};
use crate::vector_add::{VectorAddArgs, VectorAddSpec, vector_add as vector_add_kernel};

pub(super) fn vector_add(spec: &VectorAddSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let n = shapes.get("n");
    let mut random = Generator::new(seed);
    let (x, y) = (random.f32s(n, -1.0, 1.0), random.f32s(n, -1.0, 1.0));
    let args = VectorAddArgs {
        x: given(&x).tensor([n]),
        y: given(&y).tensor([n]),
        out: filled(9.0, &reference::add(&x, &y)?, Check::Bits).tensor_mut([n]),
    };
    Ok(Workload::of::<vector_add_kernel>([n.div_ceil(spec.block).max(1), 1, 1], args))
}

pub(super) fn softmax(spec: &SoftmaxSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (rows, cols) = (shapes.get("rows"), shapes.get("cols"));
    let mut x = Generator::new(seed).f32s(rows * cols, -20.0, 20.0);
    // A row in which everything is masked.
    let masked = cols.min(x.len());
    x[..masked].fill(f32::NEG_INFINITY);
    let out = given(&vec![9.0; rows * cols])
        .output(Check::close(1e-5, 1e-7))
        .expect(&reference::softmax(&x, cols)?, Check::close(1e-5, 1e-6));
    let args = SoftmaxArgs { x: given(&x).tensor([rows, cols]), out: out.tensor_mut([rows, cols]) };
    Ok(Workload::of::<softmax_kernel>([rows.div_ceil(spec.rows_per_program).max(1), 1, 1], args))
}

pub(super) fn matmul(spec: &MatmulSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    // Rows start at multiples of 16 bytes.
    let (m, n, k) =
        (shapes.get("m"), shapes.get("n").next_multiple_of(8), shapes.get("k").next_multiple_of(8));
    let mut random = Generator::new(seed);
    let ((a, a32), (b, b32)) = (random.f16s(m * k, -1.0, 1.0), random.f16s(k * n, -1.0, 1.0));
    let check = Check::close(1e-5, 1e-6 * (k as f64 + 32.0));
    let args = MatmulArgs {
        a: given(&a).tensor([m, k]),
        b: given(&b).tensor([k, n]),
        out: filled(9.0, &reference::matmul(&a32, &b32, m, n, k)?, check).tensor_mut([m, n]),
    };
    Ok(Workload::of::<matmul_kernel>([n.div_ceil(spec.bn).max(1), m.div_ceil(spec.bm).max(1), 1], args))
}
