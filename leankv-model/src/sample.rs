//! Choosing the next token.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::finite::{BeyondF16, NonFinite, Place};
use crate::math::argmax;

/// How a token is chosen from logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 is greedy: always the most likely token.
    pub temperature: f32,
    /// Only the most likely tokens that have this probability together; 1 is all of them.
    pub top_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 0 };
}

/// A temperature or a `top_p` that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "a temperature of {temperature} and a top-p of {top_p}: the first is finite and at least 0, the second from 0 to 1"
)]
pub struct BadSampling {
    /// [`Sampling::temperature`].
    pub temperature: f32,
    /// [`Sampling::top_p`].
    pub top_p: f32,
}

impl Sampling {
    /// Whether it means something.
    ///
    /// # Errors
    /// [`BadSampling`] for a temperature that is negative, infinite or no number, and a `top_p` that is no number from 0 to 1.
    pub fn check(&self) -> Result<(), BadSampling> {
        let Sampling { temperature, top_p, .. } = *self;
        match temperature.is_finite() && temperature >= 0.0 && (0.0..=1.0).contains(&top_p) {
            true => Ok(()),
            false => Err(BadSampling { temperature, top_p }),
        }
    }
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling::GREEDY
    }
}

/// Chooses the tokens of one sequence: the same for the same seed, stream and logits.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    order: Vec<u32>,
}

impl Sampler {
    /// The sampler of one sequence. Sequences of one seed are told apart by `stream`, so that what one draws does not depend on the others.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling, stream: u64) -> Result<Sampler, BadSampling> {
        sampling.check()?;
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        rng.set_stream(stream);
        Ok(Sampler { sampling, rng, order: Vec::new() })
    }

    /// The next token. A logit of minus infinity is that of a token that cannot be.
    ///
    /// # Errors
    /// [`NonFinite`] when a logit is no number or plus infinity, and when no token can be.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, NonFinite> {
        let Sampling { temperature, top_p, .. } = self.sampling;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !max.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            let beyond = BeyondF16::default();
            return Err(NonFinite { place: Place::Logits, row: 0, position: None, beyond });
        }
        if temperature <= 0.0 {
            return Ok(argmax(logits) as u32);
        }
        let weight = |token: u32| f64::from((logits[token as usize] - max) / temperature).exp();
        self.order.clear();
        self.order.extend(0..logits.len() as u32);
        if top_p < 1.0 {
            // Equal logits by number, so that the order is one.
            self.order
                .sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            let most = f64::from(top_p) * self.order.iter().map(|&t| weight(t)).sum::<f64>();
            let mut sum = 0.0;
            let kept = self.order.iter().take_while(|&&t| {
                let below = sum < most;
                sum += weight(t);
                below
            });
            let kept = kept.count().max(1);
            self.order.truncate(kept);
        }
        let sum: f64 = self.order.iter().map(|&t| weight(t)).sum();
        let mut left = self.rng.random::<f64>() * sum;
        for &token in &self.order {
            left -= weight(token);
            if left < 0.0 {
                return Ok(token);
            }
        }
        // Rounding can leave a rest, which is no token's that cannot be.
        let possible = |token: &&u32| logits[**token as usize] > f32::NEG_INFINITY;
        Ok(self.order.iter().rfind(possible).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of these probabilities.
    fn logits(p: &[f32]) -> Vec<f32> {
        p.iter().map(|p| p.ln()).collect()
    }

    fn counts(sampling: Sampling, p: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling, 0).unwrap();
        let logits = logits(p);
        let mut counts = vec![0; p.len()];
        (0..draws).for_each(|_| counts[sampler.choose(&logits).unwrap() as usize] += 1);
        counts
    }

    const P: [f32; 4] = [0.1, 0.4, 0.2, 0.3];

    #[test]
    fn greedy_takes_the_largest() {
        assert_eq!(counts(Sampling::GREEDY, &P, 10), [0, 10, 0, 0]);
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 7 };
        for (count, p) in counts(sampling, &P, 20_000).into_iter().zip(P) {
            assert!((count as f32 / 20_000.0 - p).abs() < 0.015, "{count} for {p}");
        }
    }

    #[test]
    fn a_low_temperature_sharpens() {
        let sampling = Sampling { temperature: 0.5, top_p: 1.0, seed: 7 };
        let squares: f32 = P.iter().map(|p| p * p).sum();
        for (count, p) in counts(sampling, &P, 20_000).into_iter().zip(P) {
            assert!((count as f32 / 20_000.0 - p * p / squares).abs() < 0.015, "{count} for {p}");
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_it() {
        let of = |top_p| counts(Sampling { temperature: 1.0, top_p, seed: 7 }, &P, 2000);
        assert_eq!(of(0.0), [0, 2000, 0, 0]);
        assert_eq!(of(0.39), [0, 2000, 0, 0]);
        let two = of(0.6);
        assert!(two[1] > 0 && two[3] > 0 && two[0] + two[2] == 0, "{two:?}");
        let three = of(0.8);
        assert!(three[2] > 0 && three[0] == 0, "{three:?}");
    }

    #[test]
    fn a_seed_and_a_stream_say_what_is_drawn() {
        let draw = |seed, stream| -> Vec<u32> {
            let mut sampler = Sampler::new(Sampling { temperature: 1.0, top_p: 0.95, seed }, stream).unwrap();
            (0..50).map(|_| sampler.choose(&logits(&P)).unwrap()).collect()
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(2, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
    }

    #[test]
    fn what_is_no_number_is_never_chosen_from() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, top_p: 0.9, seed: 7 };
            let mut sampler = Sampler::new(sampling, 0).unwrap();
            for logits in [&[0.0, nan, 1.0][..], &[inf, 0.0], &[-inf, -inf], &[nan], &[]] {
                let error = sampler.choose(logits).unwrap_err();
                assert_eq!(error.place, Place::Logits, "{logits:?}");
            }
            // A mask is no fault.
            (0..100).for_each(|_| assert_eq!(sampler.choose(&[-inf, 0.0, -inf]), Ok(1)));
        }
        for (temperature, top_p) in [(nan, 1.0), (inf, 1.0), (-1.0, 1.0), (1.0, nan), (1.0, 1.5), (1.0, -0.1)]
        {
            let error = Sampler::new(Sampling { temperature, top_p, seed: 0 }, 0).unwrap_err();
            assert!(error.to_string().contains("at least 0"), "{error}");
        }
    }
}
