//! The tutorial kernels: vector add, softmax, matrix product.

use super::error::{ReferenceError, check_len};

/// Elementwise sum of two vectors of the same length.
///
/// # Errors
/// [`ReferenceError::Shape`] where the lengths differ.
pub fn add(a: &[f32], b: &[f32]) -> Result<Vec<f32>, ReferenceError> {
    check_len("b [n]", a.len(), b.len())?;
    Ok(a.iter().zip(b).map(|(a, b)| a + b).collect())
}

/// Softmax of each row of `x [rows, columns]`, shifted by the row's maximum.
///
/// A row of negative infinities (everything masked) becomes zeros.
///
/// # Errors
/// [`ReferenceError::Shape`] where `x` is not a whole number of rows.
pub fn softmax(x: &[f32], columns: usize) -> Result<Vec<f32>, ReferenceError> {
    if columns == 0 {
        check_len("x [rows, 0]", 0, x.len())?;
        return Ok(Vec::new());
    }
    check_len("x [rows, columns]", x.len().next_multiple_of(columns), x.len())?;
    let mut out = x.to_vec();
    for row in out.chunks_exact_mut(columns) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            row.fill(0.0);
            continue;
        }
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
    Ok(out)
}

/// `a [m, k]` times `b [k, n]`, accumulated in `f32` in the order of `k`.
///
/// # Errors
/// [`ReferenceError::Shape`] where a slice does not have the stated shape.
pub fn matmul(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Result<Vec<f32>, ReferenceError> {
    check_len("a [m, k]", m * k, a.len())?;
    check_len("b [k, n]", k * n, b.len())?;
    let mut out = vec![0.0; m * n];
    for row in 0..m {
        let out = &mut out[row * n..][..n];
        for i in 0..k {
            let a = a[row * k + i];
            for (out, b) in out.iter_mut().zip(&b[i * n..][..n]) {
                *out += a * b;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::{close, random};

    #[test]
    fn softmax_matches_f64_and_sums_to_one() {
        let x: Vec<f32> = random(1, 5 * 37).iter().map(|x| x * 30.0).collect();
        let got = softmax(&x, 37).unwrap();
        for (row, got) in x.chunks(37).zip(got.chunks(37)) {
            let exp: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
            let sum: f64 = exp.iter().sum();
            for (e, g) in exp.iter().zip(got) {
                close(e / sum, *g, 1e-5);
            }
            close(1.0, got.iter().sum(), 1e-5);
        }
    }

    #[test]
    fn softmax_of_a_masked_row_is_zero() {
        assert_eq!(softmax(&[f32::NEG_INFINITY; 4], 4).unwrap(), [0.0; 4]);
        let half = softmax(&[0.0, f32::NEG_INFINITY], 2).unwrap();
        assert_eq!(half, [1.0, 0.0]);
        assert!(softmax(&[], 0).unwrap().is_empty());
        assert!(softmax(&[0.0; 5], 4).is_err());
    }

    #[test]
    fn matmul_matches_f64() {
        let (m, n, k) = (5, 7, 33);
        let (a, b) = (random(2, m * k), random(3, k * n));
        let got = matmul(&a, &b, m, n, k).unwrap();
        for i in 0..m {
            for j in 0..n {
                let exact: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
                close(exact, got[i * n + j], 1e-5);
            }
        }
        assert!(matmul(&a, &b, m, n, k + 1).is_err());
    }

    #[test]
    fn add_checks_lengths() {
        assert_eq!(add(&[1.0, 2.0], &[3.0, 4.0]).unwrap(), [4.0, 6.0]);
        assert!(add(&[1.0], &[]).is_err());
    }
}
