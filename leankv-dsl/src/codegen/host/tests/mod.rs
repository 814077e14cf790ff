//! The host and PTX against the interpreter, without the standard passes: what meets in a kernel, and what the conformance suite, which
//! has every op for every type, does not try.

mod control;
mod elementwise;
mod memory;
mod shapes;
mod sparse;

use super::{HostArg, HostKernel, HostOptions, LaunchError, compile};
use crate::codegen::nvptx::{self, tests::compare};
use crate::interp::{self, Arg, Memory, Options};
use crate::ir::{Dtype, Func, parse};
use crate::workload::Generator;
use half::f16;

/// The bytes of one element; floats and integers from a number.
pub(super) fn element(dtype: Dtype, x: f64) -> Vec<u8> {
    match dtype {
        Dtype::I1 => vec![u8::from(x != 0.0)],
        Dtype::I32 => (x as i64 as i32).to_le_bytes().to_vec(),
        Dtype::I64 => (x as i64).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
        _ => panic!("no test has numbers of {dtype}"),
    }
}

pub(super) fn bytes(dtype: Dtype, values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(|x| element(dtype, x)).collect()
}

/// `count` random elements: any bits of integers, floats around 1.
pub(super) fn random(dtype: Dtype, count: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Generator::new(seed);
    if dtype.is_float() {
        return bytes(dtype, numbers.f32s(count, -4.0, 4.0).into_iter().map(f64::from));
    }
    let mask = if dtype == Dtype::I1 { 1 } else { u64::MAX };
    let size = dtype.bytes().unwrap() as usize;
    (0..count).flat_map(|_| (numbers.bits() & mask).to_le_bytes().into_iter().take(size)).collect()
}

/// Runs a kernel whose parameters are all pointers on the host, in place.
pub(super) fn run_host(
    func: &Func,
    grid: [u32; 3],
    buffers: &mut [Vec<u8>],
    width: Option<u32>,
    threads: usize,
) -> Result<(), LaunchError> {
    // The narrow run is compiled for AVX2 alone, so that machines without AVX-512 are tested too.
    let class = (width.is_some() && cfg!(target_arch = "x86_64")).then(|| "x86-64-v3".to_owned());
    let options = HostOptions { width, class, keep_llvm_ir: false };
    let artifact = compile(func, &options).unwrap_or_else(|e| panic!("{e}\n{func}"));
    let kernel = HostKernel::load(&artifact).unwrap_or_else(|e| panic!("{e}\n{func}"));
    // Memory in 8-byte words, so that every element is aligned.
    let mut words: Vec<Vec<u64>> = buffers.iter().map(|b| vec![0u64; b.len().div_ceil(8) + 1]).collect();
    for (words, buffer) in words.iter_mut().zip(buffers.iter()) {
        // SAFETY: the words are at least as long as the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), words.as_mut_ptr().cast::<u8>(), buffer.len());
        }
    }
    let args: Vec<HostArg> = words.iter_mut().map(|w| HostArg::from(w.as_mut_ptr())).collect();
    // SAFETY: the interpreter has shown that the kernel stays within its buffers, which live until the launch returns.
    let result = unsafe { kernel.launch(grid, &args, threads) };
    for (words, buffer) in words.iter().zip(buffers.iter_mut()) {
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(words.as_ptr().cast::<u8>(), buffer.as_mut_ptr(), buffer.len());
        }
    }
    result
}

/// Runs a kernel on the interpreter and on the host for two kinds of machine and compares all buffers. `tolerance` is for floats.
pub(super) fn check(text: &str, grid: [u32; 3], buffers: &[Vec<u8>], tolerance: f64) {
    let func = parse("test.tile", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut memory = Memory::new();
    let ids: Vec<_> = buffers.iter().map(|b| memory.alloc_bytes(b)).collect();
    let args: Vec<Arg> = ids.iter().map(|&id| Arg::Buffer(id, 0)).collect();
    interp::launch(&func, grid, &args, &mut memory, &Options::default())
        .unwrap_or_else(|e| panic!("{e}\n{text}"));
    let want: Vec<Vec<u8>> = ids.iter().map(|&id| memory.bytes(id).to_vec()).collect();
    nvptx::tests::check(&func, grid, buffers, &want, tolerance);
    for width in [None, Some(8)] {
        let mut got = buffers.to_vec();
        run_host(&func, grid, &mut got, width, 2).unwrap_or_else(|e| panic!("{e}\n{text}"));
        compare(&func, &want, &got, tolerance, &|| format!("width {width:?}\n{text}"));
    }
}

#[test]
fn objects_for_other_machines_and_damaged_objects_are_refused() {
    let func = parse("t", "kernel @k(%0 n: i32) num_warps 4 {\n  return\n}").unwrap();
    let artifact = compile(&func, &HostOptions::default()).unwrap();
    HostKernel::load(&artifact).unwrap();
    let mut other = artifact.clone();
    other.target.cpu = "a-later-cpu".to_owned();
    let error = HostKernel::load(&other).unwrap_err().to_string();
    assert!(error.contains("is for the CPU `a-later-cpu`"), "{error}");
    let mut damaged = artifact.clone();
    damaged.object.truncate(10);
    let error = HostKernel::load(&damaged).unwrap_err().to_string();
    assert!(error.contains("it is not an object file"), "{error}");
    let mut renamed = artifact.clone();
    renamed.entry = "leankv_other".to_owned();
    assert!(HostKernel::load(&renamed).is_err());
    let unknown = HostOptions { class: Some("x86-64-v9".to_owned()), ..HostOptions::default() };
    let error = compile(&func, &unknown).unwrap_err().to_string();
    assert!(error.contains("x86-64-v3 and x86-64-v4"), "{error}");
}

#[test]
fn wrong_numbers_of_arguments_and_empty_grids_are_not_run() {
    let func = parse("t", "kernel @k(%0 n: i32) num_warps 4 {\n  return\n}").unwrap();
    let kernel = HostKernel::load(&compile(&func, &HostOptions::default()).unwrap()).unwrap();
    // SAFETY: the kernel takes a number and touches no memory.
    let run = |grid, args: &[HostArg]| unsafe { kernel.launch(grid, args, 0) };
    assert_eq!(run([1, 1, 1], &[]).unwrap_err().to_string(), "the kernel `k` takes 1 arguments, not 0");
    run([0, 1, 1], &[1i32.into()]).unwrap();
    assert!(matches!(run([1, u32::MAX, 1], &[1i32.into()]), Err(LaunchError::Grid(_))));
}
