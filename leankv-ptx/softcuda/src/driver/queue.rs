//! Work and the order it must keep.
//!
//! Each piece of work has a number. A stream's work runs in the order of its queue; beyond that, a piece waits for the
//! numbers in its `after` list. Numbers only ever refer to earlier ones, so waiting cannot go round in a circle.

use std::sync::{Arc, MutexGuard};

use super::memory::HostBlock;
use super::{Driver, State, graph::GraphBody, launch::Launch};
use crate::code::Res;
use crate::handles::Id;
use crate::settings::Order;
use crate::types::{Handle, HostFunction, HostPointer, StreamCallback};

/// A piece of work in a stream.
pub(super) struct Op {
    pub(super) number: u64,
    pub(super) after: Vec<u64>,
    pub(super) work: Work,
}

/// What is to be done.
#[derive(Clone)]
pub(super) enum Work {
    /// Nothing: a place in the order.
    Nothing,
    /// The event has happened, if it was not recorded again since.
    Record {
        event: Id,
    },
    Copy {
        to: Side,
        from: Side,
        bytes: usize,
    },
    /// `count` elements of `width` bytes.
    Fill {
        address: u64,
        value: u32,
        width: usize,
        count: usize,
    },
    Launch(Arc<Launch>),
    Free {
        address: u64,
    },
    Call(HostCall),
    Graph(Arc<GraphBody>),
}

/// One end of a copy.
#[derive(Clone)]
pub(super) enum Side {
    Device(u64),
    /// Page-locked memory, kept until the copy is done, and an offset in it.
    Locked(Arc<HostBlock>, usize),
    /// The program's memory, which it promised to keep until then.
    Program(HostPointer),
    /// What the program's memory held when the copy was queued.
    Snapshot(Arc<[u8]>),
}

/// A function of the program, run in stream order.
#[derive(Clone, Copy)]
pub(crate) enum HostCall {
    Function(HostFunction, HostPointer),
    Callback(StreamCallback, HostPointer, Handle),
}

// SAFETY: a handle is a number and the data pointer is passed on to the program's function, which expects to be called
// from a thread of the driver.
unsafe impl Send for HostCall {}
// SAFETY: as above.
unsafe impl Sync for HostCall {}

/// What became of submitted work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitted {
    /// It is in the queue under this number.
    Queued(u64),
    /// It became a node of the graph that the stream captures.
    Captured,
}

impl State {
    /// Puts work at the end of a stream's queue. `after` may name ended work.
    pub(super) fn enqueue(&mut self, stream: Id, work: Work, mut after: Vec<u64>) -> Res<u64> {
        after.extend(self.implied_order(stream)?);
        after.retain(|number| self.pending.contains_key(number));
        self.next_work += 1;
        let number = self.next_work;
        let queue = self.streams.get_mut(stream)?;
        queue.last = number;
        queue.queue.push_back(Op { number, after, work });
        self.pending.insert(number, stream);
        Ok(number)
    }

    /// The order between the default stream and blocking streams of one context: the default stream waits for what
    /// they hold, and what they get later waits for the default stream.
    fn implied_order(&self, stream: Id) -> Res<Vec<u64>> {
        let this = self.streams.get(stream)?;
        let Some(context) = self.contexts.find(this.context) else { return Ok(Vec::new()) };
        if stream == context.null_stream {
            let others = self.streams.iter().filter(|(id, other)| {
                *id != stream && other.context == this.context && other.blocking && other.last > 0
            });
            return Ok(others.map(|(_, other)| other.last).collect());
        }
        if this.blocking {
            return Ok(self.streams.find(context.null_stream).map(|null| null.last).into_iter().collect());
        }
        Ok(Vec::new())
    }
}

impl Driver {
    /// Gives work to a stream: captured if the stream captures, else queued and, in eager order, run.
    pub(super) fn submit(&self, mut state: MutexGuard<'_, State>, stream: Id, work: Work) -> Res<Submitted> {
        if state.capture_node(stream, &work)? {
            return Ok(Submitted::Captured);
        }
        let number = state.enqueue(stream, work, Vec::new())?;
        drop(state);
        self.work_eagerly();
        Ok(Submitted::Queued(number))
    }

    /// In eager order, runs what can run.
    pub(super) fn work_eagerly(&self) {
        if self.settings.order == Order::Eager {
            self.drain();
        }
    }
}
