//! Rounding to 16-bit floats, correct and the same on every machine.
//!
//! `half` narrows `f64` to `f16` through `f32` where the processor has a conversion for that, which rounds twice; constants
//! and conversions must not depend on the machine.

use half::{bf16, f16};

/// `x` rounded to nearest even.
pub fn f16_from_f64(x: f64) -> f16 {
    f16::from_f32(f32_to_odd(x))
}

/// `x` rounded to nearest even.
pub fn bf16_from_f64(x: f64) -> bf16 {
    bf16::from_f32(f32_to_odd(x))
}

/// `x` rounded to odd: exact, or that neighbour whose last bit is 1. A second rounding to a type with at least two bits less is
/// then as good as one rounding of `x`.
fn f32_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if x.is_nan() || back == x || near.to_bits() & 1 == 1 {
        return near;
    }
    // Rounded up in magnitude: the neighbour toward zero is the odd one. Rounded down: the one away from zero.
    let bits = near.to_bits();
    let away = back.abs() < x.abs();
    f32::from_bits(if away { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `half` gave 1 + 2^-10 or 1 for this one, depending on the processor.
    #[test]
    fn a_value_just_above_a_tie_rounds_up() {
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(f16_from_f64(tie).to_f64(), 1.0);
        assert_eq!(f16_from_f64(tie + 2f64.powi(-40)).to_f64(), 1.0 + 2f64.powi(-10));
        assert_eq!(f16_from_f64(-tie - 2f64.powi(-40)).to_f64(), -1.0 - 2f64.powi(-10));
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(bf16_from_f64(tie).to_f64(), 1.0);
        assert_eq!(bf16_from_f64(tie + 2f64.powi(-40)).to_f64(), 1.0 + 2f64.powi(-7));
    }

    #[test]
    fn ends_of_the_range_round_as_they_should() {
        assert_eq!(f16_from_f64(65519.999999), f16::MAX);
        assert_eq!(f16_from_f64(65520.0), f16::INFINITY);
        assert_eq!(f16_from_f64(1e300), f16::INFINITY);
        assert_eq!(f16_from_f64(-1e300), f16::NEG_INFINITY);
        assert_eq!(f16_from_f64(2f64.powi(-25)).to_bits(), 0);
        assert_eq!(f16_from_f64(2f64.powi(-25) * 1.0000000001).to_bits(), 1);
        assert_eq!(f16_from_f64(-1e-300).to_bits(), 0x8000);
        assert_eq!(bf16_from_f64(1e300), bf16::INFINITY);
        assert!(f16_from_f64(f64::NAN).is_nan());
    }
}
