//! Requests and their handles.

use super::Budget;

/// A request's handle. It is of no use any more when the request has ended, and of none to another cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    pub(super) slot: usize,
    /// Counts the requests of a cache.
    pub(super) number: u64,
    /// Counts the caches of a process.
    pub(super) cache: u64,
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "request {} (slot {})", self.number, self.slot)
    }
}

impl RequestId {
    /// Its row in page table and lengths.
    pub fn slot(self) -> usize {
        self.slot
    }
}

/// What the host knows of a request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) slot: usize,
    /// Tokens of its sequence that the cache has seen to, kept or not.
    pub(super) tokens: usize,
    /// Tokens after them that wait for the end of their chunk.
    pub(super) waiting: usize,
    /// Tokens of its prompt, there yet or not.
    pub(super) prompt: usize,
    /// Which of the cache's formats it has: a number of [`CacheConfig::all_formats`](super::CacheConfig::all_formats).
    pub(super) formats: usize,
    /// What its pages may take, if thresholds are solved for.
    pub(super) budget: Budget,
    /// Tokens of its sequence when thresholds were last solved for; none when that is due.
    pub(super) solved: Option<usize>,
    /// It was forked, or is a fork: tokens in full pages that it shares are frozen, and no budget can take them away.
    pub(super) forked: bool,
    /// A step was left in its middle: some layers have its token, others do not.
    pub(super) torn: bool,
}

impl Request {
    /// Tokens of its sequence that have come.
    pub(super) fn seen(&self) -> usize {
        self.tokens + self.waiting
    }
}
