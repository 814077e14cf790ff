//! Computes an operand of a dot once a program instead of once a warp.
//!
//! Warps that have rows of a product each need the other operand as a whole. Where it must be computed (codes that are decoded), each would do all of that
//! work, and read all of the memory behind it. So the warps share it: each computes the part that it would load best, all parts go to shared memory,
//! and every warp reads fragments from there (`ldmatrix`).
//!
//! An operand is taken when several warps would hold copies of it, its elements have 16 bits, and it is computed, in the same turn of a loop, from loads of what nobody
//! writes and from nothing else that the turn computes. So all operands of a turn can be computed before its first dot, and meet at one barrier. A loop whose operands
//! take too much shared memory stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{Block, Const, Dtype, Func, Inst, Op, Type, Value};
use crate::pass::axis::AxisAnalysis;
use crate::pass::layout_assign::{DotSite, Target, find};
use crate::pass::pipeline::{At, address_slice, feeds_dots, moves_elements, tile_bytes, users};
use crate::target::Gpu;

/// Shares the operands of every loop's dots, and gives notes on what was done.
pub fn share_operands<T: Target>(func: &mut Func, gpu: &Gpu, target: &T) -> Vec<String> {
    let mut notes = Vec::new();
    if func.num_warps == 1 || !gpu.matrix_loads {
        return notes;
    }
    // The rest is for what is copied ahead, and for exchanges.
    let mut left = gpu.shared_bytes / 2;
    for inst in func.walk() {
        if let Op::For { .. } = func.inst(inst).op {
            let body = func.inst(inst).regions[0];
            let found = operands(func, body, target);
            let bytes: u32 = found.keys().map(|&value| tile_bytes(func.ty(value))).sum();
            if !found.is_empty() && bytes <= left {
                left -= bytes;
                let loc = func.inst(inst).loc;
                notes.push(format!("{loc}: {} operands of dots computed once for all warps", found.len()));
                transform(func, inst, body, &found);
            }
        }
    }
    notes
}

/// The operands of a body's dots to be shared, in order, and the ops that they are computed by.
fn operands<T: Target>(func: &Func, body: Block, target: &T) -> BTreeMap<Value, Vec<Inst>> {
    let here: BTreeSet<Inst> = func.block(body).insts.iter().copied().collect();
    let axis = AxisAnalysis::run(func);
    let users = users(func);
    let mut out = BTreeMap::new();
    for &dot in func.block(body).insts.iter().filter(|&&inst| matches!(func.inst(inst).op, Op::Dot)) {
        let site = DotSite::new(func, &axis, dot, func.num_warps.trailing_zeros());
        let Some(layouts) = target.dot(&site).layouts else { continue };
        for (&operand, layout) in func.inst(dot).operands[..2].iter().zip(&layouts) {
            let value = before_moves(func, operand);
            let Some(made) = func.def_inst(value).filter(|inst| here.contains(inst)) else { continue };
            let is_load = matches!(func.inst(made).op, Op::Load { .. });
            if layout.free_warps() == 0 || is_load || func.ty(value).dtype().bits() != 16 {
                continue;
            }
            let stays_here = users[&value].iter().all(|user| here.contains(user));
            if !stays_here || !feeds_dots(func, &users, value) {
                continue;
            }
            if let Some(slice) = address_slice(func, body, &[value])
                && slice.iter().any(|&inst| is_tile_load(func, inst))
            {
                out.insert(value, slice);
            }
        }
    }
    out
}

/// What an operand was before it was transposed or lost unit dimensions.
fn before_moves(func: &Func, mut value: Value) -> Value {
    while let Some(inst) = func.def_inst(value).filter(|&inst| moves_elements(&func.inst(inst).op)) {
        value = func.inst(inst).operands[0];
    }
    value
}

fn is_tile_load(func: &Func, inst: Inst) -> bool {
    let data = func.inst(inst);
    matches!(data.op, Op::Load { .. })
        && func.ty(data.results[0]).shape().is_some_and(|shape| shape.rank() > 1)
}

fn transform(func: &mut Func, inst: Inst, body: Block, found: &BTreeMap<Value, Vec<Inst>>) {
    let loc = func.inst(inst).loc;
    let early: BTreeSet<Inst> = found.values().flatten().copied().collect();
    let mut at = At { func, out: Vec::new(), loc };
    let stage = at.value(Op::Constant(Const::Int(0)), &[], &Type::scalar(Dtype::I32));
    let blocks: Vec<Value> = found
        .keys()
        .map(|&value| {
            let (dtype, shape) = at.func.ty(value).as_tile().expect("an operand of a dot is a tile");
            let ty = Type::Shared { dtype, shape: shape.clone(), stages: 1 };
            at.value(Op::LocalAlloc, &[], &ty)
        })
        .collect();
    let before = std::mem::take(&mut at.out);

    // Everybody is done with what the turn before left, until everybody has written.
    at.effect(Op::Barrier, &[]);
    for (&value, &block) in found.keys().zip(&blocks) {
        at.effect(Op::LocalStore, &[block, stage, value]);
    }
    at.effect(Op::Barrier, &[]);
    let exchange = std::mem::take(&mut at.out);
    let mut loads = BTreeMap::new();
    for (&value, &block) in found.keys().zip(&blocks) {
        let ty = at.func.ty(value).clone();
        let loaded = at.value(Op::LocalLoad, &[block, stage], &ty);
        loads.insert(value, (at.out.pop().expect("it was just made"), loaded));
    }

    let (first, rest): (Vec<Inst>, Vec<Inst>) =
        func.block(body).insts.iter().partition(|inst| early.contains(inst));
    let mut insts: Vec<Inst> = first.into_iter().chain(exchange).collect();
    for inst in rest {
        // Each is read where it is needed.
        for operand in func.inst(inst).operands.clone() {
            let Some((load, loaded)) = loads.remove(&operand) else { continue };
            insts.push(load);
            for &user in &func.block(body).insts.clone() {
                if !early.contains(&user) {
                    func.inst_mut(user)
                        .operands
                        .iter_mut()
                        .filter(|v| **v == operand)
                        .for_each(|v| *v = loaded);
                }
            }
        }
        insts.push(inst);
    }
    *func.block_insts_mut(body) = insts;
    // After the loop others may use the same bytes.
    let mut at = At { func, out: Vec::new(), loc };
    at.effect(Op::Barrier, &[]);
    let after = std::mem::take(&mut at.out);
    let (block, place) = find(func, inst);
    func.block_insts_mut(block).splice(place + 1..place + 1, after);
    func.block_insts_mut(block).splice(place..place, before);
}
