//! The parts of a decoder that are not matrix products, on rows of f32.

use rayon::prelude::*;

/// Rows at a time that a thread takes: small, since rows are long.
const ROWS: usize = 4;

/// `x * weight / rms(x)` for every row of `weight.len()` elements.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = x.to_vec();
    rms_norm_in_place(&mut out, weight, eps);
    out
}

/// As [`rms_norm`].
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    x.par_chunks_mut(weight.len()).with_min_len(ROWS).for_each(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        row.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * w);
    });
}

/// `a += b`.
pub(crate) fn add(a: &mut [f32], b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

/// `gate = silu(gate) * up`.
pub(crate) fn silu_times(gate: &mut [f32], up: &[f32]) {
    gate.par_iter_mut().zip(up).with_min_len(4096).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
}

/// `gate = gelu(gate) * up`, with the tanh form of GELU that Gemma was trained with.
pub(crate) fn gelu_times(gate: &mut [f32], up: &[f32]) {
    const ROOT: f32 = 0.797_884_6;
    gate.par_iter_mut().zip(up).with_min_len(4096).for_each(|(g, u)| {
        let x = *g;
        *g = 0.5 * x * (1.0 + (ROOT * (x + 0.044_715 * x * x * x)).tanh()) * u;
    });
}

/// Logarithms of the probabilities that logits stand for, in place.
pub fn log_softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    let shift = max + sum.ln() as f32;
    logits.iter_mut().for_each(|x| *x -= shift);
}

/// The probabilities that logits stand for, in place.
pub(crate) fn softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|x| *x /= sum);
}

/// The place of the largest number, the first of equals; 0 of none.
pub fn argmax(x: &[f32]) -> usize {
    let mut best = (f32::NEG_INFINITY, 0);
    for (at, &x) in x.iter().enumerate() {
        if x > best.0 {
            best = (x, at);
        }
    }
    best.1
}
