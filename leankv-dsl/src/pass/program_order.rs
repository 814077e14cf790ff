//! Keeps one program's accesses to global memory in order on a GPU.
//!
//! A program's ops act one after another on whole tiles, but on a GPU each thread runs ahead on its own elements. Where two
//! accesses may meet at one address from different threads, a `barrier` is put between them: a load after a store, a store after a
//! load, two stores through one parameter, an atomic beside anything else. Parameters that promise `read`, and loads of what nobody
//! writes, take no part. Of accesses that meet nothing else ([`CacheHint::Exclusive`]) a store waits for the load before it, which more threads than the one
//! that stores may do.

use std::collections::BTreeSet;

use crate::ir::{Access, AtomicOp, Block, CacheHint, Func, Inst, Op, Value};

/// What happened since the last barrier. A place is a parameter's number, or `None` for an address of unknown origin.
#[derive(Clone, PartialEq, Eq, Default)]
struct Since {
    loads: BTreeSet<Option<u32>>,
    stores: BTreeSet<Option<u32>>,
    atomics: BTreeSet<(Option<u32>, Option<AtomicOp>)>,
    /// Whether there was an exclusive load.
    exclusive: bool,
}

impl Since {
    fn add(&mut self, other: &Since) {
        self.loads.extend(&other.loads);
        self.stores.extend(&other.stores);
        self.atomics.extend(&other.atomics);
        self.exclusive |= other.exclusive;
    }
}

/// Inserts the barriers.
pub fn keep_program_order(func: &mut Func) {
    let mut before = BTreeSet::new();
    walk(func, func.entry(), &mut Since::default(), &mut before);
    for &inst in &before {
        let loc = func.inst(inst).loc;
        let barrier = func.make_inst(Op::Barrier, &[], &[], &[], loc);
        let (block, index) = super::layout_assign::find(func, inst);
        func.block_insts_mut(block).insert(index, barrier);
    }
}

/// The parameter that an address comes from: its number and whether it is only read.
fn origin(func: &Func, pointer: Value) -> (Option<u32>, bool) {
    match func.pointer_param(pointer) {
        Some(index) => (Some(index as u32), func.params[index].access == Access::Read),
        None => (None, false),
    }
}

fn walk(func: &Func, block: Block, since: &mut Since, before: &mut BTreeSet<Inst>) {
    for &inst in &func.block(block).insts {
        let data = func.inst(inst);
        match &data.op {
            Op::Load { cache: CacheHint::Exclusive, .. } => since.exclusive = true,
            // It is over before anybody reads the copy.
            Op::AsyncCopy { cache: CacheHint::Exclusive, .. } => {}
            Op::Store { cache: CacheHint::Exclusive, .. } if since.exclusive => {
                before.insert(inst);
                *since = Since::default();
            }
            Op::Store { cache: CacheHint::Exclusive, .. } => {}
            Op::Load { cache, .. } | Op::AsyncCopy { cache, .. } => {
                let pointer = data.operands[if matches!(data.op, Op::Load { .. }) { 0 } else { 2 }];
                let (place, read_only) = origin(func, pointer);
                if read_only || *cache == CacheHint::Constant {
                    continue;
                }
                if !since.stores.is_empty() || !since.atomics.is_empty() {
                    before.insert(inst);
                    *since = Since::default();
                }
                since.loads.insert(place);
            }
            Op::Store { .. } => {
                let (place, _) = origin(func, data.operands[0]);
                let meets = |other: &Option<u32>| place.is_none() || other.is_none() || *other == place;
                let conflict =
                    !since.loads.is_empty() || !since.atomics.is_empty() || since.stores.iter().any(meets);
                if conflict {
                    before.insert(inst);
                    *since = Since::default();
                }
                since.stores.insert(place);
            }
            Op::AtomicRmw { .. } | Op::AtomicCas { .. } => {
                let (place, _) = origin(func, data.operands[0]);
                let kind = match data.op {
                    Op::AtomicRmw { op, .. } => Some(op),
                    _ => None,
                };
                // Atomics of one kind may come in any order anyway.
                let other = since.atomics.iter().any(|(_, k)| *k != kind);
                if !since.loads.is_empty() || !since.stores.is_empty() || other {
                    before.insert(inst);
                    *since = Since::default();
                }
                since.atomics.insert((place, kind));
            }
            Op::Barrier => *since = Since::default(),
            Op::For { .. } | Op::While => {
                // What one turn leaves behind meets the next; twice round is enough for it to settle.
                for _ in 0..3 {
                    let start = since.clone();
                    for &region in &data.regions {
                        walk(func, region, since, before);
                    }
                    since.add(&start);
                }
            }
            Op::If => {
                let start = since.clone();
                let mut end = Since::default();
                for &region in &data.regions {
                    *since = start.clone();
                    walk(func, region, since, before);
                    end.add(since);
                }
                *since = end;
            }
            _ => {}
        }
    }
}
