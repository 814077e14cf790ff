//! A prompt's queries, keys and values, kept for other requests with the same prompt.
//!
//! A chunk of a prompt attends to itself in FP16 whatever its cache's formats are. So where a prompt is one chunk, hidden states do not
//! depend on how it is cached, and one pass of the model serves every cache.

use half::f16;
use leankv_runtime::DeviceBuffer;
use leankv_runtime::kv::{KvCache, RequestId};

use crate::error::ModelError;

/// What every layer was given.
#[derive(Debug, Default)]
pub struct Recorded {
    layers: Vec<[DeviceBuffer<f16>; 3]>,
}

impl Recorded {
    /// Nothing yet.
    pub fn new() -> Recorded {
        Recorded::default()
    }

    pub(super) fn push(&mut self, layer: [DeviceBuffer<f16>; 3]) {
        self.layers.push(layer);
    }

    /// Gives it to another request, whose prompt is the same and one chunk.
    ///
    /// # Errors
    /// What the cache says, for tensors of another length too.
    pub fn replay(&self, cache: &mut KvCache, request: RequestId) -> Result<(), ModelError> {
        let mut chunk = cache.prefill_chunk(request)?;
        for [q, k, v] in &self.layers {
            chunk.layer(q, k, v)?;
        }
        Ok(chunk.finish()?)
    }
}
