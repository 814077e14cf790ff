//! Merges ops that compute the same.

use std::collections::HashMap;

use super::manager::{Facts, Pass};
use super::memory::clobbers;
use crate::diag::Diagnostics;
use crate::ir::pointer::Pointers;
use crate::ir::{BinaryOp, Block, Effect, Entity, Func, Inst, Op, SideTable, Type, Value};
use smallvec::SmallVec;

/// Common subexpression elimination over blocks and the regions in them.
///
/// An op without effects is replaced by an equal one before it in the same or an enclosing block. A load is replaced by an equal load if
/// nothing between them may change its memory.
pub struct Cse;

impl Pass for Cse {
    fn name(&self) -> &'static str {
        "cse"
    }

    fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
        let mut merge = Merge {
            known: HashMap::new(),
            replaced: SideTable::new(),
            epoch: 0,
            constant_memory: Vec::new(),
            changed: false,
        };
        {
            let pointers = Pointers::new(func);
            merge.constant_memory = vec![false; func.inst_count()];
            for inst in func.walk() {
                if let Op::Load { .. } = func.inst(inst).op {
                    merge.constant_memory[inst.index()] = pointers.never_written(func.inst(inst).operands[0]);
                }
            }
        }
        merge.block(func, func.entry());
        Ok(merge.changed)
    }
}

/// What makes two ops equal.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    op: Op,
    operands: SmallVec<[Value; 4]>,
    types: SmallVec<[Type; 2]>,
    /// For loads of memory that may change: how often it may have changed so far.
    epoch: Option<u32>,
}

struct Merge {
    /// Looked up alone, never iterated: the order of the map does not show.
    known: HashMap<Key, Inst>,
    replaced: SideTable<Value, Option<Value>>,
    epoch: u32,
    constant_memory: Vec<bool>,
    changed: bool,
}

impl Merge {
    fn block(&mut self, func: &mut Func, block: Block) {
        let mut added: Vec<Key> = Vec::new();
        let insts = std::mem::take(func.block_insts_mut(block));
        let mut kept = Vec::with_capacity(insts.len());
        for inst in insts {
            for operand in &mut func.inst_mut(inst).operands {
                *operand = self.replaced[*operand].unwrap_or(*operand);
            }
            let writes = clobbers(func, inst);
            let regions = func.inst(inst).regions.clone();
            if !regions.is_empty() {
                // A load in a loop may see what a later op of the loop stored.
                self.epoch += u32::from(writes);
                for region in regions {
                    self.block(func, region);
                }
            } else if let Some(key) = self.key(func, inst) {
                if let Some(&first) = self.known.get(&key) {
                    let results = func.inst(inst).results.clone();
                    for (old, new) in results.into_iter().zip(func.inst(first).results.clone()) {
                        self.replaced[old] = Some(new);
                    }
                    self.changed = true;
                    continue;
                }
                self.known.insert(key.clone(), inst);
                added.push(key);
            }
            self.epoch += u32::from(writes);
            kept.push(inst);
        }
        *func.block_insts_mut(block) = kept;
        for key in added {
            self.known.remove(&key);
        }
    }

    fn key(&self, func: &Func, inst: Inst) -> Option<Key> {
        let data = func.inst(inst);
        let epoch = match data.op.effect() {
            Effect::None => None,
            Effect::Read if self.constant_memory[inst.index()] => None,
            Effect::Read => Some(self.epoch),
            Effect::Write => return None,
        };
        let mut operands = data.operands.clone();
        if let Op::Binary(op) = data.op
            && commutes(op)
        {
            operands.sort_unstable();
        }
        let types = data.results.iter().map(|&r| func.ty(r).clone()).collect();
        Some(Key { op: data.op.clone(), operands, types, epoch })
    }
}

/// Whether swapping the operands gives the same bits.
fn commutes(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Add
            | BinaryOp::Mul
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::MulHi
            | BinaryOp::Min
            | BinaryOp::Max
    )
}
