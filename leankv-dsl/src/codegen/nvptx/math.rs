//! Approximate functions of `f32`, only in forms that LLVM can select.

use inkwell::FloatPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValue, FastMathFlags};

use crate::ir::UnaryOp;

use super::emit::{Emitted, Emitter};
use super::ir::Val;

/// log2(e).
const LOG2_E: f32 = std::f32::consts::LOG2_E;

impl<'c> Emitter<'c, '_> {
    pub(super) fn approximate(&self, op: UnaryOp, x: Val<'c>) -> Emitted<Val<'c>> {
        match op {
            UnaryOp::Exp2 => self.exp2(x),
            UnaryOp::Log2 => self.ir.call("llvm.nvvm.lg2.approx.f", &[], &[x]),
            UnaryOp::Rsqrt => self.ir.call("llvm.nvvm.rsqrt.approx.f", &[], &[x]),
            UnaryOp::Rcp => Ok(self.divide_fast(self.ir.cf32(1.0), x)),
            UnaryOp::Sin => self.fast_call("llvm.sin", x),
            UnaryOp::Cos => self.fast_call("llvm.cos", x),
            UnaryOp::Tanh => self.tanh(x),
            UnaryOp::Erf => self.erf(x),
            other => unreachable!("internal error: `{other}` is not approximate"),
        }
    }

    fn f32_overload(&self) -> [BasicTypeEnum<'c>; 1] {
        [self.ir.f32().into()]
    }

    fn exp2(&self, x: Val<'c>) -> Emitted<Val<'c>> {
        self.ir.call("llvm.nvvm.ex2.approx", &self.f32_overload(), &[x])
    }

    fn fma32(&self, a: Val<'c>, b: Val<'c>, c: Val<'c>) -> Emitted<Val<'c>> {
        self.ir.call("llvm.fma", &self.f32_overload(), &[a, b, c])
    }

    /// Quotient with an error of a few units in the last place.
    fn divide_fast(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let quotient = self.ir.fdiv(a, b);
        if let Some(inst) = quotient.as_instruction_value() {
            let flags = FastMathFlags::AllowReciprocal | FastMathFlags::ApproxFunc;
            inst.set_fast_math_flags(flags).expect("a division takes fast-math flags");
        }
        quotient
    }

    /// A call that is only selected when approximation is allowed.
    fn fast_call(&self, name: &str, x: Val<'c>) -> Emitted<Val<'c>> {
        let value = self.ir.call(name, &self.f32_overload(), &[x])?;
        if let Some(inst) = value.as_instruction_value() {
            inst.set_fast_math_flags(FastMathFlags::ApproxFunc)
                .expect("a call of a float takes fast-math flags");
        }
        Ok(value)
    }

    /// `sum c[i] * s^(n-i)`, highest power first.
    fn polynomial(&self, s: Val<'c>, coefficients: &[f32]) -> Emitted<Val<'c>> {
        let mut sum = self.ir.cf32(coefficients[0]);
        for &c in &coefficients[1..] {
            sum = self.fma32(sum, s, self.ir.cf32(c))?;
        }
        Ok(sum)
    }

    fn with_sign_of(&self, magnitude: Val<'c>, sign: Val<'c>) -> Emitted<Val<'c>> {
        self.ir.call("llvm.copysign", &self.f32_overload(), &[magnitude, sign])
    }

    /// `1 - 2 / (e^2|x| + 1)`, and near zero an odd polynomial, since the former cancels there.
    fn tanh(&self, x: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let magnitude = ir.call("llvm.fabs", &self.f32_overload(), &[x])?;
        let power = self.exp2(ir.fmul(magnitude, ir.cf32(2.0 * LOG2_E)))?;
        let ratio = self.divide_fast(ir.cf32(2.0), ir.fadd(power, ir.cf32(1.0)));
        let far = self.with_sign_of(ir.fsub(ir.cf32(1.0), ratio), x)?;
        let square = ir.fmul(x, x);
        let p = self.polynomial(square, &TANH_NEAR)?;
        let near = self.fma32(ir.fmul(p, square), x, x)?;
        let is_near = ir.fcmp(FloatPredicate::OLT, magnitude, ir.cf32(TANH_SPLIT));
        Ok(ir.select(is_near, near, far))
    }

    /// An odd polynomial near zero, else `1 - e^p(|x|)`.
    fn erf(&self, x: Val<'c>) -> Emitted<Val<'c>> {
        let ir = &self.ir;
        let magnitude = ir.call("llvm.fabs", &self.f32_overload(), &[x])?;
        let exponent = ir.fmul(self.polynomial(magnitude, &ERF_FAR)?, magnitude);
        let power = self.exp2(ir.fmul(exponent, ir.cf32(LOG2_E)))?;
        let far = self.with_sign_of(ir.fsub(ir.cf32(1.0), power), x)?;
        let square = ir.fmul(x, x);
        let p = self.polynomial(square, &ERF_NEAR)?;
        let near = self.fma32(p, x, x)?;
        let is_near = ir.fcmp(FloatPredicate::OLT, magnitude, ir.cf32(ERF_SPLIT));
        Ok(ir.select(is_near, near, far))
    }
}

const TANH_SPLIT: f32 = 0.55;
/// tanh(x) = x + x^3 p(x^2), minimax below the split.
const TANH_NEAR: [f32; 4] = [0.015_739_683, -0.052_303_962, 0.133_152_98, -0.333_327_68];

const ERF_SPLIT: f32 = 0.927_734_4;
/// erf(x) = x + x p(x^2), minimax below the split.
const ERF_NEAR: [f32; 6] =
    [-5.967_617e-4, 4.991_194e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1];
/// ln(1 - erf(x)) = x p(x), minimax from the split to where erf is 1 in `f32`.
const ERF_FAR: [f32; 7] = [
    -1.728_534_7e-5,
    3.831_971_3e-4,
    -3.883_964_4e-3,
    2.425_462_2e-2,
    -1.067_778_8e-1,
    -6.348_467e-1,
    -1.128_717_5,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn horner(s: f32, c: &[f32]) -> f32 {
        c[1..].iter().fold(c[0], |sum, &c| sum.mul_add(s, c))
    }

    #[test]
    fn tanh_is_within_its_bound() {
        for i in -4000..4000 {
            let x = i as f32 / 400.0;
            let near = (horner(x * x, &TANH_NEAR) * (x * x)).mul_add(x, x);
            let far = (1.0 - 2.0 / ((2.0 * x.abs()).exp() + 1.0)).copysign(x);
            let got = if x.abs() < TANH_SPLIT { near } else { far };
            let want = f64::from(x).tanh();
            assert!((f64::from(got) - want).abs() <= want.abs() * 2f64.powi(-20), "{x}: {got} {want}");
        }
    }

    /// erf by its Taylor series in f64, exact enough up to 4.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn erf_is_within_its_bound() {
        for i in -1600..1600 {
            let x = i as f32 / 400.0;
            let near = horner(x * x, &ERF_NEAR).mul_add(x, x);
            let far = (1.0 - (horner(x.abs(), &ERF_FAR) * x.abs()).exp()).copysign(x);
            let got = if x.abs() < ERF_SPLIT { near } else { far };
            let want = erf(x.into());
            assert!((f64::from(got) - want).abs() <= want.abs() * 2f64.powi(-20), "{x}: {got} {want}");
        }
    }
}
