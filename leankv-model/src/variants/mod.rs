//! Codecs as a user of the kernel language writes them: one file each, around whatever codec a tier's format names.
//!
//! | codec | what it does to keys before they are coded |
//! |---|---|
//! | [`KeyOffsetTables`] | takes out the rotated bias of their projection |
//! | [`Hadamard`] | rotates them, so that no element is much larger than the others |
//!
//! They compose: after the offset, a rotation is one of what is left without the bias. Both store what the inner codec stores, so they add no byte to a
//! token and page layouts stay those of the formats that are named.

mod hadamard;
mod key_offset;
mod tables;

pub use hadamard::Hadamard;
pub use key_offset::{KeyOffset, KeyOffsetArgs};
pub use tables::KeyOffsetTables;
