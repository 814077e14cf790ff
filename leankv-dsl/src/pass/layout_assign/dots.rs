//! What a target is asked about each dot, and what it is told.
//!
//! How a dot is done is the target's business ([`Target`]): it gives the layouts of operands and accumulator. Where the operands come
//! from decides which layouts are good ones, and that is found out here ([`DotSite`]).

use std::cell::Cell;

use crate::ir::{Dtype, Func, Inst, Op, Shape, Type, Value};
use crate::layout::{LANE_BITS, LinearLayout};
use crate::pass::axis::AxisAnalysis;
use smallvec::SmallVec;

use super::pull::{codes_a_word, dims, is_elementwise};

/// The machine that layouts are for.
pub trait Target {
    /// What the code generator needs for one dot.
    type Dot;

    /// How a dot is done.
    fn dot(&self, site: &DotSite<'_>) -> DotPlan<Self::Dot>;
}

/// How one dot is done.
pub struct DotPlan<D> {
    /// The layouts of `a`, `b` and the accumulator, which is that of the result; `None` where any will do, because operands go
    /// through shared memory.
    pub layouts: Option<[LinearLayout; 3]>,
    /// What the code generator needs.
    pub code: D,
}

/// One dot, and what is known about where its operands come from.
pub struct DotSite<'f> {
    func: &'f Func,
    axis: &'f AxisAnalysis,
    inst: Inst,
    /// log2 of the warps of a block.
    pub warp_bits: u32,
}

impl<'f> DotSite<'f> {
    /// The dot `inst` of `func`, whose analysis is `axis`.
    pub(crate) fn new(func: &'f Func, axis: &'f AxisAnalysis, inst: Inst, warp_bits: u32) -> DotSite<'f> {
        DotSite { func, axis, inst, warp_bits }
    }

    fn operand(&self, which: usize) -> Value {
        self.func.inst(self.inst).operands[which]
    }

    /// The element types of `a` and `b`.
    pub fn types(&self) -> [Dtype; 2] {
        [0, 1].map(|i| self.func.ty(self.operand(i)).dtype())
    }

    /// The extents of the product: m, n, k.
    pub fn extents(&self) -> [u32; 3] {
        let shape = |i: usize| self.func.ty(self.operand(i)).shape().expect("a dot's operands are tiles");
        [shape(0)[0], shape(1)[1], shape(0)[1]]
    }

    /// log2 of the padded extents of `a`, `b` and the accumulator.
    pub fn dims(&self) -> [[u32; 2]; 3] {
        [0, 1, 2].map(|i| {
            let d = dims(self.func.ty(self.operand(i)).shape().expect("a dot's operands are tiles"));
            [d[0], d[1]]
        })
    }

    /// Where `a` (0) or `b` (1) lies in global memory, if it is loaded from there and elements stay in place on the way.
    pub fn origin(&self, operand: usize) -> Option<Origin> {
        origin(self.func, self.axis, self.operand(operand), &Cell::new(MOST_OPS))
    }

    /// Whether `a` (0) or `b` (1) is read from shared memory as it is.
    pub fn from_shared(&self, operand: usize) -> bool {
        from_shared(self.func, self.operand(operand))
    }

    /// For `a` (0) or `b` (1) that is read from shared memory where the program's warps have put it together: the dimension whose elements lie next to each other
    /// there, and the order of its index bits.
    pub fn shared_columns(&self, operand: usize) -> Option<(usize, SmallVec<[u32; 8]>)> {
        let mut value = self.operand(operand);
        let mut axis = self.func.ty(value).shape()?.rank() - 1;
        let mut perms = Vec::new();
        let block = loop {
            let data = self.func.inst(self.func.def_inst(value)?);
            match &data.op {
                Op::LocalLoad => break data.operands[0],
                Op::Transpose { perm } => perms.push(perm),
                _ => return None,
            }
            value = data.operands[0];
        };
        for perm in perms.iter().rev() {
            axis = perm.iter().position(|&p| usize::from(p) == axis)?;
        }
        let stored = self.func.walk().into_iter().find_map(|inst| {
            let data = self.func.inst(inst);
            (matches!(data.op, Op::LocalStore) && data.operands[0] == block).then(|| data.operands[2])
        })?;
        Some((axis, stored_columns(self.func, stored, self.warp_bits)))
    }

    /// Whether `a` is computed from another dot.
    pub fn left_from_dot(&self) -> bool {
        from_dot(self.func, self.operand(0), 24)
    }

    /// Whether the kernel has a dot whose `a` is computed from another dot.
    pub fn chained(&self) -> bool {
        self.func.walk().into_iter().any(|other| {
            let data = self.func.inst(other);
            matches!(data.op, Op::Dot) && from_dot(self.func, data.operands[0], 24)
        })
    }
}

/// The most ops that are looked at on the way from a dot's operand to the load that it comes from.
const MOST_OPS: u32 = 256;

/// Where an operand's elements lie in global memory.
pub struct Origin {
    /// The dimension of the value along which consecutive elements run.
    pub axis: usize,
    /// log2 of the elements one lane can take with one 16-byte access.
    pub chunk: u32,
    /// log2 of the distance between two elements that lie 16 bits apart in one word; for packed pairs.
    pub pair: u32,
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
        // Words of more than 16 bits; others are read as matrices.
        Op::LocalLoad => {
            let (dtype, shape) = func.ty(value).as_tile()?;
            let bytes = dtype.bytes().filter(|&bytes| bytes > 2)?;
            Some(Origin { axis: shape.rank().checked_sub(1)?, chunk: (16 / bytes).trailing_zeros(), pair: 0 })
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

/// The order in which elements of a row of a tile go to shared memory, as bits of its last index, where the program's warps compute the tile together.
///
/// Eight elements that lie together come first, of those that one thread has: decoded codes in the pairs of their word, which lie 16 bits apart. Where a thread has
/// sixteen, the bit that is left comes late, since `ldmatrix` reads by the bits before it, which the swizzle of rows touches too; and if it may, it is the
/// lowest one, so that whoever meets them at a dot holds elements next to each other.
pub(crate) fn stored_columns(func: &Func, value: Value, warp_bits: u32) -> SmallVec<[u32; 8]> {
    let extents = func.ty(value).shape().map(dims).unwrap_or_default();
    let bits = extents.last().copied().unwrap_or(0);
    let (pair, a_word) = paired_codes(func, value).unwrap_or((0, 0));
    let spare = extents.iter().sum::<u32>().saturating_sub(LANE_BITS as u32 + warp_bits);
    let held = spare.max(a_word).clamp(3, 4);
    if bits < held || pair >= held {
        return (0..bits).collect();
    }
    let left = (held == 4).then_some(if pair == 0 { 3 } else { 0 });
    let near = (0..held).rev().filter(|&bit| bit != pair && Some(bit) != left);
    let mut columns: SmallVec<[u32; 8]> = std::iter::once(pair).chain(near).chain(held..bits).collect();
    if let Some(left) = left {
        columns.insert(columns.len().min(5), left);
    }
    columns
}

/// For a value that is made of codes in place: log2 of the distance between those that lie 16 bits apart in a word (bytes may be paired in any way), and of
/// the codes of a word.
fn paired_codes(func: &Func, mut value: Value) -> Option<(u32, u32)> {
    for _ in 0..MOST_OPS {
        let data = func.inst(func.def_inst(value)?);
        value = match &data.op {
            Op::Unpack => {
                let bits = func.ty(value).dtype().bits();
                let pair = if bits < 8 { (16 / bits).trailing_zeros() } else { 0 };
                return Some((pair, codes_a_word(func.ty(value), func.ty(data.operands[0]))));
            }
            Op::Transpose { .. } | Op::Reshape | Op::Split => data.operands[0],
            op if is_elementwise(op) => {
                let shape = func.ty(value).shape();
                *data.operands.iter().find(|&&v| func.ty(v).shape() == shape)?
            }
            _ => return None,
        };
    }
    None
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
