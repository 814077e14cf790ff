//! What [`KeyOffset`](super::KeyOffset) is given: angles of all positions, and each layer's bias.

use half::f16;
use leankv_dsl::lang::attention::{Codec, CodecVariant};
use leankv_runtime::kv::KvError;
use leankv_runtime::{Device, DeviceBuffer};

use super::key_offset::{KeyOffset, KeyOffsetArgs, Unbiased};
use crate::cache::Context;
use crate::{ModelError, Rope, RopePairs};

/// Tables for [`KeyOffset`](super::KeyOffset) on a device: cosines and sines for all layers and KV heads together, and a bias for each layer.
///
/// RoPE pairs element `i` with `i + head_dim / 2` and turns all elements.
#[derive(Debug)]
pub struct KeyOffsetTables {
    rope: DeviceBuffer<f16>,
    biases: Vec<DeviceBuffer<f32>>,
    positions: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Whether the cache's basis is rotated.
    rotated: bool,
    /// The numbers, to compute with.
    host: (Vec<f16>, Vec<Vec<f32>>),
}

impl KeyOffsetTables {
    /// Tables for keys whose projection has these `biases`: for each layer `[kv_heads, head_dim]`, before this RoPE. A sequence has at
    /// most `positions` tokens; keys beyond are coded with their bias.
    ///
    /// # Errors
    /// [`KvError::Shape`] for an odd head dim and for RoPE of another one or of neighbours, [`KvError::Length`] for a bias of another length, and what the device says when it has no room.
    pub fn new(
        device: &Device,
        biases: Vec<Vec<f32>>,
        [kv_heads, head_dim]: [usize; 2],
        rope: &Rope,
        positions: usize,
    ) -> Result<KeyOffsetTables, KvError> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            let why = format!("RoPE pairs elements, and a key has {head_dim}; its head dim is even");
            return Err(KvError::Shape { why });
        }
        let expected = kv_heads * head_dim;
        if let Some(wrong) = biases.iter().find(|bias| bias.len() != expected) {
            let what = "a key bias [kv_heads, head_dim]";
            return Err(KvError::Length { what, expected, got: wrong.len() });
        }
        if rope.pairs() != RopePairs::Halves || rope.angles(0).count() != head_dim / 2 {
            let why = format!("RoPE is not of the halves of vectors of {head_dim}");
            return Err(KvError::Shape { why });
        }
        let mut table = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            let (cos, sin): (Vec<f64>, Vec<f64>) = rope.angles(position as u32).unzip();
            table.extend(cos.into_iter().chain(sin).map(f16::from_f64));
        }
        Ok(KeyOffsetTables {
            rope: device.upload(&table)?,
            biases: biases.iter().map(|bias| device.upload(bias)).collect::<Result<_, _>>()?,
            positions,
            kv_heads,
            head_dim,
            rotated: false,
            host: (table, biases),
        })
    }

    /// Tables of a model's biases.
    pub(crate) fn of_model(context: &Context<'_>) -> Result<KeyOffsetTables, ModelError> {
        let (model, config) = (context.model, context.model.config());
        let biases: Option<Vec<Vec<f32>>> =
            (0..config.layers).map(|layer| model.key_bias(layer).map(<[f32]>::to_vec)).collect();
        let Some(biases) = biases else {
            let why = format!("{} has no bias on its keys to take out: leave +offset out", config.name);
            return Err(ModelError::Refused(why));
        };
        if model.rope(0).pairs() != RopePairs::Halves {
            let why = "+offset is written for rotary positions that pair the halves of a vector";
            return Err(ModelError::Refused(why.to_owned()));
        }
        let extents = [config.kv_heads, config.head_dim];
        let tables = KeyOffsetTables::new(context.device, biases, extents, model.rope(0), context.tokens)?;
        Ok(KeyOffsetTables { rotated: context.rotated, ..tables })
    }

    /// What is taken out of a key, `[head_dim]`: its rotated bias, as exactly as the table of angles is.
    ///
    /// # Panics
    /// For a layer, KV head or position that there is none.
    #[must_use]
    pub fn offset(&self, layer: usize, head: usize, position: usize) -> Vec<f64> {
        let (d, half) = (self.head_dim, self.head_dim / 2);
        let (rope, bias) = (&self.host.0[position * d..][..d], &self.host.1[layer][head * d..][..d]);
        let turned = |i: usize| {
            let (cos, sin) = (rope[i % half].to_f64(), rope[half + i % half].to_f64());
            let (a, b) = (f64::from(bias[i % half]), f64::from(bias[half + i % half]));
            if i < half { cos * a - sin * b } else { cos * b + sin * a }
        };
        (0..d).map(turned).collect()
    }
}

impl CodecVariant for KeyOffsetTables {
    type Params = KeyOffset;

    fn keys(&self, offset: KeyOffset, inner: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Unbiased { offset, inner, rotated: self.rotated })
    }

    fn given(&self, layer: usize) -> KeyOffsetArgs<'_> {
        KeyOffsetArgs {
            rope: self.rope.tensor([self.positions, self.head_dim]),
            bias: self.biases[layer].tensor([self.kv_heads, self.head_dim]),
        }
    }
}
