//! Matrix product with f16 operands and an f32 accumulator on the host device.

use std::error::Error;

use half::f16;
use leankv_dsl::lang::*;
use leankv_examples::{largest_difference, numbers};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

/// Each program computes one tile of the product. `for .. in range(..)` is recorded as a loop and carries `acc`; on a GPU `stages(2)` loads the
/// next tiles while this one is multiplied, and `dot` becomes tensor-core instructions.
#[kernel(space(tile = [32, 64]))]
fn product(#[comptime] tile: usize, a: View<f16, 2>, b: View<f16, 2>, out: ViewMut<f32, 2>) {
    let (col, row) = (program_id(0), program_id(1));
    let mut acc = Tile::zeros([tile, tile]);
    let turns = a.extent(1).cdiv(tile as i64);
    for k in range(0, turns).stages(2) {
        let lhs = a.tile((row, k), [tile, tile]).load();
        let rhs = b.tile((k, col), [tile, tile]).load();
        acc = lhs.dot(rhs, acc);
    }
    out.tile((row, col), [tile, tile]).store(acc);
}

fn run(device: &Device, a: &[f16], b: &[f16], [m, n, k]: [usize; 3]) -> Result<Vec<f32>, Box<dyn Error>> {
    let (lhs, rhs) = (device.upload(a)?, device.upload(b)?);
    let mut out = device.zeros::<f32>(m * n)?;
    let spec = ProductSpec { tile: 32 };
    let kernel = Compiler::new(KernelCache::user()).load(device, &product::KERNEL, &spec)?;
    let grid = (n.div_ceil(spec.tile) as u32, m.div_ceil(spec.tile) as u32);
    let args = ProductArgs { a: lhs.tensor([m, k]), b: rhs.tensor([k, n]), out: out.tensor_mut([m, n]) };
    // SAFETY: every access goes through a view, and views mask what lies outside of the buffers they were checked against.
    unsafe { kernel.launch(grid, args).run() }?;
    Ok(out.to_vec()?)
}

fn halves(seed: u64, len: usize) -> Vec<f16> {
    numbers(seed, len).into_iter().map(f16::from_f32).collect()
}

fn expected(a: &[f16], b: &[f16], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let element = |i: usize, j: usize| (0..k).map(|l| a[i * k + l].to_f32() * b[l * n + j].to_f32()).sum();
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let shape @ [m, n, k] = [200, 150, 100];
    let (a, b) = (halves(1, m * k), halves(2, k * n));
    let out = run(&Device::host(), &a, &b, shape)?;
    let error = largest_difference(&out, &expected(&a, &b, shape));
    println!("[{m}, {k}] times [{k}, {n}]: largest error {error:e}");
    Ok(())
}

#[test]
fn it_multiplies() {
    let shape @ [m, n, k] = [40, 50, 70];
    let (a, b) = (halves(1, m * k), halves(2, k * n));
    let out = run(&Device::host(), &a, &b, shape).unwrap();
    assert!(largest_difference(&out, &expected(&a, &b, shape)) < 1e-4);
}
