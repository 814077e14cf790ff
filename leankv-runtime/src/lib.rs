//! Devices, kernel cache and typed launch.
//!
//! A [`Compiler`] turns a recorded kernel into a [`CompiledKernel`] for a [`Target`], through a cache on disk. A [`Device`] holds
//! memory and runs kernels: the host, a CUDA GPU, the reference interpreter, or a GPU that is emulated. A launch takes
//! the struct of arguments that `#[kernel]` wrote beside the kernel, and refuses what rustc cannot check before anything runs. Kernels that are known at run time
//! only, such as those of a table, take their arguments one by one and by name ([`Kernel::launch`]).
//!
//! ```
//! use leankv_kernels::vector_add::{VectorAddArgs, VectorAddSpec, vector_add};
//! use leankv_runtime::cache::KernelCache;
//! use leankv_runtime::{Compiler, Device};
//!
//! let compiler = Compiler::new(KernelCache::without_folder()); // or `Compiler::global()`, over the user's cache
//! let device = Device::host();
//! let kernel = compiler.load(&device, &vector_add::KERNEL, &VectorAddSpec { block: 256 })?;
//! let x = device.upload(&[1.0f32, 2.0, 3.0])?;
//! let y = device.upload(&[10.0f32, 20.0, 30.0])?;
//! let mut out = device.zeros::<f32>(3)?;
//! let args = VectorAddArgs { x: x.tensor([3]), y: y.tensor([3]), out: out.tensor_mut([3]) };
//! // SAFETY: the kernel reaches memory through its views alone.
//! unsafe { kernel.launch(1, args).run() }?;
//! assert_eq!(out.to_vec()?, [11.0, 22.0, 33.0]);
//!
//! // A mistake is an error that names the parameter, and nothing runs.
//! let args = VectorAddArgs { x: x.tensor([4]), y: y.tensor([3]), out: out.tensor_mut([3]) };
//! // SAFETY: as above.
//! let error = unsafe { kernel.launch(1, args).run() }.unwrap_err().to_string();
//! assert_eq!(error, "kernel `vector_add`: `x` as [4] needs 4 elements of f32, and the buffer has 3");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without the feature `llvm` (it is a default) nothing compiles, and LLVM is not needed to build: kernels come from a [bundle](cache::Bundle) that a build with the feature
//! made ([`Compiler::recording`], [`kv::bundle`], `leankv bundle-cache`), and one that is in none is [`CompileError::NoCompiler`]. CUDA devices, emulated ones and the
//! reference interpreter work; the host's own code does not.
//!
//! **Invariants**: the crate starts without a CUDA driver, and only `device::cuda` touches one; the cache never fails a launch; no
//! device stands in for another: what one cannot do is an error.

pub mod cache;
pub mod compiled;
mod compiler;
pub mod device;
mod element;
#[cfg(test)]
mod faults;
mod kernel;
pub mod kv;
mod launch;
mod load;
#[cfg(feature = "llvm")]
mod lower;
#[cfg(not(feature = "llvm"))]
#[path = "no_llvm.rs"]
mod lower;
mod ptx_stats;
pub mod roofline;
mod signature;
mod staged;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod tools;
pub mod tune;
pub mod verify;

pub use compiled::{Code, CompiledKernel, KernelInfo, Resources};
pub use compiler::{CompileError, CompileOptions, Compiled, Compiler, LoadError};
pub use device::{BufferView, BufferViewMut, Device, DeviceBuffer, DeviceError, Event, Graph, Stream};
pub use element::Element;
pub use kernel::{Kernel, KernelOf};
pub use launch::{Grid, Launch, LaunchError};
pub use ptx_stats::{PtxStats, opcode_histogram};
pub use signature::{ArgumentError, ParamKind, ParamSpec, Signature};
pub use staged::staged_in;
pub use target::{Sm, Target, UnknownTarget};
