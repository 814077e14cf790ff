//! Axis analysis: how integer values run along each dimension of a tile.
//!
//! For each dimension it finds, as log2 and for blocks that start at multiples of their own length:
//!
//! * *contiguity*: inside such a block values go up by one;
//! * *constancy*: inside such a block all values are equal;
//! * *falling*: inside such a block a truth value changes at most once, from true to false;
//! * *divisibility*: the first value of each contiguous block is a multiple.
//!
//! From these follow the widest vector of a load or store and the masks that are equal for all its elements.
//! Index arithmetic is taken not to overflow.

use smallvec::{SmallVec, smallvec};

use crate::ir::{BinaryOp, Block, CmpOp, Const, Func, Inst, Op, SideTable, Type, Value};
use crate::layout::log2_padded;

/// A power of two that no address or extent exceeds; zero is divisible by it.
const MAX: u8 = 62;

/// What is known about one value. All numbers are log2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AxisInfo {
    /// Per dimension: length of blocks of consecutive values.
    pub contiguity: SmallVec<[u8; 5]>,
    /// Per dimension: length of blocks of equal values.
    pub constancy: SmallVec<[u8; 5]>,
    /// Per dimension: length of blocks in which a truth value may only fall.
    pub falling: SmallVec<[u8; 5]>,
    /// Per dimension: divisor of the first value of each contiguous block. For a scalar: of the value (one entry).
    pub divisibility: SmallVec<[u8; 5]>,
    /// Whether all values are known not to be negative.
    pub non_negative: bool,
}

impl AxisInfo {
    fn unknown(rank: usize) -> AxisInfo {
        AxisInfo {
            contiguity: smallvec![0; rank],
            constancy: smallvec![0; rank],
            falling: smallvec![0; rank],
            divisibility: smallvec![0; rank.max(1)],
            non_negative: false,
        }
    }

    fn uniform(extents: &[u32], divisibility: u8, non_negative: bool) -> AxisInfo {
        let whole: SmallVec<[u8; 5]> = extents.iter().map(|&e| log2_padded(e) as u8).collect();
        AxisInfo {
            contiguity: smallvec![0; extents.len()],
            constancy: whole.clone(),
            falling: whole,
            divisibility: smallvec![divisibility; extents.len().max(1)],
            non_negative,
        }
    }

    /// The divisor of the elements at multiples of `2^block` along `axis`.
    pub fn divisibility_at(&self, axis: usize, block: u8) -> u8 {
        match self.contiguity.get(axis) {
            Some(&run) if block < run => self.divisibility[axis].min(block),
            _ => self.divisibility[axis],
        }
    }

    /// The divisor of every element.
    pub fn divisibility_of_all(&self) -> u8 {
        let known = (0..self.contiguity.len()).map(|axis| self.divisibility_at(axis, 0)).max();
        known.unwrap_or(self.divisibility[0])
    }

    fn meet(&self, other: &AxisInfo) -> AxisInfo {
        let min = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(x, y)| *x.min(y)).collect();
        let contiguity: SmallVec<[u8; 5]> = min(&self.contiguity, &other.contiguity);
        let divisibility = (0..self.divisibility.len())
            .map(|axis| {
                let block = contiguity.get(axis).copied().unwrap_or(0);
                self.divisibility_at(axis, block).min(other.divisibility_at(axis, block))
            })
            .collect();
        AxisInfo {
            constancy: min(&self.constancy, &other.constancy),
            falling: min(&self.falling, &other.falling),
            contiguity,
            divisibility,
            non_negative: self.non_negative && other.non_negative,
        }
    }
}

/// The analysis of a function.
pub struct AxisAnalysis {
    info: SideTable<Value, Option<AxisInfo>>,
}

impl AxisAnalysis {
    /// Analyses all integer tiles, scalars and pointers (for those: the address in bytes).
    pub fn run(func: &Func) -> AxisAnalysis {
        let mut out = AxisAnalysis { info: SideTable::new() };
        for (param, &value) in func.params.iter().zip(func.param_values()) {
            let mut info = AxisInfo::unknown(0);
            let divisor = param.multiple_of.max(1).trailing_zeros() as u8;
            info.divisibility[0] = if param.ty.is_ptr() {
                divisor.max(param.ty.dtype().bytes().unwrap_or(1).trailing_zeros() as u8)
            } else {
                divisor
            };
            info.non_negative = matches!(&param.ty, Type::Tile { dtype, .. } if dtype.is_unsigned_int());
            out.info[value] = Some(info);
        }
        out.block(func, func.entry());
        out
    }

    /// What is known about a value; nothing is known about values of other types.
    pub fn of(&self, func: &Func, value: Value) -> AxisInfo {
        let rank = func.ty(value).shape().map_or(0, |s| s.rank());
        self.info[value].clone().unwrap_or_else(|| AxisInfo::unknown(rank))
    }

    fn block(&mut self, func: &Func, block: Block) {
        for &inst in &func.block(block).insts {
            self.inst(func, inst);
        }
    }

    fn inst(&mut self, func: &Func, inst: Inst) {
        let data = func.inst(inst);
        match &data.op {
            Op::For { .. } => {
                let body = data.regions[0];
                let params = &func.block(body).params;
                let (lower, step) = (self.of(func, data.operands[0]), self.of(func, data.operands[2]));
                let mut index = AxisInfo::unknown(0);
                index.divisibility[0] = lower.divisibility[0].min(step.divisibility[0]);
                index.non_negative = lower.non_negative;
                self.info[params[0]] = Some(index);
                self.fixpoint(func, &data.operands[3..], &params[1..], &[body], body, 0);
                let yielded =
                    func.terminator(body).map(|t| func.inst(t).operands.clone()).unwrap_or_default();
                for ((&result, &init), &last) in data.results.iter().zip(&data.operands[3..]).zip(&yielded) {
                    self.info[result] = Some(self.of(func, init).meet(&self.of(func, last)));
                }
            }
            Op::While => {
                let (before, after) = (data.regions[0], data.regions[1]);
                let params = &func.block(before).params;
                for (&outer, &inner) in params.iter().zip(&func.block(after).params) {
                    let info = self.of(func, outer);
                    self.info[inner] = Some(AxisInfo::unknown(info.contiguity.len()));
                }
                self.fixpoint(func, &data.operands, params, &[before, after], after, 0);
                for &result in &data.results {
                    self.info[result] = None;
                }
            }
            Op::If => {
                for &region in &data.regions {
                    self.block(func, region);
                }
                let yields: Vec<_> = data
                    .regions
                    .iter()
                    .filter_map(|&r| func.terminator(r))
                    .map(|t| func.inst(t).operands.clone())
                    .collect();
                for (i, &result) in data.results.iter().enumerate() {
                    let met = yields.iter().filter_map(|y| y.get(i)).map(|&v| self.of(func, v));
                    self.info[result] = met.reduce(|a, b| a.meet(&b));
                }
            }
            _ => {
                for &region in &data.regions {
                    self.block(func, region);
                }
                if let [result] = data.results[..] {
                    let shape = func.ty(result).shape().map(|s| s.extents().to_vec());
                    let info = self.transfer(func, inst, &shape.unwrap_or_default());
                    self.info[result] = Some(info);
                }
            }
        }
    }

    /// Carried values: start from the initial values and meet with what comes back until nothing changes.
    fn fixpoint(
        &mut self,
        func: &Func,
        inits: &[Value],
        params: &[Value],
        blocks: &[Block],
        last: Block,
        skip: usize,
    ) {
        for (&param, &init) in params.iter().zip(inits) {
            self.info[param] = Some(self.of(func, init));
        }
        loop {
            for &block in blocks {
                self.block(func, block);
            }
            let yielded = func.terminator(last).map(|t| func.inst(t).operands.clone()).unwrap_or_default();
            let mut changed = false;
            for (&param, &back) in params.iter().zip(yielded.iter().skip(skip)) {
                let old = self.of(func, param);
                let new = old.meet(&self.of(func, back));
                changed |= new != old;
                self.info[param] = Some(new);
            }
            if !changed {
                return;
            }
        }
    }

    fn transfer(&self, func: &Func, inst: Inst, extents: &[u32]) -> AxisInfo {
        let data = func.inst(inst);
        let rank = extents.len();
        let unknown = || AxisInfo::unknown(rank);
        let arg = |i: usize| self.of(func, data.operands[i]);
        match &data.op {
            Op::Constant(Const::Int(value)) => AxisInfo::uniform(extents, trailing(*value), *value >= 0),
            Op::Constant(_) => AxisInfo::uniform(extents, 0, false),
            Op::ProgramId(_) | Op::NumPrograms(_) => AxisInfo { non_negative: true, ..unknown() },
            Op::Iota => AxisInfo {
                contiguity: smallvec![log2_padded(extents[0]) as u8],
                constancy: smallvec![0],
                falling: smallvec![0],
                divisibility: smallvec![MAX],
                non_negative: true,
            },
            Op::Splat => {
                let a = arg(0);
                AxisInfo::uniform(extents, a.divisibility[0], a.non_negative)
            }
            Op::Cast => {
                let (from, to) = (func.ty(data.operands[0]).dtype(), func.ty(data.results[0]).dtype());
                let mut a = arg(0);
                if from.is_code() {
                    a.non_negative = true;
                }
                if to.is_int() && to.bits() >= from.bits() && (from.is_int() || from.is_code()) {
                    a.non_negative |= from.is_unsigned_int() && to.bits() > from.bits();
                    return a;
                }
                AxisInfo { falling: a.constancy.clone(), constancy: a.constancy, ..unknown() }
            }
            Op::ExpandDims { .. } | Op::Reshape => {
                let from = func.ty(data.operands[0]).shape().map(|s| s.extents().to_vec());
                match unit_axes(&from.unwrap_or_default(), extents) {
                    Some(sources) => with_units(&arg(0), &sources),
                    None => AxisInfo { non_negative: arg(0).non_negative, ..unknown() },
                }
            }
            Op::Broadcast => {
                let mut a = arg(0);
                let from = func.ty(data.operands[0]).shape().expect("a broadcast tile has a shape").clone();
                for axis in (0..rank).filter(|&axis| from[axis] != extents[axis]) {
                    a.divisibility[axis] = a.divisibility_at(axis, 0);
                    a.contiguity[axis] = 0;
                    a.constancy[axis] = log2_padded(extents[axis]) as u8;
                    a.falling[axis] = a.constancy[axis];
                }
                a
            }
            Op::Transpose { perm } => {
                let a = arg(0);
                let pick = |v: &[u8]| perm.iter().map(|&p| v[usize::from(p)]).collect();
                AxisInfo {
                    contiguity: pick(&a.contiguity),
                    constancy: pick(&a.constancy),
                    falling: pick(&a.falling),
                    divisibility: pick(&a.divisibility),
                    non_negative: a.non_negative,
                }
            }
            Op::Binary(op) => self.binary(func, *op, data.operands[0], data.operands[1], rank),
            Op::Unary(_) => AxisInfo { falling: arg(0).constancy, constancy: arg(0).constancy, ..unknown() },
            Op::Cmp(op) => compare(*op, &arg(0), &arg(1)),
            Op::Select => {
                let (c, a, b) = (arg(0), arg(1), arg(2));
                let mut out = a.meet(&b);
                for axis in 0..rank {
                    out.contiguity[axis] = out.contiguity[axis].min(c.constancy[axis]);
                    out.constancy[axis] = out.constancy[axis].min(c.constancy[axis]);
                    out.divisibility[axis] = out.divisibility[axis]
                        .min(a.divisibility_at(axis, out.contiguity[axis]))
                        .min(b.divisibility_at(axis, out.contiguity[axis]));
                }
                out
            }
            Op::Load { .. } => {
                let mut constancy: SmallVec<[u8; 5]> = arg(1).constancy;
                for i in 2..data.operands.len() {
                    constancy.iter_mut().zip(&arg(i).constancy).for_each(|(a, b)| *a = (*a).min(*b));
                }
                let unsigned = func.ty(data.results[0]).dtype().is_unsigned_int();
                AxisInfo { falling: constancy.clone(), constancy, non_negative: unsigned, ..unknown() }
            }
            Op::PtrCast => arg(0),
            Op::PtrAdd => {
                let bytes = func.ty(data.operands[0]).dtype().bytes().unwrap_or(1).trailing_zeros() as u8;
                let (base, offset) = (arg(0), arg(1));
                let mut out = unknown();
                out.divisibility[0] = base.divisibility[0].min(offset.divisibility[0] + bytes).min(MAX);
                out
            }
            _ => unknown(),
        }
    }

    fn binary(&self, func: &Func, op: BinaryOp, x: Value, y: Value, rank: usize) -> AxisInfo {
        let (a, b) = (self.of(func, x), self.of(func, y));
        let mut out = AxisInfo::unknown(rank);
        for axis in 0..rank {
            out.constancy[axis] = a.constancy[axis].min(b.constancy[axis]);
            out.falling[axis] = match op {
                // Where both fall, so does their conjunction; a constant falls nowhere.
                BinaryOp::And | BinaryOp::Or => a.falling[axis].min(b.falling[axis]),
                _ => out.constancy[axis],
            };
        }
        let constant = func.constant(y).and_then(Const::as_int);
        let unsigned = func.ty(x).dtype().is_unsigned_int();
        let both = a.non_negative && b.non_negative;
        match op {
            BinaryOp::Add | BinaryOp::Sub => {
                for axis in 0..rank {
                    let left = a.contiguity[axis].min(b.constancy[axis]);
                    let right = a.constancy[axis].min(b.contiguity[axis]);
                    out.contiguity[axis] = if op == BinaryOp::Add { left.max(right) } else { left };
                }
                each_divisor(&mut out, |axis, block| {
                    a.divisibility_at(axis, block).min(b.divisibility_at(axis, block))
                });
                out.non_negative = unsigned || (op == BinaryOp::Add && both);
            }
            BinaryOp::Mul => {
                each_divisor(&mut out, |axis, _| {
                    (a.divisibility_at(axis, 0) + b.divisibility_at(axis, 0)).min(MAX)
                });
                out.non_negative = unsigned || both;
                if constant == Some(1) {
                    return a;
                }
            }
            BinaryOp::Shl => {
                let by = constant.filter(|c| (0..64).contains(c)).unwrap_or(0) as u8;
                each_divisor(&mut out, |axis, _| (a.divisibility_at(axis, 0) + by).min(MAX));
                out.non_negative = unsigned || a.non_negative;
            }
            BinaryOp::Div | BinaryOp::Shr => {
                let by = match (op, constant) {
                    (BinaryOp::Div, Some(c)) if c > 0 => trailing(c),
                    (BinaryOp::Shr, Some(c)) if (0..64).contains(&c) => c as u8,
                    _ => 0,
                };
                // Truncating division of negative numbers is not constant on aligned blocks.
                if unsigned || a.non_negative || op == BinaryOp::Shr {
                    for axis in 0..rank {
                        let block = a.contiguity[axis].min(a.divisibility[axis]).min(by);
                        out.constancy[axis] = out.constancy[axis].max(block.min(b.constancy[axis]));
                    }
                }
                let exact = op == BinaryOp::Shr || constant.is_some_and(|c| c > 0 && c.count_ones() == 1);
                if exact {
                    each_divisor(&mut out, |axis, _| a.divisibility_at(axis, 0).saturating_sub(by));
                }
                out.non_negative = unsigned || both;
            }
            BinaryOp::Rem | BinaryOp::And => {
                let modulus = match (op, constant) {
                    (BinaryOp::Rem, Some(c)) if c > 0 && (unsigned || a.non_negative) => trailing(c),
                    (BinaryOp::And, Some(c)) if c >= 0 && (c + 1).count_ones() == 1 => trailing(c + 1),
                    _ => 0,
                };
                for axis in 0..rank {
                    out.contiguity[axis] =
                        a.contiguity[axis].min(a.divisibility[axis]).min(modulus).min(b.constancy[axis]);
                }
                if modulus > 0 {
                    each_divisor(&mut out, |axis, block| a.divisibility_at(axis, block).min(modulus));
                }
                out.non_negative = unsigned || a.non_negative || (op == BinaryOp::And && b.non_negative);
            }
            BinaryOp::Min | BinaryOp::Max => {
                each_divisor(&mut out, |axis, _| a.divisibility_at(axis, 0).min(b.divisibility_at(axis, 0)));
                out.non_negative =
                    unsigned || both || (op == BinaryOp::Max && (a.non_negative || b.non_negative));
            }
            BinaryOp::Or | BinaryOp::Xor => {
                each_divisor(&mut out, |axis, _| a.divisibility_at(axis, 0).min(b.divisibility_at(axis, 0)));
                out.non_negative = unsigned || both;
            }
            BinaryOp::MulHi => out.non_negative = unsigned,
        }
        out
    }
}

fn each_divisor(out: &mut AxisInfo, divisor: impl Fn(usize, u8) -> u8) {
    for axis in 0..out.divisibility.len() {
        let block = out.contiguity.get(axis).copied().unwrap_or(0);
        out.divisibility[axis] = divisor(axis, block);
    }
}

/// `x < y` with x running and y a multiple of the block is equal in the whole block; so are `>=` and the mirrored forms.
fn compare(op: CmpOp, a: &AxisInfo, b: &AxisInfo) -> AxisInfo {
    let rank = a.contiguity.len();
    let mut out = AxisInfo::unknown(rank);
    for axis in 0..rank {
        let block = |run: &AxisInfo, bound: &AxisInfo| {
            run.contiguity[axis]
                .min(run.divisibility[axis])
                .min(bound.constancy[axis])
                .min(bound.divisibility_at(axis, 0))
        };
        let running = match op {
            CmpOp::Lt | CmpOp::Ge => block(a, b),
            CmpOp::Gt | CmpOp::Le => block(b, a),
            CmpOp::Eq | CmpOp::Ne => 0,
        };
        out.constancy[axis] = running.max(a.constancy[axis].min(b.constancy[axis]));
        let falls = match op {
            CmpOp::Lt | CmpOp::Le => a.contiguity[axis].min(b.constancy[axis]),
            CmpOp::Gt | CmpOp::Ge => b.contiguity[axis].min(a.constancy[axis]),
            CmpOp::Eq | CmpOp::Ne => 0,
        };
        out.falling[axis] = falls.max(out.constancy[axis]);
    }
    out
}

/// For each dimension of `to` the dimension of `from` that it is, or `None` for one of extent 1; `None` altogether when more than
/// dimensions of extent 1 come and go.
fn unit_axes(from: &[u32], to: &[u32]) -> Option<SmallVec<[Option<usize>; 5]>> {
    let mut real = (0..from.len()).filter(|&a| from[a] != 1);
    let out: Option<SmallVec<[Option<usize>; 5]>> = to
        .iter()
        .map(|&extent| match extent {
            1 => Some(None),
            _ => real.next().filter(|&a| from[a] == extent).map(Some),
        })
        .collect();
    out.filter(|_| real.next().is_none())
}

/// The info of a tile whose dimensions are those of another one and dimensions of extent 1.
fn with_units(a: &AxisInfo, sources: &[Option<usize>]) -> AxisInfo {
    let all = a.divisibility_of_all();
    let pick = |v: &[u8]| sources.iter().map(|s| s.map_or(0, |axis| v[axis])).collect();
    let mut divisibility: SmallVec<[u8; 5]> =
        sources.iter().map(|s| s.map_or(all, |axis| a.divisibility[axis])).collect();
    if divisibility.is_empty() {
        divisibility.push(all);
    }
    AxisInfo {
        contiguity: pick(&a.contiguity),
        constancy: pick(&a.constancy),
        falling: pick(&a.falling),
        divisibility,
        non_negative: a.non_negative,
    }
}

fn trailing(value: i128) -> u8 {
    if value == 0 { MAX } else { value.trailing_zeros().min(MAX.into()) as u8 }
}

/// One load, store or atomic: how wide it can be along each dimension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessShape {
    /// Per dimension, log2 of the consecutive aligned elements that one access may take: contiguous, with one mask, and
    /// not across the tile's end.
    pub vector: SmallVec<[u8; 5]>,
    /// The dimensions, the one that runs through memory fastest first.
    pub order: SmallVec<[usize; 5]>,
}

impl AxisAnalysis {
    /// How an access of these operands (`ptr, offsets, .., mask`) lies in memory.
    pub fn access(&self, func: &Func, ptr: Value, offsets: Value, mask: Option<Value>) -> AccessShape {
        let mask = mask.map(|m| self.of(func, m).constancy);
        self.access_where(func, ptr, offsets, mask)
    }

    /// As [`AxisAnalysis::access`], for accesses that can take the first few elements of a vector: an asynchronous copy says how
    /// many bytes it reads.
    pub fn access_of_prefixes(
        &self,
        func: &Func,
        ptr: Value,
        offsets: Value,
        mask: Option<Value>,
    ) -> AccessShape {
        let mask = mask.map(|m| self.of(func, m).falling);
        self.access_where(func, ptr, offsets, mask)
    }

    /// As [`AxisAnalysis::access`], for accesses that are checked when they run ([`AxisAnalysis::guard`]): as wide as offsets run and as
    /// masks only fall, whatever the address is a multiple of.
    pub fn access_checked(
        &self,
        func: &Func,
        ptr: Value,
        offsets: Value,
        mask: Option<Value>,
    ) -> AccessShape {
        let bytes = element_bytes(func, ptr);
        let info = self.of(func, offsets);
        let mask = mask.map(|m| self.of(func, m).falling);
        shape_of(func, offsets, &info, mask, |axis| info.contiguity[axis].min(4u8.saturating_sub(bytes)))
    }

    /// What a vector of `2^bits` elements along `axis` must be asked before it is accessed as one.
    pub fn guard(
        &self,
        func: &Func,
        ptr: Value,
        offsets: Value,
        mask: Option<Value>,
        axis: usize,
        bits: u8,
    ) -> Guard {
        let info = self.of(func, offsets);
        let align = if info.divisibility_at(axis, bits) < bits {
            AlignGuard::Address
        } else if self.of(func, ptr).divisibility[0] < bits + element_bytes(func, ptr) {
            AlignGuard::Pointer
        } else {
            AlignGuard::Known
        };
        Guard { align, mask: mask.is_some_and(|m| self.of(func, m).constancy[axis] < bits) }
    }

    fn access_where(
        &self,
        func: &Func,
        ptr: Value,
        offsets: Value,
        mask: Option<SmallVec<[u8; 5]>>,
    ) -> AccessShape {
        let bytes = element_bytes(func, ptr);
        let base = self.of(func, ptr).divisibility[0];
        let info = self.of(func, offsets);
        shape_of(func, offsets, &info, mask, |axis| {
            // Blocks of consecutive offsets, each aligned in memory as a whole.
            let run = info.contiguity[axis].min(base.saturating_sub(bytes)).min(4u8.saturating_sub(bytes));
            (0..=run).rev().find(|&b| info.divisibility_at(axis, b) >= b).unwrap_or(0)
        })
    }
}

/// What is asked, when a kernel runs, before a vector is accessed as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    /// What must be a multiple of the vector's bytes.
    pub align: AlignGuard,
    /// Whether the mask may differ within a vector; where it does, it falls once.
    pub mask: bool,
}

/// What must be a multiple of a vector's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AlignGuard {
    /// Nothing: all addresses are known to be.
    Known,
    /// The pointer; offsets are known to be.
    Pointer,
    /// The address of each vector.
    Address,
}

/// log2 of the bytes of what a pointer points to.
fn element_bytes(func: &Func, ptr: Value) -> u8 {
    func.ty(ptr).dtype().bytes().unwrap_or(1).trailing_zeros() as u8
}

fn shape_of(
    func: &Func,
    offsets: Value,
    info: &AxisInfo,
    mask: Option<SmallVec<[u8; 5]>>,
    run: impl Fn(usize) -> u8,
) -> AccessShape {
    let shape = func.ty(offsets).shape().cloned().unwrap_or_default();
    let vector: SmallVec<[u8; 5]> = (0..shape.rank())
        .map(|axis| {
            let mask = mask.as_ref().map_or(MAX, |m| m[axis]);
            run(axis).min(mask).min(shape[axis].trailing_zeros() as u8)
        })
        .collect();
    let mut order: SmallVec<[usize; 5]> = (0..shape.rank()).rev().collect();
    order.sort_by_key(|&axis| std::cmp::Reverse(info.contiguity[axis]));
    AccessShape { vector, order }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Access, Builder, Dtype, Loc, Param};

    /// A kernel over `x: ptr<u8>` (multiple of 16), `n: i32` (multiple of 16) and what `build` makes of an iota of 64.
    fn analyse(build: impl Fn(&mut Builder, Value, Value) -> Value) -> AxisInfo {
        let at = Loc::unknown();
        let mut n = Param::new("n", Type::scalar(Dtype::I32), Access::Read);
        n.multiple_of = 16;
        let mut b = Builder::new("k", vec![n], at);
        let n = b.func().param_values()[0];
        let iota = b.value(Op::Iota, &[], Some(&Type::tile(Dtype::I32, &[64])), at).unwrap();
        let out = build(&mut b, iota, n);
        let func = b.build(at).unwrap();
        AxisAnalysis::run(&func).of(&func, out)
    }

    fn with_const(b: &mut Builder, op: BinaryOp, x: Value, c: i128) -> Value {
        let c = b.constant(Const::Int(c), &Type::tile(Dtype::I32, &[64]), Loc::unknown()).unwrap();
        b.value(Op::Binary(op), &[x, c], None, Loc::unknown()).unwrap()
    }

    #[test]
    fn an_offset_iota_is_contiguous_and_its_start_divides() {
        let info = analyse(|b, iota, n| {
            let n = b.value(Op::Splat, &[n], Some(&Type::tile(Dtype::I32, &[64])), Loc::unknown()).unwrap();
            b.value(Op::Binary(BinaryOp::Add), &[iota, n], None, Loc::unknown()).unwrap()
        });
        assert_eq!((info.contiguity[0], info.divisibility[0]), (6, 4));
    }

    #[test]
    fn tokens_of_a_page_share_its_index() {
        let page = analyse(|b, iota, _| with_const(b, BinaryOp::Div, iota, 16));
        assert_eq!(page.constancy[0], 4);
        let odd = analyse(|b, iota, _| with_const(b, BinaryOp::Div, iota, 52));
        assert_eq!(odd.constancy[0], 2);
        let slot = analyse(|b, iota, _| with_const(b, BinaryOp::Rem, iota, 52));
        assert_eq!((slot.contiguity[0], slot.divisibility[0]), (2, 2));
    }

    #[test]
    fn negative_numbers_do_not_share_truncated_quotients() {
        let info = analyse(|b, iota, _| {
            let shifted = with_const(b, BinaryOp::Add, iota, -32);
            with_const(b, BinaryOp::Div, shifted, 16)
        });
        assert_eq!(info.constancy[0], 0);
    }

    #[test]
    fn a_bound_that_divides_masks_whole_vectors() {
        let info = analyse(|b, iota, n| {
            let n = b.value(Op::Splat, &[n], Some(&Type::tile(Dtype::I32, &[64])), Loc::unknown()).unwrap();
            b.value(Op::Cmp(CmpOp::Lt), &[iota, n], None, Loc::unknown()).unwrap()
        });
        assert_eq!(info.constancy[0], 4);
        let odd = analyse(|b, iota, n| {
            let n = b.value(Op::Splat, &[n], Some(&Type::tile(Dtype::I32, &[64])), Loc::unknown()).unwrap();
            b.value(Op::Cmp(CmpOp::Le), &[iota, n], None, Loc::unknown()).unwrap()
        });
        assert_eq!(odd.constancy[0], 0);
    }

    #[test]
    fn the_last_axis_runs_fastest_and_strides_align() {
        let at = Loc::unknown();
        let mut x = Param::new("x", Type::ptr(Dtype::F16), Access::Read);
        x.multiple_of = 16;
        let mut b = Builder::new("k", vec![x], at);
        let x = b.func().param_values()[0];
        let (row, full) = (Type::tile(Dtype::I32, &[32]), Type::tile(Dtype::I32, &[32, 80]));
        let rows = b.value(Op::Iota, &[], Some(&row), at).unwrap();
        let eighty = b.constant(Const::Int(80), &row, at).unwrap();
        let rows = b.value(Op::Binary(BinaryOp::Mul), &[rows, eighty], None, at).unwrap();
        let rows = b.value(Op::ExpandDims { axis: 1 }, &[rows], None, at).unwrap();
        let rows = b.value(Op::Broadcast, &[rows], Some(&full), at).unwrap();
        let columns = b.value(Op::Iota, &[], Some(&Type::tile(Dtype::I32, &[80])), at).unwrap();
        let columns = b.value(Op::ExpandDims { axis: 0 }, &[columns], None, at).unwrap();
        let columns = b.value(Op::Broadcast, &[columns], Some(&full), at).unwrap();
        let offsets = b.value(Op::Binary(BinaryOp::Add), &[rows, columns], None, at).unwrap();
        let func = b.build(at).unwrap();
        let access = AxisAnalysis::run(&func).access(&func, x, offsets, None);
        assert_eq!(access.vector.as_slice(), [0, 3]);
        assert_eq!(access.order.as_slice(), [1, 0]);
    }
}
