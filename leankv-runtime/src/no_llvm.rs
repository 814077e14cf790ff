//! In the place of `lower.rs` where there is no LLVM: what would compile, or load code of the host, is an error.

use leankv_dsl::codegen::{CodegenError, HostArtifact, LoadError};
use leankv_dsl::ir::Func;

use crate::compiled::CompiledKernel;
use crate::compiler::{CompileError, CompileOptions};
use crate::kernel::{HostArg, HostCode};
use crate::target::Target;

/// None.
pub(crate) fn llvm_version() -> String {
    String::new()
}

/// As with LLVM, of GPUs.
pub(crate) fn processor(target: Target) -> Result<String, CodegenError> {
    match target {
        Target::Host => Err(no_host()),
        Target::Gpu(sm) => Ok(sm.to_string()),
    }
}

/// Nobody asked LLVM.
pub(crate) fn host_model() -> Option<String> {
    None
}

/// Never.
pub(crate) fn lower(func: &Func, target: Target, _: CompileOptions) -> Result<CompiledKernel, CompileError> {
    Err(CompileError::NoCompiler { kernel: func.name.clone(), spec: func.spec.clone(), target })
}

fn no_host() -> CodegenError {
    CodegenError::Target {
        target: Target::Host.to_string(),
        reason: "this program was built without LLVM, which loads code of the host: build it with feature `llvm`, or \
                 take a CUDA device, an emulated or the reference device"
            .to_owned(),
    }
}

/// There is none.
pub(crate) enum Native {}

impl Native {
    pub(crate) fn load(_: &HostArtifact) -> Result<Native, LoadError> {
        Err(LoadError::Target(no_host()))
    }
}

impl HostCode for Native {
    unsafe fn run(&self, _: [u32; 3], _: &[HostArg]) -> Result<(), String> {
        match *self {}
    }
}
