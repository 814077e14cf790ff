//! `out = x + y` on the host device.

use std::error::Error;

use leankv_dsl::lang::*;
use leankv_examples::numbers;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

/// Each program adds one tile of `block` elements. The last tile may reach beyond the vectors: what lies outside is neither read
/// nor written.
#[kernel(space(block = [256, 1024]))]
fn add(#[comptime] block: usize, x: View<f32, 1>, y: View<f32, 1>, out: ViewMut<f32, 1>) {
    let at = program_id(0);
    let sum = x.tile(at, [block]).load() + y.tile(at, [block]).load();
    out.tile(at, [block]).store(sum);
}

fn run(device: &Device, n: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let (x, y) = (device.upload(&numbers(1, n))?, device.upload(&numbers(2, n))?);
    let mut out = device.zeros::<f32>(n)?;
    let block = 1024;
    let kernel = Compiler::new(KernelCache::user()).load(device, &add::KERNEL, &AddSpec { block })?;
    let programs = n.div_ceil(block) as u32;
    let args = AddArgs { x: x.tensor([n]), y: y.tensor([n]), out: out.tensor_mut([n]) };
    // SAFETY: every access goes through a view, and views mask what lies outside of the buffers they were checked against.
    unsafe { kernel.launch(programs, args).run() }?;
    Ok(out.to_vec()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let n = 1_000_003;
    let sum = run(&Device::host(), n)?;
    println!("added two vectors of {n} numbers: {:?} ..", &sum[..4]);
    Ok(())
}

#[test]
fn it_adds() {
    let n = 3000;
    let expected: Vec<f32> = numbers(1, n).iter().zip(numbers(2, n)).map(|(x, y)| x + y).collect();
    assert_eq!(run(&Device::host(), n).unwrap(), expected);
}
