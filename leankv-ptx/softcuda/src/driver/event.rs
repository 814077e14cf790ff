//! Events.

use std::time::Duration;

use super::queue::Work;
use super::{Driver, State};
use crate::code::{Code, Fail, Res, invalid};
use crate::handles::Id;

/// An event.
pub(crate) struct Event {
    pub(super) context: Id,
    pub(super) timed: bool,
    /// The number of the work that records it; none before the first record.
    pub(super) work: Option<u64>,
    /// When it happened, since the driver's start.
    pub(super) happened: Option<Duration>,
    /// Recorded in a stream that captured: the capture, and the nodes it stands for.
    pub(super) captured: Option<(Id, Vec<usize>)>,
}

impl State {
    fn event(&self, id: Id) -> Res<&Event> {
        let event = self.events.get(id)?;
        self.usable(event.context)?;
        Ok(event)
    }

    /// Fails for an event whose last record is part of a capture.
    fn outside_capture(&mut self, id: Id, call: &str) -> Res<()> {
        if let Some((capture, _)) = self.event(id)?.captured {
            self.invalidate_capture(capture);
            let why = format!("{call}: the event was last recorded in a stream that is capturing");
            return Err(Fail::new(Code::CapturedEvent, why));
        }
        Ok(())
    }

    fn is_done(&self, event: &Event) -> bool {
        event.work.is_none_or(|number| !self.pending.contains_key(&number))
    }
}

impl Driver {
    /// `cuEventCreate`.
    pub(crate) fn event_create(&self, flags: u32) -> Res<Id> {
        // Blocking wait, no timing, between processes (which needs no timing).
        if flags > 7 || flags & 6 == 4 {
            return Err(invalid(format!("0x{flags:x} are not event flags")));
        }
        let mut state = self.ready()?;
        let context = state.current()?;
        let id = state.serial.next();
        let event = Event { context, timed: flags & 2 == 0, work: None, happened: None, captured: None };
        state.events.insert(id, event);
        Ok(id)
    }

    /// `cuEventDestroy`. Work that waits for it still does.
    pub(crate) fn event_destroy(&self, id: Id) -> Res<()> {
        self.ready()?.events.remove(id).map(drop)
    }

    /// `cuEventRecord`.
    pub(crate) fn event_record(&self, id: Id, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, context) = state.stream(handle)?;
        if state.event(id)?.context != context {
            return Err(Fail::new(
                Code::InvalidHandle,
                "the event belongs to another context than the stream",
            ));
        }
        if let Some(captured) = state.capture_tips(stream)? {
            let event = state.events.get_mut(id)?;
            event.captured = Some(captured);
            return Ok(());
        }
        let number = state.enqueue(stream, Work::Record { event: id }, Vec::new())?;
        let event = state.events.get_mut(id)?;
        (event.work, event.happened, event.captured) = (Some(number), None, None);
        drop(state);
        self.work_eagerly();
        Ok(())
    }

    /// `cuStreamWaitEvent`. An event that was never recorded is not waited for.
    pub(crate) fn stream_wait(&self, handle: Id, id: Id, flags: u32) -> Res<()> {
        if flags > 1 {
            return Err(invalid(format!("0x{flags:x} are not flags of a wait")));
        }
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        let event = state.event(id)?;
        let (work, captured) = (event.work, event.captured.clone());
        if state.capture_wait(stream, captured, work.is_some())? {
            return Ok(());
        }
        if let Some(number) = work.filter(|number| state.pending.contains_key(number)) {
            state.enqueue(stream, Work::Nothing, vec![number])?;
            drop(state);
            self.work_eagerly();
        }
        Ok(())
    }

    /// `cuEventQuery`. In deferred order each question makes one step.
    pub(crate) fn event_query(&self, id: Id) -> Res<()> {
        let mut state = self.ready()?;
        state.outside_capture(id, "cuEventQuery")?;
        let event = state.event(id)?;
        let Some(number) = event.work.filter(|_| !state.is_done(event)) else { return Ok(()) };
        self.nudge(state, number);
        Err(Fail::new(Code::NotReady, "the event has not happened yet"))
    }

    /// `cuEventSynchronize`.
    pub(crate) fn event_synchronize(&self, id: Id) -> Res<()> {
        let mut state = self.ready()?;
        state.outside_capture(id, "cuEventSynchronize")?;
        let event = state.event(id)?;
        let (context, wanted) = (event.context, event.work.into_iter().collect());
        let state = self.wait_for(state, wanted);
        state.usable(context).map(drop)
    }

    /// `cuEventElapsedTime` in milliseconds: time of the emulator, not of a GPU.
    pub(crate) fn event_elapsed(&self, from: Id, to: Id) -> Res<f32> {
        let mut state = self.ready()?;
        let mut times = [Duration::ZERO; 2];
        for (time, id) in times.iter_mut().zip([from, to]) {
            state.outside_capture(id, "cuEventElapsedTime")?;
            let event = state.event(id)?;
            if !event.timed {
                return Err(Fail::new(Code::InvalidHandle, "the event was made without timing"));
            }
            if event.work.is_none() {
                return Err(Fail::new(Code::InvalidHandle, "the event was never recorded"));
            }
            *time = event
                .happened
                .filter(|_| state.is_done(event))
                .ok_or_else(|| Fail::new(Code::NotReady, "the event has not happened yet"))?;
        }
        let [from, to] = times.map(|time| time.as_secs_f64());
        Ok(((to - from) * 1e3) as f32)
    }
}
