//! A prompt's queries, keys and values, kept for other requests with the same prompt.
//!
//! A chunk of a prompt attends to itself in FP16 whatever its cache's formats are. So where a prompt is one chunk, hidden states do not
//! depend on how it is cached, and one pass of the model serves every cache.

use half::f16;
use leankv_runtime::kv::{KvCache, KvError, PromptChunk, RequestId};
use leankv_runtime::{BufferView, Device, DeviceBuffer};

use crate::error::ModelError;
use crate::statistics::Priors;

/// What every layer was given.
#[derive(Debug, Default)]
pub struct Recorded {
    layers: Vec<RecordedLayer>,
}

/// The rows of a layer on a device, as [`LayerRows`](crate::LayerRows) says.
#[derive(Debug)]
pub(super) struct RecordedLayer {
    pub(super) q: DeviceBuffer<f16>,
    pub(super) k: DeviceBuffer<f16>,
    pub(super) v: DeviceBuffer<f16>,
    pub(super) priors: Option<DeviceBuffer<f32>>,
}

impl RecordedLayer {
    /// Its priors, if the cache has a use for them.
    pub(super) fn priors_for(&self, cache: &KvCache) -> Option<&DeviceBuffer<f32>> {
        self.priors.as_ref().filter(|_| cache.config().peaks > 0)
    }

    /// Gives it to the next layer of a chunk, with priors of the caller's instead of its own, if any.
    pub(super) fn give<'c>(
        &self,
        chunk: &'c mut PromptChunk<'_>,
        priors: Option<&DeviceBuffer<f32>>,
    ) -> Result<BufferView<'c, f32>, KvError> {
        let priors = priors.or(self.priors_for(chunk.cache()));
        chunk.layer_with_priors(&self.q, &self.k, &self.v, priors)
    }
}

impl Recorded {
    /// Nothing yet.
    pub fn new() -> Recorded {
        Recorded::default()
    }

    pub(super) fn push(&mut self, layer: RecordedLayer) {
        self.layers.push(layer);
    }

    /// Gives it to another request, whose prompt is the same and one chunk; with other priors, if any.
    ///
    /// # Errors
    /// What the cache says, for tensors of another length too.
    pub fn replay(
        &self,
        device: &Device,
        cache: &mut KvCache,
        request: RequestId,
        priors: Option<&Priors>,
    ) -> Result<(), ModelError> {
        let mut chunk = cache.prefill_chunk(request)?;
        for (at, layer) in self.layers.iter().enumerate() {
            let own = priors.map(|priors| device.upload(priors.of(at, chunk.positions()))).transpose()?;
            layer.give(&mut chunk, own.as_ref())?;
        }
        Ok(chunk.finish()?)
    }
}
