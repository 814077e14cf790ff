//! Several caches that get the same sequences.

use leankv_runtime::kv::{KvCache, RequestId, RequestStats};
use leankv_runtime::{Compiler, Device};

use crate::Model;
use crate::cache::{KvChoice, Recorded, Room, open, thresholds};
use crate::error::ModelError;
use crate::finite::{BeyondF16, Hidden};
use crate::run::{Batch, prefill, prefill_recording, step};
use crate::statistics::Priors;

/// One cache of each choice.
#[derive(Debug)]
pub struct Fleet<'m> {
    model: &'m Model,
    device: Device,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    cache: KvCache,
    choice: KvChoice,
}

/// One request of a member, with its next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The member.
    pub member: usize,
    /// Its request.
    pub request: RequestId,
    /// The token.
    pub token: u32,
}

/// A prompt that a member holds.
#[derive(Clone, Debug)]
pub struct Prompted {
    /// The request.
    pub request: RequestId,
    /// The hidden state of its last token, `[dim]`.
    pub last: Vec<f32>,
    /// What of it did not fit f16.
    pub beyond_f16: BeyondF16,
}

impl<'m> Fleet<'m> {
    /// Opens a cache of each choice.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(
        compiler: &Compiler,
        device: &Device,
        model: &'m Model,
        choices: &[KvChoice],
        room: &Room,
    ) -> Result<Fleet<'m>, ModelError> {
        let mut members = Vec::with_capacity(choices.len());
        for choice in choices {
            members
                .push(Member { cache: open(compiler, device, model, choice, room)?, choice: choice.clone() });
        }
        Ok(Fleet { model, device: device.clone(), members })
    }

    /// How many caches there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The cache of a member.
    pub fn cache(&self, member: usize) -> &KvCache {
        &self.members[member].cache
    }

    /// Gives a prompt to every cache, of each a request. A prompt of one chunk takes one pass of the model; of a longer one every cache sees its own.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`], and what model and caches say.
    pub fn prompt(&mut self, tokens: &[u32]) -> Result<Vec<Prompted>, ModelError> {
        let (model, device) = (self.model, &self.device);
        let reconstruct = self.members.iter().any(|member| member.choice.reconstruct);
        let priors = reconstruct.then(|| Priors::measure(model, tokens)).transpose()?;
        let mut all = Vec::with_capacity(self.members.len());
        let mut first: Option<(Hidden, Recorded)> = None;
        for Member { cache, choice } in &mut self.members {
            let request = cache.admit(tokens.len(), &thresholds(choice))?;
            let priors = priors.as_ref().filter(|_| choice.reconstruct);
            if tokens.len() > cache.config().chunk {
                let (hidden, beyond_f16) = prefill(model, device, cache, request, tokens, priors)?;
                all.push(Prompted { request, last: hidden.into_states(), beyond_f16 });
                continue;
            }
            match &first {
                None => first = Some(prefill_recording(model, device, cache, request, tokens, priors)?),
                Some((_, recorded)) => recorded.replay(device, cache, request, priors)?,
            }
            let hidden = first.as_ref().map(|(hidden, _)| hidden.clone()).unwrap_or_default();
            let beyond_f16 = hidden.beyond_all();
            all.push(Prompted { request, last: hidden.last().into_states(), beyond_f16 });
        }
        Ok(all)
    }

    /// A decode step of these rows, in the order of their members; gives logits, `[rows, vocab]`, and what of each row did not fit f16.
    ///
    /// # Errors
    /// [`ModelError::InCache`] with the first row that is not finite, and what model and caches say.
    pub fn step(&mut self, rows: &[Row]) -> Result<(Vec<f32>, Vec<BeyondF16>), ModelError> {
        debug_assert!(rows.is_sorted_by_key(|row| row.member), "rows come in the order of their members");
        let split = |member: usize| {
            let of = rows.iter().filter(|row| row.member == member);
            of.map(|row| (row.request, row.token)).unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let parts: Vec<_> = (0..self.members.len()).map(split).collect();
        let batches = self.members.iter_mut().zip(&parts).filter(|(_, (requests, _))| !requests.is_empty());
        let batches = batches
            .map(|(member, (requests, tokens))| Batch { cache: &mut member.cache, requests, tokens })
            .collect();
        let stepped = step(self.model, &self.device, batches)
            .and_then(|hidden| self.model.logits(&hidden).map(|logits| (logits, hidden)));
        let (logits, hidden) = stepped.map_err(|error| match error {
            ModelError::NonFinite(error) => {
                let cache = self.members[rows[error.row].member].choice.to_string();
                ModelError::InCache { cache, error }
            }
            other => other,
        })?;
        Ok((logits, (0..rows.len()).map(|row| hidden.beyond(row..row + 1)).collect()))
    }

    /// What a request holds.
    ///
    /// # Errors
    /// What the cache says.
    pub fn stats(&self, member: usize, request: RequestId) -> Result<RequestStats, ModelError> {
        Ok(self.members[member].cache.stats(request)?)
    }

    /// Ends requests of a member.
    ///
    /// # Errors
    /// What the cache says.
    pub fn free(&mut self, member: usize, requests: &[RequestId]) -> Result<(), ModelError> {
        Ok(self.members[member].cache.free(requests)?)
    }
}
