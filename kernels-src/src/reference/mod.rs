//! What every kernel must compute, in plain Rust and `f32`.
//!
//! These functions are the yardstick of the conformance tests and the demo, written for clarity: one token
//! at a time, no blocking, no vectors. Encoding and decoding follow
//! [`CodecMath`](leankv_dsl::format::CodecMath) and page offsets come from
//! [`PageLayout`](leankv_dsl::format::PageLayout).
//!
//! Tensors are row-major slices; shapes are written `[requests, heads, head_dim]`, outermost first. A slice
//! of the wrong length, a page id outside the arena or an impossible head count is a [`ReferenceError`].
//!
//! | kernel | reference |
//! |---|---|
//! | vector add, softmax, matmul | [`add`], [`softmax`], [`matmul`] |
//! | quantize, dequantize | [`quantize`], [`dequantize`] |
//! | tokens of a page | [`write_token`], [`read_token`], [`read_tokens`] |
//! | decode attention, merge of splits | [`decode_attention`], [`decode_partials`], [`merge_partials`] |
//! | significance in decode attention, and in pages | [`received`], [`add_pending`], [`add_shares`] |
//! | chunk attention, cached significance, chunk writer | [`attend_chunk`], [`write_chunk`] |
//! | classification of a chunk, compaction of what is cached | [`classify_chunk`], [`recompact()`] |
//! | prepare, scan, commit; fork, copy of tails | [`PageState::rebalance`], [`PageState::fork`] |
//! | planning of a decode step, insertion of its token | [`plan_step`], [`insert_token`] |

mod basic;
mod basis;
mod budget;
mod chunk;
mod decode;
mod error;
mod manager;
mod pages;
mod quantize;
mod recompact;
mod step;
#[cfg(test)]
mod testing;

pub use basic::{add, matmul, softmax};
pub use basis::{enter_basis, leave_basis, rotate};
pub use budget::{BudgetList, BudgetRules, fill_pages, price_tally, solve_budget};
pub use chunk::{ChunkArgs, ChunkOutput, Share, attend_chunk, write_chunk};
pub use decode::{
    DecodeArgs, DecodeOutput, PagedKv, Partial, PendingQueries, add_pending, add_shares, decode_attention,
    decode_partials, merge_partials, received,
};
pub use error::ReferenceError;
pub use manager::{Answer, PageShape, PageState};
pub use pages::{PagedFormat, Token, read_token, read_tokens, write_token};
pub use quantize::{Quantized, dequantize, quantize};
pub use recompact::{TierRule, classify_chunk, recompact};
pub use step::{Found, HeadLists, Planned, Shortlisted, StepArgs, insert_token, plan_step, shortlist};
