//! Vector add, softmax and matmul against their references, on the interpreter.

mod common;

use common::{Run, close, filled, halves, random};
use leankv_dsl::workload::given;
use leankv_kernels::matmul::{MatmulArgs, matmul};
use leankv_kernels::reference;
use leankv_kernels::softmax::{SoftmaxArgs, softmax};
use leankv_kernels::vector_add::{VectorAddArgs, vector_add};

#[test]
fn vector_add_masks_the_last_tile() {
    for n in [1, 255, 256, 700] {
        let (x, y) = (random(1, n), random(2, n));
        let args =
            VectorAddArgs { x: given(&x).tensor([n]), y: given(&y).tensor([n]), out: filled(9.0, [n]) };
        let run = Run::new(&vector_add::KERNEL, "", [n.div_ceil(256), 1, 1], args).launch();
        assert_eq!(run.read::<f32>("out"), reference::add(&x, &y).unwrap());
    }
}

#[test]
fn softmax_of_rows_of_any_length() {
    for (rows, cols) in [(1, 1), (3, 100), (5, 128)] {
        let mut x: Vec<f32> = random(3, rows * cols).iter().map(|x| x * 20.0).collect();
        x[..cols].fill(f32::NEG_INFINITY);
        let args = SoftmaxArgs { x: given(&x).tensor([rows, cols]), out: filled(9.0, [rows, cols]) };
        let run = Run::new(&softmax::KERNEL, "rows_per_program=4", [rows.div_ceil(4), 1, 1], args).launch();
        close("softmax", &run.read::<f32>("out"), &reference::softmax(&x, cols).unwrap(), 1e-6);
    }
}

#[test]
#[should_panic(expected = "a row is longer than the block")]
fn softmax_refuses_rows_that_do_not_fit() {
    let args = SoftmaxArgs { x: given(&[0.0; 200]).tensor([1, 200]), out: filled(0.0, [1, 200]) };
    Run::new(&softmax::KERNEL, "rows_per_program=1", [1, 1, 1], args).launch();
}

#[test]
fn matmul_of_any_extents() {
    for (m, n, k) in [(64, 64, 32), (70, 40, 48), (1, 8, 8)] {
        let ((a, a32), (b, b32)) = (halves(&random(4, m * k)), halves(&random(5, k * n)));
        let args =
            MatmulArgs { a: given(&a).tensor([m, k]), b: given(&b).tensor([k, n]), out: filled(9.0, [m, n]) };
        let run = Run::new(&matmul::KERNEL, "bm=64", [n.div_ceil(64), m.div_ceil(64), 1], args).launch();
        let expected = reference::matmul(&a32, &b32, m, n, k).unwrap();
        close("matmul", &run.read::<f32>("out"), &expected, 1e-4);
    }
}
