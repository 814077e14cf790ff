//! Softmax of the rows of a matrix on the host device.

use std::error::Error;

use leankv_dsl::lang::*;
use leankv_examples::{largest_difference, numbers};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

/// Each program takes a few whole rows. Columns beyond the matrix count as minus infinity, so they weigh nothing.
#[kernel(space(block = [1024], rows = [1, 4]))]
fn softmax_rows(#[comptime] block: usize, #[comptime] rows: usize, x: View<f32, 2>, out: ViewMut<f32, 2>) {
    static_assert(block * rows <= 1 << 16, "a tile of rows fits the registers of a program");
    let (at, extents) = ((program_id(0), 0), [rows, block]);
    let x = x.tile(at, extents).load_or(f32::NEG_INFINITY);
    let powers = (x - x.reduce_max(1).expand_dims(1)).exp();
    let sums = powers.reduce_sum(1).expand_dims(1);
    out.tile(at, extents).store(powers / sums);
}

fn run(device: &Device, x: &[f32], rows: usize, cols: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let input = device.upload(x)?;
    let mut out = device.zeros::<f32>(x.len())?;
    let spec = SoftmaxRowsSpec { block: cols.next_power_of_two(), rows: 4 };
    let kernel = Compiler::new(KernelCache::user()).load(device, &softmax_rows::KERNEL, &spec)?;
    let extents = [rows, cols];
    let programs = rows.div_ceil(spec.rows) as u32;
    let args = SoftmaxRowsArgs { x: input.tensor(extents), out: out.tensor_mut(extents) };
    // SAFETY: every access goes through a view, and views mask what lies outside of the buffers they were checked against.
    unsafe { kernel.launch(programs, args).run() }?;
    Ok(out.to_vec()?)
}

fn expected(x: &[f32], cols: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = row.iter().map(|x| (x - max).exp()).collect();
        let sum: f32 = powers.iter().sum();
        powers.into_iter().map(|p| p / sum).collect::<Vec<f32>>()
    };
    x.chunks(cols).flat_map(row).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let (rows, cols) = (100, 1000);
    let x = numbers(1, rows * cols);
    let out = run(&Device::host(), &x, rows, cols)?;
    let error = largest_difference(&out, &expected(&x, cols));
    println!("softmax of {rows} rows of {cols} numbers: largest error {error:e}");
    Ok(())
}

#[test]
fn it_normalises_rows() {
    let (rows, cols) = (7, 100);
    let x = numbers(1, rows * cols);
    let out = run(&Device::host(), &x, rows, cols).unwrap();
    assert!(largest_difference(&out, &expected(&x, cols)) < 1e-6);
}
