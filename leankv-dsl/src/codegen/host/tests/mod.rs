//! The host and PTX against the interpreter: every op, at extents that are no multiples of a vector.

mod control;
mod dot;
mod elementwise;
mod memory;
mod shapes;

use super::{HostArg, HostKernel, HostOptions, LaunchError, compile};
use crate::interp::{self, Arg, Memory, Options};
use crate::ir::{Dtype, Func, parse};
use half::{bf16, f16};

/// A small deterministic generator.
pub(super) struct Lcg(u64);

impl Lcg {
    pub(super) fn new(seed: u64) -> Lcg {
        Lcg(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 16
    }

    /// In [-1, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() % (1 << 24)) as f64 / f64::from(1 << 23) - 1.0
    }
}

/// The bytes of one element; floats and integers from a number.
pub(super) fn element(dtype: Dtype, x: f64) -> Vec<u8> {
    match dtype {
        Dtype::I1 => vec![u8::from(x != 0.0)],
        Dtype::I8 => (x as i64 as i8).to_le_bytes().to_vec(),
        Dtype::I16 => (x as i64 as i16).to_le_bytes().to_vec(),
        Dtype::I32 => (x as i64 as i32).to_le_bytes().to_vec(),
        Dtype::I64 => (x as i64).to_le_bytes().to_vec(),
        Dtype::U8 => (x as i64 as u8).to_le_bytes().to_vec(),
        Dtype::U16 => (x as i64 as u16).to_le_bytes().to_vec(),
        Dtype::U32 => (x as i64 as u32).to_le_bytes().to_vec(),
        Dtype::U64 => (x as i64 as u64).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f64(x).to_le_bytes().to_vec(),
        Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
        Dtype::F64 => x.to_le_bytes().to_vec(),
        Dtype::Code(_) => panic!("codes do not lie in memory"),
    }
}

pub(super) fn bytes(dtype: Dtype, values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(|x| element(dtype, x)).collect()
}

/// `count` random elements: any bits of integers, floats around 1.
pub(super) fn random(dtype: Dtype, count: usize, seed: u64) -> Vec<u8> {
    let mut lcg = Lcg::new(seed);
    (0..count)
        .flat_map(|_| {
            if dtype.is_float() {
                let x = lcg.unit() * 4.0;
                element(dtype, x)
            } else if dtype == Dtype::I1 {
                vec![(lcg.next() & 1) as u8]
            } else {
                lcg.next().to_le_bytes()[..dtype.bytes().unwrap() as usize].to_vec()
            }
        })
        .collect()
}

fn as_f64(dtype: Dtype, raw: &[u8]) -> f64 {
    match dtype {
        Dtype::F16 => f16::from_le_bytes(raw.try_into().unwrap()).to_f64(),
        Dtype::BF16 => bf16::from_le_bytes(raw.try_into().unwrap()).to_f64(),
        Dtype::F32 => f32::from_le_bytes(raw.try_into().unwrap()).into(),
        _ => f64::from_le_bytes(raw.try_into().unwrap()),
    }
}

fn close(dtype: Dtype, a: &[u8], b: &[u8], tolerance: f64) -> bool {
    if !dtype.is_float() || a == b {
        return a == b;
    }
    let (a, b) = (as_f64(dtype, a), as_f64(dtype, b));
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
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
    crate::codegen::nvptx::tests::check(&func, grid, buffers, &want, tolerance);
    for width in [None, Some(8)] {
        let mut got = buffers.to_vec();
        run_host(&func, grid, &mut got, width, 2).unwrap_or_else(|e| panic!("{e}\n{text}"));
        for (i, (&id, got)) in ids.iter().zip(&got).enumerate() {
            let dtype = func.params[i].ty.dtype();
            let size = dtype.bytes().unwrap() as usize;
            let want = memory.bytes(id);
            for (at, (a, b)) in want.chunks(size).zip(got.chunks(size)).enumerate() {
                if !close(dtype, a, b, tolerance) {
                    let show = |raw: &[u8]| {
                        if dtype.is_float() { as_f64(dtype, raw).to_string() } else { format!("{raw:?}") }
                    };
                    panic!(
                        "buffer {i}, element {at}, width {width:?}: interpreter {}, host {}\n{text}",
                        show(a),
                        show(b)
                    );
                }
            }
        }
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
