//! Page writers: a prompt into pages of one KV format, and one more token.
//!
//! The bytes equal [`reference::write_prompt`](crate::reference::write_prompt) and
//! [`reference::append_token`](crate::reference::append_token).

use leankv_dsl::format::{KvFormat, Tiering};
use leankv_dsl::lang::attention::{Codecs, Slots, Tiers};
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
    #[spec(default = 16)]
    pub block: usize,
}

impl WriterSpec {
    #[track_caller]
    fn tiers<C: Codecs>(&self, block: usize) -> Option<Tiers> {
        let tiering = Tiering { high: self.format, low: None };
        Tiers::new::<C>(&tiering, self.head_dim, self.page_bytes, block)
    }
}

/// Packs a prompt into pages: every token of every KV head.
///
/// * Shapes: `keys`, `values` are `[tokens, kv_heads, head_dim]`, keys after RoPE; `significance` is `[kv_heads, tokens]`; `positions` is
///   `[tokens]`; `pages` is `[kv_heads, pages_per_head]` page numbers; `arena` is `[pages, page_bytes]` bytes, aligned to 128.
/// * Grid: `[blocks, kv_heads]` with `blocks = ceil(tokens / tokens_per_page) * ceil(tokens_per_page / block)`.
/// * Values: slots after the last token keep their bytes.
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
) {
    let Some(tiers) = spec.tiers::<C>(spec.block) else { return };
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
    slots.store(keys.squeeze(1).cast(), values.squeeze(1).cast(), significance, positions);
}

/// Appends one token to every list of pages, after `lengths` tokens, with significance 0. A list is one (request, KV head).
///
/// * Shapes: `keys`, `values` are `[lists, head_dim]`; `lengths`, `positions` are `[lists]`; `pages` is `[lists, pages_per_list]`;
///   `arena` is `[pages, page_bytes]` bytes, aligned to 128.
/// * Grid: `[lists]`.
/// * Values: the caller advances the lengths; each list has room for one more token.
/// * Errors: a page that cannot hold one token is refused at specialisation.
#[kernel]
pub fn append_token<C: Codecs, E: Float>(
    #[comptime] spec: WriterSpec,
    #[arg(align = 16)] keys: View<E, 2>,
    #[arg(align = 16)] values: View<E, 2>,
    positions: View<i32, 1>,
    lengths: View<i32, 1>,
    pages: View<i32, 2>,
    #[arg(align = 128)] arena: PtrMut<u8>,
) {
    let Some(tiers) = spec.tiers::<C>(1) else { return };
    let tier = tiers.high();
    let tokens = tier.layout().tokens() as i32;
    let list = program_id(0);
    let length = lengths.get([list]);
    let page = pages.get([list, length / tokens]);
    let slots = Slots::new(tier, arena, page, length % tokens, 1, Tile::full([1], true));
    let extents = [1, spec.head_dim];
    let (keys, values) = (keys.tile((list, 0), extents).load(), values.tile((list, 0), extents).load());
    let position = positions.tile(list, [1]).load();
    slots.store(keys.cast(), values.cast(), Tile::zeros([1]), position);
}
