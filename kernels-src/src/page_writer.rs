//! Page writers: a prompt into pages of one KV format, and one more token.
//!
//! The bytes equal [`reference::write_prompt`](crate::reference::write_prompt) and
//! [`reference::append_token`](crate::reference::append_token).

use leankv_dsl::format::{KvFormat, Tiering};
use leankv_dsl::lang::attention::{Codecs, Slots, Tiers, Tokens};
use leankv_dsl::lang::*;

/// Formats whose kernels are tested at every declared specialisation.
pub(crate) fn formats() -> Vec<KvFormat> {
    let mut all = KvFormat::standard().to_vec();
    all.push("K4V2g2.4".parse().expect("this is a name of a format"));
    all
}

/// Specialisation of [`write_prompt`](fn@write_prompt) and [`append_token`](fn@append_token).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
pub struct WriterSpec {
    /// The format of the pages, such as `K8V4`.
    #[spec(default = KvFormat::affine(8, 4).expect("8 and 4 bits exist"), values = formats())]
    pub format: KvFormat,
    /// Elements of a vector.
    #[spec(default = 128, values = [64, 128])]
    pub head_dim: usize,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Tokens that one program of [`write_prompt`](fn@write_prompt) works on.
    #[spec(default = 8)]
    pub block: usize,
}

impl WriterSpec {
    #[track_caller]
    fn tiers(&self, codecs: &dyn Codecs, block: usize) -> Option<Tiers> {
        let tiering = Tiering { high: self.format, low: None };
        Tiers::new(codecs, &tiering, self.head_dim, self.page_bytes, block)
    }
}

/// Packs a prompt into pages: every token of every KV head.
///
/// * Shapes: `keys`, `values` are `[tokens, kv_heads, head_dim]`, keys after RoPE; `significance` is `[kv_heads, tokens]`; `positions` is
///   `[tokens]`; `pages` is `[kv_heads, pages_per_head]` page numbers; `arena` is `[pages, page_bytes]` bytes, aligned to 128.
/// * Grid: `[blocks, kv_heads]` with `blocks = ceil(tokens / tokens_per_page) * ceil(tokens_per_page / block)`.
/// * Values: slots after the last token keep their bytes. NaN and infinities as [`quant`](leankv_dsl::format::quant) says: what is stored decodes
///   to numbers, so nothing downstream meets them.
/// * Errors: a page that cannot hold one token is refused at specialisation.
#[kernel]
pub fn write_prompt<C: Codecs, E: Float>(
    #[comptime] spec: WriterSpec,
    #[arg(align = 16)] keys: View<E, 3>,
    #[arg(align = 16)] values: View<E, 3>,
    significance: View<f32, 2>,
    positions: View<i32, 1>,
    pages: View<i32, 2>,
    #[arg(align = 128)] arena: PtrMut<u8>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs, spec.block) else { return };
    let tier = tiers.high();
    let (per_page, tokens) = (tier.layout().blocks_per_page() as i32, tier.layout().tokens() as i32);
    let (number, head) = (program_id(0), program_id(1));
    let (index, slot) = (number / per_page, (number % per_page) * spec.block as i32);
    let first = index * tokens + slot;
    let end = (positions.extent(0).cast::<i32>() - first).min(tokens - slot);
    let valid = iota(spec.block).lt(end);

    let at = (element(first), head, 0);
    let extents = [spec.block, 1, spec.head_dim];
    let (keys, values) = (keys.tile(at, extents).load(), values.tile(at, extents).load());
    let significance = significance.tile((head, element(first)), [1, spec.block]).load().squeeze(0);
    let positions = positions.tile(element(first), [spec.block]).load();
    let page = if end.gt(0) { pages.get([head, index]) } else { lit(0) };
    let slots = Slots::new(tier, arena, page, slot, spec.block, valid);
    slots.store(keys.squeeze(1).cast(), values.squeeze(1).cast(), significance, Tokens { positions, head });
}

/// Appends one token to every (request, KV head), after `lengths` tokens, with significance 0.
///
/// * Shapes: `keys`, `values` are `[requests, kv_heads, head_dim]`; `positions` is `[requests]`; `lengths` is `[requests, kv_heads]`; `pages` is
///   `[requests, kv_heads, pages_per_head]`; `arena` is `[pages, page_bytes]` bytes, aligned to 128.
/// * Grid: `[kv_heads, requests]`.
/// * Values: the caller advances the lengths; each list of pages has room for one more token.
/// * Errors: a page that cannot hold one token is refused at specialisation.
#[kernel]
pub fn append_token<C: Codecs, E: Float>(
    #[comptime] spec: WriterSpec,
    #[arg(align = 16)] keys: View<E, 3>,
    #[arg(align = 16)] values: View<E, 3>,
    positions: View<i32, 1>,
    lengths: View<i32, 2>,
    pages: View<i32, 3>,
    #[arg(align = 128)] arena: PtrMut<u8>,
    codecs: C,
) {
    let Some(tiers) = spec.tiers(&codecs, 1) else { return };
    let tier = tiers.high();
    let tokens = tier.layout().tokens() as i32;
    let (head, request) = (program_id(0), program_id(1));
    let length = lengths.get([request, head]);
    let page = pages.get([request, head, length / tokens]);
    let slots = Slots::new(tier, arena, page, length % tokens, 1, Tile::full([1], true));
    let (at, extents) = ((request, head, 0), [1, 1, spec.head_dim]);
    let (keys, values) = (keys.tile(at, extents).load(), values.tile(at, extents).load());
    let tokens = Tokens { positions: positions.tile(request, [1]).load(), head };
    slots.store(keys.squeeze(1).cast(), values.squeeze(1).cast(), Tile::zeros([1]), tokens);
}
