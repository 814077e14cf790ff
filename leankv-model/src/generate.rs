//! One prompt, continued.

use std::time::{Duration, Instant};

use leankv_runtime::Device;
use leankv_runtime::kv::{KvCache, KvError, RequestId, RequestStats, Thresholds};

use crate::Model;
use crate::error::ModelError;
use crate::finite::BeyondF16;
use crate::run::{Batch, prefill, step};
use crate::sample::{Sampler, Sampling};
use crate::statistics::Priors;

/// How a text is continued.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text and are no part of it.
    pub stop: Vec<u32>,
    /// Whether the prompt is read twice, for exact [`Priors`]: [`KvChoice::reconstruct`](crate::cache::KvChoice::reconstruct).
    pub reconstruct: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Stop,
    /// It has all the tokens that were asked for, or all that the cache was made for.
    Length,
    /// The caller did.
    Interrupted,
}

impl End {
    /// As a word.
    pub fn name(self) -> &'static str {
        match self {
            End::Stop => "stop",
            End::Length => "length",
            End::Interrupted => "interrupted",
        }
    }
}

/// What was generated, and what it took.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub end: End,
    /// Time of the prompt, up to the first token.
    pub prompt_time: Duration,
    /// Decode steps: the first token comes from the prompt.
    pub steps: usize,
    /// Time of the decode steps.
    pub decode_time: Duration,
    /// What the cache held at the end.
    pub stats: RequestStats,
    /// What did not fit f16.
    pub beyond_f16: BeyondF16,
}

/// Continues a prompt in an otherwise unused slot of `cache`, which is free again afterwards. `on_token` is told each token as it is there;
/// when it gives `false`, that was the last one.
///
/// # Errors
/// [`ModelError::Refused`] for an empty prompt, [`ModelError::Sampling`], [`ModelError::NonFinite`] when what the model computes is not finite: no token is
/// chosen from that; and what model and cache say.
pub fn generate(
    model: &Model,
    device: &Device,
    cache: &mut KvCache,
    thresholds: &Thresholds,
    prompt: &[u32],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generation, ModelError> {
    let request = cache.admit(prompt.len(), thresholds)?;
    let result = with_request(model, device, cache, request, prompt, options, on_token);
    let freed = cache.free(&[request]);
    let generation = result?;
    freed?;
    Ok(generation)
}

fn with_request(
    model: &Model,
    device: &Device,
    cache: &mut KvCache,
    request: RequestId,
    prompt: &[u32],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generation, ModelError> {
    let mut sampler = Sampler::new(options.sampling, 0)?;
    let start = Instant::now();
    let priors = options.reconstruct.then(|| Priors::measure(model, prompt)).transpose()?;
    let (hidden, mut beyond_f16) = prefill(model, device, cache, request, prompt, priors.as_ref())?;
    let mut token = sampler.choose(&model.logits(&hidden)?)?;
    let prompt_time = start.elapsed();
    let (mut tokens, mut steps) = (Vec::new(), 0);
    let start = Instant::now();
    let end = loop {
        if options.stop.contains(&token) {
            break End::Stop;
        }
        if tokens.len() == options.max_tokens {
            break End::Length;
        }
        tokens.push(token);
        if !on_token(token) {
            break End::Interrupted;
        }
        if tokens.len() == options.max_tokens {
            break End::Length;
        }
        let batch = Batch { cache, requests: &[request], tokens: &[token] };
        let hidden = match step(model, device, vec![batch]) {
            Err(ModelError::Kv(KvError::Full { .. }) | ModelError::Context { .. }) => break End::Length,
            other => other?,
        };
        steps += 1;
        beyond_f16 += hidden.beyond_all();
        token = sampler.choose(&model.logits(&hidden)?)?;
    };
    let decode_time = start.elapsed();
    let stats = cache.stats(request)?;
    Ok(Generation { tokens, end, prompt_time, steps, decode_time, stats, beyond_f16 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KvChoice, Room, open};
    use crate::finite::Place;
    use crate::model::{Attend, LayerRows};
    use crate::testing::{compiler, tiny_model_with};

    /// Models of which one tensor was changed, with the first place that it shows.
    fn broken() -> Vec<(Place, Model)> {
        let set = |of: &'static str, x: f32| {
            move |name: &str, numbers: &mut [f32]| {
                if name == of {
                    numbers[3] = x;
                }
            }
        };
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let scaled = |name: &str, numbers: &mut [f32]| {
            if name == "blk.0.attn_k.weight" {
                numbers.iter_mut().for_each(|x| *x *= 3e5);
            }
        };
        vec![
            // The embedding of token 0, which is in the prompt.
            (Place::Embedding, tiny_model_with(1, &mut set("token_embd.weight", inf))),
            (Place::Projections(1), tiny_model_with(1, &mut set("blk.1.attn_norm.weight", nan))),
            (Place::Attention(1), tiny_model_with(1, &mut set("blk.1.attn_output.weight", inf))),
            (Place::FeedForward(0), tiny_model_with(1, &mut set("blk.0.ffn_norm.weight", nan))),
            (Place::Norm, tiny_model_with(1, &mut set("output_norm.weight", nan))),
            (Place::Logits, tiny_model_with(1, &mut set("output.weight", inf))),
            (Place::Attention(0), tiny_model_with(1, &mut { scaled })),
        ]
    }

    #[test]
    fn nothing_is_generated_from_what_is_not_finite_and_the_first_layer_is_named() {
        let (device, choice) = (Device::host(), KvChoice::fp16());
        let prompt = [5, 0, 7, 9];
        for (place, model) in broken() {
            let room = Room { requests: 1, tokens: 16, prompt: 4, chunk: 4, bytes: None };
            let mut cache = open(compiler(), &device, &model, &choice, &room).unwrap();
            for temperature in [0.0, 0.7] {
                let sampling = Sampling { temperature, top_p: 0.9, seed: 1 };
                let options =
                    GenerateOptions { max_tokens: 5, sampling, stop: Vec::new(), reconstruct: false };
                let thresholds = Thresholds::new(0.0, 0.0);
                let told = &mut |_| panic!("{place}: no token can be chosen");
                let error = generate(&model, &device, &mut cache, &thresholds, &prompt, &options, told);
                let Err(ModelError::NonFinite(error)) = error else { panic!("{place}: {error:?}") };
                assert_eq!(error.place, place, "{error}");
                let beyond = place == Place::Attention(0);
                assert_eq!(error.beyond.keys > 0, beyond, "{error}");
                assert_eq!(error.to_string().contains("beyond f16's 65504"), beyond, "{error}");
                if place == Place::Embedding {
                    assert_eq!(error.position, Some(1));
                }
                assert!(cache.requests().is_empty(), "its slot is free again");
            }
        }
    }

    /// Attention that gives nothing.
    struct Nothing;

    impl Attend for Nothing {
        fn layer(&mut self, _: usize, _: LayerRows<'_>, _: &mut [f32]) -> Result<(), ModelError> {
            Ok(())
        }
    }

    #[test]
    fn rows_are_judged_and_counted_each_by_itself() {
        // Token 0's embedding is broken.
        let model = tiny_model_with(1, &mut |name, numbers| match name {
            "token_embd.weight" => numbers[0] = f32::INFINITY,
            "blk.0.attn_v.weight" => numbers.iter_mut().for_each(|x| *x *= 3e5),
            _ => {}
        });
        let hidden = model.forward_rows(&[3, 0, 4], &[0, 0, 0], &mut Nothing).unwrap();
        let counts = [0, 1, 2].map(|row| hidden.beyond(row..row + 1));
        assert!(counts[0].values > 0 && counts[2].values > 0, "{counts:?}");
        assert_eq!(counts[1], BeyondF16::default(), "what is no number is not too large");
        assert_eq!(counts.map(|c| c.keys), [0; 3]);
        assert!(hidden.check(0..1).is_ok() && hidden.check(2..3).is_ok());
        assert_eq!(hidden.check(0..3).unwrap_err().row, 1);
        let error = model.forward(&[3, 0, 4], &[0, 0, 0], &mut Nothing).unwrap_err();
        assert!(matches!(error, ModelError::NonFinite(_)), "{error}");
        // The others are what they are without it.
        let alone = model.forward(&[4], &[0], &mut Nothing).unwrap();
        assert_eq!(hidden[2 * alone.len()..], alone[..]);
    }
}
