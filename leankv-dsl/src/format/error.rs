//! What can be wrong with a format, a page or a buffer handed to them.

use thiserror::Error;

/// A format, page or buffer that cannot be used, with what would be accepted instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A code width outside 1 to 8 (16 where raw 16-bit storage is allowed).
    #[error("codes of {bits} bits are not supported: use 1 to 8 bits, or 16 for unquantised storage")]
    UnsupportedBits {
        /// The width asked for.
        bits: u32,
    },
    /// A number of groups along the head dim other than 1, 2 or 4.
    #[error("{groups} groups along the head dim are not supported: use 1, 2 or 4")]
    UnsupportedGroups {
        /// The number of groups asked for.
        groups: u32,
    },
    /// A name that is not in the grammar.
    #[error("`{given}` is not a {what}: {reason}\n  allowed: {grammar}")]
    UnknownName {
        /// What was being named: `codec`, `KV format` or `tiering`.
        what: &'static str,
        /// The text given.
        given: String,
        /// The first thing that is wrong with it.
        reason: String,
        /// The grammar with examples.
        grammar: &'static str,
    },
    /// A head dim that cannot be packed.
    #[error("head dim {head_dim} is not supported: it must be a multiple of 8 from 8 to 512")]
    HeadDim {
        /// The head dim asked for, in elements.
        head_dim: u32,
    },
    /// Groups that do not divide the head dim.
    #[error("head dim {head_dim} does not split into {groups} equal groups")]
    GroupsDoNotDivide {
        /// The head dim, in elements.
        head_dim: u32,
        /// The number of groups.
        groups: u32,
    },
    /// More metadata than a group can have.
    #[error("{words} metadata words per group are not supported: use at most {max}")]
    MetaWords {
        /// The number of 16-bit words asked for.
        words: u32,
        /// The most that is supported.
        max: u32,
    },
    /// A page size that no device could address as an array of pages.
    #[error("page size {page_bytes} B is not supported: it must be a multiple of 4 B and at most {max} B")]
    PageBytes {
        /// The page size asked for.
        page_bytes: u32,
        /// The largest supported size.
        max: u32,
    },
    /// A page that cannot hold a single token.
    #[error(
        "a page of {page_bytes} B cannot hold one token of {format} at head dim {head_dim}: \
         use at least {need} B"
    )]
    PageTooSmall {
        /// The page size asked for.
        page_bytes: u32,
        /// The smallest page that holds one token.
        need: u32,
        /// The format's name.
        format: String,
        /// The head dim, in elements.
        head_dim: u32,
    },
    /// A buffer of the wrong length.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length given.
        got: usize,
    },
    /// A code that needs more bits than its width.
    #[error("code {code} at element {index} does not fit {bits} bits")]
    CodeRange {
        /// Element index in the row.
        index: usize,
        /// The code.
        code: u16,
        /// The width in bits.
        bits: u32,
    },
    /// A token index beyond the page's capacity.
    #[error("token {token} is outside a page of {tokens} tokens")]
    TokenOutOfPage {
        /// The token asked for.
        token: u32,
        /// Tokens per page.
        tokens: u32,
    },
    /// No page size in the scanned range satisfies the options.
    #[error(
        "no page size from {min} to {max} B in steps of {step} B satisfies the plan: \
         widen the range or drop the token multiple"
    )]
    NoPageSize {
        /// First size scanned.
        min: u32,
        /// Last size scanned.
        max: u32,
        /// Step of the scan.
        step: u32,
    },
}
