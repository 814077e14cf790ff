//! Where the blocks of shared memory of the pipelining pass lie. Blocks that are not in use at the same time share bytes.

use std::collections::BTreeMap;

use crate::ir::{Block, Func, Inst, Op, Type, Value};
use crate::pass::layout_assign::{Assignment, stored_bytes};

/// Rows are read in words of 16 bytes that are swizzled within so many.
const ALIGN: u32 = 128;

/// Where each block begins.
#[derive(Default)]
pub(super) struct LocalBlocks {
    /// The offset of the first stage, and from one stage to the next.
    places: BTreeMap<Value, (u32, u32)>,
    /// Bytes of all.
    pub(super) bytes: u32,
}

/// A block that has its place.
struct Placed {
    /// The number of the last op that uses it, of all in program order.
    last: usize,
    start: u32,
    end: u32,
}

impl LocalBlocks {
    pub(super) fn new(func: &Func, plan: &Assignment) -> LocalBlocks {
        let mut out = LocalBlocks::default();
        let mut placed: Vec<Placed> = Vec::new();
        let mut now = 0;
        out.place(func, plan, func.entry(), &mut now, &mut placed);
        out
    }

    /// Byte offset of a block's first stage, and how far stages lie apart.
    pub(super) fn place_of(&self, block: Value) -> (u32, u32) {
        self.places[&block]
    }

    fn place(
        &mut self,
        func: &Func,
        plan: &Assignment,
        block: Block,
        now: &mut usize,
        placed: &mut Vec<Placed>,
    ) {
        let insts = &func.block(block).insts;
        let mut next = 0;
        while let Some(&inst) = insts.get(next) {
            // Blocks that are made one after another are stages of one loop: one stage of all lies together, so that one offset serves them all.
            if let Some((_, _, stages)) = alloc(func, plan, inst) {
                let group: Vec<(Value, u32, u32)> = insts[next..]
                    .iter()
                    .map_while(|&inst| alloc(func, plan, inst).filter(|block| block.2 == stages))
                    .collect();
                let last = group.iter().map(|&(value, ..)| last_use(func, block, value, inst, *now));
                let last = last.max().unwrap_or(*now);
                let sizes = group.iter().map(|&(_, bytes, _)| bytes.next_multiple_of(ALIGN));
                let stride: u32 = sizes.sum();
                placed.retain(|other| other.last > *now);
                placed.sort_by_key(|other| other.start);
                let mut start = 0;
                for other in placed.iter() {
                    if other.start >= start + stride * stages {
                        break;
                    }
                    start = start.max(other.end);
                }
                placed.push(Placed { last, start, end: start + stride * stages });
                self.bytes = self.bytes.max(start + stride * stages);
                for (value, bytes, _) in &group {
                    self.places.insert(*value, (start, stride));
                    start += bytes.next_multiple_of(ALIGN);
                }
                next += group.len();
                *now += group.len();
                continue;
            }
            next += 1;
            *now += 1;
            for &region in &func.inst(inst).regions {
                self.place(func, plan, region, now, placed);
            }
        }
    }
}

/// The block that an op makes, bytes of a stage, and its stages.
fn alloc(func: &Func, plan: &Assignment, inst: Inst) -> Option<(Value, u32, u32)> {
    let (Op::LocalAlloc, &[value]) = (&func.inst(inst).op, &func.inst(inst).results[..]) else { return None };
    let Type::Shared { dtype, stages, .. } = func.ty(value) else { return None };
    Some((value, plan.shared[&value].elements() * stored_bytes(*dtype), *stages))
}

/// The number of the last op below `block` in whose regions, or by which, `value` is used; `first` is the number of `inst`, which makes it.
fn last_use(func: &Func, block: Block, value: Value, inst: Inst, first: usize) -> usize {
    let (mut now, mut last) = (first, first);
    let insts = func.block(block).insts.iter();
    for &other in insts.skip_while(|&&other| other != inst) {
        let (ops, used) = below(func, other, value);
        now += ops;
        if used {
            last = now;
        }
    }
    last
}

/// How many ops an op is with those of its regions, and whether one uses `value`.
fn below(func: &Func, inst: Inst, value: Value) -> (usize, bool) {
    let data = func.inst(inst);
    let mut out = (1, data.operands.contains(&value));
    for &region in &data.regions {
        for &inner in &func.block(region).insts {
            let (ops, used) = below(func, inner, value);
            out = (out.0 + ops, out.1 || used);
        }
    }
    out
}
