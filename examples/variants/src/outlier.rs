//! The largest element of a row beside its codes, in FP16.

use half::f16;
use leankv_dsl::format::{CodecShape, HalfType};
use leankv_dsl::lang::attention::{Codec, CodecVariant, Encoded, Rows, Tokens};
use leankv_dsl::lang::*;

/// The variant: around whatever codec a format names, for keys and for values. It takes nothing at run time.
#[derive(Clone, Copy, Debug)]
pub struct Outlier;

impl CodecVariant for Outlier {
    type Params = ();

    fn keys(&self, (): (), inner: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Without(inner))
    }

    fn values(&self, (): (), inner: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Without(inner))
    }

    fn given(&self, _layer: usize) {}
}

/// A codec of rows without their largest element: two words of metadata more, which element it is and what it is.
struct Without(Box<dyn Codec>);

impl Codec for Without {
    fn shape(&self) -> CodecShape {
        let inner = self.0.shape();
        CodecShape { meta_words: inner.meta_words + 2, ..inner }
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        let [rows, dim] = x.extents();
        let (_, at) = x.abs().reduce_argmax(1);
        let here = iota(dim).expand_dims(0).eq(at.expand_dims(1));
        let value = here.select(x, 0.0).reduce_sum(1).cast::<f16>();
        let mut encoded = self.0.encode(here.select(0.0, x), tokens);
        // The same words for every group of codes.
        let words =
            |word: Tile<u16, 1>| word.expand_dims(1).broadcast([rows, self.0.shape().groups as usize]);
        encoded.meta.extend([words(at.cast()), words(value.bitcast())]);
        encoded
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        let own = self.0.shape().meta_words as usize;
        // Every group has the same.
        let at = rows.meta_words(own).slice(1, 0, 1).cast::<i32>();
        let value = rows.meta(own + 1, HalfType::F16).slice(1, 0, 1);
        let extents = [rows.count(), rows.head_dim()];
        let here = iota(rows.head_dim()).expand_dims(0).eq(at);
        here.broadcast(extents).select(value.broadcast(extents), self.0.decode(rows))
    }
}
