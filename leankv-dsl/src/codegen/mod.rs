//! LLVM code generation; the only place where inkwell appears.
//!
//! * [`llvm`]: what every target needs of LLVM: typed errors, strict intrinsic lookup, running passes.
//! * [`nvptx`]: tile IR to PTX for NVIDIA GPUs.
//! * [`host`]: tile IR to a native object, its loader and its program runner.
//!
//! **Invariants**: no LLVM type crosses the border of this module, results are owned text and bytes; what a target cannot
//! select is refused by a check of our own before code generation, since LLVM would end the process.

pub mod host;
pub mod llvm;
pub mod nvptx;

pub use llvm::CodegenError;
