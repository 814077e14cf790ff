//! Rotary positions.

use rayon::prelude::*;

/// Which elements of a vector are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// Neighbours: 2i and 2i + 1, as llama's files have them.
    Neighbours,
    /// Element i of both halves: i and i + d/2.
    Halves,
}

/// Angles of one base.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    frequencies: Vec<f64>,
    pairs: RopePairs,
}

impl Rope {
    pub(crate) fn new(base: f64, head_dim: usize, pairs: RopePairs) -> Rope {
        let step = |i: usize| base.powf(-2.0 * i as f64 / head_dim as f64);
        Rope { frequencies: (0..head_dim / 2).map(step).collect(), pairs }
    }

    /// Cosines and sines of a position.
    pub(crate) fn angles(&self, position: u32) -> Vec<(f32, f32)> {
        let angle = |f: &f64| (f * f64::from(position)).sin_cos();
        self.frequencies.iter().map(angle).map(|(sin, cos)| (cos as f32, sin as f32)).collect()
    }

    /// Rotates `[rows, heads, head_dim]` in place.
    pub(crate) fn rotate(&self, x: &mut [f32], heads: usize, positions: &[u32]) {
        let half = self.frequencies.len();
        x.par_chunks_mut(heads * 2 * half).zip(positions).for_each(|(row, &position)| {
            let angles = self.angles(position);
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
    use super::{Rope, RopePairs};

    #[test]
    fn products_depend_on_distance_alone() {
        for pairs in [RopePairs::Neighbours, RopePairs::Halves] {
            let rope = Rope::new(10_000.0, 8, pairs);
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
    fn position_zero_changes_nothing() {
        let mut x = vec![1.0, 2.0, 3.0, 4.0];
        Rope::new(10_000.0, 4, RopePairs::Halves).rotate(&mut x, 1, &[0]);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }
}
