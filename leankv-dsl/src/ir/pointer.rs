//! Where pointers come from.

use std::collections::BTreeSet;

use super::entity::{Entity, Inst, Value};
use super::func::{Access, Def, Func};
use super::op::Op;

/// Answers where pointers of a function come from. It is a snapshot: make it again after changing the function.
pub struct Pointers<'f> {
    func: &'f Func,
    /// The op and region number of each block that is a region.
    owners: Vec<Option<(Inst, usize)>>,
}

impl<'f> Pointers<'f> {
    /// Looks at a function.
    pub fn new(func: &'f Func) -> Pointers<'f> {
        let mut owners = vec![None; func.block_count()];
        for inst in func.walk() {
            for (i, region) in func.inst(inst).regions.iter().enumerate() {
                owners[region.index()] = Some((inst, i));
            }
        }
        Pointers { func, owners }
    }

    /// The kernel parameters that a pointer may point into, as indices in rising order: followed through `ptr_cast`, `ptr_add`
    /// and through loops and branches that carry it. For a value that is no pointer: none.
    pub fn params(&self, pointer: Value) -> Vec<usize> {
        let func = self.func;
        let mut params = Vec::new();
        let mut seen = BTreeSet::new();
        let mut work = vec![pointer];
        while let Some(value) = work.pop() {
            if value.index() >= func.value_count() || !func.ty(value).is_ptr() || !seen.insert(value) {
                continue;
            }
            match func.value(value).def {
                Def::Param(block, index) if block == func.entry() => params.push(index as usize),
                Def::Param(block, index) => {
                    let Some((owner, region)) = self.owners[block.index()] else { continue };
                    work.extend(incoming(func, owner, region, index as usize));
                }
                Def::Result(inst, index) => {
                    let data = func.inst(inst);
                    match data.op {
                        Op::PtrCast | Op::PtrAdd => work.extend(data.operands.first()),
                        _ => work.extend(outgoing(func, inst, index as usize)),
                    }
                }
            }
        }
        params.sort_unstable();
        params
    }

    /// Whether nothing writes the memory behind a pointer while the kernel runs: all its parameters are [`Access::Read`].
    pub fn never_written(&self, pointer: Value) -> bool {
        let params = self.params(pointer);
        let read = |&i: &usize| self.func.params.get(i).is_some_and(|p| p.access == Access::Read);
        !params.is_empty() && params.iter().all(read)
    }
}

/// What a region yields at `index`.
fn yielded(func: &Func, owner: Inst, region: usize, index: usize) -> Option<Value> {
    let block = *func.inst(owner).regions.get(region)?;
    func.inst(func.terminator(block)?).operands.get(index).copied()
}

/// The values that may stand in a region's parameter.
fn incoming(func: &Func, owner: Inst, region: usize, index: usize) -> Vec<Value> {
    let data = func.inst(owner);
    let init = |at: usize| data.operands.get(at).copied();
    let found = match (&data.op, region) {
        (Op::For { .. }, _) if index > 0 => [init(index + 2), yielded(func, owner, 0, index - 1)],
        (Op::While, 0) => [init(index), yielded(func, owner, 1, index)],
        (Op::While, _) => [yielded(func, owner, 0, index + 1), None],
        _ => [None, None],
    };
    found.into_iter().flatten().collect()
}

/// The values that may stand in a result of control flow.
fn outgoing(func: &Func, inst: Inst, index: usize) -> Vec<Value> {
    let data = func.inst(inst);
    let found = match data.op {
        Op::For { .. } => [data.operands.get(index + 3).copied(), yielded(func, inst, 0, index)],
        Op::While => [yielded(func, inst, 0, index + 1), None],
        Op::If => [yielded(func, inst, 0, index), yielded(func, inst, 1, index)],
        _ => [None, None],
    };
    found.into_iter().flatten().collect()
}
