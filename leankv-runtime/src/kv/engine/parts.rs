//! What the splits of one layer's attention leave for their merge.

use leankv_kernels::candidates::{FindsArgs, SHORTLIST_COLUMNS};
use leankv_kernels::decode::PartialsArgs;

use super::CacheConfig;
use crate::device::{Device, DeviceBuffer, DeviceError};

/// Room for the parts of as many requests as there are slots, in as many splits as the longest list can have.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) splits: DeviceBuffer<i32>,
    pub(super) lse: DeviceBuffer<f32>,
    pub(super) out: DeviceBuffer<f32>,
    pub(super) sig: DeviceBuffer<f32>,
    pub(super) at: DeviceBuffer<i32>,
    slots: usize,
    kv_heads: usize,
    query_heads: usize,
    head_dim: usize,
}

impl Parts {
    pub(super) fn new(
        device: &Device,
        config: &CacheConfig,
        slots: usize,
        splits: usize,
    ) -> Result<Parts, DeviceError> {
        let CacheConfig { kv_heads, head_dim, .. } = *config;
        let query_heads = config.query_heads();
        let (lists, rows) = (slots * kv_heads, slots * query_heads * splits);
        let [sigs, ats] = SHORTLIST_COLUMNS;
        Ok(Parts {
            splits: device.zeros(lists)?,
            lse: device.zeros(rows)?,
            out: device.zeros(rows * head_dim)?,
            sig: device.zeros(lists * sigs * splits)?,
            at: device.zeros(lists * ats * splits)?,
            slots,
            kv_heads,
            query_heads,
            head_dim,
        })
    }

    /// For a launch of `n` requests in `splits` splits. What the launch before left is gone.
    pub(super) fn of(
        &mut self,
        n: usize,
        splits: usize,
    ) -> Result<(PartialsArgs<'_>, FindsArgs<'_>), DeviceError> {
        let &mut Parts { slots, kv_heads, query_heads, head_dim, .. } = self;
        let rows = n * query_heads * splits;
        let [sigs, ats] = SHORTLIST_COLUMNS;
        let partials = PartialsArgs {
            splits: self.splits.slice_mut(..n * kv_heads)?.tensor([n, kv_heads]),
            lse: self.lse.slice_mut(..rows)?.tensor([n, query_heads, splits]),
            out: self.out.slice_mut(..rows * head_dim)?.tensor([n, query_heads, splits, head_dim]),
        };
        let of_slots = slots * kv_heads * splits;
        let finds = FindsArgs {
            sig: self.sig.slice_mut(..of_slots * sigs)?.tensor([slots, kv_heads, sigs, splits]),
            at: self.at.slice_mut(..of_slots * ats)?.tensor([slots, kv_heads, ats, splits]),
        };
        Ok((partials, finds))
    }
}
