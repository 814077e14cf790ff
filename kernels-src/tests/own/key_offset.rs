//! A user's codec around another: keys without an offset that position and KV head alone determine, such as the rotated bias of a key
//! projection. Nothing is stored for it; attention adds `q . offset` to the logits.

use half::f16;
use leankv_dsl::format::CodecShape;
use leankv_dsl::lang::attention::{Affine, Codec, Encoded, Rows, Tokens};
use leankv_dsl::lang::*;

/// The offsets, `[kv_heads, positions, head_dim]`.
#[derive(Clone, Copy, KernelArg)]
pub(crate) struct KeyOffset {
    table: View<f32, 3>,
}

/// What is left is coded with 4 bits.
fn inner() -> Affine {
    Affine { bits: 4.try_into().expect("a width"), groups: Default::default(), meta: Default::default() }
}

impl KeyOffset {
    fn offset(&self, tokens: Tokens, extents: [usize; 2]) -> Tile<f32, 2> {
        let [rows, dim] = extents;
        self.table.tile((tokens.head, tokens.positions, 0), [1, rows, dim]).load().squeeze(0)
    }
}

impl Codec for KeyOffset {
    fn shape(&self) -> CodecShape {
        inner().shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        inner().encode(x - self.offset(tokens, x.extents()), tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        inner().decode(rows) + self.offset(rows.tokens(), [rows.count(), rows.head_dim()])
    }

    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        let offset = self.offset(rows.tokens(), [rows.count(), rows.head_dim()]);
        q.cast::<f32>().dot(offset.t(), inner().logits(q, rows))
    }
}
