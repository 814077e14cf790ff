//! Expansions of the approximate functions that work on vectors.
//!
//! Each is a range reduction and a polynomial with relative error below 2^-22 before rounding, so that with `f32`
//! arithmetic the result stays within the 2^-20 that `ir::op` allows. Coefficients are Chebyshev interpolants.
//! `f64` goes to the C library, lane by lane.

use super::super::build::{Elem, FloatCmp, IntCmp, V};
use super::{CodegenError, Emit, Val};
use crate::ir::{Dtype, UnaryOp};

/// 2^f for f in [-0.5, 0.5].
const EXP2: [f64; 7] = [
    1.0,
    0.693147206703,
    0.240226509223,
    0.0555032722667,
    0.00961805667853,
    0.00134004281779,
    0.000154614446972,
];
/// log2((1 + s) / (1 - s)) / s in s^2, for s^2 <= 0.0295.
const LOG2: [f64; 4] = [2.88539007979, 0.96179885277, 0.576713603146, 0.43176072119];
/// (sin x - x) / x^3 in x^2, for |x| <= pi / 4.
const SIN: [f64; 4] = [-0.166666666639, 0.00833333187435, -0.000198400865431, 2.72499009769e-06];
/// (cos x - 1 + x^2 / 2) / x^4 in x^2, for |x| <= pi / 4.
const COS: [f64; 3] = [0.041666664659, -0.00138883029433, 2.45479219181e-05];
/// (tanh x - x) / x^3 in x^2, for x^2 <= 0.4.
const TANH: [f64; 6] =
    [-0.333333331494, 0.133333001462, -0.0539584616246, 0.0217625028945, -0.00832318703269, 0.00226950166553];
/// erf(x) / x in x^2, for |x| <= 1.
const ERF: [f64; 8] = [
    1.12837916706,
    -0.37612638468,
    0.112837824952,
    -0.0268654307276,
    0.00522103180937,
    -0.00084840804449,
    0.000112659593952,
    -9.66704578786e-06,
];
/// log2(erfc(x)), for x in [1, 4.1].
const ERFC: [f64; 9] = [
    0.000429832902697,
    -1.63044948042,
    -0.911764605869,
    -0.158587503657,
    0.0379865565993,
    -0.00681922268449,
    0.000850611450336,
    -6.51824292209e-05,
    2.29634666618e-06,
];

impl Emit<'_, '_> {
    /// `exp2`, `log2`, `sin`, `cos`, `tanh`, `erf`.
    pub(super) fn transcendental(&mut self, op: UnaryOp, dtype: Dtype, x: Val) -> Result<V, CodegenError> {
        let lanes = x.lanes;
        if dtype == Dtype::F64 {
            return Ok(self.by_lane(op.name(), Elem::F64, &[x.v], lanes));
        }
        match op {
            UnaryOp::Exp2 => self.exp2(x.v, lanes),
            UnaryOp::Log2 => self.log2(x.v, lanes),
            UnaryOp::Sin => self.circular(x.v, lanes, false),
            UnaryOp::Cos => self.circular(x.v, lanes, true),
            UnaryOp::Tanh => self.tanh(x.v, lanes),
            UnaryOp::Erf => self.erf(x.v, lanes),
            _ => Err(CodegenError::Malformed(format!("`{op}` has no expansion"))),
        }
    }

    fn f(&self, lanes: u32, value: f64) -> V {
        self.b.real(Elem::F32, lanes, value)
    }

    fn fma(&mut self, a: V, b: V, c: V) -> Result<V, CodegenError> {
        let ty = self.b.ty(a);
        self.b.intrinsic("llvm.fma", &[ty], &[a, b, c])
    }

    fn f32_op(&mut self, name: &str, lanes: u32, args: &[V]) -> Result<V, CodegenError> {
        let ty = self.b.elem(Elem::F32, lanes);
        self.b.intrinsic(name, &[ty], args)
    }

    /// A polynomial by Horner's rule.
    fn poly(&mut self, x: V, coefficients: &[f64], lanes: u32) -> Result<V, CodegenError> {
        let mut terms = coefficients.iter().rev();
        let highest = terms.next().copied().unwrap_or(0.0);
        let mut acc = self.f(lanes, highest);
        for &c in terms {
            let c = self.f(lanes, c);
            acc = self.fma(acc, x, c)?;
        }
        Ok(acc)
    }

    fn exp2(&mut self, x: V, lanes: u32) -> Result<V, CodegenError> {
        // Past these bounds the result is 0 or infinity. A NaN passes the comparisons' false side unchanged.
        let (low, high) = (self.f(lanes, -151.0), self.f(lanes, 129.0));
        let x = self.b.select(self.b.fcmp(FloatCmp::LLVMRealOLT, x, low), low, x);
        let x = self.b.select(self.b.fcmp(FloatCmp::LLVMRealOGT, x, high), high, x);
        let whole = self.f32_op("llvm.roundeven", lanes, &[x])?;
        let power = self.poly(self.b.fsub(x, whole), &EXP2, lanes)?;
        // Of a NaN the conversion to an integer would be poison.
        let nan = self.b.fcmp(FloatCmp::LLVMRealUNO, x, x);
        let safe = self.b.select(nan, self.f(lanes, 0.0), whole);
        let n = self.b.fptosi(safe, self.b.elem(Elem::I32, lanes));
        // Two factors, so that subnormal results are rounded once and the exponent field never overflows.
        let half = self.b.ashr(n, self.b.int(Elem::I32, lanes, 1));
        let rest = self.b.sub(n, half);
        let first = self.power_of_two(half, lanes);
        let second = self.power_of_two(rest, lanes);
        Ok(self.b.fmul(self.b.fmul(power, first), second))
    }

    /// 2^n for n in the range of normal exponents.
    fn power_of_two(&self, n: V, lanes: u32) -> V {
        let biased = self.b.add(n, self.b.int(Elem::I32, lanes, 127));
        let bits = self.b.shl(biased, self.b.int(Elem::I32, lanes, 23));
        self.b.bitcast(bits, self.b.elem(Elem::F32, lanes))
    }

    fn log2(&mut self, x: V, lanes: u32) -> Result<V, CodegenError> {
        let int = self.b.elem(Elem::I32, lanes);
        // Subnormals are scaled up by 2^24 first.
        let small = self.b.fcmp(FloatCmp::LLVMRealOLT, x, self.f(lanes, f64::from(f32::MIN_POSITIVE)));
        let scaled = self.b.fmul(x, self.f(lanes, 16_777_216.0));
        let normal = self.b.select(small, scaled, x);
        let bits = self.b.bitcast(normal, int);
        // Distance of the exponent from that of sqrt(1/2), so that the mantissa lies in [sqrt(1/2), sqrt(2)).
        let offset = self.b.sub(bits, self.b.int(Elem::I32, lanes, 0x3f35_04f3));
        let exponent = self.b.ashr(offset, self.b.int(Elem::I32, lanes, 23));
        let shift = self.b.shl(exponent, self.b.int(Elem::I32, lanes, 23));
        let mantissa = self.b.bitcast(self.b.sub(bits, shift), self.b.elem(Elem::F32, lanes));
        let one = self.f(lanes, 1.0);
        let s = self.b.fdiv(self.b.fsub(mantissa, one), self.b.fadd(mantissa, one));
        let series = self.poly(self.b.fmul(s, s), &LOG2, lanes)?;
        let whole = self.b.sitofp(exponent, self.b.elem(Elem::F32, lanes));
        let correction = self.b.select(small, self.f(lanes, 24.0), self.f(lanes, 0.0));
        let out = self.fma(s, series, self.b.fsub(whole, correction))?;
        // Zero, negative numbers, infinity and NaN.
        let infinity = self.f(lanes, f64::INFINITY);
        let zero = self.f(lanes, 0.0);
        let out = self.b.select(self.b.fcmp(FloatCmp::LLVMRealOEQ, x, infinity), infinity, out);
        let is_zero = self.b.fcmp(FloatCmp::LLVMRealOEQ, x, zero);
        let out = self.b.select(is_zero, self.f(lanes, f64::NEG_INFINITY), out);
        let invalid = self.b.fcmp(FloatCmp::LLVMRealULT, x, zero);
        Ok(self.b.select(invalid, self.f(lanes, f64::NAN), out))
    }

    /// Sine or cosine. The quarter turn is removed in `f64` with a two-part constant.
    fn circular(&mut self, x: V, lanes: u32, cosine: bool) -> Result<V, CodegenError> {
        let (f64_type, int) = (self.b.elem(Elem::F64, lanes), self.b.elem(Elem::I32, lanes));
        let wide = self.b.fpext(x, f64_type);
        let d = |me: &Self, value| me.b.real(Elem::F64, lanes, value);
        let scaled = self.b.fmul(wide, d(self, std::f64::consts::FRAC_2_PI));
        let turns = self.b.intrinsic("llvm.roundeven", &[f64_type], &[scaled])?;
        let minus = self.b.fneg(turns);
        let (hi, lo) = (d(self, std::f64::consts::FRAC_PI_2), d(self, 6.123233995736766e-17));
        let rest = self.b.intrinsic("llvm.fma", &[f64_type], &[minus, hi, wide])?;
        let rest = self.b.intrinsic("llvm.fma", &[f64_type], &[minus, lo, rest])?;
        let r = self.b.fptrunc(rest, self.b.elem(Elem::F32, lanes));
        // The quadrant: the count of quarter turns modulo 4, without a conversion that could overflow.
        let fours = self.b.fmul(turns, d(self, 0.25));
        let floor = self.b.intrinsic("llvm.floor", &[f64_type], &[fours])?;
        let quadrant = self.b.intrinsic("llvm.fma", &[f64_type], &[floor, d(self, -4.0), turns])?;
        let finite = self.b.and(
            self.b.fcmp(FloatCmp::LLVMRealOGE, quadrant, d(self, 0.0)),
            self.b.fcmp(FloatCmp::LLVMRealOLE, quadrant, d(self, 3.0)),
        );
        let quadrant = self.b.select(finite, quadrant, d(self, 0.0));
        let mut quadrant = self.b.fptosi(quadrant, int);
        if cosine {
            quadrant = self.b.add(quadrant, self.b.int(Elem::I32, lanes, 1));
        }
        let z = self.b.fmul(r, r);
        let s = self.poly(z, &SIN, lanes)?;
        let s = self.fma(self.b.fmul(s, z), r, r)?;
        let c = self.poly(z, &COS, lanes)?;
        let head = self.fma(z, self.f(lanes, -0.5), self.f(lanes, 1.0))?;
        let c = self.fma(self.b.fmul(c, z), z, head)?;
        let zero = self.b.int(Elem::I32, lanes, 0);
        let odd = self.b.and(quadrant, self.b.int(Elem::I32, lanes, 1));
        let value = self.b.select(self.b.icmp(IntCmp::LLVMIntNE, odd, zero), c, s);
        let upper = self.b.and(quadrant, self.b.int(Elem::I32, lanes, 2));
        let negative = self.b.icmp(IntCmp::LLVMIntNE, upper, zero);
        let signed = self.b.select(negative, self.b.fneg(value), value);
        // Arguments past 2^53 quarter turns carry no phase; the result stays within [-1, 1].
        let bounded = self.b.select(
            self.b.fcmp(FloatCmp::LLVMRealOGT, signed, self.f(lanes, 1.0)),
            self.f(lanes, 1.0),
            signed,
        );
        let low = self.f(lanes, -1.0);
        Ok(self.b.select(self.b.fcmp(FloatCmp::LLVMRealOLT, bounded, low), low, bounded))
    }

    /// `v` with the sign of `of`.
    fn with_sign(&mut self, v: V, of: V, lanes: u32) -> Result<V, CodegenError> {
        self.f32_op("llvm.copysign", lanes, &[v, of])
    }

    fn tanh(&mut self, x: V, lanes: u32) -> Result<V, CodegenError> {
        let magnitude = self.f32_op("llvm.fabs", lanes, &[x])?;
        let z = self.b.fmul(x, x);
        let series = self.poly(z, &TANH, lanes)?;
        let near = self.fma(self.b.fmul(series, z), x, x)?;
        // 1 - 2 / (e^(2|x|) + 1)
        let doubled = self.b.fmul(magnitude, self.f(lanes, 2.0 * std::f64::consts::LOG2_E));
        let power = self.exp2(doubled, lanes)?;
        let ratio = self.b.fdiv(self.f(lanes, 2.0), self.b.fadd(power, self.f(lanes, 1.0)));
        let far = self.b.fsub(self.f(lanes, 1.0), ratio);
        let far = self.with_sign(far, x, lanes)?;
        let small = self.b.fcmp(FloatCmp::LLVMRealOLT, magnitude, self.f(lanes, 0.625));
        Ok(self.b.select(small, near, far))
    }

    fn erf(&mut self, x: V, lanes: u32) -> Result<V, CodegenError> {
        let magnitude = self.f32_op("llvm.fabs", lanes, &[x])?;
        let series = self.poly(self.b.fmul(x, x), &ERF, lanes)?;
        let near = self.b.fmul(series, x);
        // 1 - erfc(|x|); past 4.1 the complement is below half a unit.
        let most = self.f(lanes, 4.1);
        let clamped = self.b.select(self.b.fcmp(FloatCmp::LLVMRealOGT, magnitude, most), most, magnitude);
        let exponent = self.poly(clamped, &ERFC, lanes)?;
        let complement = self.exp2(exponent, lanes)?;
        let far = self.b.fsub(self.f(lanes, 1.0), complement);
        let far = self.with_sign(far, x, lanes)?;
        let small = self.b.fcmp(FloatCmp::LLVMRealOLT, magnitude, self.f(lanes, 1.0));
        Ok(self.b.select(small, near, far))
    }
}
