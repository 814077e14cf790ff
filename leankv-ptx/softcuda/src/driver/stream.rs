//! Streams.

use std::collections::VecDeque;

use super::queue::{HostCall, Op, Work};
use super::{Driver, State, context};
use crate::code::{Code, Fail, Res, invalid};
use crate::handles::Id;

/// The default stream, by its null handle.
pub(crate) const NULL: Id = 0;
/// The default stream, by its name.
pub(crate) const LEGACY: Id = 1;
/// Each thread's own default stream.
pub(crate) const PER_THREAD: Id = 2;
/// Most and least urgent priority.
pub(crate) const PRIORITIES: (i32, i32) = (-5, 0);

/// A stream.
pub(crate) struct Stream {
    pub(super) context: Id,
    /// Ordered against the default stream.
    pub(super) blocking: bool,
    pub(super) priority: i32,
    pub(super) queue: VecDeque<Op>,
    /// The last number queued.
    pub(super) last: u64,
    /// Its first piece of work is being executed.
    pub(super) running: bool,
    /// Its handle is gone; it goes when its work has ended.
    pub(super) destroyed: bool,
    pub(super) capture: Option<Id>,
}

impl Stream {
    pub(super) fn new(context: Id, blocking: bool, priority: i32) -> Stream {
        Stream {
            context,
            blocking,
            priority,
            queue: VecDeque::new(),
            last: 0,
            running: false,
            destroyed: false,
            capture: None,
        }
    }
}

impl State {
    /// The stream of a handle and its context, which is usable. The default streams belong to the current context.
    pub(super) fn stream(&mut self, handle: Id) -> Res<(Id, Id)> {
        let (id, context) = match handle {
            NULL | LEGACY => {
                let context = self.current()?;
                (self.contexts.get(context)?.null_stream, context)
            }
            PER_THREAD => {
                let context = self.current()?;
                (self.thread_stream(context)?, context)
            }
            _ => {
                let stream = self.streams.get(handle)?;
                if stream.destroyed {
                    let why = format!("stream 0x{handle:x} was destroyed");
                    return Err(Fail::new(Code::InvalidHandle, why));
                }
                (handle, stream.context)
            }
        };
        self.usable(context)?;
        Ok((id, context))
    }

    fn thread_stream(&mut self, context: Id) -> Res<Id> {
        let (thread, _) = context::this_thread();
        if let Some(id) = self.contexts.get(context)?.thread_streams.get(&thread) {
            return Ok(*id);
        }
        let id = self.serial.next();
        self.streams.insert(id, Stream::new(context, true, 0));
        self.contexts.get_mut(context)?.thread_streams.insert(thread, id);
        Ok(id)
    }
}

impl Driver {
    /// `cuStreamCreateWithPriority`. Priorities outside the range are clamped.
    pub(crate) fn stream_create(&self, flags: u32, priority: i32) -> Res<Id> {
        if flags > 1 {
            return Err(invalid(format!("0x{flags:x} are not stream flags")));
        }
        let mut state = self.ready()?;
        let context = state.current()?;
        let id = state.serial.next();
        state
            .streams
            .insert(id, Stream::new(context, flags == 0, priority.clamp(PRIORITIES.0, PRIORITIES.1)));
        Ok(id)
    }

    /// `cuStreamDestroy`. Queued work still runs.
    pub(crate) fn stream_destroy(&self, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        if handle <= PER_THREAD {
            return Err(Fail::new(Code::InvalidHandle, "a default stream cannot be destroyed"));
        }
        let stream = state.streams.get_mut(handle)?;
        if stream.destroyed {
            return Err(Fail::new(Code::InvalidHandle, "the stream was already destroyed"));
        }
        stream.destroyed = true;
        let capture = stream.capture.take();
        let idle = stream.queue.is_empty() && !stream.running;
        if let Some(capture) = capture {
            state.invalidate_capture(capture);
        }
        if idle {
            state.streams.remove(handle)?;
        }
        Ok(())
    }

    /// `cuStreamSynchronize`.
    pub(crate) fn stream_synchronize(&self, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, context) = state.stream(handle)?;
        state.forbid_while_capturing(stream, "cuStreamSynchronize")?;
        let last = state.streams.get(stream)?.last;
        let mut wanted = vec![last];
        // Waiting for the default stream is waiting for what it is ordered after.
        if stream == state.contexts.get(context)?.null_stream {
            wanted.extend(
                state.streams.iter().filter(|(_, s)| s.context == context && s.blocking).map(|(_, s)| s.last),
            );
        }
        let state = self.wait_for(state, wanted);
        state.usable(context).map(drop)
    }

    /// `cuStreamQuery`: whether all work has ended. In deferred order each question makes one step.
    pub(crate) fn stream_query(&self, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        state.forbid_while_capturing(stream, "cuStreamQuery")?;
        let last = state.streams.get(stream)?.last;
        if !state.pending.contains_key(&last) {
            return Ok(());
        }
        self.nudge(state, last);
        Err(Fail::new(Code::NotReady, "the stream has unfinished work"))
    }

    /// Context of a stream.
    pub(crate) fn stream_context(&self, handle: Id) -> Res<Id> {
        Ok(self.ready()?.stream(handle)?.1)
    }

    /// `cuStreamGetFlags`.
    pub(crate) fn stream_flags(&self, handle: Id) -> Res<u32> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        Ok(u32::from(!state.streams.get(stream)?.blocking))
    }

    /// `cuStreamGetPriority`.
    pub(crate) fn stream_priority(&self, handle: Id) -> Res<i32> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        Ok(state.streams.get(stream)?.priority)
    }

    /// `cuStreamGetId`: the number of the stream.
    pub(crate) fn stream_id(&self, handle: Id) -> Res<u64> {
        Ok(self.ready()?.stream(handle)?.0)
    }

    /// `cuCtxGetStreamPriorityRange`: least urgent, most urgent.
    pub(crate) fn priority_range(&self) -> Res<(i32, i32)> {
        self.ready()?.current()?;
        Ok((PRIORITIES.1, PRIORITIES.0))
    }

    /// `cuLaunchHostFunc` and `cuStreamAddCallback`.
    pub(crate) fn host_call(&self, handle: Id, call: HostCall) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        if matches!(call, HostCall::Callback(..)) {
            state.forbid_while_capturing(stream, "cuStreamAddCallback")?;
        }
        self.submit(state, stream, Work::Call(call)).map(drop)
    }
}
