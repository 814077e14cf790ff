//! The launches of a decode step.

use leankv_dsl::lang::attention::{ForLayer, LayeredKvArgs, Lengths, PagedKvArgs, PagedKvMutArgs};
use leankv_dsl::lang::launch::Tensor;
use leankv_kernels::candidates::LookingArgs;
use leankv_kernels::decode::{DecodeAttentionArgs, MergeSplitsArgs};
use leankv_kernels::step::{InsertTokenArgs, PlanStepArgs, StepPlan};

use super::batch::Run;
use super::layer::OfLayer;
use super::{CacheConfig, InputElement, KvCache, LayerInput};
use crate::device::{DeviceBuffer, DeviceError};
use crate::kv::{KvError, PageManager};
use crate::launch::Launch;

impl KvCache {
    /// Plans a step of requests, one launch for all layers of one tiering, and queues the pages that it needs.
    pub(super) fn launch_plan(&mut self, runs: &[Run], requests: usize) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let (slots, layers, heads) = (shape.slots, shape.layers, shape.kv_heads);
        let scratch = &mut self.scratch;
        let (lists, columns) = (layers * heads, StepPlan::COLUMNS);
        for (Run { rows, .. }, _, band) in self.formats.bands(runs) {
            let (of, n) = (rows.clone(), rows.len());
            let part = |each: usize| of.start * each..of.end * each;
            let state = self.manager.state_for_kernels();
            let args = PlanStepArgs {
                layers: self.formats.numbers(band)?.tensor([band.layers.len()]),
                positions: scratch.positions.slice(of.clone())?.tensor([n]),
                prompts: scratch.prompts.slice(of.clone())?.tensor([n]),
                thresholds: state.thresholds.tensor([slots, layers, heads, 2]),
                kv: LayeredKvArgs {
                    arena: (&mut state.arena).into(),
                    slots: scratch.slots.slice(of.clone())?.tensor([n]),
                    table: state.table.tensor([slots, layers, heads, shape.table_len]),
                    lengths: state.lengths.tensor([slots, layers, heads, Lengths::COLUMNS]),
                },
                shortlist: self.shortlist.read(),
                plan: scratch.plan.slice_mut(part(lists * columns))?.tensor([n, layers, heads, columns]),
                target: scratch.target.slice_mut(part(lists * 2))?.tensor([n, layers, heads, 2]),
                codecs: ForLayer { choice: &self.config.codecs, layer: 0 },
                policies: &self.config.policy,
            };
            let grid = (heads as u32, band.layers.len() as u32, n as u32);
            run(self.kernels.tierings[band.tiering].plan.launch(grid, args))?;
        }
        let (slots, targets) =
            (scratch.slots.slice(..requests)?, scratch.target.slice(..requests * lists * 2)?);
        // SAFETY: a batch is of requests that are here, each once, so its slots are.
        unsafe { self.manager.queue(slots, targets) }
    }

    /// Inserts one layer's new tokens of requests of the same formats, and attends; the output is in `outputs.attended`.
    pub(super) fn step_layer<E: InputElement>(
        &mut self,
        these: &Run,
        layer: usize,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let (d, query_heads) = (self.config.head_dim, self.config.query_heads());
        let splits = self.splits(these, layer, self.manager.state().device().is_capturing());
        let (n, heads, table_len) = (these.rows.len(), shape.kv_heads, shape.table_len);
        let codecs = ForLayer { choice: &self.config.codecs, layer };
        let hooks = ForLayer { choice: &self.config.hooks, layer };
        // Rows of tensors that have so many numbers a request.
        let part = |each: usize| these.rows.start * each..these.rows.end * each;
        let at = these.places();
        let prior_rows = priors_of(&self.config, input.priors, &self.priors, layer, at.clone())?;
        let q = input.q.tensor(at.clone(), [query_heads, d])?;
        let [k, v] = [input.k, input.v].map(|rows| rows.tensor(at.clone(), [heads, d]));
        let of = OfLayer { slots: shape.slots, layers: shape.layers, heads, layer };
        let kernels = &self.kernels.tierings[self.formats.of(these.formats).tierings[layer]];
        let (state, scratch) = (self.manager.state_for_kernels(), &mut self.scratch);

        let args = InsertTokenArgs {
            keys: k?.into(),
            values: v?.into(),
            positions: scratch.positions.slice(part(1))?.tensor([n]),
            priors: prior_rows,
            plan: plan_of(&scratch.plan, these, &of, StepPlan::COLUMNS)?,
            kv: PagedKvMutArgs {
                arena: (&mut state.arena).into(),
                slots: scratch.slots.slice(part(1))?.tensor([n]),
                table: of.read(&state.table, table_len)?,
                lengths: of.write(&mut state.lengths, 4)?,
            },
            codecs,
        };
        run(kernels.insert.launch((heads as u32, n as u32), args))?;

        // Of the plan, the new token's number.
        let newest = plan_of(&scratch.plan, these, &of, 1)?;
        let (partials, finds) = scratch.parts.of(n, splits)?;
        let args = DecodeAttentionArgs {
            q: q.clone().into(),
            query_positions: scratch.positions.slice(part(1))?.tensor([n]),
            scale: self.config.scale(),
            kv: PagedKvArgs {
                arena: (&mut state.arena).into(),
                slots: scratch.slots.slice(part(1))?.tensor([n]),
                table: of.read(&state.table, table_len)?,
                lengths: of.read(&state.lengths, 4)?,
            },
            out: partials,
            pending: self.pending.read(layer, newest)?,
            shortlist: LookingArgs {
                prompts: scratch.prompts.slice(part(1))?.tensor([n]),
                finds,
                state: self.shortlist.write_state(layer)?,
            },
            codecs,
            hooks,
        };
        run(kernels.attend.launch((heads as u32, n as u32, splits as u32), args))?;

        let (parts, finds) = scratch.parts.of(n, splits)?;
        let args = MergeSplitsArgs {
            parts,
            q: q.into(),
            slots: scratch.slots.slice(part(1))?.tensor([n]),
            finds,
            pending: self.pending.write(layer)?,
            shortlist: self.shortlist.write(layer)?,
            out: self.outputs.rows(at, [query_heads, d])?,
            lse: scratch.lse.slice_mut(part(query_heads))?.tensor([n, query_heads]),
            hooks,
        };
        run(self.kernels.merge.launch((heads as u32, n as u32), args))
    }

    /// Splits that the longest list of a layer of these requests may have in this step. A graph is replayed while lists grow, so that one that is captured is
    /// for the longest list that there can be.
    pub(super) fn splits(&self, these: &Run, layer: usize, captured: bool) -> usize {
        let batch = self.scratch.batch.as_ref().filter(|_| !captured);
        let longest = batch.and_then(|batch| batch.positions.get(these.rows.clone())?.iter().max());
        let tokens = longest.map_or(self.config.max_tokens, |&position| position as usize + 1);
        let split_pages = self.config.split_pages_on(self.manager.state().device());
        let [in_high, in_low] = self.formats.of(these.formats).page_tokens[layer * self.config.kv_heads];
        let page_tokens = [in_high, if in_low == 0 { in_high } else { in_low }];
        self.config.splits_of(split_pages, page_tokens, tokens)
    }
}

/// What the peaks of `rows` start from: what was given, or the layer's own.
pub(super) fn priors_of<'a>(
    config: &CacheConfig,
    priors: Option<&'a DeviceBuffer<f32>>,
    own: &'a DeviceBuffer<f32>,
    layer: usize,
    rows: std::ops::Range<usize>,
) -> Result<Tensor<'a, f32, 2>, DeviceError> {
    let heads = config.kv_heads;
    match priors {
        _ if config.peaks == 0 => Ok(own.tensor([0, heads])),
        Some(given) => Ok(given.slice(rows.start * heads..rows.end * heads)?.tensor([rows.len(), heads])),
        // The same for all rows.
        None => {
            let own = own.slice(layer * heads..(layer + 1) * heads)?;
            Ok(own.tensor([rows.len(), heads]).strided([0, 1]))
        }
    }
}

/// The first columns of one layer's rows of a plan, `[requests, kv_heads, columns]`.
fn plan_of<'a>(
    plan: &'a DeviceBuffer<i32>,
    these: &Run,
    of: &OfLayer,
    columns: usize,
) -> Result<Tensor<'a, i32, 3>, DeviceError> {
    let each = of.layers * of.heads * StepPlan::COLUMNS;
    let first = of.layer * of.heads * StepPlan::COLUMNS;
    let plan = plan.slice(these.rows.start * each + first..these.rows.end * each)?;
    Ok(plan.tensor([these.rows.len(), of.heads, columns]).strided([each, StepPlan::COLUMNS, 1]))
}

/// Runs one of the engine's kernels.
pub(super) fn run(launch: Launch<'_>) -> Result<(), KvError> {
    // SAFETY: kernels find pages by tables and lengths that the page manager and these kernels keep, and what they write lies in pages
    // that a rebalance granted before.
    Ok(unsafe { launch.run() }?)
}
