//! PTX, executed on the CPU, against the interpreter.
//!
//! [`check`] is also called for every case of the host back end's tests, so that both run the same kernels.

mod kernels;
mod rims;
mod targets;

use leankv_ptx::{Arg, Config, Divergence, LaunchConfig, LaunchReport, Machine, Module};

use super::{NvptxArtifact, NvptxOptions, NvptxTarget, compile};
use crate::codegen::CodegenError;
use crate::ir::{Dtype, Func};
use half::{bf16, f16};

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

/// Fails where a buffer is not what is wanted, with what `about` says.
pub(crate) fn compare(
    func: &Func,
    want: &[Vec<u8>],
    got: &[Vec<u8>],
    tolerance: f64,
    about: &dyn Fn() -> String,
) {
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        let dtype = func.params[i].ty.dtype();
        let size = dtype.bytes().unwrap() as usize;
        let show =
            |raw: &[u8]| if dtype.is_float() { as_f64(dtype, raw).to_string() } else { format!("{raw:?}") };
        for (at, (a, b)) in want.chunks(size).zip(got.chunks(size)).enumerate() {
            if !close(dtype, a, b, tolerance) {
                panic!("buffer {i}, element {at}: interpreter {}, not {}; {}", show(a), show(b), about());
            }
        }
    }
}

/// Runs PTX whose parameters are all pointers. Every check of the machine is on and must be silent.
pub(super) fn run(
    artifact: &NvptxArtifact,
    grid: [u32; 3],
    buffers: &[Vec<u8>],
    config: Config,
) -> Vec<Vec<u8>> {
    launch(artifact, grid, buffers, config).1
}

/// As [`run`], with the machine's report.
fn launch(
    artifact: &NvptxArtifact,
    grid: [u32; 3],
    buffers: &[Vec<u8>],
    config: Config,
) -> (LaunchReport, Vec<Vec<u8>>) {
    let module = Module::parse(&artifact.ptx).unwrap_or_else(|e| panic!("{e}\n{}", artifact.ptx));
    let mut machine = Machine::new(config);
    let addresses: Vec<u64> = buffers
        .iter()
        .map(|b| {
            let at = machine.alloc(b.len().max(1) as u64, 256).expect("test buffers fit");
            machine.write(at, b).expect("it was just allocated");
            at
        })
        .collect();
    let args: Vec<Arg> = addresses.iter().map(|&a| Arg::U64(a)).collect();
    let shape = LaunchConfig {
        grid,
        block: [artifact.block_threads, 1, 1],
        dynamic_shared_bytes: artifact.dynamic_shared_bytes,
    };
    let report = machine
        .launch(&module, &artifact.entry, shape, &args)
        .unwrap_or_else(|e| panic!("{e}\n{}\n{}", artifact.tile_ir, artifact.ptx));
    let errors: Vec<String> = report.errors().map(|f| f.to_string()).collect();
    assert!(errors.is_empty(), "{}\n{}\n{}", errors.join("\n"), artifact.tile_ir, artifact.ptx);
    let after = addresses
        .iter()
        .zip(buffers)
        .map(|(&at, b)| {
            let mut out = vec![0; b.len()];
            machine.read(at, &mut out).expect("it is still allocated");
            out
        })
        .collect();
    (report, after)
}

/// Runs a kernel's PTX with one and with four warps, with lanes in step and apart, and compares all buffers with what is wanted.
/// Ops that GPUs do not have must be refused.
pub(crate) fn check(func: &Func, grid: [u32; 3], buffers: &[Vec<u8>], want: &[Vec<u8>], tolerance: f64) {
    for (num_warps, target) in [(1, NvptxTarget::Sm80), (4, NvptxTarget::Sm90)] {
        let mut func = func.clone();
        func.num_warps = num_warps;
        let artifact = match compile(&func, &target, &NvptxOptions::default()) {
            Ok(artifact) => artifact,
            Err(CodegenError::Unsupported { .. }) => return,
            Err(e) => panic!("{e}\n{func}"),
        };
        for (divergence, seed) in [(Divergence::Reconverge, 0), (Divergence::Independent, 7)] {
            let config = Config { divergence, seed, ..Config::default() };
            let got = run(&artifact, grid, buffers, config);
            compare(&func, want, &got, tolerance, &|| {
                format!("{num_warps} warps, {divergence:?}\n{}\n{}", artifact.tile_ir, artifact.ptx)
            });
        }
    }
}
