//! When two buffers agree.

use half::{bf16, f16};

use crate::ir::Dtype;

/// How the contents of two buffers are compared. NaN equals NaN in all of them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Check {
    /// Equal bits.
    Bits,
    /// Floats within `rel` of the larger magnitude plus `abs` plus one rounding of a 16-bit type; infinities must be equal. Integers
    /// must be equal.
    Close {
        /// Relative bound.
        rel: f64,
        /// Absolute bound.
        abs: f64,
    },
    /// Bytes among which lie f32 sums, at multiples of 4: a word that the launch changed is compared as an f32 within `rel` of the larger magnitude plus `abs`,
    /// every other one by its bits. The last `code_bits` of such a word are no part of the sum: they are a whole number, and may differ by 1.
    WordSums {
        /// Relative bound.
        rel: f64,
        /// Absolute bound.
        abs: f64,
        /// Bits of the number beside the sum.
        code_bits: u32,
    },
}

impl Check {
    /// [`Check::Close`].
    #[must_use]
    pub const fn close(rel: f64, abs: f64) -> Check {
        Check::Close { rel, abs }
    }
}

/// Outcome of a comparison.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Comparison {
    /// The largest difference of two floats that were compared, and both finite; 0 where bits are compared.
    pub largest: f64,
    /// What differs beyond the bound, in words.
    pub difference: Option<String>,
}

/// Compares the contents that two executors left in a buffer which held `before`.
#[must_use]
pub fn compare(dtype: Dtype, check: Check, before: &[u8], got: &[u8], want: &[u8]) -> Comparison {
    if got.len() != want.len() {
        let difference = Some(format!("it has {} bytes, not {}", got.len(), want.len()));
        return Comparison { largest: 0.0, difference };
    }
    let (dtype, bytes) = match check {
        Check::WordSums { .. } => (Dtype::F32, 4),
        _ => (dtype, dtype.bytes().unwrap_or(1) as usize),
    };
    let (mut largest, mut wrong, mut few) = (0f64, 0usize, Vec::new());
    for (i, (got, want)) in got.chunks(bytes).zip(want.chunks(bytes)).enumerate() {
        if got == want {
            continue;
        }
        let (a, b) = (float(dtype, got), float(dtype, want));
        let agree = match (check, a, b) {
            (Check::WordSums { rel, abs, code_bits }, ..) => {
                let changed =
                    before.chunks(bytes).nth(i).is_some_and(|before| before != want && before != got);
                let ([a, got], [b, want]) = (sum_and_code(got, code_bits), sum_and_code(want, code_bits));
                let difference = (a - b).abs();
                largest = if changed { largest.max(difference) } else { largest };
                changed && difference <= rel * a.abs().max(b.abs()) + abs && (got - want).abs() <= 1.0
            }
            (_, Some(a), Some(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
            (Check::Close { rel, abs }, Some(a), Some(b)) => {
                let difference = (a - b).abs();
                if difference.is_finite() {
                    largest = largest.max(difference);
                }
                let size = a.abs().max(b.abs());
                size.is_finite() && difference <= (rel + rounding(dtype)) * size + abs
            }
            _ => false,
        };
        if !agree {
            wrong += 1;
            if few.len() < 4 {
                few.push(format!("[{i}] is {}, not {}", text(dtype, got), text(dtype, want)));
            }
        }
    }
    let total = want.len().div_ceil(bytes);
    let difference =
        (wrong > 0).then(|| format!("{wrong} of {total} elements ({dtype}) differ: {}", few.join("; ")));
    Comparison { largest, difference }
}

/// A unit in the last place of a 16-bit type, relative: half of one on each side.
fn rounding(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 2f64.powi(-10),
        Dtype::BF16 => 2f64.powi(-7),
        _ => 0.0,
    }
}

/// The sum of a word and the number in its last bits.
fn sum_and_code(word: &[u8], code_bits: u32) -> [f64; 2] {
    let bits = word.iter().rev().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let code = bits & ((1 << code_bits) - 1);
    [f32::from_bits(bits ^ code).into(), code.into()]
}

fn float(dtype: Dtype, bytes: &[u8]) -> Option<f64> {
    Some(match (dtype, bytes) {
        (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (Dtype::F64, bytes) => f64::from_le_bytes(bytes.try_into().ok()?),
        _ => return None,
    })
}

fn text(dtype: Dtype, bytes: &[u8]) -> String {
    let mut word = [0u8; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    let bits = u64::from_le_bytes(word);
    match float(dtype, bytes) {
        Some(x) => format!("{x:e} ({bits:#x})"),
        None => format!("{bits:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(x: &[f32]) -> Vec<u8> {
        x.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn agree(check: Check, before: &[f32], got: &[f32], want: &[f32]) -> bool {
        compare(Dtype::F32, check, &bytes(before), &bytes(got), &bytes(want)).difference.is_none()
    }

    #[test]
    fn floats_agree_within_the_bound_and_nan_equals_nan() {
        let close = Check::close(0.0, 0.1);
        let inf = f32::INFINITY;
        assert!(agree(close, &[0.0; 3], &[1.0, f32::NAN, inf], &[1.05, f32::NAN, inf]));
        assert!(!agree(close, &[0.0], &[1.0], &[1.2]));
        assert!(!agree(close, &[0.0], &[1.0], &[f32::NAN]));
        assert!(!agree(close, &[0.0], &[inf], &[f32::MAX]));
        assert!(!agree(Check::Bits, &[0.0], &[0.0], &[-0.0]));
        let found = compare(Dtype::F32, close, &bytes(&[0.0; 2]), &bytes(&[1.0, 2.0]), &bytes(&[1.5, 2.0]));
        assert_eq!(found.largest, 0.5);
        assert!(found.difference.unwrap().starts_with("1 of 2 elements (f32) differ: [0] is 1e0"));
    }

    #[test]
    fn of_words_among_bytes_only_those_that_changed_may_differ() {
        let sums = Check::WordSums { rel: 0.0, abs: 0.1, code_bits: 0 };
        assert!(agree(sums, &[5.0, 1.0], &[5.0, 2.0], &[5.0, 2.05]));
        assert!(!agree(sums, &[5.0, 1.0], &[5.0, 2.0], &[5.0, 2.5]));
        assert!(!agree(sums, &[5.0, 1.0], &[5.05, 2.0], &[5.0, 2.0]));
        let relative = Check::WordSums { rel: 0.1, abs: 0.0, code_bits: 0 };
        assert!(agree(relative, &[0.0], &[20.0], &[21.0]) && !agree(relative, &[0.0], &[20.0], &[24.0]));
    }

    #[test]
    fn numbers_beside_sums_differ_by_one_at_most() {
        let coded = Check::WordSums { rel: 0.0, abs: 0.1, code_bits: 6 };
        let word = |sum: f32, code: u32| f32::from_bits(sum.to_bits() | code);
        assert!(agree(coded, &[1.0], &[word(2.0, 20)], &[word(2.0, 21)]));
        assert!(!agree(coded, &[1.0], &[word(2.0, 20)], &[word(2.0, 22)]));
        assert!(!agree(coded, &[1.0], &[word(2.0, 20)], &[word(2.25, 20)]));
        assert!(!agree(coded, &[word(2.0, 20)], &[word(2.0, 20)], &[word(2.0, 21)]), "one is as it was");
    }
}
