//! The host back end.

use leankv_dsl::codegen::host::{self, HostArg, HostKernel, HostOptions, LaunchError};
use leankv_dsl::codegen::llvm::CodegenError;
use leankv_dsl::ir::Func;
use leankv_dsl::pass::{Facts, standard};
use leankv_dsl::workload::{Guarded, scalar_bits};

use crate::conformance::{Case, CaseArg, Executor, Failure};

/// Native code.
pub struct Host;

/// Native code for machines with short vectors, without the standard passes.
pub struct HostNarrow;

impl Executor for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let mut func = case.func.clone();
        standard().run(&mut func, &mut Facts::new()).map_err(|e| Failure::Broken(e.to_string()))?;
        run(case, &func, &HostOptions::default())
    }
}

impl Executor for HostNarrow {
    fn name(&self) -> &'static str {
        "host_narrow"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let class = cfg!(target_arch = "x86_64").then(|| "x86-64-v3".to_owned());
        run(case, &case.func, &HostOptions { width: Some(8), class, keep_llvm_ir: false })
    }
}

fn run(case: &Case, func: &Func, options: &HostOptions) -> Result<Vec<Vec<u8>>, Failure> {
    let broken = |error: String| Failure::Broken(error);
    let artifact = host::compile(func, options).map_err(|error| match error {
        CodegenError::Unsupported { .. } => Failure::Unsupported(error.to_string()),
        other => Failure::Broken(other.to_string()),
    })?;
    let kernel = HostKernel::load(&artifact).map_err(|e| broken(e.to_string()))?;
    let mut buffers = Vec::new();
    for arg in &case.args {
        if let CaseArg::Buffer(slot) = arg {
            buffers.push(Guarded::new(&slot.bytes));
        }
    }
    let mut next = buffers.iter_mut();
    let mut args = Vec::new();
    for arg in &case.args {
        args.push(match arg {
            CaseArg::Scalar(value) => HostArg::Bits(scalar_bits(*value)),
            CaseArg::Buffer(_) => {
                let buffer = next.next().expect("one was made for each");
                HostArg::Ptr(buffer.as_mut_ptr())
            }
        });
    }
    // SAFETY: the interpreter ran the case before with all its checks: types, bounds, alignment and races.
    let result = unsafe { kernel.launch(case.grid, &args, 0) };
    match result {
        Ok(()) => {}
        Err(LaunchError::Assertion { message, loc }) => {
            return Err(Failure::Fault(format!("{loc}: {message}")));
        }
        Err(other) => return Err(Failure::Broken(other.to_string())),
    }
    if let Some(at) = buffers.iter().position(|buffer| !buffer.intact()) {
        return Err(Failure::Broken(format!("buffer {at}: bytes outside it were written")));
    }
    Ok(buffers.iter().map(|buffer| buffer.bytes().to_vec()).collect())
}
