//! 8-bit floats e4m3 with a scale a row.

use half::f16;
use leankv_dsl::format::{CodecShape, HalfType};
use leankv_dsl::lang::attention::{Codec, CodecVariant, Encoded, EncodedCodes, Rows, Tokens};
use leankv_dsl::lang::*;

/// The largest number of e4m3.
const MOST: f32 = 448.0;
/// Exponents of f16 are biased by 8 more than those of e4m3.
const BIAS: f32 = 256.0;

/// The variant, and the codec: it takes nothing at run time.
#[derive(Clone, Copy, Debug)]
pub struct Fp8;

impl CodecVariant for Fp8 {
    type Params = ();

    fn keys(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Fp8)
    }

    fn values(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Fp8)
    }

    fn given(&self, _layer: usize) {}
}

impl Codec for Fp8 {
    fn shape(&self) -> CodecShape {
        CodecShape { code_bits: 8, groups: 1, meta_words: 1 }
    }

    /// With the exponent of e4m3 a number is an f16 whose last 7 bits are rounded away, to even.
    fn encode(&self, x: Tile<f32, 2>, _: Tokens) -> Encoded {
        let scale = (x.abs().reduce_max(1) * (1.0 / MOST)).max(1e-7).cast::<f16>().expand_dims(1);
        let unit = (x / scale.cast::<f32>()).clamp(-MOST, MOST) * (1.0 / BIAS);
        let bits = unit.cast::<f16>().bitcast::<u16>().cast::<i32>();
        let magnitude = bits & 0x7FFF;
        let rounded = (magnitude + 63 + ((magnitude >> 7) & 1)) >> 7;
        let code = rounded.min(0x7E) | ((bits >> 8) & 0x80);
        Encoded { codes: EncodedCodes::Codes(code.cast_code(8)), meta: vec![scale.bitcast()] }
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        let codes = rows.codes().cast::<i32>();
        let bits = ((codes & 0x80) << 8) | ((codes & 0x7F) << 7);
        bits.cast::<u16>().bitcast::<f16>().cast::<f32>() * (rows.meta(0, HalfType::F16) * BIAS)
    }
}
