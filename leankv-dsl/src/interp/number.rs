//! Arithmetic of each element type, as the op list defines it.

use half::{bf16, f16};

use super::data::Element;
use crate::ir::UnaryOp;
use crate::ir::round::{bf16_from_f64, f16_from_f64};

/// Numbers of any kind: what `add` to `max` need.
pub(crate) trait Number: Element {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Gives 0 for integers by zero; the caller has checked.
    fn div(self, other: Self) -> Self;
    /// As `div`.
    fn rem(self, other: Self) -> Self;
    fn least(self, other: Self) -> Self;
    fn most(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    /// Whether `div` and `rem` by this are a checked error.
    fn is_bad_divisor(self) -> bool;
}

/// Integers: bit operations.
pub(crate) trait Integer: Number {
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn shl(self, other: Self) -> Self;
    fn shr(self, other: Self) -> Self;
    fn mul_high(self, other: Self) -> Self;
    fn not(self) -> Self;
    fn popcount(self) -> Self;
    fn clz(self) -> Self;
}

/// Floats: functions.
pub(crate) trait Float: Number {
    /// `self * b + c`, rounded once (for 16-bit types: in `f32`, and then to the type).
    fn fma(self, b: Self, c: Self) -> Self;
    /// A function computed in double precision and rounded to the type.
    fn through(self, f: impl Fn(f64) -> f64) -> Self;
    /// The value.
    fn wide(self) -> f64;
    /// The nearest of the type.
    fn nearest(x: f64) -> Self;
    /// Square root, correctly rounded.
    fn root(self) -> Self;
}

macro_rules! integer {
    ($($ty:ident, $unsigned:ident, $wide:ident);*) => { $(
        impl Number for $ty {
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn div(self, other: Self) -> Self { if other == 0 { 0 } else { self.wrapping_div(other) } }
            fn rem(self, other: Self) -> Self { if other == 0 { 0 } else { self.wrapping_rem(other) } }
            fn least(self, other: Self) -> Self { self.min(other) }
            fn most(self, other: Self) -> Self { self.max(other) }
            fn neg(self) -> Self { self.wrapping_neg() }
            #[allow(unused_comparisons)]
            fn abs(self) -> Self { if self < 0 { self.wrapping_neg() } else { self } }
            fn is_bad_divisor(self) -> bool { self == 0 }
        }

        impl Integer for $ty {
            fn and(self, other: Self) -> Self { self & other }
            fn or(self, other: Self) -> Self { self | other }
            fn xor(self, other: Self) -> Self { self ^ other }
            fn shl(self, other: Self) -> Self {
                // The amount is taken as unsigned, so a negative one is "the width or more".
                let amount = other as $unsigned;
                if amount < $ty::BITS as $unsigned { self << (amount as u32) } else { 0 }
            }
            #[allow(unused_comparisons)]
            fn shr(self, other: Self) -> Self {
                let amount = other as $unsigned;
                if amount < $ty::BITS as $unsigned {
                    self >> (amount as u32)
                } else if self < 0 {
                    !0
                } else {
                    0
                }
            }
            fn mul_high(self, other: Self) -> Self {
                ((self as $wide * other as $wide) >> $ty::BITS) as $ty
            }
            fn not(self) -> Self { !self }
            fn popcount(self) -> Self { self.count_ones() as $ty }
            fn clz(self) -> Self { self.leading_zeros() as $ty }
        }
    )* };
}

integer! {
    i8, u8, i16; i16, u16, i32; i32, u32, i64; i64, u64, i128;
    u8, u8, u16; u16, u16, u32; u32, u32, u64; u64, u64, u128
}

/// Minimum by value, -0 below +0, the other operand when one is NaN.
macro_rules! float_order {
    () => {
        fn least(self, other: Self) -> Self {
            if self.is_nan() {
                other
            } else if other.is_nan() || self < other || (self == other && self.is_sign_negative()) {
                self
            } else {
                other
            }
        }
        fn most(self, other: Self) -> Self {
            if self.is_nan() {
                other
            } else if other.is_nan() || self > other || (self == other && self.is_sign_positive()) {
                self
            } else {
                other
            }
        }
        fn is_bad_divisor(self) -> bool {
            false
        }
    };
}

macro_rules! float {
    ($ty:ident) => {
        impl Number for $ty {
            fn add(self, other: Self) -> Self {
                self + other
            }
            fn sub(self, other: Self) -> Self {
                self - other
            }
            fn mul(self, other: Self) -> Self {
                self * other
            }
            fn div(self, other: Self) -> Self {
                self / other
            }
            fn rem(self, other: Self) -> Self {
                self % other
            }
            fn neg(self) -> Self {
                -self
            }
            fn abs(self) -> Self {
                $ty::abs(self)
            }
            float_order!();
        }

        impl Float for $ty {
            fn fma(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
            fn through(self, f: impl Fn(f64) -> f64) -> Self {
                f(f64::from(self)) as $ty
            }
            fn wide(self) -> f64 {
                f64::from(self)
            }
            fn nearest(x: f64) -> Self {
                x as $ty
            }
            fn root(self) -> Self {
                self.sqrt()
            }
        }
    };
}

float! { f32 }
float! { f64 }

macro_rules! short_float {
    ($ty:ident, $from_f64:ident) => {
        impl Number for $ty {
            fn add(self, other: Self) -> Self {
                $ty::from_f32(self.to_f32() + other.to_f32())
            }
            fn sub(self, other: Self) -> Self {
                $ty::from_f32(self.to_f32() - other.to_f32())
            }
            fn mul(self, other: Self) -> Self {
                $ty::from_f32(self.to_f32() * other.to_f32())
            }
            fn div(self, other: Self) -> Self {
                $ty::from_f32(self.to_f32() / other.to_f32())
            }
            fn rem(self, other: Self) -> Self {
                $ty::from_f32(self.to_f32() % other.to_f32())
            }
            fn neg(self) -> Self {
                $ty::from_bits(self.to_bits() ^ 0x8000)
            }
            fn abs(self) -> Self {
                $ty::from_bits(self.to_bits() & 0x7fff)
            }
            float_order!();
        }

        impl Float for $ty {
            fn fma(self, b: Self, c: Self) -> Self {
                $ty::from_f32(self.to_f32().mul_add(b.to_f32(), c.to_f32()))
            }
            fn through(self, f: impl Fn(f64) -> f64) -> Self {
                $from_f64(f(self.to_f64()))
            }
            fn wide(self) -> f64 {
                self.to_f64()
            }
            fn nearest(x: f64) -> Self {
                $from_f64(x)
            }
            fn root(self) -> Self {
                $ty::from_f32(self.to_f32().sqrt())
            }
        }
    };
}

short_float! { f16, f16_from_f64 }
short_float! { bf16, bf16_from_f64 }

/// The double-precision function behind a float op; `None` for those that are not computed so.
pub(crate) fn function(op: UnaryOp) -> Option<fn(f64) -> f64> {
    Some(match op {
        UnaryOp::Exp2 => f64::exp2,
        UnaryOp::Log2 => f64::log2,
        UnaryOp::Rsqrt => |x| 1.0 / x.sqrt(),
        UnaryOp::Rcp => |x| 1.0 / x,
        UnaryOp::Sin => f64::sin,
        UnaryOp::Cos => f64::cos,
        UnaryOp::Tanh => f64::tanh,
        UnaryOp::Erf => libm::erf,
        UnaryOp::Floor => f64::floor,
        UnaryOp::Ceil => f64::ceil,
        UnaryOp::Round => f64::round_ties_even,
        UnaryOp::Trunc => f64::trunc,
        _ => return None,
    })
}
