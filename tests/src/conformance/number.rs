//! Numbers of every element type, read and written independently of the interpreter.
//!
//! Integers are exact in `i128`; floats are doubles, rounded to their type by search in the type's own list of values.

use std::sync::OnceLock;

use leankv_dsl::ir::Dtype;

/// A number of any element type.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Num {
    /// An integer, truth value or code.
    Int(i128),
    /// A float.
    Float(f64),
}

impl Num {
    /// The value as a double.
    pub fn float(self) -> f64 {
        match self {
            Num::Int(x) => x as f64,
            Num::Float(x) => x,
        }
    }

    /// The integer; a float's integer part.
    pub fn int(self) -> i128 {
        match self {
            Num::Int(x) => x,
            Num::Float(x) => x as i128,
        }
    }
}

/// The smaller of two floats: -0 is below +0, and NaN gives way to numbers.
pub fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() || (!b.is_nan() && b.total_cmp(&a).is_lt()) { b } else { a }
}

/// The larger of two floats, as [`least`].
pub fn most(a: f64, b: f64) -> f64 {
    -least(-a, -b)
}

/// A 16-bit float format.
#[derive(Clone, Copy)]
struct Short {
    mantissa_bits: u32,
    bias: i32,
}

const F16: Short = Short { mantissa_bits: 10, bias: 15 };
const BF16: Short = Short { mantissa_bits: 7, bias: 127 };

impl Short {
    fn decode(self, bits: u16) -> f64 {
        let mantissa = i32::from(bits) & ((1 << self.mantissa_bits) - 1);
        let exponent = (i32::from(bits) & 0x7fff) >> self.mantissa_bits;
        let scale = |e: i32| 2f64.powi(e - self.bias - self.mantissa_bits as i32);
        let magnitude = match exponent {
            0 => f64::from(mantissa) * scale(1),
            e if e == 0x7fff >> self.mantissa_bits => {
                if mantissa == 0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            e => f64::from(mantissa + (1 << self.mantissa_bits)) * scale(e),
        };
        if bits & 0x8000 != 0 { -magnitude } else { magnitude }
    }

    /// The nearest value, ties to even, by search among all of them.
    fn encode(self, positive: &[f64], x: f64) -> u16 {
        let infinity = positive.len() as u16;
        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
        let m = x.abs();
        if m.is_nan() {
            return infinity | (1 << (self.mantissa_bits - 1));
        }
        let above = positive.partition_point(|&v| v <= m);
        let lower = above - 1;
        // Beyond the largest value the next one counts as if the exponent went on.
        let largest = positive[positive.len() - 1];
        let upper_value =
            positive.get(above).copied().unwrap_or(2.0 * largest - positive[positive.len() - 2]);
        let middle = (positive[lower] + upper_value) / 2.0;
        let up = m > middle || (m == middle && lower % 2 == 1);
        sign | (lower + usize::from(up)) as u16
    }
}

fn values(format: Short) -> &'static [f64] {
    static LISTS: [OnceLock<Vec<f64>>; 2] = [OnceLock::new(), OnceLock::new()];
    let infinity = 0x7fff >> format.mantissa_bits << format.mantissa_bits;
    LISTS[usize::from(format.mantissa_bits == 7)]
        .get_or_init(|| (0..infinity as u16).map(|bits| format.decode(bits)).collect())
}

/// The element size in memory.
///
/// # Panics
/// For codes, which do not lie in memory.
pub fn size(dtype: Dtype) -> usize {
    dtype.bytes().expect("the suite keeps no codes in memory") as usize
}

/// Reads one element.
pub fn read(dtype: Dtype, bytes: &[u8]) -> Num {
    let mut raw = [0; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    let raw = u64::from_le_bytes(raw);
    match dtype {
        Dtype::F16 => Num::Float(F16.decode(raw as u16)),
        Dtype::BF16 => Num::Float(BF16.decode(raw as u16)),
        Dtype::F32 => Num::Float(f32::from_bits(raw as u32).into()),
        Dtype::F64 => Num::Float(f64::from_bits(raw)),
        _ => Num::Int(wrap(dtype, raw.into())),
    }
}

/// The integer that the low bits stand for in an integer type.
pub fn wrap(dtype: Dtype, x: i128) -> i128 {
    let bits = dtype.bits();
    let low = x & ((1 << bits) - 1);
    if dtype.is_signed_int() && low >> (bits - 1) == 1 { low - (1 << bits) } else { low }
}

/// Appends an element: floats rounded to nearest even, integers wrapped.
pub fn write(dtype: Dtype, x: Num, out: &mut Vec<u8>) {
    match dtype {
        Dtype::F16 => out.extend(F16.encode(values(F16), x.float()).to_le_bytes()),
        Dtype::BF16 => out.extend(BF16.encode(values(BF16), x.float()).to_le_bytes()),
        Dtype::F32 => out.extend((x.float() as f32).to_le_bytes()),
        Dtype::F64 => out.extend(x.float().to_le_bytes()),
        _ => out.extend(&wrap(dtype, x.int()).to_le_bytes()[..size(dtype)]),
    }
}

/// All elements of a buffer.
pub fn read_all(dtype: Dtype, bytes: &[u8]) -> Vec<Num> {
    bytes.chunks_exact(size(dtype)).map(|b| read(dtype, b)).collect()
}

/// A buffer of these elements.
pub fn write_all(dtype: Dtype, values: impl IntoIterator<Item = Num>) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        write(dtype, value, &mut out);
    }
    out
}

/// A value of a dtype rounded to it and back.
pub fn rounded(dtype: Dtype, x: Num) -> Num {
    let mut bytes = Vec::new();
    write(dtype, x, &mut bytes);
    read(dtype, &bytes)
}
