//! The cache as an engine uses it: requests come, take decode steps, fork, and go.
//!
//! ```text
//! admit -> prefill_chunk (one layer after another, finish) ... -> decode_step (one layer after another, finish) ... -> free
//!                                                            \-> fork -> ...
//! ```
//!
//! A chunk of a prompt takes pages for its worst case before any token is touched, and gives back what its tokens do not need. A decode
//! step plans for all layers and KV heads at once and takes the pages it needs. When there are too few, it is [`OutOfPages`](super::OutOfPages): no token
//! was touched, and requests of the batch that were granted keep their pages for the next try. Then each layer's keys and values are inserted and attended to. What one
//! request gets depends on its own tokens alone: not on the others of its batch, nor on its slot, nor on which pages it holds; only a budget
//! that it shares depends on those who share it.
//!
//! An engine whose batches mix decodes with pieces of prompts takes both in one step, without a borrow of the cache in between:
//! [`KvCache::begin`], [`KvCache::layer`] for one layer after another, [`KvCache::finish`].

mod basis;
mod batch;
mod bound;
mod chunk;
mod compact;
mod config;
mod formats;
mod input;
mod kernels;
mod launch;
mod layer;
mod mixed;
mod output;
mod parts;
mod pending;
mod request;
mod shortlist;
mod stats;
mod step;
mod thresholds;
mod waiting;

pub use basis::{Basis, Means};
pub use chunk::PromptChunk;
pub use config::CacheConfig;
pub use input::{InputElement, LayerInput, Rows, RowsMut};
pub use kernels::EngineKernels;
pub use mixed::{StepId, StepPart};
pub use request::RequestId;
pub use stats::{HeadStats, RequestStats};
pub use step::DecodeStep;
pub use thresholds::{Budget, Thresholds};

use std::sync::atomic::{AtomicU64, Ordering};

use leankv_dsl::format::LayerFormats;
use leankv_dsl::lang::attention::{Lengths, PerTier};

use self::basis::BasisScratch;
use self::batch::{Batch, Run};
use self::chunk::ChunkScratch;
use self::compact::CompactScratch;
use self::formats::AllFormats;
use self::mixed::Step;
use self::output::Outputs;
use self::parts::Parts;
use self::pending::Pending;
use self::request::Request;
use self::shortlist::Shortlist;
use self::waiting::Waiting;
use super::audit::audit_owners;
use super::state::of_slot;
use super::{DeviceManager, Finding, KvError, OutOfPages, PageManager, PageState, Refused, State, audit};
use crate::compiler::Compiler;
use crate::device::{Device, DeviceBuffer};

/// Keys and values of many requests, compressed, on one device.
#[derive(Debug)]
pub struct KvCache {
    config: CacheConfig,
    kernels: EngineKernels,
    manager: DeviceManager,
    slots: Vec<Option<Request>>,
    /// Tells this cache's handles from those of others.
    number: u64,
    /// Counts requests, so that a handle of one that ended is told from that of another in its slot.
    admitted: u64,
    /// Pages that are surely free.
    free_floor: usize,
    scratch: Scratch,
    pending: Pending,
    shortlist: Shortlist,
    chunk: ChunkScratch,
    /// `0..slots`, of which launches over one request are given one.
    numbers: DeviceBuffer<i32>,
    basis: BasisScratch,
    outputs: Outputs,
    /// Tokens of chunks that have not ended, by slot.
    waiting: Vec<Option<Waiting>>,
    /// Room for those of another request.
    spare: Option<Waiting>,
    /// The step that was begun last, until it is ended or given up.
    open: Option<Step>,
    /// What peaks start from where nothing else is given, `[layers, kv_heads]`; empty where none are kept.
    priors: DeviceBuffer<f32>,
    compact: CompactScratch,
    formats: AllFormats,
    poisoned: Option<String>,
}

/// Device buffers of a step, for as many requests as there are slots.
#[derive(Debug)]
struct Scratch {
    slots: DeviceBuffer<i32>,
    positions: DeviceBuffer<i32>,
    prompts: DeviceBuffer<i32>,
    /// What the three above hold, where that is known.
    batch: Option<Batch>,
    plan: DeviceBuffer<i32>,
    /// One layer's rows of the plan, for a launch.
    target: DeviceBuffer<i32>,
    parts: Parts,
    lse: DeviceBuffer<f32>,
}

/// What is done about a shortage of pages: the hook is told how many are missing and which requests run, and names one to be given up.
pub type Preempt<'a> = dyn FnMut(OutOfPages, &[RequestId]) -> Option<RequestId> + 'a;

impl KvCache {
    /// An empty cache on `device`.
    ///
    /// # Errors
    /// [`KvError::Shape`] for a configuration that cannot be, [`KvError::Compile`], and what the device says when it has no room.
    pub fn new(compiler: &Compiler, device: &Device, config: CacheConfig) -> Result<KvCache, KvError> {
        let kernels = EngineKernels::new(compiler, device, &config)?;
        KvCache::with_kernels(device, config, kernels)
    }

    /// As [`KvCache::new`], with kernels that were compiled for this configuration already. How much the cache holds may differ: layers, KV
    /// heads, pages, slots, the longest sequence.
    ///
    /// # Errors
    /// As [`KvCache::new`], [`KvError::OtherKernels`] for kernels of another configuration or device, and [`KvError::Launch`] where codecs, hooks or a
    /// policy give something for a layer that their parameters do not take.
    pub fn with_kernels(
        device: &Device,
        config: CacheConfig,
        kernels: EngineKernels,
    ) -> Result<KvCache, KvError> {
        let (shape, _) = config.check_room(device)?;
        KvCache::over(device, config, kernels, State::new(device, shape)?)
    }

    /// As [`KvCache::with_kernels`], with its pages in memory of the caller's: [`CacheConfig::pages`] of them, of [`CacheConfig::page_bytes`] each. What the memory
    /// holds does not matter.
    ///
    /// # Errors
    /// As [`KvCache::with_kernels`], and what [`State::over`] says of the arena.
    pub fn with_arena(
        device: &Device,
        config: CacheConfig,
        kernels: EngineKernels,
        arena: DeviceBuffer<u8>,
    ) -> Result<KvCache, KvError> {
        let (shape, _) = config.check_room(device)?;
        KvCache::over(device, config, kernels, State::over(device, shape, arena)?)
    }

    fn over(
        device: &Device,
        config: CacheConfig,
        kernels: EngineKernels,
        state: State,
    ) -> Result<KvCache, KvError> {
        let (shape, splits) = config.check_room(device)?;
        kernels.check(device, &config)?;
        let formats = AllFormats::new(device, &config)?;
        let manager = DeviceManager::over(kernels.manager.clone(), state)?;
        let (slots, lists) = (shape.slots, shape.lists());
        let queries = slots * config.query_heads();
        let scratch = Scratch {
            slots: device.zeros(slots)?,
            positions: device.zeros(slots)?,
            prompts: device.zeros(slots)?,
            batch: None,
            plan: device.zeros(slots * lists * leankv_kernels::step::StepPlan::COLUMNS)?,
            target: device.zeros(slots * lists * PerTier::COLUMNS)?,
            parts: Parts::new(device, &config, slots, splits)?,
            lse: device.zeros(queries)?,
        };
        let pending = Pending::new(device, &config, slots)?;
        let shortlist = Shortlist::new(device, &config, slots)?;
        let (rows, n) = (config.query_heads(), config.chunk);
        let chunk = ChunkScratch {
            lse: device.zeros(n * rows)?,
            words: device.zeros(config.kv_heads * n)?,
            dest: device.zeros(config.kv_heads * n)?,
        };
        // A step of one prompt's chunk, or one of all requests; larger ones make room.
        let most = slots.max(n);
        let (basis, outputs) =
            (BasisScratch::new(device, &config, most)?, Outputs::new(device, &config, most)?);
        let numbers: Vec<i32> = (0..slots as i32).collect();
        let numbers = device.upload(&numbers)?;
        let priors = match (config.peaks, config.priors.is_empty()) {
            (0, _) => device.zeros(0)?,
            (_, true) => device.zeros(config.lists())?,
            (_, false) => device.upload(&config.priors)?,
        };
        let compact = CompactScratch::new(device, &shape)?;
        static CACHES: AtomicU64 = AtomicU64::new(0);
        let free_floor = shape.pages;
        let waiting = (0..slots).map(|_| None).collect();
        let slots = (0..slots).map(|_| None).collect();
        Ok(KvCache {
            config,
            kernels,
            manager,
            slots,
            number: CACHES.fetch_add(1, Ordering::Relaxed),
            admitted: 0,
            free_floor,
            scratch,
            pending,
            shortlist,
            chunk,
            numbers,
            basis,
            outputs,
            waiting,
            spare: None,
            open: None,
            priors,
            compact,
            formats,
            poisoned: None,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The kernels.
    pub fn kernels(&self) -> &EngineKernels {
        &self.kernels
    }

    /// The page manager and its buffers, to look at.
    pub fn manager(&self) -> &DeviceManager {
        &self.manager
    }

    /// Takes a request in whose prompt has `prompt` tokens, which come in chunks before its first decode step. It holds no page until then. Its
    /// formats are those of [`CacheConfig::formats`].
    ///
    /// # Errors
    /// As [`KvCache::admit_as`].
    pub fn admit(&mut self, prompt: usize, thresholds: &Thresholds) -> Result<RequestId, KvError> {
        let formats = self.config.formats.clone();
        self.admit_as(&formats, prompt, thresholds)
    }

    /// As [`KvCache::admit`], in formats of its own: one of [`CacheConfig::all_formats`]. Requests of all formats share the arena, and may be in one
    /// batch; launches are fewest when those of the same formats stand side by side in it.
    ///
    /// # Errors
    /// [`KvError::NoFormats`] for formats that the cache was not made for, [`KvError::OverBudget`] for fewer bytes than no threshold can take away,
    /// [`KvError::NoSlotFree`] when all slots are taken, [`KvError::Length`] for a prompt longer than the longest sequence, what
    /// [`Thresholds::check`] says, [`Refused::OutOfPages`] when the first chunk, or the first token where there is no prompt, might
    /// not find room, and what the device says.
    pub fn admit_as(
        &mut self,
        formats: &LayerFormats,
        prompt: usize,
        thresholds: &Thresholds,
    ) -> Result<RequestId, KvError> {
        self.alive()?;
        let Some(number) = self.config.all_formats().position(|known| known == formats) else {
            let known = self.config.all_formats().map(LayerFormats::to_string).collect::<Vec<_>>().join(", ");
            return Err(KvError::NoFormats { asked: formats.to_string(), known });
        };
        if prompt > self.config.max_tokens {
            let (what, expected) = ("tokens of a prompt, at most", self.config.max_tokens);
            return Err(KvError::Length { what, expected, got: prompt });
        }
        thresholds.check(&self.config, formats)?;
        let numbers = thresholds.expand(&self.config);
        if let Budget::Bytes(bytes) = thresholds.budget {
            let need = self.config.least_bytes(formats)?;
            if need > bytes {
                return Err(KvError::OverBudget { need, bytes });
            }
        }
        let slot = self.free_slot()?;
        let first = prompt.min(self.config.chunk).max(1);
        let of_request = self.formats.of(number);
        let low = if prompt > 0 { first } else { 0 };
        let need = self.config.pages_of(formats, [first, low])?;
        if self.free_floor < need {
            self.free_floor = self.manager.free_pages()?;
        }
        if self.free_floor < need {
            return Err(Refused::OutOfPages(OutOfPages { need, free: self.free_floor }).into());
        }
        self.manager.state_for_kernels().thresholds.write_at(slot * numbers.len(), &numbers)?;
        self.manager.set_page_tokens_of_empty(slot, &of_request.page_tokens)?;
        self.pending.clear(slot)?;
        self.shortlist.clear(slot)?;
        Ok(self.occupy(slot, |id| Request {
            id,
            slot,
            tokens: 0,
            waiting: 0,
            prompt,
            formats: number,
            budget: thresholds.budget,
            solved: Some(0),
            forked: false,
            torn: false,
        }))
    }

    /// Starts the next chunk of a request's prompt, of [`CacheConfig::chunk`] tokens or what is left.
    ///
    /// # Errors
    /// [`Refused::OutOfPages`] when there are too few pages for its worst case: no token was touched, and it can be tried again.
    /// [`KvError::PromptDone`] when there is no chunk left; the rest as [`KvCache::decode_step`].
    pub fn prefill_chunk(&mut self, id: RequestId) -> Result<PromptChunk<'_>, KvError> {
        PromptChunk::begin(self, id)
    }

    /// A request that goes on from what `parent` holds. Full pages are shared and frozen for both, partly filled ones are copied.
    ///
    /// Only who has a request's handle can share its prefix: nothing is shared by content, so no tenant sees what another one cached.
    ///
    /// # Errors
    /// [`KvError::NoRequest`], [`KvError::Torn`], [`KvError::PromptPending`] in the middle of a chunk of a prompt, [`KvError::NoSlotFree`], and [`KvError::Refused`] when the copies find no room; then there is no
    /// child and the parent is as before.
    pub fn fork(&mut self, parent: RequestId) -> Result<RequestId, KvError> {
        self.alive()?;
        let request = self.whole(parent)?.clone();
        if request.waiting > 0 {
            return Err(KvError::PromptPending { id: parent, left: request.prompt - request.seen() });
        }
        let slot = self.free_slot()?;
        self.pending.copy(request.slot, slot)?;
        self.shortlist.clear(slot)?;
        self.free_floor = 0;
        let answers = self.manager.fork(&[(request.slot, slot)])?;
        self.ask_free();
        for answer in answers {
            answer?;
        }
        if let Some(parent) = &mut self.slots[request.slot] {
            parent.forked = true;
        }
        Ok(self.occupy(slot, |id| Request { id, slot, forked: true, ..request }))
    }

    /// Ends requests, all at once; also such that were left in the middle of a step. Their pages come back.
    ///
    /// # Errors
    /// [`KvError::NoRequest`] when one of them is none, with nothing changed, and what the device says.
    pub fn free(&mut self, requests: &[RequestId]) -> Result<(), KvError> {
        self.alive()?;
        let mut slots = Vec::with_capacity(requests.len());
        for &id in requests {
            let slot = self.request(id)?.slot;
            if slots.contains(&slot) {
                return Err(KvError::SlotTwice { slot });
            }
            slots.push(slot);
        }
        self.manager.free(&slots)?;
        for (slot, &id) in slots.into_iter().zip(requests) {
            self.slots[slot] = None;
            self.put_waiting_by(id);
        }
        Ok(())
    }

    /// Starts a decode step of one token for each request: plans it for all layers and KV heads, and takes the pages that it needs.
    ///
    /// # Errors
    /// [`Refused::OutOfPages`] when there are too few pages: no token was added, requests that were granted keep their pages, and the
    /// step can be tried again when others were freed. What a budget that was due has demoted or dropped by then stays so. [`KvError::OverBudget`]
    /// when window and sinks of all that share a budget pass it. [`KvError::NoRequest`], [`KvError::Torn`], [`KvError::PromptPending`], [`KvError::SlotTwice`] for a request named twice, [`KvError::Full`] for a sequence that
    /// has all the tokens it can have, [`KvError::Poisoned`], and what the device says.
    pub fn decode_step(&mut self, requests: &[RequestId]) -> Result<DecodeStep<'_>, KvError> {
        let step = self.open_decodes(requests)?;
        Ok(DecodeStep::new(self, step))
    }

    /// As [`KvCache::decode_step`]; as long as there are too few pages, `preempt` names a request that is freed. One of the batch is then left
    /// out of it: see [`DecodeStep::requests`].
    ///
    /// # Errors
    /// As [`KvCache::decode_step`], with [`Refused::OutOfPages`] when `preempt` names none.
    pub fn decode_step_or_preempt(
        &mut self,
        requests: &[RequestId],
        preempt: &mut Preempt<'_>,
    ) -> Result<DecodeStep<'_>, KvError> {
        let mut left = requests.to_vec();
        loop {
            let out = match self.open_decodes(&left) {
                Ok(step) => return Ok(DecodeStep::new(self, step)),
                Err(KvError::Refused(Refused::OutOfPages(out))) => out,
                // Requests that share a budget lack the pages by which they pass it.
                Err(KvError::OverBudget { need, bytes }) => {
                    OutOfPages { need: (need - bytes).div_ceil(self.config.page_bytes), free: 0 }
                }
                Err(error) => return Err(error),
            };
            let running = self.requests();
            let Some(victim) = preempt(out, &running) else {
                return Err(Refused::OutOfPages(out).into());
            };
            self.free(&[victim])?;
            left.retain(|&id| id != victim);
        }
    }

    /// The requests that are here, by slot.
    pub fn requests(&self) -> Vec<RequestId> {
        self.slots.iter().flatten().map(|request| request.id).collect()
    }

    /// Tokens of a request's sequence so far, kept or not.
    ///
    /// # Errors
    /// [`KvError::NoRequest`].
    pub fn tokens(&self, id: RequestId) -> Result<usize, KvError> {
        Ok(self.request(id)?.seen())
    }

    /// What a request holds, per layer and KV head, in true bytes.
    ///
    /// # Errors
    /// [`KvError::NoRequest`], and what the device says.
    pub fn stats(&self, id: RequestId) -> Result<RequestStats, KvError> {
        let request = self.request(id)?;
        let (state, shape) = (self.manager.state(), self.manager.shape());
        let lists = shape.lists();
        let lengths = of_slot(&state.lengths, request.slot, lists * Lengths::COLUMNS)?;
        let held = of_slot(&state.held, request.slot, lists * PerTier::COLUMNS)?;
        let of_request = self.formats.of(request.formats);
        let formats = (of_request.formats.clone(), &*of_request.page_tokens);
        let fp16_bytes = self.config.fp16_bytes(request.tokens);
        let mut stats = RequestStats::new(shape, formats, fp16_bytes, request.tokens, &lengths, &held);
        stats.asked_bytes = match request.budget {
            Budget::None | Budget::Shared => None,
            Budget::Bytes(bytes) => Some(bytes),
            Budget::Part(part) => Some(self.config.part_bytes(request.tokens.max(request.prompt), part)),
        };
        Ok(stats)
    }

    /// Counts everything again; empty when all is well. Slots without a request must hold nothing.
    ///
    /// # Errors
    /// What the device says.
    pub fn audit(&self) -> Result<Vec<Finding>, KvError> {
        let state = self.manager.snapshot()?;
        let mut findings = audit(&state);
        findings.extend(audit_owners(&state, |slot| self.slots[slot].is_some()));
        Ok(findings)
    }

    /// All but the arena, after the work queued so far.
    ///
    /// # Errors
    /// What the device says.
    pub fn dump(&self) -> Result<PageState, KvError> {
        self.manager.snapshot()
    }

    /// Overwrites the whole arena: to restore a cache, and for tests of what is read.
    ///
    /// # Errors
    /// What the device says, for more bytes than there are too.
    pub fn write_arena(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        // What was found among the tokens that were here is nothing of those that are here now.
        self.shortlist.clear_all()?;
        Ok(self.manager.state_for_kernels().arena.write(bytes)?)
    }

    /// Why nothing works any more, after a launch that failed.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref().or(self.manager.poisoned())
    }

    fn alive(&self) -> Result<(), KvError> {
        match self.poisoned() {
            Some(why) => Err(KvError::Poisoned { why: why.to_owned() }),
            None => Ok(()),
        }
    }

    /// After a failure in the middle of a step nothing is known of what the device holds.
    fn remember<T>(&mut self, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(KvError::Launch(error)) = &result {
            self.poisoned.get_or_insert_with(|| error.to_string());
        }
        result
    }

    /// Asks how many pages are free. What was done before is done; without an answer none is surely free, and the next step asks again.
    fn ask_free(&mut self) {
        self.free_floor = self.manager.free_pages().unwrap_or(0);
    }

    fn free_slot(&self) -> Result<usize, KvError> {
        self.slots.iter().position(Option::is_none).ok_or(KvError::NoSlotFree { slots: self.slots.len() })
    }

    fn occupy(&mut self, slot: usize, request: impl FnOnce(RequestId) -> Request) -> RequestId {
        self.admitted += 1;
        let id = RequestId { slot, number: self.admitted, cache: self.number };
        self.slots[slot] = Some(request(id));
        id
    }

    fn request(&self, id: RequestId) -> Result<&Request, KvError> {
        self.slots
            .get(id.slot)
            .and_then(Option::as_ref)
            .filter(|r| r.id == id)
            .ok_or(KvError::NoRequest { id })
    }

    /// A request that is not in the middle of a step.
    fn whole(&self, id: RequestId) -> Result<&Request, KvError> {
        let request = self.request(id)?;
        if request.torn { Err(KvError::Torn { id }) } else { Ok(request) }
    }

    /// A decode step of requests whose prompts are there.
    fn open_decodes(&mut self, requests: &[RequestId]) -> Result<Step, KvError> {
        self.batch(requests, None)?;
        let parts: Vec<StepPart> = requests.iter().map(|&request| StepPart { request, rows: 1 }).collect();
        self.open_step(&parts)
    }

    /// Checks a batch, plans its step, takes the pages. `places` says where the rows of each request lie in the step's tensors.
    fn plan(&mut self, requests: &[RequestId], places: &[usize]) -> Result<Vec<Run>, KvError> {
        let batch = self.batch(requests, Some(places))?;
        let runs = batch.runs.clone();
        if requests.is_empty() {
            return Ok(runs);
        }
        // A batch that goes on as it is lies on the device already.
        if self.scratch.batch.as_ref() != Some(&batch) {
            self.scratch.batch = None;
            self.scratch.slots.write(&batch.slots)?;
            self.scratch.positions.write(&batch.positions)?;
            self.scratch.prompts.write(&batch.prompts)?;
            self.scratch.batch = Some(batch);
        }
        self.solve_due(requests)?;
        let result = self.launch_plan(&runs, requests.len());
        self.remember(result)?;

        // A step takes at most one page for each list.
        let most = requests.len() * self.config.lists();
        if self.free_floor >= most {
            self.free_floor -= most;
            return Ok(runs);
        }
        self.free_floor = 0;
        let answers = self.manager.answers(requests.len())?;
        self.ask_free();
        // Requests that were granted keep what they took; the step that is tried again needs it.
        match short(answers)? {
            Some(out) => Err(Refused::OutOfPages(out).into()),
            None => Ok(runs),
        }
    }
}

/// What all the requests lack together, if any lacks pages.
fn short(answers: Vec<Result<(), Refused>>) -> Result<Option<OutOfPages>, KvError> {
    let mut short: Option<OutOfPages> = None;
    for answer in answers {
        match answer {
            Ok(()) => {}
            Err(Refused::OutOfPages(out)) => {
                short.get_or_insert(OutOfPages { need: 0, ..out }).need += out.need
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(short)
}

#[cfg(test)]
mod shortlist_tests;
#[cfg(test)]
mod tests;
