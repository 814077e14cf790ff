//! What each request's last decode step found for its next one: the tokens that a plan may change.

use leankv_dsl::lang::launch::Tensor;
use leankv_kernels::candidates::{ShortlistArgs, ShortlistMutArgs, ShortlistState, shortlist_columns};

use super::CacheConfig;
use super::layer::OfLayer;
use crate::device::{Device, DeviceBuffer, DeviceError};

/// Candidates, by slot, layer and KV head; see [`leankv_kernels::candidates`].
#[derive(Debug)]
pub(super) struct Shortlist {
    /// `[slots, layers, kv_heads, 3 * splits]`.
    sig: DeviceBuffer<f32>,
    /// `[slots, layers, kv_heads, 6 * splits]`.
    at: DeviceBuffer<i32>,
    /// `[slots, layers, kv_heads, 5]`.
    state: DeviceBuffer<i32>,
    slots: usize,
    layers: usize,
    heads: usize,
    columns: [usize; 2],
}

impl Shortlist {
    /// None, for `slots` requests.
    pub(super) fn new(device: &Device, config: &CacheConfig, slots: usize) -> Result<Shortlist, DeviceError> {
        let (layers, heads) = (config.layers, config.kv_heads);
        let columns = shortlist_columns(config.splits);
        let rows = slots * layers * heads;
        Ok(Shortlist {
            sig: device.zeros(rows * columns[0])?,
            at: device.zeros(rows * columns[1])?,
            state: device.upload(&vec![-1; rows * ShortlistState::COLUMNS])?,
            slots,
            layers,
            heads,
            columns,
        })
    }

    /// None of a slot: the next plan of its request looks for itself.
    pub(super) fn clear(&mut self, slot: usize) -> Result<(), DeviceError> {
        let numbers = self.layers * self.heads * ShortlistState::COLUMNS;
        self.state.write_at(slot * numbers, &vec![-1; numbers])
    }

    /// None of any slot.
    pub(super) fn clear_all(&mut self) -> Result<(), DeviceError> {
        self.state.write(&vec![-1; self.state.len()])
    }

    /// What they hold for, `[slots, layers, kv_heads, 5]`.
    #[cfg(test)]
    pub(super) fn state(&self) -> Result<Vec<i32>, DeviceError> {
        self.state.to_vec()
    }

    /// What a plan reads, of all layers.
    pub(super) fn read(&self) -> ShortlistArgs<'_> {
        let of = |columns: usize| [self.slots, self.layers, self.heads, columns];
        ShortlistArgs {
            sig: self.sig.tensor(of(self.columns[0])),
            at: self.at.tensor(of(self.columns[1])),
            state: self.state.tensor(of(ShortlistState::COLUMNS)),
        }
    }

    /// What decode attention overwrites of a layer's, for requests whose prompts have these lengths.
    pub(super) fn write<'a>(
        &'a mut self,
        layer: usize,
        prompts: Tensor<'a, i32, 1>,
    ) -> Result<ShortlistMutArgs<'a>, DeviceError> {
        let of = OfLayer { slots: self.slots, layers: self.layers, heads: self.heads, layer };
        Ok(ShortlistMutArgs {
            prompts,
            sig: of.write(&mut self.sig, self.columns[0])?,
            at: of.write(&mut self.at, self.columns[1])?,
            state: of.write(&mut self.state, ShortlistState::COLUMNS)?,
        })
    }
}
