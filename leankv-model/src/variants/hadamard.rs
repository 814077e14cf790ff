//! Keys rotated by a Hadamard matrix, so that no element is much larger than the others.

use half::f16;
use leankv_dsl::format::CodecShape;
use leankv_dsl::lang::attention::{Codec, CodecVariant, Encoded, Rows, Tokens};
use leankv_dsl::lang::*;
use leankv_kernels::basis::rotate;

/// Keys in a rotated basis, where a few large elements are spread over all. Queries are rotated alike, which leaves their products what they were.
#[derive(Clone, Copy, Debug)]
pub struct Hadamard;

impl CodecVariant for Hadamard {
    type Params = ();

    fn keys(&self, (): (), inner: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Rotated(inner))
    }

    fn given(&self, _layer: usize) {}
}

/// A codec of rotated vectors.
struct Rotated(Box<dyn Codec>);

impl Codec for Rotated {
    fn shape(&self) -> CodecShape {
        self.0.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        self.0.encode(rotate(x), tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        rotate(self.0.decode(rows))
    }

    /// A rotated query's elements are at most its length, which f16 holds up to 65504, and rounding them costs what rounding the query did.
    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        self.0.logits(rotate(q.cast()).cast(), rows)
    }
}
