//! Vector add, softmax and matmul against their references, on the interpreter.

mod common;

use common::{Run, close, halves, random};
use leankv_kernels::{find, reference};

#[test]
fn vector_add_masks_the_last_tile() {
    for n in [1, 255, 256, 700] {
        let (x, y) = (random(1, n), random(2, n));
        let mut run = Run::new(find("vector_add").unwrap(), &[]);
        run.view("x", &x, &[n]).view("y", &y, &[n]).view("out", &vec![9.0f32; n], &[n]);
        run.launch([n.div_ceil(256), 1, 1]);
        assert_eq!(run.read::<f32>("out"), reference::add(&x, &y).unwrap());
    }
}

#[test]
fn softmax_of_rows_of_any_length() {
    for (rows, cols) in [(1, 1), (3, 100), (5, 128)] {
        let mut x: Vec<f32> = random(3, rows * cols).iter().map(|x| x * 20.0).collect();
        x[..cols].fill(f32::NEG_INFINITY);
        let mut run = Run::new(find("softmax").unwrap(), &[("rows_per_program", "4")]);
        run.view("x", &x, &[rows, cols]).view("out", &vec![9.0f32; rows * cols], &[rows, cols]);
        run.launch([rows.div_ceil(4), 1, 1]);
        close("softmax", &run.read::<f32>("out"), &reference::softmax(&x, cols).unwrap(), 1e-6);
    }
}

#[test]
#[should_panic(expected = "a row is longer than the block")]
fn softmax_refuses_rows_that_do_not_fit() {
    let mut run = Run::new(find("softmax").unwrap(), &[("rows_per_program", "1")]);
    run.view("x", &[0.0f32; 200], &[1, 200]).view("out", &[0.0f32; 200], &[1, 200]);
    run.launch([1, 1, 1]);
}

#[test]
fn matmul_of_any_extents() {
    for (m, n, k) in [(64, 64, 32), (70, 40, 48), (1, 8, 8)] {
        let ((a, a32), (b, b32)) = (halves(&random(4, m * k)), halves(&random(5, k * n)));
        let mut run = Run::new(find("matmul").unwrap(), &[("bm", "64")]);
        run.view("a", &a, &[m, k]).view("b", &b, &[k, n]).view("out", &vec![9.0f32; m * n], &[m, n]);
        run.launch([n.div_ceil(64), m.div_ceil(64), 1]);
        let expected = reference::matmul(&a32, &b32, m, n, k).unwrap();
        close("matmul", &run.read::<f32>("out"), &expected, 1e-4);
    }
}
