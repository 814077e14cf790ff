//! How an integer value changes from lane to lane, found from the ops that make it.

use super::{Emit, Point};
use crate::ir::{BinaryOp, Const, Def, Dtype, Op, Value};
use smallvec::SmallVec;
use std::cell::Cell;

/// For each coordinate its distance between neighbouring lanes; `None` when lanes differ in any way.
pub(in super::super) type Pattern = SmallVec<[Option<i64>; 5]>;

/// The most ops that a search looks at.
pub(super) const MOST_OPS: u32 = 512;

/// The pattern of a point.
pub(super) fn pattern(point: &Point) -> Pattern {
    point.iter().map(|coord| coord.stride()).collect()
}

/// The constant distance between neighbouring lanes of an integer value, if there is one. `opaque` tells which values are
/// not looked into, since they lie in memory.
///
/// Signed arithmetic is taken not to wrap *between the lanes of one vector*: an offset that wraps addresses nothing.
/// Unsigned types may wrap within a vector (`iota - 1`), so a widening conversion of them ends the search. So does a value that is
/// made by more than [`MOST_OPS`] ops: addresses are not, and what uses one value twice is visited twice.
pub(in super::super) fn lane_stride(
    func: &crate::ir::Func,
    opaque: &dyn Fn(Value) -> bool,
    value: Value,
    pattern: &Pattern,
) -> Option<i64> {
    lane_stride_within(func, opaque, value, pattern, &Cell::new(MOST_OPS))
}

fn lane_stride_within(
    func: &crate::ir::Func,
    opaque: &dyn Fn(Value) -> bool,
    value: Value,
    pattern: &Pattern,
    left: &Cell<u32>,
) -> Option<i64> {
    if pattern.iter().all(|stride| *stride == Some(0)) {
        return Some(0);
    }
    if opaque(value) {
        return None;
    }
    left.set(left.get().checked_sub(1)?);
    let Def::Result(inst, _) = func.value(value).def else { return None };
    let data = func.inst(inst);
    let of = |i: usize, pattern: &Pattern| lane_stride_within(func, opaque, data.operands[i], pattern, left);
    let dtype = func.ty(value).dtype();
    match &data.op {
        Op::Constant(_) | Op::Splat => Some(0),
        Op::Iota => pattern[0],
        Op::ExpandDims { axis } => {
            let mut source = pattern.clone();
            source.remove(usize::from(*axis));
            of(0, &source)
        }
        Op::Broadcast => {
            let shape = func.ty(data.operands[0]).shape()?;
            let mut source = pattern.clone();
            for (i, stride) in source.iter_mut().enumerate() {
                if shape[i] == 1 {
                    *stride = Some(0);
                }
            }
            of(0, &source)
        }
        Op::Transpose { perm } => {
            let mut source = pattern.clone();
            for (i, &p) in perm.iter().enumerate() {
                source[usize::from(p)] = pattern[i];
            }
            of(0, &source)
        }
        Op::Reshape => {
            let (to, from) = (func.ty(value).shape()?, func.ty(data.operands[0]).shape()?);
            of(0, &without_units(pattern, to.extents(), from.extents())?)
        }
        Op::Binary(BinaryOp::Add) if !dtype.is_float() => of(0, pattern)?.checked_add(of(1, pattern)?),
        Op::Binary(BinaryOp::Sub) if !dtype.is_float() => of(0, pattern)?.checked_sub(of(1, pattern)?),
        Op::Binary(BinaryOp::Mul) if !dtype.is_float() => {
            let (a, b) = (of(0, pattern)?, of(1, pattern)?);
            let constant = |i: usize| func.constant(data.operands[i]).and_then(Const::as_int);
            match (a, b) {
                (0, 0) => Some(0),
                (a, 0) => a.checked_mul(i64::try_from(constant(1)?).ok()?),
                (0, b) => b.checked_mul(i64::try_from(constant(0)?).ok()?),
                _ => None,
            }
        }
        Op::Cast => {
            let from = func.ty(data.operands[0]).dtype();
            let stride = of(0, pattern)?;
            let signed = from.is_signed_int() && from.bits() >= 32 && dtype.is_int() && dtype.bits() >= 32;
            let counted = dtype.is_int() && dtype.bits() >= 32 && is_iota(func, data.operands[0]);
            (stride == 0 || signed || counted).then_some(stride)
        }
        // Anything element-wise of values that are the same in all lanes.
        Op::Unary(_) | Op::Binary(_) | Op::Fma | Op::Cmp(_) | Op::Select | Op::Bitcast => {
            let uniform = (0..data.operands.len()).all(|i| of(i, pattern) == Some(0));
            uniform.then_some(0)
        }
        Op::Load { .. } => {
            let uniform = (1..data.operands.len()).all(|i| of(i, pattern) == Some(0));
            uniform.then_some(0)
        }
        _ => None,
    }
}

/// The pattern under other extents that differ by dimensions of extent 1 alone.
pub(super) fn without_units(pattern: &Pattern, to: &[u32], from: &[u32]) -> Option<Pattern> {
    let mut wide = to.iter().zip(pattern).filter(|(extent, _)| **extent != 1);
    let mut out = Pattern::new();
    for &extent in from {
        if extent == 1 {
            out.push(Some(0));
        } else {
            let (&same, &stride) = wide.next()?;
            if same != extent {
                return None;
            }
            out.push(stride);
        }
    }
    wide.next().is_none().then_some(out)
}

/// Whether a value is a plain count, seen through changes of shape: it never wraps.
fn is_iota(func: &crate::ir::Func, mut value: Value) -> bool {
    while let Some(inst) = func.def_inst(value) {
        let data = func.inst(inst);
        match data.op {
            Op::Iota => return func.ty(value).dtype() != Dtype::I8,
            Op::ExpandDims { .. } | Op::Broadcast | Op::Transpose { .. } | Op::Reshape => {
                value = data.operands[0]
            }
            _ => return false,
        }
    }
    false
}

impl Emit<'_, '_> {
    /// [`lane_stride`] at a point.
    pub(super) fn stride_at(&self, value: Value, point: &Point) -> Option<i64> {
        let opaque = |v: Value| self.bufs[v].is_some();
        lane_stride(self.f, &opaque, value, &pattern(point))
    }
}
