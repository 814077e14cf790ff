//! Exact rounding of binary floating point in any format and direction.
//!
//! The fast paths of the machine use the host's round-to-nearest arithmetic; everything else (directed
//! rounding, narrow formats, saturating narrow formats) comes through here, so it is defined once.

/// Rounding direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even (`.rn`).
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    Away,
    /// Toward zero (`.rz`).
    Zero,
    /// Toward negative infinity (`.rm`).
    Down,
    /// Toward positive infinity (`.rp`).
    Up,
}

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Total bits.
    pub bits: u32,
    /// Stored fraction bits.
    pub frac: u32,
    /// Exponent bias.
    pub bias: i32,
    /// Whether the all-ones exponent means infinity and NaN; e4m3 keeps it for numbers.
    pub ieee: bool,
}

/// IEEE half.
pub const F16: Format = Format { bits: 16, frac: 10, bias: 15, ieee: true };
/// bfloat16.
pub const BF16: Format = Format { bits: 16, frac: 7, bias: 127, ieee: true };
/// IEEE single.
pub const F32: Format = Format { bits: 32, frac: 23, bias: 127, ieee: true };
/// IEEE double.
pub const F64: Format = Format { bits: 64, frac: 52, bias: 1023, ieee: true };
/// fp8 with 4 exponent bits: no infinity, one NaN per sign, maximum 448.
pub const E4M3: Format = Format { bits: 8, frac: 3, bias: 7, ieee: false };
/// fp8 with 5 exponent bits.
pub const E5M2: Format = Format { bits: 8, frac: 2, bias: 15, ieee: true };

impl Format {
    fn exp_mask(self) -> u64 {
        (1 << (self.bits - 1 - self.frac)) - 1
    }

    /// Canonical NaN: all ones below the sign, except f64 which has only the quiet bit.
    pub fn nan(self) -> u64 {
        match self.bits {
            64 => 0x7ff8_0000_0000_0000,
            _ => (1 << (self.bits - 1)) - 1,
        }
    }

    /// Infinity, or the largest number where the format has none.
    pub fn infinity(self) -> u64 {
        if self.ieee { self.exp_mask() << self.frac } else { self.max_finite() }
    }

    /// Largest finite magnitude.
    pub fn max_finite(self) -> u64 {
        if self.ieee { ((self.exp_mask() - 1) << self.frac) | ((1 << self.frac) - 1) } else { self.nan() - 1 }
    }

    fn sign_bit(self) -> u64 {
        1 << (self.bits - 1)
    }
}

/// An unpacked value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Not a number.
    Nan,
    /// Infinity; `true` is negative.
    Inf(bool),
    /// `(-1)^neg * mant * 2^exp`; `mant` may be zero.
    Num {
        /// Sign.
        neg: bool,
        /// Magnitude.
        mant: u128,
        /// Power of two.
        exp: i32,
    },
}

/// Unpacks the low bits of `bits` in format `f`, exactly.
pub fn unpack(f: Format, bits: u64) -> Value {
    let neg = bits & f.sign_bit() != 0;
    let e = (bits >> f.frac) & f.exp_mask();
    let m = bits & ((1 << f.frac) - 1);
    if e == f.exp_mask() && f.ieee {
        return if m != 0 { Value::Nan } else { Value::Inf(neg) };
    }
    if !f.ieee && bits & !f.sign_bit() & ((f.sign_bit() << 1) - 1) == f.nan() {
        return Value::Nan;
    }
    let frac = f.frac as i32;
    if e == 0 {
        Value::Num { neg, mant: u128::from(m), exp: 1 - f.bias - frac }
    } else {
        Value::Num { neg, mant: u128::from(m | 1 << f.frac), exp: e as i32 - f.bias - frac }
    }
}

/// Rounds `v` to format `f`. `sticky` says that a non-zero amount below `mant`'s last bit was dropped.
pub fn pack(f: Format, v: Value, round: Round, sticky: bool) -> u64 {
    let (neg, mant, exp) = match v {
        Value::Nan => return f.nan(),
        Value::Inf(neg) => return f.infinity() | if neg { f.sign_bit() } else { 0 },
        Value::Num { neg, mant, exp } => (neg, mant, exp),
    };
    let sign = if neg { f.sign_bit() } else { 0 };
    if mant == 0 {
        if sticky {
            // A non-zero value below everything representable here.
            return pack(f, Value::Num { neg, mant: 1, exp: -20000 }, round, true);
        }
        return sign;
    }
    let top = 127 - mant.leading_zeros() as i32;
    let value_exp = exp + top;
    let min_exp = 1 - f.bias;
    // Weight of the result's last bit.
    let lsb = value_exp.max(min_exp) - f.frac as i32;
    let shift = lsb - exp;
    let (mut kept, half, rest) = if shift <= 0 {
        (mant << (-shift).min(127) as u32, false, sticky)
    } else if shift > 127 {
        (0, false, true)
    } else {
        let s = shift as u32;
        let half = mant >> (s - 1) & 1 == 1;
        let rest = (mant & ((1u128 << (s - 1)) - 1)) != 0 || sticky;
        (mant >> s, half, rest)
    };
    let inexact = half || rest;
    let up = match round {
        Round::Nearest => half && (rest || kept & 1 == 1),
        Round::Away => half,
        Round::Zero => false,
        Round::Down => neg && inexact,
        Round::Up => !neg && inexact,
    };
    if up {
        kept += 1;
    }
    let hidden = 1u128 << f.frac;
    let mut e = if value_exp < min_exp { 0 } else { value_exp + f.bias };
    if kept >= hidden << 1 {
        kept >>= 1;
        e += 1;
    } else if e == 0 && kept >= hidden {
        e = 1;
    }
    let magnitude = if e > f.exp_mask() as i32 {
        u64::MAX
    } else {
        (e as u64) << f.frac | (kept as u64 & (hidden as u64 - 1))
    };
    if magnitude > f.max_finite() {
        let to_inf = match round {
            Round::Nearest | Round::Away => true,
            Round::Zero => false,
            Round::Down => neg,
            Round::Up => !neg,
        };
        return sign | if to_inf { f.infinity() } else { f.max_finite() };
    }
    sign | magnitude
}

/// `a * b + c` with one rounding, all in format `f`.
pub fn fma(f: Format, a: u64, b: u64, c: u64, round: Round) -> u64 {
    let (va, vb, vc) = (unpack(f, a), unpack(f, b), unpack(f, c));
    if matches!(va, Value::Nan) || matches!(vb, Value::Nan) || matches!(vc, Value::Nan) {
        return f.nan();
    }
    let neg = |v: Value| match v {
        Value::Inf(n) | Value::Num { neg: n, .. } => n,
        Value::Nan => false,
    };
    let product_neg = neg(va) ^ neg(vb);
    let zero = |v: Value| matches!(v, Value::Num { mant: 0, .. });
    if matches!(va, Value::Inf(_)) || matches!(vb, Value::Inf(_)) {
        if zero(va) || zero(vb) || matches!(vc, Value::Inf(n) if n != product_neg) {
            return f.nan();
        }
        return pack(f, Value::Inf(product_neg), round, false);
    }
    if let Value::Inf(n) = vc {
        return pack(f, Value::Inf(n), round, false);
    }
    let (Value::Num { mant: ma, exp: ea, .. }, Value::Num { mant: mb, exp: eb, .. }) = (va, vb) else {
        return f.nan();
    };
    let Value::Num { mant: mc, exp: ec, neg: nc } = vc else { return f.nan() };
    let (v, sticky) = sum(product_neg, ma * mb, ea + eb, nc, mc, ec, round);
    pack(f, v, round, sticky)
}

/// Exact sum of two numbers up to a sticky bit below the result.
fn sum(na: bool, ma: u128, ea: i32, nb: bool, mb: u128, eb: i32, round: Round) -> (Value, bool) {
    if ma == 0 && mb == 0 {
        let neg = if na == nb { na } else { round == Round::Down };
        return (Value::Num { neg, mant: 0, exp: 0 }, false);
    }
    if ma == 0 {
        return (Value::Num { neg: nb, mant: mb, exp: eb }, false);
    }
    if mb == 0 {
        return (Value::Num { neg: na, mant: ma, exp: ea }, false);
    }
    // Normalise both to bit 125; the larger exponent then belongs to the larger (or equal) magnitude.
    let normalise = |m: u128, e: i32| {
        let s = m.leading_zeros() as i32 - 2;
        if s >= 0 { (m << s, e - s) } else { (m >> -s, e - s) }
    };
    let (xa, ea) = normalise(ma, ea);
    let (xb, eb) = normalise(mb, eb);
    let ((nl, ml, el), (ns, ms, es)) =
        if (ea, xa) >= (eb, xb) { ((na, xa, ea), (nb, xb, eb)) } else { ((nb, xb, eb), (na, xa, ea)) };
    let shift = (el - es) as u32;
    let (small, lost) =
        if shift > 126 { (0, ms != 0) } else { (ms >> shift, ms & ((1u128 << shift) - 1) != 0) };
    if nl == ns {
        return (Value::Num { neg: nl, mant: ml + small, exp: el }, lost);
    }
    // A dropped remainder makes the true difference slightly smaller: borrow one and keep it sticky.
    let diff = ml - small - u128::from(lost);
    if diff == 0 && !lost {
        return (Value::Num { neg: round == Round::Down, mant: 0, exp: 0 }, false);
    }
    (Value::Num { neg: nl, mant: diff, exp: el }, lost)
}

/// `a / b` with one rounding.
pub fn div(f: Format, a: u64, b: u64, round: Round) -> u64 {
    match (unpack(f, a), unpack(f, b)) {
        (Value::Nan, _) | (_, Value::Nan) | (Value::Inf(_), Value::Inf(_)) => f.nan(),
        (Value::Inf(x), Value::Num { neg, .. }) => pack(f, Value::Inf(x ^ neg), round, false),
        (Value::Num { neg, .. }, Value::Inf(y)) => {
            pack(f, Value::Num { neg: neg ^ y, mant: 0, exp: 0 }, round, false)
        }
        (Value::Num { neg: na, mant: ma, exp: ea }, Value::Num { neg: nb, mant: mb, exp: eb }) => {
            let neg = na ^ nb;
            if mb == 0 {
                return if ma == 0 { f.nan() } else { pack(f, Value::Inf(neg), round, false) };
            }
            if ma == 0 {
                return pack(f, Value::Num { neg, mant: 0, exp: 0 }, round, false);
            }
            let s = ma.leading_zeros();
            let num = ma << s;
            let (q, r) = (num / mb, num % mb);
            pack(f, Value::Num { neg, mant: q, exp: ea - s as i32 - eb }, round, r != 0)
        }
    }
}

/// Square root with one rounding.
pub fn sqrt(f: Format, a: u64, round: Round) -> u64 {
    match unpack(f, a) {
        Value::Nan | Value::Inf(true) => f.nan(),
        Value::Inf(false) => f.infinity(),
        Value::Num { neg, mant: 0, .. } => {
            if neg {
                f.sign_bit()
            } else {
                0
            }
        }
        Value::Num { neg: true, .. } => f.nan(),
        Value::Num { mant, exp, .. } => {
            let mut s = mant.leading_zeros() as i32 - 1;
            if (exp - s) % 2 != 0 {
                s -= 1;
            }
            let m = if s >= 0 { mant << s } else { mant >> -s };
            let root = m.isqrt();
            pack(f, Value::Num { neg: false, mant: root, exp: (exp - s) / 2 }, round, root * root != m)
        }
    }
}

/// Converts between formats.
pub fn convert(from: Format, to: Format, bits: u64, round: Round) -> u64 {
    pack(to, unpack(from, bits), round, false)
}

/// Subnormal f32 bits to a zero of the same sign.
#[inline(always)]
pub fn ftz32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Subnormal f16 bits to a zero of the same sign.
#[inline(always)]
pub fn ftz16(bits: u16) -> u16 {
    if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

/// f16 bits to f32.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    // Place exponent and fraction, then rescale: exact for subnormals too.
    let sign = u32::from(h & 0x8000) << 16;
    let em = u32::from(h & 0x7fff);
    if em >= 0x7c00 {
        let nan = if em > 0x7c00 { 0x0040_0000 } else { 0 };
        return f32::from_bits(sign | 0x7f80_0000 | (em & 0x3ff) << 13 | nan);
    }
    let scaled = f32::from_bits(em << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(scaled.to_bits() | sign)
}

/// bf16 bits to f32.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// f32 to f16 bits, nearest even, canonical NaN.
#[inline(always)]
pub fn f32_to_f16(v: f32) -> u16 {
    if v.is_nan() { 0x7fff } else { half::f16::from_f32(v).to_bits() }
}

/// f32 to bf16 bits, nearest even, canonical NaN.
#[inline(always)]
pub fn f32_to_bf16(v: f32) -> u16 {
    let b = v.to_bits();
    if v.is_nan() {
        return 0x7fff;
    }
    ((b + 0x7fff + (b >> 16 & 1)) >> 16) as u16
}

/// Rounds an f64 so that a second rounding to at most 51 bits is exact: any lost remainder goes into the
/// last bit. `err` is the exact remainder.
pub fn to_odd(sum: f64, err: f64) -> f64 {
    if err == 0.0 || !sum.is_finite() || !err.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let bits = sum.to_bits();
    // Moving toward the remainder changes the magnitude by one unit in the last place.
    let grow = (err > 0.0) == (sum > 0.0);
    f64::from_bits(if grow { bits + 1 } else { bits - 1 })
}

/// `a * b + c` of f16 or bf16 operands given as f32, as an f64 that rounds correctly to the narrow format.
pub fn fma_narrow(a: f32, b: f32, c: f32) -> f64 {
    let p = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    let s = p + c;
    let bb = s - p;
    let err = (p - (s - bb)) + (c - bb);
    to_odd(s, err)
}

/// An f64 to the narrow format `f`, nearest even.
pub fn f64_to(f: Format, v: f64) -> u64 {
    pack(f, unpack(F64, v.to_bits()), Round::Nearest, false)
}
