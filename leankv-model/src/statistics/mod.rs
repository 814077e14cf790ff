//! What is learned of a model's attention before it serves: means of keys and values, and which tokens are asked for again.
//!
//! The *prior* of a token is the largest share of attention that it is predicted to get from one query while the model reads the same text a second time (KVzip's
//! score, arXiv 2505.23416). Its own text's queries do not say that: a name is read once, long before it is asked for. A [`Probe`] predicts it from key and value.

mod file;
mod probe;
mod reconstruct;

use leankv_runtime::kv::Means;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

pub use file::{StatisticsError, path_of};
use probe::Fit;
pub use probe::Probe;
pub use reconstruct::Priors;
use reconstruct::{ReadTwice, read_twice};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::{Model, RopePairs};

/// Tokens at the start of a text that no statistics are taken of: attention sinks are like no others.
pub const LEFT_OUT: usize = 4;

/// Means of every layer and KV head, and what predicts the priors of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Means of keys, after RoPE and without the rotated bias of their projection, and of values.
    pub means: Means,
    /// Predicts priors.
    pub probe: Probe,
}

impl Statistics {
    /// The beginning of the SHA-256 of all numbers: results with other statistics are other results.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for numbers in [&self.means.keys, &self.means.values, &self.probe.weights] {
            numbers.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Measures them on texts, each of which the model reads twice. A text has more than 4 tokens, and two of them are no longer than the model's context.
    ///
    /// # Errors
    /// [`ModelError::Refused`] for no text and for one that is too short or too long, and what the model says.
    pub fn measure(
        model: &Model,
        texts: &[&[u32]],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Statistics, ModelError> {
        let config = model.config();
        let most = config.context / 2;
        if texts.is_empty() {
            return Err(ModelError::Refused("statistics are of at least one text".to_owned()));
        }
        if let Some(bad) = texts.iter().find(|text| text.len() <= LEFT_OUT || text.len() > most) {
            let (n, least) = (bad.len(), LEFT_OUT + 1);
            return Err(ModelError::Refused(format!(
                "a text of {n} tokens: statistics are of texts of {least} to {most} tokens"
            )));
        }
        let mut sums = Sums::new(config.layers * config.kv_heads, config.head_dim);
        for (number, text) in texts.iter().enumerate() {
            progress(number, texts.len());
            read_twice(model, text, &mut |layer, read| sums.add(model, layer, &read))?;
            sums.tokens += text.len() - LEFT_OUT;
        }
        progress(texts.len(), texts.len());
        Ok(sums.statistics(config))
    }
}

/// Sums over tokens, head by head.
struct Sums {
    keys: Vec<f64>,
    values: Vec<f64>,
    fits: Vec<Fit>,
    tokens: usize,
}

impl Sums {
    fn new(lists: usize, head_dim: usize) -> Sums {
        let zeros = vec![0.0; lists * head_dim];
        Sums { keys: zeros.clone(), values: zeros, fits: vec![Fit::new(head_dim); lists], tokens: 0 }
    }

    /// Adds a layer of a text.
    fn add(&mut self, model: &Model, layer: usize, read: &ReadTwice) {
        let config = model.config();
        let (heads, d) = (config.kv_heads, config.head_dim);
        let unbiased = without_bias(model, layer, &read.keys);
        for (sums, rows) in [(&mut self.keys, &unbiased), (&mut self.values, &read.values)] {
            let sums = &mut sums[layer * heads * d..][..heads * d];
            for row in rows.chunks_exact(heads * d).skip(LEFT_OUT) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
        }
        let mut plain = read.keys.clone();
        let positions: Vec<u32> = (0..(plain.len() / (heads * d)) as u32).collect();
        model.rope(layer).unrotate(&mut plain, heads, &positions);
        let fits = &mut self.fits[layer * heads..][..heads];
        fits.par_iter_mut().enumerate().for_each(|(head, fit)| {
            for (token, &position) in positions.iter().enumerate().skip(LEFT_OUT) {
                let at = token * heads + head;
                let row = at * d..(at + 1) * d;
                fit.push(&plain[row.clone()], &read.values[row], position, read.shares[at]);
            }
        });
    }

    fn statistics(self, config: &ModelConfig) -> Statistics {
        let tokens = self.tokens as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / tokens) as f32).collect();
        let weights: Vec<Vec<f32>> = self.fits.par_iter().map(Fit::weights).collect();
        Statistics {
            means: Means { keys: mean(self.keys), values: mean(self.values) },
            probe: Probe { head_dim: config.head_dim, kv_heads: config.kv_heads, weights: weights.concat() },
        }
    }
}

/// Keys `[tokens, kv_heads, head_dim]`, after RoPE, without the rotated bias of their projection: what a cache takes out besides their mean.
fn without_bias(model: &Model, layer: usize, keys: &[f32]) -> Vec<f32> {
    let (mut keys, config) = (keys.to_vec(), model.config());
    let Some(bias) = model.key_bias(layer).filter(|_| model.rope(layer).pairs() == RopePairs::Halves) else {
        return keys;
    };
    for (position, row) in keys.chunks_exact_mut(bias.len()).enumerate() {
        let mut turned = bias.to_vec();
        model.rope(layer).rotate(&mut turned, config.kv_heads, &[position as u32]);
        row.iter_mut().zip(&turned).for_each(|(x, bias)| *x -= bias);
    }
    keys
}

#[cfg(test)]
mod tests;
