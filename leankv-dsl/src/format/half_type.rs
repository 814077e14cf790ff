//! The two 16-bit float types of caches and of group metadata.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A 16-bit float type: of unquantised keys and values, or of a group's scale and zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HalfType {
    /// IEEE binary16: 11 significant bits, largest value 65504.
    #[default]
    F16,
    /// bfloat16: 8 significant bits, the exponent range of `f32`.
    Bf16,
}

impl HalfType {
    /// The value of a bit pattern.
    #[must_use]
    pub fn decode(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f32(),
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }

    /// The nearest 16-bit value, ties to even, saturating: infinities and values beyond the finite range
    /// become [`HalfType::max_finite`] with their sign, and NaN becomes zero.
    #[must_use]
    pub fn encode(self, x: f32) -> u16 {
        if x.is_nan() {
            return 0;
        }
        self.nearest(x.clamp(-self.max_finite(), self.max_finite()))
    }

    /// The largest 16-bit value that is at most `x`. `x` must be within the finite range.
    #[must_use]
    pub fn floor(self, x: f32) -> u16 {
        let bits = self.nearest(x);
        if self.decode(bits) > x { step_down(bits) } else { bits }
    }

    /// The smallest 16-bit value that is at least `x`. `x` must be within the finite range.
    #[must_use]
    pub fn ceil(self, x: f32) -> u16 {
        let bits = self.nearest(x);
        if self.decode(bits) < x { step_down(bits ^ SIGN) ^ SIGN } else { bits }
    }

    /// The largest finite value.
    #[must_use]
    pub fn max_finite(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
        }
    }

    /// The bit pattern of the smallest positive number used as a scale, a normal `f32`: 2^-24 (the smallest
    /// subnormal) for f16 and 2^-126 (the smallest normal) for bf16.
    #[must_use]
    pub fn smallest_scale(self) -> u16 {
        match self {
            Self::F16 => 0x0001,
            Self::Bf16 => 0x0080,
        }
    }

    fn nearest(self, x: f32) -> u16 {
        match self {
            Self::F16 => f16::from_f32(x).to_bits(),
            Self::Bf16 => bf16::from_f32(x).to_bits(),
        }
    }
}

impl fmt::Display for HalfType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

const SIGN: u16 = 0x8000;

/// The next smaller value of a sign-magnitude 16-bit float.
fn step_down(bits: u16) -> u16 {
    match bits {
        0 => SIGN | 1,
        b if b & SIGN == 0 => b - 1,
        b => b + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: [HalfType; 2] = [HalfType::F16, HalfType::Bf16];

    #[test]
    fn special_values_saturate_and_nan_becomes_zero() {
        for t in BOTH {
            assert_eq!(t.decode(t.encode(f32::INFINITY)), t.max_finite());
            assert_eq!(t.decode(t.encode(f32::NEG_INFINITY)), -t.max_finite());
            assert_eq!(t.encode(f32::NAN), 0);
        }
        assert_eq!(HalfType::F16.decode(HalfType::F16.encode(1e9)), 65504.0);
    }

    #[test]
    fn rounding_around_zero_steps_to_the_smallest_subnormal() {
        for t in BOTH {
            assert_eq!(t.floor(-1e-44), 0x8001);
            assert_eq!(t.ceil(1e-44), 0x0001);
            assert_eq!((t.floor(0.0), t.ceil(0.0)), (0, 0));
        }
    }

    proptest! {
        #[test]
        fn floor_and_ceil_are_the_adjacent_values(x in -60000.0f32..60000.0, tiny in -1e-6f32..1e-6) {
            for t in BOTH {
                for x in [x, tiny] {
                    let (lo, hi) = (t.decode(t.floor(x)), t.decode(t.ceil(x)));
                    prop_assert!(lo <= x && x <= hi, "{t}: {lo} <= {x} <= {hi}");
                    // Nothing representable lies strictly between the two.
                    prop_assert!(lo == hi || t.decode(t.ceil(lo.next_up())) == hi, "{t}: {lo} .. {hi}");
                }
            }
        }
    }
}
