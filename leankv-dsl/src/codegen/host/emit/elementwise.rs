//! Element-wise ops on scalars and vectors, as `ir::op` defines them.
//!
//! 16-bit floats are held as `f32` values that are exact in their type: each op computes in `f32` and rounds once.
//! Codes are held as `i32`.

use super::super::build::{Elem, FloatCmp, IntCmp, V};
use super::{CodegenError, Emit, Val};
use crate::ir::{BinaryOp, CmpOp, Const, Dtype, UnaryOp};

/// How a type is held in registers.
pub(in super::super) fn register(dtype: Dtype) -> Elem {
    match dtype {
        Dtype::I1 => Elem::I1,
        Dtype::I8 | Dtype::U8 => Elem::I8,
        Dtype::I16 | Dtype::U16 => Elem::I16,
        Dtype::I32 | Dtype::U32 | Dtype::Code(_) => Elem::I32,
        Dtype::I64 | Dtype::U64 => Elem::I64,
        Dtype::F16 | Dtype::BF16 | Dtype::F32 => Elem::F32,
        Dtype::F64 => Elem::F64,
    }
}

impl Emit<'_, '_> {
    /// A constant scalar in its register form.
    pub(in super::super) fn constant(&self, value: Const, dtype: Dtype) -> V {
        let elem = register(dtype);
        match (elem, value) {
            (Elem::F32 | Elem::F64, value) => self.b.real(elem, 1, value.as_f64()),
            (_, Const::Int(value)) => self.b.int(elem, 1, value as i64),
            (_, Const::Float(_)) => self.b.int(elem, 1, value.as_f64() as i64),
        }
    }

    /// The operands with one number of lanes.
    pub(in super::super) fn same_lanes<const N: usize>(&self, vals: [Val; N]) -> ([V; N], u32) {
        let lanes = vals.iter().map(|val| val.lanes).max().unwrap_or(1);
        (vals.map(|val| self.widen(val, lanes)), lanes)
    }

    /// The value in `lanes` lanes.
    pub(in super::super) fn widen(&self, val: Val, lanes: u32) -> V {
        if val.lanes == lanes { val.v } else { self.b.splat(val.v, lanes) }
    }

    /// Rounds a `f32` register value to a 16-bit type; gives other types as they are.
    pub(in super::super) fn rounded(&self, dtype: Dtype, v: V, lanes: u32) -> V {
        let b = &self.b;
        match dtype {
            Dtype::F16 => {
                let half = b.fptrunc(v, b.elem(Elem::F16, lanes));
                b.fpext(half, b.elem(Elem::F32, lanes))
            }
            Dtype::BF16 => {
                let int = b.elem(Elem::I32, lanes);
                let bits = b.bitcast(v, int);
                let kept_lowest =
                    b.and(b.lshr(bits, b.int(Elem::I32, lanes, 16)), b.int(Elem::I32, lanes, 1));
                let bias = b.add(kept_lowest, b.int(Elem::I32, lanes, 0x7fff));
                let up = b.add(bits, bias);
                let nan = b.fcmp(FloatCmp::LLVMRealUNO, v, v);
                let quiet = b.or(bits, b.int(Elem::I32, lanes, 0x0040_0000));
                let picked = b.select(nan, quiet, up);
                let cut = b.and(picked, b.int(Elem::I32, lanes, -0x1_0000));
                b.bitcast(cut, b.elem(Elem::F32, lanes))
            }
            _ => v,
        }
    }

    /// One operand.
    pub(in super::super) fn unary(&mut self, op: UnaryOp, dtype: Dtype, x: Val) -> Result<Val, CodegenError> {
        let (v, lanes) = (x.v, x.lanes);
        let elem = register(dtype);
        let ty = self.b.elem(elem, lanes);
        let float = dtype.is_float();
        let named = |me: &mut Self, name: &str| me.b.intrinsic(name, &[ty], &[v]);
        let out = match op {
            UnaryOp::Neg if float => self.b.fneg(v),
            UnaryOp::Neg => self.b.sub(self.b.zero(ty), v),
            UnaryOp::Not => self.b.xor(v, self.b.int(elem, lanes, -1)),
            UnaryOp::Abs if float => named(self, "llvm.fabs")?,
            UnaryOp::Abs if dtype.is_signed_int() => {
                let wraps = self.b.int(Elem::I1, 1, 0);
                self.b.intrinsic("llvm.abs", &[ty], &[v, wraps])?
            }
            UnaryOp::Abs => v,
            UnaryOp::Sqrt => named(self, "llvm.sqrt")?,
            UnaryOp::Floor => named(self, "llvm.floor")?,
            UnaryOp::Ceil => named(self, "llvm.ceil")?,
            UnaryOp::Round => named(self, "llvm.roundeven")?,
            UnaryOp::Trunc => named(self, "llvm.trunc")?,
            UnaryOp::Popcount => named(self, "llvm.ctpop")?,
            UnaryOp::Clz => {
                let defined = self.b.int(Elem::I1, 1, 0);
                self.b.intrinsic("llvm.ctlz", &[ty], &[v, defined])?
            }
            UnaryOp::Rcp => self.b.fdiv(self.b.real(elem, lanes, 1.0), v),
            UnaryOp::Rsqrt => {
                let root = named(self, "llvm.sqrt")?;
                self.b.fdiv(self.b.real(elem, lanes, 1.0), root)
            }
            UnaryOp::Exp2 | UnaryOp::Log2 | UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Tanh | UnaryOp::Erf => {
                self.transcendental(op, dtype, x)?
            }
        };
        Ok(Val { v: self.rounded(dtype, out, lanes), lanes })
    }

    /// Two operands.
    pub(in super::super) fn binary(
        &mut self,
        op: BinaryOp,
        dtype: Dtype,
        x: Val,
        y: Val,
    ) -> Result<Val, CodegenError> {
        let ([a, b], lanes) = self.same_lanes([x, y]);
        let v = if dtype.is_float() {
            let out = self.float_binary(op, dtype, a, b, lanes)?;
            self.rounded(dtype, out, lanes)
        } else {
            self.int_binary(op, dtype, a, b, lanes)?
        };
        Ok(Val { v, lanes })
    }

    fn float_binary(
        &mut self,
        op: BinaryOp,
        dtype: Dtype,
        a: V,
        b: V,
        lanes: u32,
    ) -> Result<V, CodegenError> {
        let elem = register(dtype);
        let ty = self.b.elem(elem, lanes);
        Ok(match op {
            BinaryOp::Add => self.b.fadd(a, b),
            BinaryOp::Sub => self.b.fsub(a, b),
            BinaryOp::Mul => self.b.fmul(a, b),
            BinaryOp::Div => self.b.fdiv(a, b),
            BinaryOp::Rem => {
                let name = if elem == Elem::F64 { "fmod" } else { "fmodf" };
                self.by_lane(name, elem, &[a, b], lanes)
            }
            // `minnum` and `maxnum` may give either zero of -0 and +0.
            BinaryOp::Min => self.b.intrinsic("llvm.minimumnum", &[ty], &[a, b])?,
            BinaryOp::Max => self.b.intrinsic("llvm.maximumnum", &[ty], &[a, b])?,
            _ => return Err(CodegenError::Malformed(format!("`{op}` of floats"))),
        })
    }

    /// A library function, lane by lane.
    pub(in super::super) fn by_lane(&mut self, name: &str, elem: Elem, args: &[V], lanes: u32) -> V {
        let function = self.b.math_function(name, self.b.elem(elem, 1), args.len());
        if lanes == 1 {
            return self.b.call(function, args);
        }
        let out: Vec<V> = (0..lanes)
            .map(|lane| {
                let scalars: Vec<V> = args.iter().map(|&arg| self.b.lane(arg, lane)).collect();
                self.b.call(function, &scalars)
            })
            .collect();
        self.b.gather_lanes(&out)
    }

    fn int_binary(&mut self, op: BinaryOp, dtype: Dtype, a: V, b: V, lanes: u32) -> Result<V, CodegenError> {
        let elem = register(dtype);
        let ty = self.b.elem(elem, lanes);
        let signed = dtype.is_signed_int();
        Ok(match op {
            BinaryOp::Add => self.b.add(a, b),
            BinaryOp::Sub => self.b.sub(a, b),
            BinaryOp::Mul => self.b.mul(a, b),
            BinaryOp::And => self.b.and(a, b),
            BinaryOp::Or => self.b.or(a, b),
            BinaryOp::Xor => self.b.xor(a, b),
            BinaryOp::Min | BinaryOp::Max => {
                let name = match (op, signed) {
                    (BinaryOp::Min, true) => "llvm.smin",
                    (BinaryOp::Min, false) => "llvm.umin",
                    (_, true) => "llvm.smax",
                    (_, false) => "llvm.umax",
                };
                self.b.intrinsic(name, &[ty], &[a, b])?
            }
            BinaryOp::Div | BinaryOp::Rem => self.divide(op == BinaryOp::Div, dtype, a, b, lanes),
            BinaryOp::Shl | BinaryOp::Shr => {
                let bits = i64::from(dtype.bits());
                let in_range = self.b.icmp(IntCmp::LLVMIntULT, b, self.b.int(elem, lanes, bits));
                if op == BinaryOp::Shr && signed {
                    let count = self.b.select(in_range, b, self.b.int(elem, lanes, bits - 1));
                    self.b.ashr(a, count)
                } else {
                    // The count is clamped as well, so that no poison reaches the selection.
                    let count = self.b.select(in_range, b, self.b.zero(ty));
                    let shifted =
                        if op == BinaryOp::Shl { self.b.shl(a, count) } else { self.b.lshr(a, count) };
                    self.b.select(in_range, shifted, self.b.zero(ty))
                }
            }
            BinaryOp::MulHi => {
                let bits = dtype.bits();
                let wide = self.b.int_type(2 * bits, lanes);
                let extend = |v| if signed { self.b.sext(v, wide) } else { self.b.zext(v, wide) };
                let product = self.b.mul(extend(a), extend(b));
                let by = self.b.zext(self.b.int(elem, lanes, bits.into()), wide);
                self.b.trunc(self.b.lshr(product, by), ty)
            }
        })
    }

    /// Division and remainder; by zero they give 0, and the least integer by -1 wraps.
    fn divide(&self, quotient: bool, dtype: Dtype, x: V, y: V, lanes: u32) -> V {
        let b = &self.b;
        let elem = register(dtype);
        let (zero, one) = (b.int(elem, lanes, 0), b.int(elem, lanes, 1));
        let by_zero = b.icmp(IntCmp::LLVMIntEQ, y, zero);
        let unsafe_divisor = if dtype.is_signed_int() {
            let least = b.int(elem, lanes, i64::MIN >> (64 - dtype.bits()));
            let overflow = b.and(
                b.icmp(IntCmp::LLVMIntEQ, x, least),
                b.icmp(IntCmp::LLVMIntEQ, y, b.int(elem, lanes, -1)),
            );
            b.or(by_zero, overflow)
        } else {
            by_zero
        };
        let divisor = b.select(unsafe_divisor, one, y);
        let out = match (quotient, dtype.is_signed_int()) {
            (true, true) => b.sdiv(x, divisor),
            (true, false) => b.udiv(x, divisor),
            (false, true) => b.srem(x, divisor),
            (false, false) => b.urem(x, divisor),
        };
        b.select(by_zero, zero, out)
    }

    /// Comparison.
    pub(in super::super) fn cmp(&mut self, op: CmpOp, dtype: Dtype, x: Val, y: Val) -> Val {
        let ([a, b], lanes) = self.same_lanes([x, y]);
        let v = if dtype.is_float() {
            let predicate = match op {
                CmpOp::Eq => FloatCmp::LLVMRealOEQ,
                CmpOp::Ne => FloatCmp::LLVMRealUNE,
                CmpOp::Lt => FloatCmp::LLVMRealOLT,
                CmpOp::Le => FloatCmp::LLVMRealOLE,
                CmpOp::Gt => FloatCmp::LLVMRealOGT,
                CmpOp::Ge => FloatCmp::LLVMRealOGE,
            };
            self.b.fcmp(predicate, a, b)
        } else {
            let predicate = match (op, dtype.is_signed_int()) {
                (CmpOp::Eq, _) => IntCmp::LLVMIntEQ,
                (CmpOp::Ne, _) => IntCmp::LLVMIntNE,
                (CmpOp::Lt, true) => IntCmp::LLVMIntSLT,
                (CmpOp::Le, true) => IntCmp::LLVMIntSLE,
                (CmpOp::Gt, true) => IntCmp::LLVMIntSGT,
                (CmpOp::Ge, true) => IntCmp::LLVMIntSGE,
                (CmpOp::Lt, false) => IntCmp::LLVMIntULT,
                (CmpOp::Le, false) => IntCmp::LLVMIntULE,
                (CmpOp::Gt, false) => IntCmp::LLVMIntUGT,
                (CmpOp::Ge, false) => IntCmp::LLVMIntUGE,
            };
            self.b.icmp(predicate, a, b)
        };
        Val { v, lanes }
    }

    /// Selection; the condition stays scalar when it is one for all lanes.
    pub(in super::super) fn choose(&mut self, c: Val, x: Val, y: Val) -> Val {
        let lanes = c.lanes.max(x.lanes).max(y.lanes);
        let (a, b) = (self.widen(x, lanes), self.widen(y, lanes));
        Val { v: self.b.select(c.v, a, b), lanes }
    }

    /// `a * b + c` with one rounding (in `f32` for 16-bit types, then once to the type).
    pub(in super::super) fn fused(
        &mut self,
        dtype: Dtype,
        x: Val,
        y: Val,
        z: Val,
    ) -> Result<Val, CodegenError> {
        let ([a, b, c], lanes) = self.same_lanes([x, y, z]);
        let ty = self.b.elem(register(dtype), lanes);
        let out = self.b.intrinsic("llvm.fma", &[ty], &[a, b, c])?;
        Ok(Val { v: self.rounded(dtype, out, lanes), lanes })
    }

    /// Conversion between element types.
    pub(in super::super) fn cast(&mut self, from: Dtype, to: Dtype, x: Val) -> Result<Val, CodegenError> {
        let lanes = x.lanes;
        if from == to {
            return Ok(x);
        }
        let v = match (from.is_float(), to.is_float()) {
            (_, _) if to == Dtype::I1 => self.is_nonzero(from, x.v, lanes),
            (false, false) => self.int_to_int(from, to, x.v, lanes),
            (false, true) => self.int_to_float(from, to, x.v, lanes),
            (true, false) => self.float_to_int(from, to, x.v, lanes)?,
            (true, true) => self.float_to_float(from, to, x.v, lanes),
        };
        Ok(Val { v, lanes })
    }

    fn is_nonzero(&self, from: Dtype, v: V, lanes: u32) -> V {
        let elem = register(from);
        let zero = self.b.zero(self.b.elem(elem, lanes));
        if from.is_float() {
            self.b.fcmp(FloatCmp::LLVMRealUNE, v, zero)
        } else {
            self.b.icmp(IntCmp::LLVMIntNE, v, zero)
        }
    }

    fn int_to_int(&self, from: Dtype, to: Dtype, v: V, lanes: u32) -> V {
        let (a, z) = (register(from), register(to));
        let ty = self.b.elem(z, lanes);
        let resized = if a == z {
            v
        } else if a == Elem::I1 || a.bytes() < z.bytes() {
            if from.is_signed_int() { self.b.sext(v, ty) } else { self.b.zext(v, ty) }
        } else {
            self.b.trunc(v, ty)
        };
        match to {
            Dtype::Code(bits) => self.b.and(resized, self.b.int(z, lanes, (1 << bits) - 1)),
            _ => resized,
        }
    }

    fn int_to_float(&self, from: Dtype, to: Dtype, v: V, lanes: u32) -> V {
        let b = &self.b;
        let signed = from.is_signed_int();
        let convert = |elem| {
            let ty = b.elem(elem, lanes);
            // A code is a small non-negative `i32`: the signed conversion is exact and cheaper.
            if signed || from.is_code() { b.sitofp(v, ty) } else { b.uitofp(v, ty) }
        };
        let value_bits = from.bits() - u32::from(signed);
        match to {
            Dtype::F64 => convert(Elem::F64),
            Dtype::F32 => convert(Elem::F32),
            // Exact in `f32`, or past the largest f16 whichever way `f32` rounds.
            Dtype::F16 if value_bits <= 11 => convert(Elem::F32),
            Dtype::F16 => self.rounded(to, convert(Elem::F32), lanes),
            _ if value_bits <= 8 => convert(Elem::F32),
            _ if value_bits <= 24 => self.rounded(to, convert(Elem::F32), lanes),
            _ if value_bits <= 32 => self.rounded(to, self.round_to_odd(convert(Elem::F64), lanes), lanes),
            _ => {
                // 64 bits: what `f64` would round away is kept as one sticky bit first.
                let low = b.and(v, b.int(Elem::I64, lanes, 0x7ff));
                let some = b.icmp(IntCmp::LLVMIntNE, low, b.int(Elem::I64, lanes, 0));
                let sticky = b.select(some, b.int(Elem::I64, lanes, 0x800), b.int(Elem::I64, lanes, 0));
                let cut = b.or(b.and(v, b.int(Elem::I64, lanes, !0x7ff)), sticky);
                let magnitude = if signed { b.xor(v, b.ashr(v, b.int(Elem::I64, lanes, 63))) } else { v };
                let large = b.icmp(IntCmp::LLVMIntUGE, magnitude, b.int(Elem::I64, lanes, 1 << 52));
                let kept = b.select(large, cut, v);
                let ty = b.elem(Elem::F64, lanes);
                let exact = if signed { b.sitofp(kept, ty) } else { b.uitofp(kept, ty) };
                self.rounded(to, self.round_to_odd(exact, lanes), lanes)
            }
        }
    }

    /// `f64` to `f32` so that a further rounding to 16 bits gives what one rounding would: when inexact, to the
    /// neighbour with an odd last bit.
    fn round_to_odd(&self, v: V, lanes: u32) -> V {
        let b = &self.b;
        let near = b.fptrunc(v, b.elem(Elem::F32, lanes));
        let back = b.fpext(near, b.elem(Elem::F64, lanes));
        let bits = b.bitcast(near, b.elem(Elem::I32, lanes));
        let one = b.int(Elem::I32, lanes, 1);
        let even = b.icmp(IntCmp::LLVMIntEQ, b.and(bits, one), b.int(Elem::I32, lanes, 0));
        let inexact = b.fcmp(FloatCmp::LLVMRealONE, back, v);
        // Magnitudes: |back| > |v| exactly when (back > v) differs from the sign.
        let above = b.fcmp(FloatCmp::LLVMRealOGT, back, v);
        let negative = b.fcmp(FloatCmp::LLVMRealOLT, v, b.real(Elem::F64, lanes, 0.0));
        let outward = b.xor(above, negative);
        let moved = b.select(outward, b.sub(bits, one), b.add(bits, one));
        let picked = b.select(b.and(inexact, even), moved, bits);
        b.bitcast(picked, b.elem(Elem::F32, lanes))
    }

    fn float_to_int(&mut self, from: Dtype, to: Dtype, v: V, lanes: u32) -> Result<V, CodegenError> {
        let (a, z) = (self.b.elem(register(from), lanes), self.b.elem(register(to), lanes));
        let name = if to.is_signed_int() { "llvm.fptosi.sat" } else { "llvm.fptoui.sat" };
        self.b.intrinsic(name, &[z, a], &[v])
    }

    fn float_to_float(&self, from: Dtype, to: Dtype, v: V, lanes: u32) -> V {
        let b = &self.b;
        match (from, to) {
            (Dtype::F64, Dtype::F32) => b.fptrunc(v, b.elem(Elem::F32, lanes)),
            (Dtype::F64, _) => self.rounded(to, self.round_to_odd(v, lanes), lanes),
            (_, Dtype::F64) => b.fpext(v, b.elem(Elem::F64, lanes)),
            (_, Dtype::F32) => v,
            _ => self.rounded(to, v, lanes),
        }
    }

    /// Same bits as another type of the same width.
    pub(in super::super) fn recast(&self, from: Dtype, to: Dtype, x: Val) -> Val {
        let bits = self.register_to_memory(from, x.v, x.lanes);
        let as_memory = self.b.bitcast(bits, self.b.elem(super::memory_elem(to), x.lanes));
        Val { v: self.memory_to_register(to, as_memory, x.lanes), lanes: x.lanes }
    }

    /// A register value in the form it has in memory.
    pub(in super::super) fn register_to_memory(&self, dtype: Dtype, v: V, lanes: u32) -> V {
        let b = &self.b;
        match dtype {
            Dtype::I1 => b.zext(v, b.elem(Elem::I8, lanes)),
            Dtype::F16 => b.fptrunc(v, b.elem(Elem::F16, lanes)),
            Dtype::BF16 => {
                let bits = b.bitcast(v, b.elem(Elem::I32, lanes));
                b.trunc(b.lshr(bits, b.int(Elem::I32, lanes, 16)), b.elem(Elem::I16, lanes))
            }
            _ => v,
        }
    }

    /// A value as it lies in memory in its register form.
    pub(in super::super) fn memory_to_register(&self, dtype: Dtype, v: V, lanes: u32) -> V {
        let b = &self.b;
        match dtype {
            Dtype::I1 => b.icmp(IntCmp::LLVMIntNE, v, b.int(Elem::I8, lanes, 0)),
            Dtype::F16 => b.fpext(v, b.elem(Elem::F32, lanes)),
            Dtype::BF16 => {
                let wide = b.zext(v, b.elem(Elem::I32, lanes));
                b.bitcast(b.shl(wide, b.int(Elem::I32, lanes, 16)), b.elem(Elem::F32, lanes))
            }
            _ => v,
        }
    }

    /// `clamp(round((x - zero) / scale), 0, 2^bits - 1)`, 0 where the scale is 0 or the quotient is NaN.
    pub(in super::super) fn quantize(
        &mut self,
        bits: u8,
        x: Val,
        scale: Val,
        zero: Val,
    ) -> Result<Val, CodegenError> {
        let ([x, scale, zero], lanes) = self.same_lanes([x, scale, zero]);
        let ty = self.b.elem(Elem::F32, lanes);
        let quotient = self.b.fdiv(self.b.fsub(x, zero), scale);
        let whole = self.b.intrinsic("llvm.roundeven", &[ty], &[quotient])?;
        // A NaN gives the other operand, which is 0.
        let low = self.b.intrinsic("llvm.maxnum", &[ty], &[whole, self.b.zero(ty)])?;
        let most = self.b.real(Elem::F32, lanes, f64::from((1u32 << bits) - 1));
        let high = self.b.intrinsic("llvm.minnum", &[ty], &[low, most])?;
        let code = self.b.fptosi(high, self.b.elem(Elem::I32, lanes));
        let empty = self.b.fcmp(FloatCmp::LLVMRealOEQ, scale, self.b.zero(ty));
        let v = self.b.select(empty, self.b.int(Elem::I32, lanes, 0), code);
        Ok(Val { v, lanes })
    }

    /// `fma(scale, code, zero)`.
    pub(in super::super) fn dequantize(
        &mut self,
        code: Val,
        scale: Val,
        zero: Val,
    ) -> Result<Val, CodegenError> {
        let v = self.b.sitofp(code.v, self.b.elem(Elem::F32, code.lanes));
        self.fused(Dtype::F32, scale, Val { v, lanes: code.lanes }, zero)
    }
}
