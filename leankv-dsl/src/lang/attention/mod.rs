//! Building blocks of attention over a compressed cache.
//!
//! | concept | item | what it hides |
//! |---|---|---|
//! | codec | [`Codec`] | how rows of keys or values are coded, and how attention works on the codes |
//! | rows | [`Rows`], [`RowsMut`] | where codes and metadata of consecutive tokens lie, and how codes are packed |
//! | list | [`TokenList`], [`Spread`] | where tokens of a tier lie that are named by number, in any order |
//! | KV operand | [`KvOperand`], [`KvBlock`] | where keys and values lie |
//! | paged cache | [`PagedKv`], [`PagedKvMut`], [`LayeredKv`], [`LayeredKvMut`], [`Tier`], [`Block`] | page tables, tiers, partly filled pages |
//! | splits | [`Work`], [`splits_of`] | which pages a program works on |
//! | columns | [`Lengths`], [`PerTier`] | which number of a head stands where |
//! | hooks | [`AttentionHooks`] | what a variant changes: query, key logits, mask, running state, output |
//! | choice | [`CodecChoice`], [`HookChoice`] | which codecs and hooks a kernel is recorded with, and that they stay within their buffers |
//! | online softmax | [`OnlineSoftmax`], [`WeightedSum`], [`Partial`] | running maximum, sum and output; what codecs add to; what is left at the end |
//!
//! A kernel never does page arithmetic; a codec never sees a page.

mod chosen;
mod code_floats;
mod codec;
mod half16;
mod hooks;
mod layers;
mod list;
mod online;
mod operand;
mod paged;
mod rows;
mod shaped;
mod slot;
mod splits;
mod stacked;
mod stock;

pub use chosen::{ChosenCodecs, ChosenHooks, CodecChoice, CodecVariant, ForLayer, HookChoice, HookVariant};
pub use code_floats::CodeFloats;
pub use codec::{Codec, Codecs, Encoded, EncodedCodes, Of, OfArgs, Stock, Tokens};
pub use half16::{decode16, encode16, floor16, positive_scale16};
pub use hooks::{AttentionHooks, Plain, Site};
pub use layers::{LayeredKv, LayeredKvArgs, LayeredKvMut, LayeredKvMutArgs, PagedKvMut, PagedKvMutArgs};
pub use list::{Spread, TokenList};
pub use online::{OnlineSoftmax, Partial, WeightedSum};
pub use operand::{KvBlock, KvOperand};
pub use paged::{Block, Lengths, PagedKv, PagedKvArgs, PerTier, Tier, TierLayout, Tiers};
pub use rows::{Rows, RowsMut, Stored};
pub use slot::Slot;
pub use splits::{ALL_PAGES, Work, pages_of_split, splits_of};
pub use stacked::Stacked;
pub use stock::{Affine, Raw, Symmetric, stock};
