//! LLVM code generation; the only place where inkwell appears, and there only with the feature `llvm`.
//!
//! * [`llvm`]: what every target needs of LLVM: typed errors, strict intrinsic lookup, running passes.
//! * [`nvptx`]: tile IR to PTX for NVIDIA GPUs.
//! * [`host`]: tile IR to a native object, its loader and its program runner.
//!
//! **Invariants**: no LLVM type crosses the border of this module, results are owned text and bytes; what a target cannot
//! select is refused by a check of our own before code generation, since LLVM would end the process.

mod artifact;
mod error;
#[cfg(feature = "llvm")]
pub mod host;
#[cfg(feature = "llvm")]
pub mod llvm;
#[cfg(feature = "llvm")]
pub mod nvptx;

pub use artifact::{HostArtifact, HostTarget, Site, SiteOperand};
pub use error::{CodegenError, LoadError};
