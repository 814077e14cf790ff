//! Keys without the bias of their projection, which RoPE turns with their position.

use half::f16;
use leankv_dsl::format::CodecShape;
use leankv_dsl::lang::attention::{Codec, Encoded, Rows, Tokens};
use leankv_dsl::lang::*;
use leankv_kernels::basis::rotate;

/// Keys without their rotated bias. A bias far larger than what is left of the keys no longer spoils their quantisation, and nothing is stored for it:
/// attention adds its share to the logits. [`KeyOffsetTables`](super::KeyOffsetTables) is the variant.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct KeyOffset {
    /// Cosines and then sines of every position's angles, `[positions, head_dim]`. What their rounding leaves of the bias is coded with the keys.
    #[arg(align = 16)]
    rope: View<f16, 2>,
    /// The layer's bias, `[kv_heads, head_dim]`.
    #[arg(align = 16)]
    bias: View<f32, 2>,
}

/// A codec of keys without their bias.
pub(super) struct Unbiased {
    pub(super) offset: KeyOffset,
    pub(super) inner: Box<dyn Codec>,
    /// Whether queries and keys come in the rotated basis of a cache.
    pub(super) rotated: bool,
}

impl Unbiased {
    /// The rotated bias of each token in the basis of the cache, `[rows, head_dim]`.
    fn of(&self, tokens: Tokens, extents: [usize; 2]) -> Tile<f32, 2> {
        let offset = self.offset.of(tokens, extents);
        if self.rotated { rotate(offset) } else { offset }
    }
}

/// The halves of every row, whose elements RoPE pairs.
fn halves<E: Element>(x: Tile<E, 2>) -> (Tile<E, 2>, Tile<E, 2>) {
    let [rows, dim] = x.extents();
    x.reshape([rows, 2, dim / 2]).permute([0, 2, 1]).split()
}

impl KeyOffset {
    fn tables(&self, tokens: Tokens, [rows, dim]: [usize; 2]) -> (Tile<f16, 2>, Tile<f32, 2>) {
        let rope = self.rope.with_extent(1, dim).tile((tokens.positions, 0), [rows, dim]).load();
        (rope, self.bias.with_extent(1, dim).tile((tokens.head, 0), [1, dim]).load())
    }

    /// The rotated bias of each token, `[rows, head_dim]`.
    fn of(&self, tokens: Tokens, extents: [usize; 2]) -> Tile<f32, 2> {
        let (rope, bias) = self.tables(tokens, extents);
        let ((cos, sin), (a, b)) = (halves(rope.cast::<f32>()), halves(bias));
        (cos * a - sin * b).cat(cos * b + sin * a, 1)
    }
}

impl Codec for Unbiased {
    fn shape(&self) -> CodecShape {
        self.inner.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        self.inner.encode(x - self.of(tokens, x.extents()), tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        self.inner.decode(rows) + self.of(rows.tokens(), [rows.count(), rows.head_dim()])
    }

    /// `q` with the rotated bias is a product with the cosines and sines. Its factors exceed what f16 holds, so they go in as two f16 parts of a
    /// thousandth, which together are as exact as f32.
    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        let (rope, bias) = self.offset.tables(rows.tokens(), [rows.count(), rows.head_dim()]);
        let asked = if self.rotated { rotate(q.cast()) } else { q.cast() };
        let ((q1, q2), (a, b)) = (halves(asked), halves(bias * (1.0 / 1024.0)));
        let factors = (q1 * a + q2 * b).cat(q2 * a - q1 * b, 1);
        let high = factors.cast::<f16>();
        let low = (factors - high.cast::<f32>()).cast::<f16>();
        let share = low.dot(rope.t(), high.dot(rope.t(), Tile::zeros([q.extents()[0], rows.count()])));
        share.fma(1024.0, self.inner.logits(q, rows))
    }
}
