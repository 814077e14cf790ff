//! How one cache's predictions differ from FP16's, how likely it finds the text, and how sure that is.

use serde::{Deserialize, Serialize};

use crate::finite::{BeyondF16, NonFinite, Place};
use crate::math::argmax;

/// Scored tokens, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Negative log-likelihood of each, in nats.
    pub nll: Vec<f32>,
    /// KL divergence of the prediction of each from that with the FP16 cache, in nats.
    pub kl: Vec<f32>,
    /// Predictions whose likeliest token is that of FP16.
    pub agreed: usize,
}

/// One scored token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Negative log-likelihood, in nats.
    pub nll: f32,
    /// KL divergence from the prediction with the FP16 cache, in nats.
    pub kl: f32,
    /// Whether the likeliest token is that of FP16.
    pub agrees: bool,
}

/// A mean over tokens, or a function of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error over tokens: the deviation of single tokens over the root of their number. Neighbours in a text are taken as
    /// independent.
    pub se: f64,
}

/// What the scored tokens come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Scored tokens, at least two.
    pub tokens: usize,
    /// Negative log-likelihood, in nats a token.
    pub nll: Estimate,
    /// Perplexity.
    pub perplexity: Estimate,
    /// Perplexity over that with FP16. Its standard error is that of the tokens' differences, which share what is hard about the text, times the
    /// ratio.
    pub over_fp16: Estimate,
    /// KL divergence from FP16's predictions, in nats a token.
    pub kl: Estimate,
    /// Share of predictions that agree with FP16's.
    pub agreement: Estimate,
}

/// Scores that give no figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// Too few.
    #[error("a mean and its standard error take at least two scored tokens, and there are {0}")]
    Few(usize),
    /// Scores of different tokens.
    #[error("{0} scored tokens are compared with {1}; both are scores of the same text")]
    Unpaired(usize, usize),
}

impl Prediction {
    /// `log_p` and `reference` are logarithms of probabilities, `[vocab]`; `next` is the token that follows.
    ///
    /// # Errors
    /// [`NonFinite`] when one of them holds what is no number, when `next` cannot be, and when FP16's predictions hold something that cannot be.
    pub fn of(log_p: &[f32], reference: &[f32], next: u32) -> Result<Prediction, NonFinite> {
        let term = |(&r, &p): (&f32, &f32)| {
            let r = f64::from(r);
            // A probability of zero contributes nothing, and must not give zero times infinity.
            if r <= -700.0 { 0.0 } else { r.exp() * (r - f64::from(p)) }
        };
        let kl: f64 = reference.iter().zip(log_p).map(term).sum();
        let nll = log_p.get(next as usize).map_or(f32::NAN, |p| -p);
        let no_number = log_p.iter().any(|p| p.is_nan());
        // Rounding may leave a hair below zero; `max` would make zero of what is no number, too.
        let (finite, kl) = (kl.is_finite(), kl.max(0.0) as f32);
        if no_number || !finite || !nll.is_finite() || !kl.is_finite() {
            let beyond = BeyondF16::default();
            return Err(NonFinite { place: Place::Score, row: 0, position: None, beyond });
        }
        Ok(Prediction { nll, kl, agrees: argmax(log_p) == argmax(reference) })
    }
}

impl Score {
    /// Scored tokens.
    pub fn tokens(&self) -> usize {
        self.nll.len()
    }

    /// One more token.
    pub fn push(&mut self, prediction: Prediction) {
        self.nll.push(prediction.nll);
        self.kl.push(prediction.kl);
        self.agreed += usize::from(prediction.agrees);
    }

    /// The tokens of another one after these.
    pub fn add(&mut self, other: &Score) {
        self.nll.extend(&other.nll);
        self.kl.extend(&other.kl);
        self.agreed += other.agreed;
    }

    /// Means with their standard errors; `fp16` are the same tokens with the FP16 cache.
    ///
    /// # Errors
    /// [`ScoreError`].
    pub fn figures(&self, fp16: &Score) -> Result<Figures, ScoreError> {
        let tokens = self.tokens();
        if self.kl.len() != tokens || fp16.tokens() != tokens {
            return Err(ScoreError::Unpaired(tokens, fp16.tokens()));
        }
        if tokens < 2 {
            return Err(ScoreError::Few(tokens));
        }
        let numbers = |of: &[f32]| of.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (own, others) = (numbers(&self.nll), numbers(&fp16.nll));
        let more: Vec<f64> = own.iter().zip(&others).map(|(own, other)| own - other).collect();
        let nll = Estimate::of(&own);
        let agreement = self.agreed as f64 / tokens as f64;
        Ok(Figures {
            tokens,
            nll,
            perplexity: nll.exp(),
            over_fp16: Estimate::of(&more).exp(),
            kl: Estimate::of(&numbers(&self.kl)),
            agreement: Estimate {
                mean: agreement,
                se: (agreement * (1.0 - agreement) / (tokens - 1) as f64).sqrt(),
            },
        })
    }
}

impl Estimate {
    /// The mean of at least two numbers.
    fn of(numbers: &[f64]) -> Estimate {
        let n = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / n;
        let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
        Estimate { mean, se: (squares / (n - 1.0) / n).sqrt() }
    }

    /// Of its exponential, whose slope is itself.
    fn exp(self) -> Estimate {
        let mean = self.mean.exp();
        Estimate { mean, se: mean * self.se }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::log_softmax;

    fn log_p(logits: [f32; 4]) -> Vec<f32> {
        let mut row = logits.to_vec();
        log_softmax(&mut row);
        row
    }

    #[test]
    fn a_cache_does_not_diverge_from_itself() {
        let p = log_p([0.0, 1.0, -2.0, 3.0]);
        assert_eq!(Prediction::of(&p, &p, 3), Ok(Prediction { nll: -p[3], kl: 0.0, agrees: true }));
    }

    #[test]
    fn divergence_is_that_of_plain_arithmetic() {
        let (p, q) = (log_p([0.0, 0.0, 0.0, 0.0]), log_p([2.0, 0.0, 0.0, 0.0]));
        let expected: f64 = q.iter().zip(&p).map(|(q, p)| f64::from(q.exp()) * f64::from(q - p)).sum();
        let found = Prediction::of(&p, &q, 1).unwrap();
        assert!((f64::from(found.kl) - expected).abs() < 1e-6);
        // The first of equals is the likeliest.
        assert!(found.agrees);
        assert!((found.nll - 4f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_token_that_cannot_be_is_worth_nothing() {
        let (p, q) = (log_p([0.0, 1.0, 2.0, 3.0]), log_p([0.0, f32::NEG_INFINITY, 1.0, 2.0]));
        assert!(Prediction::of(&p, &q, 0).is_ok());
    }

    #[test]
    fn what_is_no_number_is_no_score() {
        let fine = log_p([0.0, 1.0, 2.0, 3.0]);
        let nan = vec![f32::NAN; 4];
        let mut one = fine.clone();
        one[2] = f32::NAN;
        let never = log_p([0.0, f32::NEG_INFINITY, 1.0, 2.0]);
        for (p, q) in
            [(&nan, &nan), (&nan, &fine), (&fine, &nan), (&one, &fine), (&fine, &one), (&never, &fine)]
        {
            assert_eq!(Prediction::of(p, q, 0).unwrap_err().place, Place::Score, "{p:?} {q:?}");
        }
        assert!(Prediction::of(&never, &never, 1).is_err(), "it follows though it cannot be");
        assert!(Prediction::of(&fine, &fine, 4).is_err(), "no token of the vocabulary");
    }

    #[test]
    fn means_have_the_standard_error_of_their_tokens() {
        let fp16 = Score { nll: vec![1.0, 2.0, 3.0, 6.0], kl: vec![0.0; 4], agreed: 4 };
        let score = Score { nll: vec![1.5, 2.0, 3.5, 6.0], kl: vec![0.1, 0.3, 0.1, 0.3], agreed: 3 };
        let found = score.figures(&fp16).unwrap();
        let near = |found: Estimate, mean: f64, se: f64| {
            assert!(
                (found.mean - mean).abs() < 1e-7 && (found.se - se).abs() < 1e-7,
                "{found:?}: {mean} {se}"
            );
        };
        // Squared distances from 3.25: 3.0625, 1.5625, 0.0625 and 7.5625, over 3 and over 4.
        let se = (12.25f64 / 12.0).sqrt();
        near(found.nll, 3.25, se);
        near(found.perplexity, 3.25f64.exp(), 3.25f64.exp() * se);
        // Differences of 0.5, 0, 0.5 and 0, a quarter from their mean: much surer than either perplexity.
        let ratio = 0.25f64.exp();
        near(found.over_fp16, ratio, ratio * (4.0 * 0.0625f64 / 12.0).sqrt());
        near(found.kl, 0.2, (4.0 * 0.01f64 / 12.0).sqrt());
        near(found.agreement, 0.75, (0.75f64 * 0.25 / 3.0).sqrt());
        let itself = fp16.figures(&fp16).unwrap();
        assert_eq!(itself.over_fp16, Estimate { mean: 1.0, se: 0.0 });
    }

    #[test]
    fn a_mean_of_no_tokens_is_refused() {
        let none = Score::default();
        assert_eq!(none.figures(&none), Err(ScoreError::Few(0)));
        let one = Score { nll: vec![1.0], kl: vec![0.0], agreed: 1 };
        assert_eq!(one.figures(&one), Err(ScoreError::Few(1)));
        assert_eq!(one.figures(&none), Err(ScoreError::Unpaired(1, 0)));
    }
}
