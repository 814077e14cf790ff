//! A chunk of a prompt that is under way.

use leankv_dsl::lang::attention::{ForLayer, PagedKvArgs};
use leankv_dsl::lang::launch::Tensor;
use leankv_kernels::chunk::{
    CachedSignificanceArgs, ChunkAttentionArgs, ChunkSignificanceArgs, ClassifyChunkArgs, WriteChunkArgs,
};

use super::launch::{priors_of, run};
use super::layer::OfLayer;
use super::mixed::{Piece, Step, StepPart};
use super::waiting::Waiting;
use super::{InputElement, KvCache, LayerInput, RequestId};
use crate::device::{BufferView, DeviceBuffer, DeviceError};
use crate::kv::{KvError, PageManager};

/// A chunk of one request's prompt: pages for the worst case are there, and its layers are done one after another. Dropped before its end
/// it leaves a request that can only be freed, unless no layer was done.
#[derive(Debug)]
pub struct PromptChunk<'a> {
    cache: &'a mut KvCache,
    id: RequestId,
    /// Tokens before it.
    before: usize,
    step: Step,
}

/// Device buffers of a chunk.
#[derive(Debug)]
pub(super) struct ChunkScratch {
    /// `[chunk, query_heads]`.
    pub(super) lse: DeviceBuffer<f32>,
    /// `[kv_heads, chunk]`.
    pub(super) words: DeviceBuffer<f32>,
    pub(super) dest: DeviceBuffer<i32>,
}

impl<'a> PromptChunk<'a> {
    /// Takes pages for the worst case: all of the chunk high, or all of it low.
    pub(super) fn begin(cache: &'a mut KvCache, id: RequestId) -> Result<PromptChunk<'a>, KvError> {
        cache.alive()?;
        let request = cache.whole(id)?;
        let before = request.seen();
        let in_chunk = cache.config.chunk - request.waiting;
        let rows = request.prompt.saturating_sub(before).min(in_chunk);
        if rows == 0 {
            return Err(KvError::PromptDone { id });
        }
        let step = cache.open_step(&[StepPart { request: id, rows }])?;
        Ok(PromptChunk { cache, id, before, step })
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
        self.before..self.before + self.step.rows
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

    /// As [`layer`](PromptChunk::layer), with what the peaks of the tokens start from: see [`LayerInput::priors`].
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
        let input = LayerInput { q: q.into(), k: k.into(), v: v.into(), priors };
        self.cache.layer_of(&mut self.step, &input)
    }

    /// Ends the chunk: thresholds are solved where the request has a budget, what was cached before is classified again in all layers, and
    /// pages that are not needed go back.
    ///
    /// # Errors
    /// [`KvError::Length`] when layers are missing, and [`KvError::OverBudget`] when window and sinks of all that share a budget pass it; the request
    /// can then only be freed. What the launches say.
    pub fn finish(self) -> Result<(), KvError> {
        self.cache.finish_of(&self.step)
    }
}

impl KvCache {
    /// One layer of a piece of a prompt: it attends to what is cached and to its chunk as that came, and where the chunk ends with it the chunk's tokens are written.
    pub(super) fn piece_layer<E: InputElement>(
        &mut self,
        piece: &Piece,
        layer: usize,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        if piece.is_whole() {
            return self.piece_beside(piece, layer, input, None);
        }
        let slot = piece.id.slot;
        let Some(mut waiting) = self.waiting[slot].take() else { return Err(KvError::Torn { id: piece.id }) };
        let done = self.piece_beside(piece, layer, input, Some(&mut waiting));
        self.waiting[slot] = Some(waiting);
        done
    }

    /// As [`piece_layer`](KvCache::piece_layer), beside those of its chunk that wait.
    fn piece_beside<E: InputElement>(
        &mut self,
        piece: &Piece,
        layer: usize,
        input: &LayerInput<'_, E>,
        mut waiting: Option<&mut Waiting>,
    ) -> Result<(), KvError> {
        if let Some(waiting) = &mut waiting {
            waiting.take_in(&self.config, piece, layer, input)?;
        }
        self.attend_piece(piece, layer, input, waiting.as_deref())?;
        if let Some(waiting) = &mut waiting {
            waiting.take_lse(&self.config, piece, layer, &self.chunk.lse)?;
        }
        match piece.ends_chunk() {
            true => self.write_chunk(piece, layer, input, waiting.as_deref()),
            false => Ok(()),
        }
    }

    /// Keys and values of a piece's chunk as far as they are there, `[n, kv_heads, head_dim]`.
    fn chunk_rows<'a, E: InputElement>(
        &self,
        piece: &Piece,
        layer: usize,
        input: &LayerInput<'a, E>,
        waiting: Option<&'a Waiting>,
    ) -> Result<[Tensor<'a, E, 3>; 2], KvError> {
        match waiting {
            Some(waiting) => waiting.keys_and_values(&self.config, layer, piece.there()),
            None => {
                let heads = [self.config.kv_heads, self.config.head_dim];
                Ok([input.k.tensor(piece.places(), heads)?, input.v.tensor(piece.places(), heads)?])
            }
        }
    }

    fn attend_piece<E: InputElement>(
        &mut self,
        piece: &Piece,
        layer: usize,
        input: &LayerInput<'_, E>,
        waiting: Option<&Waiting>,
    ) -> Result<(), KvError> {
        let tiering = self.formats.of(self.request(piece.id)?.formats).tierings[layer];
        let [k, v] = self.chunk_rows(piece, layer, input, waiting)?;
        let shape = *self.manager.shape();
        let (n, heads, query_heads) = (piece.rows, shape.kv_heads, self.config.query_heads());
        let of = OfLayer { slots: shape.slots, layers: shape.layers, heads, layer };
        let q_heads = [query_heads, self.config.head_dim];
        let attend = &self.kernels.tierings[tiering].chunk_attend;
        let slot = self.numbers.slice(piece.id.slot..piece.id.slot + 1)?;
        let state = self.manager.state_for_kernels();
        let args = ChunkAttentionArgs {
            q: input.q.tensor(piece.places(), q_heads)?.into(),
            k: k.into(),
            v: v.into(),
            before: piece.start as i32,
            first_query: piece.before as i32,
            scale: self.config.scale(),
            kv: paged(&mut state.arena, slot, &state.table, &state.lengths, &of, shape.table_len)?,
            out: self.outputs.rows(piece.places(), q_heads)?,
            lse: self.chunk.lse.slice_mut(..n * query_heads)?.tensor([n, query_heads]),
            codecs: ForLayer { choice: &self.config.codecs, layer },
            hooks: ForLayer { choice: &self.config.hooks, layer },
        };
        run(attend.launch((n.div_ceil(attend.spec().block_q) as u32, heads as u32), args))
    }

    /// The end of a chunk in a layer: its counted queries add to the significance of what is cached and of its own tokens, which get a tier and are written.
    fn write_chunk<E: InputElement>(
        &mut self,
        piece: &Piece,
        layer: usize,
        input: &LayerInput<'_, E>,
        waiting: Option<&Waiting>,
    ) -> Result<(), KvError> {
        let request = self.request(piece.id)?;
        let (prompt, tiering) = (request.prompt as i32, self.formats.of(request.formats).tierings[layer]);
        let [k, v] = self.chunk_rows(piece, layer, input, waiting)?;
        let shape = *self.manager.shape();
        let (n, heads, scale) = (piece.chunk, shape.kv_heads, self.config.scale());
        let (query_heads, d) = (self.config.query_heads(), self.config.head_dim);
        let counted = self.config.counted(n);
        let first = n - counted;
        let of_counted = || -> Result<_, KvError> {
            let lse = self.chunk.lse.slice(first * query_heads..n * query_heads);
            Ok(match waiting {
                Some(waiting) => waiting.queries::<E>(&self.config, layer, counted)?,
                None => {
                    let q = input.q.tensor(piece.at + first..piece.at + n, [query_heads, d])?;
                    (q, lse?.tensor([counted, query_heads]))
                }
            })
        };
        let (q, lse) = of_counted()?;
        let priors = match waiting {
            Some(waiting) if self.config.peaks > 0 => waiting.priors(&self.config, layer, n)?,
            _ => priors_of(&self.config, input.priors, &self.priors, layer, piece.places())?,
        };
        let (before, window) = (piece.start as i32, counted as i32);
        let codecs = ForLayer { choice: &self.config.codecs, layer };
        let hooks = ForLayer { choice: &self.config.hooks, layer };
        let of = OfLayer { slots: shape.slots, layers: shape.layers, heads, layer };
        let slot = self.numbers.slice(piece.id.slot..piece.id.slot + 1)?;
        let (state, kernels) = (self.manager.state_for_kernels(), &self.kernels.tierings[tiering]);
        let (words, dest) = (&mut self.chunk.words, &mut self.chunk.dest);
        let programs = |block: usize| (n.div_ceil(block) as u32, heads as u32);

        if before > 0 && counted > 0 {
            let args = CachedSignificanceArgs {
                q: q.clone().into(),
                lse: lse.clone(),
                before: before + first as i32,
                scale,
                window,
                kv: paged(&mut state.arena, slot, &state.table, &state.lengths, &of, shape.table_len)?,
                codecs,
                hooks,
            };
            let splits = kernels.cached_significance.spec().splits as u32;
            run(kernels.cached_significance.launch((splits, heads as u32), args))?;
        }

        let args = ChunkSignificanceArgs {
            q: q.into(),
            k: k.clone().into(),
            lse,
            before,
            first_query: first as i32,
            scale,
            window,
            priors,
            words: words.slice_mut(..heads * n)?.tensor([heads, n]),
            hooks,
        };
        let significance = &self.kernels.chunk_significance;
        run(significance.launch(programs(significance.spec().block), args))?;

        let args = ClassifyChunkArgs {
            words: words.slice(..heads * n)?.tensor([heads, n]),
            before,
            prompt,
            layer: layer as i32,
            keys: k.clone().into(),
            values: v.clone().into(),
            slots: slot.tensor([1]),
            thresholds: of.read(&state.thresholds, 2)?,
            lengths: of.write(&mut state.lengths, 4)?,
            dest: dest.slice_mut(..heads * n)?.tensor([heads, n]),
            policies: &self.config.policy,
        };
        run(kernels.classify.launch(heads as u32, args))?;

        let args = WriteChunkArgs {
            keys: k.into(),
            values: v.into(),
            words: words.slice(..heads * n)?.tensor([heads, n]),
            dest: dest.slice(..heads * n)?.tensor([heads, n]),
            before,
            kv: paged(&mut state.arena, slot, &state.table, &state.lengths, &of, shape.table_len)?,
            codecs,
        };
        run(kernels.write.launch(programs(kernels.write.spec().block), args))
    }
}

/// One layer of the cache, for a launch over one request.
fn paged<'a>(
    arena: &'a mut DeviceBuffer<u8>,
    slot: BufferView<'a, i32>,
    table: &'a DeviceBuffer<i32>,
    lengths: &'a DeviceBuffer<i32>,
    of: &OfLayer,
    table_len: usize,
) -> Result<PagedKvArgs<'a>, DeviceError> {
    let (table, lengths) = (of.read(table, table_len)?, of.read(lengths, 4)?);
    Ok(PagedKvArgs { arena: arena.into(), slots: slot.tensor([1]), table, lengths })
}
