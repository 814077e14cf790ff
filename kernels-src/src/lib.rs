//! Every shipped kernel.
//!
//! One file a kernel; its documentation says shapes, grid, rounding, errors and the source of a formula. [`KERNELS`] lists them
//! all, for the command line, the tuner and the tests that visit every declared specialisation. [`mod@reference`] holds what each
//! kernel must compute, in plain Rust.

pub mod basis;
pub mod budget;
pub mod candidates;
pub mod chunk;
pub mod decode;
pub mod manager;
pub mod matmul;
mod members;
pub mod pattern;
pub mod pending;
pub mod policy;
pub mod quantize;
pub mod reference;
pub mod softmax;
pub mod step;
pub mod vector_add;
pub mod workload;

/// Most query heads that may share a KV head.
pub const MAX_GROUP: usize = 256;

use leankv_dsl::lang::KernelDef;
use leankv_dsl::lang::attention::{PagedKv, Plain, Stock};

use crate::policy::StockPolicies;

/// Every shipped kernel, in alphabetical order.
pub static KERNELS: &[&dyn KernelDef] = &[
    &step::advance_positions::KERNEL,
    &chunk::cached_significance::<Stock, Plain, PagedKv>::KERNEL,
    &chunk::chunk_attention::<Stock, Plain, PagedKv>::KERNEL,
    &chunk::chunk_significance::<Plain>::KERNEL,
    &chunk::classify_chunk::<StockPolicies>::KERNEL,
    &manager::commit_pages::KERNEL,
    &manager::copy_tails::KERNEL,
    &decode::decode_attention::<Stock, Plain, PagedKv>::KERNEL,
    &quantize::dequantize::<Stock>::KERNEL,
    &basis::enter_basis::KERNEL,
    &manager::fit_pages::KERNEL,
    &manager::fork_pages::KERNEL,
    &step::insert_token::<Stock>::KERNEL,
    &basis::leave_basis::KERNEL,
    &budget::make_room::<Stock>::KERNEL,
    &matmul::matmul::KERNEL,
    &decode::merge_splits::<Plain>::KERNEL,
    &manager::plan_fork::KERNEL,
    &step::plan_step::<Stock, StockPolicies>::KERNEL,
    &manager::prepare_pages::KERNEL,
    &budget::price_tally::<Stock>::KERNEL,
    &quantize::quantize::<Stock>::KERNEL,
    &chunk::recompact::<Stock, StockPolicies>::KERNEL,
    &manager::scan_pages::KERNEL,
    &softmax::softmax::KERNEL,
    &budget::solve_budget::KERNEL,
    &budget::tally_tokens::<Stock>::KERNEL,
    &vector_add::vector_add::KERNEL,
    &chunk::write_chunk::<Stock>::KERNEL,
];

/// The shipped kernel with this name.
pub fn find(name: &str) -> Option<&'static dyn KernelDef> {
    KERNELS.iter().copied().find(|kernel| kernel.name() == name)
}
