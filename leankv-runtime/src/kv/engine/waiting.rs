//! Tokens of a chunk of a prompt that has not ended: their keys and values as they came, and the queries that will count.

use std::ops::Range;

use leankv_dsl::lang::FloatType;
use leankv_dsl::lang::launch::Tensor;

use super::mixed::Piece;
use super::{CacheConfig, InputElement, KvCache, LayerInput, RequestId, Rows};
use crate::device::{Device, DeviceBuffer, DeviceError};
use crate::kv::KvError;

/// Room for one request's. What was copied in is in the basis of the cache.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Bytes of `[layers, chunk, kv_heads, head_dim]`.
    k: DeviceBuffer<u8>,
    v: DeviceBuffer<u8>,
    /// Bytes of `[layers, window_q, query_heads, head_dim]`: the chunk's last queries.
    q: DeviceBuffer<u8>,
    /// `[layers, window_q, query_heads]`: the logarithms of their sums of exponentials.
    lse: DeviceBuffer<f32>,
    /// `[layers, chunk, kv_heads]`; empty where no peaks are kept.
    priors: DeviceBuffer<f32>,
}

/// Extents of a layer's tensors in [`Waiting`].
#[derive(Clone, Copy)]
struct Extents {
    chunk: usize,
    window_q: usize,
    kv_heads: usize,
    query_heads: usize,
    head_dim: usize,
}

impl CacheConfig {
    /// How many of the last queries of a chunk of `chunk` tokens count.
    pub(super) fn counted(&self, chunk: usize) -> usize {
        self.window_q.min(chunk)
    }

    /// Bytes beside the arena that a request takes while a chunk of its prompt has begun and not ended: see [`KvCache::begin`]. A cache keeps those of one
    /// request for the next one.
    pub fn waiting_bytes(&self) -> usize {
        let element = match self.inner_input() {
            FloatType::F16 | FloatType::Bf16 => 2,
            FloatType::F32 => 4,
        };
        let Extents { chunk, window_q, kv_heads, query_heads, head_dim } = self.extents();
        let rows = 2 * chunk * kv_heads + window_q * query_heads;
        let priors = if self.peaks > 0 { chunk * kv_heads * 4 } else { 0 };
        self.layers * (rows * head_dim * element + window_q * query_heads * 4 + priors)
    }

    fn extents(&self) -> Extents {
        let CacheConfig { chunk, kv_heads, head_dim, .. } = *self;
        Extents { chunk, window_q: self.counted(chunk), kv_heads, query_heads: self.query_heads(), head_dim }
    }
}

impl Waiting {
    fn new(device: &Device, config: &CacheConfig) -> Result<Waiting, DeviceError> {
        let Extents { chunk, window_q, kv_heads, query_heads, head_dim } = config.extents();
        let element = if config.inner_input() == FloatType::F32 { 4 } else { 2 };
        let bytes = |rows: usize| device.zeros(config.layers * rows * head_dim * element);
        let priors = if config.peaks > 0 { config.layers * chunk * kv_heads } else { 0 };
        Ok(Waiting {
            k: bytes(chunk * kv_heads)?,
            v: bytes(chunk * kv_heads)?,
            q: bytes(window_q * query_heads)?,
            lse: device.zeros(config.layers * window_q * query_heads)?,
            priors: device.zeros(priors)?,
        })
    }

    /// Takes in the rows of a piece in a layer: keys, values, priors, and those queries that will count.
    pub(super) fn take_in<E: InputElement>(
        &mut self,
        config: &CacheConfig,
        piece: &Piece,
        layer: usize,
        input: &LayerInput<'_, E>,
    ) -> Result<(), KvError> {
        let Extents { chunk, window_q, kv_heads, query_heads, head_dim } = config.extents();
        let row = kv_heads * head_dim;
        let first = layer * chunk + piece.before;
        copy_in(&mut self.k, first, &input.k, piece.places(), row)?;
        copy_in(&mut self.v, first, &input.v, piece.places(), row)?;
        let (counted, at) = counted(config, piece);
        let places = piece.at + counted.start..piece.at + counted.end;
        copy_in(&mut self.q, layer * window_q + at, &input.q, places, query_heads * head_dim)?;
        if config.peaks > 0 {
            let to = first * kv_heads..(first + piece.rows) * kv_heads;
            match input.priors {
                Some(given) => {
                    let from = given.slice(piece.at * kv_heads..(piece.at + piece.rows) * kv_heads)?;
                    self.priors.slice_mut(to)?.copy_rows(kv_heads, from, kv_heads, [piece.rows, kv_heads])?;
                }
                None => {
                    let own = match config.priors.get(layer * kv_heads..(layer + 1) * kv_heads) {
                        Some(own) => own.repeat(piece.rows),
                        None => vec![0.0; piece.rows * kv_heads],
                    };
                    self.priors.write_at(to.start, &own)?;
                }
            }
        }
        Ok(())
    }

    /// Takes in what attention said of those queries of a piece that will count: `lse` is `[rows, query_heads]` of all of them.
    pub(super) fn take_lse(
        &mut self,
        config: &CacheConfig,
        piece: &Piece,
        layer: usize,
        lse: &DeviceBuffer<f32>,
    ) -> Result<(), KvError> {
        let Extents { window_q, query_heads: heads, .. } = config.extents();
        let (counted, at) = counted(config, piece);
        let to = (layer * window_q + at) * heads;
        let from = lse.slice(counted.start * heads..counted.end * heads)?;
        let to = self.lse.slice_mut(to..to + from.len())?;
        Ok(to.copy_rows(heads, from, heads, [counted.len(), heads])?)
    }

    /// A layer's first `n` keys and values, `[n, kv_heads, head_dim]`.
    pub(super) fn keys_and_values<E: InputElement>(
        &self,
        config: &CacheConfig,
        layer: usize,
        n: usize,
    ) -> Result<[Tensor<'_, E, 3>; 2], KvError> {
        let Extents { chunk, kv_heads, head_dim, .. } = config.extents();
        let part = |all| rows_of::<E>(all, layer * chunk, n, [kv_heads, head_dim]);
        Ok([part(&self.k)?, part(&self.v)?])
    }

    /// A layer's counted queries, `[n, query_heads, head_dim]`, and their logarithms, `[n, query_heads]`.
    pub(super) fn queries<E: InputElement>(
        &self,
        config: &CacheConfig,
        layer: usize,
        n: usize,
    ) -> Result<(Tensor<'_, E, 3>, Tensor<'_, f32, 2>), KvError> {
        let Extents { window_q, query_heads: heads, head_dim, .. } = config.extents();
        let q = rows_of(&self.q, layer * window_q, n, [heads, head_dim])?;
        let first = layer * window_q * heads;
        Ok((q, self.lse.slice(first..first + n * heads)?.tensor([n, heads])))
    }

    /// A layer's first `n` priors, `[n, kv_heads]`.
    pub(super) fn priors(
        &self,
        config: &CacheConfig,
        layer: usize,
        n: usize,
    ) -> Result<Tensor<'_, f32, 2>, KvError> {
        let Extents { chunk, kv_heads, .. } = config.extents();
        let first = layer * chunk * kv_heads;
        Ok(self.priors.slice(first..first + n * kv_heads)?.tensor([n, kv_heads]))
    }
}

/// Which rows of a piece have queries that count, and where the first of them lies among the counted ones of its chunk.
fn counted(config: &CacheConfig, piece: &Piece) -> (Range<usize>, usize) {
    let first = piece.chunk - config.counted(piece.chunk);
    let start = first.clamp(piece.before, piece.there());
    (start - piece.before..piece.rows, start.max(first) - first)
}

/// Copies rows of `row` elements in, from row `first` on.
fn copy_in<E: InputElement>(
    to: &mut DeviceBuffer<u8>,
    first: usize,
    from: &Rows<'_, E>,
    places: Range<usize>,
    row: usize,
) -> Result<(), KvError> {
    let (n, bytes) = (places.len(), row * size_of::<E>());
    let to = to.slice_mut(first * bytes..(first + n) * bytes)?.cast::<E>()?;
    Ok(to.copy_rows(row, from.rows(places, row)?, from.stride(row), [n, row])?)
}

/// `n` rows from row `first` on as a tensor.
fn rows_of<E: InputElement>(
    all: &DeviceBuffer<u8>,
    first: usize,
    n: usize,
    [heads, head_dim]: [usize; 2],
) -> Result<Tensor<'_, E, 3>, KvError> {
    let bytes = heads * head_dim * size_of::<E>();
    Ok(all.slice(first * bytes..(first + n) * bytes)?.cast::<E>()?.tensor([n, heads, head_dim]))
}

impl KvCache {
    /// Makes room for the tokens of a request's chunk that has not ended.
    pub(super) fn make_waiting(&mut self, id: RequestId) -> Result<(), KvError> {
        if self.waiting[id.slot].is_none() {
            let new = match self.spare.take() {
                Some(spare) => spare,
                None => Waiting::new(self.manager.state().device(), &self.config)?,
            };
            self.waiting[id.slot] = Some(new);
        }
        Ok(())
    }

    /// Puts a request's room by, for the next one.
    pub(super) fn put_waiting_by(&mut self, id: RequestId) {
        if let Some(room) = self.waiting[id.slot].take() {
            self.spare.get_or_insert(room);
        }
    }
}
