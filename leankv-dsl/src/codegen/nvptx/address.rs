//! Which integers are only parts of addresses.

use std::collections::BTreeSet;

use crate::ir::{BinaryOp, Dtype, Entity, Func, Op, Value};

/// Values that reach nothing but offset operands, and those only through sums, products and moves.
///
/// An overflow in one of them would already be an address outside of everything, so their arithmetic may be taken not to wrap;
/// that lets LLVM split constants off the addresses of one thread's elements.
pub(super) fn address_values(func: &Func) -> BTreeSet<Value> {
    let mut uses: Vec<Vec<(crate::ir::Inst, usize)>> = vec![Vec::new(); func.value_count()];
    let insts = func.walk();
    for &inst in &insts {
        for (i, operand) in func.inst(inst).operands.iter().enumerate() {
            uses[operand.index()].push((inst, i));
        }
    }
    let mut out = BTreeSet::new();
    for &inst in insts.iter().rev() {
        for &value in &func.inst(inst).results {
            if !matches!(func.ty(value).dtype(), Dtype::I32 | Dtype::I64) || uses[value.index()].is_empty() {
                continue;
            }
            let all = uses[value.index()].iter().all(|&(user, i)| {
                let data = func.inst(user);
                match &data.op {
                    Op::Load { .. } | Op::Store { .. } | Op::AtomicRmw { .. } | Op::AtomicCas { .. } => {
                        i == 1
                    }
                    Op::AsyncCopy { .. } => i == 3,
                    Op::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul)
                    | Op::ExpandDims { .. }
                    | Op::Broadcast
                    | Op::Splat
                    | Op::Transpose { .. }
                    | Op::Reshape
                    | Op::ConvertLayout => out.contains(&data.results[0]),
                    Op::Cast => {
                        func.ty(data.results[0]).dtype().bits() >= func.ty(value).dtype().bits()
                            && out.contains(&data.results[0])
                    }
                    _ => false,
                }
            });
            if all {
                out.insert(value);
            }
        }
    }
    out
}
