//! Tile IR to code, and code of the host to a function: all that needs LLVM. A build without it has `no_llvm.rs` in this file's place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use leankv_dsl::codegen::host::{self, HostKernel, HostOptions, HostTarget};
pub(crate) use leankv_dsl::codegen::llvm::llvm_version;
use leankv_dsl::codegen::nvptx::{self, NvptxOptions};
use leankv_dsl::codegen::{CodegenError, HostArtifact, LoadError};
use leankv_dsl::ir::{Func, verify};
use leankv_dsl::pass::{self, Facts, PassError};

use crate::compiled::{Code, CompiledKernel, KernelInfo};
use crate::compiler::{CompileError, CompileOptions};
use crate::kernel::{HostArg, HostCode};
use crate::signature::Signature;
use crate::target::{Sm, Target};

/// The processor that code for `target` needs, with everything its code depends on.
pub(crate) fn processor(target: Target) -> Result<String, CodegenError> {
    Ok(match target {
        Target::Host => HostTarget::native()?.cache_key(),
        Target::Gpu(sm) => sm.to_string(),
    })
}

/// This processor's model and what its vectors are, for people and tables.
pub(crate) fn host_model() -> Option<String> {
    HostTarget::native().ok().map(|target| target.model())
}

/// Compiles `func` for `target`.
pub(crate) fn lower(
    func: &Func,
    target: Target,
    options: CompileOptions,
) -> Result<CompiledKernel, CompileError> {
    let start = Instant::now();
    verify(func).map_err(CompileError::Refused)?;
    let signature =
        Signature::of(func).map_err(|param| CompileError::Parameter { kernel: func.name.clone(), param })?;
    let failed = |source: CodegenError| CompileError::Codegen {
        kernel: func.name.clone(),
        spec: func.spec.clone(),
        source: Box::new(source),
    };
    let mut func = func.compact();
    pass::standard().run(&mut func, &mut Facts::new()).map_err(|error| match error {
        PassError::Refused(found) => CompileError::Refused(found),
        other => CompileError::Pass(Arc::new(other)),
    })?;
    let info = KernelInfo {
        signature,
        spec: func.spec.clone(),
        target,
        processor: processor(target).map_err(failed)?,
        entry: func.name.clone(),
        threads: 1,
        static_shared_bytes: 0,
        dynamic_shared_bytes: 0,
        notes: Vec::new(),
        compile_ms: 0.0,
    };
    // The last line of defence: what a code generator did not foresee is its bug, and must not end the user's process.
    let generated = catch_unwind(AssertUnwindSafe(|| match target {
        Target::Host => for_host(&func, info, options),
        Target::Gpu(sm) => for_gpu(&func, sm, info, options),
    }))
    .unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(CodegenError::Malformed(format!("code generation for {target} stopped: {message}")))
    });
    let mut kernel = generated.map_err(failed)?;
    kernel.info.compile_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok(kernel)
}

fn for_host(func: &Func, info: KernelInfo, options: CompileOptions) -> Result<CompiledKernel, CodegenError> {
    let mut artifact =
        host::compile(func, &HostOptions { keep_llvm_ir: options.llvm_ir, ..HostOptions::default() })?;
    let llvm_ir = std::mem::take(&mut artifact.optimised_llvm_ir);
    artifact.llvm_ir = String::new();
    let info = KernelInfo { entry: artifact.entry.clone(), notes: artifact.notes.clone(), ..info };
    Ok(CompiledKernel { info, tile_ir: func.to_string(), llvm_ir, code: Code::Host(artifact) })
}

fn for_gpu(
    func: &Func,
    sm: Sm,
    info: KernelInfo,
    options: CompileOptions,
) -> Result<CompiledKernel, CodegenError> {
    let artifact = nvptx::compile(
        func,
        &sm,
        &NvptxOptions { keep_llvm_ir: options.llvm_ir, ..NvptxOptions::default() },
    )?;
    let info = KernelInfo {
        entry: artifact.entry,
        threads: artifact.block_threads,
        static_shared_bytes: artifact.static_shared_bytes,
        dynamic_shared_bytes: artifact.dynamic_shared_bytes,
        notes: artifact.notes,
        ..info
    };
    Ok(CompiledKernel {
        info,
        tile_ir: artifact.tile_ir,
        llvm_ir: artifact.llvm_ir,
        code: Code::Ptx(artifact.ptx),
    })
}

/// Machine code of this processor.
pub(crate) struct Native(HostKernel);

impl Native {
    /// # Errors
    /// When the object is not one that this machine can load.
    pub(crate) fn load(artifact: &HostArtifact) -> Result<Native, LoadError> {
        HostKernel::load(artifact).map(Native)
    }
}

impl HostCode for Native {
    unsafe fn run(&self, grid: [u32; 3], args: &[HostArg]) -> Result<(), String> {
        let args: Vec<host::HostArg> = args
            .iter()
            .map(|arg| match *arg {
                HostArg::Pointer { start, .. } => host::HostArg::Ptr(start),
                HostArg::Scalar(bits) => host::HostArg::Bits(bits),
            })
            .collect();
        // SAFETY: the launch checked the arguments and holds the buffers; the kernel's own addresses are promised by the
        // caller of `Launch::run`.
        unsafe { self.0.launch(grid, &args, 0) }.map_err(|e| e.to_string())
    }
}
