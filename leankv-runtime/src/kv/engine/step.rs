//! A decode step that is under way.

use super::basis::{Of, Part};
use super::batch::Run;
use super::{InputElement, KvCache, RequestId};
use crate::device::{BufferView, DeviceBuffer};
use crate::kv::KvError;

/// A decode step: its pages are there, and its layers are done one after another. Dropped before its end it leaves requests that can only
/// be freed, unless no layer was done.
#[derive(Debug)]
pub struct DecodeStep<'a> {
    cache: &'a mut KvCache,
    requests: Vec<RequestId>,
    runs: Vec<Run>,
    next: usize,
}

impl<'a> DecodeStep<'a> {
    pub(super) fn new(cache: &'a mut KvCache, requests: &[RequestId]) -> DecodeStep<'a> {
        let runs = cache.runs(requests);
        DecodeStep { cache, requests: requests.to_vec(), runs, next: 0 }
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        self.cache
    }

    /// The requests of the batch, in the order of rows of all tensors.
    pub fn requests(&self) -> &[RequestId] {
        &self.requests
    }

    /// Inserts the new tokens of the next layer and attends to all that it holds, the new tokens included. Gives
    /// `[requests, query_heads, head_dim]`, which the next call overwrites.
    ///
    /// `q` is `[requests, query_heads, head_dim]`, `k` and `v` are `[requests, kv_heads, head_dim]`, queries and keys after RoPE.
    ///
    /// # Errors
    /// [`KvError::Input`] for another element type than [`CacheConfig::input`](super::CacheConfig::input), [`KvError::Length`] when all layers are done
    /// and for buffers of another length, [`DeviceError::WrongDevice`](crate::DeviceError)
    /// for buffers of another device, all with nothing changed; what the launches say, after which the cache is poisoned.
    pub fn layer<E: InputElement>(
        &mut self,
        q: &DeviceBuffer<E>,
        k: &DeviceBuffer<E>,
        v: &DeviceBuffer<E>,
    ) -> Result<BufferView<'_, f32>, KvError> {
        self.layer_with_priors(q, k, v, None)
    }

    /// As [`layer`](DecodeStep::layer), with what the peaks of the new tokens start from: `priors` is `[requests, kv_heads]`; none for those of
    /// [`CacheConfig::priors`](super::CacheConfig::priors). A prior is a share of attention, from 0 to 1; a cache that keeps no peaks ([`CacheConfig::peaks`](super::CacheConfig::peaks)) takes none.
    ///
    /// # Errors
    /// As [`layer`](DecodeStep::layer), and [`KvError::Length`] for another number of priors.
    pub fn layer_with_priors<E: InputElement>(
        &mut self,
        q: &DeviceBuffer<E>,
        k: &DeviceBuffer<E>,
        v: &DeviceBuffer<E>,
        priors: Option<&DeviceBuffer<f32>>,
    ) -> Result<BufferView<'_, f32>, KvError> {
        self.cache.alive()?;
        let (layers, n) = (self.cache.config.layers, self.requests.len());
        if self.next == layers {
            return Err(KvError::Length { what: "layers of a step", expected: layers, got: layers + 1 });
        }
        let whats = [
            "q [requests, query_heads, head_dim]",
            "k [requests, kv_heads, head_dim]",
            "v [requests, kv_heads, head_dim]",
        ];
        let queries = self.cache.check_rows(n, whats, q, k, v)?;
        self.cache.check_priors(n, priors)?;
        if n > 0 {
            if self.next == 0 {
                self.cache.mark(&self.requests, true);
            }
            let part = Part { layer: self.next, n, of: Of::Step(&self.runs) };
            let result = self.cache.layer(part, [q, k, v], priors);
            self.cache.remember(result)?;
        }
        self.next += 1;
        Ok(self.cache.scratch.out.slice(..queries)?)
    }

    /// Ends the step: the sequences are one token longer.
    ///
    /// # Errors
    /// [`KvError::Length`] when layers are missing; the requests can then only be freed. What the launch says.
    pub fn finish(self) -> Result<(), KvError> {
        let layers = self.cache.config.layers;
        if self.next != layers {
            return Err(KvError::Length { what: "layers of a step", expected: layers, got: self.next });
        }
        self.cache.advance(self.requests.len())?;
        self.cache.mark(&self.requests, false);
        self.cache.advanced(&self.requests);
        Ok(())
    }
}
