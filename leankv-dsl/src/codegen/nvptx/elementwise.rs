//! Element-wise ops.

use inkwell::types::BasicTypeEnum;
use inkwell::values::AnyValue;
use inkwell::{FloatPredicate, IntPredicate};
use smallvec::SmallVec;

use crate::ir::{BinaryOp, CmpOp, CombineKind, Dtype, Inst, Op, UnaryOp, Value};

use super::emit::{Emitted, Emitter};
use super::ir::Val;

impl<'c> Emitter<'c, '_> {
    pub(super) fn elementwise(&mut self, inst: Inst) -> Emitted {
        let data = self.func.inst(inst);
        let operands: Vec<_> = data.operands.iter().map(|&v| self.registers(v)).collect();
        let result = data.results[0];
        let dtype = self.dtype(data.operands[0]);
        let count = operands[0].len();
        if count > 1 && self.has_pairs(&data.op, dtype) {
            let pairs: Emitted<Vec<[Val<'c>; 2]>> =
                (0..count).step_by(2).map(|r| self.pair(&data.op, dtype, &operands, r)).collect();
            self.set_registers(result, pairs?.into_flattened());
            return Ok(());
        }
        let to = self.dtype(result);
        if matches!((&data.op, to), (Op::Bitcast, Dtype::F16 | Dtype::BF16))
            && !dtype.is_float()
            && let Some(halves) = self.words_as_halves(inst, to, &operands[0])
        {
            self.set_registers(result, halves);
            return Ok(());
        }
        let mut out = Vec::with_capacity(count);
        for r in 0..count {
            let arg = |i: usize| operands[i][r];
            out.push(match &data.op {
                Op::Unary(op) => self.unary(*op, dtype, arg(0))?,
                Op::Binary(op) => {
                    let divisor = self.func.constant(data.operands[1]).and_then(|c| c.as_int());
                    let address = self.addresses.contains(&result);
                    match if address { self.address_arithmetic(*op, arg(0), arg(1)) } else { None } {
                        Some(value) => value,
                        None => self.binary_with(*op, dtype, arg(0), arg(1), divisor)?,
                    }
                }
                Op::Fma => self.fma(dtype, arg(0), arg(1), arg(2))?,
                Op::Cmp(op) => self.compare(*op, dtype, arg(0), arg(1)),
                Op::Select => self.ir.select(arg(0), arg(1), arg(2)),
                Op::Bitcast => self.ir.bitcast(arg(0), self.llvm_type(to)),
                Op::Quantize => self.quantize(to, arg(0), arg(1), arg(2))?,
                Op::Dequantize => {
                    let code = self.small_int_to_f32(arg(0));
                    self.fma(Dtype::F32, arg(1), code, arg(2))?
                }
                Op::InlinePtx { asm, constraints } => {
                    let args: Vec<Val<'c>> = (0..operands.len()).map(arg).collect();
                    self.inline_ptx(asm, constraints, result, &data.operands, &args)
                }
                other => unreachable!("internal error: `{}` is not element-wise", other.name()),
            });
        }
        self.set_registers(result, out);
        Ok(())
    }

    /// Whether one instruction works on two elements.
    fn has_pairs(&self, op: &Op, dtype: Dtype) -> bool {
        match (op, dtype) {
            (Op::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul), Dtype::BF16) => {
                self.gpu.bf16_arithmetic
            }
            (Op::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul) | Op::Fma, Dtype::F32) => {
                self.gpu.f32_pairs
            }
            _ => false,
        }
    }

    /// The elements in registers `r` and `r + 1`.
    fn pair(
        &self,
        op: &Op,
        dtype: Dtype,
        operands: &[SmallVec<[Val<'c>; 8]>],
        r: usize,
    ) -> Emitted<[Val<'c>; 2]> {
        let arg = |i: usize| self.ir.vector(&operands[i][r..r + 2]);
        let both = match op {
            Op::Binary(op) => self.float_binary(*op, dtype, arg(0), arg(1))?,
            _ => self.fma(dtype, arg(0), arg(1), arg(2))?,
        };
        Ok([0, 1].map(|i| self.ir.extract(both, i)))
    }

    /// Arithmetic of an address, which does not wrap; `None` for ops that have no such form.
    fn address_arithmetic(&self, op: BinaryOp, a: Val<'c>, b: Val<'c>) -> Option<Val<'c>> {
        match op {
            BinaryOp::Add => Some(self.ir.add_nsw(a, b)),
            BinaryOp::Sub => Some(self.ir.sub_nsw(a, b)),
            BinaryOp::Mul => Some(self.ir.mul_nsw(a, b)),
            _ => None,
        }
    }

    /// Computes a 16-bit float op in `f32` and rounds once.
    pub(super) fn in_f32(
        &self,
        args: &[Val<'c>],
        compute: impl FnOnce(&[Val<'c>]) -> Emitted<Val<'c>>,
    ) -> Emitted<Val<'c>> {
        let ty = args[0].into_float_value().get_type();
        let wide: Vec<Val<'c>> = args.iter().map(|&a| self.ir.fpext(a, self.ir.f32())).collect();
        Ok(self.ir.fptrunc(compute(&wide)?, ty))
    }

    /// A binary op on scalars of a type.
    pub(super) fn binary(&self, op: BinaryOp, dtype: Dtype, a: Val<'c>, b: Val<'c>) -> Emitted<Val<'c>> {
        self.binary_with(op, dtype, a, b, None)
    }

    /// As `binary`; the right operand may be known.
    fn binary_with(
        &self,
        op: BinaryOp,
        dtype: Dtype,
        a: Val<'c>,
        b: Val<'c>,
        right: Option<i128>,
    ) -> Emitted<Val<'c>> {
        if dtype.is_float() {
            self.float_binary(op, dtype, a, b)
        } else {
            self.int_binary(op, dtype, a, b, right)
        }
    }

    fn float_binary(&self, op: BinaryOp, dtype: Dtype, a: Val<'c>, b: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        // Sums, differences and products rounded to f32 and then to 16 bits are those rounded once, so it does not matter which of
        // them a GPU has. Quotients exist for f32 and f64 only.
        let lacks = match op {
            BinaryOp::Div => matches!(dtype, Dtype::F16 | Dtype::BF16),
            BinaryOp::Min | BinaryOp::Max => false,
            _ => dtype == Dtype::BF16 && !self.gpu.bf16_arithmetic,
        };
        if lacks {
            return self.in_f32(&[a, b], |w| self.float_binary(op, Dtype::F32, w[0], w[1]));
        }
        Ok(match op {
            BinaryOp::Add => ir.fadd(a, b),
            BinaryOp::Sub => ir.fsub(a, b),
            BinaryOp::Mul => ir.fmul(a, b),
            BinaryOp::Div => ir.fdiv(a, b),
            BinaryOp::Min => ir.call("llvm.minnum", &[a.get_type()], &[a, b])?,
            BinaryOp::Max => ir.call("llvm.maxnum", &[a.get_type()], &[a, b])?,
            other => unreachable!("internal error: `{other}` of floats passed the checks"),
        })
    }

    fn int_binary(
        &self,
        op: BinaryOp,
        dtype: Dtype,
        a: Val<'c>,
        b: Val<'c>,
        right: Option<i128>,
    ) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let signed = dtype.is_signed_int();
        let ty = a.into_int_value().get_type();
        let constant = |v: i64| ir.int(ty, v);
        Ok(match op {
            BinaryOp::Add => ir.add(a, b),
            BinaryOp::Sub => ir.sub(a, b),
            BinaryOp::Mul => ir.mul(a, b),
            BinaryOp::Div | BinaryOp::Rem => {
                let apply = |n, d| match (op, signed) {
                    (BinaryOp::Div, true) => ir.sdiv(n, d),
                    (BinaryOp::Div, false) => ir.udiv(n, d),
                    (_, true) => ir.srem(n, d),
                    (_, false) => ir.urem(n, d),
                };
                if right.is_some_and(|d| d != 0 && d != -1) {
                    return Ok(apply(a, b));
                }
                // By zero gives 0; the least number by -1 wraps, which is that number (and no remainder).
                let zero = ir.icmp(IntPredicate::EQ, b, constant(0));
                let mut avoid = zero;
                if signed {
                    let least = constant(-1i64 << (ty.get_bit_width() - 1));
                    let wraps = ir
                        .and(ir.icmp(IntPredicate::EQ, b, constant(-1)), ir.icmp(IntPredicate::EQ, a, least));
                    avoid = ir.or(zero, wraps);
                }
                let quotient = apply(a, ir.select(avoid, constant(1), b));
                ir.select(zero, constant(0), quotient)
            }
            BinaryOp::Min | BinaryOp::Max => {
                let predicate = match (op, signed) {
                    (BinaryOp::Min, true) => IntPredicate::SLT,
                    (BinaryOp::Min, false) => IntPredicate::ULT,
                    (_, true) => IntPredicate::SGT,
                    (_, false) => IntPredicate::UGT,
                };
                ir.select(ir.icmp(predicate, a, b), a, b)
            }
            BinaryOp::And => ir.and(a, b),
            BinaryOp::Or => ir.or(a, b),
            BinaryOp::Xor => ir.xor(a, b),
            BinaryOp::Shl | BinaryOp::Shr => {
                let width = i128::from(ty.get_bit_width());
                let shift = |by| if op == BinaryOp::Shl { ir.shl(a, by) } else { ir.shr(a, by, signed) };
                if right.is_some_and(|by| (0..width).contains(&by)) {
                    return Ok(shift(b));
                }
                let fits = ir.icmp(IntPredicate::ULT, b, constant(width as i64));
                let all = constant(width as i64 - 1);
                // Shifts are masked and not clamped where they fall away afterwards: LLVM would take the clamp for the hardware's,
                // which looks at the low 32 bits alone.
                let by = if op == BinaryOp::Shr && signed { ir.select(fits, b, all) } else { ir.and(b, all) };
                let shifted = shift(by);
                if op == BinaryOp::Shr && signed { shifted } else { ir.select(fits, shifted, constant(0)) }
            }
            BinaryOp::MulHi => {
                let bits = ty.get_bit_width();
                let wide = ir
                    .cx
                    .custom_width_int_type(std::num::NonZeroU32::new(bits * 2).expect("a width is positive"))
                    .expect("128 bits are an integer type");
                let (x, y) = (ir.resize(a, wide, signed), ir.resize(b, wide, signed));
                let product = ir.mul(x, y);
                ir.resize(ir.shr(product, wide.const_int(bits.into(), false).into(), false), ty, false)
            }
        })
    }

    pub(super) fn fma(&self, dtype: Dtype, a: Val<'c>, b: Val<'c>, c: Val<'c>) -> Emitted<Val<'c>> {
        if matches!(dtype, Dtype::F16 | Dtype::BF16) {
            return self.in_f32(&[a, b, c], |w| self.fma(Dtype::F32, w[0], w[1], w[2]));
        }
        self.ir.call("llvm.fma", &[a.get_type()], &[a, b, c])
    }

    /// Combines two elements by a built-in kind.
    pub(super) fn combine(
        &self,
        kind: CombineKind,
        dtype: Dtype,
        a: Val<'c>,
        b: Val<'c>,
    ) -> Emitted<Val<'c>> {
        self.binary(kind.binary(), dtype, a, b)
    }

    pub(super) fn compare(&self, op: CmpOp, dtype: Dtype, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        if dtype.is_float() {
            let predicate = match op {
                CmpOp::Eq => FloatPredicate::OEQ,
                CmpOp::Ne => FloatPredicate::UNE,
                CmpOp::Lt => FloatPredicate::OLT,
                CmpOp::Le => FloatPredicate::OLE,
                CmpOp::Gt => FloatPredicate::OGT,
                CmpOp::Ge => FloatPredicate::OGE,
            };
            if dtype == Dtype::BF16 && !self.gpu.bf16_arithmetic {
                let (x, y) = (self.ir.fpext(a, self.ir.f32()), self.ir.fpext(b, self.ir.f32()));
                return self.ir.fcmp(predicate, x, y);
            }
            return self.ir.fcmp(predicate, a, b);
        }
        let signed = dtype.is_signed_int();
        let predicate = match (op, signed) {
            (CmpOp::Eq, _) => IntPredicate::EQ,
            (CmpOp::Ne, _) => IntPredicate::NE,
            (CmpOp::Lt, true) => IntPredicate::SLT,
            (CmpOp::Lt, false) => IntPredicate::ULT,
            (CmpOp::Le, true) => IntPredicate::SLE,
            (CmpOp::Le, false) => IntPredicate::ULE,
            (CmpOp::Gt, true) => IntPredicate::SGT,
            (CmpOp::Gt, false) => IntPredicate::UGT,
            (CmpOp::Ge, true) => IntPredicate::SGE,
            (CmpOp::Ge, false) => IntPredicate::UGE,
        };
        self.ir.icmp(predicate, a, b)
    }

    pub(super) fn unary(&self, op: UnaryOp, dtype: Dtype, a: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let ty = a.get_type();
        Ok(match op {
            UnaryOp::Neg if dtype.is_float() => ir.fneg(a),
            UnaryOp::Neg => ir.sub(ir.zero(ty), a),
            UnaryOp::Not => ir.not(a),
            UnaryOp::Abs if dtype.is_float() => ir.call("llvm.fabs", &[ty], &[a])?,
            UnaryOp::Abs if dtype.is_signed_int() => {
                let negative = ir.icmp(IntPredicate::SLT, a, ir.zero(ty));
                ir.select(negative, ir.sub(ir.zero(ty), a), a)
            }
            UnaryOp::Abs => a,
            UnaryOp::Popcount => ir.call("llvm.ctpop", &[ty], &[a])?,
            UnaryOp::Clz => ir.call("llvm.ctlz", &[ty], &[a, ir.bool(false)])?,
            _ if matches!(dtype, Dtype::F16 | Dtype::BF16) => {
                self.in_f32(&[a], |w| self.unary(op, Dtype::F32, w[0]))?
            }
            UnaryOp::Sqrt => ir.call("llvm.sqrt", &[ty], &[a])?,
            UnaryOp::Floor => ir.call("llvm.floor", &[ty], &[a])?,
            UnaryOp::Ceil => ir.call("llvm.ceil", &[ty], &[a])?,
            UnaryOp::Trunc => ir.call("llvm.trunc", &[ty], &[a])?,
            UnaryOp::Round => ir.call("llvm.roundeven", &[ty], &[a])?,
            UnaryOp::Rcp if dtype == Dtype::F64 => ir.fdiv(self.one(ty), a),
            UnaryOp::Rsqrt if dtype == Dtype::F64 => {
                let root = ir.call("llvm.sqrt", &[ty], &[a])?;
                ir.fdiv(self.one(ty), root)
            }
            other => self.approximate(other, a)?,
        })
    }

    fn one(&self, ty: BasicTypeEnum<'c>) -> Val<'c> {
        ty.into_float_type().const_float(1.0).into()
    }

    fn quantize(&self, to: Dtype, x: Val<'c>, scale: Val<'c>, zero: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let f32t: BasicTypeEnum<'c> = ir.f32().into();
        let quotient = ir.fdiv(ir.fsub(x, zero), scale);
        let rounded = ir.call("llvm.roundeven", &[f32t], &[quotient])?;
        // `maxnum` takes a NaN to the bound.
        let low = ir.call("llvm.maxnum", &[f32t], &[rounded, ir.cf32(0.0)])?;
        let top = ir.cf32(((1u32 << to.bits()) - 1) as f32);
        let clamped = ir.call("llvm.minnum", &[f32t], &[low, top])?;
        let code = ir.b.build_float_to_unsigned_int(clamped.into_float_value(), ir.i32(), "")?;
        let flat = ir.fcmp(FloatPredicate::OEQ, scale, ir.cf32(0.0));
        Ok(ir.select(flat, ir.c32(0), code.into()))
    }

    fn inline_ptx(
        &self,
        asm: &str,
        constraints: &str,
        result: Value,
        operands: &[Value],
        args: &[Val<'c>],
    ) -> Val<'c> {
        // Operands go into the registers that their constraints name: `h` 16, `r` 32, `l` 64 bits, `f` and `d` floats.
        let parts: Vec<&str> = constraints.split(',').collect();
        let register = |constraint: &str, dtype: Dtype| -> BasicTypeEnum<'c> {
            match constraint.trim_start_matches('=') {
                "h" => self.ir.i16().into(),
                "r" => self.ir.i32().into(),
                "l" => self.ir.i64().into(),
                _ => self.llvm_type(dtype),
            }
        };
        let fit = |value: Val<'c>, dtype: Dtype, ty: BasicTypeEnum<'c>| {
            if value.get_type() == ty {
                return value;
            }
            let bits = self.ir.bitcast(value, self.ir.int_type(self.register_bits(dtype)).into());
            match ty {
                BasicTypeEnum::IntType(t) => self.ir.resize(bits, t, dtype.is_signed_int()),
                _ => bits,
            }
        };
        let inputs: Vec<Val<'c>> = args
            .iter()
            .zip(operands)
            .enumerate()
            .map(|(i, (&arg, &v))| {
                fit(arg, self.dtype(v), register(parts.get(i + 1).unwrap_or(&"r"), self.dtype(v)))
            })
            .collect();
        let dtype = self.dtype(result);
        let out = register(parts[0], dtype);
        let value = self.ir.asm(asm, constraints, &[out], &inputs, false)[0];
        let wanted = self.llvm_type(dtype);
        if value.get_type() == wanted {
            return value;
        }
        let narrow = self.ir.resize(value, self.ir.int_type(self.register_bits(dtype)), false);
        debug_assert!(!narrow.as_any_value_enum().is_pointer_value());
        self.ir.bitcast(narrow, wanted)
    }

    /// Bits of an element in a register.
    pub(super) fn register_bits(&self, dtype: Dtype) -> u32 {
        if dtype.is_code() { 32 } else { dtype.bits() }
    }
}
