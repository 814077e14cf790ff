//! What each request's last decode step found for its next one: the tokens that a plan may change.

use leankv_kernels::candidates::{SHORTLIST_STATE, shortlist_columns};

use super::CacheConfig;
use crate::device::{Device, DeviceBuffer, DeviceError};
use crate::launch::Launch;

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
            state: device.upload(&vec![-1; rows * SHORTLIST_STATE])?,
            slots,
            layers,
            heads,
            columns,
        })
    }

    /// None of a slot: the next plan of its request looks for itself.
    pub(super) fn clear(&mut self, slot: usize) -> Result<(), DeviceError> {
        let numbers = self.layers * self.heads * SHORTLIST_STATE;
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

    /// A launch that reads those of all layers.
    pub(super) fn read<'a>(&'a self, launch: Launch<'a>) -> Launch<'a> {
        let of = |columns: usize| [self.slots, self.layers, self.heads, columns];
        launch
            .view("shortlist.sig", &self.sig, &of(self.columns[0]))
            .view("shortlist.at", &self.at, &of(self.columns[1]))
            .view("shortlist.state", &self.state, &of(SHORTLIST_STATE))
    }

    /// A launch that overwrites those of a layer.
    pub(super) fn write<'a>(
        &'a mut self,
        launch: Launch<'a>,
        layer: usize,
    ) -> Result<Launch<'a>, DeviceError> {
        let (layers, heads, slots) = (self.layers, self.heads, self.slots);
        let shape = |columns: usize| ([slots, heads, columns], [layers * heads * columns, columns, 1]);
        let at = layer * heads;
        let (sig, numbers, state) = (shape(self.columns[0]), shape(self.columns[1]), shape(SHORTLIST_STATE));
        let launch = launch.view_mut_strided(
            "shortlist.sig",
            self.sig.slice_mut(at * self.columns[0]..)?,
            &sig.0,
            &sig.1,
        );
        let launch = launch.view_mut_strided(
            "shortlist.at",
            self.at.slice_mut(at * self.columns[1]..)?,
            &numbers.0,
            &numbers.1,
        );
        let of = self.state.slice_mut(at * SHORTLIST_STATE..)?;
        Ok(launch.view_mut_strided("shortlist.state", of, &state.0, &state.1))
    }
}
