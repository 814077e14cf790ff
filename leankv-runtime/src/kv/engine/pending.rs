//! The queries of each request's last decode step: the next step adds their significance.

use half::f16;

use super::CacheConfig;
use crate::device::{Device, DeviceBuffer, DeviceError};
use crate::launch::Launch;

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
    /// None, for `slots` requests.
    pub(super) fn new(device: &Device, config: &CacheConfig, slots: usize) -> Result<Pending, DeviceError> {
        let (layers, query_heads, head_dim) = (config.layers, config.query_heads(), config.head_dim);
        let rows = slots * layers * query_heads;
        let (q, lse) = (device.zeros(rows * head_dim)?, device.upload(&vec![f32::INFINITY; rows])?);
        Ok(Pending { q, lse, slots, layers, query_heads, head_dim })
    }

    /// None of a slot.
    pub(super) fn clear(&mut self, slot: usize) -> Result<(), DeviceError> {
        let rows = self.layers * self.query_heads;
        self.lse.write_at(slot * rows, &vec![f32::INFINITY; rows])
    }

    /// Those of a slot are those of another one too.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), DeviceError> {
        let rows = self.layers * self.query_heads;
        let d = self.head_dim;
        self.q.copy_within(from * rows * d..(from + 1) * rows * d, to * rows * d)?;
        self.lse.copy_within(from * rows..(from + 1) * rows, to * rows)
    }

    /// A launch that reads those of a layer.
    pub(super) fn read<'a>(&'a self, launch: Launch<'a>, layer: usize) -> Result<Launch<'a>, DeviceError> {
        let (q, lse) = (self.extents(true), self.extents(false));
        let at = layer * self.query_heads;
        let launch = launch.view_strided("pending.q", self.q.slice(at * self.head_dim..)?, &q.0, &q.1);
        Ok(launch.view_strided("pending.lse", self.lse.slice(at..)?, &lse.0[..2], &lse.1[..2]))
    }

    /// A launch that overwrites those of a layer.
    pub(super) fn write<'a>(
        &'a mut self,
        launch: Launch<'a>,
        layer: usize,
    ) -> Result<Launch<'a>, DeviceError> {
        let (q, lse) = (self.extents(true), self.extents(false));
        let at = layer * self.query_heads;
        let rows = self.q.slice_mut(at * self.head_dim..)?;
        let launch = launch.view_mut_strided("pending.q", rows, &q.0, &q.1);
        Ok(launch.view_mut_strided("pending.lse", self.lse.slice_mut(at..)?, &lse.0[..2], &lse.1[..2]))
    }

    /// Extents and strides of one layer's rows: of vectors, or of one number each.
    fn extents(&self, vectors: bool) -> ([usize; 3], [usize; 3]) {
        let d = if vectors { self.head_dim } else { 1 };
        let heads = self.query_heads;
        ([self.slots, heads, d], [self.layers * heads * d, d, 1])
    }
}
