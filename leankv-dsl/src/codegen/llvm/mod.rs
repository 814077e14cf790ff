//! What every target needs of LLVM.

mod intrinsic;
mod module;
mod options;

pub use super::CodegenError;
pub(crate) use intrinsic::intrinsic;
pub(crate) use module::{optimise, verify};
pub(crate) use options::set_options;

/// The LLVM release that this build links, as `22.1.8`: part of every cache key.
pub fn llvm_version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}

impl From<inkwell::builder::BuilderError> for CodegenError {
    fn from(error: inkwell::builder::BuilderError) -> CodegenError {
        CodegenError::llvm("building instructions", error)
    }
}
