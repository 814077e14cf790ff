//! Inputs and comparisons for the references' tests.

/// `len` reproducible numbers in `-1..1`.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Asserts that `got` is within `tolerance` of `exact`.
#[track_caller]
pub(crate) fn close(exact: f64, got: f32, tolerance: f64) {
    assert!((exact - f64::from(got)).abs() <= tolerance, "{exact} against {got}");
}

/// Softmax attention of one query over listed keys and values, in `f64`: output and probabilities.
pub(crate) fn attend_f64(q: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> (Vec<f64>, Vec<f64>) {
    let dot = |k: &[f32]| -> f64 { q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let logits: Vec<f64> = keys.iter().map(|k| dot(k) * f64::from(scale)).collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let p: Vec<f64> = exp.iter().map(|e| e / sum).collect();
    let out = (0..q.len()).map(|i| p.iter().zip(values).map(|(p, v)| p * f64::from(v[i])).sum()).collect();
    (out, p)
}
