//! What there is to cover: every op of the IR and every variant of it, by name.

use std::collections::BTreeSet;

use leankv_dsl::ir::{AtomicOp, BinaryOp, CmpOp, Combine, CombineKind, Func, Op, UnaryOp};

/// The ops without variants of their own.
const OTHERS: &[&str] = &[
    "program_id",
    "num_programs",
    "constant",
    "iota",
    "splat",
    "fma",
    "cmp",
    "select",
    "cast",
    "bitcast",
    "reshape",
    "transpose",
    "expand_dims",
    "broadcast",
    "join",
    "split",
    "reduce",
    "scan",
    "dot",
    "gather",
    "ptr_cast",
    "ptr_add",
    "load",
    "store",
    "atomic_rmw",
    "atomic_cas",
    "pack",
    "unpack",
    "quantize",
    "dequantize",
    "assert",
    "print",
    "inline_ptx",
    "for",
    "while",
    "if",
    "yield",
    "return",
    "convert_layout",
    "local_alloc",
    "async_copy",
    "async_commit",
    "async_wait",
    "local_load",
    "local_store",
    "barrier",
];

/// Every name that tests of all ops must have met.
pub(crate) fn wanted() -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = OTHERS.iter().map(|&name| name.to_owned()).collect();
    wanted.extend(UnaryOp::ALL.iter().map(|op| op.to_string()));
    wanted.extend(BinaryOp::ALL.iter().map(|op| op.to_string()));
    wanted.extend(CmpOp::ALL.iter().map(|op| format!("cmp {op}")));
    wanted
        .extend(CombineKind::ALL.iter().flat_map(|kind| [format!("reduce {kind}"), format!("scan {kind}")]));
    wanted.extend(AtomicOp::ALL.iter().map(|op| format!("atomic_rmw {op}")));
    wanted.extend(["reduce by region", "scan by region", "scan reverse"].map(str::to_owned));
    wanted
}

/// Adds the names of a function's ops and of their variants.
pub(crate) fn meet(func: &Func, found: &mut BTreeSet<String>) {
    for inst in func.walk() {
        let op = &func.inst(inst).op;
        found.insert(op.name().to_owned());
        match op {
            Op::Cmp(cmp) => {
                found.insert(format!("cmp {cmp}"));
            }
            Op::AtomicRmw { op, .. } => {
                found.insert(format!("atomic_rmw {op}"));
            }
            Op::Reduce { combine, .. } | Op::Scan { combine, .. } => {
                found.insert(match combine {
                    Combine::Kind(kind) => format!("{} {kind}", op.name()),
                    Combine::Region => format!("{} by region", op.name()),
                });
                if let Op::Scan { reverse: true, .. } = op {
                    found.insert("scan reverse".to_owned());
                }
            }
            _ => {}
        }
    }
}
