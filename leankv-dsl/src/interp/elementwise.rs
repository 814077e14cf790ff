//! Ops that work on each element alone.
//!
//! Shapes do not matter here: operands have the same number of elements. That is what lets the regions of `reduce`, `scan`
//! and `inline_ptx` run on whole tiles at once.

use half::{bf16, f16};

use super::data::{Code, Data, Element, each, each_float, each_int, with_type};
use super::fault::{FaultKind, Raised};
use super::number::{self, Float, Integer, Number};
use crate::ir::{BinaryOp, CmpOp, Dtype, Op, UnaryOp};

/// Whether [`eval`] knows the op.
pub(crate) fn is_elementwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Fma
            | Op::Cmp(_)
            | Op::Select
            | Op::Cast
            | Op::Bitcast
            | Op::Quantize
            | Op::Dequantize
    )
}

/// Runs an element-wise op; `out` is the result's element type.
pub(crate) fn eval(op: &Op, args: &[&Data], out: Dtype, check_division: bool) -> Result<Data, Raised> {
    let bad = || Raised::malformed(format!("`{}` on operands it does not take", op.name()));
    let same_length = args.windows(2).all(|pair| pair[0].len() == pair[1].len());
    if !same_length {
        return Err(bad());
    }
    let result = match (op, args) {
        (Op::Unary(op), [a]) => unary(*op, a),
        (Op::Binary(op), [a, b]) => {
            if check_division && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
                check_divisors(b)?;
            }
            binary(*op, a, b)
        }
        (Op::Fma, [a, b, c]) => each_float!(*a, a => fma(a, b, c), else None),
        (Op::Cmp(op), [a, b]) => each!(*a, a => compare(*op, a, b)),
        (Op::Select, [Data::I1(c), a, b]) => each!(*a, a => select(c, a, b)),
        (Op::Cast, [a]) => Some(cast(a, out)),
        (Op::Bitcast, [a]) => bitcast(a, out),
        (Op::Quantize, [x, scale, zero]) => quantize(x, scale, zero, out),
        (Op::Dequantize, [code, scale, zero]) => dequantize(code, scale, zero),
        _ => None,
    };
    result.ok_or_else(bad)
}

fn map<T: Element, U: Element>(a: &[T], f: impl Fn(T) -> U) -> Option<Data> {
    Some(U::data(a.iter().map(|&x| f(x)).collect()))
}

fn zip<T: Element, U: Element>(a: &[T], b: &Data, f: impl Fn(T, T) -> U) -> Option<Data> {
    let b = T::of(b)?;
    Some(U::data(a.iter().zip(b).map(|(&x, &y)| f(x, y)).collect()))
}

fn unary(op: UnaryOp, a: &Data) -> Option<Data> {
    match op {
        UnaryOp::Neg => {
            each_float!(a, v => map(v, Number::neg), else each_int!(a, v => map(v, Number::neg), else None))
        }
        UnaryOp::Abs => {
            each_float!(a, v => map(v, Number::abs), else each_int!(a, v => map(v, Number::abs), else None))
        }
        UnaryOp::Not => match a {
            Data::I1(v) => map(v, |x| !x),
            _ => each_int!(a, v => map(v, Integer::not), else None),
        },
        UnaryOp::Popcount => each_int!(a, v => map(v, Integer::popcount), else None),
        UnaryOp::Clz => each_int!(a, v => map(v, Integer::clz), else None),
        UnaryOp::Sqrt => each_float!(a, v => map(v, Float::root), else None),
        _ => {
            let f = number::function(op)?;
            each_float!(a, v => map(v, |x| x.through(f)), else None)
        }
    }
}

/// `a op b`; `None` where the op does not exist for the type.
pub(crate) fn binary(op: BinaryOp, a: &Data, b: &Data) -> Option<Data> {
    match a {
        Data::I1(v) => match op {
            BinaryOp::And => zip(v, b, |x: bool, y| x & y),
            BinaryOp::Or => zip(v, b, |x: bool, y| x | y),
            BinaryOp::Xor => zip(v, b, |x: bool, y| x ^ y),
            _ => None,
        },
        _ => each_float!(a, v => arithmetic(op, v, b), else
            each_int!(a, v => arithmetic(op, v, b).or_else(|| bitwise(op, v, b)), else None)),
    }
}

fn arithmetic<T: Number>(op: BinaryOp, a: &[T], b: &Data) -> Option<Data> {
    match op {
        BinaryOp::Add => zip(a, b, T::add),
        BinaryOp::Sub => zip(a, b, T::sub),
        BinaryOp::Mul => zip(a, b, T::mul),
        BinaryOp::Div => zip(a, b, T::div),
        BinaryOp::Rem => zip(a, b, T::rem),
        BinaryOp::Min => zip(a, b, T::least),
        BinaryOp::Max => zip(a, b, T::most),
        _ => None,
    }
}

fn bitwise<T: Integer>(op: BinaryOp, a: &[T], b: &Data) -> Option<Data> {
    match op {
        BinaryOp::And => zip(a, b, T::and),
        BinaryOp::Or => zip(a, b, T::or),
        BinaryOp::Xor => zip(a, b, T::xor),
        BinaryOp::Shl => zip(a, b, T::shl),
        BinaryOp::Shr => zip(a, b, T::shr),
        BinaryOp::MulHi if T::BYTES >= 4 => zip(a, b, T::mul_high),
        _ => None,
    }
}

fn check_divisors(b: &Data) -> Result<(), Raised> {
    let zero = each_int!(b, v => v.iter().position(|x| x.is_bad_divisor()), else None);
    match zero {
        Some(element) => Err(FaultKind::DivisionByZero.at(element)),
        None => Ok(()),
    }
}

fn fma<T: Float>(a: &[T], b: &Data, c: &Data) -> Option<Data> {
    let (b, c) = (T::of(b)?, T::of(c)?);
    Some(T::data(a.iter().zip(b).zip(c).map(|((&a, &b), &c)| a.fma(b, c)).collect()))
}

fn compare<T: Element>(op: CmpOp, a: &[T], b: &Data) -> Option<Data> {
    match op {
        CmpOp::Eq => zip(a, b, |x: T, y: T| x == y),
        CmpOp::Ne => zip(a, b, |x: T, y: T| x != y),
        CmpOp::Lt => zip(a, b, |x: T, y: T| x < y),
        CmpOp::Le => zip(a, b, |x: T, y: T| x <= y),
        CmpOp::Gt => zip(a, b, |x: T, y: T| x > y),
        CmpOp::Ge => zip(a, b, |x: T, y: T| x >= y),
    }
}

fn select<T: Element>(c: &[bool], a: &[T], b: &Data) -> Option<Data> {
    let b = T::of(b)?;
    Some(T::data(c.iter().zip(a).zip(b).map(|((&c, &a), &b)| if c { a } else { b }).collect()))
}

/// An element type that others convert from.
trait Source: Element {
    fn is_nonzero(self) -> bool;
    /// The integer part, saturated to the widest type; NaN gives 0.
    fn integer(self) -> i128;
    /// The value, rounded so that narrowing it to 16 bits rounds once.
    fn to_f64(self) -> f64;
    /// Rounded once to `f32`.
    fn to_f32(self) -> f32;
    const FLOAT: bool;
}

macro_rules! int_source {
    ($($ty:ident),*) => { $(impl Source for $ty {
        fn is_nonzero(self) -> bool { self != 0 }
        fn integer(self) -> i128 { self as i128 }
        fn to_f64(self) -> f64 { self as f64 }
        fn to_f32(self) -> f32 { self as f32 }
        const FLOAT: bool = false;
    })* };
}
int_source! { i8, i16, i32, i64, u8, u16, u32, u64 }

macro_rules! float_source {
    ($($ty:ident),*) => { $(impl Source for $ty {
        fn is_nonzero(self) -> bool { self.wide() != 0.0 }
        fn integer(self) -> i128 { self.wide() as i128 }
        fn to_f64(self) -> f64 { self.wide() }
        fn to_f32(self) -> f32 { self.wide() as f32 }
        const FLOAT: bool = true;
    })* };
}
float_source! { f16, bf16, f32, f64 }

impl Source for bool {
    fn is_nonzero(self) -> bool {
        self
    }
    fn integer(self) -> i128 {
        self.into()
    }
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self))
    }
    fn to_f32(self) -> f32 {
        f32::from(u8::from(self))
    }
    const FLOAT: bool = false;
}

impl Source for Code {
    fn is_nonzero(self) -> bool {
        self.0 != 0
    }
    fn integer(self) -> i128 {
        self.0.into()
    }
    fn to_f64(self) -> f64 {
        self.0.into()
    }
    fn to_f32(self) -> f32 {
        self.0.into()
    }
    const FLOAT: bool = false;
}

/// Converts to another element type.
pub(crate) fn cast(a: &Data, out: Dtype) -> Data {
    each!(a, v => cast_from(v, out))
}

fn cast_from<T: Source>(v: &[T], out: Dtype) -> Data {
    fn to<T: Source, U: Element>(v: &[T], f: impl Fn(T) -> U) -> Data {
        U::data(v.iter().map(|&x| f(x)).collect())
    }
    /// To an integer: saturated from floats, wrapped from integers.
    macro_rules! int {
        ($ty:ident) => {
            to(v, |x| {
                let wide = x.integer();
                if T::FLOAT { wide.clamp($ty::MIN.into(), $ty::MAX.into()) as $ty } else { wide as $ty }
            })
        };
    }
    match out {
        Dtype::I1 => to(v, T::is_nonzero),
        Dtype::I8 => int!(i8),
        Dtype::I16 => int!(i16),
        Dtype::I32 => int!(i32),
        Dtype::I64 => int!(i64),
        Dtype::U8 => int!(u8),
        Dtype::U16 => int!(u16),
        Dtype::U32 => int!(u32),
        Dtype::U64 => int!(u64),
        // Integers beyond 2^53 are infinite in f16; in bf16 they must not be rounded twice.
        Dtype::F16 => to(v, |x| f16::nearest(x.to_f64())),
        Dtype::BF16 => to(v, |x| bf16::nearest(if T::FLOAT { x.to_f64() } else { int_to_odd(x.integer()) })),
        Dtype::F32 => to(v, T::to_f32),
        Dtype::F64 => to(v, T::to_f64),
        Dtype::Code(bits) => {
            let mask = low_bits(bits);
            to(v, |x| Code(x.integer() as u8 & mask))
        }
    }
}

/// An integer as a double, rounded to odd: rounding it again to 8 bits of precision rounds once.
fn int_to_odd(x: i128) -> f64 {
    let magnitude = x.unsigned_abs();
    let shift = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let sticky = shift > 0 && magnitude & ((1u128 << shift) - 1) != 0;
    let kept = (magnitude >> shift) | u128::from(sticky);
    let value = kept as f64 * 2f64.powi(shift as i32);
    if x < 0 { -value } else { value }
}

/// The largest code of a width.
pub(crate) fn low_bits(bits: u8) -> u8 {
    if bits >= 8 { u8::MAX } else { (1 << bits) - 1 }
}

fn bitcast(a: &Data, out: Dtype) -> Option<Data> {
    if matches!(a, Data::Code(_) | Data::I1(_)) || out.is_code() || out == Dtype::I1 {
        return None;
    }
    fn reread<T: Element, U: Element>(v: &[T]) -> Option<Data> {
        if T::BYTES != U::BYTES {
            return None;
        }
        map(v, |x| {
            let mut bytes = [0; 8];
            x.write(&mut bytes[..T::BYTES]);
            U::read(&bytes[..T::BYTES])
        })
    }
    each!(a, v => with_type!(out, U => reread::<_, U>(v)))
}

fn quantize(x: &Data, scale: &Data, zero: &Data, out: Dtype) -> Option<Data> {
    let Dtype::Code(bits) = out else { return None };
    let (x, scale, zero) = (f32::of(x)?, f32::of(scale)?, f32::of(zero)?);
    let top = f32::from(low_bits(bits));
    let code = |((&x, &scale), &zero): ((&f32, &f32), &f32)| {
        let quotient = (x - zero) / scale;
        let code =
            if scale == 0.0 || quotient.is_nan() { 0.0 } else { quotient.round_ties_even().clamp(0.0, top) };
        Code(code as u8)
    };
    Some(Code::data(x.iter().zip(scale).zip(zero).map(code).collect()))
}

fn dequantize(code: &Data, scale: &Data, zero: &Data) -> Option<Data> {
    let (code, scale, zero) = (Code::of(code)?, f32::of(scale)?, f32::of(zero)?);
    let value = |((code, scale), zero): ((&Code, &f32), &f32)| scale.mul_add(code.0.into(), *zero);
    Some(f32::data(code.iter().zip(scale).zip(zero).map(value).collect()))
}
