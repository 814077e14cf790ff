//! A chunk's keys and values into pages of both tiers.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{Codecs, PagedKv, Tiers, Tokens, Work};
use leankv_dsl::lang::*;

use super::few_tierings;

/// Specialisation of [`write_chunk`](fn@write_chunk).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
pub struct ChunkWriterSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = few_tierings()[0], values = few_tierings())]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128)]
    pub head_dim: usize,
    /// Type of keys and values.
    #[spec(default = FloatType::F16, values = FloatType::ALL)]
    pub input: FloatType,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Tokens of a program.
    #[spec(default = 4, tune = [2, 4, 8, 16, 32])]
    pub block: usize,
}

/// Encodes a chunk into the pages of both tiers, each token where it belongs.
///
/// * Shapes: `keys`, `values` are `[n, kv_heads, head_dim]`, keys after RoPE; `words` is `[kv_heads, n]`, their words of significance;
///   `dest` is `[kv_heads, n]`: -1 for a token that is pruned, else twice its number in its tier's list, plus 1 for the low tier; `before` is
///   the position of the chunk's first token; `kv.slots` is `[1]`.
/// * Grid: `[ceil(n / block), kv_heads]`.
/// * Values: each vector is read once; both codecs work on it in registers. Nothing but the slots named is written; no two tokens of a
///   (KV head, tier) may name one.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, unified compression in the prompt phase.
#[kernel]
pub fn write_chunk<C: Codecs>(
    #[comptime] spec: ChunkWriterSpec,
    #[arg(align = 16, element = spec.input)] keys: FloatView<3>,
    #[arg(align = 16, element = spec.input)] values: FloatView<3>,
    words: View<f32, 2>,
    dest: View<i32, 2>,
    before: Scalar<i32>,
    kv: PagedKv,
    codecs: C,
) {
    let Some(tiers) = Tiers::new(&codecs, &spec.tiering, spec.head_dim, spec.page_bytes, spec.block) else {
        return;
    };
    let (turn, head) = (program_id(0), program_id(1));
    let at = Work::all(kv.slot(lit(0)), head);
    let extents = [spec.block, 1, spec.head_dim];
    let [keys, values] = [keys, values].map(|view| {
        let view = view.with_extent(2, spec.head_dim);
        view.tile((turn, head, 0), extents).load::<f32>().squeeze(1)
    });
    let words = words.tile((head, turn), [1, spec.block]).load().squeeze(0);
    let dest = dest.tile((head, turn), [1, spec.block]).load_or(-1).squeeze(0);
    let positions = before + turn * spec.block as i32 + iota(spec.block);
    for tier in tiers.iter() {
        let low = i32::from(tier.is_low());
        let mine = dest.ge(0) & (dest & 1).eq(low);
        kv.list(at, tier).at(dest >> 1, mine).store(keys, values, words, Tokens { positions, head });
    }
}
