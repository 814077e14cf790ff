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
        self.layers.iter().map(|[q, k, v]| Ok([numbers(q)?, numbers(k)?, numbers(v)?])).collect()
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
