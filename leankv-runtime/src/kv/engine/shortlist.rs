//! What each request's last decode step found for its next one: the tokens that a plan may change.

use leankv_dsl::lang::launch::TensorMut;
use leankv_kernels::candidates::{SHORTLIST_COLUMNS, ShortlistArgs, ShortlistMutArgs, ShortlistState};

use super::CacheConfig;
use super::layer::OfLayer;
use crate::device::{Device, DeviceBuffer, DeviceError};

/// Candidates, by slot, layer and KV head; see [`leankv_kernels::candidates`].
#[derive(Debug)]
pub(super) struct Shortlist {
    /// `[slots, layers, kv_heads, 3]`.
    sig: DeviceBuffer<f32>,
    /// `[slots, layers, kv_heads, 6]`.
    at: DeviceBuffer<i32>,
    /// `[slots, layers, kv_heads, 5]`.
    state: DeviceBuffer<i32>,
    slots: usize,
    layers: usize,
    heads: usize,
}

impl Shortlist {
    /// None, for `slots` requests.
    pub(super) fn new(device: &Device, config: &CacheConfig, slots: usize) -> Result<Shortlist, DeviceError> {
        let (layers, heads) = (config.layers, config.kv_heads);
        let [sigs, ats] = SHORTLIST_COLUMNS;
        let rows = slots * layers * heads;
        Ok(Shortlist {
            sig: device.zeros(rows * sigs)?,
            at: device.zeros(rows * ats)?,
            state: device.upload(&vec![-1; rows * ShortlistState::COLUMNS])?,
            slots,
            layers,
            heads,
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
        let [sigs, ats] = SHORTLIST_COLUMNS;
        ShortlistArgs {
            sig: self.sig.tensor(of(sigs)),
            at: self.at.tensor(of(ats)),
            state: self.state.tensor(of(ShortlistState::COLUMNS)),
        }
    }

    /// What decode attention overwrites of a layer's: what it holds for, `[slots, kv_heads, 5]`.
    pub(super) fn write_state(&mut self, layer: usize) -> Result<TensorMut<'_, i32, 3>, DeviceError> {
        self.of(layer).write(&mut self.state, ShortlistState::COLUMNS)
    }

    /// What a merge overwrites of a layer's: the candidates.
    pub(super) fn write(&mut self, layer: usize) -> Result<ShortlistMutArgs<'_>, DeviceError> {
        let (of, [sigs, ats]) = (self.of(layer), SHORTLIST_COLUMNS);
        Ok(ShortlistMutArgs { sig: of.write(&mut self.sig, sigs)?, at: of.write(&mut self.at, ats)? })
    }

    fn of(&self, layer: usize) -> OfLayer {
        OfLayer { slots: self.slots, layers: self.layers, heads: self.heads, layer }
    }
}
