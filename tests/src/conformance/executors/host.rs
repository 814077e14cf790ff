//! The host back end, on one thread and on all.

use leankv_dsl::codegen::host::{self, HostArg, HostKernel, HostOptions, LaunchError};
use leankv_dsl::codegen::llvm::CodegenError;
use leankv_dsl::pass::{Facts, standard};
use leankv_dsl::workload::{Guarded, scalar_bits};

use crate::conformance::{Case, CaseArg, Executor, Failure};

/// Native code.
pub struct Host;

impl Executor for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let broken = |error: String| Failure::Broken(error);
        let mut func = case.func.clone();
        standard().run(&mut func, &mut Facts::new()).map_err(|e| broken(e.to_string()))?;
        let artifact = host::compile(&func, &HostOptions::default()).map_err(|error| match error {
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
}
