//! PTX of the NVPTX back end, executed instruction by instruction with every check on.

use leankv_dsl::codegen::CodegenError;
use leankv_dsl::codegen::nvptx::{self, NvptxArtifact, NvptxOptions, NvptxTarget};
use leankv_dsl::interp::ScalarValue;
use leankv_dsl::pass::{Facts, standard};
use leankv_ptx::{Arg, Config, Divergence, Error, FaultKind, LaunchConfig, LaunchReport, Machine, Module};

use crate::conformance::{Case, CaseArg, Executor, Failure};

/// PTX for sm_80, lanes of a warp in step where the code lets them.
pub struct Ptx;

/// PTX for a newer GPU, which does some things in other instructions.
pub struct PtxOn {
    name: &'static str,
    target: NvptxTarget,
}

impl PtxOn {
    /// bfloat16 as such.
    pub const SM_90: PtxOn = PtxOn { name: "ptx_sm_90", target: NvptxTarget::Sm90 };
    /// Also pairs of `f32`, and sums of `f32` and halves.
    pub const SM_100: PtxOn = PtxOn { name: "ptx_sm_100", target: NvptxTarget::Sm100 };
}

/// PTX for sm_90, lanes apart in a random order that meet only where an instruction makes them, one warp.
pub struct PtxApart;

impl Executor for Ptx {
    fn name(&self) -> &'static str {
        "ptx"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        run(case, case.func.num_warps, NvptxTarget::Sm80, Config::default())
    }
}

impl Executor for PtxOn {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        run(case, case.func.num_warps, self.target, Config::default())
    }
}

impl Executor for PtxApart {
    fn name(&self) -> &'static str {
        "ptx_apart"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let config = Config { divergence: Divergence::Independent, seed: 7, ..Config::default() };
        run(case, 1, NvptxTarget::Sm90, config)
    }
}

/// The PTX of a kernel after the standard passes.
///
/// # Errors
/// [`Failure::Unsupported`] for what the target lacks.
pub fn compile(case: &Case, warps: u32, target: NvptxTarget) -> Result<NvptxArtifact, Failure> {
    let mut func = case.func.clone();
    func.num_warps = warps;
    standard().run(&mut func, &mut Facts::new()).map_err(|e| Failure::Broken(e.to_string()))?;
    nvptx::compile(&func, &target, &NvptxOptions::default()).map_err(|error| match error {
        CodegenError::Unsupported { .. } => Failure::Unsupported(error.to_string()),
        other => Failure::Broken(other.to_string()),
    })
}

fn run(case: &Case, warps: u32, target: NvptxTarget, config: Config) -> Result<Vec<Vec<u8>>, Failure> {
    launch(case, warps, target, config).map(|(_, buffers)| buffers)
}

/// Compiles and runs a case; the report with its counters, and the buffers afterwards.
///
/// # Errors
/// [`Failure`]; what the checks find is one.
pub fn launch(
    case: &Case,
    warps: u32,
    target: NvptxTarget,
    config: Config,
) -> Result<(LaunchReport, Vec<Vec<u8>>), Failure> {
    let artifact = compile(case, warps, target)?;
    let broken = |error: String| Failure::Broken(format!("{error}\n{}\n{}", artifact.tile_ir, artifact.ptx));
    let module = Module::parse(&artifact.ptx).map_err(|e| broken(e.to_string()))?;
    let mut machine = Machine::new(config);
    let mut buffers = Vec::new();
    let mut args = Vec::new();
    for arg in &case.args {
        args.push(match arg {
            CaseArg::Scalar(value) => scalar(*value),
            CaseArg::Buffer(slot) => {
                let at =
                    machine.alloc(slot.bytes.len().max(1) as u64, 256).map_err(|e| broken(e.to_string()))?;
                machine.write(at, &slot.bytes).map_err(|e| broken(e.to_string()))?;
                buffers.push((at, slot.bytes.len()));
                Arg::U64(at)
            }
        });
    }
    let shape = LaunchConfig {
        grid: case.grid,
        block: [artifact.block_threads, 1, 1],
        dynamic_shared_bytes: artifact.dynamic_shared_bytes,
    };
    let report = match machine.launch(&module, &artifact.entry, shape, &args) {
        Ok(report) => report,
        Err(Error::Fault(fault)) if fault.kind == FaultKind::Trap => {
            return Err(Failure::Fault(fault.to_string()));
        }
        Err(error) => return Err(broken(error.to_string())),
    };
    let errors: Vec<String> = report.errors().map(|finding| finding.to_string()).collect();
    if !errors.is_empty() {
        return Err(broken(errors.join("\n")));
    }
    let read = |(at, len): (u64, usize)| {
        let mut out = vec![0; len];
        machine.read(at, &mut out).map_err(|e| broken(e.to_string()))?;
        Ok(out)
    };
    let buffers = buffers.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok((report, buffers))
}

/// A number as an argument of a launch.
pub fn scalar(value: ScalarValue) -> Arg {
    match value {
        ScalarValue::I1(x) => Arg::U8(x.into()),
        ScalarValue::I8(x) => Arg::U8(x as u8),
        ScalarValue::I16(x) => Arg::U16(x as u16),
        ScalarValue::I32(x) => Arg::I32(x),
        ScalarValue::I64(x) => Arg::I64(x),
        ScalarValue::U8(x) => Arg::U8(x),
        ScalarValue::U16(x) => Arg::U16(x),
        ScalarValue::U32(x) => Arg::U32(x),
        ScalarValue::U64(x) => Arg::U64(x),
        ScalarValue::F16(x) => Arg::U16(x.to_bits()),
        ScalarValue::BF16(x) => Arg::U16(x.to_bits()),
        ScalarValue::F32(x) => Arg::F32(x),
        ScalarValue::F64(x) => Arg::F64(x),
    }
}
