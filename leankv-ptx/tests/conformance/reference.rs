//! Scalar reference arithmetic, by methods other than the machine's: exact error terms and searches in tables
//! of all values, instead of integer mantissas.

/// Rounding directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum R {
    N,
    Z,
    M,
    P,
}

pub const MODES: [(&str, R); 4] = [("rn", R::N), ("rz", R::Z), ("rm", R::M), ("rp", R::P)];

/// Exact `hi + lo` of a + b.
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

/// Rounds the exact value `hi + lo` to f32. The nearest f32 of `hi` is off by at most one step.
pub fn to_f32(hi: f64, lo: f64, r: R) -> f32 {
    if !hi.is_finite() {
        return hi as f32;
    }
    // Signed distance of the exact value from a candidate.
    let side = |c: f32| {
        let (d, e) = two_sum(hi, -f64::from(c));
        let t = d + (e + lo);
        if t != 0.0 { t } else { e + lo }
    };
    let mut c = hi as f32;
    if c.is_infinite() {
        c = f32::MAX.copysign(hi as f32);
    }
    // Candidates around the exact value.
    let below = if side(c) >= 0.0 { c } else { c.next_down() };
    let below = if side(below) >= 0.0 { below } else { below.next_down() };
    if side(below) == 0.0 {
        return if below == 0.0 { 0.0f32.copysign(hi as f32) } else { below };
    }
    let above = below.next_up();
    let pick = match r {
        R::M => below,
        R::P => above,
        R::Z => {
            if hi > 0.0 || (hi == 0.0 && lo > 0.0) {
                below
            } else {
                above
            }
        }
        R::N => {
            // Half way between the two, with the overflow threshold beyond the largest number.
            let limit =
                |v: f32| if v.is_infinite() { 2f64.powi(128).copysign(f64::from(v)) } else { f64::from(v) };
            let mid = (limit(below) + limit(above)) / 2.0;
            let (d, e) = two_sum(hi, -mid);
            let t = d + (e + lo);
            if t < 0.0 {
                below
            } else if t > 0.0 {
                above
            } else if below.to_bits() & 1 == 0 {
                below
            } else {
                above
            }
        }
    };
    if pick == 0.0 { 0.0f32.copysign(if hi != 0.0 { hi as f32 } else { lo as f32 }) } else { pick }
}

pub fn canon(v: f32) -> u64 {
    if v.is_nan() { 0x7fff_ffff } else { u64::from(v.to_bits()) }
}

pub fn f(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

/// `a + b` with rounding `r`.
pub fn add(a: f32, b: f32, r: R) -> f32 {
    let s = a + b;
    if !a.is_finite() || !b.is_finite() {
        return s;
    }
    let (hi, lo) = two_sum(f64::from(a), f64::from(b));
    if hi == 0.0 && lo == 0.0 {
        return if a == 0.0 && b == 0.0 && a.is_sign_negative() == b.is_sign_negative() {
            a
        } else if r == R::M {
            -0.0
        } else {
            0.0
        };
    }
    to_f32(hi, lo, r)
}

pub fn mul(a: f32, b: f32, r: R) -> f32 {
    let p = a * b;
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return p;
    }
    to_f32(f64::from(a) * f64::from(b), 0.0, r)
}

pub fn fma(a: f32, b: f32, c: f32, r: R) -> f32 {
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    let p = f64::from(a) * f64::from(b);
    let (hi, lo) = two_sum(p, f64::from(c));
    if hi == 0.0 && lo == 0.0 {
        let pn = a.is_sign_negative() != b.is_sign_negative();
        return if pn == c.is_sign_negative() {
            if pn { -0.0 } else { 0.0 }
        } else if r == R::M {
            -0.0
        } else {
            0.0
        };
    }
    to_f32(hi, lo, r)
}

/// `a / b`: the quotient in double, corrected by the sign of the exact remainder.
pub fn div(a: f32, b: f32, r: R) -> f32 {
    let q = a / b;
    if !a.is_finite() || !b.is_finite() || b == 0.0 || a == 0.0 {
        return q;
    }
    let (a, b) = (f64::from(a), f64::from(b));
    let hi = a / b;
    let rem = (-hi).mul_add(b, a);
    // The exact quotient lies on the remainder's side of hi; its size does not matter below half an ulp.
    let lo = if rem == 0.0 { 0.0 } else { (rem / b).signum() * hi.abs() * 2f64.powi(-54) };
    to_f32(hi, lo, r)
}

pub fn sqrt(a: f32, r: R) -> f32 {
    if a.is_nan() || a <= 0.0 || a.is_infinite() {
        return a.sqrt();
    }
    let a = f64::from(a);
    let hi = a.sqrt();
    let rem = (-hi).mul_add(hi, a);
    let lo = if rem == 0.0 { 0.0 } else { rem.signum() * hi * 2f64.powi(-54) };
    to_f32(hi, lo, r)
}

pub fn ftz(v: f32) -> f32 {
    if v.is_subnormal() { 0.0f32.copysign(v) } else { v }
}

pub fn sat(v: f32) -> f32 {
    if v.is_nan() || v <= 0.0 {
        0.0
    } else if v > 1.0 {
        1.0
    } else {
        v
    }
}

/// All finite non-negative values of a 16-bit format, ascending, as doubles.
pub struct Table {
    values: Vec<f64>,
    max_bits: u32,
}

impl Table {
    /// A format with `exp` exponent bits and `frac` fraction bits.
    pub fn new(exp: u32, frac: u32) -> Table {
        let bias = (1i32 << (exp - 1)) - 1;
        let max_bits = ((1 << exp) - 1) << frac;
        let values = (0..max_bits)
            .map(|b: u32| {
                let e = (b >> frac) as i32;
                let m = f64::from(b & ((1 << frac) - 1)) / f64::from(1u32 << frac);
                if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(e - bias) }
            })
            .collect();
        Table { values, max_bits }
    }

    pub fn f16() -> Table {
        Table::new(5, 10)
    }

    pub fn bf16() -> Table {
        Table::new(8, 7)
    }

    /// The number a pattern stands for.
    pub fn value(&self, bits: u64) -> f64 {
        let bits = bits & 0xffff;
        let m = (bits & 0x7fff) as u32;
        let v = match m.cmp(&self.max_bits) {
            std::cmp::Ordering::Less => self.values[m as usize],
            std::cmp::Ordering::Equal => f64::INFINITY,
            std::cmp::Ordering::Greater => f64::NAN,
        };
        if bits & 0x8000 != 0 { -v } else { v }
    }

    /// The pattern nearest to the exact value `hi + lo`.
    pub fn round(&self, hi: f64, lo: f64, r: R) -> u64 {
        if hi.is_nan() {
            return 0x7fff;
        }
        let neg = hi.is_sign_negative();
        let sign = if neg { 0x8000 } else { 0 };
        let (m, l) = if neg { (-hi, -lo) } else { (hi, lo) };
        if m.is_infinite() {
            return sign | u64::from(self.max_bits);
        }
        // First value above m + l.
        let above = self.values.partition_point(|v| *v < m || (*v == m && l >= 0.0));
        let i = above - 1;
        if above == 0 {
            return sign;
        }
        let (x, exact) = (self.values[i], self.values[i] == m && l == 0.0);
        if exact {
            return sign | i as u64;
        }
        let top = *self.values.last().unwrap();
        let step = top - self.values[self.values.len() - 2];
        let y = if above < self.values.len() { self.values[above] } else { top + step };
        let up = match r {
            R::Z => false,
            R::M => neg,
            R::P => !neg,
            R::N => {
                let mid = (x + y) / 2.0;
                m > mid || (m == mid && (l > 0.0 || (l == 0.0 && i % 2 == 1)))
            }
        };
        sign | if up { above as u64 } else { i as u64 }
    }
}
