//! Global memory: separately tracked allocations in a fake 64-bit address space.
//!
//! * Addresses are never given out twice, so a stale pointer is always recognised.
//! * Between allocations lies unmapped space, so that an overrun hits nothing.
//! * Data is accessed by relaxed atomics of the access width: blocks on different threads may race, and a race
//!   in the PTX program must not be undefined behaviour in the machine.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Lowest address given out.
const FIRST: u64 = 0x0000_0200_0000_0000;
/// Unmapped bytes on both sides of an allocation.
const RED_ZONE: u64 = 4096;

/// Marks of which blocks touched a word, for the race check: one write and one read stamp.
pub(crate) struct RaceShadow {
    pub(crate) write: Box<[AtomicU64]>,
    /// The word's bits after the last write.
    pub(crate) value: Box<[AtomicU32]>,
    pub(crate) read: Box<[AtomicU64]>,
    pub(crate) write_instr: Box<[AtomicU32]>,
    pub(crate) read_instr: Box<[AtomicU32]>,
}

pub(crate) struct Alloc {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    data: Box<[AtomicU64]>,
    /// One byte per byte: 1 when written. Absent once everything is known to be written.
    init: Box<[AtomicU64]>,
    pub(crate) freed: bool,
    pub(crate) read_only: bool,
    pub(crate) name: Option<String>,
    pub(crate) race: OnceLock<RaceShadow>,
    /// Per word, the last launch in which a read-only (`.nc`) load touched it.
    pub(crate) nc: OnceLock<Box<[AtomicU32]>>,
}

fn zeroed(words: usize) -> Box<[AtomicU64]> {
    let raw: *mut [u64] = Box::into_raw(vec![0u64; words].into_boxed_slice());
    // Zeroed by the allocator, so that untouched pages cost nothing.
    // SAFETY: AtomicU64 has the size, alignment and validity of u64, and the box is owned here.
    unsafe { Box::from_raw(raw as *mut [AtomicU64]) }
}

fn zeroed32(words: usize) -> Box<[AtomicU32]> {
    let raw: *mut [u32] = Box::into_raw(vec![0u32; words].into_boxed_slice());
    // SAFETY: AtomicU32 has the size, alignment and validity of u32, and the box is owned here.
    unsafe { Box::from_raw(raw as *mut [AtomicU32]) }
}

macro_rules! accessors {
    ($load:ident, $store:ident, $t:ty, $atomic:ty, $bytes:literal) => {
        /// Loads from an offset that is aligned and within the allocation.
        #[inline(always)]
        pub(crate) fn $load(&self, offset: u64) -> $t {
            debug_assert!(offset.is_multiple_of($bytes) && self.bytes - offset >= $bytes);
            // SAFETY: callers checked bounds and alignment against `bytes`; the storage is that large, rounded
            // up to whole words, 8-byte aligned, and only ever accessed atomically.
            unsafe { (*self.data.as_ptr().cast::<u8>().add(offset as usize).cast::<$atomic>()).load(Relaxed) }
        }

        /// Stores to an offset that is aligned and within the allocation.
        #[inline(always)]
        pub(crate) fn $store(&self, offset: u64, v: $t) {
            debug_assert!(offset.is_multiple_of($bytes) && self.bytes - offset >= $bytes);
            // SAFETY: as for the load; atomics allow stores through a shared reference.
            unsafe {
                (*self.data.as_ptr().cast::<u8>().add(offset as usize).cast::<$atomic>()).store(v, Relaxed)
            }
        }
    };
}

impl Alloc {
    accessors!(load8, store8, u8, AtomicU8, 1);
    accessors!(load16, store16, u16, AtomicU16, 2);
    accessors!(load32, store32, u32, AtomicU32, 4);
    accessors!(load64, store64, u64, AtomicU64, 8);

    /// A 32-bit atomic at an aligned offset within the allocation.
    pub(crate) fn atomic32(&self, offset: u64) -> &AtomicU32 {
        // A 16-bit atomic works on the word around it, which may reach into the rounding of the storage.
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.bytes.next_multiple_of(8),
            "atomic offset was checked"
        );
        // SAFETY: in bounds and aligned, as just asserted.
        unsafe { &*self.data.as_ptr().cast::<u8>().add(offset as usize).cast::<AtomicU32>() }
    }

    /// A 64-bit atomic at an aligned offset within the allocation.
    pub(crate) fn atomic64(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes, "atomic offset was checked");
        &self.data[(offset / 8) as usize]
    }

    /// The word around an offset within the allocation.
    pub(crate) fn word(&self, offset: u64) -> u32 {
        self.atomic32(offset & !3).load(Relaxed)
    }

    /// Whether `size` (1, 2, 4 or 8) aligned bytes are all written.
    #[inline(always)]
    pub(crate) fn is_init(&self, offset: u64, size: u32) -> bool {
        if self.init.is_empty() {
            return true;
        }
        let word = self.init[(offset / 8) as usize].load(Relaxed);
        let mask = if size >= 8 { u64::MAX } else { ((1u64 << (size * 8)) - 1) << (offset % 8 * 8) };
        word & 0x0101_0101_0101_0101 & mask == 0x0101_0101_0101_0101 & mask
    }

    /// Marks `size` (1, 2, 4 or 8) aligned bytes as written.
    #[inline(always)]
    pub(crate) fn set_init(&self, offset: u64, size: u32) {
        if self.init.is_empty() {
            return;
        }
        // SAFETY: same layout and bounds as the data; aligned to the access size.
        unsafe {
            let p = self.init.as_ptr().cast::<u8>().add(offset as usize);
            match size {
                1 => (*p.cast::<AtomicU8>()).store(1, Relaxed),
                2 => (*p.cast::<AtomicU16>()).store(0x0101, Relaxed),
                4 => (*p.cast::<AtomicU32>()).store(0x0101_0101, Relaxed),
                _ => (*p.cast::<AtomicU64>()).store(0x0101_0101_0101_0101, Relaxed),
            }
        }
    }

    /// Marks a byte within the allocation as not written, where that is tracked.
    pub(crate) fn clear_init(&self, offset: u64) {
        if let Some(word) = self.init.get((offset / 8) as usize) {
            word.fetch_and(!(0xff << (offset % 8 * 8)), Relaxed);
        }
    }

    pub(crate) fn shadow(&self) -> &RaceShadow {
        self.race.get_or_init(|| {
            let n = (self.bytes as usize).div_ceil(4);
            RaceShadow {
                write: zeroed(n),
                value: zeroed32(n),
                read: zeroed(n),
                write_instr: zeroed32(n),
                read_instr: zeroed32(n),
            }
        })
    }

    pub(crate) fn nc_marks(&self) -> &[AtomicU32] {
        self.nc.get_or_init(|| zeroed32((self.bytes as usize).div_ceil(4)))
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes
    }

    pub(crate) fn describe(&self) -> String {
        let name = self.name.as_deref().map(|n| format!("`{n}` ")).unwrap_or_default();
        format!("{name}[0x{:x}, 0x{:x}) of {} bytes", self.base, self.end(), self.bytes)
    }
}

/// All allocations, by address.
pub(crate) struct GlobalMemory {
    pub(crate) allocs: Vec<Alloc>,
    next: u64,
    pub(crate) used: u64,
    limit: u64,
    pub(crate) track_init: bool,
}

impl GlobalMemory {
    pub(crate) fn new(limit: u64, track_init: bool) -> Self {
        GlobalMemory { allocs: Vec::new(), next: FIRST, used: 0, limit, track_init }
    }

    /// Marks of accesses hold the low bits of their launch's number: where those begin anew, nothing of an earlier launch may be left.
    pub(crate) fn forget_accesses_of(&mut self, launch: u32) {
        if launch & super::race::LAUNCH_BITS == 0 {
            self.allocs.iter_mut().for_each(|a| a.race = OnceLock::new());
        }
    }

    /// `written` says that its zeros count as written.
    pub(crate) fn alloc(&mut self, bytes: u64, align: u64, written: bool) -> Result<u64, String> {
        if !align.is_power_of_two() || align > 1 << 20 {
            return Err("the alignment must be a power of two up to 1 MiB".to_string());
        }
        if bytes == 0 {
            return Err("the size must not be zero".to_string());
        }
        if self.used.saturating_add(bytes) > self.limit {
            return Err(format!("out of memory: {} of {} bytes are in use", self.used, self.limit));
        }
        let base = (self.next + RED_ZONE).next_multiple_of(align.max(256));
        let words = bytes.div_ceil(8) as usize;
        // Asked for first, so that a host without that much memory is an error and not an abort.
        if Vec::<u64>::new().try_reserve_exact(words).is_err() {
            return Err("the host has not that much memory".to_string());
        }
        self.allocs.push(Alloc {
            base,
            bytes,
            data: zeroed(words),
            init: if self.track_init && !written { zeroed(words) } else { Box::default() },
            freed: false,
            read_only: false,
            name: None,
            race: OnceLock::new(),
            nc: OnceLock::new(),
        });
        self.next = base + bytes;
        self.used += bytes;
        Ok(base)
    }

    pub(crate) fn free(&mut self, base: u64) -> Result<(), String> {
        match self.allocs.binary_search_by_key(&base, |a| a.base) {
            Ok(i) if !self.allocs[i].freed => {
                let a = &mut self.allocs[i];
                a.freed = true;
                a.data = Box::default();
                a.init = Box::default();
                a.race = OnceLock::new();
                a.nc = OnceLock::new();
                self.used -= a.bytes;
                Ok(())
            }
            Ok(_) => Err("it is already free".to_string()),
            Err(_) => Err("no allocation starts at this address".to_string()),
        }
    }

    /// Index of the allocation that `address` lies in or behind.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        let i = self.allocs.partition_point(|a| a.base <= address);
        i.checked_sub(1)
    }

    /// The live allocation that holds `[address, address + bytes)`.
    pub(crate) fn span(&self, address: u64, bytes: u64) -> Result<&Alloc, String> {
        let Some(i) = self.find(address) else { return Err(self.nearest(address)) };
        let a = &self.allocs[i];
        if address.checked_add(bytes).is_none_or(|end| end > a.end()) {
            return Err(self.nearest(address));
        }
        if a.freed {
            return Err(format!("allocation {} was freed", a.describe()));
        }
        Ok(a)
    }

    /// Describes what lies around an address.
    pub(crate) fn nearest(&self, address: u64) -> String {
        match self.find(address) {
            Some(i) => {
                let a = &self.allocs[i];
                let next = self.allocs.get(i + 1);
                match next {
                    Some(n) if n.base - address < address.saturating_sub(a.end()) => {
                        format!("{} bytes before {}", n.base - address, n.describe())
                    }
                    _ if address >= a.end() => {
                        format!("{} bytes past the end of {}", address - a.end(), a.describe())
                    }
                    _ => format!("crosses the end of {}", a.describe()),
                }
            }
            None => match self.allocs.first() {
                Some(a) => format!("far below {}", a.describe()),
                None => "nothing is allocated".to_string(),
            },
        }
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), String> {
        let a = self.span(address, data.len() as u64)?;
        let start = address - a.base;
        let head = (start.wrapping_neg() & 7).min(data.len() as u64) as usize;
        let (first, rest) = data.split_at(head);
        let byte = |at: u64, b: u8| {
            a.store8(at, b);
            a.set_init(at, 1);
        };
        for (i, b) in first.iter().enumerate() {
            byte(start + i as u64, *b);
        }
        let mut at = start + head as u64;
        let words = rest.chunks_exact(8);
        let tail = words.remainder();
        for w in words {
            let v: &[u8; 8] = w.first_chunk().expect("a chunk of eight");
            a.store64(at, u64::from_le_bytes(*v));
            a.set_init(at, 8);
            at += 8;
        }
        for (i, b) in tail.iter().enumerate() {
            byte(at + i as u64, *b);
        }
        Ok(())
    }

    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), String> {
        let a = self.span(address, out.len() as u64)?;
        let start = address - a.base;
        // Whole words where both ends allow it.
        let head = (start.wrapping_neg() & 7).min(out.len() as u64) as usize;
        let (first, rest) = out.split_at_mut(head);
        for (i, b) in first.iter_mut().enumerate() {
            *b = a.load8(start + i as u64);
        }
        let mut at = start + head as u64;
        let mut words = rest.chunks_exact_mut(8);
        for w in &mut words {
            w.copy_from_slice(&a.load64(at).to_le_bytes());
            at += 8;
        }
        for (i, b) in words.into_remainder().iter_mut().enumerate() {
            *b = a.load8(at + i as u64);
        }
        Ok(())
    }

    /// Copies a range, which may overlap its destination. Bytes that nothing wrote stay so.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), String> {
        let (target, source) = (self.span(to, bytes)?, self.span(from, bytes)?);
        let (to, from) = (to - target.base, from - source.base);
        let copied: Vec<(u8, bool)> =
            (0..bytes).map(|i| (source.load8(from + i), source.is_init(from + i, 1))).collect();
        for (i, (byte, written)) in (0..bytes).zip(copied) {
            target.store8(to + i, byte);
            if written {
                target.set_init(to + i, 1);
            } else {
                target.clear_init(to + i);
            }
        }
        Ok(())
    }
}
