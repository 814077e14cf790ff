//! What ops do to memory, more finely than [`Effect`](crate::ir::Effect) says.

use crate::ir::{Func, Inst, Op};

/// Whether an op, its regions included, may change what a load gives: stores, atomics, copies and everything that
/// synchronises with others who store.
pub(super) fn clobbers(func: &Func, inst: Inst) -> bool {
    let data = func.inst(inst);
    let own = matches!(
        data.op,
        Op::Store { .. }
            | Op::AtomicRmw { .. }
            | Op::AtomicCas { .. }
            | Op::AsyncCopy { .. }
            | Op::AsyncCommit
            | Op::AsyncWait { .. }
            | Op::LocalStore
            | Op::LocalAlloc
            | Op::Barrier
    );
    own || data.regions.iter().any(|&region| func.block(region).insts.iter().any(|&i| clobbers(func, i)))
}
