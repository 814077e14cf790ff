//! Serving: many requests of different lengths over one cache of fixed size, batched continuously.
//!
//! * [`Scheduler`] holds a queue of [`Request`]s and a [`KvCache`](leankv_runtime::kv::KvCache). A [`tick`](Scheduler::tick) admits a request if there is
//!   room, takes in one chunk of a prompt, and does one decode step of all requests whose prompts are there.
//! * When pages run out, the newest request is given up: its pages are freed and it goes back to the front of the queue. So the oldest
//!   always goes on, and everything ends.
//! * A request that was given up is computed again as it was the first time, its prompt in the same chunks and what it had generated in decode
//!   steps. Prompts see each other in FP16 and decode steps see what the cache kept, so taking generated tokens in as if they were
//!   a prompt would be faster and give other numbers. As it is, a request gets the same tokens whatever else is served beside it.
//! * A request for which the model computes a number that is not finite ends alone, with an error that names the first layer; the others go on.
//! * [`Report`] says what came out of it, and where the time went.

mod job;
mod report;
mod scheduler;
#[cfg(test)]
mod tests;
mod timed;

pub use job::{Completion, Request};
pub use report::{Latencies, Report, Times};
pub use scheduler::{Scheduler, ServeOptions};

use crate::error::ModelError;
use crate::finite::NonFinite;

/// A request that the cache is too small for, even alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a request of {tokens} tokens needs {need} bytes of KV memory, and there are {have}; give the cache more, or ask for less"
)]
pub struct TooLarge {
    /// Tokens of its prompt and its output.
    pub tokens: usize,
    /// Bytes of pages that it needs at least.
    pub need: usize,
    /// Bytes of all pages.
    pub have: usize,
}

/// Why a request ended without all of its tokens. Others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It outgrew the cache.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// What the model computed for it is not finite, so that no token can be chosen.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
}

/// Why a request is not served, or none is any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No prompt, or nothing to generate.
    #[error(
        "a request has at least one token of a prompt and asks for at least one; this one has {prompt} and asks for {output}"
    )]
    Empty {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        output: usize,
    },
    /// More tokens than the longest sequence of cache or model.
    #[error("a request of {tokens} tokens is longer than the longest sequence, which has {most}")]
    TooLong {
        /// Tokens of prompt and output.
        tokens: usize,
        /// The longest sequence.
        most: usize,
    },
    /// The cache can never hold it.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Model or cache failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<leankv_runtime::kv::KvError> for ServeError {
    fn from(error: leankv_runtime::kv::KvError) -> ServeError {
        ServeError::Model(error.into())
    }
}
