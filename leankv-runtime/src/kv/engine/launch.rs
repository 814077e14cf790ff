//! The launches of a decode step.

use super::batch::Run;
use super::{Binds, InputElement, KvCache};
use crate::device::DeviceBuffer;
use crate::kv::{KvError, PageManager};
use crate::launch::Launch;

impl KvCache {
    /// Plans a step of requests, tiering by tiering, and queues the pages that it needs.
    pub(super) fn launch_plan(&mut self, runs: &[Run], requests: usize) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let (slots, layers, heads) = (shape.slots, shape.layers, shape.kv_heads);
        let scratch = &mut self.scratch;
        let per_request = layers * heads;
        for Run { tiering, rows } in runs {
            let (of, n) = (rows.clone(), rows.len());
            let state = self.manager.state_for_kernels();
            let plan = self.kernels.tierings[*tiering].plan.launch((heads as u32, layers as u32, n as u32));
            let plan = plan.view("positions", scratch.positions.slice(of.clone())?, &[n]);
            let plan = plan.view("prompts", scratch.prompts.slice(of.clone())?, &[n]);
            let plan = plan.view("thresholds", &state.thresholds, &[slots, layers, heads, 2]);
            let plan = plan.buffer_mut("kv.arena", &mut state.arena);
            let plan = plan.view("kv.slots", scratch.slots.slice(of.clone())?, &[n]);
            let plan = plan.view("kv.table", &state.table, &[slots, layers, heads, shape.table_len]);
            let plan = plan.view("kv.lengths", &state.lengths, &[slots, layers, heads, 4]);
            let plan = self.shortlist.read(plan);
            let columns = leankv_kernels::step::PLAN_COLUMNS;
            let part = |columns: usize| of.start * per_request * columns..of.end * per_request * columns;
            let plan =
                plan.view_mut("plan", scratch.plan.slice_mut(part(columns))?, &[n, layers, heads, columns]);
            let plan = plan.view_mut("target", scratch.target.slice_mut(part(2))?, &[n, layers, heads, 2]);
            run(plan)?;
        }
        let (slots, targets) =
            (scratch.slots.slice(..requests)?, scratch.target.slice(..requests * per_request * 2)?);
        // SAFETY: a batch is of requests that are here, each once, so its slots are.
        unsafe { self.manager.queue(slots, targets) }
    }

    /// Inserts one layer's new tokens of requests of one tiering, and attends; the output is in `scratch.out`.
    pub(super) fn layer<E: InputElement>(
        &mut self,
        these: &Run,
        layer: usize,
        q: &DeviceBuffer<E>,
        k: &DeviceBuffer<E>,
        v: &DeviceBuffer<E>,
    ) -> Result<(), KvError> {
        let shape = *self.manager.shape();
        let (slots, layers, heads) = (shape.slots, shape.layers, shape.kv_heads);
        let (d, query_heads) = (self.config.head_dim, self.config.query_heads());
        let table_len = shape.table_len;
        let (state, scratch, bound) = (self.manager.state_for_kernels(), &mut self.scratch, &self.bound);
        let at = layer * heads;
        let kernels = &self.kernels.tierings[these.tiering];
        let (of, requests) = (these.rows.clone(), these.rows.len());
        // Rows of tensors that have so many numbers a request.
        let part = |each: usize| of.start * each..of.end * each;
        let (q, k, v) =
            (q.slice(part(query_heads * d))?, k.slice(part(heads * d))?, v.slice(part(heads * d))?);
        let table = ([slots, heads, table_len], [layers * heads * table_len, table_len, 1]);
        let lengths = ([slots, heads, 4], [layers * heads * 4, 4, 1]);
        let columns = leankv_kernels::step::PLAN_COLUMNS;

        let insert = kernels.insert.launch((heads as u32, requests as u32));
        let insert = bound.to(insert, layer, Binds::CODECS);
        let insert = insert.view("keys", k, &[requests, heads, d]).view("values", v, &[requests, heads, d]);
        let insert = insert.view("positions", scratch.positions.slice(part(1))?, &[requests]);
        let each = layers * heads * columns;
        let plan = scratch.plan.slice(of.start * each + at * columns..of.end * each)?;
        let strides = [layers * heads * columns, columns, 1];
        let insert = insert.view_strided("plan", plan, &[requests, heads, columns], &strides);
        let insert = insert.buffer_mut("kv.arena", &mut state.arena);
        let insert = insert.view("kv.slots", scratch.slots.slice(part(1))?, &[requests]);
        let insert =
            insert.view_strided("kv.table", state.table.slice(at * table_len..)?, &table.0, &table.1);
        let lists = state.lengths.slice_mut(at * 4..)?;
        let insert = insert.view_mut_strided("kv.lengths", lists, &lengths.0, &lengths.1);
        run(insert)?;

        let splits = self.config.splits;
        let parts = [requests, query_heads, splits];
        let attend = kernels.attend.launch((heads as u32, requests as u32, splits as u32));
        let attend = bound.to(attend, layer, Binds::BOTH);
        let attend = attend.view("q", q, &[requests, query_heads, d]);
        let attend = attend.view("query_positions", scratch.positions.slice(part(1))?, &[requests]);
        let attend = attend.scalar("scale", self.config.scale());
        let attend = attend.buffer_mut("kv.arena", &mut state.arena);
        let attend = attend.view("kv.slots", scratch.slots.slice(part(1))?, &[requests]);
        let attend =
            attend.view_strided("kv.table", state.table.slice(at * table_len..)?, &table.0, &table.1);
        let attend =
            attend.view_strided("kv.lengths", state.lengths.slice(at * 4..)?, &lengths.0, &lengths.1);
        let attend = attend.view_mut("out.max", scratch.max.slice_mut(part(query_heads * splits))?, &parts);
        let attend = attend.view_mut("out.sum", scratch.sum.slice_mut(part(query_heads * splits))?, &parts);
        let acc = scratch.acc.slice_mut(part(query_heads * splits * d))?;
        let attend = attend.view_mut("out.acc", acc, &[requests, query_heads, splits, d]);
        let attend = self.pending.read(attend, layer)?;
        // Of the plan, the new token's number.
        let plan = scratch.plan.slice(of.start * each + at * columns..of.end * each)?;
        let attend = attend.view_strided("pending.newest", plan, &[requests, heads, 1], &strides);
        let attend = attend.view("shortlist.prompts", scratch.prompts.slice(part(1))?, &[requests]);
        run(self.shortlist.write(attend, layer)?)?;

        let merge = self.kernels.merge.launch((heads as u32, requests as u32));
        let merge = bound.to(merge, layer, Binds::HOOKS);
        let merge = merge.view_mut("parts.max", scratch.max.slice_mut(part(query_heads * splits))?, &parts);
        let merge = merge.view_mut("parts.sum", scratch.sum.slice_mut(part(query_heads * splits))?, &parts);
        let acc = scratch.acc.slice_mut(part(query_heads * splits * d))?;
        let merge = merge.view_mut("parts.acc", acc, &[requests, query_heads, splits, d]);
        let merge = merge.view("q", q, &[requests, query_heads, d]);
        let merge = merge.view("slots", scratch.slots.slice(part(1))?, &[requests]);
        let merge = self.pending.write(merge, layer)?;
        let merge =
            merge.view_mut("out", scratch.out.slice_mut(part(query_heads * d))?, &[requests, query_heads, d]);
        let merge =
            merge.view_mut("lse", scratch.lse.slice_mut(part(query_heads))?, &[requests, query_heads]);
        run(merge)
    }
}

/// Runs one of the engine's kernels.
pub(super) fn run(launch: Launch<'_>) -> Result<(), KvError> {
    // SAFETY: kernels find pages by tables and lengths that the page manager and these kernels keep, and what they write lies in pages
    // that a rebalance granted before.
    Ok(unsafe { launch.run() }?)
}
