//! What the host cannot run, said before LLVM is asked.

use crate::codegen::llvm::CodegenError;
use crate::ir::{Func, Op};

/// Refuses ops that exist on GPUs alone.
pub(super) fn check(func: &Func) -> Result<(), CodegenError> {
    for inst in func.walk() {
        let data = func.inst(inst);
        let gpu_only = matches!(
            data.op,
            Op::ConvertLayout
                | Op::LocalAlloc
                | Op::AsyncCopy { .. }
                | Op::AsyncCommit
                | Op::AsyncWait { .. }
                | Op::LocalLoad
                | Op::LocalStore
                | Op::Barrier
        );
        if gpu_only {
            return Err(CodegenError::Unsupported {
                op: data.op.name().to_owned(),
                target: "host".to_owned(),
                reason: "shared memory and layouts exist on GPUs alone; compile the kernel as it was before the GPU passes"
                    .to_owned(),
                loc: data.loc,
            });
        }
    }
    Ok(())
}
