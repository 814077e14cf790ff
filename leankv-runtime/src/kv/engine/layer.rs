//! One layer's part of what is stored for all of them.

use leankv_dsl::lang::launch::{Tensor, TensorMut};

use crate::device::{DeviceBuffer, DeviceError};
use crate::element::Element;

/// A layer of buffers `[slots, layers, heads, columns]`, whatever their columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfLayer {
    pub(super) slots: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) layer: usize,
}

impl OfLayer {
    /// `[slots, heads, columns]`, to read.
    pub(super) fn read<'a, T: Element>(
        &self,
        buffer: &'a DeviceBuffer<T>,
        columns: usize,
    ) -> Result<Tensor<'a, T, 3>, DeviceError> {
        Ok(buffer.slice(self.start(columns)..)?.tensor(self.extents(columns)).strided(self.strides(columns)))
    }

    /// `[slots, heads, columns]`, to write.
    pub(super) fn write<'a, T: Element>(
        &self,
        buffer: &'a mut DeviceBuffer<T>,
        columns: usize,
    ) -> Result<TensorMut<'a, T, 3>, DeviceError> {
        let part = buffer.slice_mut(self.start(columns)..)?;
        Ok(part.tensor(self.extents(columns)).strided(self.strides(columns)))
    }

    fn start(&self, columns: usize) -> usize {
        self.layer * self.heads * columns
    }

    fn extents(&self, columns: usize) -> [usize; 3] {
        [self.slots, self.heads, columns]
    }

    fn strides(&self, columns: usize) -> [usize; 3] {
        [self.layers * self.heads * columns, columns, 1]
    }
}
