//! Rotary positions.

use std::f64::consts::TAU;

use rayon::prelude::*;

/// Which elements of a vector are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// Neighbours: 2i and 2i + 1, as llama's files have them.
    Neighbours,
    /// Element i of both halves: i and i + d/2.
    Halves,
}

/// How angles are stretched, so that a model sees more tokens than its base was made for. All as llama.cpp computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All angles are divided.
    Linear {
        /// By this.
        factor: f64,
    },
    /// YaRN: slow pairs are divided, fast ones are not, and those between partly; attention gets sharper.
    Yarn {
        /// What slow pairs are divided by.
        factor: f64,
        /// Tokens of the context that the base was made for.
        original_context: usize,
        /// Turns within that context from which a pair is fast.
        beta_fast: f64,
        /// Turns up to which it is slow.
        beta_slow: f64,
    },
}

/// What a model's rotary positions are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the angles.
    pub base: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
    /// What queries and keys are multiplied by on top of what the scaling does.
    pub attention_factor: f64,
}

impl RopeConfig {
    /// Angles of a base, as they are.
    pub fn plain(base: f64) -> RopeConfig {
        RopeConfig { base, scaling: RopeScaling::None, attention_factor: 1.0 }
    }

    /// Angle of pair `i` a position; `factor` is what the file divides it by.
    fn frequency(&self, i: usize, head_dim: usize, factor: f64) -> f64 {
        let plain = self.base.powf(-2.0 * i as f64 / head_dim as f64) / factor;
        match self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                // The pair that turns so many times within the original context.
                let pair = |turns: f64| {
                    head_dim as f64 * (original_context as f64 / (turns * TAU)).ln() / (2.0 * self.base.ln())
                };
                let first = pair(beta_fast).floor().max(0.0);
                let last = pair(beta_slow).ceil().min(head_dim as f64 - 1.0);
                let slow = ((i as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                plain * (1.0 - slow) + plain / factor * slow
            }
        }
    }

    /// What queries and keys are multiplied by.
    fn magnitude(&self) -> f64 {
        let sharper = match self.scaling {
            RopeScaling::Yarn { factor, .. } if factor > 1.0 => 1.0 + 0.1 * factor.ln(),
            _ => 1.0,
        };
        self.attention_factor * sharper
    }
}

/// Rotary positions of vectors of one length.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians a position, for each pair.
    frequencies: Vec<f64>,
    magnitude: f64,
    pairs: RopePairs,
}

impl Rope {
    /// For vectors of `head_dim` elements. `factors`, one for each pair, divide their angles on top of what the configuration says.
    ///
    /// # Panics
    /// When there are factors, but not `head_dim / 2` of them.
    pub fn new(config: &RopeConfig, head_dim: usize, pairs: RopePairs, factors: Option<&[f32]>) -> Rope {
        if let Some(factors) = factors {
            assert_eq!(factors.len(), head_dim / 2, "a factor for each pair");
        }
        let factor = |i: usize| factors.map_or(1.0, |f| f64::from(f[i]));
        Rope {
            frequencies: (0..head_dim / 2).map(|i| config.frequency(i, head_dim, factor(i))).collect(),
            magnitude: config.magnitude(),
            pairs,
        }
    }

    /// Which elements are rotated together.
    pub fn pairs(&self) -> RopePairs {
        self.pairs
    }

    /// Cosines and sines of a position, one of each for each pair, times what vectors are multiplied by.
    pub fn angles(&self, position: u32) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.frequencies.iter().map(move |frequency| {
            let (sin, cos) = (frequency * f64::from(position)).sin_cos();
            (cos * self.magnitude, sin * self.magnitude)
        })
    }

    /// Rotates `[rows, heads, head_dim]` in place.
    pub(crate) fn rotate(&self, x: &mut [f32], heads: usize, positions: &[u32]) {
        self.turn(x, heads, positions, |angles| angles);
    }

    /// Takes back what [`Rope::rotate`] did.
    pub(crate) fn unrotate(&self, x: &mut [f32], heads: usize, positions: &[u32]) {
        let square = self.magnitude * self.magnitude;
        self.turn(x, heads, positions, |(cos, sin)| (cos / square, -sin / square));
    }

    fn turn(
        &self,
        x: &mut [f32],
        heads: usize,
        positions: &[u32],
        by: impl Fn((f64, f64)) -> (f64, f64) + Sync,
    ) {
        let half = self.frequencies.len();
        x.par_chunks_mut(heads * 2 * half).zip(positions).for_each(|(row, &position)| {
            let angles: Vec<(f32, f32)> =
                self.angles(position).map(&by).map(|(cos, sin)| (cos as f32, sin as f32)).collect();
            for head in row.chunks_exact_mut(2 * half) {
                for (i, &(cos, sin)) in angles.iter().enumerate() {
                    let (a, b) = match self.pairs {
                        RopePairs::Neighbours => (2 * i, 2 * i + 1),
                        RopePairs::Halves => (i, i + half),
                    };
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Rope, RopeConfig, RopePairs, RopeScaling};

    #[test]
    fn products_depend_on_distance_alone() {
        for pairs in [RopePairs::Neighbours, RopePairs::Halves] {
            let rope = Rope::new(&RopeConfig::plain(10_000.0), 8, pairs, None);
            let (q, k): (Vec<f32>, Vec<f32>) = (0..8).map(|i| ((i as f32).sin(), (i as f32).cos())).unzip();
            let product = |at: u32, from: u32| {
                let (mut q, mut k) = (q.clone(), k.clone());
                rope.rotate(&mut q, 1, &[at]);
                rope.rotate(&mut k, 1, &[from]);
                q.iter().zip(&k).map(|(a, b)| a * b).sum::<f32>()
            };
            assert!((product(17, 5) - product(1012, 1000)).abs() < 1e-3);
            assert!((product(17, 5) - product(8, 5)).abs() > 0.1, "distances differ");
        }
    }

    #[test]
    fn what_is_rotated_is_rotated_back() {
        let yarn = RopeScaling::Yarn { factor: 4.0, original_context: 64, beta_fast: 8.0, beta_slow: 1.0 };
        let config = RopeConfig { scaling: yarn, ..RopeConfig::plain(1e4) };
        for pairs in [RopePairs::Neighbours, RopePairs::Halves] {
            let rope = Rope::new(&config, 8, pairs, None);
            let x: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
            let mut back = x.clone();
            rope.rotate(&mut back, 2, &[3, 901]);
            assert!(back.iter().zip(&x).any(|(a, b)| (a - b).abs() > 0.1));
            rope.unrotate(&mut back, 2, &[3, 901]);
            assert!(back.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-5), "{back:?}");
        }
    }

    #[test]
    fn position_zero_changes_nothing() {
        let mut x = vec![1.0, 2.0, 3.0, 4.0];
        Rope::new(&RopeConfig::plain(10_000.0), 4, RopePairs::Halves, None).rotate(&mut x, 1, &[0]);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }

    /// Qwen2.5's long contexts: 64 pairs, a base of 1e6, 32768 tokens times 4. Worked out by hand: a pair turns `32768 / (2 pi) * 1e6^(-i / 64)` times
    /// in 32768 tokens, which is 32 at i = 23.6 and 1 at i = 39.6.
    #[test]
    fn yarn_divides_slow_pairs_alone() {
        let scaling =
            RopeScaling::Yarn { factor: 4.0, original_context: 32_768, beta_fast: 32.0, beta_slow: 1.0 };
        let config = RopeConfig { scaling, ..RopeConfig::plain(1e6) };
        let ratio = |i| RopeConfig::plain(1e6).frequency(i, 128, 1.0) / config.frequency(i, 128, 1.0);
        for i in 0..=23 {
            assert!((ratio(i) - 1.0).abs() < 1e-12, "pair {i}");
        }
        for i in 40..64 {
            assert!((ratio(i) - 4.0).abs() < 1e-12, "pair {i}");
        }
        // Half way between, 23 + 17 / 2: half of one and half of a quarter.
        let middle = (1.0 / ratio(31) + 1.0 / ratio(32)) / 2.0;
        assert!((middle - 0.625).abs() < 1e-12, "{middle}");
        let (cos, sin) = Rope::new(&config, 128, RopePairs::Halves, None).angles(0).next().unwrap();
        assert!((cos - 1.138_629_436_111_989).abs() < 1e-12 && sin == 0.0, "1 + ln(4) / 10");
    }
}
