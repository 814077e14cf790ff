//! Codes of a word as 16-bit floats, two at a time.
//!
//! A code is written into the mantissa of 2^10 (of 2^7 for bfloat16), and the constant is taken off again. Two codes that lie 16 bits apart in a word need no
//! other instruction, wherever in the mantissa they fall: the multiply-add that takes the constant off also shifts. So what is to be
//! paired decides how words are brought together first: a dot wants elements side by side that are next to each other along the sum.
//!
//! Codes as 16-bit integers whose bits become a float's go the same way, without the constant: what is left is a mask, or a choice of bytes.

use std::collections::BTreeMap;

use crate::ir::{Dtype, Func, Inst, Op, Value};
use crate::layout::{LinearLayout, Transposition};
use crate::pass::layout_assign::{Assignment, codes_a_word, is_elementwise};

use super::dot::DotCode;
use super::emit::{Emitted, Emitter};
use super::ir::Val;
use super::shape::register_index;

/// Where a code lies.
#[derive(Clone, Copy)]
struct Place<'c> {
    word: Val<'c>,
    bit: u32,
}

/// For tiles whose elements a dot, or shared memory for it, takes two to a register: by how much the indices of the two differ.
pub(super) fn packed_pairs(
    func: &Func,
    plan: &Assignment,
    dots: &BTreeMap<Inst, Box<dyn DotCode>>,
) -> BTreeMap<Value, u32> {
    let mut out = BTreeMap::new();
    for (&inst, code) in dots {
        let Some(layouts) = plan.dots.get(&inst) else { continue };
        let dims = |layout: &LinearLayout| [layout.dims()[0], layout.dims()[1]];
        let Some(distances) = code.packed([dims(&layouts[0]), dims(&layouts[1])]) else { continue };
        for (&operand, distance) in func.inst(inst).operands.iter().zip(distances) {
            follow(func, plan, operand, distance, &mut out);
        }
    }
    for data in func.walk().into_iter().map(|inst| func.inst(inst)) {
        if matches!(data.op, Op::LocalStore) && func.ty(data.operands[2]).dtype().bits() == 16 {
            let shared = &plan.shared[&data.operands[0]];
            let together =
                (0..shared.elements().trailing_zeros()).map(|i| 1 << i).find(|&v| shared.offset(v) == 1);
            if let Some(distance) = together {
                follow(func, plan, data.operands[2], distance, &mut out);
            }
        }
    }
    out
}

/// Notes the distance for a tile and for those that it is made of in place.
fn follow(func: &Func, plan: &Assignment, value: Value, distance: u32, out: &mut BTreeMap<Value, u32>) {
    if plan.layouts[value].is_none() || out.insert(value, distance).is_some() {
        return;
    }
    let Some(data) = func.def_inst(value).map(|inst| func.inst(inst)) else { return };
    match &data.op {
        Op::Transpose { perm } => {
            let (to, Some(from)) = (plan.layout(value), &plan.layouts[data.operands[0]]) else { return };
            let at = to.coordinates(distance);
            let mut old = vec![0; at.len()];
            perm.iter().zip(at).for_each(|(&p, at)| old[usize::from(p)] = at);
            follow(func, plan, data.operands[0], from.flat(&old), out);
        }
        Op::ConvertLayout => {
            let (operand, to) = (data.operands[0], plan.layout(value));
            let Some(from) = &plan.layouts[operand] else { return };
            if let Some(by) = Transposition::plan(from, to) {
                follow(func, plan, operand, from.registers()[by.columns], out);
            }
        }
        op if is_elementwise(op) => {
            for &operand in &data.operands {
                let same = plan.layouts[operand].as_ref() == plan.layouts[value].as_ref();
                if same && func.ty(operand).shape() == func.ty(value).shape() {
                    follow(func, plan, operand, distance, out);
                }
            }
        }
        _ => {}
    }
}

impl<'c> Emitter<'c, '_> {
    /// Codes or small integers as 16-bit floats, or codes as 16-bit integers, in pairs; `None` where there are no pairs.
    pub(super) fn small_to_halves(
        &self,
        inst: Inst,
        from: Dtype,
        to: Dtype,
        source: &[Val<'c>],
    ) -> Emitted<Option<Vec<Val<'c>>>> {
        if source.len() < 2 {
            return Ok(None);
        }
        let places = self.places(self.func.inst(inst).operands[0]);
        let partner = self.partner(inst);
        let mut out = source.to_vec();
        for r in (0..source.len()).filter(|r| r & partner == 0) {
            let by_place = places.as_ref().and_then(|p| self.coded_pair(from, to, p[r], p[r | partner]));
            let pair = match by_place {
                Some(pair) => pair?,
                None => self.small_pair(from, to, source[r], source[r | partner])?,
            };
            [out[r], out[r | partner]] = match to.is_float() {
                true => [0, 1].map(|i| self.ir.extract(pair, i)),
                false => {
                    [0, 16].map(|by| self.ir.resize(self.ir.lshr(pair, by), self.ir.int_type(16), false))
                }
            };
        }
        Ok(Some(out))
    }

    /// 16-bit integers as floats of the same bits, in the pairs that a dot takes; `None` where none does. Put together as integers, in which LLVM finds
    /// that they were parts of one.
    pub(super) fn words_as_halves(&self, inst: Inst, to: Dtype, source: &[Val<'c>]) -> Option<Vec<Val<'c>>> {
        let ir = &self.ir;
        let ty = self.llvm_type(to).into_float_type().vec_type(2).into();
        let wide = |v| ir.zext(v, ir.i32());
        self.in_pairs(inst, source, |a, b| ir.bitcast(ir.or(wide(a), ir.shl(wide(b), ir.c32(16))), ty))
    }

    /// `f32` as 16-bit floats, in the pairs that a dot takes; `None` where none does.
    pub(super) fn floats_to_halves(&self, inst: Inst, to: Dtype, source: &[Val<'c>]) -> Option<Vec<Val<'c>>> {
        self.in_pairs(inst, source, |a, b| self.round_pair(self.ir.vector(&[a, b]), to))
    }

    /// What `both` makes of each pair that a dot takes of the result; `None` where none does.
    fn in_pairs(
        &self,
        inst: Inst,
        source: &[Val<'c>],
        both: impl Fn(Val<'c>, Val<'c>) -> Val<'c>,
    ) -> Option<Vec<Val<'c>>> {
        let result = self.func.inst(inst).results[0];
        let distance = *self.packed.get(&result)?;
        let bit = self.layout(result).registers().iter().position(|&v| v == distance)?;
        let mut out = source.to_vec();
        for r in (0..source.len()).filter(|r| r >> bit & 1 == 0) {
            let other = r | 1 << bit;
            let pair = both(source[r], source[other]);
            (out[r], out[other]) = (self.ir.extract(pair, 0), self.ir.extract(pair, 1));
        }
        Some(out)
    }

    /// Where the codes of an unpacked tile lie, by register; `None` where that depends on the lane.
    fn places(&self, codes: Value) -> Option<Vec<Place<'c>>> {
        let data = self.func.inst(self.func.def_inst(codes)?);
        if !matches!(data.op, Op::Unpack) || !self.is_tile(codes) {
            return None;
        }
        let words = data.operands[0];
        let low = codes_a_word(self.func.ty(codes), self.func.ty(words));
        let (bits, mask) = (self.dtype(codes).bits(), (1u32 << low) - 1);
        let layout = self.layout(codes);
        if layout.lanes().iter().chain(layout.warps()).any(|v| v & mask != 0) {
            return None;
        }
        let (source, index) = (self.registers(words), register_index(self.layout(words)));
        let place = |r| {
            let flat = layout.at(r, 0, 0);
            let word = self.ir.zext(source[index[&(flat >> low)]], self.ir.i32());
            Place { word, bit: (flat & mask) * bits }
        };
        Some((0..layout.register_count() as u32).map(place).collect())
    }

    /// The register bit by which partners differ: what the dot that takes the result packs, else a code 16 bits further in the same word, so
    /// that one shift and one logic op isolate both; else the lowest.
    fn partner(&self, inst: Inst) -> usize {
        let data = self.func.inst(inst);
        let (operand, result) = (data.operands[0], data.results[0]);
        if !self.is_tile(operand) {
            return 1;
        }
        let layout = self.layout(operand);
        let bit_of = |wanted| layout.registers().iter().position(|&v| v == wanted);
        if let Some(bit) = self.packed.get(&result).and_then(|&distance| bit_of(distance)) {
            return 1 << bit;
        }
        let bits = self.dtype(operand).bits();
        let unpacked = |v| matches!(self.func.def_inst(v).map(|i| &self.func.inst(i).op), Some(Op::Unpack));
        let distance = if unpacked(operand) || bits == 8 { (16 / bits).trailing_zeros() } else { 0 };
        1 << bit_of(1 << distance).unwrap_or(0)
    }

    /// Two codes, found by where they lie; `None` where that does not help.
    fn coded_pair(&self, from: Dtype, to: Dtype, a: Place<'c>, b: Place<'c>) -> Option<Emitted<Val<'c>>> {
        let Dtype::Code(bits) = from else { return None };
        let bits = u32::from(bits);
        let mantissa = if to == Dtype::BF16 { 7 } else { 10 };
        if bits > mantissa || bits > 8 {
            return None;
        }
        Some(if bits == 8 { self.byte_pair(to, a, b) } else { self.bit_pair(bits, mantissa, to, a, b)? })
    }

    /// Two bytes, each under the upper byte of 2^10, or of 0.
    fn byte_pair(&self, to: Dtype, a: Place<'c>, b: Place<'c>) -> Emitted<Val<'c>> {
        let (magic, high) = (self.ir.c32(if to.is_float() { 0x6464_6464 } else { 0 }), 4);
        let (word, low) = if a.word == b.word {
            (a.word, [a.bit / 8, b.bit / 8])
        } else {
            // The lower or the upper halves of both words, which hold two pairs.
            let (i, j) = (a.bit / 8, b.bit / 8);
            let both = self.permute(a.word, b.word, [i & !1, (j & !1) + 4, i | 1, (j | 1) + 4])?;
            (both, [(i & 1) * 2, (j & 1) * 2 + 1])
        };
        let biased = self.permute(word, magic, [low[0], high, low[1], high])?;
        if to.is_float() { self.unbiased(biased, to, 0, 10) } else { Ok(biased) }
    }

    /// Two codes of up to 7 bits under the upper bits of the constant, or of 0; `None` where they do not lie alike in their halves of a word.
    fn bit_pair(
        &self,
        bits: u32,
        mantissa: u32,
        to: Dtype,
        a: Place<'c>,
        b: Place<'c>,
    ) -> Option<Emitted<Val<'c>>> {
        if a.bit % 16 != b.bit % 16 {
            return None;
        }
        let halves = [a.bit / 16 * 2, b.bit / 16 * 2];
        let word = if a.word == b.word && halves == [0, 2] {
            Ok(a.word)
        } else {
            let [i, j] = [halves[0], halves[1] + 4];
            self.permute(a.word, b.word, [i, i + 1, j, j + 1])
        };
        let bit = a.bit % 16;
        if !to.is_float() {
            let mask = (1u32 << bits) - 1;
            return Some(word.map(|word| self.masked(self.ir.lshr(word, bit), mask | mask << 16, bit == 0)));
        }
        // The least shift of whole bytes by which the code falls into the mantissa.
        let shift = [0, 8].into_iter().find(|&s| bit >= s && bit - s + bits <= mantissa).unwrap_or(bit);
        Some(word.and_then(|word| {
            let at = bit - shift;
            let mask = ((1u32 << bits) - 1) << at;
            let biased = self.under(self.ir.lshr(word, shift), mask | mask << 16, magic(to));
            self.unbiased(biased, to, at, mantissa)
        }))
    }

    /// `word & mask | bits` as one instruction.
    fn under(&self, word: Val<'c>, mask: u32, bits: u32) -> Val<'c> {
        let text = format!("lop3.b32 $0, $1, {mask:#x}, {bits:#x}, 0xEA;");
        self.ir.asm(&text, "=r,r", &[self.ir.i32().into()], &[word], false)[0]
    }

    /// `word & mask`. If `whole`, so that LLVM does not take the halves apart: it finds a shift back of what was shifted only where it sees what is in them.
    fn masked(&self, word: Val<'c>, mask: u32, whole: bool) -> Val<'c> {
        if !whole {
            return self.ir.and(word, self.ir.c32(mask));
        }
        let text = format!("and.b32 $0, $1, {mask:#x};");
        self.ir.asm(&text, "=r,r", &[self.ir.i32().into()], &[word], false)[0]
    }

    /// Four bytes of eight, by number.
    pub(super) fn permute(&self, a: Val<'c>, b: Val<'c>, bytes: [u32; 4]) -> Emitted<Val<'c>> {
        let selector = bytes.iter().rev().fold(0, |sum, byte| sum << 4 | byte);
        self.ir.call("llvm.nvvm.prmt", &[], &[a, b, self.ir.c32(selector)])
    }

    /// The pair of numbers `code` of `2^mantissa + code * 2^at`, exactly.
    fn unbiased(&self, biased: Val<'c>, to: Dtype, at: u32, mantissa: u32) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let ty = self.llvm_type(to).into_float_type();
        let splat = |x: f64| ir.vector(&[ty.const_float(x).into(), ty.const_float(x).into()]);
        let factor = f64::from(at).exp2().recip();
        let bias = f64::from(mantissa).exp2() * factor;
        // As a fused multiply-add, also by one: not every GPU has a packed subtraction of bfloat16.
        let vector = ty.vec_type(2).into();
        ir.call("llvm.fma", &[vector], &[ir.bitcast(biased, vector), splat(factor), splat(-bias)])
    }

    /// Two small integers in registers of their own as a vector of two 16-bit floats, or as the halves of a word.
    fn small_pair(&self, from: Dtype, to: Dtype, a: Val<'c>, b: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        if to == Dtype::BF16 && from.bits() > 7 {
            // Eight bits do not fit a bfloat16 mantissa: by way of f32, rounded as a pair.
            let wide = [a, b].map(|v| self.small_to_f32(from, v));
            return Ok(self.round_pair(ir.vector(&wide), to));
        }
        let widen = |v: Val<'c>| {
            let v = ir.zext(v, ir.i32());
            if from == Dtype::I8 { ir.xor(v, ir.c32(0x80)) } else { v }
        };
        let packed = ir.or(widen(a), ir.shl(widen(b), ir.c32(16)));
        if !to.is_float() {
            return Ok(packed);
        }
        let vector = self.llvm_type(to).into_float_type().vec_type(2).into();
        let biased = ir.bitcast(ir.or(packed, ir.c32(magic(to))), vector);
        let bias = if to == Dtype::F16 { 1024.0 } else { 128.0 };
        let bias = bias + if from == Dtype::I8 { 128.0 } else { 0.0 };
        let splat = |x: f64| {
            let x: Val<'c> = self.llvm_type(to).into_float_type().const_float(x).into();
            ir.vector(&[x, x])
        };
        ir.call("llvm.fma", &[vector], &[biased, splat(1.0), splat(-bias)])
    }
}

/// A pair of the power of two whose mantissa counts in ones.
fn magic(to: Dtype) -> u32 {
    if to == Dtype::F16 { 0x6400_6400 } else { 0x4300_4300 }
}
