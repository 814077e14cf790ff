//! One prompt, continued.

use std::time::{Duration, Instant};

use leankv_runtime::Device;
use leankv_runtime::kv::{KvCache, KvError, RequestId, RequestStats, Thresholds};

use crate::Model;
use crate::error::ModelError;
use crate::run::{Batch, prefill, step};
use crate::sample::{Sampler, Sampling};

/// How a text is continued.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text and are no part of it.
    pub stop: Vec<u32>,
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
}

/// Continues a prompt in an otherwise unused slot of `cache`, which is free again afterwards. `on_token` is told each token as it is there;
/// when it gives `false`, that was the last one.
///
/// # Errors
/// [`ModelError::Refused`] for an empty prompt, and what model and cache say.
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
    let mut sampler = Sampler::new(options.sampling, 0);
    let start = Instant::now();
    let hidden = prefill(model, device, cache, request, prompt)?;
    let mut token = sampler.choose(&model.logits(&hidden)?);
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
        token = sampler.choose(&model.logits(&hidden)?);
    };
    let decode_time = start.elapsed();
    Ok(Generation { tokens, end, prompt_time, steps, decode_time, stats: cache.stats(request)? })
}
