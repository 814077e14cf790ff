//! Budgets of bytes: thresholds that are solved for.

use leankv_kernels::budget::Ladder;

use super::batch::Run;
use super::kernels::GAP;
use super::request::Request;
use super::{Budget, KvCache, RequestId};
use crate::device::{Device, DeviceBuffer, DeviceError};
use crate::kv::{CacheShape, KvError, PageManager};
use crate::launch::Launch;

/// Device buffers of what is solved, for as many requests as there are slots.
#[derive(Debug)]
pub(super) struct BudgetScratch {
    slots: DeviceBuffer<i32>,
    tokens: DeviceBuffer<i32>,
    prompts: DeviceBuffer<i32>,
    ahead: DeviceBuffer<i32>,
    gaps: DeviceBuffer<i32>,
    tally: DeviceBuffer<i32>,
    prices: DeviceBuffer<i64>,
    groups: DeviceBuffer<i32>,
    budgets: DeviceBuffer<i64>,
    pages: DeviceBuffer<i32>,
}

impl BudgetScratch {
    pub(super) fn new(device: &Device, shape: &CacheShape) -> Result<BudgetScratch, DeviceError> {
        let slots = shape.slots;
        Ok(BudgetScratch {
            slots: device.zeros(slots)?,
            tokens: device.zeros(slots)?,
            prompts: device.zeros(slots)?,
            ahead: device.zeros(slots)?,
            gaps: device.zeros(slots)?,
            tally: device.zeros(slots * shape.lists() * 2 * Ladder::RUNGS)?,
            prices: device.zeros(slots * Ladder::RUNGS)?,
            groups: device.zeros(slots * 2)?,
            budgets: device.zeros(slots)?,
            pages: device.zeros(slots)?,
        })
    }
}

/// Requests whose thresholds are solved for, as the device gets them. Those with a budget of their own come first, each a group; those
/// that share one are the last group.
#[derive(Debug, Default)]
struct Rows {
    slots: Vec<i32>,
    tokens: Vec<i32>,
    prompts: Vec<i32>,
    ahead: Vec<i32>,
    gaps: Vec<i32>,
    tierings: Vec<usize>,
    /// The first of a group, and how many there are.
    groups: Vec<i32>,
    budgets: Vec<i64>,
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

    /// Solves for the thresholds of those requests of a step whose budget is due. Three launches and no answer.
    pub(super) fn solve_due(&mut self, requests: &[RequestId]) -> Result<(), KvError> {
        let every = self.config.solve_every;
        let due = |request: &Request| {
            request.budget != Budget::None && request.solved.is_none_or(|at| request.tokens >= at + every)
        };
        let here = requests.iter().filter_map(|id| self.slots[id.slot].as_ref());
        let due: Vec<Request> = here.filter(|request| due(request)).cloned().collect();
        self.solve(due)
    }

    /// Solves for the thresholds of a request that has a budget and now so many tokens.
    pub(super) fn solve_at(&mut self, slot: usize, tokens: usize) -> Result<(), KvError> {
        let request = self.slots[slot].clone().filter(|request| request.budget != Budget::None);
        self.solve(request.into_iter().map(|request| Request { tokens, ..request }).collect())
    }

    /// Solves for the thresholds of requests, and of all that share a budget with one of them.
    fn solve(&mut self, mut due: Vec<Request>) -> Result<(), KvError> {
        if due.is_empty() {
            return Ok(());
        }
        if due.iter().any(|request| request.budget == Budget::Shared) {
            let others = self.slots.iter().flatten().filter(|request| request.budget == Budget::Shared);
            let others: Vec<Request> = others
                .filter(|other| due.iter().all(|request| request.slot != other.slot))
                .cloned()
                .collect();
            due.extend(others);
        }
        due.sort_by_key(|request| (request.budget == Budget::Shared, request.tiering));
        let rows = self.rows(&due);
        let result = self.launch_solve(&rows);
        self.remember(result)?;
        for request in due {
            if let Some(here) = &mut self.slots[request.slot] {
                here.solved = Some(request.tokens);
            }
        }
        Ok(())
    }

    /// What the device is told of these requests, which are in order.
    fn rows(&self, due: &[Request]) -> Rows {
        let low: Vec<bool> = self.config.tierings().map(|tiering| tiering.low.is_some()).collect();
        let mut rows = Rows::default();
        for (row, request) in due.iter().enumerate() {
            rows.slots.push(request.slot as i32);
            rows.tokens.push(request.tokens as i32);
            rows.prompts.push(request.prompt as i32);
            // Another chunk takes what it needs and solves again.
            let decodes = request.tokens >= request.prompt;
            rows.ahead.push(if decodes { self.config.solve_every as i32 } else { 0 });
            rows.gaps.push(if low[request.tiering] { GAP } else { 0 });
            rows.tierings.push(request.tiering);
            let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
            let budget = match request.budget {
                // Thresholds stay.
                Budget::None => -1,
                Budget::Bytes(n) => bytes(n),
                Budget::Part(part) => {
                    let whole = self.config.fp16_bytes(request.tokens.max(request.prompt));
                    (whole as f64 / f64::from(part)).max(0.0) as i64
                }
                Budget::Shared => {
                    bytes(self.config.shared_budget.unwrap_or(self.manager.shape().arena_bytes()))
                }
            };
            match (request.budget, rows.groups.last_mut()) {
                (Budget::Shared, Some(count)) if row > 0 && due[row - 1].budget == Budget::Shared => {
                    *count += 1
                }
                _ => {
                    rows.groups.extend([row as i32, 1]);
                    rows.budgets.push(budget);
                }
            }
        }
        rows
    }

    fn launch_solve(&mut self, rows: &Rows) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let (slots, layers, heads, rungs) = (shape.slots, shape.layers, shape.kv_heads, Ladder::RUNGS);
        let (state, scratch) = (self.manager.state_mut(), &mut self.budget);
        let (n, groups) = (rows.slots.len(), rows.budgets.len());
        scratch.slots.write_at(0, &rows.slots)?;
        scratch.tokens.write_at(0, &rows.tokens)?;
        scratch.prompts.write_at(0, &rows.prompts)?;
        scratch.ahead.write_at(0, &rows.ahead)?;
        scratch.gaps.write_at(0, &rows.gaps)?;
        scratch.groups.write_at(0, &rows.groups)?;
        scratch.budgets.write_at(0, &rows.budgets)?;
        let (table, lengths) = ([slots, layers, heads, shape.table_len], [slots, layers, heads, 4]);
        for Run { tiering, rows: of } in Run::of(rows.tierings.iter().copied()) {
            let (kernels, n) = (&self.kernels.tierings[tiering], of.len());
            let part = |each: usize| of.start * each..of.end * each;
            let (each, extents) = (layers * heads * 2 * rungs, [n, layers, heads, 2, rungs]);
            let tally = kernels.tally.launch((heads as u32, layers as u32, n as u32));
            let tally = tally.view("tokens", scratch.tokens.slice(part(1))?, &[n]);
            let tally = tally.view("prompts", scratch.prompts.slice(part(1))?, &[n]);
            let tally = tally.buffer_mut("kv.arena", &mut state.arena);
            let tally = tally.view("kv.slots", scratch.slots.slice(part(1))?, &[n]);
            let tally =
                tally.view("kv.table", &state.table, &table).view("kv.lengths", &state.lengths, &lengths);
            run(tally.view_mut("tally", scratch.tally.slice_mut(part(each))?, &extents))?;

            let price = kernels.price.launch(n as u32);
            let price = price.view("tally", scratch.tally.slice(part(each))?, &extents);
            let price = price.view("ahead", scratch.ahead.slice(part(1))?, &[n]);
            run(price.view_mut("prices", scratch.prices.slice_mut(part(rungs))?, &[n, rungs]))?;
        }
        let solve = self.kernels.solve.launch(groups as u32);
        let solve = solve.view("slots", scratch.slots.slice(..n)?, &[n]);
        let solve = solve.view("gaps", scratch.gaps.slice(..n)?, &[n]);
        let solve = solve.view("prices", scratch.prices.slice(..n * rungs)?, &[n, rungs]);
        let solve = solve.view("groups", scratch.groups.slice(..groups * 2)?, &[groups, 2]);
        let solve = solve.view("budgets", scratch.budgets.slice(..groups)?, &[groups]);
        let solve = solve.view_mut("thresholds", &mut state.thresholds, &[slots, layers, heads, 2]);
        run(solve.view_mut("pages", scratch.pages.slice_mut(..groups)?, &[groups]))
    }
}

fn run(launch: Launch<'_>) -> Result<(), KvError> {
    // SAFETY: kernels find pages by tables and lengths that the page manager and the step and chunk kernels keep.
    Ok(unsafe { launch.run() }?)
}
