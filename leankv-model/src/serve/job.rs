//! Requests, from the queue to their completion.

use std::time::{Duration, Instant};

use leankv_runtime::kv::RequestId;

use super::Failed;
use crate::finite::{BeyondF16, NonFinite};
use crate::sample::Sampler;
use crate::statistics::Priors;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Most tokens to generate.
    pub output: usize,
}

impl Request {
    /// Tokens of prompt and output.
    pub fn tokens(&self) -> usize {
        self.prompt.len().saturating_add(self.output)
    }

    /// Tokens that the cache holds at most: the last one that is generated never gets there.
    pub(super) fn cached(&self) -> usize {
        self.tokens() - 1
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its number, as [`Scheduler::submit`](super::Scheduler::submit) gave it.
    pub number: usize,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// What was generated.
    pub tokens: Vec<u32>,
    /// Why that is not all, when it turned out that the cache cannot hold it or that the model computes nothing finite for it.
    pub failed: Option<Failed>,
    /// What of it did not fit f16.
    pub beyond_f16: BeyondF16,
    /// From its submission to its first token.
    pub first_token: Option<Duration>,
    /// From its submission to its end.
    pub latency: Duration,
    /// How often it was given up and began again.
    pub preemptions: usize,
}

/// A request with what is known of it, whether it runs or waits.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: usize,
    pub(super) request: Request,
    /// What was generated. It survives a preemption, and so does the sampler.
    pub(super) generated: Vec<u32>,
    pub(super) sampler: Sampler,
    pub(super) submitted: Instant,
    pub(super) first_token: Option<Duration>,
    pub(super) preemptions: usize,
    /// Where its cache is one that reconstructs.
    pub(super) priors: Option<Priors>,
    /// Of what is in the cache now: a request that begins again is counted again.
    pub(super) beyond_f16: BeyondF16,
}

impl Job {
    /// Takes the next token; gives whether it was the last.
    pub(super) fn take(&mut self, logits: &[f32], stop: &[u32]) -> Result<bool, NonFinite> {
        let token = self.sampler.choose(logits)?;
        self.first_token.get_or_insert_with(|| self.submitted.elapsed());
        if stop.contains(&token) {
            return Ok(true);
        }
        self.generated.push(token);
        Ok(self.generated.len() == self.request.output)
    }

    pub(super) fn complete(self, failed: Option<Failed>) -> Completion {
        Completion {
            number: self.number,
            prompt: self.request.prompt.len(),
            tokens: self.generated,
            failed,
            beyond_f16: self.beyond_f16,
            first_token: self.first_token,
            latency: self.submitted.elapsed(),
            preemptions: self.preemptions,
        }
    }
}

/// A job that has a slot of the cache.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) id: RequestId,
    /// Tokens of the prompt that are in the cache.
    pub(super) prompted: usize,
    /// Generated tokens that are in the cache. Fewer than there are but one: it is on its way back from a preemption.
    pub(super) fed: usize,
}

impl Running {
    pub(super) fn new(job: Job, id: RequestId) -> Running {
        Running { job, id, prompted: 0, fed: 0 }
    }

    /// Whether its prompt is there, so that it takes part in decode steps.
    pub(super) fn decodes(&self) -> bool {
        self.prompted == self.job.request.prompt.len()
    }

    /// The next token that the cache has not seen, and its position.
    pub(super) fn next(&self) -> (u32, u32) {
        (self.job.generated[self.fed], (self.prompted + self.fed) as u32)
    }

    /// Whether the cache has seen all that was generated, so that a new token is to be chosen.
    pub(super) fn caught_up(&self) -> bool {
        self.fed == self.job.generated.len()
    }
}
