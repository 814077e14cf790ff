//! Codecs whose shape is known before they are asked.

use half::f16;

use super::code_floats::CodeFloats;
use super::codec::{Codec, Encoded, Tokens};
use super::online::WeightedSum;
use super::rows::Rows;
use crate::format::CodecShape;
use crate::lang::tile::{Scalar, Tile};

/// A codec of a shape that does not change.
pub(super) struct Shaped {
    pub(super) inner: Box<dyn Codec>,
    pub(super) shape: CodecShape,
}

impl Codec for Shaped {
    fn shape(&self) -> CodecShape {
        self.shape
    }

    #[track_caller]
    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        self.inner.encode(x, tokens)
    }

    #[track_caller]
    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        self.inner.decode(rows)
    }

    #[track_caller]
    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        self.inner.logits(q, rows)
    }

    #[track_caller]
    fn scaled_logits(&self, q: Tile<f16, 2>, rows: &Rows, scale: Scalar<f32>) -> Tile<f32, 2> {
        self.inner.scaled_logits(q, rows, scale)
    }

    #[track_caller]
    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, sum: &mut WeightedSum) {
        self.inner.accumulate(p, rows, sum);
    }

    fn subnormal(&self) -> Option<Box<dyn Codec>> {
        let inner = self.inner.subnormal()?;
        Some(Box::new(Shaped { inner, shape: self.shape }))
    }

    fn code_floats(&self) -> CodeFloats {
        self.inner.code_floats()
    }
}
