//! Devices, kernel cache and typed launch.

pub mod cache;
pub mod compiled;
mod compiler;
pub mod device;
mod element;
mod kernel;
mod launch;
mod load;
mod lower;
mod ptx_stats;
mod signature;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod tools;

pub use compiled::{Code, CompiledKernel, KernelInfo, Resources};
pub use compiler::{CompileError, CompileOptions, Compiled, Compiler, LoadError};
pub use device::{BufferView, BufferViewMut, Device, DeviceBuffer, DeviceError, Event, Stream};
pub use element::Element;
pub use kernel::Kernel;
pub use launch::{Grid, Launch, LaunchError};
pub use ptx_stats::{PtxStats, opcode_histogram};
pub use signature::{ArgumentError, ParamKind, ParamSpec, Signature};
pub use target::{Sm, Target, UnknownTarget};
