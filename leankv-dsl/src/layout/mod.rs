//! Linear layouts over F2: where each element of a tile lives.
//!
//! A tile on a GPU is spread over the registers of the lanes of the warps of a block. Every such
//! distribution is one linear map over F2 from the bits of (register, lane, warp) to the bits of the
//! tile's index ([`LinearLayout`]); a place in shared memory is the same kind of map ([`SharedLayout`]).
//! So indexing, conversion, reduction and scan are each written once, for all layouts.
//!
//! Conventions, used everywhere:
//!
//! * **Padded extents.** Each dimension is padded to the next power of two. Padding elements exist in
//!   registers and hold garbage; who reads or writes memory, reduces or multiplies must leave them out.
//! * **Flat index.** Bits of all dimensions side by side, the last dimension in the lowest bits. The
//!   dimensions' bits do not overlap, so adding two basis vectors is `xor` on flat indices.
//! * **Free bits.** An input bit whose basis vector is zero (or a combination of earlier ones) holds a
//!   copy of what another thread holds; see [`LinearLayout::free_lanes`].
//! * **Normal form.** Register bits never have a zero basis vector: a thread keeps no copies.

mod build;
mod convert;
pub mod f2;
mod linear;
mod mma;
mod shared;

pub use build::blocked;
pub use convert::{Conversion, Route, Source, Transposition};
pub(crate) use linear::drop_bits;
pub use linear::{LANE_BITS, LinearLayout, log2_padded};
pub use mma::{MmaMapping, MmaShape};
pub use shared::{SharedLayout, Vectors, conversion_scratch, staging};
