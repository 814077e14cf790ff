//! A small kernel that launches are tried with.

use leankv_dsl::lang::*;
use leankv_runtime::{DeviceBuffer, KernelOf, Launch};

/// `out[i] = x[i] * by`, 64 elements a program, masked at `n`.
#[kernel(warps = 1)]
pub(crate) fn scale(#[arg(align = 16)] x: Ptr<f32>, out: PtrMut<f32>, n: Scalar<i32>, by: Scalar<f32>) {
    let at = program_id(0) * 64 + iota(64);
    let there = at.lt(n);
    out.store_masked(at, x.load_masked(at, there) * by, there);
}

/// A launch over whole buffers.
pub(crate) fn scaled<'a>(
    kernel: &'a KernelOf<scale>,
    programs: u32,
    x: &'a DeviceBuffer<f32>,
    out: &'a mut DeviceBuffer<f32>,
    n: i32,
    by: f32,
) -> Launch<'a> {
    kernel.launch(programs, ScaleArgs { x: x.into(), out: out.into(), n, by })
}
