//! Execution of queued work.
//!
//! There is no worker thread: a thread that waits for work executes it (deferred order), or the one that queued it
//! (eager order). Only a program's own functions run on threads of their own, since they may wait for the program.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{MutexGuard, PoisonError};

use rand::RngExt;

use super::queue::{HostCall, Op, Side, Work};
use super::{Driver, State};
use crate::code::{Code, Res};
use crate::engine::Failure;
use crate::handles::Id;
use crate::settings::Order;

thread_local! {
    static IN_HOST_CALL: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is running a program's function for a stream; such a function may not call the driver.
pub(crate) fn in_host_call() -> bool {
    IN_HOST_CALL.with(Cell::get)
}

/// What to do to get a piece of work done.
enum Next {
    /// Run the first piece of this stream.
    Run(Id),
    /// Another thread is at it.
    Busy,
}

impl State {
    /// The next step towards `number`, which is pending.
    fn next_for(&self, number: u64) -> Next {
        let mut wanted = number;
        loop {
            let Some(stream) = self.pending.get(&wanted).copied() else { return Next::Busy };
            let Some(queue) = self.streams.find(stream) else { return Next::Busy };
            if queue.running {
                return Next::Busy;
            }
            let Some(first) = queue.queue.front() else { return Next::Busy };
            match first.after.iter().find(|number| self.pending.contains_key(number)) {
                // An earlier number, so this loop ends.
                Some(earlier) => wanted = *earlier,
                None => return Next::Run(stream),
            }
        }
    }

    /// The stream whose first piece can run and was queued first.
    fn first_runnable(&self) -> Option<Id> {
        let runnable = self.streams.iter().filter_map(|(id, stream)| {
            let first = stream.queue.front().filter(|_| !stream.running)?;
            let free = !first.after.iter().any(|number| self.pending.contains_key(number));
            free.then_some((first.number, id))
        });
        runnable.min().map(|(_, id)| id)
    }

    /// Books the end of a piece of work.
    fn end(&mut self, stream: Id, number: u64) {
        self.pending.remove(&number);
        let Some(found) = self.streams.find_mut(stream) else { return };
        found.running = false;
        let gone = found.destroyed && found.queue.is_empty();
        if gone {
            self.streams.retain(|id, _| *id != stream);
        }
    }

    /// A fault: the context can do nothing more, and what it had queued is dropped.
    fn break_context(&mut self, context: Id, code: Code) {
        if let Some(found) = self.contexts.find_mut(context) {
            found.broken.get_or_insert(code);
        }
        for (_, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.context == context) {
            for op in stream.queue.drain(..) {
                self.pending.remove(&op.number);
            }
        }
        self.streams.retain(|_, stream| {
            stream.context != context || stream.running || !(stream.destroyed && stream.queue.is_empty())
        });
    }
}

impl Driver {
    /// Runs the first piece of a stream, with the state unlocked meanwhile.
    fn step<'a>(&'a self, mut state: MutexGuard<'a, State>, stream: Id) -> MutexGuard<'a, State> {
        let Some(found) = state.streams.find_mut(stream) else { return state };
        let (context, Some(op)) = (found.context, found.queue.pop_front()) else { return state };
        found.running = true;
        drop(state);
        if let Work::Call(call) = op.work {
            self.call(call, stream, context, op.number);
            return self.lock();
        }
        let outcome = self.guarded(&op);
        self.finish(context, stream, op.number, outcome)
    }

    /// Executes; a panic of ours becomes a failure of the work.
    fn guarded(&self, op: &Op) -> Result<(), Failure> {
        catch_unwind(AssertUnwindSafe(|| self.execute(&op.work))).unwrap_or_else(|_| {
            let report = "internal error of the emulator: a panic while executing queued work".to_owned();
            Err(Failure { code: Code::Unknown, report })
        })
    }

    fn finish(
        &self,
        context: Id,
        stream: Id,
        number: u64,
        outcome: Result<(), Failure>,
    ) -> MutexGuard<'_, State> {
        if let Err(failure) = &outcome {
            self.reporter.entry(&format!("{}: {}", failure.code.name(), failure.report));
        }
        let mut state = self.lock();
        state.end(stream, number);
        if let Err(failure) = outcome {
            state.break_context(context, failure.code);
        }
        self.changed.notify_all();
        state
    }

    /// Runs a program's function on a thread of its own and goes on with the stream afterwards.
    fn call(&self, call: HostCall, stream: Id, context: Id, number: u64) {
        let run = move || {
            IN_HOST_CALL.with(|flag| flag.set(true));
            match call {
                // SAFETY: the program gave the function together with its argument, to be called once from any thread.
                HostCall::Function(function, data) => unsafe { function(data.0.cast()) },
                // SAFETY: as above; status 0 is success.
                HostCall::Callback(function, data, stream) => unsafe { function(stream, 0, data.0.cast()) },
            }
            IN_HOST_CALL.with(|flag| flag.set(false));
        };
        let Some(driver) = self.this.upgrade() else { return };
        let spawned =
            std::thread::Builder::new().name("softcuda-host-function".to_owned()).spawn(move || {
                run();
                drop(driver.finish(context, stream, number, Ok(())));
                driver.work_eagerly();
            });
        if let Err(error) = spawned {
            let report = format!("no thread for a host function: {error}");
            drop(self.finish(context, stream, number, Err(Failure { code: Code::OperatingSystem, report })));
        }
    }

    /// Waits for work, executing what it needs. In deferred order the seed chooses among streams.
    pub(super) fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut wanted: Vec<u64>,
    ) -> MutexGuard<'a, State> {
        loop {
            wanted.retain(|number| state.pending.contains_key(number));
            if wanted.is_empty() {
                return state;
            }
            let start = match self.settings.order {
                Order::Deferred => state.random.random_range(0..wanted.len()),
                Order::Eager => 0,
            };
            let run =
                (0..wanted.len()).find_map(|i| match state.next_for(wanted[(start + i) % wanted.len()]) {
                    Next::Run(stream) => Some(stream),
                    Next::Busy => None,
                });
            state = match run {
                Some(stream) => self.step(state, stream),
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// One step towards work that a program polls for, so that polling ends.
    pub(super) fn nudge(&self, state: MutexGuard<'_, State>, number: u64) {
        if let Next::Run(stream) = state.next_for(number) {
            drop(self.step(state, stream));
        }
    }

    /// Runs all that can run.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        while let Some(stream) = state.first_runnable() {
            state = self.step(state, stream);
        }
    }

    /// Waits for all work of a context and reports whether it is still usable.
    pub(super) fn finish_context(&self, state: MutexGuard<'_, State>, context: Id) -> Res<()> {
        let of_context = |(number, stream): (&u64, &Id)| {
            state.streams.find(*stream).is_some_and(|s| s.context == context).then_some(*number)
        };
        let wanted = state.pending.iter().filter_map(of_context).collect();
        let state = self.wait_for(state, wanted);
        state.usable(context).map(drop)
    }

    fn execute(&self, work: &Work) -> Result<(), Failure> {
        match work {
            Work::Nothing => Ok(()),
            Work::Record { event } => {
                let now = self.started.elapsed();
                if let Some(event) = self.lock().events.find_mut(*event) {
                    event.happened = Some(now);
                }
                Ok(())
            }
            Work::Copy { to, from, bytes } => self.copy(to, from, *bytes),
            Work::Fill { address, value, width, count } => {
                self.engine().fill(*address, *value, *width, *count)
            }
            Work::Launch(launch) => self.run_kernel(launch),
            Work::Free { address } => {
                self.lock().forget_memory(*address);
                self.engine().free(*address);
                Ok(())
            }
            // A call stands first in its stream and was taken care of there; inside a graph it runs here.
            Work::Call(HostCall::Function(function, data)) => {
                IN_HOST_CALL.with(|flag| flag.set(true));
                // SAFETY: the program gave the function together with its argument for each launch of the graph.
                unsafe { function(data.0.cast()) };
                IN_HOST_CALL.with(|flag| flag.set(false));
                Ok(())
            }
            Work::Call(HostCall::Callback(..)) => Ok(()),
            Work::Graph(body) => {
                for node in self.node_order(body) {
                    self.execute(&body.nodes[node].work)?;
                }
                Ok(())
            }
        }
    }

    fn copy(&self, to: &Side, from: &Side, bytes: usize) -> Result<(), Failure> {
        let source = match from {
            Side::Device(address) => Err(*address),
            Side::Locked(block, offset) => Ok(block.at(*offset).cast_const()),
            Side::Program(pointer) => Ok(pointer.0.cast_const()),
            Side::Snapshot(data) => Ok(data.as_ptr()),
        };
        let target = match to {
            Side::Device(address) => Err(*address),
            Side::Locked(block, offset) => Ok(block.at(*offset)),
            Side::Program(pointer) => Ok(pointer.0),
            Side::Snapshot(_) => return Ok(()),
        };
        match (target, source) {
            (Err(to), Err(from)) => self.engine().copy(to, from, bytes),
            (Err(to), Ok(from)) => {
                // SAFETY: a snapshot of `bytes` bytes, a checked range of page-locked memory that the work keeps, or
                // memory that the program promised to keep readable until now.
                let data = unsafe { std::slice::from_raw_parts(from, bytes) };
                self.engine().write(to, data)
            }
            (Ok(to), Err(from)) => {
                let mut data = vec![0; bytes];
                self.engine().read(from, &mut data)?;
                // SAFETY: as above, for writing.
                unsafe { to.copy_from(data.as_ptr(), bytes) };
                Ok(())
            }
            (Ok(to), Ok(from)) => {
                // SAFETY: as above; the ranges may overlap.
                unsafe { to.copy_from(from, bytes) };
                Ok(())
            }
        }
    }
}
