//! How each dot maps onto the tensor cores.
//!
//! The contraction index may be permuted as both operands agree, and columns as the accumulator agrees. So an operand that comes
//! straight from global memory gets the permutation under which every lane owns elements that lie next to each other there, and
//! is loaded into its fragment with wide vectors, without shared memory.

use std::cell::Cell;

use crate::ir::{Dtype, Func, Inst, Op, Shape, Type, Value};
use crate::layout::{MmaShape, Operand, log2_padded, mma_plan};
use crate::pass::axis::AxisAnalysis;

use super::pull::{codes_a_word, is_elementwise};

/// The instructions of one dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DotPath {
    /// `mma.sync` with this mapping.
    Mma(Operand),
    /// Multiply-adds over operands in shared memory, because the element type has no tensor-core form.
    Fma,
}

/// The most ops that are looked at on the way from a dot's operand to the load that it comes from.
const MOST_OPS: u32 = 256;

/// Where an operand's elements lie in global memory.
struct Origin {
    /// The dimension of the value along which consecutive elements run.
    axis: usize,
    /// log2 of the elements one lane can take with one 16-byte access.
    chunk: u32,
    /// log2 of the distance between two elements that lie 16 bits apart in one word; for packed pairs.
    pair: u32,
}

/// Follows an operand through ops that keep elements in place to a load; through so many of them as `left` says.
fn origin(func: &Func, axes: &AxisAnalysis, value: Value, left: &Cell<u32>) -> Option<Origin> {
    left.set(left.get().checked_sub(1)?);
    let data = func.inst(func.def_inst(value)?);
    match &data.op {
        Op::Load { masked, .. } => {
            let mask = masked.then(|| data.operands[2]);
            let access = axes.access(func, data.operands[0], data.operands[1], mask);
            let axis = *access.order.first()?;
            let chunk = u32::from(access.vector[axis]);
            let bits = func.ty(value).dtype().bits();
            let pair = if bits >= 16 { 0 } else { (16 / bits).trailing_zeros() };
            (chunk > 0).then_some(Origin { axis, chunk, pair })
        }
        Op::Unpack => {
            let inner = origin(func, axes, data.operands[0], left)?;
            let low = codes_a_word(func.ty(value), func.ty(data.operands[0]));
            let pair = (16 / func.ty(value).dtype().bits()).trailing_zeros();
            let last = func.ty(value).shape()?.rank() - 1;
            (inner.axis == last).then_some(Origin { chunk: inner.chunk + low, pair, ..inner })
        }
        Op::Transpose { perm } => {
            let inner = origin(func, axes, data.operands[0], left)?;
            let axis = perm.iter().position(|&p| usize::from(p) == inner.axis)?;
            Some(Origin { axis, ..inner })
        }
        Op::ExpandDims { axis } => {
            let inner = origin(func, axes, data.operands[0], left)?;
            let moved = inner.axis + usize::from(inner.axis >= usize::from(*axis));
            Some(Origin { axis: moved, ..inner })
        }
        Op::Reshape => {
            // Where only dimensions of extent 1 come and go.
            let inner = origin(func, axes, data.operands[0], left)?;
            let (from, to) = (func.ty(data.operands[0]).shape()?, func.ty(value).shape()?);
            let real = |s: &Shape| -> Vec<usize> { (0..s.rank()).filter(|&a| s[a] != 1).collect() };
            let (a, b) = (real(from), real(to));
            if a.len() != b.len() || a.iter().zip(&b).any(|(&x, &y)| from[x] != to[y]) {
                return None;
            }
            let axis = b[a.iter().position(|&x| x == inner.axis)?];
            Some(Origin { axis, ..inner })
        }
        op if is_elementwise(op) => {
            let full = |v: &Value| matches!(func.ty(*v), Type::Tile { shape, .. } if shape.rank() > 1);
            data.operands.iter().filter(|v| full(v)).find_map(|&v| origin(func, axes, v, left))
        }
        _ => None,
    }
}

/// Whether an operand is read from shared memory as it is.
fn from_shared(func: &Func, mut value: Value) -> bool {
    while let Some(inst) = func.def_inst(value) {
        let data = func.inst(inst);
        match data.op {
            Op::LocalLoad => return true,
            Op::Transpose { .. } | Op::Reshape | Op::ExpandDims { .. } => value = data.operands[0],
            _ => return false,
        }
    }
    false
}

/// Whether `value` is computed from the result of another dot.
fn from_dot(func: &Func, value: Value, depth: u32) -> bool {
    let Some(inst) = func.def_inst(value) else { return false };
    let data = func.inst(inst);
    match data.op {
        Op::Dot => true,
        Op::For { .. } | Op::While | Op::If | Op::Load { .. } => false,
        _ => depth > 0 && data.operands.iter().any(|&v| from_dot(func, v, depth - 1)),
    }
}

/// Index bits in the order of position bits: `low` positions take `head`, the lane positions take the bits from `chunk` up, the
/// rest follow in order.
fn permuted(total: u32, chunk: u32, pair: u32, pack: u32, lanes: u32, lanes_at: u32) -> Vec<u32> {
    // Bits a lane holds, the partner in a packed pair first.
    let mut held: Vec<u32> = (0..chunk).collect();
    if pack == 1 && pair < chunk {
        held.remove(pair as usize);
        held.insert(0, pair);
    }
    let mut rest = held.into_iter().chain(chunk + lanes..total).collect::<Vec<u32>>().into_iter();
    let mut out = Vec::new();
    for position in 0..total {
        let lane = position >= lanes_at && position < lanes_at + lanes;
        let bit = if lane { chunk + position - lanes_at } else { rest.next().unwrap_or(position) };
        out.push(1 << bit);
    }
    out
}

/// The path of a dot, with the permutations that its operands' origins ask for.
pub(crate) fn plan(func: &Func, axis: &AxisAnalysis, inst: Inst, warp_bits: u32) -> DotPath {
    let data = func.inst(inst);
    let (a, b) = (data.operands[0], data.operands[1]);
    let dtype = func.ty(a).dtype();
    if matches!(dtype, Dtype::F32 | Dtype::F64) {
        return DotPath::Fma;
    }
    let shape = |v: Value| func.ty(v).shape().cloned().unwrap_or_else(Shape::scalar);
    let (m, k, n) = (shape(a)[0], shape(a)[1], shape(b)[1]);
    let (m_bits, n_bits, k_bits) = (log2_padded(m), log2_padded(n), log2_padded(k));
    let mma = MmaShape::for_bits(dtype.bits());
    let (m_tiles, n_tiles) = (m_bits.saturating_sub(4), n_bits.saturating_sub(3));

    let chained = func.walk().into_iter().any(|other| {
        matches!(func.inst(other).op, Op::Dot) && from_dot(func, func.inst(other).operands[0], 24)
    });
    let (mut warps_m, mut warps_n) = (0, 0);
    for _ in 0..warp_bits {
        let (more_m, more_n) = (warps_m < m_tiles, warps_n < n_tiles);
        // Rows only, when one dot feeds the next: then its accumulator is the next one's operand in place. Else as
        // square as the tiles allow, so that each operand is read by few warps.
        if more_m && (chained || !more_n || m_bits - warps_m >= n_bits - warps_n) {
            warps_m += 1;
        } else if more_n {
            warps_n += 1;
        }
    }
    let mut out = mma_plan(mma, m_bits, n_bits, k_bits, warps_m, warps_n, warp_bits - warps_m - warps_n);

    let from = |value| origin(func, axis, value, &Cell::new(MOST_OPS));
    let (from_a, from_b) = (from(a), from(b));
    if from_shared(func, a) || from_shared(func, b) {
        // `ldmatrix` gives fragments in the order of the hardware.
        return DotPath::Mma(out);
    }
    // The operand that streams decides: the one on the right, in attention the cache.
    let along_k = [from_b.as_ref().filter(|o| o.axis == 0), from_a.as_ref().filter(|o| o.axis == 1)];
    if let Some(origin) = along_k.into_iter().flatten().next() {
        let block = k.trailing_zeros().min(k_bits);
        if block == k_bits || block >= mma.k_bits() {
            let chunk = origin.chunk.min(block.saturating_sub(2));
            // A lane holds at least one register's worth and the two registers of one step.
            if chunk >= mma.pack_bits {
                out.k = permuted(k_bits, chunk, origin.pair, mma.pack_bits, 2, mma.pack_bits);
                out.k.resize((k_bits.max(mma.k_bits())) as usize, 0);
            }
        }
    }
    if let Some(origin) = from_b.as_ref().filter(|o| o.axis == 1)
        && n.is_power_of_two()
        && n_bits >= 3 + warps_n
    {
        let chunk = origin.chunk.min(n_bits - 3 - warps_n);
        out.n = permuted(n_bits, chunk, 0, 0, 3 + warps_n, 0);
    }
    DotPath::Mma(out)
}
