//! What attention gives.

use std::ops::Range;

use leankv_dsl::lang::launch::TensorMut;

use super::{CacheConfig, InputElement, KvCache, RowsMut};
use crate::device::{BufferView, Device, DeviceBuffer, DeviceError};
use crate::kv::KvError;

/// Room for the output of one layer of a step.
#[derive(Debug)]
pub(super) struct Outputs {
    /// What attention gives, in the basis of the cache: `[rows, query_heads, head_dim]`.
    pub(super) attended: DeviceBuffer<f32>,
    /// The same out of the basis, for who has no buffer of his own; none where the two are the same, and while it is written.
    own: Option<DeviceBuffer<f32>>,
    /// How many rows there is room for.
    rows: usize,
}

impl Outputs {
    pub(super) fn new(device: &Device, config: &CacheConfig, rows: usize) -> Result<Outputs, DeviceError> {
        let len = rows * config.query_heads() * config.head_dim;
        let own = config.output_changes().then(|| device.zeros(len)).transpose()?;
        Ok(Outputs { attended: device.zeros(len)?, own, rows })
    }

    /// Where attention leaves some rows.
    pub(super) fn rows(
        &mut self,
        of: Range<usize>,
        [heads, head_dim]: [usize; 2],
    ) -> Result<TensorMut<'_, f32, 3>, DeviceError> {
        let (n, row) = (of.len(), heads * head_dim);
        Ok(self.attended.slice_mut(of.start * row..of.end * row)?.tensor([n, heads, head_dim]))
    }

    #[cfg(test)]
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut DeviceBuffer<f32>> {
        [&mut self.attended].into_iter().chain(&mut self.own)
    }
}

impl KvCache {
    /// Makes room for steps of `rows` rows. Nothing of the last step's is kept.
    pub(super) fn make_rows(&mut self, rows: usize) -> Result<(), KvError> {
        if rows > self.outputs.rows {
            let device = self.manager.state().device().clone();
            self.outputs = Outputs::new(&device, &self.config, rows)?;
            self.basis.grow(&device, &self.config, rows)?;
        }
        Ok(())
    }

    /// Gives what attention gave for the first `n` rows of a layer to the caller, in his type.
    pub(super) fn give<O: InputElement>(
        &mut self,
        layer: usize,
        n: usize,
        out: RowsMut<'_, O>,
    ) -> Result<(), KvError> {
        if self.config.output_changes() {
            return self.leave_basis(layer, n, &self.outputs, out);
        }
        let row = self.config.query_heads() * self.config.head_dim;
        Ok(out.copy_from(n, row, self.outputs.attended.slice(..n * row)?.cast()?)?)
    }

    /// Brings what attention gave for the first `n` rows of a layer out of the basis, into the cache's own buffer.
    pub(super) fn keep(&mut self, layer: usize, n: usize) -> Result<(), KvError> {
        let Some(mut own) = self.outputs.own.take() else { return Ok(()) };
        let part =
            own.slice_mut(..n * self.config.query_heads() * self.config.head_dim).map_err(KvError::from);
        let result = part.and_then(|part| self.leave_basis(layer, n, &self.outputs, part.into()));
        self.outputs.own = Some(own);
        result
    }

    /// What was kept, of the first `n` rows.
    pub(super) fn kept(&self, n: usize) -> Result<BufferView<'_, f32>, KvError> {
        let kept = self.outputs.own.as_ref().unwrap_or(&self.outputs.attended);
        Ok(kept.slice(..n * self.config.query_heads() * self.config.head_dim)?)
    }
}
