//! Identities of arithmetic that hold for all values.

use super::*;
use crate::ir::{BinaryOp, CmpOp, UnaryOp};

impl Walk<'_> {
    pub(super) fn unary(&mut self, inst: Inst, data: &InstData, op: UnaryOp) -> Rewrite {
        let Some(inner) = self.def(data.operands[0]).cloned() else { return Rewrite::Keep };
        match (op, &inner.op) {
            (UnaryOp::Neg, Op::Unary(UnaryOp::Neg)) | (UnaryOp::Not, Op::Unary(UnaryOp::Not)) => {
                Rewrite::value(inner.operands[0])
            }
            (UnaryOp::Abs, Op::Unary(UnaryOp::Abs)) => Rewrite::value(data.operands[0]),
            // |-x| = |x|, the least integer included: it wraps to itself both times. Unsigned, -x is another number.
            (UnaryOp::Abs, Op::Unary(UnaryOp::Neg)) if !self.dtype(data.operands[0]).is_unsigned_int() => {
                self.become_op(inst, data.op.clone(), &inner.operands)
            }
            (UnaryOp::Not, Op::Cmp(cmp)) => match inverse(*cmp, self.dtype(inner.operands[0])) {
                Some(cmp) => self.become_op(inst, Op::Cmp(cmp), &inner.operands),
                None => Rewrite::Keep,
            },
            (
                UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc,
                Op::Unary(UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc),
            ) => Rewrite::value(data.operands[0]),
            _ => Rewrite::Keep,
        }
    }

    pub(super) fn binary(&mut self, inst: Inst, data: &InstData, op: BinaryOp) -> Rewrite {
        let (a, b) = (data.operands[0], data.operands[1]);
        if commutes(op) && self.func.constant(a).is_some() && self.func.constant(b).is_none() {
            return self.become_op(inst, data.op.clone(), &[b, a]);
        }
        let dtype = self.dtype(a);
        if a == b
            && let Some(rewrite) = self.same_operands(data, op, dtype)
        {
            return rewrite;
        }
        match self.func.constant(b) {
            Some(Const::Float(bits)) => self.float_by_constant(inst, data, op, f64::from_bits(bits)),
            Some(Const::Int(c)) => self.int_by_constant(inst, data, op, c),
            None => Rewrite::Keep,
        }
    }

    fn same_operands(&mut self, data: &InstData, op: BinaryOp, dtype: Dtype) -> Option<Rewrite> {
        match op {
            BinaryOp::Min | BinaryOp::Max | BinaryOp::And | BinaryOp::Or => {
                Some(Rewrite::value(data.operands[0]))
            }
            BinaryOp::Xor => Some(self.constant_instead(data, Const::Int(0))),
            // Not for floats: infinity minus infinity is no number.
            BinaryOp::Sub if !dtype.is_float() => Some(self.constant_instead(data, Const::Int(0))),
            _ => None,
        }
    }

    fn float_by_constant(&mut self, inst: Inst, data: &InstData, op: BinaryOp, c: f64) -> Rewrite {
        let x = data.operands[0];
        let negative_zero = c == 0.0 && c.is_sign_negative();
        let positive_zero = c == 0.0 && c.is_sign_positive();
        match op {
            BinaryOp::Mul | BinaryOp::Div if c == 1.0 => Rewrite::value(x),
            BinaryOp::Add if negative_zero => Rewrite::value(x),
            BinaryOp::Sub if positive_zero => Rewrite::value(x),
            // The reciprocal of a power of two is exact, and both round the same real number.
            BinaryOp::Div if has_exact_reciprocal(c, self.dtype(x)) => {
                let ty = self.func.ty(x).clone();
                let reciprocal = self.constant(Const::float(1.0 / c), &ty, data.loc);
                self.become_op(inst, Op::Binary(BinaryOp::Mul), &[x, reciprocal])
            }
            _ => Rewrite::Keep,
        }
    }

    fn int_by_constant(&mut self, inst: Inst, data: &InstData, op: BinaryOp, c: i128) -> Rewrite {
        let x = data.operands[0];
        let ty = self.func.ty(x).clone();
        let dtype = ty.dtype();
        let ones = Const::Int(-1).rounded(dtype) == Const::Int(c);
        let too_far = !(0..i128::from(dtype.bits())).contains(&c);
        match op {
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr
                if c == 0 =>
            {
                Rewrite::value(x)
            }
            BinaryOp::Mul | BinaryOp::Div if c == 1 => Rewrite::value(x),
            BinaryOp::Mul | BinaryOp::And | BinaryOp::MulHi if c == 0 => {
                self.constant_instead(data, Const::Int(0))
            }
            BinaryOp::Rem if c == 1 => self.constant_instead(data, Const::Int(0)),
            BinaryOp::And if ones => Rewrite::value(x),
            BinaryOp::Or if ones => self.constant_instead(data, Const::Int(c)),
            BinaryOp::Xor if ones => self.become_op(inst, Op::Unary(UnaryOp::Not), &[x]),
            BinaryOp::Shl if too_far => self.constant_instead(data, Const::Int(0)),
            BinaryOp::Shr if too_far && !dtype.is_signed_int() => self.constant_instead(data, Const::Int(0)),
            // Only the sign is left.
            BinaryOp::Shr if too_far => {
                let last = self.constant(Const::Int(i128::from(dtype.bits()) - 1), &ty, data.loc);
                self.become_op(inst, data.op.clone(), &[x, last])
            }
            BinaryOp::Sub => {
                let negated = self.constant(Const::Int(-c), &ty, data.loc);
                self.become_op(inst, Op::Binary(BinaryOp::Add), &[x, negated])
            }
            BinaryOp::Add | BinaryOp::Mul | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
                self.reassociate(inst, data, op, c)
            }
            _ => Rewrite::Keep,
        }
    }

    /// `(x op c1) op c2` is `x op (c1 op c2)`: wrapping integers and bits.
    fn reassociate(&mut self, inst: Inst, data: &InstData, op: BinaryOp, c: i128) -> Rewrite {
        let Some(inner) = self.def(data.operands[0]).cloned() else { return Rewrite::Keep };
        if inner.op != data.op {
            return Rewrite::Keep;
        }
        let Some(first) = self.int(inner.operands[1]) else { return Rewrite::Keep };
        let both = match op {
            BinaryOp::Add => first + c,
            BinaryOp::Mul => first.wrapping_mul(c),
            BinaryOp::And => first & c,
            BinaryOp::Or => first | c,
            _ => first ^ c,
        };
        let ty = self.func.ty(data.operands[0]).clone();
        let both = self.constant(Const::Int(both), &ty, data.loc);
        self.become_op(inst, data.op.clone(), &[inner.operands[0], both])
    }

    pub(super) fn fma(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        // 16-bit sums are rounded in f32 first, an fma is not, so there the two differ.
        let wide = matches!(self.dtype(data.operands[0]), Dtype::F32 | Dtype::F64);
        for (one, other) in [(0, 1), (1, 0)] {
            let is_one = self.func.constant(data.operands[one]) == Some(Const::float(1.0));
            if wide && is_one {
                let operands = [data.operands[other], data.operands[2]];
                return self.become_op(inst, Op::Binary(BinaryOp::Add), &operands);
            }
        }
        Rewrite::Keep
    }

    pub(super) fn cmp(&mut self, inst: Inst, data: &InstData, op: CmpOp) -> Rewrite {
        let (a, b) = (data.operands[0], data.operands[1]);
        let dtype = self.dtype(a);
        if self.func.constant(a).is_some() && self.func.constant(b).is_none() {
            return self.become_op(inst, Op::Cmp(swapped(op)), &[b, a]);
        }
        if a == b && !dtype.is_float() {
            let holds = matches!(op, CmpOp::Eq | CmpOp::Le | CmpOp::Ge);
            return self.constant_instead(data, Const::Int(holds.into()));
        }
        let unsigned = dtype.is_unsigned_int() || dtype.is_code();
        match (op, self.int(b)) {
            (CmpOp::Eq, Some(1)) | (CmpOp::Ne, Some(0)) if dtype == Dtype::I1 => Rewrite::value(a),
            (CmpOp::Lt, Some(0)) if unsigned => self.constant_instead(data, Const::Int(0)),
            (CmpOp::Ge, Some(0)) if unsigned => self.constant_instead(data, Const::Int(1)),
            _ => Rewrite::Keep,
        }
    }

    pub(super) fn select(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        let (c, a, b) = (data.operands[0], data.operands[1], data.operands[2]);
        if a == b {
            return Rewrite::value(a);
        }
        if let Some(condition) = self.int(c) {
            return Rewrite::value(if condition == 1 { a } else { b });
        }
        if self.dtype(a) == Dtype::I1 && self.int(a) == Some(1) && self.int(b) == Some(0) {
            return Rewrite::value(c);
        }
        match self.def(c) {
            Some(inner) if matches!(inner.op, Op::Unary(UnaryOp::Not)) => {
                let condition = inner.operands[0];
                self.become_op(inst, Op::Select, &[condition, b, a])
            }
            _ => Rewrite::Keep,
        }
    }
}

/// Ops that give the same when their operands are swapped.
fn commutes(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Add
            | BinaryOp::Mul
            | BinaryOp::MulHi
            | BinaryOp::Min
            | BinaryOp::Max
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
    )
}

/// The comparison with its operands swapped.
fn swapped(op: CmpOp) -> CmpOp {
    match op {
        CmpOp::Lt => CmpOp::Gt,
        CmpOp::Le => CmpOp::Ge,
        CmpOp::Gt => CmpOp::Lt,
        CmpOp::Ge => CmpOp::Le,
        same => same,
    }
}

/// The comparison that is true where this one is false. With NaN neither `lt` nor `ge` is true, so floats have it for equality alone.
fn inverse(op: CmpOp, dtype: Dtype) -> Option<CmpOp> {
    match op {
        CmpOp::Eq => Some(CmpOp::Ne),
        CmpOp::Ne => Some(CmpOp::Eq),
        _ if dtype.is_float() => None,
        CmpOp::Lt => Some(CmpOp::Ge),
        CmpOp::Ge => Some(CmpOp::Lt),
        CmpOp::Gt => Some(CmpOp::Le),
        CmpOp::Le => Some(CmpOp::Gt),
    }
}

/// Whether 1/c is exact in the type and no subnormal: c is a power of two of moderate size.
fn has_exact_reciprocal(c: f64, dtype: Dtype) -> bool {
    let power = c.is_normal() && c.to_bits() & ((1 << 52) - 1) == 0;
    let reciprocal = Const::float(1.0 / c);
    power && (1.0 / c).abs() >= 2f64.powi(-14) && reciprocal.rounded(dtype) == reciprocal
}
