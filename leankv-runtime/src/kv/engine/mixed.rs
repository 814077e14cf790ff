//! A step of an engine: pieces of prompts and decodes of one batch, in any order.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::batch::Run;
use super::compact::Room;
use super::request::Request;
use super::{Budget, InputElement, KvCache, LayerInput, RequestId, RowsMut};
use crate::device::DeviceError;
use crate::kv::{KvError, More};

/// What one request has in a step: so many rows of all tensors, one a token. A request whose prompt has come has one row, its next token; one whose prompt
/// has not has a piece of it, of any length up to what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPart {
    /// The request.
    pub request: RequestId,
    /// Its rows, at least one.
    pub rows: usize,
}

/// The handle of a step that was begun. It is of no use when another one was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepId(u64);

/// A step: its pages are there, and its layers are done one after another.
#[derive(Debug)]
pub(super) struct Step {
    id: StepId,
    /// All of them, in the order of the rows of all tensors.
    pub(super) requests: Vec<RequestId>,
    /// Rows of all tensors.
    pub(super) rows: usize,
    /// Requests that decode, and in runs where their rows lie.
    decodes: Vec<RequestId>,
    runs: Vec<Run>,
    /// Pieces of prompts, none of which goes beyond the end of its chunk.
    pieces: Vec<Piece>,
    /// The layer that is next.
    pub(super) next: usize,
}

/// Tokens of one chunk of a request's prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) id: RequestId,
    /// The row of its first token in all tensors.
    pub(super) at: usize,
    /// Its tokens.
    pub(super) rows: usize,
    /// The position of the chunk's first token.
    pub(super) start: usize,
    /// Tokens of the chunk that came before.
    pub(super) before: usize,
    /// Tokens of the chunk.
    pub(super) chunk: usize,
}

impl Piece {
    /// Its rows in all tensors.
    pub(super) fn places(&self) -> Range<usize> {
        self.at..self.at + self.rows
    }

    /// Tokens of the chunk that are there with it.
    pub(super) fn there(&self) -> usize {
        self.before + self.rows
    }

    /// Whether it is all of its chunk.
    pub(super) fn is_whole(&self) -> bool {
        self.rows == self.chunk
    }

    /// Whether its chunk ends with it.
    pub(super) fn ends_chunk(&self) -> bool {
        self.there() == self.chunk
    }
}

impl KvCache {
    /// Begins a step of an engine's batch: decodes and pieces of prompts, in any order. Takes the pages that it needs: for decodes as [`KvCache::decode_step`] does, and for
    /// chunks of prompts that end in it as [`KvCache::prefill_chunk`] does. A step that was begun before is given up: its requests can only be freed, unless no
    /// layer was done.
    ///
    /// Where a prompt is cut into pieces changes nothing, to the bit, as long as no piece goes beyond the end of its chunk (of [`CacheConfig::chunk`](super::CacheConfig::chunk) positions):
    /// the tokens of a chunk attend to each other as they came, and what counts is decided at its end. The tokens of a chunk that has not ended wait outside of the arena, in
    /// [`CacheConfig::waiting_bytes`](super::CacheConfig::waiting_bytes) a request. A piece that goes beyond the end of a chunk is cut there; its rest sees the chunk
    /// before as it is stored, but not yet reclassified.
    ///
    /// # Errors
    /// As [`KvCache::decode_step`]. [`KvError::PromptDone`] for more rows than one of a request whose prompt is there, [`KvError::Length`] for
    /// more rows than are missing and for none. No token was touched; requests that were granted pages keep them for the next try.
    pub fn begin(&mut self, parts: &[StepPart]) -> Result<StepId, KvError> {
        let step = self.open_step(parts)?;
        let id = step.id;
        self.open = Some(step);
        Ok(id)
    }

    /// Does the next layer of a step: inserts the new tokens, attends from every row to what its request holds up to that row, and writes the output, `[rows, query_heads,
    /// head_dim]` of type [`CacheConfig::output`](super::CacheConfig::output), to `out`.
    ///
    /// # Errors
    /// [`KvError::NoStep`] for a step that was ended or given up, [`KvError::Length`] for another layer than the next one and for buffers that are too short,
    /// [`KvError::Input`] and [`KvError::Output`] for other element types, [`DeviceError::WrongDevice`] for buffers of another device, all with nothing changed; what the launches say, after which the cache is poisoned.
    pub fn layer<E: InputElement, O: InputElement>(
        &mut self,
        step: StepId,
        layer: usize,
        input: LayerInput<'_, E>,
        out: RowsMut<'_, O>,
    ) -> Result<(), KvError> {
        let mut open = self.take_step(step)?;
        let done = self.checked_layer(&mut open, layer, &input, out);
        self.open = Some(open);
        done
    }

    fn checked_layer<E: InputElement, O: InputElement>(
        &mut self,
        step: &mut Step,
        layer: usize,
        input: &LayerInput<'_, E>,
        out: RowsMut<'_, O>,
    ) -> Result<(), KvError> {
        if layer != step.next && step.next < self.config.layers {
            return Err(KvError::Length {
                what: "the number of the next layer",
                expected: step.next,
                got: layer,
            });
        }
        if O::INPUT != self.config.output {
            return Err(KvError::Output { expected: self.config.output, got: O::INPUT });
        }
        let row = self.config.query_heads() * self.config.head_dim;
        out.check("out [rows, query_heads, head_dim]", step.rows, row)?;
        if !out.view.allocation.device.same_as(self.manager.state().device()) {
            return Err(DeviceError::WrongDevice { what: "out [rows, query_heads, head_dim]" }.into());
        }
        self.step_through(step, input)?;
        let result = self.give(layer, step.rows, out);
        self.remember(result)
    }

    /// Ends a step after all its layers: sequences are longer by its rows. Where chunks of prompts end, thresholds are solved for requests that have a budget, what was cached before is
    /// classified again in all layers, and pages that are not needed go back.
    ///
    /// # Errors
    /// [`KvError::NoStep`]; [`KvError::Length`] when layers are missing: the step goes on. [`KvError::OverBudget`] when window and sinks of all that share a
    /// budget pass it: those whose chunks end here can then only be freed, the others have taken their step. What the launches say.
    pub fn finish(&mut self, step: StepId) -> Result<(), KvError> {
        let open = self.take_step(step)?;
        if open.next == self.config.layers {
            return self.close_step(&open);
        }
        let early = self.finish_of(&open);
        self.open = Some(open);
        early
    }

    fn take_step(&mut self, id: StepId) -> Result<Step, KvError> {
        self.open.take_if(|step| step.id == id).ok_or(KvError::NoStep)
    }

    pub(super) fn open_step(&mut self, parts: &[StepPart]) -> Result<Step, KvError> {
        self.alive()?;
        self.open = None;
        static STEPS: AtomicU64 = AtomicU64::new(0);
        let id = StepId(STEPS.fetch_add(1, Ordering::Relaxed));
        let (requests, runs) = (parts.iter().map(|part| part.request).collect(), Vec::new());
        let mut step = Step { id, requests, rows: 0, decodes: Vec::new(), runs, pieces: Vec::new(), next: 0 };
        let mut places = Vec::new();
        for (number, &StepPart { request: id, rows }) in parts.iter().enumerate() {
            let request = self.whole(id)?;
            if parts[..number].iter().any(|part| part.request == id) {
                return Err(KvError::SlotTwice { slot: request.slot });
            }
            let left = request.prompt - request.seen().min(request.prompt);
            match (left, rows) {
                (_, 0) => {
                    return Err(KvError::Length {
                        what: "rows of a request in a step, at least",
                        expected: 1,
                        got: 0,
                    });
                }
                (0, 1) => {
                    step.decodes.push(id);
                    places.push(step.rows);
                }
                (0, _) => return Err(KvError::PromptDone { id }),
                _ if rows > left => {
                    let what = "rows of a piece of a prompt, at most those that are missing";
                    return Err(KvError::Length { what, expected: left, got: rows });
                }
                _ => step.pieces.extend(self.pieces(request, step.rows, rows)),
            }
            step.rows += rows;
        }
        let alone = parts.len() == step.decodes.len()
            || matches!(&*step.pieces, [piece] if piece.is_whole() && parts.len() == 1);
        if !alone && !self.config.head_dim.is_multiple_of(8) {
            // Rows in the middle of a tensor are read in vectors.
            let why = format!(
                "steps of prompts beside others, or of pieces of chunks, and vectors of {} elements; take a multiple of 8",
                self.config.head_dim
            );
            return Err(KvError::Shape { why });
        }
        self.make_rows(step.rows)?;
        for piece in step.pieces.iter().filter(|piece| !piece.is_whole()) {
            self.make_waiting(piece.id)?;
        }
        step.runs = self.plan(&step.decodes, &places)?;
        self.take_chunk_pages(&step.pieces)?;
        Ok(step)
    }

    /// A request's next tokens in pieces of one chunk each.
    fn pieces(&self, request: &Request, at: usize, rows: usize) -> Vec<Piece> {
        let (mut start, mut before, mut pieces) = (request.tokens, request.waiting, Vec::new());
        let mut done = 0;
        while done < rows {
            let chunk = self.config.chunk.min(request.prompt - start);
            let n = (chunk - before).min(rows - done);
            pieces.push(Piece { id: request.id, at: at + done, rows: n, start, before, chunk });
            (start, before, done) = (start + chunk, 0, done + n);
        }
        pieces
    }

    /// Takes pages for the worst case of chunks that end: all of their tokens high, or all of them low; and where a budget is solved for then, all low that is cached.
    fn take_chunk_pages(&mut self, pieces: &[Piece]) -> Result<(), KvError> {
        for of_request in pieces.chunk_by(|a, b| a.id == b.id) {
            let tokens: usize = of_request.iter().filter(|p| p.ends_chunk()).map(|piece| piece.chunk).sum();
            if tokens == 0 {
                continue;
            }
            let slot = of_request[0].id.slot;
            self.free_floor = 0;
            let demotes = self.request(of_request[0].id)?.budget != Budget::None;
            let more = More { high: tokens, low: tokens, demotes };
            // SAFETY: it is the slot of a request that is here.
            unsafe { self.manager.queue_fit(self.numbers.slice(slot..slot + 1)?, more) }?;
            let answers = self.manager.answers(1)?;
            self.ask_free();
            for answer in answers {
                answer?;
            }
        }
        Ok(())
    }

    /// Checks the rows of the next layer and does it. What it gives is in `outputs.attended`.
    pub(super) fn step_through<E: InputElement>(
        &mut self,
        step: &mut Step,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        self.alive()?;
        let layers = self.config.layers;
        if step.next == layers {
            return Err(KvError::Length { what: "layers of a step", expected: layers, got: layers + 1 });
        }
        self.check_input(step.rows, input)?;
        if step.rows > 0 {
            if step.next == 0 {
                self.mark(&step.requests, true);
            }
            let result = self.in_basis(step, step.next, input);
            self.remember(result)?;
        }
        step.next += 1;
        Ok(())
    }

    /// One layer of all parts of a step, in the basis of the cache.
    pub(super) fn attend<E: InputElement>(
        &mut self,
        step: &Step,
        layer: usize,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        step.runs.iter().try_for_each(|run| self.step_layer(run, layer, input))?;
        step.pieces.iter().try_for_each(|piece| self.piece_layer(piece, layer, input))
    }

    pub(super) fn close_step(&mut self, step: &Step) -> Result<(), KvError> {
        self.alive()?;
        self.advance(step.decodes.len())?;
        self.mark(&step.decodes, false);
        self.advanced(&step.decodes);
        let mut first = Ok(());
        for of_request in step.pieces.chunk_by(|a, b| a.id == b.id) {
            let id = of_request[0].id;
            let mut request = self.request(id)?.clone();
            for piece in of_request {
                match piece.ends_chunk() {
                    true => (request.tokens, request.waiting) = (request.tokens + piece.chunk, 0),
                    false => request.waiting = piece.there(),
                }
            }
            let (tokens, waiting) = (request.tokens, request.waiting);
            if of_request.iter().any(Piece::ends_chunk) {
                match self.compact(vec![Request { waiting: 0, ..request }], Room::Held) {
                    Err(error @ KvError::OverBudget { .. }) => {
                        first = first.and(Err(error));
                        continue;
                    }
                    done => done?,
                }
            }
            if let Some(request) = &mut self.slots[id.slot] {
                (request.tokens, request.waiting, request.torn) = (tokens, waiting, false);
            }
            if waiting == 0 {
                self.put_waiting_by(id);
            }
        }
        first
    }

    /// Whether requests are in the middle of something.
    fn mark(&mut self, requests: &[RequestId], torn: bool) {
        for id in requests {
            if let Some(request) = &mut self.slots[id.slot] {
                request.torn = torn;
            }
        }
    }
}
