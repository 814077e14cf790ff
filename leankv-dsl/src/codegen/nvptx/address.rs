//! Addresses: which integers are only parts of them, and what the registers of one thread differ by.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{BinaryOp, Const, Dtype, Entity, Func, Op, Value};
use crate::layout::LinearLayout;
use crate::pass::layout_assign::{Assignment, reshape_keeps_bits};

use super::shape::register_index;

/// Values that reach nothing but offset operands, and those only through sums, products and moves.
///
/// An overflow in one of them would already be an address outside of everything, so their arithmetic may be taken not to wrap;
/// that lets LLVM split constants off the addresses of one thread's elements.
pub(super) fn address_values(func: &Func) -> BTreeSet<Value> {
    let mut uses: Vec<Vec<(crate::ir::Inst, usize)>> = vec![Vec::new(); func.value_count()];
    let insts = func.walk();
    for &inst in &insts {
        for (i, operand) in func.inst(inst).operands.iter().enumerate() {
            uses[operand.index()].push((inst, i));
        }
    }
    let mut out = BTreeSet::new();
    for &inst in insts.iter().rev() {
        for &value in &func.inst(inst).results {
            if !matches!(func.ty(value).dtype(), Dtype::I32 | Dtype::I64) || uses[value.index()].is_empty() {
                continue;
            }
            let all = uses[value.index()].iter().all(|&(user, i)| {
                let data = func.inst(user);
                match &data.op {
                    Op::Load { .. } | Op::Store { .. } | Op::AtomicRmw { .. } | Op::AtomicCas { .. } => {
                        i == 1
                    }
                    Op::AsyncCopy { .. } => i == 3,
                    Op::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul)
                    | Op::ExpandDims { .. }
                    | Op::Broadcast
                    | Op::Splat
                    | Op::Transpose { .. }
                    | Op::Reshape
                    | Op::ConvertLayout => out.contains(&data.results[0]),
                    Op::Cast => {
                        func.ty(data.results[0]).dtype().bits() >= func.ty(value).dtype().bits()
                            && out.contains(&data.results[0])
                    }
                    _ => false,
                }
            });
            if all {
                out.insert(value);
            }
        }
    }
    out
}

/// What the offsets in a thread's registers differ by, where that is known: few addresses and constants are then all that is computed.
pub(super) struct Strides<'f> {
    func: &'f Func,
    plan: &'f Assignment,
    known: BTreeMap<Value, Steps>,
}

/// What is not known of a register beside what all registers of a tile share: a register of some tile, times a constant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unknown {
    pub(super) value: Value,
    pub(super) register: usize,
    pub(super) factor: i64,
}

type Origin = Option<Unknown>;

/// The offset of one register of a tile.
#[derive(Clone, Copy)]
pub(super) struct Offset {
    /// A register whose offset differs by a constant.
    pub(super) base: usize,
    /// That constant, in elements.
    pub(super) beyond: i64,
    /// What it has beside what all registers share: an unknown number, and a constant.
    pub(super) own: (Origin, i64),
}

/// The registers of a tile as sums of an unknown number and a known one. Registers of one origin have the same unknown number.
#[derive(Clone)]
struct Steps {
    at: Vec<(Origin, i64)>,
    /// The most that what all share can be, if it is not negative and that is known; 0 where they share nothing.
    shared: Option<i64>,
}

impl<'f> Strides<'f> {
    pub(super) fn new(func: &'f Func, plan: &'f Assignment) -> Strides<'f> {
        Strides { func, plan, known: BTreeMap::new() }
    }

    /// Of each register of the tile `offsets`.
    pub(super) fn of(&mut self, offsets: Value) -> Vec<Offset> {
        let Steps { at, .. } = self.steps(offsets);
        let mut first = BTreeMap::new();
        at.iter()
            .enumerate()
            .map(|(register, &own)| {
                let &mut (base, least) = first.entry(own.0).or_insert((register, own.1));
                Offset { base, beyond: own.1 - least, own }
            })
            .collect()
    }

    fn steps(&mut self, value: Value) -> Steps {
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        let steps = self.compute(value).unwrap_or_else(|| self.opaque(value));
        self.known.insert(value, steps.clone());
        steps
    }

    /// Nothing is known of the registers but that they are what they are.
    fn opaque(&self, value: Value) -> Steps {
        let count = self.plan.layouts[value].as_ref().map_or(1, LinearLayout::register_count);
        let itself = |register| (Some(Unknown { value, register, factor: 1 }), 0);
        Steps { at: (0..count).map(itself).collect(), shared: None }
    }

    fn compute(&mut self, value: Value) -> Option<Steps> {
        let (func, plan) = (self.func, self.plan);
        let data = func.inst(func.def_inst(value)?);
        let layout = plan.layouts[value].as_ref()?;
        let count = layout.register_count();
        let all = |n: i64, shared: Option<i64>| Steps { at: vec![(None, n); count], shared };
        match &data.op {
            Op::Constant(Const::Int(n)) => Some(all(i64::try_from(*n).ok()?, Some(0))),
            Op::Splat => {
                let constant = func.def_inst(data.operands[0]).and_then(|inst| match func.inst(inst).op {
                    Op::Constant(Const::Int(n)) => i64::try_from(n).ok(),
                    _ => None,
                });
                Some(constant.map_or_else(|| all(0, None), |n| all(n, Some(0))))
            }
            Op::Iota => {
                let shared = layout.lanes().iter().chain(layout.warps()).fold(0, |a, &b| a | b);
                let own = (0..count as u32).map(|r| layout.at(r, 0, 0));
                // A sum over F2 is a sum of numbers where no bit meets another.
                let at = own
                    .map(|at| (at & shared == 0).then_some((None, i64::from(at))))
                    .collect::<Option<_>>()?;
                Some(Steps { at, shared: Some(shared.into()) })
            }
            Op::ExpandDims { .. } => self.renamed(data.operands[0], layout, |flat, _| flat),
            Op::Reshape => {
                let (from, to) = (func.ty(data.operands[0]).shape()?, func.ty(value).shape()?);
                if !reshape_keeps_bits(from, to) {
                    return None;
                }
                self.renamed(data.operands[0], layout, |flat, _| flat)
            }
            Op::Broadcast => {
                let (from, to) = (func.ty(data.operands[0]).shape()?, func.ty(value).shape()?);
                self.renamed(data.operands[0], layout, |flat, inner| {
                    let mut at = layout.coordinates(flat);
                    (0..at.len()).filter(|&axis| from[axis] != to[axis]).for_each(|axis| at[axis] = 0);
                    inner.flat(&at)
                })
            }
            Op::Transpose { perm } => self.renamed(data.operands[0], layout, |flat, inner| {
                let at = layout.coordinates(flat);
                let mut old = vec![0; at.len()];
                perm.iter().zip(at).for_each(|(&p, at)| old[usize::from(p)] = at);
                inner.flat(&old)
            }),
            Op::Cast => {
                let (from, to) = (func.ty(data.operands[0]).dtype(), func.ty(value).dtype());
                (to.bits() >= from.bits()).then(|| self.steps(data.operands[0]))
            }
            Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Min)) => {
                let (a, b) = (self.steps(data.operands[0]), self.steps(data.operands[1]));
                if a.at.len() != b.at.len() {
                    return None;
                }
                let both = |f: fn(i64, i64) -> Option<i64>| f(a.shared?, b.shared?);
                let (at, shared) = match op {
                    BinaryOp::Add => (joined(&a, &b, i64::checked_add)?, both(i64::checked_add)),
                    BinaryOp::Sub => {
                        let shared = if b.shared == Some(0) { a.shared } else { None };
                        (joined(&a, &b, i64::checked_sub)?, shared)
                    }
                    BinaryOp::Mul => {
                        let (times, factor) = match (b.constant(), a.constant()) {
                            (Some(factor), _) => (&a, factor),
                            (None, Some(factor)) => (&b, factor),
                            (None, None) => return None,
                        };
                        let step = |&(origin, x): &(Origin, i64)| {
                            let times =
                                |u: Unknown| Some(Unknown { factor: u.factor.checked_mul(factor)?, ..u });
                            let origin = origin.map_or(Some(None), |u| times(u).map(Some))?;
                            Some((origin, x.checked_mul(factor)?))
                        };
                        let shared =
                            times.shared.filter(|_| factor >= 0).and_then(|most| most.checked_mul(factor));
                        (times.at.iter().map(step).collect::<Option<_>>()?, shared)
                    }
                    // Where the bound is never reached the number stays what it was.
                    _ => {
                        let below = b.constant().zip(a.shared);
                        let step = |(register, &(origin, x)): (usize, &(Origin, i64))| match below {
                            Some((bound, most)) if origin.is_none() && x + most <= bound => (None, x),
                            _ => (Some(Unknown { value, register, factor: 1 }), 0),
                        };
                        (a.at.iter().enumerate().map(step).collect(), a.shared.filter(|_| below.is_some()))
                    }
                };
                Some(Steps { at, shared })
            }
            _ => None,
        }
    }

    /// The steps of a tile that has in each register what `operand` has at the image of its index.
    fn renamed(
        &mut self,
        operand: Value,
        layout: &LinearLayout,
        image: impl Fn(u32, &LinearLayout) -> u32,
    ) -> Option<Steps> {
        let inner = self.plan.layouts[operand].as_ref()?;
        let steps = self.steps(operand);
        let index = register_index(inner);
        let at = (0..layout.register_count() as u32)
            .map(|r| index.get(&image(layout.at(r, 0, 0), inner)).map(|&i| steps.at[i]))
            .collect::<Option<_>>()?;
        Some(Steps { at, ..steps })
    }
}

impl Steps {
    /// The number that all registers are.
    fn constant(&self) -> Option<i64> {
        let same = self.shared == Some(0) && self.at.iter().all(|&step| step == self.at[0]);
        (same && self.at[0].0.is_none()).then(|| self.at[0].1)
    }
}

/// Sums or differences register by register; `None` where two unknown numbers meet that are not of one origin.
fn joined(a: &Steps, b: &Steps, f: fn(i64, i64) -> Option<i64>) -> Option<Vec<(Origin, i64)>> {
    let one = |(&(p, x), &(q, y)): (&(Origin, i64), &(Origin, i64))| {
        let origin = match (p, q) {
            (p, None) => p,
            (None, Some(q)) => Some(Unknown { factor: f(0, q.factor)?, ..q }),
            (Some(p), Some(q)) if (p.value, p.register) == (q.value, q.register) => {
                Some(Unknown { factor: f(p.factor, q.factor)?, ..p })
            }
            _ => return None,
        };
        Some((origin, f(x, y)?))
    };
    a.at.iter().zip(&b.at).map(one).collect()
}
