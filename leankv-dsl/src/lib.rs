//! The LeanKV kernel language and its compiler.
//!
//! Data flows one way: Rust source -> tile IR ([`ir`]) -> passes ([`pass`]) -> an executor
//! ([`interp`], or machine code from [`codegen`]). Layers only look down: [`lang`] and [`format`]
//! know the IR, nothing below [`codegen`] knows LLVM.

pub mod codegen;
pub mod diag;
pub mod format;
pub mod interp;
pub mod ir;
pub mod lang;
pub mod layout;
pub mod pass;
