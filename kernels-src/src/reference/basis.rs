//! The basis in which a cache holds queries, keys and values.

use super::error::{ReferenceError, check_len};

/// A row times the orthonormal Hadamard matrix, in blocks of the largest power of two that divides it; its own inverse.
pub fn rotate(row: &mut [f32]) {
    let block = 1 << row.len().trailing_zeros();
    let scale = (block as f32).sqrt().recip();
    for block in row.chunks_exact_mut(block) {
        for step in 0..block.len().trailing_zeros() {
            for pairs in block.chunks_exact_mut(2 << step) {
                let (first, second) = pairs.split_at_mut(1 << step);
                for (a, b) in first.iter_mut().zip(second) {
                    let sum = *a + *b;
                    // As the kernel makes the difference.
                    (*a, *b) = (sum, b.mul_add(-2.0, sum));
                }
            }
        }
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Rows `[n, heads, head_dim]` without their head's mean, `[heads, head_dim]`, then rotated.
///
/// # Errors
/// Slices that do not fit the shapes.
pub fn enter_basis(
    rows: &[f32],
    means: Option<&[f32]>,
    rotated: bool,
    [heads, head_dim]: [usize; 2],
) -> Result<Vec<f32>, ReferenceError> {
    let of_token = heads * head_dim;
    check_len("rows [n, heads, head_dim]", rows.len().next_multiple_of(of_token.max(1)), rows.len())?;
    if let Some(means) = means {
        check_len("means [heads, head_dim]", of_token, means.len())?;
    }
    let mut out = rows.to_vec();
    for token in out.chunks_exact_mut(of_token.max(1)) {
        if let Some(means) = means {
            token.iter_mut().zip(means).for_each(|(x, mean)| *x -= mean);
        }
        if rotated {
            token.chunks_exact_mut(head_dim).for_each(rotate);
        }
    }
    Ok(out)
}

/// What attention gave, `[n, kv_heads * group, head_dim]`, out of the basis again; `means` are those of values, `[kv_heads, head_dim]`.
///
/// # Errors
/// Slices that do not fit the shapes.
pub fn leave_basis(
    out: &[f32],
    means: Option<&[f32]>,
    rotated: bool,
    [kv_heads, group, head_dim]: [usize; 3],
) -> Result<Vec<f32>, ReferenceError> {
    let of_token = kv_heads * group * head_dim;
    let mut back = enter_basis(out, None, rotated, [kv_heads * group, head_dim])?;
    if let Some(means) = means {
        check_len("means [kv_heads, head_dim]", kv_heads * head_dim, means.len())?;
        for token in back.chunks_exact_mut(of_token.max(1)) {
            for (head, x) in token.chunks_exact_mut(head_dim).enumerate() {
                let mean = &means[head / group * head_dim..][..head_dim];
                x.iter_mut().zip(mean).for_each(|(x, mean)| *x += mean);
            }
        }
    }
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::testing::random;

    #[test]
    fn a_rotation_is_orthonormal_and_its_own_inverse() {
        for len in [64, 80, 96, 128] {
            let row = random(len as u64, len);
            let mut turned = row.clone();
            rotate(&mut turned);
            let square = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            assert!((square(&row) - square(&turned)).abs() < 1e-4 * square(&row), "{len}");
            assert!(row.iter().zip(&turned).any(|(a, b)| (a - b).abs() > 0.1), "{len}: it turns");
            rotate(&mut turned);
            assert!(row.iter().zip(&turned).all(|(a, b)| (a - b).abs() < 1e-5), "{len}");
        }
    }

    #[test]
    fn a_large_element_is_spread_over_its_block() {
        let mut row = vec![0.0; 80];
        row[3] = 8.0;
        rotate(&mut row);
        assert!(row[..16].iter().all(|x| x.abs() == 2.0) && row[16..].iter().all(|x| *x == 0.0));
    }

    #[test]
    fn what_enters_and_leaves_is_what_it_was() {
        let (values, means) = (random(5, 3 * 2 * 64), random(6, 2 * 64));
        let inside = enter_basis(&values, Some(&means), true, [2, 64]).unwrap();
        let back = leave_basis(&inside, Some(&means), true, [2, 1, 64]).unwrap();
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
