//! How one cache's predictions differ from FP16's, and how likely it finds the text.

use serde::{Deserialize, Serialize};

use crate::math::argmax;

/// Sums over scored tokens; two of them add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Scored tokens.
    pub tokens: usize,
    /// Negative log-likelihood of the tokens that follow, in nats.
    pub nll: f64,
    /// KL divergence of the predictions from those with the FP16 cache, in nats.
    pub kl: f64,
    /// Predictions whose likeliest token is that of FP16.
    pub agreed: usize,
}

impl Score {
    /// One token: `log_p` and `reference` are logarithms of probabilities, `[vocab]`; `next` is the token that follows.
    pub fn of(log_p: &[f32], reference: &[f32], next: u32) -> Score {
        let term = |(&r, &p): (&f32, &f32)| {
            let r = f64::from(r);
            // A probability of zero contributes nothing, and must not give zero times infinity.
            if r > -700.0 { r.exp() * (r - f64::from(p)) } else { 0.0 }
        };
        let kl: f64 = reference.iter().zip(log_p).map(term).sum();
        Score {
            tokens: 1,
            nll: -f64::from(log_p[next as usize]),
            // Rounding may leave a hair below zero.
            kl: kl.max(0.0),
            agreed: usize::from(argmax(log_p) == argmax(reference)),
        }
    }

    /// Both.
    pub fn add(&mut self, other: &Score) {
        self.tokens += other.tokens;
        self.nll += other.nll;
        self.kl += other.kl;
        self.agreed += other.agreed;
    }

    /// Mean negative log-likelihood, in nats a token.
    pub fn mean_nll(&self) -> f64 {
        self.nll / self.tokens.max(1) as f64
    }

    /// Perplexity.
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// Mean KL divergence, in nats a token.
    pub fn mean_kl(&self) -> f64 {
        self.kl / self.tokens.max(1) as f64
    }

    /// Share of predictions that agree.
    pub fn agreement(&self) -> f64 {
        self.agreed as f64 / self.tokens.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Score;
    use crate::math::log_softmax;

    fn log_p(logits: [f32; 4]) -> Vec<f32> {
        let mut row = logits.to_vec();
        log_softmax(&mut row);
        row
    }

    #[test]
    fn a_cache_does_not_diverge_from_itself() {
        let p = log_p([0.0, 1.0, -2.0, 3.0]);
        let score = Score::of(&p, &p, 3);
        assert_eq!((score.tokens, score.agreed), (1, 1));
        assert!(score.kl.abs() < 1e-9);
        assert!((score.nll + f64::from(p[3])).abs() < 1e-12);
    }

    #[test]
    fn divergence_is_that_of_plain_arithmetic() {
        let (p, q) = (log_p([0.0, 0.0, 0.0, 0.0]), log_p([2.0, 0.0, 0.0, 0.0]));
        let expected: f64 = q.iter().zip(&p).map(|(q, p)| f64::from(q.exp()) * f64::from(q - p)).sum();
        let score = Score::of(&p, &q, 1);
        assert!((score.kl - expected).abs() < 1e-6);
        // The first of equals is the likeliest.
        assert_eq!(score.agreed, 1);
        assert!((score.nll - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_token_that_cannot_be_is_worth_nothing() {
        let (p, q) = (log_p([0.0, 1.0, 2.0, 3.0]), log_p([0.0, f32::NEG_INFINITY, 1.0, 2.0]));
        assert!(Score::of(&p, &q, 0).kl.is_finite());
    }

    #[test]
    fn perplexity_is_of_the_mean() {
        let mut sum = Score::default();
        for nll in [1.0, 3.0] {
            sum.add(&Score { tokens: 1, nll, kl: 0.5, agreed: 1 });
        }
        assert!((sum.perplexity() - 2f64.exp()).abs() < 1e-12);
        assert!((sum.mean_kl() - 0.5).abs() < 1e-12);
        assert!((sum.agreement() - 1.0).abs() < 1e-12);
    }
}
