//! Quantize and dequantize for every codec: rows of one vector each.

use super::error::{ReferenceError, check_len};
use leankv_dsl::format::{CodecMath, decode_row, encode_row};

/// Packed rows with their metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// `[rows, head_dim * bits / 8]` bytes.
    pub packed: Vec<u8>,
    /// `[rows, groups, meta_words]` 16-bit floats, as bit patterns.
    pub meta: Vec<u16>,
}

/// Quantises `x [rows, head_dim]`, one row at a time.
///
/// # Errors
/// A head dim that the codec does not support or a partial row.
pub fn quantize(codec: &dyn CodecMath, x: &[f32], head_dim: usize) -> Result<Quantized, ReferenceError> {
    let (row_bytes, row_words) = row_sizes(codec, head_dim)?;
    check_len("x [rows, head_dim]", x.len().next_multiple_of(head_dim), x.len())?;
    let rows = x.len() / head_dim;
    let mut out = Quantized { packed: vec![0; rows * row_bytes], meta: vec![0; rows * row_words] };
    for (r, x) in x.chunks_exact(head_dim).enumerate() {
        let packed = &mut out.packed[r * row_bytes..][..row_bytes];
        encode_row(codec, x, packed, &mut out.meta[r * row_words..][..row_words])?;
    }
    Ok(out)
}

/// The values `[rows, head_dim]` of quantised rows.
///
/// # Errors
/// As [`quantize`]; also packed bytes and metadata of different row counts.
pub fn dequantize(codec: &dyn CodecMath, x: &Quantized, head_dim: usize) -> Result<Vec<f32>, ReferenceError> {
    let (row_bytes, row_words) = row_sizes(codec, head_dim)?;
    check_len("packed [rows, row bytes]", x.packed.len().next_multiple_of(row_bytes), x.packed.len())?;
    let rows = x.packed.len() / row_bytes;
    check_len("meta [rows, groups, meta words]", rows * row_words, x.meta.len())?;
    let mut out = vec![0.0; rows * head_dim];
    for (r, row) in out.chunks_exact_mut(head_dim).enumerate() {
        let packed = &x.packed[r * row_bytes..][..row_bytes];
        decode_row(codec, packed, &x.meta[r * row_words..][..row_words], row)?;
    }
    Ok(out)
}

/// Bytes and metadata words of a row.
fn row_sizes(codec: &dyn CodecMath, head_dim: usize) -> Result<(usize, usize), ReferenceError> {
    let shape = codec.shape();
    let d = u32::try_from(head_dim).unwrap_or(u32::MAX);
    shape.check(d)?;
    Ok((shape.row_bytes(d) as usize, (shape.groups * shape.meta_words) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::random;
    use leankv_dsl::format::CodecSpec;

    /// The error of each element is at most half a step, and the step is a function of the group's range.
    #[test]
    fn error_bounds_hold_for_every_width_and_group_count() {
        for head_dim in [64, 80, 96, 128, 256] {
            let x = random(7, 3 * head_dim);
            for bits in 1..=8 {
                for groups in [1, 2, 4] {
                    let codec = CodecSpec::affine(bits, groups).unwrap();
                    let back =
                        dequantize(&codec, &quantize(&codec, &x, head_dim).unwrap(), head_dim).unwrap();
                    let len = head_dim / groups as usize;
                    for (x, y) in x.chunks(len).zip(back.chunks(len)) {
                        let (min, max) =
                            x.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
                        // The 16-bit rounding of zero and scale widens the range by at most 2^-10 of each.
                        let range = (max - min) * (1.0 + 2f32.powi(-9)) + min.abs() * 2f32.powi(-9);
                        let bound = range / (2f32.powi(bits as i32) - 1.0) * 0.5 + 1e-6;
                        for (x, y) in x.iter().zip(y) {
                            assert!((x - y).abs() <= bound, "{codec} d={head_dim}: {x} {y} {bound}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn more_bits_never_hurt() {
        let x = random(8, 128);
        let error = |bits| {
            let codec = CodecSpec::affine(bits, 1).unwrap();
            let back = dequantize(&codec, &quantize(&codec, &x, 128).unwrap(), 128).unwrap();
            x.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        };
        let errors: Vec<f32> = (1..=8).map(error).collect();
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    }

    #[test]
    fn empty_input_and_bad_shapes() {
        let codec = CodecSpec::affine(4, 1).unwrap();
        assert!(quantize(&codec, &[], 128).unwrap().packed.is_empty());
        assert!(quantize(&codec, &[0.0; 100], 128).is_err());
        assert!(quantize(&codec, &[0.0; 100], 100).is_err());
        assert!(quantize(&codec, &[], 0).is_err());
        let short = Quantized { packed: vec![0; 64], meta: vec![0; 1] };
        assert!(dequantize(&codec, &short, 128).is_err());
    }
}
