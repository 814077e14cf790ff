//! CUDA devices through cudarc, loaded at run time. **The only file that names cudarc.**
//!
//! cudarc panics where the driver library, or a function in it, is missing. So the library is looked for, and every
//! function this file reaches is looked up in it, before cudarc is asked for anything.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::result::stream::StreamKind;
use cudarc::driver::sys::{self, CUdevice_attribute, CUevent_flags, CUfunction_attribute_enum, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError,
    LaunchConfig, PushKernelArg,
};

use super::{DeviceError, Pitched};

/// Every driver function that cudarc calls on behalf of this file.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDriverGetVersion",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// A GPU in its primary context.
pub(crate) struct CudaDevice {
    context: Arc<CudaContext>,
    queue: CudaQueue,
    foreign_stream: bool,
    name: String,
    capability: (u32, u32),
    driver_version: (u32, u32),
}

/// A stream.
#[derive(Clone)]
pub(crate) struct CudaQueue(Arc<CudaStream>);

/// What a stream was given to do.
pub(crate) struct CudaGraph(cudarc::driver::CudaGraph);

/// Which stream a device uses.
pub(crate) enum Streams {
    /// The context's default one, and others that are made.
    Any,
    /// This one of the caller's alone.
    Callers(usize),
    /// One of its own alone.
    Own,
}

/// An event.
pub(crate) struct CudaMark(CudaEvent);

/// A block of GPU memory.
pub(crate) enum CudaMemory {
    /// cudarc's slice remembers who reads and writes it on which stream; the lock guards that book-keeping, the bytes
    /// are guarded by the buffer's borrows.
    Owned(Mutex<CudaSlice<u8>>, u64),
    /// Someone else's, ordered by the caller.
    Foreign(u64),
}

/// A loaded kernel.
pub(crate) struct CudaKernel {
    function: CudaFunction,
    shared_bytes: u32,
    threads: u32,
}

/// An argument of a launch.
pub(crate) enum CudaArg<'a> {
    Pointer {
        memory: &'a CudaMemory,
        offset: usize,
        written: bool,
    },
    /// Little-endian bytes of the scalar, zero-extended.
    Scalar(u64),
}

/// How many GPUs there are.
pub(super) fn count() -> Result<usize, DeviceError> {
    check_driver()?;
    caught(|| {
        cudarc::driver::result::init()?;
        CudaContext::device_count()
    })?
    .map_or_else(
        |e| {
            if e.0 == CUresult::CUDA_ERROR_NO_DEVICE {
                Ok(0)
            } else {
                Err(driver_error("counting devices", e))
            }
        },
        |n| Ok(usize::try_from(n).unwrap_or(0)),
    )
}

/// The driver is there and has every function.
fn check_driver() -> Result<(), DeviceError> {
    // SAFETY: loads and unloads the system's driver library, whose initialisers are safe to run.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver);
    }
    // SAFETY: the library is present, which is all that `culib` needs.
    let library = caught(|| unsafe { sys::culib() })?;
    let lacks = |name: &&&str| {
        // SAFETY: the symbol is only looked for, never called through this type.
        unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err()
    };
    let missing: Vec<String> = FUNCTIONS.iter().filter(lacks).map(|name| (*name).to_owned()).collect();
    if missing.is_empty() { Ok(()) } else { Err(DeviceError::OldDriver { missing }) }
}

/// Runs `call`; a panic of cudarc's lazy loader becomes an error.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, DeviceError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        DeviceError::OldDriver { missing: vec![text] }
    })
}

fn driver_error(doing: &'static str, error: DriverError) -> DeviceError {
    use CUresult::{
        CUDA_ERROR_ASSERT, CUDA_ERROR_CONTEXT_IS_DESTROYED, CUDA_ERROR_HARDWARE_STACK_ERROR,
        CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_ILLEGAL_INSTRUCTION, CUDA_ERROR_INVALID_ADDRESS_SPACE,
        CUDA_ERROR_INVALID_PC, CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_LAUNCH_TIMEOUT,
        CUDA_ERROR_MISALIGNED_ADDRESS,
    };
    let poisoned = matches!(
        error.0,
        CUDA_ERROR_ASSERT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_MISALIGNED_ADDRESS
    );
    let name = error.error_name().map(|s| s.to_string_lossy().into_owned());
    let text = error.error_string().map(|s| s.to_string_lossy().into_owned());
    let code = match (name, text) {
        (Ok(name), Ok(text)) => format!("{name} ({text})"),
        _ => format!("{:?}", error.0),
    };
    DeviceError::Driver { doing, code, poisoned }
}

/// Turns a driver result into ours.
fn driver<T>(doing: &'static str, call: impl FnOnce() -> Result<T, DriverError>) -> Result<T, DeviceError> {
    caught(call)?.map_err(|e| driver_error(doing, e))
}

impl CudaDevice {
    pub(super) fn open(ordinal: usize, streams: Streams) -> Result<CudaDevice, DeviceError> {
        let count = count()?;
        if ordinal >= count {
            return Err(DeviceError::NoSuchDevice { ordinal, count });
        }
        let context = driver("opening the device", || CudaContext::new(ordinal))?;
        let name = driver("asking for the device's name", || context.name())?;
        let capability = driver("asking for the compute capability", || {
            let major =
                context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor =
                context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            Ok((major.unsigned_abs(), minor.unsigned_abs()))
        })?;
        let driver_version = driver("asking for the driver's version", || {
            let mut version = 0;
            // SAFETY: it writes one number.
            unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
            let version = version.unsigned_abs();
            Ok((version / 1000, version % 1000 / 10))
        })?;
        let foreign_stream = !matches!(streams, Streams::Any);
        let stream = match streams {
            Streams::Any => None,
            Streams::Callers(stream) => Some(stream as sys::CUstream),
            // It is never destroyed: buffers may be the last to use it. cudarc counts borrowed streams as no second one, whose order it would keep
            // with events, which a capture does not allow.
            Streams::Own => Some(driver("making a stream", || {
                context.bind_to_thread()?;
                cudarc::driver::result::stream::create(StreamKind::NonBlocking)
            })?),
        };
        let queue = match stream {
            None => context.default_stream(),
            // SAFETY: it is of this context and outlives it: the caller of `Device::cuda_on_stream` promises that, or it was just made.
            Some(stream) => unsafe { context.wrap_borrowed_stream(stream) },
        };
        Ok(CudaDevice { context, queue: CudaQueue(queue), foreign_stream, name, capability, driver_version })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its memory, if the driver says.
    pub(super) fn memory(&self) -> Option<u64> {
        let bytes = driver("asking for the memory", || self.context.total_mem());
        bytes.ok().and_then(|bytes| u64::try_from(bytes).ok())
    }

    pub(super) fn driver_version(&self) -> (u32, u32) {
        self.driver_version
    }

    pub(crate) fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    pub(super) fn default_queue(&self) -> &CudaQueue {
        &self.queue
    }

    pub(super) fn new_queue(&self) -> Result<CudaQueue, DeviceError> {
        if self.foreign_stream {
            return Err(DeviceError::ForeignStream);
        }
        Ok(CudaQueue(driver("making a stream", || self.context.new_stream())?))
    }

    pub(super) fn zeroed(&self, bytes: usize) -> Result<CudaMemory, DeviceError> {
        // The driver refuses empty allocations.
        let slice = caught(|| self.queue.0.alloc_zeros::<u8>(bytes.max(1)))?.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes: Some(bytes) },
            _ => driver_error("allocating", e),
        })?;
        let address = slice.device_ptr(&self.queue.0).0;
        Ok(CudaMemory::Owned(Mutex::new(slice), address))
    }

    /// # Safety
    /// See [`super::Device::wrap`].
    pub(super) unsafe fn foreign(&self, address: usize, _bytes: usize) -> Result<CudaMemory, DeviceError> {
        Ok(CudaMemory::Foreign(address as u64))
    }

    /// Loads a kernel from PTX or machine code.
    ///
    /// `image` is PTX text or a cubin; `shared_bytes` is dynamic shared memory per block.
    pub(crate) fn load(
        &self,
        image: &[u8],
        entry: &str,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<CudaKernel, DeviceError> {
        // `load_module` wants text without inner NULs; raw data must end with one, which cuModuleLoadData expects
        // of PTX and ignores in a cubin.
        let mut data = image.to_vec();
        data.push(0);
        let module =
            driver("loading the kernel", || self.context.load_module(cudarc::nvrtc::Ptx::from_binary(data)))?;
        if entry.contains('\0') {
            let code = format!("the kernel name {entry:?} holds a NUL");
            return Err(DeviceError::Driver { doing: "finding the kernel", code, poisoned: false });
        }
        let function = driver("finding the kernel in its module", || module.load_function(entry))?;
        // Beyond 48 KiB a kernel must ask first.
        if shared_bytes > 48 * 1024 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            driver("asking for shared memory", || function.set_attribute(attribute, bytes))?;
        }
        Ok(CudaKernel { function, shared_bytes, threads })
    }
}

impl CudaKernel {
    /// Queues the kernel.
    ///
    /// # Safety
    /// The arguments are what the kernel's signature says: count, order, types, sizes and alignment.
    pub(crate) unsafe fn launch(
        &self,
        grid: [u32; 3],
        args: &[CudaArg<'_>],
        queue: &CudaQueue,
    ) -> Result<(), DeviceError> {
        let stream = &queue.0;
        // One lock per block of memory, in address order: two launches that share blocks cannot wait for each other.
        let mut blocks: Vec<(u64, &CudaMemory, bool)> = Vec::new();
        for arg in args {
            if let CudaArg::Pointer { memory, written, .. } = arg {
                match blocks.iter_mut().find(|(_, other, _)| std::ptr::eq(*other, *memory)) {
                    Some((_, _, any)) => *any |= written,
                    None => blocks.push((memory.address(), memory, *written)),
                }
            }
        }
        blocks.sort_by_key(|(address, ..)| *address);
        let mut guards: Vec<(MutexGuard<'_, CudaSlice<u8>>, bool)> =
            blocks.iter().filter_map(|(_, memory, written)| Some((memory.lock()?, *written))).collect();
        // Makes the stream wait for earlier users of each block, and marks the block as used when dropped, which is
        // after the launch below was queued.
        let _marks: Vec<_> = guards
            .iter_mut()
            .map(
                |(slice, written)| {
                    if *written { slice.device_ptr_mut(stream).1 } else { slice.device_ptr(stream).1 }
                },
            )
            .collect();
        let words: Vec<u64> = args
            .iter()
            .map(|arg| match arg {
                CudaArg::Pointer { memory, offset, .. } => memory.address() + *offset as u64,
                CudaArg::Scalar(bits) => *bits,
            })
            .collect();
        let mut builder = stream.launch_builder(&self.function);
        for word in &words {
            // The driver reads as many bytes as the parameter has; little-endian, so the low ones.
            builder.arg(word);
        }
        let config = LaunchConfig {
            grid_dim: grid.into(),
            block_dim: (self.threads, 1, 1),
            shared_mem_bytes: self.shared_bytes,
        };
        // SAFETY: the caller promises fitting arguments; each word outlives the call.
        driver("launching the kernel", || unsafe { builder.launch(config) }).map(drop)
    }
}

impl CudaMemory {
    pub(super) fn address(&self) -> u64 {
        match self {
            CudaMemory::Owned(_, address) | CudaMemory::Foreign(address) => *address,
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, CudaSlice<u8>>> {
        match self {
            CudaMemory::Owned(slice, _) => Some(slice.lock().unwrap_or_else(|e| e.into_inner())),
            CudaMemory::Foreign(_) => None,
        }
    }

    pub(super) fn write(&mut self, at: usize, data: &[u8], queue: &CudaQueue) -> Result<(), DeviceError> {
        if data.is_empty() {
            return Ok(());
        }
        let address = self.address() + at as u64;
        let mut guard = self.lock();
        let _mark = guard.as_mut().map(|slice| slice.device_ptr_mut(&queue.0).1);
        driver("copying to the device", || {
            queue.0.context().bind_to_thread()?;
            // SAFETY: the buffer checked the range. The copy is waited for, so `data` outlives it.
            unsafe { cudarc::driver::result::memcpy_htod_async(address, data, queue.0.cu_stream())? };
            queue.0.synchronize()
        })
    }

    /// The parts do not overlap.
    pub(super) fn copy_within(
        &mut self,
        from: usize,
        to: usize,
        bytes: usize,
        queue: &CudaQueue,
    ) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        let [from, to] = [from, to].map(|at| self.address() + at as u64);
        let mut guard = self.lock();
        let _mark = guard.as_mut().map(|slice| slice.device_ptr_mut(&queue.0).1);
        driver("copying on the device", || {
            queue.0.context().bind_to_thread()?;
            // SAFETY: the buffer checked both ranges, which do not overlap. Memory is freed after the work queued before.
            unsafe { cudarc::driver::result::memcpy_dtod_async(to, from, bytes, queue.0.cu_stream()) }
        })
    }

    /// A copy a row, or one where the rows of both lie side by side.
    ///
    /// # Safety
    /// Both blocks have these rows. Nobody else reads or writes those that are written, and they do not overlap with what is read.
    pub(super) unsafe fn copy_rows(
        &self,
        to: Pitched,
        from: &CudaMemory,
        from_at: Pitched,
        [rows, row]: [usize; 2],
        queue: &CudaQueue,
    ) -> Result<(), DeviceError> {
        let dense = to.stride == row && from_at.stride == row;
        let [rows, row] = if dense { [1, rows * row] } else { [rows, row] };
        if row == 0 {
            return Ok(());
        }
        let (mut guard, from_guard) = (self.lock(), from.lock());
        let _marks = (
            guard.as_mut().map(|slice| slice.device_ptr_mut(&queue.0).1),
            from_guard.as_ref().map(|slice| slice.device_ptr(&queue.0).1),
        );
        let at = |memory: &CudaMemory, rows: Pitched, number: usize| {
            memory.address() + (rows.at + number * rows.stride) as u64
        };
        driver("copying on the device", || {
            queue.0.context().bind_to_thread()?;
            for number in 0..rows {
                let (to, from) = (at(self, to, number), at(from, from_at, number));
                // SAFETY: the caller promises the rows. Memory is freed after the work queued before.
                unsafe { cudarc::driver::result::memcpy_dtod_async(to, from, row, queue.0.cu_stream())? };
            }
            Ok(())
        })
    }

    pub(super) fn read(&self, at: usize, data: &mut [u8], queue: &CudaQueue) -> Result<(), DeviceError> {
        if data.is_empty() {
            return Ok(());
        }
        let address = self.address() + at as u64;
        let guard = self.lock();
        let _mark = guard.as_ref().map(|slice| slice.device_ptr(&queue.0).1);
        driver("copying from the device", || {
            queue.0.context().bind_to_thread()?;
            // SAFETY: as in `write`.
            unsafe { cudarc::driver::result::memcpy_dtoh_async(data, address, queue.0.cu_stream())? };
            queue.0.synchronize()
        })
    }
}

impl CudaQueue {
    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        driver("waiting for the stream", || {
            self.0.synchronize()?;
            // Errors of drops and waits, which could not be returned where they happened.
            self.0.context().check_err()
        })
    }

    pub(super) fn is_capturing(&self) -> Result<bool, DeviceError> {
        let status = driver("asking whether the stream is captured", || self.0.capture_status())?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    pub(super) fn begin_capture(&self) -> Result<(), DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        driver("capturing the stream", || self.0.begin_capture(mode))
    }

    pub(super) fn end_capture(&self) -> Result<CudaGraph, DeviceError> {
        let doing = "making a graph of the stream";
        let graph = driver(doing, || self.0.end_capture(sys::CUgraphInstantiate_flags(0)))?;
        let empty =
            || DeviceError::Driver { doing, code: "nothing was captured".to_owned(), poisoned: false };
        graph.map(CudaGraph).ok_or_else(empty)
    }

    pub(super) fn record(&self) -> Result<CudaMark, DeviceError> {
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        Ok(CudaMark(driver("recording an event", || self.0.record_event(timed))?))
    }

    pub(super) fn wait(&self, mark: &CudaMark) -> Result<(), DeviceError> {
        driver("waiting for an event", || self.0.wait(&mark.0))
    }
}

impl CudaGraph {
    pub(super) fn launch(&self) -> Result<(), DeviceError> {
        driver("launching a graph", || self.0.launch())
    }
}

impl CudaMark {
    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        driver("waiting for an event", || self.0.synchronize())
    }

    pub(super) fn elapsed_ms(&self, later: &CudaMark) -> Result<f64, DeviceError> {
        driver("timing events", || self.0.elapsed_ms(&later.0)).map(f64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Device;
    use super::*;

    /// Holds on a machine with a driver and on one without.
    #[test]
    fn opening_a_gpu_gives_a_device_or_a_typed_error_and_never_a_panic() {
        match (Device::cuda(0), Device::cuda_count()) {
            (Ok(device), Ok(count)) => assert!(count > 0 && device.compute_capability().is_some()),
            (Err(DeviceError::NoDriver), Err(DeviceError::NoDriver)) => {}
            (Err(DeviceError::NoSuchDevice { ordinal: 0, count: 0 }), Ok(0)) => {}
            (device, count) => panic!("{device:?}, {count:?}"),
        }
        assert!(Device::cuda(usize::MAX).is_err());
    }

    #[test]
    fn a_panic_of_the_lazy_loader_is_an_error_with_its_words() {
        let error = caught(|| panic!("Missing symbol cuFancy")).map(|(): ()| ()).unwrap_err();
        assert!(error.to_string().contains("cuFancy"), "{error}");
    }
}
