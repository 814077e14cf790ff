//! Codecs, KV formats and page layout: derived once, used by everyone.
//!
//! | concept | type | what it says |
//! |---|---|---|
//! | codec | [`CodecSpec`], [`CodecMath`] | how one vector becomes codes and group metadata, and back |
//! | KV format | [`KvFormat`], [`Tiering`], [`LayerFormats`] | which codec keys and values use, per tier, per layer |
//! | packing | [`pack_row`], [`unpack_row`], [`planes`] | how codes of 1 to 8 bits lie in bytes |
//! | page | [`PageLayout`] | where each segment of a page lies and how many tokens fit |
//! | account | [`Account`] | true bytes per token, payload bytes per token, compression |
//!
//! Invariants:
//!
//! * A page offset is computed in [`page`] and nowhere else; writers, readers, kernels and the memory
//!   manager ask a [`PageLayout`].
//! * [`CodecMath`] in plain `f32` is what encoding and decoding *mean*; kernels must agree with it bit for
//!   bit on codes and metadata.
//! * Nothing here knows the IR: this module is data and arithmetic only.
//!
//! # Example
//!
//! ```
//! use leankv_dsl::format::{KvFormat, PageLayout};
//!
//! let format: KvFormat = "K8V4".parse()?;
//! let page = PageLayout::derive(&format, 128, 6784)?;
//! assert_eq!(page.tokens_per_page(), 32);
//! assert_eq!(page.account().true_bytes_per_token(), 212.0);
//! # Ok::<(), leankv_dsl::format::FormatError>(())
//! ```

pub mod account;
pub mod codec;
mod error;
mod half_type;
pub mod kv;
mod layers;
mod loss;
pub mod pack;
pub mod page;
pub mod plan;
pub mod quant;

pub use account::Account;
pub use codec::{Bits, CodecShape, CodecSpec, Groups, Levels};
pub use error::FormatError;
pub use half_type::HalfType;
pub use kv::{KvFormat, Tiering};
pub use layers::LayerFormats;
pub use loss::normal_loss;
pub use pack::{Plane, pack_row, planes, row_bytes, unpack_row};
pub use page::{PageLayout, Segment, SegmentKind};
pub use plan::{PagePlan, PlanOptions, TILE_TOKENS, cache_page_bytes, page_tiles, plan_page_bytes};
pub use quant::{CodecMath, decode_row, encode_row};
