//! The production CPU back end: tile IR to a native object, its loader and its program runner.
//!
//! [`compile`] gives a [`HostArtifact`], plain data that can be kept on disk under [`HostTarget::cache_key`]; [`HostKernel::load`]
//! makes it launchable without compiler or linker; [`HostKernel::launch`] runs a grid of programs over rayon's threads.
//!
//! **Invariants**: an emitted object refers to nothing but the C library's math functions; a kernel never unwinds; one
//! program touches its arguments' memory and its own scratch memory, nothing else.

mod abi;
mod build;
mod check;
mod compile;
mod emit;
mod launch;
mod load;
mod plan;
mod target;
#[cfg(test)]
mod tests;

pub use super::artifact::{HostArtifact, HostTarget, Site, SiteOperand};
pub use super::error::LoadError;
pub use compile::{HostOptions, compile};
pub use launch::{HostArg, LaunchError};
pub use load::HostKernel;
