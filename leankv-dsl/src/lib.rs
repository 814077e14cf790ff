//! The LeanKV kernel language and its compiler.
//!
//! Data flows one way: Rust source -> tile IR ([`ir`]) -> passes ([`pass`]) -> an executor
//! ([`interp`], or machine code from [`codegen`]). Layers only look down: [`lang`] and [`mod@format`]
//! know the IR, nothing below [`codegen`] knows LLVM.
//!
//! The feature `llvm` (default) is the compiler. Without it nothing of LLVM is linked or needed to build: kernels are recorded, printed and interpreted,
//! and their code comes from bundles that were made beforehand.

// What serves code generation alone.
#![cfg_attr(not(feature = "llvm"), allow(dead_code, unused_imports))]

// The macros name this crate by its absolute path, here too.
#[allow(unused_extern_crates)]
extern crate self as leankv_dsl;

pub mod codegen;
pub mod diag;
pub mod format;
pub mod interp;
pub mod ir;
pub mod lang;
pub mod layout;
pub mod pass;
pub mod target;
pub mod workload;

/// Changes with every source file of this crate: what a cache of compiled kernels must be keyed by.
pub const COMPILER_FINGERPRINT: &str = env!("LEANKV_COMPILER_FINGERPRINT");
