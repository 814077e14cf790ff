//! Devices: where memory lies and kernels run.
//!
//! [`Device`] is a cheap handle. The host device always works. A CUDA device needs a driver, which is looked for when
//! the device is opened and not before: without one, opening is an error and nothing else changes.
//!
//! Nothing outside `device::cuda` names cudarc.

mod buffer;
mod cuda;
mod emulated;
mod error;
mod host;
mod reference;
mod stream;

use std::fmt;
use std::sync::Arc;

pub(crate) use buffer::Allocation;
pub use buffer::{BufferView, BufferViewMut, DeviceBuffer};
pub use error::DeviceError;
pub use stream::{Event, Graph, Stream};

use leankv_dsl::ir::Func;
use leankv_ptx::{Config, LaunchReport};

use crate::element::Element;
use crate::kernel::{Kernel, Loaded};
use crate::signature::Signature;
use crate::target::{Sm, Target, newest_for};
use cuda::Streams;
pub(crate) use cuda::{CudaArg, CudaKernel};
use emulated::EmulatedDevice;
pub(crate) use host::HostMemory;
pub(crate) use reference::ReferenceCode;

/// A device that holds memory and runs kernels. Clones are the same device.
#[derive(Clone)]
pub struct Device {
    pub(crate) inner: Arc<DeviceKind>,
}

pub(crate) enum DeviceKind {
    Host,
    Reference,
    Emulated(emulated::EmulatedDevice),
    Cuda(cuda::CudaDevice),
}

/// What sort of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This processor, running compiled code.
    Host,
    /// This processor, interpreting tile IR with every check.
    Reference,
    /// This processor, executing PTX instruction by instruction with every check.
    Emulated,
    /// A CUDA GPU.
    Cuda,
}

impl Device {
    /// This processor. Programs run in parallel on rayon's threads.
    pub fn host() -> Device {
        Device { inner: Arc::new(DeviceKind::Host) }
    }

    /// The interpreter: memory of this processor, and kernels run op by op with bounds, races and uninitialised reads
    /// checked. For tests and for finding out what a kernel does wrong.
    pub fn reference() -> Device {
        Device { inner: Arc::new(DeviceKind::Reference) }
    }

    /// A GPU of generation `sm` that need not be there: kernels are compiled to PTX, which is executed on this processor
    /// with memory, race and synchronisation checks. A launch whose PTX does anything undefined is an error.
    pub fn emulated(sm: Sm) -> Device {
        Device::emulated_with(sm, Config::default())
    }

    /// As [`Device::emulated`], with a choice of checks, schedules, seeds and threads.
    pub fn emulated_with(sm: Sm, config: Config) -> Device {
        Device { inner: Arc::new(DeviceKind::Emulated(EmulatedDevice::new(sm, config))) }
    }

    /// What the last launch on an emulated device counted and found; taken by asking. `None` on other devices.
    pub fn take_launch_report(&self) -> Option<LaunchReport> {
        match &*self.inner {
            DeviceKind::Emulated(device) => device.take_report(),
            _ => None,
        }
    }

    /// CUDA GPU number `ordinal`, in its primary context, which is shared with other libraries of the process. Work
    /// goes to the context's default stream until told otherwise.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`], [`DeviceError::OldDriver`], [`DeviceError::NoSuchDevice`] or
    /// [`DeviceError::Driver`]. Never a panic.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        let cuda = cuda::CudaDevice::open(ordinal, Streams::Any)?;
        Ok(Device { inner: Arc::new(DeviceKind::Cuda(cuda)) })
    }

    /// CUDA GPU number `ordinal` with a stream of its own as its only stream, which can be [captured](Stream::begin_capture). The stream stays until the
    /// process ends.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    pub fn cuda_on_own_stream(ordinal: usize) -> Result<Device, DeviceError> {
        let cuda = cuda::CudaDevice::open(ordinal, Streams::Own)?;
        Ok(Device { inner: Arc::new(DeviceKind::Cuda(cuda)) })
    }

    /// CUDA GPU number `ordinal` with a stream of the caller's (a `CUstream`, as an address) as its only stream.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    ///
    /// # Safety
    /// `stream` is a valid stream of the GPU's primary context and outlives this device, its buffers and kernels. The
    /// caller orders work submitted here against work submitted by the stream's owner.
    pub unsafe fn cuda_on_stream(ordinal: usize, stream: usize) -> Result<Device, DeviceError> {
        let cuda = cuda::CudaDevice::open(ordinal, Streams::Callers(stream))?;
        Ok(Device { inner: Arc::new(DeviceKind::Cuda(cuda)) })
    }

    /// How many CUDA GPUs the driver offers.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    pub fn cuda_count() -> Result<usize, DeviceError> {
        cuda::count()
    }

    /// What sort of device this is.
    pub fn kind(&self) -> Kind {
        match &*self.inner {
            DeviceKind::Host => Kind::Host,
            DeviceKind::Reference => Kind::Reference,
            DeviceKind::Emulated(_) => Kind::Emulated,
            DeviceKind::Cuda(_) => Kind::Cuda,
        }
    }

    /// The device's name for people.
    pub fn name(&self) -> String {
        match &*self.inner {
            DeviceKind::Host => format!("host ({})", std::env::consts::ARCH),
            DeviceKind::Reference => "reference interpreter".to_owned(),
            DeviceKind::Emulated(device) => format!("emulated {}", device.sm()),
            DeviceKind::Cuda(cuda) => cuda.name().to_owned(),
        }
    }

    /// Compute capability of a GPU as major and minor version; `None` for devices that are none.
    pub fn compute_capability(&self) -> Option<(u32, u32)> {
        match &*self.inner {
            DeviceKind::Host | DeviceKind::Reference => None,
            DeviceKind::Emulated(device) => Some((device.sm().sm() / 10, device.sm().sm() % 10)),
            DeviceKind::Cuda(cuda) => Some(cuda.compute_capability()),
        }
    }

    /// The version of CUDA that a GPU's driver is for, major and minor; `None` for other devices.
    pub fn driver_version(&self) -> Option<(u32, u32)> {
        match &*self.inner {
            DeviceKind::Cuda(cuda) => Some(cuda.driver_version()),
            _ => None,
        }
    }

    /// What kernels for it are compiled for, the host where there is none; `None` for a GPU that is older than every target.
    pub fn target(&self) -> Option<Target> {
        match self.compute_capability() {
            None => Some(Target::Host),
            Some(capability) => newest_for(capability).map(Target::Gpu),
        }
    }

    /// Bytes of its memory: the GPU's, or this machine's. `None` where that cannot be told.
    pub fn memory(&self) -> Option<u64> {
        match &*self.inner {
            DeviceKind::Host | DeviceKind::Reference | DeviceKind::Emulated(_) => host::memory(),
            DeviceKind::Cuda(cuda) => cuda.memory(),
        }
    }

    /// A buffer of `len` elements, all bits zero.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when the device has no room (or `len` elements exceed the address space).
    pub fn zeros<T: Element>(&self, len: usize) -> Result<DeviceBuffer<T>, DeviceError> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(DeviceError::OutOfMemory { bytes: None })?;
        let memory = match &*self.inner {
            DeviceKind::Host | DeviceKind::Reference | DeviceKind::Emulated(_) => {
                Memory::Host(HostMemory::zeroed(bytes)?)
            }
            DeviceKind::Cuda(cuda) => Memory::Cuda(cuda.zeroed(bytes)?),
        };
        Ok(DeviceBuffer::new(self.clone(), memory, len))
    }

    /// A buffer that holds a copy of `data`.
    ///
    /// # Errors
    /// As [`Device::zeros`], and what the driver says of the copy.
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<DeviceBuffer<T>, DeviceError> {
        let mut buffer = self.zeros(data.len())?;
        buffer.write(data)?;
        Ok(buffer)
    }

    /// A buffer over memory that belongs to someone else: another library's tensor, a mapped file. It is not freed
    /// when the buffer is dropped.
    ///
    /// # Errors
    /// [`DeviceError::Misaligned`] when `address` is not aligned for `T`.
    ///
    /// # Safety
    /// `address` points to `len` initialised elements on this device, which stay there and are neither read nor written
    /// by others in a conflicting way while the buffer lives.
    pub unsafe fn wrap<T: Element>(
        &self,
        address: usize,
        len: usize,
    ) -> Result<DeviceBuffer<T>, DeviceError> {
        if !address.is_multiple_of(align_of::<T>()) {
            return Err(DeviceError::Misaligned { address, alignment: align_of::<T>() });
        }
        let bytes = len * size_of::<T>();
        let memory = match &*self.inner {
            DeviceKind::Host | DeviceKind::Reference | DeviceKind::Emulated(_) => {
                // SAFETY: the caller promises the range.
                let memory = unsafe { HostMemory::foreign(address, bytes) };
                Memory::Host(memory)
            }
            DeviceKind::Cuda(cuda) => {
                // SAFETY: the caller promises the range.
                let memory = unsafe { cuda.foreign(address, bytes)? };
                Memory::Cuda(memory)
            }
        };
        Ok(DeviceBuffer::new(self.clone(), memory, len))
    }

    /// A new stream. On the host all streams are the calling thread.
    ///
    /// # Errors
    /// What the driver says; [`DeviceError::ForeignStream`] on a device that was opened on a caller's stream.
    pub fn new_stream(&self) -> Result<Stream, DeviceError> {
        Stream::new(self)
    }

    /// The stream that work goes to when none is named.
    pub fn default_stream(&self) -> Stream {
        Stream::default_of(self)
    }

    /// Waits for all work on the default stream.
    ///
    /// # Errors
    /// What the driver says, errors of earlier asynchronous work included.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.default_stream().synchronize()
    }

    /// Whether work on the default stream becomes part of a graph instead of running; also where the driver does not say.
    pub(crate) fn is_capturing(&self) -> bool {
        match &*self.inner {
            DeviceKind::Host | DeviceKind::Reference | DeviceKind::Emulated(_) => false,
            DeviceKind::Cuda(cuda) => cuda.default_queue().is_capturing().unwrap_or(true),
        }
    }

    /// A kernel for the reference device, which runs tile IR as it is.
    ///
    /// # Errors
    /// [`DeviceError::NeedsCode`] on other devices; [`DeviceError::BadKernel`] when a parameter is neither a number nor a
    /// pointer.
    pub fn interpret(&self, func: &Func) -> Result<Kernel, DeviceError> {
        if self.kind() != Kind::Reference {
            return Err(DeviceError::NeedsCode { device: self.name() });
        }
        let signature = Signature::of(func).map_err(|param| DeviceError::BadKernel {
            kernel: func.name.clone(),
            why: format!("parameter `{param}` is neither a number nor a pointer"),
        })?;
        Ok(Kernel::new(self.clone(), signature, Loaded::Host(Box::new(ReferenceCode::new(func.clone())))))
    }

    /// Whether both handles are the same device.
    pub fn same_as(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || matches!(
                (&*self.inner, &*other.inner),
                (DeviceKind::Host, DeviceKind::Host) | (DeviceKind::Reference, DeviceKind::Reference)
            )
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// A block of device memory, of the device's own sort.
pub(crate) enum Memory {
    Host(HostMemory),
    Cuda(cuda::CudaMemory),
}

/// Rows in a block of memory: the byte at which the first one starts, and the bytes from there to the next.
#[derive(Clone, Copy)]
pub(crate) struct Pitched {
    pub(crate) at: usize,
    pub(crate) stride: usize,
}

impl Memory {
    /// The address of its first byte, as kernels see it.
    pub(crate) fn address(&self) -> u64 {
        match self {
            Memory::Host(memory) => memory.address() as u64,
            Memory::Cuda(memory) => memory.address(),
        }
    }

    /// The GPU memory, if it is that.
    pub(crate) fn cuda(&self) -> Option<&cuda::CudaMemory> {
        match self {
            Memory::Cuda(memory) => Some(memory),
            Memory::Host(_) => None,
        }
    }

    fn write(&mut self, at: usize, data: &[u8], stream: &Stream) -> Result<(), DeviceError> {
        match self {
            Memory::Host(memory) => memory.write(at, data),
            Memory::Cuda(memory) => memory.write(at, data, stream.cuda()?)?,
        }
        Ok(())
    }

    /// The parts do not overlap.
    fn copy_within(
        &mut self,
        from: usize,
        to: usize,
        bytes: usize,
        stream: &Stream,
    ) -> Result<(), DeviceError> {
        match self {
            Memory::Host(memory) => memory.copy_within(from, to, bytes),
            Memory::Cuda(memory) => memory.copy_within(from, to, bytes, stream.cuda()?)?,
        }
        Ok(())
    }

    /// Copies so many rows of so many bytes from a block of the same device.
    ///
    /// # Safety
    /// Both have these rows. Nobody else reads or writes those that are written, and they do not overlap with what is read.
    unsafe fn copy_rows(
        &self,
        to: Pitched,
        from: &Memory,
        from_at: Pitched,
        rows: [usize; 2],
        stream: &Stream,
    ) -> Result<(), DeviceError> {
        match (self, from) {
            // SAFETY: the caller promises it.
            (Memory::Host(memory), Memory::Host(from)) => unsafe {
                memory.copy_rows(to, from, from_at, rows)
            },
            // SAFETY: as above.
            (Memory::Cuda(memory), Memory::Cuda(from)) => unsafe {
                memory.copy_rows(to, from, from_at, rows, stream.cuda()?)?;
            },
            _ => return Err(DeviceError::WrongDevice { what: "rows to copy" }),
        }
        Ok(())
    }

    fn read(&self, at: usize, data: &mut [u8], stream: &Stream) -> Result<(), DeviceError> {
        match self {
            Memory::Host(memory) => memory.read(at, data),
            Memory::Cuda(memory) => memory.read(at, data, stream.cuda()?)?,
        }
        Ok(())
    }
}
