//! What can go wrong with a device and its memory.

use leankv_dsl::ir::Dtype;

/// A device's refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no CUDA driver on this system.
    #[error(
        "no CUDA driver was found (libcuda.so.1); install NVIDIA's driver, or use the host device, which needs none"
    )]
    NoDriver,
    /// The driver lacks functions this library calls.
    #[error("the CUDA driver is too old: it lacks {}; CUDA 12.0 or newer is needed", missing.join(", "))]
    OldDriver {
        /// The missing functions.
        missing: Vec<String>,
    },
    /// There is no GPU of that number.
    #[error("there is no CUDA device {ordinal}; the driver offers {count}, numbered from 0")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver refused an operation.
    #[error("CUDA driver, {doing}: {code}{}", if *poisoned {
        "; the context is lost: open the device again in a new process"
    } else {
        ""
    })]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's error name and text.
        code: String,
        /// Whether the context can do nothing any more.
        poisoned: bool,
    },
    /// The device has no room.
    #[error("the device has no room for {}", bytes.map_or("a buffer that large".to_owned(), |b| format!("{b} bytes")))]
    OutOfMemory {
        /// The bytes asked for; `None` when they exceed the address space.
        bytes: Option<usize>,
    },
    /// A copy or a slice reaches beyond its buffer.
    #[error("elements {start}..{end} are out of range for a buffer of {len}")]
    OutOfRange {
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
        /// Elements in the buffer.
        len: usize,
    },
    /// A copy within a buffer reads what it writes.
    #[error(
        "{count} elements from {from} and from {to} on overlap; a copy on the device wants parts that do not"
    )]
    Overlap {
        /// First element that is read.
        from: usize,
        /// First element that is written.
        to: usize,
        /// How many.
        count: usize,
    },
    /// An address does not fit the element type.
    #[error("address {address:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// The address.
        address: usize,
        /// What it should be a multiple of.
        alignment: usize,
    },
    /// Bytes cannot be seen as whole elements of another type.
    #[error("{bytes} bytes at offset {offset} cannot be seen as whole, aligned elements of {dtype}")]
    BadCast {
        /// Length of the range in bytes.
        bytes: usize,
        /// Where the range starts in the buffer, in bytes.
        offset: usize,
        /// The element type asked for.
        dtype: Dtype,
    },
    /// The device runs compiled code only.
    #[error("{device} runs compiled kernels; only the reference device interprets tile IR")]
    NeedsCode {
        /// The device.
        device: String,
    },
    /// The kernel cannot be loaded on any device.
    #[error("kernel `{kernel}` cannot be loaded: {why}")]
    BadKernel {
        /// The kernel.
        kernel: String,
        /// Why.
        why: String,
    },
    /// Two things of different devices were used together.
    #[error("{what} belongs to another device")]
    WrongDevice {
        /// What does.
        what: &'static str,
    },
    /// The device was opened on a caller's stream and uses only that.
    #[error("this device was opened on a stream of the caller's and uses only that one")]
    ForeignStream,
}
