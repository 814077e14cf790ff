//! A cache's buffers on a device.

use leankv_kernels::reference::PageState;

use super::size::check_bytes;
use super::{CacheShape, KvError};
use crate::device::{Device, DeviceBuffer, DeviceError};

/// All that a cache knows, in device memory. `lists` counts (layer, KV head) pairs, layer by layer.
#[derive(Debug)]
pub struct State {
    shape: CacheShape,
    /// Pages: `[pages, page_bytes]`.
    pub arena: DeviceBuffer<u8>,
    /// Page numbers: `[slots, lists, table_len]`; high page `k` at `k`, low page `k` at `table_len - 1 - k`, -1 where there is none.
    pub table: DeviceBuffer<i32>,
    /// Tokens: `[slots, lists, 4]`; high, low, frozen high, frozen low.
    pub lengths: DeviceBuffer<i32>,
    /// Pages held: `[slots, lists, 2]`.
    pub held: DeviceBuffer<i32>,
    /// Tokens of a high and of a low page, in the formats of the request: `[slots, lists, 2]`; 0 for a low tier that a layer does not have.
    pub page_tokens: DeviceBuffer<i32>,
    /// High and low threshold: `[slots, lists, 2]`.
    pub thresholds: DeviceBuffer<f32>,
    /// Lists that hold a page: `[pages]`.
    pub refs: DeviceBuffer<i32>,
    /// How often a page was taken: `[pages]`.
    pub generation: DeviceBuffer<i32>,
    /// Free pages, between the cursors: `[pages]`.
    pub ring: DeviceBuffer<i32>,
    /// Pages taken from the ring and given to it since the start: `[2]`.
    pub cursors: DeviceBuffer<i64>,
}

impl State {
    /// What the address of an arena is a multiple of, in bytes.
    pub const ALIGNMENT: u64 = 128;

    /// Empty lists; all pages free.
    ///
    /// # Errors
    /// [`KvError::Shape`], also for more bytes than the device has, and [`DeviceError::OutOfMemory`] when it has no room for them now.
    pub fn new(device: &Device, shape: CacheShape) -> Result<State, KvError> {
        shape.check()?;
        check_bytes(shape.bytes(), &shape, Some(device))?;
        // The largest first, so that a lack of room is found before the rest is made.
        State::over(device, shape, device.zeros(shape.arena_bytes())?)
    }

    /// As [`State::new`], with pages in memory that is there. What it holds does not matter.
    ///
    /// # Errors
    /// [`KvError::Length`] for an arena of another length, [`KvError::Unaligned`] for one that starts elsewhere than at a multiple of [`State::ALIGNMENT`],
    /// [`DeviceError::WrongDevice`], and as [`State::new`].
    pub fn over(device: &Device, shape: CacheShape, arena: DeviceBuffer<u8>) -> Result<State, KvError> {
        shape.check()?;
        let (what, expected) = ("bytes of the arena", shape.arena_bytes());
        if arena.len() != expected {
            return Err(KvError::Length { what, expected, got: arena.len() });
        }
        if !arena.device().same_as(device) {
            return Err(DeviceError::WrongDevice { what }.into());
        }
        let (bytes, multiple) = (arena.address(), State::ALIGNMENT);
        if !bytes.is_multiple_of(multiple) {
            return Err(KvError::Unaligned { what: "the arena", bytes, multiple });
        }
        let empty = PageState::new(shape.page_shape());
        Ok(State {
            shape,
            arena,
            table: device.upload(&empty.table)?,
            lengths: device.upload(&empty.lengths)?,
            held: device.upload(&empty.held)?,
            page_tokens: device.upload(&empty.page_tokens)?,
            thresholds: device.upload(&empty.thresholds)?,
            refs: device.upload(&empty.refs)?,
            generation: device.upload(&empty.generation)?,
            ring: device.upload(&empty.ring)?,
            cursors: device.upload(&empty.cursors)?,
        })
    }

    /// The extents.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        self.arena.device()
    }

    /// A copy of all but the arena, after the work queued so far.
    ///
    /// # Errors
    /// What the device says.
    pub fn snapshot(&self) -> Result<PageState, DeviceError> {
        let cursors = self.cursors.to_vec()?;
        Ok(PageState {
            shape: self.shape.page_shape(),
            table: self.table.to_vec()?,
            held: self.held.to_vec()?,
            lengths: self.lengths.to_vec()?,
            page_tokens: self.page_tokens.to_vec()?,
            thresholds: self.thresholds.to_vec()?,
            refs: self.refs.to_vec()?,
            generation: self.generation.to_vec()?,
            ring: self.ring.to_vec()?,
            cursors: [cursors[0], cursors[1]],
        })
    }
}

/// A slot's numbers of a buffer that has so many for each.
pub(super) fn of_slot(all: &DeviceBuffer<i32>, slot: usize, each: usize) -> Result<Vec<i32>, DeviceError> {
    let mut own = vec![0; each];
    all.slice(slot * each..(slot + 1) * each)?.read_into(&mut own)?;
    Ok(own)
}
