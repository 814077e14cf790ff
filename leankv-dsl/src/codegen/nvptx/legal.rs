//! What NVPTX cannot do, found before LLVM is asked: LLVM ends the process on an op that it cannot select.

use crate::codegen::CodegenError;
use crate::ir::{AtomicOp, BinaryOp, Dtype, Func, Inst, Op, UnaryOp};
use crate::target::Gpu;

/// Checks the kernel's attributes and every op.
pub(super) fn check(func: &Func, gpu: &Gpu) -> Result<(), CodegenError> {
    if !func.num_warps.is_power_of_two() || func.num_warps > gpu.block_threads / 32 {
        return Err(CodegenError::Unsupported {
            op: format!("num_warps = {}", func.num_warps),
            target: gpu.target.to_string(),
            reason: format!("a block has 1, 2, 4, .. or {} warps", gpu.block_threads / 32),
            loc: func.loc,
        });
    }
    for inst in func.walk() {
        check_inst(func, inst, gpu)?;
    }
    Ok(())
}

fn check_inst(func: &Func, inst: Inst, gpu: &Gpu) -> Result<(), CodegenError> {
    let data = func.inst(inst);
    let dtype = data.operands.first().map(|&v| func.ty(v).dtype());
    let refuse = |op: String, reason: &str| {
        Err(CodegenError::Unsupported {
            op,
            target: gpu.target.to_string(),
            reason: reason.to_owned(),
            loc: data.loc,
        })
    };
    match (&data.op, dtype) {
        (Op::Binary(BinaryOp::Rem), Some(d)) if d.is_float() => refuse(
            format!("rem of {d}"),
            "GPUs have no floating-point remainder; the host and the interpreter do",
        ),
        (Op::Unary(op), Some(Dtype::F64)) => match op {
            UnaryOp::Exp2 | UnaryOp::Log2 | UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Tanh | UnaryOp::Erf => {
                refuse(format!("{op} of f64"), "GPUs have it for f32 and narrower; the host has it for f64")
            }
            _ => Ok(()),
        },
        (Op::AtomicRmw { op: AtomicOp::Add, .. }, Some(Dtype::BF16)) if !gpu.bf16_arithmetic => {
            refuse("atomic add of bf16".to_owned(), "the first GPU with it is sm_90; add in f32 instead")
        }
        (
            Op::ConvertLayout
            | Op::LocalAlloc
            | Op::AsyncCopy { .. }
            | Op::AsyncCommit
            | Op::AsyncWait { .. }
            | Op::LocalLoad
            | Op::LocalStore
            | Op::Barrier,
            _,
        ) => refuse(
            data.op.name().to_owned(),
            "the GPU passes make it where it is needed; a kernel does not contain it",
        ),
        (Op::Print { .. }, _) => {
            refuse("print".to_owned(), "kernels print on the interpreter and on the host device")
        }
        _ => Ok(()),
    }
}
