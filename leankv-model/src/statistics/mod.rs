//! What is learned of a model's attention before it serves: means of keys and values, and which tokens are asked for again.
//!
//! The *prior* of a token is the largest share of attention that it is predicted to get from one query while the model reads the same text a second time (KVzip's
//! score, arXiv 2505.23416). Its own text's queries do not say that: a name is read once, long before it is asked for. A [`Probe`] predicts it from key and value.

mod file;
mod probe;


use leankv_runtime::kv::Means;
use leankv_runtime::{Compiler, Device};
use rayon::prelude::*;

pub use file::{StatisticsError, path_of};
use probe::Fit;
pub use probe::Probe;

use crate::cache::{KvChoice, Recorded, Room, open, thresholds};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::math::log_softmax;
use crate::run::prefill_recording;
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
    /// Measures them on texts, each of which the model reads twice. A text has more than 4 tokens, and two of them are no longer than the model's context.
    ///
    /// # Errors
    /// [`ModelError::Refused`] for no text and for one that is too short or too long, and what model and cache say.
    pub fn measure(
        compiler: &Compiler,
        device: &Device,
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
        let lists = config.layers * config.kv_heads;
        let mut sums = Sums::new(lists, config.head_dim);
        for (number, text) in texts.iter().enumerate() {
            progress(number, texts.len());
            let twice = [*text, *text].concat();
            let n = twice.len();
            let room = Room { requests: 1, tokens: n, prompt: n, chunk: n, bytes: None };
            let choice = KvChoice::fp16();
            let mut cache = open(compiler, device, model, &choice, &room)?;
            let request = cache.admit(n, &thresholds(&choice))?;
            let (_, recorded) = prefill_recording(model, device, &mut cache, request, &twice)?;
            sums.add(model, &recorded, text.len())?;
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

    /// Adds what the layers were given for a text of `n` tokens that was read twice.
    fn add(&mut self, model: &Model, recorded: &Recorded, n: usize) -> Result<(), ModelError> {
        let config = model.config();
        let (heads, d) = (config.kv_heads, config.head_dim);
        for (layer, [q, k, v]) in recorded.read()?.into_iter().enumerate() {
            let unbiased = without_bias(model, layer, &k);
            for (sums, rows) in [(&mut self.keys, &unbiased), (&mut self.values, &v)] {
                let sums = &mut sums[layer * heads * d..][..heads * d];
                for row in rows.chunks_exact(heads * d).take(n).skip(LEFT_OUT) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
            let shares = largest_shares(model, layer, (&q, &k), n);
            let mut plain = k[..n * heads * d].to_vec();
            let positions: Vec<u32> = (0..n as u32).collect();
            model.rope(layer).unrotate(&mut plain, heads, &positions);
            let fits = &mut self.fits[layer * heads..][..heads];
            fits.par_iter_mut().enumerate().for_each(|(head, fit)| {
                for token in LEFT_OUT..n {
                    let at = token * heads + head;
                    let row = at * d..(at + 1) * d;
                    fit.push(&plain[row.clone()], &v[row], positions[token], shares[at]);
                }
            });
        }
        self.tokens += n - LEFT_OUT;
        Ok(())
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

/// The largest share of attention that each of the first `n` tokens gets from a query of the second `n`, of any query head of a KV head's group:
/// `[n, kv_heads]`.
fn largest_shares(model: &Model, layer: usize, (q, k): (&[f32], &[f32]), n: usize) -> Vec<f32> {
    let config = model.config();
    let (heads, group, d) = (config.kv_heads, config.group(), config.head_dim);
    let scale = 1.0 / (d as f32).sqrt();
    let window = config.window_of(layer);
    let of_head = |head: usize| {
        let keys: Vec<f32> =
            k.chunks_exact(heads * d).flat_map(|row| row[head * d..][..d].iter().copied()).collect();
        let of_query = |query: usize| {
            let mut most = vec![f32::NEG_INFINITY; n];
            let end = n + query + 1;
            let first = window.map_or(0, |window| end.saturating_sub(window));
            for member in 0..group {
                let q = &q[((n + query) * heads * group + head * group + member) * d..][..d];
                let seen = keys.chunks_exact(d).take(end).skip(first);
                let mut logs: Vec<f32> =
                    seen.map(|k| scale * k.iter().zip(q).map(|(k, q)| k * q).sum::<f32>()).collect();
                log_softmax(&mut logs);
                let seen = most.iter_mut().skip(first);
                seen.zip(&logs).for_each(|(most, log)| *most = most.max(*log));
            }
            most
        };
        let larger = |mut a: Vec<f32>, b: Vec<f32>| {
            a.iter_mut().zip(&b).for_each(|(a, b)| *a = a.max(*b));
            a
        };
        (0..n).into_par_iter().map(of_query).reduce(|| vec![f32::NEG_INFINITY; n], larger)
    };
    let logs: Vec<Vec<f32>> = (0..heads).map(of_head).collect();
    (0..n).flat_map(|token| logs.iter().map(move |of| of[token].exp())).collect()
}

#[cfg(test)]
mod tests;
