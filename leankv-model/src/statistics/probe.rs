//! A linear probe that foresees how much a token will be asked for again, from its key and value alone.
//!
//! KVzip (arXiv 2505.23416) has the model read a text a second time, and scores a token by the largest share of attention that it gets then. That costs a
//! second prefill. The probe predicts the binary logarithm of this share by a linear function of the token's key before RoPE, its value, the logarithms of their
//! norms and of the position: one function for each layer and KV head, fitted by ridge regression.

use rayon::prelude::*;

/// Linear functions for each layer and KV head.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub(super) head_dim: usize,
    pub(super) kv_heads: usize,
    /// `[layers, kv_heads, features]`, see [`Probe::features`].
    pub(super) weights: Vec<f32>,
}

/// Shares below this one are as good as none: no peak holds them.
const LEAST: f32 = 1.0 / 65536.0;

/// What the squared weights of standardised features cost, for each token: as much as an error of this part of a log2's variance.
const RIDGE: f64 = 0.03;

impl Probe {
    /// Weights of a function: of `head_dim` elements of the key and as many of the value, of their norms, of the position, and a constant.
    #[must_use]
    pub const fn features(head_dim: usize) -> usize {
        2 * head_dim + 4
    }

    /// What the tokens of a layer will be asked for: `[rows, kv_heads]`, shares of attention from 0 to 1.
    ///
    /// `keys` (before RoPE) and `values` are `[rows, kv_heads, head_dim]`, `positions` is `[rows]`.
    ///
    /// # Panics
    /// For tensors of other lengths, and a layer that the probe does not have.
    #[must_use]
    pub fn priors(&self, layer: usize, keys: &[f32], values: &[f32], positions: &[u32]) -> Vec<f32> {
        let (d, heads, n) = (self.head_dim, self.kv_heads, Probe::features(self.head_dim));
        assert!(
            keys.len() == values.len() && keys.len() == positions.len() * heads * d,
            "a row for each position"
        );
        let weights = &self.weights[layer * heads * n..][..heads * n];
        let mut priors = vec![0.0; positions.len() * heads];
        priors.par_chunks_mut(heads).enumerate().for_each(|(row, priors)| {
            let at = |x: &[f32], head: usize| x[(row * heads + head) * d..][..d].to_vec();
            for (head, (prior, weights)) in priors.iter_mut().zip(weights.chunks_exact(n)).enumerate() {
                let x = features(&at(keys, head), &at(values, head), positions[row]);
                let log2: f32 = weights.iter().zip(&x).map(|(w, x)| w * x).sum();
                *prior = log2.exp2().min(1.0);
            }
        });
        priors
    }
}

/// What a function is linear in.
fn features(key: &[f32], value: &[f32], position: u32) -> Vec<f32> {
    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().max(1e-12).log2() / 2.0;
    let mut x = Vec::with_capacity(Probe::features(key.len()));
    x.extend_from_slice(key);
    x.extend_from_slice(value);
    x.extend([norm(key), norm(value), (position as f32 + 2.0).log2(), 1.0]);
    x
}

/// Sums over tokens that one function is fitted to.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    /// Products of each two of the features and, in the end, the target: the lower triangle, row after row.
    products: Vec<f64>,
    size: usize,
}

impl Fit {
    pub(super) fn new(head_dim: usize) -> Fit {
        let size = Probe::features(head_dim) + 1;
        Fit { products: vec![0.0; size * (size + 1) / 2], size }
    }

    /// Counts a token that got `share` of the attention of a query.
    pub(super) fn push(&mut self, key: &[f32], value: &[f32], position: u32, share: f32) {
        let mut x = features(key, value, position);
        x.push(share.max(LEAST).log2());
        let mut products = self.products.iter_mut();
        for (i, a) in x.iter().enumerate() {
            products.by_ref().zip(&x[..=i]).for_each(|(sum, b)| *sum += f64::from(*a) * f64::from(*b));
        }
    }

    fn product(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.max(j), i.min(j));
        self.products[i * (i + 1) / 2 + j]
    }

    /// The weights of least squared error, each standardised one's square costing [`RIDGE`].
    pub(super) fn weights(&self) -> Vec<f32> {
        // The last feature is the constant, so its products are sums.
        let (target, constant) = (self.size - 1, self.size - 2);
        let tokens = self.product(constant, constant).max(1.0);
        let mean = |i: usize| self.product(i, constant) / tokens;
        let covariance = |i: usize, j: usize| self.product(i, j) / tokens - mean(i) * mean(j);
        let mut matrix: Vec<Vec<f64>> =
            (0..constant).map(|i| (0..=i).map(|j| covariance(i, j)).collect()).collect();
        let most = (0..constant).map(|i| matrix[i][i]).fold(0.0, f64::max);
        for (i, row) in matrix.iter_mut().enumerate() {
            // A feature that never changes has no weight.
            row[i] += RIDGE * row[i].max(0.0) + 1e-9 * most + f64::MIN_POSITIVE;
        }
        let right: Vec<f64> = (0..constant).map(|i| covariance(i, target)).collect();
        let weights = solve(matrix, right);
        let bias = mean(target) - weights.iter().enumerate().map(|(i, w)| w * mean(i)).sum::<f64>();
        weights.into_iter().chain([bias]).map(|w| w as f32).collect()
    }
}

/// Solves a symmetric positive definite system, given by its lower triangle, by Cholesky's factors.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..n {
        for j in 0..=i {
            let (above, rest) = matrix.split_at_mut(i);
            let row = &mut rest[0];
            let other = above.get(j).map_or(&row[..], |other| other);
            let left = row[j] - dot(&row[..j], &other[..j]);
            row[j] = if i == j { left.max(f64::MIN_POSITIVE).sqrt() } else { left / above[j][j] };
        }
        right[i] = (right[i] - dot(&matrix[i][..i], &right[..i])) / matrix[i][i];
    }
    for i in (0..n).rev() {
        let below: f64 = (i + 1..n).map(|k| matrix[k][i] * right[k]).sum();
        right[i] = (right[i] - below) / matrix[i][i];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Tokens whose share is a known function of them.
    fn tokens(seed: u64, n: usize, d: usize) -> Vec<(Vec<f32>, Vec<f32>, u32, f32)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut vector = |d| -> Vec<f32> { (0..d).map(|_| rng.random_range(-1.0..1.0)).collect() };
        (0..n as u32)
            .map(|at| {
                let (key, value) = (vector(d), vector(d));
                let log2 = -6.0 + 2.0 * key[1] - 1.5 * value[0] - 0.25 * (at as f32 + 2.0).log2();
                (key, value, at, log2.exp2())
            })
            .collect()
    }

    #[test]
    fn a_linear_function_is_found_and_holds_for_other_tokens() {
        let d = 6;
        let mut fit = Fit::new(d);
        tokens(1, 800, d).iter().for_each(|(k, v, at, share)| fit.push(k, v, *at, *share));
        // Of two heads, the second one's.
        let mut weights = vec![0.0; Probe::features(d)];
        weights.extend(fit.weights());
        let probe = Probe { head_dim: d, kv_heads: 2, weights };
        for (k, v, at, share) in tokens(2, 50, d) {
            let priors = probe.priors(0, &[&k[..], &k].concat(), &[&v[..], &v].concat(), &[at]);
            assert_eq!(priors[0], 1.0, "all weights are 0");
            assert!((priors[1].log2() - share.log2()).abs() < 0.25, "{} {share}", priors[1]);
        }
    }

    #[test]
    fn features_that_never_change_and_a_single_token_do_no_harm() {
        let mut fit = Fit::new(2);
        fit.push(&[1.0, 0.0], &[0.0, 0.0], 3, 0.25);
        for _ in 0..2 {
            let probe = Probe { head_dim: 2, kv_heads: 1, weights: fit.weights() };
            let prior = probe.priors(0, &[1.0, 0.0], &[0.0, 0.0], &[3])[0];
            assert!((prior - 0.25).abs() < 1e-3, "{prior}");
            (0..40).for_each(|_| fit.push(&[1.0, 0.0], &[0.0, 0.0], 3, 0.25));
        }
        assert!(Fit::new(2).weights().iter().all(|w| w.is_finite()));
    }

    #[test]
    fn systems_are_solved() {
        let found = solve(vec![vec![4.0], vec![2.0, 3.0], vec![1.0, 0.5, 2.0]], vec![9.0, 9.5, 8.0]);
        // 4a + 2b + c = 9, 2a + 3b + c/2 = 9.5, a + b/2 + 2c = 8.
        let exact = |a: f64, b: f64, c: f64| {
            [4.0 * a + 2.0 * b + c, 2.0 * a + 3.0 * b + 0.5 * c, a + 0.5 * b + 2.0 * c]
        };
        let back = exact(found[0], found[1], found[2]);
        assert!(back.iter().zip([9.0, 9.5, 8.0]).all(|(a, b)| (a - b).abs() < 1e-9), "{back:?}");
    }
}
