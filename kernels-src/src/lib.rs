//! Every shipped kernel.
//!
//! [`reference`] holds what each kernel must compute, in plain Rust.

pub mod pattern;
pub mod reference;
