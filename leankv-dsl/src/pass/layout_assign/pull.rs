//! How layouts pass through ops that only rearrange or combine elements in place.

use crate::ir::{Func, InstData, Op, Shape, Type};
use crate::layout::{LinearLayout, log2_padded};
use smallvec::SmallVec;

/// log2 of the padded extents of a tile.
pub(crate) fn dims(shape: &Shape) -> SmallVec<[u32; 5]> {
    shape.extents().iter().map(|&e| log2_padded(e)).collect()
}

/// The number of elements of a tile with its padding.
pub(crate) fn padded_elements(shape: &Shape) -> u32 {
    1 << dims(shape).iter().sum::<u32>()
}

/// log2 of the codes in one word of `pack` and `unpack`.
pub(crate) fn codes_a_word(codes: &Type, words: &Type) -> u32 {
    (words.dtype().bits() / codes.dtype().bits()).trailing_zeros()
}

/// Whether the op works on elements one by one, or moves them without combining: layouts pass through it.
pub(crate) fn is_elementwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Fma
            | Op::Cmp(_)
            | Op::Select
            | Op::Cast
            | Op::Bitcast
            | Op::Quantize
            | Op::Dequantize
            | Op::InlinePtx { .. }
    )
}

/// Whether `reshape` between these shapes keeps every padded index, so that it only renames bits.
pub(crate) fn reshape_keeps_bits(from: &Shape, to: &Shape) -> bool {
    let (a, b) = (dims(from), dims(to));
    if a.iter().sum::<u32>() != b.iter().sum::<u32>() {
        return false;
    }
    let pow2 = |s: &Shape| s.extents().iter().all(|e| e.is_power_of_two());
    if pow2(from) && pow2(to) {
        return true;
    }
    let flat = |shape: &Shape, dims: &[u32], mut index: u64| -> u64 {
        let (mut out, mut shift) = (0, 0);
        for axis in (0..shape.rank()).rev() {
            out |= (index % u64::from(shape[axis])) << shift;
            index /= u64::from(shape[axis]);
            shift += dims[axis];
        }
        out
    };
    from.elements() <= 1 << 16 && (0..from.elements()).all(|i| flat(from, &a, i) == flat(to, &b, i))
}

/// The layout that operand `index` must have for the op to give its first result in `result`, when layouts pass through the
/// op; `None` when they do not.
pub(crate) fn pull(
    func: &Func,
    data: &InstData,
    index: usize,
    result: &LinearLayout,
) -> Option<LinearLayout> {
    let shape = |v| func.ty(v).shape().cloned();
    match &data.op {
        op if is_elementwise(op) => Some(result.clone()),
        Op::Load { .. } | Op::AtomicRmw { .. } | Op::AtomicCas { .. } if index > 0 => Some(result.clone()),
        Op::ExpandDims { axis } => Some(result.slice((*axis).into())),
        Op::Broadcast => {
            let (from, to) = (shape(data.operands[0])?, shape(data.results[0])?);
            let squash = |layout: LinearLayout, axis: usize| {
                if from[axis] == to[axis] { layout } else { layout.squash(axis) }
            };
            Some((0..from.rank()).fold(result.clone(), squash))
        }
        Op::Transpose { perm } => {
            let perm: SmallVec<[usize; 5]> = perm.iter().map(|&p| p.into()).collect();
            Some(result.untranspose(&perm))
        }
        Op::Reshape => {
            let (from, to) = (shape(data.operands[0])?, shape(data.results[0])?);
            if reshape_keeps_bits(&from, &to) { result.regroup(&dims(&from)) } else { None }
        }
        Op::Join => Some(result.slice(result.rank() - 1)),
        Op::Split => Some(append_low_registers(result, &dims(&shape(data.operands[0])?), 1)),
        Op::Unpack => {
            let low = codes_a_word(func.ty(data.results[0]), func.ty(data.operands[0]));
            Some(result.map(&dims(&shape(data.operands[0])?), |flat| flat >> low))
        }
        Op::Pack => {
            let low = codes_a_word(func.ty(data.operands[0]), func.ty(data.results[0]));
            Some(append_low_registers(result, &dims(&shape(data.operands[0])?), low))
        }
        _ => None,
    }
}

/// The layout of the op's results when its first operand has layout `operand`; `None` when layouts do not pass through.
pub(crate) fn push(func: &Func, data: &InstData, operand: &LinearLayout) -> Option<LinearLayout> {
    let out = func.ty(*data.results.first()?).shape().cloned()?;
    match &data.op {
        op if is_elementwise(op) => Some(operand.clone()),
        Op::ExpandDims { axis } => Some(operand.insert_unit_axis((*axis).into())),
        Op::Transpose { perm } => {
            let perm: SmallVec<[usize; 5]> = perm.iter().map(|&p| p.into()).collect();
            Some(operand.transpose(&perm))
        }
        Op::Reshape => {
            let from = func.ty(data.operands[0]).shape()?;
            if reshape_keeps_bits(from, &out) { operand.regroup(&dims(&out)) } else { None }
        }
        Op::Join => Some(append_low_registers(operand, &dims(&out), 1)),
        Op::Split => Some(operand.slice(operand.rank() - 1)),
        Op::Unpack => {
            let low = codes_a_word(func.ty(data.results[0]), func.ty(data.operands[0]));
            Some(append_low_registers(operand, &dims(&out), low))
        }
        Op::Pack => {
            let low = codes_a_word(func.ty(data.operands[0]), func.ty(data.results[0]));
            Some(operand.map(&dims(&out), |flat| flat >> low))
        }
        Op::Reduce { axis, .. } => Some(operand.slice((*axis).into())),
        Op::Scan { .. } => Some(operand.clone()),
        _ => None,
    }
}

/// The tile with `bits` more index bits at the bottom, all of them in the lowest registers.
fn append_low_registers(layout: &LinearLayout, dims: &[u32], bits: u32) -> LinearLayout {
    let shifted = layout.map(dims, |flat| flat << bits);
    let registers = (0..bits).map(|i| 1 << i).chain(shifted.registers().iter().copied());
    LinearLayout::new(dims, registers, *shifted.lanes(), shifted.warps())
}
