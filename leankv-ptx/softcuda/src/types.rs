//! C types of the driver interface, and checked access to the pointers that programs pass.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::code::{Res, invalid};

/// Any opaque handle. Handles are numbers here; nothing ever dereferences one.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Handle(*mut c_void);

impl Handle {
    pub(crate) fn id(self) -> u64 {
        self.0 as u64
    }

    pub(crate) fn from_id(id: u64) -> Handle {
        Handle(id as *mut c_void)
    }
}

/// A pointer that a result is stored through. The program promises that it is null or valid for a write.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A pointer that the program stored in an array of pointers.
    pub(crate) fn at(pointer: *mut T) -> Out<T> {
        Out(pointer)
    }

    /// The same place for a result of another type, which is what the program promised it to be.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Stores a result.
    pub(crate) fn set(self, value: T) -> Res<()> {
        if self.0.is_null() {
            return Err(invalid("the pointer for the result is null"));
        }
        // SAFETY: not null, so by the driver interface's contract valid for a write of `T`; alignment is not relied on.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores several results; the program promises room for them.
    pub(crate) fn set_all(self, values: &[T]) -> Res<()>
    where
        T: Copy,
    {
        self.check()?;
        for (index, value) in values.iter().enumerate() {
            // SAFETY: as in `set`, for as many elements as the program said there is room for.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
        Ok(())
    }

    /// Stores a result where the program wants one.
    pub(crate) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // A null pointer was ruled out, so this cannot fail.
            let _ = self.set(value);
        }
    }

    /// Fails before any work is done when the result could not be stored.
    pub(crate) fn check(&self) -> Res<()> {
        if self.0.is_null() { Err(invalid("the pointer for the result is null")) } else { Ok(()) }
    }
}

/// A pointer to something that is read. The program promises that it is null or valid for reads.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> In<T> {
    /// A pointer that the program stored somewhere.
    pub(crate) fn new(pointer: *const T) -> In<T> {
        In(pointer)
    }

    pub(crate) fn null() -> In<T> {
        In(std::ptr::null())
    }
}

impl<T: Copy> In<T> {
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn address(&self) -> usize {
        self.0 as usize
    }

    /// Reads the value.
    pub(crate) fn get(&self) -> Res<T> {
        self.at(0)
    }

    /// Reads element `index` of an array that the program says has more than `index` elements.
    pub(crate) fn at(&self, index: usize) -> Res<T> {
        if self.0.is_null() {
            return Err(invalid("a pointer to an argument is null"));
        }
        // SAFETY: not null, so by the driver interface's contract valid for reads up to the length that the program
        // gave with it, which bounds `index`; alignment is not relied on.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

/// A pointer to a NUL-terminated name.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// The bytes before the NUL, copied.
    pub(crate) fn bytes(self) -> Res<Vec<u8>> {
        if self.0.is_null() {
            return Err(invalid("a pointer to a string is null"));
        }
        // SAFETY: not null, so by the driver interface's contract a NUL-terminated string.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes().to_vec())
    }

    /// The text.
    pub(crate) fn string(self) -> Res<String> {
        String::from_utf8(self.bytes()?).map_err(|_| invalid("a string is not UTF-8"))
    }
}

/// Memory of the program that a copy reads or writes later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPointer(pub(crate) *mut u8);

// SAFETY: only carries an address to the thread that executes the copy; who may touch the memory when is the
// program's promise to the driver interface.
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

/// What a host function gets.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);
/// What a stream callback gets: stream, status, data.
pub(crate) type StreamCallback = unsafe extern "C" fn(Handle, c_int, *mut c_void);
/// From block size to dynamic shared memory.
pub(crate) type BlockSizeToShared = unsafe extern "C" fn(c_int) -> usize;

/// `CUuuid`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Uuid {
    pub(crate) bytes: [u8; 16],
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) shared_bytes: c_uint,
    pub(crate) stream: Handle,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) attribute_count: c_uint,
}

/// `CUlaunchAttribute`: an identifier and a 64-byte union.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct LaunchAttribute {
    pub(crate) id: c_int,
    pub(crate) padding: [u8; 4],
    pub(crate) value: [u32; 16],
}

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryLocation {
    pub(crate) kind: c_int,
    pub(crate) id: c_int,
}

/// `CUmemPoolProps`, as far as it is looked at.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PoolProperties {
    pub(crate) allocation_type: c_int,
    pub(crate) handle_types: c_int,
    pub(crate) location: MemoryLocation,
}

const _: () = {
    // The header's sizes on 64-bit machines.
    assert!(size_of::<LaunchConfig>() == 56);
    assert!(size_of::<LaunchAttribute>() == 72);
    assert!(size_of::<Handle>() == 8);
};
