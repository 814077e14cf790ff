//! Device memory and page-locked memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use super::queue::{Submitted, Work};
use super::{Driver, State};
use crate::code::{Code, Fail, Res, invalid};
use crate::handles::Id;

/// Alignment of device memory in bytes.
const ALIGNMENT: u64 = 256;
/// Alignment of page-locked memory in bytes: a page.
const PAGE: usize = 4096;

/// A block of device memory.
pub(crate) struct Allocation {
    pub(super) bytes: u64,
    pub(super) context: Id,
    pub(super) device: usize,
    pub(super) kind: Kind,
    /// A free in stream order is queued: the program may not name it any more.
    pub(super) freeing: bool,
}

/// Where a block came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Pool(Id),
    /// Allocated by a captured node.
    Graph,
    /// A module's variable.
    Module,
}

/// Page-locked memory of the program.
pub(crate) struct HostBlock {
    start: usize,
    pub(super) bytes: usize,
    pub(super) context: Id,
    pub(super) flags: u32,
    /// None for memory that the program owns and registered.
    layout: Option<Layout>,
}

impl HostBlock {
    fn allocate(bytes: usize, context: Id, flags: u32) -> Option<HostBlock> {
        let layout = Layout::from_size_align(bytes.max(1), PAGE).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) } as usize;
        (start != 0).then_some(HostBlock { start, bytes, context, flags, layout: Some(layout) })
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// The address at an offset, which the caller has checked.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        (self.start as *mut u8).wrapping_add(offset)
    }
}

impl Drop for HostBlock {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: allocated with this layout in `allocate`; no work that names the block is left, since such work
            // holds it.
            unsafe { dealloc(self.start as *mut u8, layout) };
        }
    }
}

/// What `cuPointerGetAttribute` can tell of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PointerFacts {
    pub(crate) context: Id,
    pub(crate) device: usize,
    pub(crate) on_device: bool,
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

impl State {
    /// The block that holds a whole range of device memory.
    pub(super) fn device_block(&self, address: u64, bytes: u64) -> Res<(u64, &Allocation)> {
        let found = self.memory.range(..=address).next_back().filter(|(start, block)| {
            let offset = address - **start;
            offset < block.bytes.max(1) && bytes <= block.bytes - offset.min(block.bytes)
        });
        match found {
            Some((start, block)) if !block.freeing => Ok((*start, block)),
            Some(_) => Err(invalid(format!("0x{address:x} was freed (in stream order)"))),
            None => Err(invalid(format!("{bytes} bytes from 0x{address:x} are not in one live allocation"))),
        }
    }

    /// The page-locked block that holds an address of the program.
    pub(super) fn host_block(&self, address: usize) -> Option<&Arc<HostBlock>> {
        let (start, block) = self.host.range(..=address).next_back()?;
        (address - start < block.bytes.max(1)).then_some(block)
    }

    /// Takes a block out of the tables; the machine still has it.
    pub(super) fn forget_memory(&mut self, address: u64) -> Option<Allocation> {
        let block = self.memory.remove(&address)?;
        if block.kind != Kind::Module {
            self.count(block.device, block.kind, block.bytes, false);
        }
        Some(block)
    }

    fn count(&mut self, device: usize, kind: Kind, bytes: u64, more: bool) {
        let change = |used: &mut u64| *used = if more { *used + bytes } else { used.saturating_sub(bytes) };
        change(&mut self.devices[device].used_bytes);
        if let Kind::Pool(pool) = kind
            && let Some(pool) = self.pools.find_mut(pool)
        {
            change(&mut pool.used);
            pool.most_used = pool.most_used.max(pool.used);
        }
    }
}

impl Driver {
    /// `cuMemAlloc`.
    pub(crate) fn alloc(&self, bytes: usize) -> Res<u64> {
        if bytes == 0 {
            return Err(invalid("an allocation of 0 bytes"));
        }
        let mut state = self.ready()?;
        let context = state.current()?;
        state.forbid_by_mode("cuMemAlloc")?;
        drop(state);
        self.alloc_in(context, bytes as u64, Kind::Plain)
    }

    fn alloc_in(&self, context: Id, bytes: u64, kind: Kind) -> Res<u64> {
        let mut state = self.lock();
        let device = state.usable(context)?.device;
        let total = self.settings.memory_bytes;
        let used = state.devices[device].used_bytes;
        if bytes > total.saturating_sub(used) {
            let why = format!("{bytes} bytes asked for, {used} of {total} in use (SOFTCUDA_MEMORY_MIB)");
            return Err(Fail::new(Code::OutOfMemory, why));
        }
        state.count(device, kind, bytes, true);
        drop(state);
        let allocated = self.engine().alloc(bytes, ALIGNMENT);
        let mut state = self.lock();
        match allocated {
            Ok(address) => {
                state.memory.insert(address, Allocation { bytes, context, device, kind, freeing: false });
                Ok(address)
            }
            Err(why) => {
                state.count(device, kind, bytes, false);
                Err(Fail::new(Code::OutOfMemory, why))
            }
        }
    }

    /// `cuMemAllocAsync` and `cuMemAllocFromPoolAsync`. The address is valid at once; an empty allocation is the null
    /// address.
    pub(crate) fn alloc_async(&self, bytes: usize, pool: Option<Id>, handle: Id) -> Res<u64> {
        let mut state = self.ready()?;
        let (stream, context) = state.stream(handle)?;
        let pool = match pool {
            Some(pool) => pool,
            None => state.devices[state.usable(context)?.device].pool,
        };
        state.pools.get(pool)?;
        let capturing = state.is_capturing(stream)?;
        if bytes == 0 {
            return Ok(0);
        }
        drop(state);
        let kind = if capturing { Kind::Graph } else { Kind::Pool(pool) };
        let address = self.alloc_in(context, bytes as u64, kind)?;
        if capturing {
            let mut state = self.lock();
            if let Some(capture) = state.capture_memory(stream)? {
                capture.allocated.push(address);
            }
            self.submit(state, stream, Work::Nothing)?;
        }
        Ok(address)
    }

    /// `cuMemFree`: waits for the context's work, as drivers do. The null address is nothing to free.
    pub(crate) fn free(&self, address: u64) -> Res<()> {
        let mut state = self.ready()?;
        let current = state.current()?;
        if address == 0 {
            return Ok(());
        }
        state.forbid_by_mode("cuMemFree")?;
        let context = state.freeable(address)?;
        let waited = self.finish_context(state, context);
        if context != current {
            self.ready()?.usable(current)?;
        }
        waited?;
        // Another thread may have freed it in the meantime.
        let mut state = self.ready()?;
        state.freeable(address)?;
        state.forget_memory(address);
        drop(state);
        self.engine().free(address);
        Ok(())
    }

    /// `cuMemFreeAsync`: freed in stream order.
    pub(crate) fn free_async(&self, address: u64, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        if address == 0 {
            return Ok(());
        }
        if state.is_capturing(stream)? {
            let owned = match state.capture_memory(stream)? {
                Some(capture)
                    if capture.allocated.contains(&address) && !capture.freed.contains(&address) =>
                {
                    capture.freed.push(address);
                    true
                }
                _ => false,
            };
            let work = self.free_in_capture(owned)?;
            return self.submit(state, stream, work).map(drop);
        }
        state.freeable(address)?;
        if let Some(block) = state.memory.get_mut(&address) {
            block.freeing = true;
        }
        match self.submit(state, stream, Work::Free { address }) {
            Ok(Submitted::Queued(_) | Submitted::Captured) => Ok(()),
            Err(fail) => {
                if let Some(block) = self.lock().memory.get_mut(&address) {
                    block.freeing = false;
                }
                Err(fail)
            }
        }
    }

    /// `cuMemGetInfo`: free and total bytes.
    pub(crate) fn memory_info(&self) -> Res<(usize, usize)> {
        let state = self.ready()?;
        let device = state.usable(state.current()?)?.device;
        let total = self.settings.memory_bytes;
        Ok((total.saturating_sub(state.devices[device].used_bytes) as usize, total as usize))
    }

    /// `cuMemGetAddressRange`: start and size of the block of an address.
    pub(crate) fn address_range(&self, address: u64) -> Res<(u64, usize)> {
        let state = self.ready()?;
        state.current()?;
        let (start, block) =
            state.device_block(address, 0).map_err(|fail| Fail::new(Code::NotFound, fail.why))?;
        Ok((start, block.bytes as usize))
    }

    /// `cuPointerGetAttribute`.
    pub(crate) fn pointer_facts(&self, address: u64) -> Res<PointerFacts> {
        let state = self.ready()?;
        if let Ok((start, block)) = state.device_block(address, 0) {
            return Ok(PointerFacts {
                context: block.context,
                device: block.device,
                on_device: true,
                start,
                bytes: block.bytes,
            });
        }
        let block = state.host_block(address as usize).ok_or_else(|| {
            invalid(format!("0x{address:x} is neither device memory nor page-locked memory"))
        })?;
        Ok(PointerFacts {
            context: block.context,
            device: state.contexts.find(block.context).map_or(0, |context| context.device),
            on_device: false,
            start: block.start() as u64,
            bytes: block.bytes as u64,
        })
    }

    /// `cuMemHostAlloc`.
    pub(crate) fn host_alloc(&self, bytes: usize, flags: u32) -> Res<usize> {
        if flags > 7 {
            return Err(invalid(format!("0x{flags:x} are not flags of page-locked memory")));
        }
        let mut state = self.ready()?;
        let context = state.current()?;
        state.forbid_by_mode("cuMemHostAlloc")?;
        let block = HostBlock::allocate(bytes, context, flags)
            .ok_or_else(|| Fail::new(Code::OutOfMemory, format!("{bytes} bytes of page-locked memory")))?;
        let start = block.start();
        state.host.insert(start, Arc::new(block));
        Ok(start)
    }

    /// `cuMemFreeHost`. Copies under way keep the memory until they are done.
    pub(crate) fn host_free(&self, address: usize) -> Res<()> {
        let mut state = self.ready()?;
        state.current()?;
        match state.host.get(&address) {
            Some(block) if block.layout.is_some() => {}
            _ => return Err(invalid(format!("0x{address:x} was not allocated by cuMemHostAlloc"))),
        }
        state.host.remove(&address);
        Ok(())
    }

    /// `cuMemHostRegister`.
    pub(crate) fn host_register(&self, address: usize, bytes: usize, flags: u32) -> Res<()> {
        if address == 0 || bytes == 0 || address.checked_add(bytes).is_none() {
            return Err(invalid("no memory to register"));
        }
        let mut state = self.ready()?;
        let context = state.current()?;
        let overlaps = state
            .host
            .range(..address + bytes)
            .next_back()
            .is_some_and(|(start, block)| start + block.bytes.max(1) > address);
        if overlaps {
            let why = "part of the range is already page-locked";
            return Err(Fail::new(Code::HostMemoryAlreadyRegistered, why));
        }
        let block = HostBlock { start: address, bytes, context, flags, layout: None };
        state.host.insert(address, Arc::new(block));
        Ok(())
    }

    /// `cuMemHostUnregister`: waits for the context's work, since the memory is the program's again afterwards.
    pub(crate) fn host_unregister(&self, address: usize) -> Res<()> {
        let state = self.ready()?;
        state.current()?;
        let context = match state.host.get(&address) {
            Some(block) if block.layout.is_none() => block.context,
            _ => {
                let why = format!("0x{address:x} is not registered");
                return Err(Fail::new(Code::HostMemoryNotRegistered, why));
            }
        };
        self.finish_context(state, context)?;
        self.ready()?.host.remove(&address);
        Ok(())
    }

    /// `cuMemHostGetFlags`.
    pub(crate) fn host_flags(&self, address: usize) -> Res<u32> {
        let state = self.ready()?;
        let block = state.host_block(address);
        block.map(|block| block.flags).ok_or_else(|| invalid(format!("0x{address:x} is not page-locked")))
    }
}

impl State {
    /// The context of a block that can be freed.
    fn freeable(&self, address: u64) -> Res<Id> {
        match self.memory.get(&address) {
            Some(block) if block.freeing => Err(invalid(format!("0x{address:x} was already freed"))),
            Some(block) if matches!(block.kind, Kind::Plain | Kind::Pool(_)) => Ok(block.context),
            Some(block) if block.kind == Kind::Graph => Err(invalid("the memory belongs to a graph")),
            Some(_) => Err(invalid("a module's variable cannot be freed")),
            None => Err(invalid(format!("0x{address:x} is not the start of a live allocation"))),
        }
    }
}
