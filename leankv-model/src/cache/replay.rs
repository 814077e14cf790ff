//! A prompt's queries, keys and values, kept for other requests with the same prompt.
//!
//! A chunk of a prompt attends to itself in FP16 whatever its cache's formats are. So where a prompt is one chunk, hidden states do not
//! depend on how it is cached, and one pass of the model serves every cache.

use half::f16;
use leankv_runtime::kv::{KvCache, KvError, PromptChunk, RequestId};
use leankv_runtime::{BufferView, DeviceBuffer};

use crate::error::ModelError;

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

    /// Gives it to the next layer of a chunk.
    pub(super) fn give<'c>(&self, chunk: &'c mut PromptChunk<'_>) -> Result<BufferView<'c, f32>, KvError> {
        let priors = self.priors_for(chunk.cache());
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

    /// Queries, keys and values of every layer, as numbers.
    ///
    /// # Errors
    /// What the device says.
    pub fn read(&self) -> Result<Vec<[Vec<f32>; 3]>, ModelError> {
        let numbers = |buffer: &DeviceBuffer<f16>| -> Result<Vec<f32>, ModelError> {
            let mut halves = vec![f16::ZERO; buffer.len()];
            buffer.as_view().read_into(&mut halves)?;
            Ok(halves.into_iter().map(f16::to_f32).collect())
        };
        self.layers.iter().map(|of| Ok([numbers(&of.q)?, numbers(&of.k)?, numbers(&of.v)?])).collect()
    }

    /// Gives it to another request, whose prompt is the same and one chunk.
    ///
    /// # Errors
    /// What the cache says, for tensors of another length too.
    pub fn replay(&self, cache: &mut KvCache, request: RequestId) -> Result<(), ModelError> {
        let mut chunk = cache.prefill_chunk(request)?;
        for layer in &self.layers {
            layer.give(&mut chunk)?;
        }
        Ok(chunk.finish()?)
    }
}
