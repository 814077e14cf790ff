//! Codecs on the device: how rows of keys or values become codes, and how attention works on codes.

use half::f16;

use super::code_floats::CodeFloats;
use super::online::WeightedSum;
use super::rows::Rows;
use crate::format::{CodecShape, CodecSpec};
use crate::lang::KernelArg;
use crate::lang::element::Code;
use crate::lang::tile::{Scalar, Tile};

/// Whose keys or values a tile of rows holds, for codecs that depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Positions of the tokens in their sequence, `[rows]`; 0 in rows that do not exist.
    pub positions: Tile<i32, 1>,
    /// The KV head.
    pub head: Scalar<i32>,
}

/// Rows of codes with their metadata, before they are stored.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The codes, `[rows, head_dim]`.
    pub codes: EncodedCodes,
    /// One tile `[rows, groups]` of 16-bit patterns for each metadata word, in storage order.
    pub meta: Vec<Tile<u16, 2>>,
}

/// What is stored for each element.
#[derive(Clone, Copy, Debug)]
pub enum EncodedCodes {
    /// Codes of 1 to 8 bits.
    Codes(Tile<Code, 2>),
    /// 16-bit patterns of unquantised values.
    Words(Tile<u16, 2>),
}

/// How one side of a cache (keys or values) is coded.
///
/// `shape`, `encode` and `decode` are enough: attention then decodes rows and multiplies. `logits` and `accumulate` can do better,
/// such as multiplying codes and applying scales to the sums. In plain Rust a codec's meaning is
/// [`CodecMath`](crate::format::CodecMath); tests compare the two.
///
/// Extents: `rows` is the number of tokens of a tile, `queries` the query heads that share a KV head.
pub trait Codec {
    /// Bits, groups and metadata words of one row: all a page layout needs.
    fn shape(&self) -> CodecShape;

    /// Codes and metadata of `x: [rows, head_dim]`.
    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded;

    /// The values, `[rows, head_dim]`; in rows that do not exist anything finite.
    fn decode(&self, rows: &Rows) -> Tile<f32, 2>;

    /// `q k^T` for keys in these rows: `q: [queries, head_dim]` gives `[queries, rows]`.
    #[track_caller]
    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        let keys = self.decode(rows);
        let zeros = Tile::zeros([q.extents()[0], rows.count()]);
        q.cast::<f32>().dot(keys.t(), zeros)
    }

    /// [`logits`](Codec::logits) times `scale`: where sums are multiplied by a number of each row, that can take it.
    #[track_caller]
    fn scaled_logits(&self, q: Tile<f16, 2>, rows: &Rows, scale: Scalar<f32>) -> Tile<f32, 2> {
        self.logits(q, rows) * scale
    }

    /// Adds `p v` to `sum`, for values in these rows and `p: [queries, rows]`.
    #[track_caller]
    fn accumulate(&self, p: Tile<f32, 2>, rows: &Rows, sum: &mut WeightedSum) {
        sum.acc = sum.weights(p).dot(self.decode(rows), sum.acc);
    }

    /// The same codec, whose attention multiplies codes as subnormal 16-bit floats, where it can; `None` by default.
    fn subnormal(&self) -> Option<Box<dyn Codec>> {
        None
    }

    /// What codes are in [`accumulate`](Codec::accumulate), which `sum` is to know before ([`WeightedSum::enter`]). Exact by default.
    fn code_floats(&self) -> CodeFloats {
        CodeFloats::Exact
    }
}

/// Which codecs a kernel uses, given what its specialisation names.
///
/// [`Stock`] takes the codecs of this crate. A user's own come in through [`Of`], or through an `impl` that
/// looks at the name. It is a parameter of the kernel, so codecs can bring tables of their own (a codebook, a known offset).
pub trait Codecs {
    /// The codec of keys.
    fn keys(&self, named: &CodecSpec) -> Box<dyn Codec>;
    /// The codec of values.
    fn values(&self, named: &CodecSpec) -> Box<dyn Codec>;
}

/// The codecs of this crate: affine, symmetric, unquantised.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Stock;

impl Codecs for Stock {
    fn keys(&self, named: &CodecSpec) -> Box<dyn Codec> {
        super::stock(named)
    }

    fn values(&self, named: &CodecSpec) -> Box<dyn Codec> {
        super::stock(named)
    }
}

/// One codec for keys and one for values, whatever the specialisation names. What they are made of are kernel parameters:
/// `codecs.keys.table`.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Of<K, V> {
    /// The codec of keys.
    pub keys: K,
    /// The codec of values.
    pub values: V,
}

impl<K, V> Codecs for Of<K, V>
where
    K: Codec + KernelArg + Clone + 'static,
    V: Codec + KernelArg + Clone + 'static,
{
    fn keys(&self, _: &CodecSpec) -> Box<dyn Codec> {
        Box::new(self.keys.clone())
    }

    fn values(&self, _: &CodecSpec) -> Box<dyn Codec> {
        Box::new(self.values.clone())
    }
}
