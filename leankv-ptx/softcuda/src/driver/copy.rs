//! Copies and fills.
//!
//! What a program may rely on, and no more, decides when memory of the program is touched:
//! * page-locked memory is read or written when the copy runs, which in deferred order is as late as possible;
//! * other memory is read when the call is made, and a copy into it is waited for.

use std::sync::MutexGuard;

use super::queue::{Side, Submitted, Work};
use super::{Driver, State, stream};
use crate::code::{Res, invalid};
use crate::handles::Id;
use crate::types::HostPointer;

/// One end of a copy, as the program named it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Device memory.
    Device(u64),
    /// The program's memory.
    Host(HostPointer),
    /// Either; the tables know.
    Any(u64),
}

impl State {
    fn place(&self, place: Place) -> Place {
        match place {
            Place::Any(address) if self.device_block(address, 0).is_ok() => Place::Device(address),
            Place::Any(address) => Place::Host(HostPointer(address as *mut u8)),
            other => other,
        }
    }

    /// The page-locked range at an address, if all of it is page-locked.
    fn locked(&self, pointer: HostPointer, bytes: usize) -> Option<Side> {
        let address = pointer.0 as usize;
        let block = self.host_block(address)?;
        let offset = address - block.start();
        (bytes <= block.bytes - offset).then(|| Side::Locked(block.clone(), offset))
    }
}

impl Driver {
    /// A copy. Without a stream it goes through the default stream and is waited for.
    pub(crate) fn copy_memory(&self, to: Place, from: Place, bytes: usize, handle: Option<Id>) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle.unwrap_or(stream::NULL))?;
        if handle.is_none() {
            state.forbid_by_mode("a synchronous copy")?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let capturing = state.is_capturing(stream)?;
        let mut wait = handle.is_none();
        let to = match state.place(to) {
            Place::Host(pointer) => {
                check_host(pointer, bytes)?;
                let locked = state.locked(pointer, bytes);
                wait |= locked.is_none() && !capturing;
                locked.unwrap_or(Side::Program(pointer))
            }
            Place::Device(address) | Place::Any(address) => {
                state.device_block(address, bytes as u64)?;
                Side::Device(address)
            }
        };
        let from = match state.place(from) {
            Place::Host(pointer) => {
                check_host(pointer, bytes)?;
                match state.locked(pointer, bytes) {
                    Some(locked) => locked,
                    // The program waits for the copy, or promised to keep the memory for the graph.
                    None if wait || capturing => Side::Program(pointer),
                    None => {
                        // SAFETY: the program says that `bytes` bytes can be read here during the call.
                        let data = unsafe { std::slice::from_raw_parts(pointer.0.cast_const(), bytes) };
                        Side::Snapshot(data.into())
                    }
                }
            }
            Place::Device(address) | Place::Any(address) => {
                state.device_block(address, bytes as u64)?;
                Side::Device(address)
            }
        };
        self.submit_and_wait(state, stream, Work::Copy { to, from, bytes }, wait)
    }

    /// A fill with `count` elements of `width` bytes. Without a stream it goes through the default stream and is waited
    /// for.
    pub(crate) fn fill_memory(
        &self,
        address: u64,
        value: u32,
        width: usize,
        count: usize,
        handle: Option<Id>,
    ) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle.unwrap_or(stream::NULL))?;
        if handle.is_none() {
            state.forbid_by_mode("a synchronous fill")?;
        }
        if count == 0 {
            return Ok(());
        }
        if !address.is_multiple_of(width as u64) {
            return Err(invalid(format!("0x{address:x} is not aligned to elements of {width} bytes")));
        }
        let bytes = count.checked_mul(width).ok_or_else(|| invalid("the fill is larger than memory"))?;
        state.device_block(address, bytes as u64)?;
        self.submit_and_wait(state, stream, Work::Fill { address, value, width, count }, handle.is_none())
    }

    fn submit_and_wait(&self, state: MutexGuard<'_, State>, stream: Id, work: Work, wait: bool) -> Res<()> {
        let context = state.streams.get(stream)?.context;
        if let (Submitted::Queued(number), true) = (self.submit(state, stream, work)?, wait) {
            let state = self.wait_for(self.lock(), vec![number]);
            state.usable(context)?;
        }
        Ok(())
    }
}

fn check_host(pointer: HostPointer, bytes: usize) -> Res<()> {
    if pointer.0.is_null() {
        return Err(invalid("the pointer to the program's memory is null"));
    }
    if isize::try_from(bytes).is_err() || (pointer.0 as usize).checked_add(bytes).is_none() {
        return Err(invalid(format!("{bytes} bytes are more than memory holds")));
    }
    Ok(())
}
