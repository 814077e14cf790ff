//! Tiles as the interpreter holds them: one vector per element type, row-major.

use half::{bf16, f16};

use crate::ir::round::{bf16_from_f64, f16_from_f64};
use crate::ir::{Const, Dtype};

/// An element of a code tile. Its width stands in the value's type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(transparent)]
pub(crate) struct Code(pub(crate) u8);

/// The elements of a tile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    I1(Vec<bool>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Code(Vec<Code>),
}

/// Runs an expression on the vector of any tile; `$v` is bound to it.
macro_rules! each {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::I1($v) => $body,
            Data::I8($v) => $body,
            Data::I16($v) => $body,
            Data::I32($v) => $body,
            Data::I64($v) => $body,
            Data::U8($v) => $body,
            Data::U16($v) => $body,
            Data::U32($v) => $body,
            Data::U64($v) => $body,
            Data::F16($v) => $body,
            Data::BF16($v) => $body,
            Data::F32($v) => $body,
            Data::F64($v) => $body,
            Data::Code($v) => $body,
        }
    };
}

/// As [`each`] for integer tiles alone, with an expression for all others.
macro_rules! each_int {
    ($data:expr, $v:ident => $body:expr, else $other:expr) => {
        match $data {
            Data::I8($v) => $body,
            Data::I16($v) => $body,
            Data::I32($v) => $body,
            Data::I64($v) => $body,
            Data::U8($v) => $body,
            Data::U16($v) => $body,
            Data::U32($v) => $body,
            Data::U64($v) => $body,
            _ => $other,
        }
    };
}

/// As [`each`] for float tiles alone, with an expression for all others.
macro_rules! each_float {
    ($data:expr, $v:ident => $body:expr, else $other:expr) => {
        match $data {
            Data::F16($v) => $body,
            Data::BF16($v) => $body,
            Data::F32($v) => $body,
            Data::F64($v) => $body,
            _ => $other,
        }
    };
}

pub(crate) use {each, each_float, each_int};

/// An element type of a tile.
pub(crate) trait Element: Copy + PartialEq + PartialOrd + Default + 'static {
    /// Bytes in memory; 0 for codes, which never lie there.
    const BYTES: usize;
    /// The tile of these elements.
    fn data(elements: Vec<Self>) -> Data;
    /// The tile's elements, when they are of this type.
    fn of(data: &Data) -> Option<&[Self]>;
    /// As [`Element::of`], to change.
    fn of_mut(data: &mut Data) -> Option<&mut [Self]>;
    /// The element in memory, little-endian. `bytes` has [`Element::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Writes the element to memory.
    fn write(self, bytes: &mut [u8]);
    /// The constant as an element of this type, already rounded to it.
    fn constant(value: Const) -> Self;
}

macro_rules! element {
    ($ty:ty, $variant:ident, $constant:expr) => {
        impl Element for $ty {
            const BYTES: usize = size_of::<$ty>();
            fn data(elements: Vec<Self>) -> Data {
                Data::$variant(elements)
            }
            fn of(data: &Data) -> Option<&[Self]> {
                match data {
                    Data::$variant(v) => Some(v),
                    _ => None,
                }
            }
            fn of_mut(data: &mut Data) -> Option<&mut [Self]> {
                match data {
                    Data::$variant(v) => Some(v),
                    _ => None,
                }
            }
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$ty>()];
                array.copy_from_slice(bytes);
                <$ty>::from_le_bytes(array)
            }
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            fn constant(value: Const) -> Self {
                $constant(value)
            }
        }
    };
}

macro_rules! int_element {
    ($($ty:ident $variant:ident),*) => {
        $(element! { $ty, $variant, |c: Const| match c {
            Const::Int(value) => value as $ty,
            Const::Float(bits) => f64::from_bits(bits) as $ty,
        } })*
    };
}

int_element! { i8 I8, i16 I16, i32 I32, i64 I64, u8 U8, u16 U16, u32 U32, u64 U64 }
element! { f16, F16, |c: Const| f16_from_f64(c.as_f64()) }
element! { bf16, BF16, |c: Const| bf16_from_f64(c.as_f64()) }
element! { f32, F32, |c: Const| c.as_f64() as f32 }
element! { f64, F64, |c: Const| c.as_f64() }

impl Element for bool {
    const BYTES: usize = 1;
    fn data(elements: Vec<Self>) -> Data {
        Data::I1(elements)
    }
    fn of(data: &Data) -> Option<&[Self]> {
        match data {
            Data::I1(v) => Some(v),
            _ => None,
        }
    }
    fn of_mut(data: &mut Data) -> Option<&mut [Self]> {
        match data {
            Data::I1(v) => Some(v),
            _ => None,
        }
    }
    fn read(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
    fn write(self, bytes: &mut [u8]) {
        bytes[0] = self.into();
    }
    fn constant(value: Const) -> Self {
        value.as_f64() != 0.0
    }
}

impl Element for Code {
    const BYTES: usize = 0;
    fn data(elements: Vec<Self>) -> Data {
        Data::Code(elements)
    }
    fn of(data: &Data) -> Option<&[Self]> {
        match data {
            Data::Code(v) => Some(v),
            _ => None,
        }
    }
    fn of_mut(data: &mut Data) -> Option<&mut [Self]> {
        match data {
            Data::Code(v) => Some(v),
            _ => None,
        }
    }
    fn read(_: &[u8]) -> Self {
        Code(0)
    }
    fn write(self, _: &mut [u8]) {}
    fn constant(value: Const) -> Self {
        Code(u8::constant(value))
    }
}

/// Runs an expression with `$t` standing for the Rust type of a dtype's elements.
macro_rules! with_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            Dtype::I1 => {
                type $t = bool;
                $body
            }
            Dtype::I8 => {
                type $t = i8;
                $body
            }
            Dtype::I16 => {
                type $t = i16;
                $body
            }
            Dtype::I32 => {
                type $t = i32;
                $body
            }
            Dtype::I64 => {
                type $t = i64;
                $body
            }
            Dtype::U8 => {
                type $t = u8;
                $body
            }
            Dtype::U16 => {
                type $t = u16;
                $body
            }
            Dtype::U32 => {
                type $t = u32;
                $body
            }
            Dtype::U64 => {
                type $t = u64;
                $body
            }
            Dtype::F16 => {
                type $t = half::f16;
                $body
            }
            Dtype::BF16 => {
                type $t = half::bf16;
                $body
            }
            Dtype::F32 => {
                type $t = f32;
                $body
            }
            Dtype::F64 => {
                type $t = f64;
                $body
            }
            Dtype::Code(_) => {
                type $t = $crate::interp::data::Code;
                $body
            }
        }
    };
}
pub(crate) use with_type;

impl Data {
    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// The element type; a code's width is not known here and given as 8.
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Data::I1(_) => Dtype::I1,
            Data::I8(_) => Dtype::I8,
            Data::I16(_) => Dtype::I16,
            Data::I32(_) => Dtype::I32,
            Data::I64(_) => Dtype::I64,
            Data::U8(_) => Dtype::U8,
            Data::U16(_) => Dtype::U16,
            Data::U32(_) => Dtype::U32,
            Data::U64(_) => Dtype::U64,
            Data::F16(_) => Dtype::F16,
            Data::BF16(_) => Dtype::BF16,
            Data::F32(_) => Dtype::F32,
            Data::F64(_) => Dtype::F64,
            Data::Code(_) => Dtype::Code(8),
        }
    }

    /// `n` elements of one value.
    pub(crate) fn filled(dtype: Dtype, value: Const, n: usize) -> Data {
        with_type!(dtype, T => T::data(vec![T::constant(value); n]))
    }

    /// `n` zeros.
    pub(crate) fn zeros(dtype: Dtype, n: usize) -> Data {
        with_type!(dtype, T => T::data(vec![T::default(); n]))
    }

    /// Element `index` alone, `n` times.
    pub(crate) fn repeated(&self, index: usize, n: usize) -> Data {
        each!(self, v => Element::data(vec![v[index]; n]))
    }

    /// The elements at these places, in this order.
    pub(crate) fn picked(&self, places: impl Iterator<Item = usize>) -> Data {
        each!(self, v => Element::data(places.map(|i| v[i]).collect()))
    }

    /// The only element of an integer scalar.
    #[allow(clippy::unnecessary_cast)] // one of the eight types needs none
    pub(crate) fn as_int(&self) -> Option<i64> {
        each_int!(self, v => v.first().map(|&x| x as i64), else None)
    }

    /// The elements as text, for `print`.
    pub(crate) fn show(&self, index: usize) -> String {
        match self {
            Data::I1(v) => v[index].to_string(),
            Data::Code(v) => v[index].0.to_string(),
            Data::F16(v) => format!("{:?}", v[index].to_f32()),
            Data::BF16(v) => format!("{:?}", v[index].to_f32()),
            Data::F32(v) => format!("{:?}", v[index]),
            Data::F64(v) => format!("{:?}", v[index]),
            other => each_int!(other, v => v[index].to_string(), else String::new()),
        }
    }
}
