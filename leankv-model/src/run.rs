//! Prompts and steps of a model over caches.

use leankv_runtime::Device;
use leankv_runtime::kv::{KvCache, RequestId};

use crate::Model;
use crate::cache::{PromptAttend, Recorded, StepAttend};
use crate::error::ModelError;
use crate::finite::{BeyondF16, Hidden};
use crate::statistics::Priors;

/// Takes a request's prompt in, chunk by chunk, with its [`Priors`] or what the model predicts; gives the hidden state of its last token, `[dim]`, and what did not fit f16 in all of it.
///
/// # Errors
/// [`ModelError::Refused`] for an empty prompt, [`ModelError::NonFinite`] for one of which a token is not finite somewhere, after which the request
/// is to be freed, and what model and cache say. A shortage of pages leaves the request as it was before the chunk.
pub fn prefill(
    model: &Model,
    device: &Device,
    cache: &mut KvCache,
    request: RequestId,
    tokens: &[u32],
    priors: Option<&Priors>,
) -> Result<(Hidden, BeyondF16), ModelError> {
    let (mut last, mut beyond) = (Hidden::default(), BeyondF16::default());
    let keep = &mut |hidden: Hidden| {
        beyond += hidden.beyond_all();
        last = hidden.last();
    };
    let prompt = Prompt { tokens, priors };
    for_chunks(model, device, cache, request, prompt, keep, None)?;
    if last.is_empty() {
        return Err(ModelError::Refused("a prompt has at least one token".to_owned()));
    }
    Ok((last, beyond))
}

/// As [`prefill`], with the hidden states of every token, `[tokens, dim]`, and all that the layers were given; the prompt is one chunk.
///
/// # Errors
/// As [`prefill`].
pub fn prefill_recording(
    model: &Model,
    device: &Device,
    cache: &mut KvCache,
    request: RequestId,
    tokens: &[u32],
    priors: Option<&Priors>,
) -> Result<(Hidden, Recorded), ModelError> {
    if tokens.is_empty() || tokens.len() > cache.config().chunk {
        let (tokens, chunk) = (tokens.len(), cache.config().chunk);
        return Err(ModelError::Refused(format!("a prompt of {tokens} tokens is not one chunk of {chunk}")));
    }
    let (mut all, mut recorded) = (Hidden::default(), Recorded::new());
    let keep = &mut |hidden: Hidden| all = hidden;
    let prompt = Prompt { tokens, priors };
    for_chunks(model, device, cache, request, prompt, keep, Some(&mut recorded))?;
    Ok((all, recorded))
}

/// A prompt, and the priors of its tokens where they are not left to the model.
struct Prompt<'a> {
    tokens: &'a [u32],
    priors: Option<&'a Priors>,
}

fn for_chunks(
    model: &Model,
    device: &Device,
    cache: &mut KvCache,
    request: RequestId,
    Prompt { tokens, priors }: Prompt<'_>,
    hidden: &mut dyn FnMut(Hidden),
    mut record: Option<&mut Recorded>,
) -> Result<(), ModelError> {
    let mut done = cache.tokens(request)?;
    while done < tokens.len() {
        let chunk = cache.prefill_chunk(request)?;
        let of = chunk.positions();
        let positions: Vec<u32> = of.clone().map(|p| p as u32).collect();
        done = of.end;
        let mut attend = PromptAttend::new(device, model.config(), chunk).with_priors(priors);
        if let Some(record) = record.as_deref_mut() {
            attend = attend.recording(record);
        }
        let states = model.forward_rows(&tokens[of], &positions, &mut attend)?;
        attend.finish()?;
        hidden(states.finite()?);
    }
    Ok(())
}

/// Requests of one cache in a step, each with its next token.
#[derive(Debug)]
pub struct Batch<'c> {
    /// The cache.
    pub cache: &'c mut KvCache,
    /// Its requests, each once.
    pub requests: &'c [RequestId],
    /// A token for each.
    pub tokens: &'c [u32],
}

/// One decode step of requests of several caches, which share the weights; gives hidden states `[rows, dim]`, one cache's requests after
/// another's.
///
/// # Errors
/// [`ModelError::NonFinite`] when the step is done and a row was not finite somewhere, and what model and caches say. With a shortage of
/// pages in any cache no token was touched in any.
pub fn step(model: &Model, device: &Device, batches: Vec<Batch<'_>>) -> Result<Hidden, ModelError> {
    let (mut tokens, mut positions, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    for batch in batches {
        tokens.extend_from_slice(batch.tokens);
        for &request in batch.requests {
            positions.push(batch.cache.tokens(request)? as u32);
        }
        steps.push(batch.cache.decode_step(batch.requests)?);
    }
    let mut attend = StepAttend::new(device, model.config(), steps);
    let hidden = model.forward_rows(&tokens, &positions, &mut attend)?;
    attend.finish()?;
    hidden.finite()
}
