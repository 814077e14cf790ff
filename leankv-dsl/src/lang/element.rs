//! Element types as Rust types.

use crate::ir::{Const, Dtype};

mod sealed {
    pub trait Sealed {}
}

/// An element type of tiles, scalars and pointers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an element type of kernels",
    label = "not an element type",
    note = "element types are bool, i8..i64, u8..u64, half::f16, half::bf16, f32, f64 and Code"
)]
pub trait Element: Copy + Send + Sync + 'static + sealed::Sealed {
    /// The IR's type; `None` for [`Code`], whose width is a value.
    const DTYPE: Option<Dtype>;
}

/// An element type whose values exist in plain Rust and in memory: all but [`Code`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not lie in memory as such",
    label = "needs an element type with a memory form",
    note = "quantisation codes are packed into words: use `pack` and `unpack`"
)]
pub trait Plain: Element {
    /// The IR's type.
    const TYPE: Dtype;
    /// The value as a constant.
    fn constant(self) -> Const;
    /// The value's little-endian bytes in memory, zero-extended.
    fn bits(self) -> u64;
}

/// Numbers: everything that can be added.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a number",
    label = "arithmetic needs an integer or float element type",
    note = "cast a truth value with `.cast::<i32>()`, a code with `.cast::<f32>()` or `.dequantize(..)`"
)]
pub trait Number: Plain {}

/// Integers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an integer",
    label = "this op needs an integer element type"
)]
pub trait Int: Number + Bits {}

/// Integers that index memory and loops: `i32` and `i64`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an index type",
    label = "indices, offsets and loop bounds are i32 or i64",
    note = "convert with `.cast::<i32>()` or `.cast::<i64>()`; a `usize` is written `n as i32`"
)]
pub trait Index: Int {}

/// What bitwise ops work on: integers and truth values.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no bitwise operations",
    label = "bitwise ops need an integer or `bool` element type",
    note = "the bits of a float are reached with `.bitcast::<u32>()`"
)]
pub trait Bits: Plain {}

/// Floats.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a float",
    label = "this op needs a float element type",
    note = "convert with `.cast::<f32>()`"
)]
pub trait Float: Number {
    /// The nearest value of this type, ties to even.
    fn of(value: f64) -> Self;
}

/// Quantisation codes of 1 to 8 bits, `0 ..= 2^bits - 1`.
///
/// The width is known at specialisation time, but as a value: the tuner and the command line choose it.
#[derive(Clone, Copy, Debug)]
pub struct Code;

impl sealed::Sealed for Code {}
impl Element for Code {
    const DTYPE: Option<Dtype> = None;
}

macro_rules! plain {
    ($($ty:ty => $dtype:ident, $value:ident => $constant:expr, $bits:expr;)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: Option<Dtype> = Some(Dtype::$dtype);
        }
        impl Plain for $ty {
            const TYPE: Dtype = Dtype::$dtype;
            fn constant(self) -> Const {
                let $value = self;
                $constant
            }
            fn bits(self) -> u64 {
                let $value = self;
                $bits.into()
            }
        }
    )*};
}

plain! {
    bool => I1, v => Const::Int(v.into()), v;
    i8 => I8, v => Const::Int(v.into()), (v as u8);
    i16 => I16, v => Const::Int(v.into()), (v as u16);
    i32 => I32, v => Const::Int(v.into()), (v as u32);
    i64 => I64, v => Const::Int(v.into()), (v as u64);
    u8 => U8, v => Const::Int(v.into()), v;
    u16 => U16, v => Const::Int(v.into()), v;
    u32 => U32, v => Const::Int(v.into()), v;
    u64 => U64, v => Const::Int(v.into()), v;
    half::f16 => F16, v => Const::float(v.to_f64()), v.to_bits();
    half::bf16 => BF16, v => Const::float(v.to_f64()), v.to_bits();
    f32 => F32, v => Const::float(v.into()), v.to_bits();
    f64 => F64, v => Const::float(v), v.to_bits();
}

macro_rules! mark {
    ($trait:ident: $($ty:ty)*) => {$(impl $trait for $ty {})*};
}
mark!(Number: i8 i16 i32 i64 u8 u16 u32 u64 half::f16 half::bf16 f32 f64);
mark!(Int: i8 i16 i32 i64 u8 u16 u32 u64);
mark!(Bits: bool i8 i16 i32 i64 u8 u16 u32 u64);
mark!(Index: i32 i64);

impl Float for half::f16 {
    fn of(value: f64) -> Self {
        crate::ir::round::f16_from_f64(value)
    }
}
impl Float for half::bf16 {
    fn of(value: f64) -> Self {
        crate::ir::round::bf16_from_f64(value)
    }
}
impl Float for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}
impl Float for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::Float;

    #[test]
    fn numbers_just_above_a_tie_round_up() {
        // The low half of an f64 decides.
        let above = |tie: f64| tie + 2f64.powi(-40);
        assert_eq!(f16::of(above(1.0 + 2f64.powi(-11))), f16::from_f32(1.0 + 2f32.powi(-10)));
        assert_eq!(bf16::of(above(1.0 + 2f64.powi(-8))), bf16::from_f32(1.0 + 2f32.powi(-7)));
    }
}
