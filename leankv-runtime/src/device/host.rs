//! Host memory for kernels.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::{DeviceError, Pitched};

/// Host buffers are aligned as CUDA's are, so that a launch that is aligned on one is aligned on the other.
pub(crate) const ALIGNMENT: usize = 256;

/// Bytes of this machine's memory, as Linux tells them.
pub(super) fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A block of host memory, reached through raw pointers because compiled kernels write into it.
#[derive(Debug)]
pub(crate) struct HostMemory {
    start: NonNull<u8>,
    bytes: usize,
    owned: bool,
}

// SAFETY: the block is plain bytes with one owner; `&self` only reads, and writing takes `&mut self` or goes through a
// launch that holds the buffer's `&mut`.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// A zeroed block.
    pub(super) fn zeroed(bytes: usize) -> Result<HostMemory, DeviceError> {
        let too_large = DeviceError::OutOfMemory { bytes: Some(bytes) };
        let layout = HostMemory::layout(bytes).ok_or(too_large.clone())?;
        // SAFETY: the layout is never of size zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(too_large)?;
        Ok(HostMemory { start, bytes, owned: true })
    }

    /// A block that belongs to someone else.
    ///
    /// # Safety
    /// `address .. address + bytes` is valid for reads and writes while the result lives.
    pub(super) unsafe fn foreign(address: usize, bytes: usize) -> HostMemory {
        let start = NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling());
        HostMemory { start, bytes, owned: false }
    }

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()
    }

    /// The address of its first byte.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Copies `data` in at byte `at`.
    pub(super) fn write(&mut self, at: usize, data: &[u8]) {
        self.check(at, data.len());
        // SAFETY: the range was checked; `data` is Rust memory and this block is not, so they do not overlap.
        unsafe { self.start.as_ptr().add(at).copy_from_nonoverlapping(data.as_ptr(), data.len()) }
    }

    /// Copies bytes from `at` out into `data`.
    pub(super) fn read(&self, at: usize, data: &mut [u8]) {
        self.check(at, data.len());
        // SAFETY: as in `write`; the block is initialised from its allocation on.
        unsafe { data.as_mut_ptr().copy_from_nonoverlapping(self.start.as_ptr().add(at), data.len()) }
    }

    /// Copies `bytes` bytes from byte `from` on to byte `to`.
    pub(super) fn copy_within(&mut self, from: usize, to: usize, bytes: usize) {
        self.check(from, bytes);
        self.check(to, bytes);
        // SAFETY: both ranges were checked; the block is initialised from its allocation on.
        unsafe { self.start.as_ptr().add(to).copy_from(self.start.as_ptr().add(from), bytes) }
    }

    /// Copies so many rows of so many bytes from another block.
    ///
    /// # Safety
    /// Nobody else reads or writes the rows that are written, and they do not overlap with what is read.
    pub(super) unsafe fn copy_rows(
        &self,
        to: Pitched,
        from: &HostMemory,
        from_at: Pitched,
        [rows, row]: [usize; 2],
    ) {
        for number in 0..rows {
            let [at, start] = [to, from_at].map(|rows| rows.at + number * rows.stride);
            self.check(at, row);
            from.check(start, row);
            // SAFETY: both ranges were checked, and the caller promises the rest.
            unsafe {
                self.start.as_ptr().add(at).copy_from_nonoverlapping(from.start.as_ptr().add(start), row)
            }
        }
    }

    /// Buffers check ranges and report them; this holds the line for `unsafe` below.
    fn check(&self, at: usize, bytes: usize) {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "internal error: host copy out of range");
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let (true, Some(layout)) = (self.owned, HostMemory::layout(self.bytes)) {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}
