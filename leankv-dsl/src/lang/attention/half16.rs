//! The 16-bit floats of caches and metadata, chosen by value: the device form of
//! [`HalfType`](crate::format::HalfType), bit for bit.

use half::{bf16, f16};

use crate::format::HalfType;
use crate::lang::tile::Tile;

/// The numbers of bit patterns.
#[track_caller]
pub fn decode16<const R: usize>(bits: Tile<u16, R>, t: HalfType) -> Tile<f32, R> {
    match t {
        HalfType::F16 => bits.bitcast::<f16>().cast(),
        HalfType::Bf16 => bits.bitcast::<bf16>().cast(),
    }
}

#[track_caller]
fn nearest<const R: usize>(x: Tile<f32, R>, t: HalfType) -> Tile<u16, R> {
    match t {
        HalfType::F16 => x.cast::<f16>().bitcast(),
        HalfType::Bf16 => x.cast::<bf16>().bitcast(),
    }
}

/// The nearest 16-bit value, saturating; NaN becomes zero. As [`HalfType::encode`].
#[track_caller]
pub fn encode16<const R: usize>(x: Tile<f32, R>, t: HalfType) -> Tile<u16, R> {
    let limit = t.max_finite();
    let number = x.eq(x).select(x, 0.0);
    nearest(number.clamp(-limit, limit), t)
}

/// The largest 16-bit value that is at most `x`, which is within the finite range. As [`HalfType::floor`].
#[track_caller]
pub fn floor16<const R: usize>(x: Tile<f32, R>, t: HalfType) -> Tile<u16, R> {
    let bits = nearest(x, t);
    let below = (bits & 0x8000).eq(0).select(bits - 1, bits + 1);
    let down = bits.eq(0).select(0x8001, below);
    decode16(bits, t).gt(x).select(down, bits)
}

/// `step`, which is not negative, rounded up to a positive scale; zero stays zero.
#[track_caller]
pub fn positive_scale16<const R: usize>(step: Tile<f32, R>, t: HalfType) -> Tile<u16, R> {
    let bits = nearest(step, t);
    let up = decode16(bits, t).lt(step).select(bits + 1, bits);
    step.eq(0.0).select(0, up.max(t.smallest_scale()))
}
