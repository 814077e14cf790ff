//! What encoding and decoding mean, in plain `f32`.
//!
//! Kernels must produce the same codes and metadata bit for bit. All arithmetic below is IEEE `f32`, round
//! to nearest even, without contraction.
//!
//! Inputs first: NaN is left out of minima and maxima, and any finite value or infinity is clamped to `+-limit`
//! ([`input_limit`]), inside which scale, range and decoded values stay finite.
//!
//! | scheme | metadata of a group | zero in use |
//! |---|---|---|
//! | affine | `zero = floor16(min)`, `scale = ceil16((max - zero) / L)` | the stored one |
//! | symmetric | `scale = ceil16(max abs / reach)` | `-scale * centre`, exact in `f32` |
//!
//! ```text
//! code  = clamp(rne((x - zero) / scale), 0, L)     0 where scale is 0 or x is NaN
//! value = scale * code + zero                      the product is exact, so fused or not is the same
//! ```
//!
//! This is what the IR's `quantize` and `dequantize` compute from the same scale and zero. An unquantised
//! codec stores the nearest 16-bit float, saturating.
//!
//! `L = 2^bits - 1`. Of mid-tread levels `centre = 2^(bits - 1)` and `reach = L - centre`, except that one-bit codes are
//! signs: `centre = reach = 1/2`. Of mid-rise levels `centre = L / 2` and `reach` is a little more: see [`symmetric_reach`]. `floor16` and `ceil16` round to the metadata type towards minus and plus
//! infinity, so the 16-bit range still covers the data (up to one `f32` rounding), and codes are made with
//! the constants that decoding uses. A minimum of `-0` counts as `+0`.
//!
//! Defined corners:
//!
//! * `max == zero` (a constant group whose value is a 16-bit number): scale 0, all codes 0, exact.
//! * NaN: code 0 in an affine codec, which decodes to the group's zero point; counts as the number 0 in a
//!   symmetric codec (whose code 0 lies outside the data's range); 0.0 in an unquantised codec.
//! * A group without any number: scale 0 and zero 0, which decodes to 0.
//! * A positive scale is at least [`HalfType::smallest_scale`], so that no executor flushes it to zero.
//!
//! The error of a number inside the limit (for mid-rise levels: inside the outermost ones) is at most `scale / 2` plus a few `f32` roundings of the group's
//! largest magnitude. (LeanKV, section on quantisation; the rounding rules are ours.)

use super::{Bits, CodecShape, CodecSpec, FormatError, HalfType, Levels, pack_row, row_bytes, unpack_row};

/// The plain-Rust meaning of a codec: what one group's codes and metadata are, and what they decode to.
///
/// A new codec (codebook, rotation, ...) implements this once; [`encode_row`], [`decode_row`], packing and
/// [`PageLayout::from_shapes`](super::PageLayout::from_shapes) then work with it.
pub trait CodecMath {
    /// Bits, groups and metadata words of one vector.
    fn shape(&self) -> CodecShape;

    /// Codes and metadata of one group. `codes` is as long as `x`; `meta` has `shape().meta_words` words.
    fn encode_group(&self, x: &[f32], codes: &mut [u16], meta: &mut [u16]);

    /// The values of one group. Total: every code and metadata pattern decodes to something.
    fn decode_group(&self, codes: &[u16], meta: &[u16], x: &mut [f32]);

    /// A transform of the whole vector before it is cut into groups, for codecs that rotate; the identity
    /// by default.
    fn rotate(&self, _row: &mut [f32]) {}

    /// The inverse of [`CodecMath::rotate`].
    fn unrotate(&self, _row: &mut [f32]) {}
}

/// Encodes one vector of `row.len()` elements into packed codes and `groups * meta_words` metadata words.
///
/// # Errors
/// A head dim or shape that is not supported, or buffers of the wrong length.
pub fn encode_row(
    codec: &dyn CodecMath,
    row: &[f32],
    packed: &mut [u8],
    meta: &mut [u16],
) -> Result<(), FormatError> {
    let shape = check(codec, row.len(), packed.len(), meta.len())?;
    let mut rotated = row.to_vec();
    codec.rotate(&mut rotated);
    let mut codes = vec![0; row.len()];
    let len = row.len() / shape.groups as usize;
    let words = shape.meta_words as usize;
    for (g, (x, codes)) in rotated.chunks_exact(len).zip(codes.chunks_exact_mut(len)).enumerate() {
        codec.encode_group(x, codes, &mut meta[g * words..][..words]);
    }
    pack_row(&codes, shape.code_bits, packed)
}

/// Decodes one vector: the inverse of [`encode_row`] up to the codec's error.
///
/// # Errors
/// As [`encode_row`].
pub fn decode_row(
    codec: &dyn CodecMath,
    packed: &[u8],
    meta: &[u16],
    row: &mut [f32],
) -> Result<(), FormatError> {
    let shape = check(codec, row.len(), packed.len(), meta.len())?;
    let mut codes = vec![0; row.len()];
    unpack_row(packed, shape.code_bits, &mut codes)?;
    let len = row.len() / shape.groups as usize;
    let words = shape.meta_words as usize;
    for (g, (codes, x)) in codes.chunks_exact(len).zip(row.chunks_exact_mut(len)).enumerate() {
        codec.decode_group(codes, &meta[g * words..][..words], x);
    }
    codec.unrotate(row);
    Ok(())
}

fn check(codec: &dyn CodecMath, len: usize, packed: usize, meta: usize) -> Result<CodecShape, FormatError> {
    let shape = codec.shape();
    shape.check(u32::try_from(len).unwrap_or(u32::MAX))?;
    let expected = row_bytes(len, shape.code_bits);
    if packed != expected {
        return Err(FormatError::Length { what: "bytes of a packed row", expected, got: packed });
    }
    let expected = (shape.groups * shape.meta_words) as usize;
    if meta != expected {
        return Err(FormatError::Length { what: "metadata words of a row", expected, got: meta });
    }
    Ok(shape)
}

/// The largest input magnitude of a quantised codec; larger values and infinities are clamped to it.
///
/// f16 metadata: 65280, which leaves room below the largest finite f16 (65504) for the rounding of the scale,
/// so that every decoded value is still a finite f16; half of it at one bit, where the scale is the whole
/// range. bf16 metadata: 2^126, so that a range of twice that is still a finite `f32`.
#[must_use]
pub fn input_limit(bits: Bits, meta: HalfType) -> f32 {
    match (meta, bits.get()) {
        (HalfType::F16, 1) => 32640.0,
        (HalfType::F16, _) => 65280.0,
        (HalfType::Bf16, _) => 2f32.powi(126),
    }
}

/// The code of zero in symmetric quantisation: `2^(bits - 1)`, or midway between all codes.
#[must_use]
pub fn symmetric_centre(bits: Bits, levels: Levels) -> f32 {
    match (levels, bits.get()) {
        (Levels::MidTread, 2..) => f32::from(1u16 << (bits.get() - 1)),
        _ => f32::from(bits.max_code()) / 2.0,
    }
}

/// Steps from zero to the largest magnitude of a group.
///
/// Mid-tread: those to the largest code. Mid-rise: more than those, so that the outermost level lies at a part of the largest magnitude, which is the one that loses least
/// of 96 normally distributed numbers (the mean square error over rows, minimised in steps of 0.01; of 64 and of 128 numbers it is 0.03 more and less, and the
/// loss hardly another). At 4 bits that is 0.0093 of the variance for 64 numbers and 0.0104 for 128; levels of unequal distances, which would be a table, lose 0.0095
/// where their scale is the root of the variance (Max, Quantizing for minimum distortion, 1960).
#[must_use]
pub fn symmetric_reach(bits: Bits, levels: Levels) -> f32 {
    let to_last = f32::from(bits.max_code()) - symmetric_centre(bits, levels);
    let part = match (levels, bits.get()) {
        (Levels::MidTread, _) => 1.0,
        (Levels::MidRise, 1) => 0.29,
        (Levels::MidRise, 2) => 0.55,
        (Levels::MidRise, 3) => 0.76,
        (Levels::MidRise, 4) => 0.9,
        (Levels::MidRise, 5) => 0.97,
        (Levels::MidRise, _) => 0.99,
    };
    to_last / part
}

impl CodecMath for CodecSpec {
    fn shape(&self) -> CodecShape {
        CodecSpec::shape(*self)
    }

    fn encode_group(&self, x: &[f32], codes: &mut [u16], meta: &mut [u16]) {
        match *self {
            Self::None { dtype } => {
                for (code, &x) in codes.iter_mut().zip(x) {
                    *code = dtype.encode(x);
                }
            }
            Self::Affine { bits, meta: t, .. } => {
                let Some((min, max)) = range(x, input_limit(bits, t)) else {
                    codes.fill(0);
                    return meta.fill(0);
                };
                let zero = t.floor(min + 0.0);
                let scale = positive_scale(t, (max - t.decode(zero)) / f32::from(bits.max_code()));
                meta.copy_from_slice(&[scale, zero]);
                to_codes(x, t.decode(scale), t.decode(zero), bits, t, codes);
            }
            Self::Symmetric { bits, levels, meta: t, .. } => {
                let x: Vec<f32> = x.iter().map(|&x| if x.is_nan() { 0.0 } else { x }).collect();
                let (min, max) = range(&x, input_limit(bits, t)).unwrap_or_default();
                let scale = positive_scale(t, max.max(-min) / symmetric_reach(bits, levels));
                meta[0] = scale;
                let scale = t.decode(scale);
                to_codes(&x, scale, -scale * symmetric_centre(bits, levels), bits, t, codes);
            }
        }
    }

    fn decode_group(&self, codes: &[u16], meta: &[u16], x: &mut [f32]) {
        match *self {
            Self::None { dtype } => {
                for (x, &code) in x.iter_mut().zip(codes) {
                    *x = dtype.decode(code);
                }
            }
            Self::Affine { meta: t, .. } => {
                let (scale, zero) = (t.decode(meta[0]), t.decode(meta[1]));
                for (x, &code) in x.iter_mut().zip(codes) {
                    *x = scale * f32::from(code) + zero;
                }
            }
            Self::Symmetric { bits, levels, meta: t, .. } => {
                let scale = t.decode(meta[0]);
                let zero = -scale * symmetric_centre(bits, levels);
                for (x, &code) in x.iter_mut().zip(codes) {
                    *x = scale * f32::from(code) + zero;
                }
            }
        }
    }
}

/// Least and greatest number after clamping, or `None` where there is no number.
fn range(x: &[f32], limit: f32) -> Option<(f32, f32)> {
    x.iter().filter(|x| !x.is_nan()).map(|x| x.clamp(-limit, limit)).fold(None, |acc, x| match acc {
        None => Some((x, x)),
        Some((min, max)) => Some((if x < min { x } else { min }, if x > max { x } else { max })),
    })
}

/// `step` rounded up to 16 bits; zero stays zero.
fn positive_scale(t: HalfType, step: f32) -> u16 {
    // The patterns of non-negative 16-bit floats are ordered as the numbers are.
    if step == 0.0 { 0 } else { t.ceil(step).max(t.smallest_scale()) }
}

fn to_codes(x: &[f32], scale: f32, zero: f32, bits: Bits, t: HalfType, codes: &mut [u16]) {
    let (limit, levels) = (input_limit(bits, t), f32::from(bits.max_code()));
    for (code, &x) in codes.iter_mut().zip(x) {
        let steps = ((x.clamp(-limit, limit) - zero) / scale).round_ties_even();
        *code = if scale == 0.0 || steps.is_nan() { 0 } else { steps.clamp(0.0, levels) as u16 };
    }
}

#[cfg(test)]
#[path = "quant_tests.rs"]
mod tests;
