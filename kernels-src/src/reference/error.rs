//! What can be wrong with the arguments of a reference.

use leankv_dsl::format::FormatError;
use thiserror::Error;

/// Arguments that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A slice whose length does not follow from the shapes.
    #[error("{what}: expected {expected} elements, got {got}")]
    Shape {
        /// The argument and its shape.
        what: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length given.
        got: usize,
    },
    /// A page id outside the arena.
    #[error("page {page} is outside an arena of {pages} pages")]
    PageOutOfArena {
        /// The id.
        page: i32,
        /// Pages in the arena.
        pages: usize,
    },
    /// A request's slot that the tables do not have.
    #[error("slot {slot} is outside tables of {slots} slots")]
    SlotOutOfRange {
        /// The slot given.
        slot: i32,
        /// Slots of the tables.
        slots: usize,
    },
    /// A length that its page list cannot hold.
    #[error("a length of {len} tokens does not fit {room} tokens of listed pages")]
    LengthBeyondPages {
        /// The length given.
        len: i64,
        /// Tokens that the listed pages hold.
        room: usize,
    },
    /// Query heads that do not share KV heads evenly.
    #[error("{query_heads} query heads do not divide among {kv_heads} KV heads")]
    HeadGroups {
        /// Query heads.
        query_heads: usize,
        /// KV heads.
        kv_heads: usize,
    },
    /// A format or page that cannot be used.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Checks the length of a slice.
pub(super) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<(), ReferenceError> {
    if expected == got { Ok(()) } else { Err(ReferenceError::Shape { what, expected, got }) }
}

/// Query heads per KV head.
pub(super) fn group_size(query_heads: usize, kv_heads: usize) -> Result<usize, ReferenceError> {
    if kv_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
        return Err(ReferenceError::HeadGroups { query_heads, kv_heads });
    }
    Ok(query_heads / kv_heads)
}
