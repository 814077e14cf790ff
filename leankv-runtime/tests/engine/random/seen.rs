//! What random sequences came by, so that a test of them is known to have tested something.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    Chunk,
    Step,
    Fork,
    ForkOfFork,
    Low,
    Pruned,
    Preemption,
    Torn,
    Full,
    Refusal,
    NoAdmission,
    NoChunk,
    NoStep,
    NoFork,
    /// A budget was solved for again, and kept.
    Budget,
    /// A step of requests of several tierings.
    Mixed,
    /// A step of decodes and pieces of prompts.
    Batch,
    /// A piece that did not end its chunk.
    Piece,
    NoBatch,
    /// A request held as much as it may.
    Bound,
}

impl Seen {
    pub(super) const ALL: [Seen; 20] = [
        Seen::Chunk,
        Seen::Step,
        Seen::Fork,
        Seen::ForkOfFork,
        Seen::Low,
        Seen::Pruned,
        Seen::Preemption,
        Seen::Torn,
        Seen::Full,
        Seen::Refusal,
        Seen::NoAdmission,
        Seen::NoChunk,
        Seen::NoStep,
        Seen::NoFork,
        Seen::Budget,
        Seen::Mixed,
        Seen::Batch,
        Seen::Piece,
        Seen::NoBatch,
        Seen::Bound,
    ];

    /// How often, in this process.
    pub(super) fn times(self) -> usize {
        TIMES[self as usize].load(Relaxed)
    }
}

static TIMES: [AtomicUsize; Seen::ALL.len()] = [const { AtomicUsize::new(0) }; Seen::ALL.len()];

pub(super) fn note(what: Seen) {
    TIMES[what as usize].fetch_add(1, Relaxed);
}

pub(super) fn note_if(is: bool, what: Seen) {
    if is {
        note(what);
    }
}
