//! The queries of each request's last decode step: the next step adds their significance.

use half::f16;
use leankv_dsl::lang::launch::Tensor;
use leankv_kernels::pending::{PendingArgs, PendingMutArgs};

use super::CacheConfig;
use super::layer::OfLayer;
use crate::device::{Device, DeviceBuffer, DeviceError};

/// Queries and the logarithms of their sums of exponentials, by slot and layer.
#[derive(Debug)]
pub(super) struct Pending {
    /// `[slots, layers, query_heads, head_dim]`, as the hooks left them.
    q: DeviceBuffer<f16>,
    /// `[slots, layers, query_heads]`; infinity where no query is pending.
    lse: DeviceBuffer<f32>,
    slots: usize,
    layers: usize,
    query_heads: usize,
    head_dim: usize,
}

impl Pending {
    /// Buffers for `slots` requests, in which no query is pending.
    pub(super) fn new(device: &Device, config: &CacheConfig, slots: usize) -> Result<Pending, DeviceError> {
        let (layers, query_heads, head_dim) = (config.layers, config.query_heads(), config.head_dim);
        let rows = slots * layers * query_heads;
        let (q, lse) = (device.zeros(rows * head_dim)?, device.upload(&vec![f32::INFINITY; rows])?);
        Ok(Pending { q, lse, slots, layers, query_heads, head_dim })
    }

    /// Forgets the pending queries of a slot.
    pub(super) fn clear(&mut self, slot: usize) -> Result<(), DeviceError> {
        let rows = self.layers * self.query_heads;
        self.lse.write_at(slot * rows, &vec![f32::INFINITY; rows])
    }

    /// Copies the pending queries of slot `from` to slot `to`, for a fork.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), DeviceError> {
        let rows = self.layers * self.query_heads;
        let d = self.head_dim;
        self.q.copy_within(from * rows * d..(from + 1) * rows * d, to * rows * d)?;
        self.lse.copy_within(from * rows..(from + 1) * rows, to * rows)
    }

    /// What decode attention reads of a layer's. `newest` is where the tokens lie that came after these queries.
    pub(super) fn read<'a>(
        &'a self,
        layer: usize,
        newest: Tensor<'a, i32, 3>,
    ) -> Result<PendingArgs<'a>, DeviceError> {
        let of = self.of(layer);
        let lse = self.lse.slice(layer * self.query_heads..)?.tensor([self.slots, self.query_heads]);
        let lse = lse.strided([self.layers * self.query_heads, 1]);
        Ok(PendingArgs { q: of.read(&self.q, self.head_dim)?, lse, newest })
    }

    /// What a merge overwrites of a layer's.
    pub(super) fn write(&mut self, layer: usize) -> Result<PendingMutArgs<'_>, DeviceError> {
        let of = self.of(layer);
        let lse = self.lse.slice_mut(layer * self.query_heads..)?.tensor([self.slots, self.query_heads]);
        let lse = lse.strided([self.layers * self.query_heads, 1]);
        Ok(PendingMutArgs { q: of.write(&mut self.q, self.head_dim)?, lse })
    }

    fn of(&self, layer: usize) -> OfLayer {
        OfLayer { slots: self.slots, layers: self.layers, heads: self.query_heads, layer }
    }
}
