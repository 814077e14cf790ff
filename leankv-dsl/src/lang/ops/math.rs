//! Element-wise mathematics. Accuracy per op stands in [`crate::ir::op`].

use super::convert::float_literal;
use crate::ir::{BinaryOp, Dtype, Loc, Op, UnaryOp};
use crate::lang::element::{Float, Number};
use crate::lang::tile::{Operand, Tile, elementwise};

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        impl<E: Float, const R: usize> Tile<E, R> {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $name(self) -> Self {
                    elementwise(Op::Unary(UnaryOp::$op), &[self.arg()], Loc::caller())
                }
            )*
        }
    };
}

unary! {
    /// 2 to the power x.
    exp2 Exp2;
    /// Logarithm to base 2; negative gives NaN, 0 minus infinity.
    log2 Log2;
    /// Square root, correctly rounded.
    sqrt Sqrt;
    /// 1 / sqrt(x).
    rsqrt Rsqrt;
    /// 1 / x, approximate.
    rcp Rcp;
    /// Sine of radians.
    sin Sin;
    /// Cosine of radians.
    cos Cos;
    /// Hyperbolic tangent.
    tanh Tanh;
    /// Error function.
    erf Erf;
    /// Largest integral value not above x.
    floor Floor;
    /// Smallest integral value not below x.
    ceil Ceil;
    /// Nearest integral value, ties to even.
    round Round;
    /// Integral part, toward zero.
    trunc Trunc;
}

impl<E: Number, const R: usize> Tile<E, R> {
    /// Absolute value; the least integer wraps to itself.
    #[track_caller]
    pub fn abs(self) -> Self {
        elementwise(Op::Unary(UnaryOp::Abs), &[self.arg()], Loc::caller())
    }

    /// The smaller of two elements; the other one when one is NaN.
    #[track_caller]
    pub fn min(self, other: impl Operand<E, R>) -> Self {
        elementwise(Op::Binary(BinaryOp::Min), &[self.arg(), other.arg()], Loc::caller())
    }

    /// The larger of two elements; the other one when one is NaN.
    #[track_caller]
    pub fn max(self, other: impl Operand<E, R>) -> Self {
        elementwise(Op::Binary(BinaryOp::Max), &[self.arg(), other.arg()], Loc::caller())
    }

    /// `self.max(low).min(high)`.
    #[track_caller]
    pub fn clamp(self, low: impl Operand<E, R>, high: impl Operand<E, R>) -> Self {
        let loc = Loc::caller();
        let raised = elementwise::<E, R>(Op::Binary(BinaryOp::Max), &[self.arg(), low.arg()], loc);
        elementwise(Op::Binary(BinaryOp::Min), &[raised.arg(), high.arg()], loc)
    }
}

impl<E: Float, const R: usize> Tile<E, R> {
    /// `self * b + c` with one rounding.
    #[track_caller]
    pub fn fma(self, b: impl Operand<E, R>, c: impl Operand<E, R>) -> Self {
        elementwise(Op::Fma, &[self.arg(), b.arg(), c.arg()], Loc::caller())
    }

    /// `f` on the value in `f32` when the type is a 16-bit float, so that an intermediate is not rounded to 16 bits.
    #[track_caller]
    fn in_f32(
        self,
        f: impl FnOnce(Tile<f32, R>, Loc) -> Tile<f32, R>,
        g: impl FnOnce(Self, Loc) -> Self,
    ) -> Self {
        let loc = Loc::caller();
        if matches!(E::TYPE, Dtype::F16 | Dtype::BF16) { f(self.cast(), loc).cast() } else { g(self, loc) }
    }

    /// e to the power x, as `exp2(x * log2(e))`.
    #[track_caller]
    pub fn exp(self) -> Self {
        fn go<E: Float, const R: usize>(x: Tile<E, R>, loc: Loc) -> Tile<E, R> {
            let factor = float_literal::<E>(std::f64::consts::LOG2_E);
            let scaled = elementwise::<E, R>(Op::Binary(BinaryOp::Mul), &[x.arg(), factor], loc);
            elementwise(Op::Unary(UnaryOp::Exp2), &[scaled.arg()], loc)
        }
        self.in_f32(go, go)
    }

    /// Natural logarithm, as `log2(x) * ln(2)`.
    #[track_caller]
    pub fn log(self) -> Self {
        fn go<E: Float, const R: usize>(x: Tile<E, R>, loc: Loc) -> Tile<E, R> {
            let factor = float_literal::<E>(std::f64::consts::LN_2);
            let log2 = elementwise::<E, R>(Op::Unary(UnaryOp::Log2), &[x.arg()], loc);
            elementwise(Op::Binary(BinaryOp::Mul), &[log2.arg(), factor], loc)
        }
        self.in_f32(go, go)
    }

    /// `1 / (1 + exp(-x))`.
    #[track_caller]
    pub fn sigmoid(self) -> Self {
        fn go<E: Float, const R: usize>(x: Tile<E, R>, loc: Loc) -> Tile<E, R> {
            let one = float_literal::<E>(1.0);
            let factor = float_literal::<E>(-std::f64::consts::LOG2_E);
            let scaled = elementwise::<E, R>(Op::Binary(BinaryOp::Mul), &[x.arg(), factor], loc);
            let power = elementwise::<E, R>(Op::Unary(UnaryOp::Exp2), &[scaled.arg()], loc);
            let below = elementwise::<E, R>(Op::Binary(BinaryOp::Add), &[power.arg(), one], loc);
            elementwise(Op::Binary(BinaryOp::Div), &[one, below.arg()], loc)
        }
        self.in_f32(go, go)
    }
}
