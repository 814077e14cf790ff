//! Reclassifying what is cached, after a chunk of a prompt and where a budget is due, by thresholds that are solved for if there is one.

use leankv_dsl::lang::attention::{ForLayer, LayeredKvArgs, LayeredKvMutArgs, Lengths};
use leankv_kernels::budget::{
    Ladder, LayerRungs, MakeRoomArgs, PriceTallyArgs, SolveBudgetArgs, TallyTokensArgs,
};
use leankv_kernels::chunk::RecompactArgs;

use super::batch::Run;
use super::formats::Band;
use super::launch::run;
use super::request::Request;
use super::{Budget, KvCache, RequestId, short};
use crate::device::{Device, DeviceBuffer, DeviceError};
use crate::kv::{CacheShape, KvError, More, PageManager, Refused};

/// Device buffers of what is solved and reclassified, for as many requests as there are slots.
#[derive(Debug)]
pub(super) struct CompactScratch {
    pub(super) slots: DeviceBuffer<i32>,
    pub(super) moving: DeviceBuffer<i32>,
    pub(super) tokens: DeviceBuffer<i32>,
    pub(super) prompts: DeviceBuffer<i32>,
    pub(super) ahead: DeviceBuffer<i32>,
    /// `[slots, layers, 2]`: rows of [`LayerRungs`].
    pub(super) stands: DeviceBuffer<i32>,
    pub(super) tally: DeviceBuffer<i32>,
    pub(super) prices: DeviceBuffer<i64>,
    pub(super) groups: DeviceBuffer<i32>,
    pub(super) budgets: DeviceBuffer<i64>,
    pub(super) pages: DeviceBuffer<i32>,
    pub(super) rungs: DeviceBuffer<i32>,
    pub(super) targets: DeviceBuffer<i32>,
}

impl CompactScratch {
    pub(super) fn new(device: &Device, shape: &CacheShape) -> Result<CompactScratch, DeviceError> {
        let slots = shape.slots;
        Ok(CompactScratch {
            slots: device.zeros(slots)?,
            moving: device.zeros(slots)?,
            tokens: device.zeros(slots)?,
            prompts: device.zeros(slots)?,
            ahead: device.zeros(slots)?,
            stands: device.zeros(slots * shape.layers * LayerRungs::COLUMNS)?,
            tally: device.zeros(slots * shape.lists() * 2 * Ladder::RUNGS)?,
            prices: device.zeros(slots * Ladder::RUNGS)?,
            groups: device.zeros(slots * 2)?,
            budgets: device.zeros(slots)?,
            pages: device.zeros(slots)?,
            rungs: device.zeros(slots)?,
            targets: device.zeros(slots * shape.lists() * 2)?,
        })
    }
}

/// Requests that are reclassified, as the device gets them. Those that share a budget are the last group, every other one is a group.
#[derive(Debug, Default)]
struct Rows {
    slots: Vec<i32>,
    /// The same slots of those that are reclassified now, -1 for those whose thresholds change alone.
    moving: Vec<i32>,
    tokens: Vec<i32>,
    prompts: Vec<i32>,
    ahead: Vec<i32>,
    /// `[rows, layers, 2]`.
    stands: Vec<i32>,
    formats: Vec<usize>,
    /// The first of a group, and how many there are.
    groups: Vec<i32>,
    budgets: Vec<i64>,
    /// Whether a group's budget is never passed. A part of FP16 may be, by what nothing can take away, and so may any budget of forks.
    bounds: Vec<bool>,
}

/// Where demoted tokens find room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// In the pages that there are, which have been taken before.
    Held,
    /// In as many pages as they need.
    Taken,
}

impl KvCache {
    /// Another number of bytes for all requests that share a budget: [`CacheConfig::shared_budget`](super::CacheConfig::shared_budget). It holds
    /// from their next step on.
    pub fn set_shared_budget(&mut self, bytes: Option<usize>) {
        self.config.shared_budget = bytes;
        for request in self.slots.iter_mut().flatten().filter(|request| request.budget == Budget::Shared) {
            request.solved = None;
        }
    }

    /// Solves again for those requests of a step whose budget is due, and reclassifies what they hold. Only this waits for the device in between steps:
    /// a request that lacks pages to demote to is [`OutOfPages`](crate::kv::OutOfPages), with no token touched.
    pub(super) fn solve_due(&mut self, requests: &[RequestId]) -> Result<(), KvError> {
        let mut due = Vec::new();
        for request in requests.iter().filter_map(|id| self.slots[id.slot].as_ref()) {
            let next = match request.solved {
                Some(at) => at + self.steps_between(request, at)?,
                None => 0,
            };
            if request.budget != Budget::None && request.tokens >= next {
                due.push(request.clone());
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        match self.compact(due.clone(), Room::Taken) {
            Err(KvError::Refused(Refused::OutOfPages(_))) if self.config.defer_demotion => {
                self.compact(due.clone(), Room::Held)?;
                for request in due {
                    if let Some(here) = &mut self.slots[request.slot] {
                        here.solved = None;
                    }
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Solves for the thresholds of requests that have a budget, and of all that share it with one of them; reclassifies by them what the former
    /// hold, and fits their pages to it.
    pub(super) fn compact(&mut self, mut rows: Vec<Request>, room: Room) -> Result<(), KvError> {
        let moving: Vec<usize> = rows.iter().map(|request| request.slot).collect();
        if rows.iter().any(|request| request.budget == Budget::Shared) {
            let shares = self.slots.iter().flatten().filter(|request| request.budget == Budget::Shared);
            let others = shares.filter(|other| rows.iter().all(|request| request.slot != other.slot));
            let others: Vec<Request> = others.cloned().collect();
            rows.extend(others);
        }
        rows.sort_by_key(|request| (request.budget == Budget::Shared, request.formats));
        let mut told = self.told(&rows)?;
        told.moving = told
            .slots
            .iter()
            .map(|&slot| if moving.contains(&(slot as usize)) { slot } else { -1 })
            .collect();
        self.free_floor = 0;
        let result = self.launch_solve(&told, room);
        self.remember(result)?;
        self.check_budgets(&told)?;
        if room == Room::Taken {
            let answers = self.manager.answers(rows.len())?;
            self.ask_free();
            // Those that were granted keep what they took; the step that is tried again needs it.
            if let Some(short) = short(answers)? {
                return Err(Refused::OutOfPages(short).into());
            }
        }
        let result = self.launch_recompact(&told);
        self.remember(result)?;
        // SAFETY: they are the slots of requests that are here, each once.
        unsafe { self.manager.queue_fit(self.compact.slots.slice(..rows.len())?, More::default()) }?;
        self.ask_free();
        for request in rows.into_iter().filter(|request| moving.contains(&request.slot)) {
            if let Some(here) = &mut self.slots[request.slot] {
                here.solved = Some(request.tokens);
            }
        }
        Ok(())
    }

    /// Steps of a request until its thresholds are solved for again, after it had so many tokens.
    fn steps_between(&self, request: &Request, tokens: usize) -> Result<usize, KvError> {
        self.config.steps_between(&self.formats.of(request.formats).formats, request.budget, tokens)
    }

    /// What the device is told of these requests, which are in order.
    fn told(&self, rows: &[Request]) -> Result<Rows, KvError> {
        let mut told = Rows::default();
        for (row, request) in rows.iter().enumerate() {
            told.slots.push(request.slot as i32);
            told.tokens.push(request.tokens as i32);
            told.prompts.push(request.prompt as i32);
            let ahead = self.steps_between(request, request.tokens)?;
            told.ahead.push(ahead as i32);
            told.formats.push(request.formats);
            let of_request = self.formats.of(request.formats);
            let formats = &of_request.formats;
            let tokens = request.tokens.max(request.prompt);
            let floor = self.config.demoted_bytes(formats, tokens.min(self.config.keep_tokens), ahead)?;
            let budget = match request.budget {
                Budget::None => None,
                Budget::Bytes(bytes) => Some(bytes),
                Budget::Part(part) => Some(self.config.part_bytes(tokens, part).max(floor)),
                Budget::Shared => {
                    Some(self.config.shared_budget.unwrap_or(self.manager.shape().arena_bytes()))
                }
            };
            // Nothing is dropped while there is room for all tokens, those that are not always high in the low tier of layers that have one.
            let demoted = self.config.demoted_bytes(formats, request.tokens, ahead)?;
            let all = request.budget != Budget::Shared && budget.is_some_and(|bytes| bytes >= demoted);
            for (layer, &stands) in of_request.stands.iter().enumerate() {
                let stands = match (formats.of(layer).low, all && formats.has_low()) {
                    (_, false) => stands,
                    (Some(_), true) => LayerRungs { gap: Ladder::LAST, ..stands },
                    (None, true) => LayerRungs { lift: -Ladder::LAST, ..stands },
                };
                told.stands.extend(stands.to_row());
            }
            // Thresholds stay where there is no budget.
            let budget = budget.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            match (request.budget, told.groups.last_mut()) {
                (Budget::Shared, Some(count)) if row > 0 && rows[row - 1].budget == Budget::Shared => {
                    *count += 1;
                    if let Some(bound) = told.bounds.last_mut() {
                        *bound &= !request.forked;
                    }
                }
                _ => {
                    told.groups.extend([row as i32, 1]);
                    told.budgets.push(budget);
                    told.bounds
                        .push(matches!(request.budget, Budget::Bytes(_) | Budget::Shared) && !request.forked);
                }
            }
        }
        Ok(told)
    }

    /// Refuses what was solved for where a bound is passed.
    fn check_budgets(&self, rows: &Rows) -> Result<(), KvError> {
        if !rows.bounds.contains(&true) {
            return Ok(());
        }
        let mut pages = vec![0; rows.budgets.len()];
        self.compact.pages.slice(..pages.len())?.read_into(&mut pages)?;
        for ((pages, &budget), &bound) in pages.into_iter().zip(&rows.budgets).zip(&rows.bounds) {
            let need = i64::from(pages) * self.config.page_bytes as i64;
            if bound && need > budget {
                return Err(KvError::OverBudget { need: need as usize, bytes: budget as usize });
            }
        }
        Ok(())
    }

    /// Sets the thresholds of those that have a budget, and with [`Room::Taken`] asks for the pages that demotion then needs.
    fn launch_solve(&mut self, rows: &Rows, room: Room) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let (slots, layers, heads, rungs) = (shape.slots, shape.layers, shape.kv_heads, Ladder::RUNGS);
        let (state, scratch) = (self.manager.state_for_kernels(), &mut self.compact);
        let (n, groups) = (rows.slots.len(), rows.budgets.len());
        scratch.slots.write_at(0, &rows.slots)?;
        scratch.moving.write_at(0, &rows.moving)?;
        scratch.tokens.write_at(0, &rows.tokens)?;
        scratch.prompts.write_at(0, &rows.prompts)?;
        if rows.budgets.iter().all(|&budget| budget < 0) {
            return Ok(());
        }
        scratch.ahead.write_at(0, &rows.ahead)?;
        scratch.stands.write_at(0, &rows.stands)?;
        scratch.groups.write_at(0, &rows.groups)?;
        scratch.budgets.write_at(0, &rows.budgets)?;
        let runs = Run::of(rows.formats.iter().copied().zip(0..));
        let columns = LayerRungs::COLUMNS;
        for (Run { rows: of, .. }, at, band) in self.formats.bands(&runs) {
            let (kernels, n) = (&self.kernels.tierings[band.tiering], of.len());
            let part = |each: usize| of.start * each..of.end * each;
            let (each, extents) = (layers * heads * 2 * rungs, [n, layers, heads, 2, rungs]);
            let args = TallyTokensArgs {
                layers: self.formats.numbers(band)?.tensor([band.layers.len()]),
                tokens: scratch.tokens.slice(part(1))?.tensor([n]),
                prompts: scratch.prompts.slice(part(1))?.tensor([n]),
                kv: LayeredKvArgs {
                    arena: (&mut state.arena).into(),
                    slots: scratch.slots.slice(part(1))?.tensor([n]),
                    table: state.table.tensor([slots, layers, heads, shape.table_len]),
                    lengths: state.lengths.tensor([slots, layers, heads, Lengths::COLUMNS]),
                },
                tally: scratch.tally.slice_mut(part(each))?.tensor(extents),
                codecs: ForLayer { choice: &self.config.codecs, layer: 0 },
            };
            run(kernels.tally.launch((heads as u32, band.layers.len() as u32, n as u32), args))?;

            let args = PriceTallyArgs {
                layers: self.formats.numbers(band)?.tensor([band.layers.len()]),
                more: i32::from(at > 0),
                tally: scratch.tally.slice(part(each))?.tensor(extents),
                ahead: scratch.ahead.slice(part(1))?.tensor([n]),
                stands: scratch.stands.slice(part(layers * columns))?.tensor([n, layers, columns]),
                prices: scratch.prices.slice_mut(part(rungs))?.tensor([n, rungs]),
                codecs: ForLayer { choice: &self.config.codecs, layer: 0 },
            };
            run(kernels.price.launch(n as u32, args))?;
        }
        let args = SolveBudgetArgs {
            slots: scratch.slots.slice(..n)?.tensor([n]),
            stands: scratch.stands.slice(..n * layers * columns)?.tensor([n, layers, columns]),
            prices: scratch.prices.slice(..n * rungs)?.tensor([n, rungs]),
            groups: scratch.groups.slice(..groups * 2)?.tensor([groups, 2]),
            budgets: scratch.budgets.slice(..groups)?.tensor([groups]),
            thresholds: state.thresholds.tensor_mut([slots, layers, heads, 2]),
            pages: scratch.pages.slice_mut(..groups)?.tensor([groups]),
            rungs: scratch.rungs.slice_mut(..n)?.tensor([n]),
        };
        run(self.kernels.solve.launch(groups as u32, args))?;

        for (Run { rows: of, .. }, _, band) in self.formats.bands(&runs) {
            let n = of.len();
            let part = |each: usize| of.start * each..of.end * each;
            let (each, extents) = (layers * heads * 2, [n, layers, heads, 2]);
            let args = MakeRoomArgs {
                layers: self.formats.numbers(band)?.tensor([band.layers.len()]),
                slots: scratch.slots.slice(part(1))?.tensor([n]),
                moving: scratch.moving.slice(part(1))?.tensor([n]),
                rungs: scratch.rungs.slice(part(1))?.tensor([n]),
                ahead: scratch.ahead.slice(part(1))?.tensor([n]),
                stands: scratch.stands.slice(part(layers * columns))?.tensor([n, layers, columns]),
                tally: scratch.tally.slice(part(each * rungs))?.tensor([n, layers, heads, 2, rungs]),
                held: state.held.tensor([slots, layers, heads, 2]),
                thresholds: state.thresholds.tensor_mut([slots, layers, heads, 2]),
                targets: scratch.targets.slice_mut(part(each))?.tensor(extents),
                codecs: ForLayer { choice: &self.config.codecs, layer: 0 },
            };
            let grid = (heads as u32, band.layers.len() as u32, n as u32);
            run(self.kernels.tierings[band.tiering].room.launch(grid, args))?;
        }
        if room == Room::Held {
            return Ok(());
        }
        let targets = self.compact.targets.slice(..n * layers * heads * 2)?;
        // SAFETY: they are the slots of requests that are here, each once.
        unsafe { self.manager.queue(self.compact.slots.slice(..n)?, targets) }
    }

    /// Classifies again what those hold that are reclassified.
    fn launch_recompact(&mut self, rows: &Rows) -> Result<(), KvError> {
        (0..rows.slots.len())
            .filter(|&row| rows.moving[row] >= 0)
            .try_for_each(|row| self.launch_recompact_row(rows, row))
    }

    /// One of them, in all layers.
    fn launch_recompact_row(&mut self, rows: &Rows, row: usize) -> Result<(), KvError> {
        let bands = &self.formats.of(rows.formats[row]).bands;
        // A launch takes the codecs' parameters of one layer.
        let bands: Vec<Band> = match self.config.codecs.is_stock() {
            true => bands.clone(),
            false => bands.iter().flat_map(Band::single).collect(),
        };
        bands.iter().try_for_each(|band| self.launch_recompact_band(rows, row, band))
    }

    fn launch_recompact_band(&mut self, rows: &Rows, row: usize, band: &Band) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let extents = |columns: usize| [shape.slots, shape.layers, shape.kv_heads, columns];
        let (state, scratch, config) = (self.manager.state_for_kernels(), &self.compact, &self.config);
        let args = RecompactArgs {
            tokens: rows.tokens[row],
            prompt: rows.prompts[row],
            layers: self.formats.numbers(band)?.tensor([band.layers.len()]),
            thresholds: state.thresholds.tensor(extents(2)),
            held: state.held.tensor(extents(2)),
            kv: LayeredKvMutArgs {
                arena: (&mut state.arena).into(),
                slots: scratch.slots.slice(row..row + 1)?.tensor([1]),
                table: state.table.tensor(extents(shape.table_len)),
                lengths: state.lengths.tensor_mut(extents(Lengths::COLUMNS)),
            },
            codecs: ForLayer { choice: &config.codecs, layer: band.layers[0] },
            policies: &config.policy,
        };
        let grid = (shape.kv_heads as u32, band.layers.len() as u32);
        run(self.kernels.tierings[band.tiering].recompact.launch(grid, args))
    }
}
