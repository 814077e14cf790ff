//! Test data: special values first, then pseudo-random ones from a seed.

use leankv_dsl::ir::Dtype;

use super::number::{Num, rounded, wrap};

/// A small generator (splitmix64): the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// From a name.
    pub fn named(name: &str) -> Rng {
        Rng(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// In `[-1, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Values that break things, exact in the type.
pub fn specials(dtype: Dtype) -> Vec<Num> {
    if dtype == Dtype::I1 {
        return vec![Num::Int(0), Num::Int(1)];
    }
    if !dtype.is_float() {
        let bits = dtype.bits();
        let edge = 1i128 << (bits - 1);
        let mut out = vec![];
        for x in [0, 1, -1, 2, 3, 7, i128::from(bits) - 1, bits.into(), edge - 1, edge, -edge, -edge + 1] {
            let x = Num::Int(wrap(dtype, x));
            if !out.contains(&x) {
                out.push(x);
            }
        }
        return out;
    }
    let (max, min, tiny) = match dtype {
        Dtype::F16 => (65504.0, 2f64.powi(-14), 2f64.powi(-24)),
        Dtype::BF16 => (2f64.powi(127) * (2.0 - 2f64.powi(-7)), 2f64.powi(-126), 2f64.powi(-133)),
        Dtype::F32 => (f32::MAX.into(), f32::MIN_POSITIVE.into(), 2f64.powi(-149)),
        _ => (f64::MAX, f64::MIN_POSITIVE, 5e-324),
    };
    let plain = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.0, -0.75, 100.0];
    let edges = [max, -max, min, -min, tiny, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    plain.into_iter().chain(edges).map(Num::Float).collect()
}

/// A random value: integers over all bits, floats of many magnitudes.
pub fn random(dtype: Dtype, rng: &mut Rng) -> Num {
    if dtype.is_float() {
        let exponent = rng.below(13) as i32 - 6;
        return rounded(dtype, Num::Float(rng.unit() * 2f64.powi(exponent)));
    }
    // Half of them small.
    let shift = if rng.below(2) == 0 { 0 } else { dtype.bits().saturating_sub(4) };
    Num::Int(wrap(dtype, i128::from(rng.bits() >> shift)))
}

/// `n` elements: special values first, then random ones.
pub fn values(dtype: Dtype, n: usize, rng: &mut Rng) -> Vec<Num> {
    let mut out = specials(dtype);
    out.truncate(n);
    while out.len() < n {
        out.push(random(dtype, rng));
    }
    out
}

/// `n` pairs: each special value with each, then random ones.
pub fn pairs(dtype: Dtype, n: usize, rng: &mut Rng) -> (Vec<Num>, Vec<Num>) {
    let specials = specials(dtype);
    let mut out: Vec<(Num, Num)> =
        specials.iter().flat_map(|&a| specials.iter().map(move |&b| (a, b))).collect();
    out.truncate(n);
    while out.len() < n {
        out.push((random(dtype, rng), random(dtype, rng)));
    }
    out.into_iter().unzip()
}

/// `n` small integers in `-most ..= most` (`0 ..= most` for unsigned types), exact in every type.
pub fn small(dtype: Dtype, n: usize, most: i64, rng: &mut Rng) -> Vec<Num> {
    (0..n)
        .map(|_| {
            let x = rng.below(2 * most as usize + 1) as i64 - most;
            match dtype {
                Dtype::I1 => Num::Int((x & 1).into()),
                _ if dtype.is_float() => Num::Float(x as f64),
                _ if dtype.is_signed_int() => Num::Int(x.into()),
                _ => Num::Int(x.abs().into()),
            }
        })
        .collect()
}

/// `n` floats in `[-1, 1)`, rounded to the type.
pub fn units(dtype: Dtype, n: usize, rng: &mut Rng) -> Vec<Num> {
    (0..n).map(|_| rounded(dtype, Num::Float(rng.unit()))).collect()
}
