//! Puts a loop's loads before its products.
//!
//! A turn of attention loads keys, multiplies, loads values, multiplies: it would wait for memory twice. What a turn loads through pointers that nobody
//! writes through depends on nothing that it computes but addresses, so all of it can be asked for at once. That takes registers. So it is done in kernels that
//! say how many of their programs should be resident, which is what their registers follow from, for loads that take up to half of them.

use std::collections::BTreeSet;

use crate::ir::{Block, CacheHint, Effect, Func, Inst, Op, Value};

use super::layout_assign::padded_elements;
use crate::target::Gpu;

/// The most ops one below the other that an address takes.
const MOST_OPS: u32 = 256;

/// Moves loads to the front of the bodies of loops with a dot.
pub fn early_loads(func: &mut Func, gpu: &Gpu) {
    let threads = func.num_warps * 32 * func.resident;
    if threads == 0 {
        return;
    }
    let registers = (gpu.sm_registers / threads).min(255);
    let most = u64::from(registers / 2) * 4;
    for inst in func.walk() {
        if let Op::For { .. } = func.inst(inst).op {
            let body = func.inst(inst).regions[0];
            if func.block(body).insts.iter().any(|&i| matches!(func.inst(i).op, Op::Dot)) {
                reorder(func, body, most);
            }
        }
    }
}

fn reorder(func: &mut Func, body: Block, most: u64) {
    let insts = func.block(body).insts.clone();
    let here: BTreeSet<Inst> = insts.iter().copied().collect();
    let mut early = BTreeSet::new();
    let mut bytes = 0;
    for &inst in &insts {
        let exclusive = matches!(func.inst(inst).op, Op::Load { cache: CacheHint::Exclusive, .. });
        if !exclusive && !func.loads_unwritten(inst) {
            continue;
        }
        let mut needed = BTreeSet::new();
        let data = func.inst(inst);
        if data.operands.iter().all(|&v| address(func, &here, &early, v, &mut needed, MOST_OPS)) {
            bytes += held(func, data.results[0]);
            if bytes > most {
                break;
            }
            early.extend(needed);
            early.insert(inst);
        }
    }
    let (first, rest): (Vec<Inst>, Vec<Inst>) = insts.into_iter().partition(|inst| early.contains(inst));
    *func.block_insts_mut(body) = first.into_iter().chain(rest).collect();
}

/// Whether a value follows from ops without effects, from loads that are early already and from what is known before the loop's turn; the ops that
/// it takes are added to `needed`.
fn address(
    func: &Func,
    here: &BTreeSet<Inst>,
    early: &BTreeSet<Inst>,
    value: Value,
    needed: &mut BTreeSet<Inst>,
    depth: u32,
) -> bool {
    let Some(inst) = func.def_inst(value).filter(|inst| here.contains(inst)) else { return true };
    if early.contains(&inst) || needed.contains(&inst) {
        return true;
    }
    let data = func.inst(inst);
    let Some(depth) = depth.checked_sub(1) else { return false };
    let simple = func.effect(inst) == Effect::None && data.regions.is_empty() && !matches!(data.op, Op::Dot);
    let known = simple && data.operands.iter().all(|&v| address(func, here, early, v, needed, depth));
    if known {
        needed.insert(inst);
    }
    known
}

/// Bytes that a thread holds of a value.
fn held(func: &Func, value: Value) -> u64 {
    let ty = func.ty(value);
    let elements = ty.shape().map_or(1, |shape| u64::from(padded_elements(shape)));
    let threads = u64::from(func.num_warps) * 32;
    (elements * u64::from(ty.dtype().bits().max(8)) / 8).div_ceil(threads)
}
