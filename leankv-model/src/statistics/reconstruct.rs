//! The exact priors of a prompt: the model reads it a second time, in full precision and without a cache.

use std::ops::Range;

use candle_core::{Device, Tensor};
use half::f16;
use rayon::prelude::*;

use crate::Model;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::math::softmax;
use crate::model::{Attend, LayerRows};

/// Queries whose logits are there at once.
const BLOCK: usize = 256;

/// The largest share of attention that each token of a prompt gets from one query while the prompt is read a second time (KVzip, arXiv 2505.23416).
#[derive(Clone, Debug, PartialEq)]
pub struct Priors {
    /// `[tokens, kv_heads]` for each layer.
    layers: Vec<Vec<f32>>,
    tokens: usize,
}

impl Priors {
    /// Reads a prompt twice, which takes three to seven times as long as reading it once: the longer it is, the more.
    ///
    /// # Errors
    /// [`ModelError::Refused`] for an empty prompt and one of more than half of the model's context, and what the model says.
    pub fn measure(model: &Model, prompt: &[u32]) -> Result<Priors, ModelError> {
        let tokens = prompt.len();
        Priors::check(model, tokens)?;
        let mut layers = Vec::with_capacity(model.config().layers);
        read_twice(model, prompt, &mut |_, read| layers.push(read.shares))?;
        Ok(Priors { layers, tokens })
    }

    /// Whether a prompt of so many tokens can be read twice.
    ///
    /// # Errors
    /// As [`Priors::measure`] says of its length.
    pub fn check(model: &Model, tokens: usize) -> Result<(), ModelError> {
        let most = model.config().context / 2;
        match (1..=most).contains(&tokens) {
            true => Ok(()),
            false => Err(ModelError::Refused(format!(
                "a prompt of {tokens} tokens: `:reconstruct` reads a prompt twice, so it takes prompts of 1 to {most} tokens, half of the model's context: leave it out, or shorten the prompt"
            ))),
        }
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Those of a layer's tokens at some positions, `[tokens, kv_heads]`.
    ///
    /// # Panics
    /// Without such a layer or such positions.
    #[must_use]
    pub fn of(&self, layer: usize, positions: Range<usize>) -> &[f32] {
        let (shares, tokens) = (&self.layers[layer], self.tokens);
        let heads = shares.len() / tokens;
        &shares[positions.start * heads..positions.end * heads]
    }
}

/// What a layer was given for a text, and what the text's second reading asked of it.
pub(super) struct ReadTwice {
    /// After RoPE, `[tokens, kv_heads, head_dim]`.
    pub(super) keys: Vec<f32>,
    /// `[tokens, kv_heads, head_dim]`.
    pub(super) values: Vec<f32>,
    /// `[tokens, kv_heads]`.
    pub(super) shares: Vec<f32>,
}

/// Runs a model on a text twice over, and tells each layer's.
pub(super) fn read_twice(
    model: &Model,
    text: &[u32],
    each: &mut dyn FnMut(usize, ReadTwice),
) -> Result<(), ModelError> {
    let positions: Vec<u32> = (0..2 * text.len() as u32).collect();
    let mut reader = Reader { config: model.config(), tokens: text.len(), each };
    model.forward(&[text, text].concat(), &positions, &mut reader)?;
    Ok(())
}

/// Attention of a text to itself.
pub(super) struct Reader<'a> {
    pub(super) config: &'a ModelConfig,
    /// Of the text once.
    pub(super) tokens: usize,
    pub(super) each: &'a mut dyn FnMut(usize, ReadTwice),
}

impl Attend for Reader<'_> {
    fn layer(&mut self, layer: usize, rows: LayerRows<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let (heads, d, n) = (self.config.kv_heads, self.config.head_dim, self.tokens);
        let mut shares = vec![0.0f32; n * heads];
        for head in 0..heads {
            let [k, v] = [rows.k, rows.v].map(|x| of_head(x, heads, head, d));
            let (k, v) = (k?, v?);
            for member in head * self.config.group()..(head + 1) * self.config.group() {
                let q =
                    (of_head(rows.q, self.config.heads, member, d)? * f64::from(d as u32).sqrt().recip())?;
                for first in (0..2 * n).step_by(BLOCK) {
                    let end = (first + BLOCK).min(2 * n);
                    let logits = q.narrow(0, first, end - first)?.matmul(&k.narrow(0, 0, end)?.t()?)?;
                    let mut weights = logits.flatten_all()?.to_vec1::<f32>()?;
                    weights.par_chunks_mut(end).enumerate().for_each(|(row, weights)| {
                        let seen = first + row + 1;
                        let least =
                            self.config.window_of(layer).map_or(0, |window| seen.saturating_sub(window));
                        weights[..least].fill(0.0);
                        weights[seen..].fill(0.0);
                        softmax(&mut weights[least..seen]);
                    });
                    for weights in weights.chunks_exact(end).skip(n.saturating_sub(first)) {
                        let shares = shares.iter_mut().skip(head).step_by(heads);
                        shares.zip(weights).for_each(|(share, weight)| *share = share.max(*weight));
                    }
                    let weights = Tensor::from_vec(weights, (end - first, end), &Device::Cpu)?;
                    let found = weights.matmul(&v.narrow(0, 0, end)?)?.to_vec2::<f32>()?;
                    for (row, found) in found.iter().enumerate() {
                        out[((first + row) * self.config.heads + member) * d..][..d].copy_from_slice(found);
                    }
                }
            }
        }
        let first = |x: &[f16]| x[..n * heads * d].iter().map(|x| x.to_f32()).collect();
        (self.each)(layer, ReadTwice { keys: first(rows.k), values: first(rows.v), shares });
        Ok(())
    }
}

/// One head's rows of `[rows, heads, head_dim]`.
fn of_head(x: &[f16], heads: usize, head: usize, d: usize) -> candle_core::Result<Tensor> {
    let rows: Vec<f32> =
        x.chunks_exact(heads * d).flat_map(|row| row[head * d..][..d].iter().map(|x| x.to_f32())).collect();
    let n = rows.len() / d;
    Tensor::from_vec(rows, (n, d), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightForm;
    use crate::testing::{CONTEXT, tiny_model};

    #[test]
    fn every_token_gets_a_share() {
        let model = tiny_model(3, WeightForm::Dense);
        let prompt: Vec<u32> = (0..40).map(|i| (i * i * 7 + 3) % 250).collect();
        let priors = Priors::measure(&model, &prompt).unwrap();
        assert_eq!(priors.tokens(), 40);
        for layer in 0..model.config().layers {
            let shares = priors.of(layer, 0..40);
            assert_eq!(shares.len(), 40 * model.config().kv_heads);
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share) && *share > 0.0));
        }
    }

    #[test]
    fn prompts_that_do_not_fit_twice_are_refused() {
        let model = tiny_model(3, WeightForm::Dense);
        for n in [0, CONTEXT / 2 + 1] {
            let error = Priors::measure(&model, &vec![1; n]).unwrap_err().to_string();
            assert!(error.contains("`:reconstruct` reads a prompt twice"), "{error}");
        }
        assert!(Priors::measure(&model, &vec![1; CONTEXT / 2]).is_ok());
    }
}
