//! Every shipped kernel.
//!
//! One file a kernel; its documentation says shapes, grid, rounding, errors and the source of a formula. [`KERNELS`] lists them
//! all, for the command line, the tuner and the tests that visit every declared specialisation. [`reference`] holds what each
//! kernel must compute, in plain Rust.

pub mod matmul;
pub mod pattern;
pub mod reference;
pub mod softmax;
pub mod vector_add;

use leankv_dsl::lang::KernelDef;

/// Every shipped kernel, in alphabetical order.
pub static KERNELS: &[&dyn KernelDef] =
    &[&matmul::matmul::KERNEL, &softmax::softmax::KERNEL, &vector_add::vector_add::KERNEL];

/// The shipped kernel with this name.
pub fn find(name: &str) -> Option<&'static dyn KernelDef> {
    KERNELS.iter().copied().find(|kernel| kernel.name() == name)
}
