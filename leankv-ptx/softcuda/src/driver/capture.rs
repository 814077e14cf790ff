//! Stream capture: work given to a stream becomes nodes of a graph instead of running.
//!
//! A capture spreads to other streams through events: an event recorded in a capturing stream stands for nodes, and a
//! stream that waits for it joins the capture. In the end all of it must have led back to the stream where it began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::graph::{Graph, GraphBody, Node};
use super::queue::Work;
use super::{Driver, State, context};
use crate::code::{Code, Fail, Res, invalid};
use crate::handles::Id;

/// Which calls are forbidden while a stream captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaptureMode {
    /// Calls that may wait for other work, from every thread.
    Global,
    /// Such calls from the thread that began.
    ThreadLocal,
    /// None.
    Relaxed,
}

/// A capture in progress.
pub(crate) struct Capture {
    pub(super) context: Id,
    origin: Id,
    mode: CaptureMode,
    thread: context::ThreadKey,
    nodes: Vec<Node>,
    /// For each stream that takes part: the nodes that its next node waits for.
    tips: BTreeMap<Id, Vec<usize>>,
    /// Memory allocated and freed by nodes.
    pub(super) allocated: Vec<u64>,
    pub(super) freed: Vec<u64>,
    invalid: bool,
}

/// What `cuStreamIsCapturing` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaptureStatus {
    None = 0,
    Active = 1,
    Invalidated = 2,
}

impl CaptureMode {
    pub(crate) fn from_number(number: i32) -> Res<CaptureMode> {
        match number {
            0 => Ok(CaptureMode::Global),
            1 => Ok(CaptureMode::ThreadLocal),
            2 => Ok(CaptureMode::Relaxed),
            _ => Err(invalid(format!("{number} is not a capture mode"))),
        }
    }
}

fn unsupported_now(call: &str) -> Fail {
    Fail::new(Code::StreamCaptureUnsupported, format!("{call} is not allowed while a stream captures"))
}

impl State {
    pub(super) fn invalidate_capture(&mut self, capture: Id) {
        if let Some(capture) = self.captures.find_mut(capture) {
            capture.invalid = true;
        }
    }

    fn capture_of(&self, stream: Id) -> Res<Option<Id>> {
        Ok(self.streams.get(stream)?.capture)
    }

    /// The live capture of a stream; an invalidated one is an error.
    fn live_capture(&mut self, stream: Id) -> Res<Option<(Id, &mut Capture)>> {
        let Some(id) = self.capture_of(stream)? else { return Ok(None) };
        let capture = self.captures.get_mut(id)?;
        if capture.invalid {
            let why = "an earlier error spoilt this capture; end it with cuStreamEndCapture";
            return Err(Fail::new(Code::StreamCaptureInvalidated, why));
        }
        Ok(Some((id, capture)))
    }

    /// Makes `work` a node if the stream captures, and says whether it did.
    pub(super) fn capture_node(&mut self, stream: Id, work: &Work) -> Res<bool> {
        self.check_default_stream(stream)?;
        let Some((_, capture)) = self.live_capture(stream)? else { return Ok(false) };
        let after = capture.tips.get(&stream).cloned().unwrap_or_default();
        capture.tips.insert(stream, vec![capture.nodes.len()]);
        capture.nodes.push(Node { work: work.clone(), after });
        Ok(true)
    }

    /// Whether the stream captures.
    pub(super) fn is_capturing(&self, stream: Id) -> Res<bool> {
        Ok(self.capture_of(stream)?.is_some())
    }

    /// The default stream may not be used while a stream captures that it would have to be ordered against.
    fn check_default_stream(&mut self, stream: Id) -> Res<()> {
        let context = self.streams.get(stream)?.context;
        if self.contexts.get(context)?.null_stream != stream {
            return Ok(());
        }
        let spoilt: Vec<Id> = self
            .streams
            .iter()
            .filter(|(_, other)| other.context == context && other.blocking)
            .filter_map(|(_, other)| other.capture)
            .collect();
        if spoilt.is_empty() {
            return Ok(());
        }
        for capture in spoilt {
            self.invalidate_capture(capture);
        }
        let why = "the default stream would have to wait for a blocking stream that captures";
        Err(Fail::new(Code::StreamCaptureImplicit, why))
    }

    /// The capture of a stream and the nodes that an event recorded now stands for.
    pub(super) fn capture_tips(&mut self, stream: Id) -> Res<Option<(Id, Vec<usize>)>> {
        self.check_default_stream(stream)?;
        let Some((id, capture)) = self.live_capture(stream)? else { return Ok(None) };
        Ok(Some((id, capture.tips.get(&stream).cloned().unwrap_or_default())))
    }

    /// A wait that touches a capture: true if it was taken care of.
    pub(super) fn capture_wait(
        &mut self,
        stream: Id,
        captured: Option<(Id, Vec<usize>)>,
        recorded: bool,
    ) -> Res<bool> {
        let own = self.live_capture(stream)?.map(|(id, _)| id);
        // An event of a capture that has ended no longer stands for anything.
        let captured = captured.filter(|(id, _)| self.captures.find(*id).is_some());
        match (own, captured) {
            (None, None) => Ok(false),
            (Some(own), None) => {
                if recorded {
                    self.invalidate_capture(own);
                    let why = "a capturing stream cannot wait for an event recorded outside the capture";
                    return Err(Fail::new(Code::StreamCaptureIsolation, why));
                }
                Ok(true)
            }
            (Some(own), Some((other, _))) if own != other => {
                self.invalidate_capture(own);
                self.invalidate_capture(other);
                let why = "the wait would merge two captures";
                Err(Fail::new(Code::StreamCaptureMerge, why))
            }
            (own, Some((id, nodes))) => {
                if own.is_none() {
                    self.check_default_stream(stream)?;
                    let context = self.streams.get(stream)?.context;
                    if self.contexts.get(context)?.null_stream == stream {
                        self.invalidate_capture(id);
                        let why = "the default stream cannot join a capture";
                        return Err(Fail::new(Code::StreamCaptureImplicit, why));
                    }
                    self.streams.get_mut(stream)?.capture = Some(id);
                }
                let tips = self.captures.get_mut(id)?.tips.entry(stream).or_default();
                tips.extend(nodes);
                tips.sort_unstable();
                tips.dedup();
                Ok(true)
            }
        }
    }

    /// Fails, and spoils the capture, for a call that cannot be captured.
    pub(super) fn forbid_while_capturing(&mut self, stream: Id, call: &str) -> Res<()> {
        self.check_default_stream(stream)?;
        if let Some(capture) = self.capture_of(stream)? {
            self.invalidate_capture(capture);
            return Err(unsupported_now(call));
        }
        Ok(())
    }

    /// Fails, and spoils the captures, for a call that waits for everything in a context.
    pub(super) fn forbid_during_capture(&mut self, context: Id, call: &str) -> Res<()> {
        let mut any = false;
        for (_, capture) in self.captures.iter_mut().filter(|(_, capture)| capture.context == context) {
            capture.invalid = true;
            any = true;
        }
        if any { Err(unsupported_now(call)) } else { Ok(()) }
    }

    /// Fails, and spoils the captures, for a call that may wait in secret, as their modes ask.
    pub(super) fn forbid_by_mode(&mut self, call: &str) -> Res<()> {
        let (thread, _) = context::this_thread();
        let mut any = false;
        for (_, capture) in self.captures.iter_mut() {
            let forbidden = match capture.mode {
                CaptureMode::Global => true,
                CaptureMode::ThreadLocal => capture.thread == thread,
                CaptureMode::Relaxed => false,
            };
            if forbidden {
                capture.invalid = true;
                any = true;
            }
        }
        if any { Err(unsupported_now(call)) } else { Ok(()) }
    }

    /// The lists of memory allocated and freed by the capture of a stream, if it captures.
    pub(super) fn capture_memory(&mut self, stream: Id) -> Res<Option<&mut Capture>> {
        Ok(self.live_capture(stream)?.map(|(_, capture)| capture))
    }
}

impl Driver {
    /// `cuStreamBeginCapture`.
    pub(crate) fn capture_begin(&self, handle: Id, mode: i32) -> Res<()> {
        let mode = CaptureMode::from_number(mode)?;
        let mut state = self.ready()?;
        let (stream, context) = state.stream(handle)?;
        if state.contexts.get(context)?.null_stream == stream {
            let why = "the default stream cannot capture: make a stream";
            return Err(Fail::new(Code::StreamCaptureUnsupported, why));
        }
        if state.is_capturing(stream)? {
            return Err(Fail::new(Code::IllegalState, "the stream already captures"));
        }
        let (thread, _) = context::this_thread();
        let id = state.serial.next();
        state.captures.insert(
            id,
            Capture {
                context,
                origin: stream,
                mode,
                thread,
                nodes: Vec::new(),
                tips: BTreeMap::from([(stream, Vec::new())]),
                allocated: Vec::new(),
                freed: Vec::new(),
                invalid: false,
            },
        );
        state.streams.get_mut(stream)?.capture = Some(id);
        Ok(())
    }

    /// `cuStreamEndCapture`: the graph.
    pub(crate) fn capture_end(&self, handle: Id) -> Res<Id> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        let Some(id) = state.capture_of(stream)? else {
            return Err(Fail::new(Code::IllegalState, "the stream does not capture"));
        };
        let capture = state.captures.get(id)?;
        if capture.origin != stream {
            state.invalidate_capture(id);
            let why = "a capture ends in the stream where it began";
            return Err(Fail::new(Code::StreamCaptureUnmatched, why));
        }
        if capture.mode != CaptureMode::Relaxed && capture.thread != context::this_thread().0 {
            let why = "a capture that is not relaxed ends in the thread where it began";
            return Err(Fail::new(Code::StreamCaptureWrongThread, why));
        }
        let capture = state.captures.remove(id)?;
        for (_, stream) in state.streams.iter_mut().filter(|(_, stream)| stream.capture == Some(id)) {
            stream.capture = None;
        }
        if capture.invalid {
            let why = "an earlier error spoilt this capture, there is no graph";
            return Err(Fail::new(Code::StreamCaptureInvalidated, why));
        }
        if !capture.is_joined() {
            let why = "a stream that joined the capture has work that the first stream never waited for";
            return Err(Fail::new(Code::StreamCaptureUnjoined, why));
        }
        let graph = state.serial.next();
        let body = GraphBody { nodes: capture.nodes, allocated: capture.allocated, freed: capture.freed };
        state.graphs.insert(graph, Graph { body: Arc::new(body) });
        Ok(graph)
    }

    /// `cuStreamIsCapturing`, with the capture's number.
    pub(crate) fn capture_status(&self, handle: Id) -> Res<(CaptureStatus, u64)> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        state.check_default_stream(stream)?;
        Ok(match state.capture_of(stream)? {
            None => (CaptureStatus::None, 0),
            Some(id) if state.captures.get(id)?.invalid => (CaptureStatus::Invalidated, id),
            Some(id) => (CaptureStatus::Active, id),
        })
    }
}

impl Capture {
    /// Whether every node leads to what the first stream has waited for.
    fn is_joined(&self) -> bool {
        let mut reached = BTreeSet::new();
        let mut open = self.tips.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = open.pop() {
            if reached.insert(node) {
                open.extend(&self.nodes[node].after);
            }
        }
        self.tips.values().flatten().all(|node| reached.contains(node))
    }
}
