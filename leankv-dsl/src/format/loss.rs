//! What coding a row loses: the distortion of a codec, as rate and distortion are weighed.

use super::{CodecMath, FormatError, decode_row, encode_row, row_bytes};

/// The mean square error of a codec on a row of normally distributed numbers, in units of their variance: on the quantiles of the normal distribution at the middles of
/// `head_dim` equal parts.
///
/// # Errors
/// A head dim or shape that is not supported.
pub fn normal_loss(codec: &dyn CodecMath, head_dim: usize) -> Result<f64, FormatError> {
    let quantile = |at: usize| normal_quantile((at as f64 + 0.5) / head_dim as f64);
    let row: Vec<f32> = (0..head_dim).map(|at| quantile(at) as f32).collect();
    let shape = codec.shape();
    let mut packed = vec![0; row_bytes(head_dim, shape.code_bits)];
    let mut meta = vec![0; (shape.groups * shape.meta_words) as usize];
    encode_row(codec, &row, &mut packed, &mut meta)?;
    let mut back = vec![0.0; head_dim];
    decode_row(codec, &packed, &meta, &mut back)?;
    let square = |x: f32| f64::from(x) * f64::from(x);
    let lost: f64 = row.iter().zip(&back).map(|(x, y)| square(x - y)).sum();
    let all: f64 = row.iter().map(|x| square(*x)).sum();
    Ok(lost / all)
}

/// Where the normal distribution reaches `p`, to about 1e-9: by halving.
fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if normal_below(middle) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The part of the normal distribution below `x`: 1/2 plus the density times the series x + x^3/3 + x^5/(3*5) + ...
fn normal_below(x: f64) -> f64 {
    let (mut sum, mut term) = (x, x);
    for odd in (3..200).step_by(2) {
        term *= x * x / f64::from(odd);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::CodecSpec;

    #[test]
    fn quantiles_are_those_of_tables() {
        for (p, x) in [(0.5, 0.0), (0.975, 1.959_964), (0.025, -1.959_964), (0.999, 3.090_232)] {
            assert!((normal_quantile(p) - x).abs() < 1e-5, "{p}");
        }
    }

    #[test]
    fn fewer_bits_lose_more_and_raw_values_next_to_nothing() {
        let loss = |name: &str, d| normal_loss(&name.parse::<CodecSpec>().unwrap(), d).unwrap();
        for d in [64, 128] {
            assert!(loss("f16", d) < 1e-6);
            let rising = ["f16", "midrise8", "midrise4", "midrise3", "midrise2", "midrise1"];
            assert!(rising.windows(2).all(|pair| loss(pair[0], d) < loss(pair[1], d)), "{d}");
            assert!((0.008..0.011).contains(&loss("midrise4", d)), "{d}: {}", loss("midrise4", d));
        }
    }
}
