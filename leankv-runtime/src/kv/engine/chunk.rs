//! A chunk of a prompt that is under way.

use leankv_dsl::lang::attention::{ForLayer, PagedKvArgs};
use leankv_kernels::chunk::{
    CachedSignificanceArgs, ChunkAttentionArgs, ChunkSignificanceArgs, ClassifyChunkArgs, WriteChunkArgs,
};

use super::basis::{Of, Part, Rows};
use super::compact::Room;
use super::launch::{priors_of, run};
use super::layer::OfLayer;
use super::request::Request;
use super::{InputElement, KvCache, RequestId};
use crate::device::{BufferView, DeviceBuffer, DeviceError};
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
    pub(super) words: DeviceBuffer<f32>,
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
        cache.free_floor = 0;
        cache.chunk.slot.write(&[slot as i32])?;
        // SAFETY: it is the slot of a request that is here.
        unsafe { cache.manager.queue_fit(cache.chunk.slot.as_view(), [tokens; 2]) }?;
        let answers = cache.manager.answers(1)?;
        cache.ask_free();
        for answer in answers {
            answer?;
        }
        Ok(PromptChunk { cache, id, before, tokens, next: 0 })
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        self.cache
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
        self.layer_with_priors(q, k, v, None)
    }

    /// As [`layer`](PromptChunk::layer), with what the peaks of the tokens start from: `priors` is `[tokens, kv_heads]`; none for those of
    /// [`CacheConfig::priors`](super::CacheConfig::priors). A prior is a share of attention, from 0 to 1; a cache that keeps no peaks ([`CacheConfig::peaks`](super::CacheConfig::peaks)) takes none.
    ///
    /// # Errors
    /// As [`layer`](PromptChunk::layer), and [`KvError::Length`] for another number of priors.
    pub fn layer_with_priors<E: InputElement>(
        &mut self,
        q: &DeviceBuffer<E>,
        k: &DeviceBuffer<E>,
        v: &DeviceBuffer<E>,
        priors: Option<&DeviceBuffer<f32>>,
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
        self.cache.check_priors(self.tokens, priors)?;
        if self.next == 0 {
            self.cache.mark(&[self.id], true);
        }
        let part = Part { layer: self.next, n: self.tokens, of: Of::Chunk(self.id, self.before) };
        let result = self.cache.layer(part, [q, k, v], priors);
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

impl KvCache {
    /// Whether requests are in the middle of something.
    pub(super) fn mark(&mut self, requests: &[RequestId], torn: bool) {
        for id in requests {
            if let Some(request) = &mut self.slots[id.slot] {
                request.torn = torn;
            }
        }
    }

    pub(super) fn chunk_layer<E: InputElement>(
        &mut self,
        id: RequestId,
        layer: usize,
        (before, n): (usize, usize),
        [q, k, v]: Rows<'_, E>,
        priors: Option<&DeviceBuffer<f32>>,
    ) -> Result<(), KvError> {
        let request = self.request(id)?;
        let (prompt, tiering) = (request.prompt as i32, self.formats.of(request.formats).tierings[layer]);
        let shape = *self.manager.shape();
        let heads = shape.kv_heads;
        let (d, query_heads, scale) = (self.config.head_dim, self.config.query_heads(), self.config.scale());
        let window = self.config.window_q.min(n) as i32;
        let codecs = ForLayer { choice: &self.config.codecs, layer };
        let hooks = ForLayer { choice: &self.config.hooks, layer };
        let of = OfLayer { slots: shape.slots, layers: shape.layers, heads, layer };
        let prior_rows = priors_of(&self.config, priors, &self.priors, layer, 0..n)?;
        let (state, chunk) = (self.manager.state_for_kernels(), &mut self.chunk);
        let kernels = &self.kernels.tierings[tiering];
        let before = before as i32;
        let programs = |block: usize| (n.div_ceil(block) as u32, heads as u32);
        let q = q.slice(..n * query_heads * d)?.tensor([n, query_heads, d]);
        let [k, v] = [k.slice(..n * heads * d)?, v.slice(..n * heads * d)?].map(|x| x.tensor([n, heads, d]));

        let args = ChunkAttentionArgs {
            q: q.clone().into(),
            k: k.clone().into(),
            v: v.clone().into(),
            before,
            scale,
            kv: paged(&mut state.arena, &chunk.slot, &state.table, &state.lengths, &of, shape.table_len)?,
            out: chunk.out.slice_mut(..n * query_heads * d)?.tensor([n, query_heads, d]),
            lse: chunk.lse.slice_mut(..n * query_heads)?.tensor([n, query_heads]),
            codecs,
            hooks,
        };
        run(kernels.chunk_attend.launch(programs(kernels.chunk_attend.spec().block_q), args))?;

        if before > 0 {
            let args = CachedSignificanceArgs {
                q: q.clone().into(),
                lse: chunk.lse.slice(..n * query_heads)?.tensor([n, query_heads]),
                before,
                scale,
                window,
                kv: paged(&mut state.arena, &chunk.slot, &state.table, &state.lengths, &of, shape.table_len)?,
                codecs,
                hooks,
            };
            let splits = kernels.cached_significance.spec().splits as u32;
            run(kernels.cached_significance.launch((splits, heads as u32), args))?;
        }

        let args = ChunkSignificanceArgs {
            q: q.into(),
            k: k.clone().into(),
            lse: chunk.lse.slice(..n * query_heads)?.tensor([n, query_heads]),
            before,
            scale,
            window,
            priors: prior_rows,
            words: chunk.words.slice_mut(..heads * n)?.tensor([heads, n]),
            hooks,
        };
        run(self
            .kernels
            .chunk_significance
            .launch(programs(self.kernels.chunk_significance.spec().block), args))?;

        let args = ClassifyChunkArgs {
            words: chunk.words.slice(..heads * n)?.tensor([heads, n]),
            before,
            prompt,
            layer: layer as i32,
            keys: k.clone().into(),
            values: v.clone().into(),
            slots: chunk.slot.tensor([1]),
            thresholds: of.read(&state.thresholds, 2)?,
            lengths: of.write(&mut state.lengths, 4)?,
            dest: chunk.dest.slice_mut(..heads * n)?.tensor([heads, n]),
            policies: &self.config.policy,
        };
        run(kernels.classify.launch(heads as u32, args))?;

        let args = WriteChunkArgs {
            keys: k.into(),
            values: v.into(),
            words: chunk.words.slice(..heads * n)?.tensor([heads, n]),
            dest: chunk.dest.slice(..heads * n)?.tensor([heads, n]),
            before,
            kv: paged(&mut state.arena, &chunk.slot, &state.table, &state.lengths, &of, shape.table_len)?,
            codecs,
        };
        run(kernels.write.launch(programs(kernels.write.spec().block), args))
    }
}

/// One layer of the cache, for a launch over one request.
fn paged<'a>(
    arena: &'a mut DeviceBuffer<u8>,
    slot: &'a DeviceBuffer<i32>,
    table: &'a DeviceBuffer<i32>,
    lengths: &'a DeviceBuffer<i32>,
    of: &OfLayer,
    table_len: usize,
) -> Result<PagedKvArgs<'a>, DeviceError> {
    let (table, lengths) = (of.read(table, table_len)?, of.read(lengths, 4)?);
    Ok(PagedKvArgs { arena: arena.into(), slots: slot.tensor([1]), table, lengths })
}
