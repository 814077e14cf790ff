//! That memory is used as the kernel's parameters promise.

use super::{READS_WRITE_ONLY, WRITES_READ_ONLY};
use crate::diag::{Diagnostic, Diagnostics};
use crate::ir::entity::Entity;
use crate::ir::pointer::Pointers;
use crate::ir::{Access, Func, Inst, Op};

/// Checks every access against the parameters that its pointer may come from.
pub(super) fn check(func: &Func, out: &mut Diagnostics) {
    let pointers = Pointers::new(func);
    for inst in func.walk() {
        let (pointer, reads, writes) = match func.inst(inst).op {
            Op::Load { .. } => (0, true, false),
            Op::Store { .. } => (0, false, true),
            Op::AtomicRmw { .. } | Op::AtomicCas { .. } => (0, true, true),
            Op::AsyncCopy { .. } => (2, true, false),
            _ => continue,
        };
        access(&pointers, func, inst, pointer, reads, writes, out);
    }
}

fn access(
    pointers: &Pointers<'_>,
    func: &Func,
    inst: Inst,
    operand: usize,
    reads: bool,
    writes: bool,
    out: &mut Diagnostics,
) {
    let data = func.inst(inst);
    let pointer = data.operands.get(operand).filter(|v| v.index() < func.value_count());
    let Some(&pointer) = pointer else { return };
    let name = data.op.name();
    for param in pointers.params(pointer) {
        let Some(param) = func.params.get(param) else { continue };
        if writes && param.access == Access::Read {
            out.push(
                Diagnostic::error(
                    WRITES_READ_ONLY,
                    data.loc,
                    format!("`{name}` writes through `{}`, which the kernel only reads", param.name),
                )
                .help("declare the parameter writable"),
            );
        }
        if reads && param.access == Access::Write {
            out.push(
                Diagnostic::error(
                    READS_WRITE_ONLY,
                    data.loc,
                    format!("`{name}` reads through `{}`, which the kernel only writes", param.name),
                )
                .help("declare the parameter as read and written"),
            );
        }
    }
}
