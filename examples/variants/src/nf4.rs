//! 4-bit codes into the levels of a normal distribution.

use half::f16;
use leankv_dsl::format::{CodecShape, HalfType};
use leankv_dsl::lang::attention::{Codec, CodecVariant, Encoded, EncodedCodes, Rows, Tokens};
use leankv_dsl::lang::*;
use leankv_runtime::{Device, DeviceBuffer, DeviceError};

/// Quantiles of a normal distribution, scaled to -1..1 (QLoRA, appendix E).
#[rustfmt::skip]
pub const LEVELS: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// The variant: the levels on a device.
#[derive(Debug)]
pub struct Nf4 {
    levels: DeviceBuffer<f32>,
}

/// A codec by the levels that a launch gives.
#[derive(Clone, Copy, KernelArg)]
pub struct ByLevels {
    levels: View<f32, 1>,
}

impl Nf4 {
    /// Uploads the levels.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(device: &Device) -> Result<Nf4, DeviceError> {
        Ok(Nf4 { levels: device.upload(&LEVELS)? })
    }
}

impl CodecVariant for Nf4 {
    type Params = ByLevels;

    fn keys(&self, levels: ByLevels, _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(levels)
    }

    fn values(&self, levels: ByLevels, _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(levels)
    }

    fn given(&self, _layer: usize) -> ByLevelsArgs<'_> {
        ByLevelsArgs { levels: self.levels.tensor([16]) }
    }
}

impl Codec for ByLevels {
    fn shape(&self) -> CodecShape {
        CodecShape { code_bits: 4, groups: 1, meta_words: 1 }
    }

    fn encode(&self, x: Tile<f32, 2>, _: Tokens) -> Encoded {
        let scale = x.abs().reduce_max(1).cast::<f16>().expand_dims(1);
        let unit = x / scale.cast::<f32>().max(1e-6);
        let mut code = Tile::<i32, 2>::zeros(unit.extents());
        for k in 1..16 {
            let middle = (self.levels.get([lit(k - 1)]) + self.levels.get([lit(k)])) * 0.5;
            code += unit.gt(middle).cast::<i32>();
        }
        Encoded { codes: EncodedCodes::Codes(code.cast_code(4)), meta: vec![scale.bitcast()] }
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        let (count, dim) = (rows.count(), rows.head_dim());
        let levels = self.levels.tile(rows.codes().cast::<i32>().ravel(), [count * dim]).load();
        levels.reshape([count, dim]) * rows.meta(0, HalfType::F16)
    }
}
