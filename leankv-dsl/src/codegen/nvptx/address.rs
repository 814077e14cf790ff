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

/// By how much the offsets in a thread's registers exceed that in its first one, where that is known: the address of the first and constants
/// are then all that is computed.
pub(super) struct Strides<'f> {
    func: &'f Func,
    plan: &'f Assignment,
    known: BTreeMap<Value, Option<Steps>>,
}

/// The registers of a tile as sums of what they share and these numbers.
#[derive(Clone)]
struct Steps {
    /// `None` for registers that are something else.
    at: Vec<Option<i64>>,
    /// The most that what they share can be, if it is not negative and that is known; 0 where they share nothing, so that these are the values.
    shared: Option<i64>,
}

impl<'f> Strides<'f> {
    pub(super) fn new(func: &'f Func, plan: &'f Assignment) -> Strides<'f> {
        Strides { func, plan, known: BTreeMap::new() }
    }

    /// Of the tile `offsets`, in elements, relative to register 0; `None` for registers of which that is not known.
    pub(super) fn of(&mut self, offsets: Value) -> Option<Vec<Option<i64>>> {
        let at = self.steps(offsets)?.at;
        let first = at[0]?;
        Some(at.iter().map(|step| step.map(|step| step - first)).collect())
    }

    fn steps(&mut self, value: Value) -> Option<Steps> {
        if let Some(known) = self.known.get(&value) {
            return known.clone();
        }
        let steps = self.compute(value);
        self.known.insert(value, steps.clone());
        steps
    }

    fn compute(&mut self, value: Value) -> Option<Steps> {
        let (func, plan) = (self.func, self.plan);
        let data = func.inst(func.def_inst(value)?);
        let layout = plan.layouts[value].as_ref()?;
        let count = layout.register_count();
        let scalar = |v: Value| -> Steps {
            let constant = func.def_inst(v).and_then(|inst| match func.inst(inst).op {
                Op::Constant(Const::Int(n)) => i64::try_from(n).ok(),
                _ => None,
            });
            Steps { at: vec![Some(constant.unwrap_or(0)); count], shared: constant.map(|_| 0) }
        };
        match &data.op {
            Op::Constant(Const::Int(n)) => {
                Some(Steps { at: vec![Some(i64::try_from(*n).ok()?); count], shared: Some(0) })
            }
            Op::Splat => Some(scalar(data.operands[0])),
            Op::Iota => {
                let shared = layout.lanes().iter().chain(layout.warps()).fold(0, |a, &b| a | b);
                let own = (0..count as u32).map(|r| layout.at(r, 0, 0));
                // A sum over F2 is a sum of numbers where no bit meets another.
                let at = own.map(|at| (at & shared == 0).then_some(i64::from(at))).collect();
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
                (to.bits() >= from.bits()).then(|| self.steps(data.operands[0]))?
            }
            Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Min)) => {
                let (a, b) = (self.steps(data.operands[0])?, self.steps(data.operands[1])?);
                if a.at.len() != b.at.len() {
                    return None;
                }
                let each = |f: &dyn Fn(i64, i64) -> Option<i64>| -> Vec<Option<i64>> {
                    a.at.iter().zip(&b.at).map(|(&x, &y)| f(x?, y?)).collect()
                };
                let both = |f: fn(i64, i64) -> Option<i64>| f(a.shared?, b.shared?);
                // What is shared must be multiplied by one number.
                let one = |s: &Steps| {
                    if s.shared == Some(0) && s.at.iter().all(|&x| x == s.at[0]) { s.at[0] } else { None }
                };
                Some(match op {
                    BinaryOp::Add => Steps { at: each(&i64::checked_add), shared: both(i64::checked_add) },
                    BinaryOp::Sub => {
                        let shared = if b.shared == Some(0) { a.shared } else { None };
                        Steps { at: each(&i64::checked_sub), shared }
                    }
                    BinaryOp::Mul => {
                        let (shared, factor) =
                            one(&b).map(|n| (a.shared, n)).or_else(|| Some((b.shared, one(&a)?)))?;
                        let shared = shared.filter(|_| factor >= 0).and_then(|most| most.checked_mul(factor));
                        Steps { at: each(&i64::checked_mul), shared }
                    }
                    // Where the bound is never reached.
                    _ => {
                        let (most, bound) = (a.shared?, one(&b)?);
                        let below = |x: i64| (x + most <= bound).then_some(x);
                        Steps { at: a.at.iter().map(|x| x.and_then(below)).collect(), shared: Some(most) }
                    }
                })
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
        let steps = self.steps(operand)?;
        let index = register_index(inner);
        let at = (0..layout.register_count() as u32)
            .map(|r| index.get(&image(layout.at(r, 0, 0), inner)).and_then(|&i| steps.at[i]))
            .collect();
        Some(Steps { at, ..steps })
    }
}
