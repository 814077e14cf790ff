//! A user's codec: 4-bit codes into a table of 16 levels, scaled by each row's largest magnitude.

use half::f16;
use leankv_dsl::format::{CodecShape, HalfType};
use leankv_dsl::lang::attention::{Codec, CodecVariant, Encoded, EncodedCodes, Rows, Tokens};
use leankv_dsl::lang::*;
use leankv_runtime::DeviceBuffer;

/// The table of 16 levels in -1..1 comes with the launch. A view knows its extent, so nothing beyond the table is read.
#[derive(Clone, Copy, KernelArg)]
pub(crate) struct Levels {
    levels: View<f32, 1>,
}

impl Codec for Levels {
    fn shape(&self) -> CodecShape {
        CodecShape { code_bits: 4, groups: 1, meta_words: 1 }
    }

    fn encode(&self, x: Tile<f32, 2>, _: Tokens) -> Encoded {
        let scale = x.abs().reduce_max(1).cast::<f16>().expand_dims(1);
        let unit = x / scale.cast::<f32>().max(1e-6);
        let (mut best, mut code) =
            ((unit - self.levels.get([lit(0)])).abs(), Tile::<i32, 2>::zeros(unit.extents()));
        for k in 1..16 {
            let distance = (unit - self.levels.get([lit(k)])).abs();
            code = distance.lt(best).select(k, code);
            best = best.min(distance);
        }
        Encoded { codes: EncodedCodes::Codes(code.cast_code(4)), meta: vec![scale.bitcast()] }
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        let (count, dim) = (rows.count(), rows.head_dim());
        let levels = self.levels.tile(rows.codes().cast::<i32>().ravel(), [count * dim]).load();
        levels.reshape([count, dim]) * rows.meta(0, HalfType::F16)
    }
}

/// The codec of keys and values as a value, with its table on a device.
#[derive(Debug)]
pub(crate) struct Codebook(pub(crate) DeviceBuffer<f32>);

impl CodecVariant for Codebook {
    type Params = Levels;

    fn keys(&self, levels: Levels, _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(levels)
    }

    fn values(&self, levels: Levels, _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(levels)
    }

    fn given(&self, _layer: usize) -> LevelsArgs<'_> {
        LevelsArgs { levels: self.0.tensor([16]) }
    }
}
