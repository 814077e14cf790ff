//! A decode step that is under way.

use leankv_dsl::lang::FloatType;

use super::mixed::Step;
use super::{InputElement, KvCache, LayerInput, RequestId};
use crate::device::{BufferView, DeviceBuffer};
use crate::kv::KvError;

/// A decode step: its pages are there, and its layers are done one after another. Dropped before its end it leaves requests that can only
/// be freed, unless no layer was done.
#[derive(Debug)]
pub struct DecodeStep<'a> {
    cache: &'a mut KvCache,
    step: Step,
}

impl<'a> DecodeStep<'a> {
    pub(super) fn new(cache: &'a mut KvCache, step: Step) -> DecodeStep<'a> {
        DecodeStep { cache, step }
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        self.cache
    }

    /// The requests of the batch, in the order of rows of all tensors.
    pub fn requests(&self) -> &[RequestId] {
        &self.step.requests
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

    /// As [`layer`](DecodeStep::layer), with what the peaks of the new tokens start from: see [`LayerInput::priors`].
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
        let input = LayerInput { q: q.into(), k: k.into(), v: v.into(), priors };
        self.cache.layer_of(&mut self.step, &input)
    }

    /// Ends the step: the sequences are one token longer.
    ///
    /// # Errors
    /// [`KvError::Length`] when layers are missing; the requests can then only be freed. What the launch says.
    pub fn finish(self) -> Result<(), KvError> {
        self.cache.finish_of(&self.step)
    }
}

impl KvCache {
    /// The next layer of a step, for who has no buffer for its output.
    pub(super) fn layer_of<E: InputElement>(
        &mut self,
        step: &mut Step,
        input: &LayerInput<'_, E>,
    ) -> Result<BufferView<'_, f32>, KvError> {
        if self.config.output != FloatType::F32 {
            return Err(KvError::Output { expected: self.config.output, got: FloatType::F32 });
        }
        self.step_through(step, input)?;
        let result = self.keep(step.next - 1, step.rows);
        self.remember(result)?;
        self.kept(step.rows)
    }

    /// Ends a step, if all its layers are done.
    pub(super) fn finish_of(&mut self, step: &Step) -> Result<(), KvError> {
        let layers = self.config.layers;
        if step.next != layers {
            return Err(KvError::Length { what: "layers of a step", expected: layers, got: step.next });
        }
        self.close_step(step)
    }
}
