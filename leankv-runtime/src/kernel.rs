//! Kernels loaded on a device, ready to launch.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use leankv_dsl::lang::TypedKernel;
use leankv_dsl::lang::launch::Arguments;

use crate::device::{CudaArg, CudaKernel, Device, Stream};
use crate::launch::{Grid, Launch, LaunchError, Slot};
use crate::signature::{ArgumentSpec, Signature};

/// A kernel on a device. Clones share the loaded code.
#[derive(Clone)]
pub struct Kernel {
    device: Device,
    inner: Arc<Inner>,
}

struct Inner {
    signature: Signature,
    arguments: Vec<ArgumentSpec>,
    loaded: Loaded,
}

/// Code in the form that its device runs.
pub(crate) enum Loaded {
    /// Code over host memory: machine code, or an interpreter.
    Host(Box<dyn HostCode>),
    /// A function in a module of a GPU's context.
    Cuda(CudaKernel),
}

/// Something that runs a kernel's programs over host memory.
pub(crate) trait HostCode: Send + Sync {
    /// Runs all programs of the grid.
    ///
    /// # Errors
    /// What a checking executor found.
    ///
    /// # Safety
    /// The arguments are what the kernel's signature says, and the kernel's own address arithmetic stays within them.
    unsafe fn run(&self, grid: [u32; 3], args: &[HostArg]) -> Result<(), String>;
}

/// An argument for [`HostCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostArg {
    /// A buffer.
    Pointer {
        /// Its first byte.
        start: *mut u8,
        /// Its length in bytes.
        bytes: usize,
    },
    /// Little-endian bytes of a number, zero-extended.
    Scalar(u64),
}

impl Kernel {
    pub(crate) fn new(device: Device, signature: Signature, loaded: Loaded) -> Kernel {
        let arguments = signature.arguments();
        Kernel { device, inner: Arc::new(Inner { signature, arguments, loaded }) }
    }

    /// The device it is loaded on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it takes.
    pub fn signature(&self) -> &Signature {
        &self.inner.signature
    }

    /// What a launch gives, one after another.
    pub(crate) fn arguments(&self) -> &[ArgumentSpec] {
        &self.inner.arguments
    }

    /// Starts a launch of `grid` programs, whose arguments are given one by one and by name.
    pub fn launch(&self, grid: impl Into<Grid>) -> Launch<'_> {
        Launch::new(self, grid.into())
    }

    /// Runs the kernel with arguments that were checked.
    ///
    /// # Safety
    /// `slots` fit the signature; the rest as [`Launch::run`].
    pub(crate) unsafe fn execute(
        &self,
        grid: [u32; 3],
        slots: &[Slot<'_>],
        stream: &Stream,
    ) -> Result<(), LaunchError> {
        match &self.inner.loaded {
            Loaded::Host(code) => {
                let args: Vec<HostArg> = slots
                    .iter()
                    .map(|slot| match *slot {
                        Slot::Buffer { memory, offset, bytes, .. } => {
                            HostArg::Pointer { start: (memory.address() as usize + offset) as *mut u8, bytes }
                        }
                        Slot::Scalar(bits) => HostArg::Scalar(bits),
                    })
                    .collect();
                // SAFETY: the caller promises fitting slots and a kernel that keeps to them.
                unsafe { code.run(grid, &args) }.map_err(|message| LaunchError::Execution {
                    kernel: self.inner.signature.kernel.clone(),
                    message,
                })
            }
            Loaded::Cuda(kernel) => {
                let args: Vec<CudaArg<'_>> = slots
                    .iter()
                    .filter_map(|slot| match *slot {
                        Slot::Buffer { memory, offset, written, .. } => {
                            Some(CudaArg::Pointer { memory: memory.cuda()?, offset, written })
                        }
                        Slot::Scalar(bits) => Some(CudaArg::Scalar(bits)),
                    })
                    .collect();
                // A launch refuses buffers of other devices, so none was left out.
                assert_eq!(
                    args.len(),
                    slots.len(),
                    "internal error: a GPU launch with memory of another device"
                );
                // SAFETY: as above.
                Ok(unsafe { kernel.launch(grid, &args, stream.cuda()?) }?)
            }
        }
    }
}

/// A [`Kernel`] whose arguments have a type: the struct that `#[kernel]` wrote beside it. Clones share the loaded code.
///
/// [`Compiler::load`](crate::Compiler::load) makes it.
pub struct KernelOf<K: TypedKernel> {
    kernel: Kernel,
    spec: Arc<K::Spec>,
    of: PhantomData<fn() -> K>,
}

impl<K: TypedKernel> KernelOf<K> {
    pub(crate) fn new(kernel: Kernel, spec: K::Spec) -> Self {
        Self { kernel, spec: Arc::new(spec), of: PhantomData }
    }

    /// What it is specialised for.
    pub fn spec(&self) -> &K::Spec {
        &self.spec
    }

    /// A launch of `grid` programs with these arguments. What rustc cannot check is checked when it is run: lengths of buffers, alignment, and that
    /// all belong to the kernel's device.
    pub fn launch<'a>(&'a self, grid: impl Into<Grid>, args: K::Args<'a>) -> Launch<'a> {
        let mut arguments = Arguments::new();
        K::give(args, &mut arguments);
        Launch::with_arguments(&self.kernel, grid.into(), arguments)
    }

    /// The same kernel, to be launched with arguments by name.
    pub fn untyped(&self) -> &Kernel {
        &self.kernel
    }

    /// The device it is loaded on.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }
}

impl<K: TypedKernel> Clone for KernelOf<K> {
    fn clone(&self) -> Self {
        Self { kernel: self.kernel.clone(), spec: self.spec.clone(), of: PhantomData }
    }
}

impl<K: TypedKernel> fmt::Debug for KernelOf<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kernel.fmt(f)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({} on {})", self.inner.signature, self.device.name())
    }
}
