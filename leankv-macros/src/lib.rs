//! The attributes and derives of the LeanKV kernel language.
//!
//! A kernel function is ordinary Rust that records tile IR when it runs. The macros rewrite only what a
//! function call cannot do: `if`, `for` and `while` over run-time values become regions with carried variables, and the
//! `#[comptime]` parameters become a spec struct.
//!
//! Layout: `parse/x.rs` reads a construct, `generate/x.rs` of the same name writes its expansion, `scan/` finds
//! carried variables and control flow that leaves a region. All of it works on `proc_macro2`; this file alone touches
//! `proc_macro`.
//!
//! **Invariants**: no input panics; errors are collected and come with the item itself, so that completion keeps
//! working; user tokens are emitted once, with their spans; generated names start with `__`; paths are absolute.

mod error;
mod generate;
mod parse;
mod scan;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Turns a function into a kernel.
///
/// Parameters marked `#[comptime]` are known at specialisation time; they become the fields of a public struct
/// `<Name>Spec`, or *are* that struct when there is exactly one and it is called `spec`. All others are parameters of
/// the launch (views, pointers, scalars, structs of them). Beside the function, which stays callable from other
/// kernels, stands a type of the same name: `name::build(&spec)` records the kernel, `name::KERNEL` is its
/// entry for a table of kernels.
///
/// Keys: `space(field = [values], ..)`, `tune(field = [values], ..)` (values that a tuner may try: they change speed alone), `default(field = value, ..)`, `valid = |s| ..`, `spec = Name`,
/// `name = "name"`, `warps = expr`, `resident = expr` (programs that a multiprocessor should have room for at once), `dump = "file"`.
#[proc_macro_attribute]
pub fn kernel(attr: TokenStream, item: TokenStream) -> TokenStream {
    generate::kernel::expand(attr.into(), item.into()).into()
}

/// Lets a function, an `impl` block or a trait use `if`, `for` and `while` over run-time values.
#[proc_macro_attribute]
pub fn device(attr: TokenStream, item: TokenStream) -> TokenStream {
    generate::device::expand(attr.into(), item.into()).into()
}

/// Lets a struct of tiles and scalars be carried through loops and branches.
///
/// Fields marked `#[carry(fixed)]` are plain Rust values that must not change inside a recorded region.
#[proc_macro_derive(Carry, attributes(carry))]
pub fn carry(item: TokenStream) -> TokenStream {
    generate::derive::carry(item.into()).into()
}

/// Lets a struct of views, pointers and scalars be one parameter of a kernel.
///
/// Fields take the same `#[arg(..)]` attribute as kernel parameters.
#[proc_macro_derive(KernelArg, attributes(arg))]
pub fn kernel_arg(item: TokenStream) -> TokenStream {
    generate::derive::kernel_arg(item.into()).into()
}

/// Makes a struct the specialisation of a kernel.
///
/// Fields take `#[spec(default = value, values = [value, ..])]`, the struct takes `#[spec(valid = |s| ..)]`.
#[proc_macro_derive(Spec, attributes(spec))]
pub fn spec(item: TokenStream) -> TokenStream {
    generate::spec::derive(item.into()).into()
}
