//! Conversions between element types.
//!
//! Small integers become floats by writing them into the mantissa of a constant and subtracting the constant ("magic
//! number"), two at a time where the result is 16 bits wide ([`super::codes`]): the conversion instruction runs at a fraction of the rate.

use inkwell::{FloatPredicate, IntPredicate};

use crate::ir::{Dtype, Inst};

use super::emit::{Emitted, Emitter};
use super::ir::Val;

impl<'c> Emitter<'c, '_> {
    pub(super) fn cast(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let (from, to) = (self.dtype(data.operands[0]), self.dtype(data.results[0]));
        let source = self.registers(data.operands[0]);
        let small = from.is_code() || matches!(from, Dtype::I8 | Dtype::U8);
        let halves = match to {
            Dtype::F16 | Dtype::BF16 => small,
            // Whose bits a dot takes as floats.
            Dtype::I16 | Dtype::U16 => from.is_code() && self.packed.contains_key(&data.results[0]),
            _ => false,
        };
        if halves && let Some(halves) = self.small_to_halves(inst, from, to, &source)? {
            self.set_registers(data.results[0], halves);
            return Ok(());
        }
        if from == Dtype::F32
            && matches!(to, Dtype::F16 | Dtype::BF16)
            && let Some(halves) = self.floats_to_halves(inst, to, &source)
        {
            self.set_registers(data.results[0], halves);
            return Ok(());
        }
        let done: Emitted<Vec<_>> = source.iter().map(|&value| self.cast_one(from, to, value)).collect();
        self.set_registers(data.results[0], done?);
        Ok(())
    }

    /// A vector of two `f32` rounded to 16-bit floats.
    pub(super) fn round_pair(&self, pair: Val<'c>, to: Dtype) -> Val<'c> {
        let ty = self.llvm_type(to).into_float_type().vec_type(2);
        self.ir
            .b
            .build_cast(inkwell::values::InstructionOpcode::FPTrunc, pair, ty, "")
            .expect("two f32 round to a pair")
    }

    /// An unsigned number below 2^23 in a 32-bit register.
    pub(super) fn small_int_to_f32(&self, value: Val<'c>) -> Val<'c> {
        let ir = &self.ir;
        let bits = ir.or(value, ir.c32(0x4B00_0000));
        ir.fsub(ir.bitcast(bits, ir.f32().into()), ir.cf32(8_388_608.0))
    }

    pub(super) fn small_to_f32(&self, from: Dtype, value: Val<'c>) -> Val<'c> {
        let ir = &self.ir;
        if from == Dtype::I8 {
            let biased = ir.xor(ir.zext(value, ir.i32()), ir.c32(0x80));
            let bits = ir.or(biased, ir.c32(0x4B00_0000));
            return ir.fsub(ir.bitcast(bits, ir.f32().into()), ir.cf32(8_388_736.0));
        }
        self.small_int_to_f32(ir.zext(value, ir.i32()))
    }

    /// One element.
    pub(super) fn cast_one(&self, from: Dtype, to: Dtype, value: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        if from == to {
            return Ok(value);
        }
        if to == Dtype::I1 {
            return Ok(if from.is_float() {
                let wide = self.to_f32_or_f64(from, value);
                ir.fcmp(FloatPredicate::UNE, wide, ir.zero(wide.get_type()))
            } else {
                ir.icmp(IntPredicate::NE, value, ir.zero(value.get_type()))
            });
        }
        if to.is_float() {
            let ty = self.llvm_type(to).into_float_type();
            if from.is_float() {
                return Ok(self.float_to_float(from, to, value));
            }
            let small = from.is_code() || matches!(from, Dtype::I8 | Dtype::U8);
            if small && to != Dtype::F64 {
                let wide = self.small_to_f32(from, value);
                return Ok(if to == Dtype::F32 { wide } else { ir.fptrunc(wide, ty) });
            }
            let lacks = match to {
                Dtype::BF16 => !self.gpu.bf16_arithmetic,
                Dtype::F16 => from.bits() >= 32,
                _ => false,
            };
            if lacks {
                return self.int_to_half(from, to, value);
            }
            return Ok(ir.int_to_float(value, ty, from.is_signed_int()));
        }
        // To an integer or a code.
        let ty = self.llvm_type(to).into_int_type();
        if from.is_float() {
            return self.float_to_int(from, to, value);
        }
        let resized = ir.resize(value, ty, from.is_signed_int());
        Ok(match to {
            Dtype::Code(bits) if from.bits() > u32::from(bits) => ir.and(resized, ir.c32((1 << bits) - 1)),
            _ => resized,
        })
    }

    /// Integers of 16 bits and more to 16-bit floats with one rounding: by way of f32, rounded to odd where f32 does not
    /// hold the number exactly.
    fn int_to_half(&self, from: Dtype, to: Dtype, value: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let half = self.llvm_type(to).into_float_type();
        let signed = from.is_signed_int();
        if from.bits() <= 16 {
            return Ok(ir.fptrunc(ir.int_to_float(value, ir.f32(), signed), half));
        }
        let f64t = ir.cx.f64_type();
        if from.bits() == 32 {
            // f64 holds it exactly.
            let exact = ir.int_to_float(value, f64t, signed);
            return Ok(self.f64_to_half(exact, to));
        }
        // Fold the low bits that f64 cannot hold into one sticky bit: they decide ties alone.
        let wide = ir.i64();
        let negative = ir.icmp(IntPredicate::SLT, value, ir.c64(0));
        let magnitude = if signed { ir.select(negative, ir.sub(ir.c64(0), value), value) } else { value };
        let low = ir.and(magnitude, ir.c64(0xFFFF));
        let sticky = ir.resize(ir.icmp(IntPredicate::NE, low, ir.c64(0)), wide, false);
        let high = ir.or(ir.shl(ir.lshr(magnitude, 16), ir.c64(16)), ir.shl(sticky, ir.c64(15)));
        let large = ir.icmp(IntPredicate::UGE, magnitude, ir.c64(1 << 40));
        let exact = ir.int_to_float(ir.select(large, high, magnitude), f64t, false);
        let rounded = self.f64_to_half(exact, to);
        Ok(if signed { ir.select(negative, ir.fneg(rounded), rounded) } else { rounded })
    }

    /// Rounds f64 to a 16-bit float once: to f32 rounding to odd, then to nearest.
    fn f64_to_half(&self, value: Val<'c>, to: Dtype) -> Val<'c> {
        let ir = &self.ir;
        let single = ir.fptrunc(value, ir.f32());
        let back = ir.fpext(single, ir.cx.f64_type());
        let bits = ir.bitcast(single, ir.i32().into());
        // Toward zero, with the last bit set when anything was lost.
        let (value_abs, back_abs) = (
            ir.and(ir.bitcast(value, ir.i64().into()), ir.c64(i64::MAX)),
            ir.and(ir.bitcast(back, ir.i64().into()), ir.c64(i64::MAX)),
        );
        let above = ir.icmp(IntPredicate::UGT, back_abs, value_abs);
        let inexact = ir.fcmp(FloatPredicate::ONE, back, value);
        let down = ir.sub(bits, ir.resize(above, ir.i32(), false));
        let odd = ir.or(down, ir.c32(1));
        let fixed = ir.select(inexact, odd, bits);
        ir.fptrunc(ir.bitcast(fixed, ir.f32().into()), self.llvm_type(to).into_float_type())
    }

    fn to_f32_or_f64(&self, from: Dtype, value: Val<'c>) -> Val<'c> {
        match from {
            Dtype::F16 | Dtype::BF16 => self.ir.fpext(value, self.ir.f32()),
            _ => value,
        }
    }

    fn float_to_float(&self, from: Dtype, to: Dtype, value: Val<'c>) -> Val<'c> {
        let ir = &self.ir;
        let ty = self.llvm_type(to).into_float_type();
        match (from, to) {
            // Through f32, which holds both.
            (Dtype::F16, Dtype::BF16) | (Dtype::BF16, Dtype::F16) => {
                ir.fptrunc(ir.fpext(value, ir.f32()), ty)
            }
            (Dtype::F64, Dtype::BF16) if !self.gpu.bf16_arithmetic => self.f64_to_half(value, to),
            (Dtype::BF16, Dtype::F64) => ir.fpext(ir.fpext(value, ir.f32()), ty),
            _ if to.bits() > from.bits() => ir.fpext(value, ty),
            _ => ir.fptrunc(value, ty),
        }
    }

    /// Toward zero, saturating, NaN to zero.
    fn float_to_int(&self, from: Dtype, to: Dtype, value: Val<'c>) -> Emitted<Val<'c>> {
        let ty = self.llvm_type(to);
        let wide = self.to_f32_or_f64(from, value);
        let name = if to.is_signed_int() { "llvm.fptosi.sat" } else { "llvm.fptoui.sat" };
        self.ir.call(name, &[ty, wide.get_type()], &[wide])
    }
}
