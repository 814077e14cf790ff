//! A chunk of a prompt that is under way.

use leankv_kernels::chunk::ChunkSpec;

use super::compact::Room;
use super::launch::run;
use super::request::Request;
use super::{Binds, InputElement, KvCache, RequestId};
use crate::device::{BufferView, DeviceBuffer};
use crate::kv::{KvError, PageManager};

/// A chunk of one request's prompt: pages for the worst case are there, and its layers are done one after another. Dropped before its end
/// it leaves a request that can only be freed, unless no layer was done.
#[derive(Debug)]
pub struct PromptChunk<'a> {
    cache: &'a mut KvCache,
    id: RequestId,
    /// Tokens before it, and of it.
    before: usize,
    tokens: usize,
    next: usize,
}

/// Device buffers of a chunk.
#[derive(Debug)]
pub(super) struct ChunkScratch {
    pub(super) slot: DeviceBuffer<i32>,
    pub(super) out: DeviceBuffer<f32>,
    pub(super) lse: DeviceBuffer<f32>,
    pub(super) mass: DeviceBuffer<f32>,
    pub(super) dest: DeviceBuffer<i32>,
}

impl<'a> PromptChunk<'a> {
    /// Takes pages for the worst case: all of the chunk high, or all of it low.
    pub(super) fn begin(cache: &'a mut KvCache, id: RequestId) -> Result<PromptChunk<'a>, KvError> {
        cache.alive()?;
        let request = cache.whole(id)?;
        let (slot, before, prompt) = (request.slot, request.tokens, request.prompt);
        let tokens = prompt.saturating_sub(before).min(cache.config.chunk);
        if tokens == 0 {
            return Err(KvError::PromptDone { id });
        }
        let low = cache.config.tierings().nth(request.tiering).is_some_and(|tiering| tiering.low.is_some());
        cache.free_floor = 0;
        cache.chunk.slot.write(&[slot as i32])?;
        let more = [tokens, if low { tokens } else { 0 }];
        // SAFETY: it is the slot of a request that is here.
        unsafe { cache.manager.queue_fit(cache.chunk.slot.as_view(), more) }?;
        let answers = cache.manager.answers(1)?;
        cache.ask_free();
        for answer in answers {
            answer?;
        }
        Ok(PromptChunk { cache, id, before, tokens, next: 0 })
    }

    /// The request.
    pub fn request(&self) -> RequestId {
        self.id
    }

    /// Positions of the chunk's tokens: as many rows have the tensors of every layer.
    pub fn positions(&self) -> std::ops::Range<usize> {
        self.before..self.before + self.tokens
    }

    /// Attends from the chunk's tokens to what the next layer holds and, causally, to the chunk; then writes the chunk's keys and values into
    /// pages of both tiers. Gives `[tokens, query_heads, head_dim]`, which the next call overwrites.
    ///
    /// `q` is `[tokens, query_heads, head_dim]`, `k` and `v` are `[tokens, kv_heads, head_dim]`, queries and keys after RoPE.
    ///
    /// # Errors
    /// As [`DecodeStep::layer`](super::DecodeStep::layer).
    pub fn layer<E: InputElement>(
        &mut self,
        q: &DeviceBuffer<E>,
        k: &DeviceBuffer<E>,
        v: &DeviceBuffer<E>,
    ) -> Result<BufferView<'_, f32>, KvError> {
        self.cache.alive()?;
        let layers = self.cache.config.layers;
        if self.next == layers {
            return Err(KvError::Length { what: "layers of a chunk", expected: layers, got: layers + 1 });
        }
        let whats = [
            "q [tokens, query_heads, head_dim]",
            "k [tokens, kv_heads, head_dim]",
            "v [tokens, kv_heads, head_dim]",
        ];
        let queries = self.cache.check_rows(self.tokens, whats, q, k, v)?;
        if self.next == 0 {
            self.cache.mark(&[self.id], true);
        }
        let result = self.cache.chunk_layer(self.id, self.next, self.before, self.tokens, q, k, v);
        self.cache.remember(result)?;
        self.next += 1;
        Ok(self.cache.chunk.out.slice(..queries)?)
    }

    /// Ends the chunk: thresholds are solved where the request has a budget, what was cached before is classified again in all layers, and
    /// pages that are not needed go back.
    ///
    /// # Errors
    /// [`KvError::Length`] when layers are missing, and [`KvError::OverBudget`] when window and sinks of all that share a budget pass it; the request
    /// can then only be freed. What the launches say.
    pub fn finish(self) -> Result<(), KvError> {
        let layers = self.cache.config.layers;
        if self.next != layers {
            return Err(KvError::Length { what: "layers of a chunk", expected: layers, got: self.next });
        }
        let slot = self.id.slot;
        let (tokens, cache) = (self.before + self.tokens, self.cache);
        let request = cache.request(self.id)?.clone();
        cache.compact(vec![Request { tokens, ..request }], Room::Held)?;
        cache.mark(&[self.id], false);
        if let Some(request) = &mut cache.slots[slot] {
            request.tokens = tokens;
        }
        Ok(())
    }
}

/// One layer's tables and lengths for a launch.
struct Layer {
    slots: usize,
    heads: usize,
    at: usize,
    table_len: usize,
    lists: usize,
}

impl Layer {
    fn table(&self) -> ([usize; 3], [usize; 3]) {
        ([self.slots, self.heads, self.table_len], [self.lists * self.table_len, self.table_len, 1])
    }

    /// Extents and strides of `[slots, kv_heads, columns]`.
    fn of(&self, columns: usize) -> ([usize; 3], [usize; 3]) {
        ([self.slots, self.heads, columns], [self.lists * columns, columns, 1])
    }
}

impl KvCache {
    /// Whether requests are in the middle of something.
    pub(super) fn mark(&mut self, requests: &[RequestId], torn: bool) {
        for id in requests {
            if let Some(request) = &mut self.slots[id.slot] {
                request.torn = torn;
            }
        }
    }

    fn chunk_layer<E: InputElement>(
        &mut self,
        id: RequestId,
        layer: usize,
        before: usize,
        n: usize,
        q: &DeviceBuffer<E>,
        k: &DeviceBuffer<E>,
        v: &DeviceBuffer<E>,
    ) -> Result<(), KvError> {
        let request = self.request(id)?;
        let (prompt, tiering) = (request.prompt as i32, request.tiering);
        let shape = *self.manager.shape();
        let heads = shape.kv_heads;
        let (d, query_heads, scale) = (self.config.head_dim, self.config.query_heads(), self.config.scale());
        let window = self.config.window_q.min(n) as i32;
        let (state, chunk) = (self.manager.state_for_kernels(), &mut self.chunk);
        let kernels = &self.kernels.tierings[tiering];
        let bound = &self.bound;
        let of = Layer {
            slots: shape.slots,
            heads,
            at: layer * heads,
            table_len: shape.table_len,
            lists: shape.lists(),
        };
        let ((table, table_strides), (lengths, strides)) = (of.table(), of.of(4));
        let tables = of.at * of.table_len;
        let (queries, pairs) = ([n, query_heads, d], [n, heads, d]);
        let before = before as i32;
        let programs = |block: usize| n.div_ceil(block) as u32;

        let attend =
            kernels.chunk_attend.launch((programs(ChunkSpec::block_q_of(self.config.group)), heads as u32));
        let attend = bound.to(attend, layer, Binds::BOTH);
        let attend = attend.view("q", q, &queries).view("k", k, &pairs).view("v", v, &pairs);
        let attend = attend.scalar("before", before).scalar("scale", scale);
        let attend = attend.buffer_mut("kv.arena", &mut state.arena).view("kv.slots", &chunk.slot, &[1]);
        let attend = attend.view_strided("kv.table", state.table.slice(tables..)?, &table, &table_strides);
        let attend = attend.view_strided("kv.lengths", state.lengths.slice(of.at * 4..)?, &lengths, &strides);
        let attend = attend.view_mut("out", chunk.out.slice_mut(..n * query_heads * d)?, &queries);
        run(attend.view_mut("lse", chunk.lse.slice_mut(..n * query_heads)?, &[n, query_heads]))?;

        if before > 0 {
            let add = kernels.cached_significance.launch((super::kernels::SPLITS as u32, heads as u32));
            let add = bound.to(add, layer, Binds::BOTH);
            let add = add.view("q", q, &queries);
            let add = add.view("lse", chunk.lse.slice(..n * query_heads)?, &[n, query_heads]);
            let add = add.scalar("before", before).scalar("scale", scale).scalar("window", window);
            let add = add.buffer_mut("kv.arena", &mut state.arena).view("kv.slots", &chunk.slot, &[1]);
            let add = add.view_strided("kv.table", state.table.slice(tables..)?, &table, &table_strides);
            let lists = state.lengths.slice(of.at * 4..)?;
            run(add.view_strided("kv.lengths", lists, &lengths, &strides))?;
        }

        let sum =
            self.kernels.chunk_significance.launch((programs(super::kernels::BLOCK_CHUNK), heads as u32));
        let sum = bound.to(sum, layer, Binds::HOOKS);
        let sum = sum.view("q", q, &queries).view("k", k, &pairs);
        let sum = sum.view("lse", chunk.lse.slice(..n * query_heads)?, &[n, query_heads]);
        let sum = sum.scalar("before", before).scalar("scale", scale).scalar("window", window);
        run(sum.view_mut("mass", chunk.mass.slice_mut(..heads * n)?, &[heads, n]))?;

        let classify = kernels.classify.launch(heads as u32);
        let classify = classify.view("mass", chunk.mass.slice(..heads * n)?, &[heads, n]);
        let classify = classify.scalar("before", before).scalar("prompt", prompt);
        let classify = classify.view("slots", &chunk.slot, &[1]);
        let (pair, pair_strides) = of.of(2);
        let thresholds = state.thresholds.slice(of.at * 2..)?;
        let classify = classify.view_strided("thresholds", thresholds, &pair, &pair_strides);
        let lists = state.lengths.slice_mut(of.at * 4..)?;
        let classify = classify.view_mut_strided("lengths", lists, &lengths, &strides);
        run(classify.view_mut("dest", chunk.dest.slice_mut(..heads * n)?, &[heads, n]))?;

        let write = kernels.write.launch((programs(super::kernels::BLOCK_WRITE), heads as u32));
        let write = bound.to(write, layer, Binds::CODECS);
        let write = write.view("keys", k, &pairs).view("values", v, &pairs);
        let write = write.view("mass", chunk.mass.slice(..heads * n)?, &[heads, n]);
        let write = write.view("dest", chunk.dest.slice(..heads * n)?, &[heads, n]).scalar("before", before);
        let write = write.buffer_mut("kv.arena", &mut state.arena).view("kv.slots", &chunk.slot, &[1]);
        let write = write.view_strided("kv.table", state.table.slice(tables..)?, &table, &table_strides);
        run(write.view_strided("kv.lengths", state.lengths.slice(of.at * 4..)?, &lengths, &strides))
    }
}
