//! Sideways: what layout a value would meet.
//!
//! A value that nothing decides (a carried sum that starts as zeros, a scale that is loaded in any layout) is best where what it is combined with
//! already is: at a dot's result, or what was made of that in place.

use crate::ir::{Func, Inst, Op, SideTable, Value};
use crate::layout::LinearLayout;

use super::pull::{is_elementwise, pull, push};
use super::{Pass, needs_layout};

/// How many ops are followed from a value to those that it is used by, and from there to a dot.
const MOST_DOWN: u32 = 12;
const MOST_UP: u32 = 32;

/// The ops that take each value.
pub(super) fn users(func: &Func) -> SideTable<Value, Vec<Inst>> {
    let mut out: SideTable<Value, Vec<Inst>> = SideTable::new();
    for inst in func.walk() {
        for &operand in &func.inst(inst).operands {
            if out[operand].last() != Some(&inst) {
                out[operand].push(inst);
            }
        }
    }
    out
}

impl Pass {
    /// The layout in which `value` meets a tile of two or more dimensions that comes from a dot, if it meets one.
    pub(super) fn hint(&self, func: &Func, value: Value) -> Option<LinearLayout> {
        self.meets(func, value, MOST_DOWN)
    }

    fn meets(&self, func: &Func, value: Value, depth: u32) -> Option<LinearLayout> {
        let depth = depth.checked_sub(1)?;
        self.users[value].iter().find_map(|&user| {
            let data = func.inst(user);
            let with = || {
                let others = data.operands.iter().filter(|&&v| v != value && needs_layout(func, v));
                others.filter(|&&v| rank(func, v) > 1).find_map(|&v| self.comes_from_dot(func, v, MOST_UP))
            };
            match &data.op {
                op if is_elementwise(op) => with().or_else(|| self.meets(func, data.results[0], depth)),
                Op::ExpandDims { .. }
                | Op::Broadcast
                | Op::Transpose { .. }
                | Op::Reshape
                | Op::Split
                | Op::Unpack => data.results.iter().find_map(|&result| {
                    let layout = self.meets(func, result, depth)?;
                    pull(func, data, 0, &layout)
                }),
                _ => None,
            }
        })
    }

    /// The layout that a value has because of the dot that it is made of in place.
    fn comes_from_dot(&self, func: &Func, value: Value, depth: u32) -> Option<LinearLayout> {
        let depth = depth.checked_sub(1)?;
        let inst = func.def_inst(value)?;
        let data = func.inst(inst);
        match &data.op {
            Op::Dot => self.out.dots.get(&inst).map(|[_, _, accumulator]| accumulator.clone()),
            op if is_elementwise(op) => {
                let shape = func.ty(value).shape();
                let same = data.operands.iter().filter(|&&v| func.ty(v).shape() == shape);
                same.into_iter().find_map(|&v| self.comes_from_dot(func, v, depth))
            }
            Op::ExpandDims { .. } | Op::Transpose { .. } | Op::Reshape | Op::Split | Op::Reduce { .. } => {
                push(func, data, &self.comes_from_dot(func, data.operands[0], depth)?)
            }
            _ => None,
        }
    }
}

fn rank(func: &Func, value: Value) -> usize {
    func.ty(value).shape().map_or(0, |shape| shape.rank())
}
