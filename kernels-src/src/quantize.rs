//! Quantise and dequantise rows with any codec.
//!
//! Codes and metadata equal [`reference::quantize`](crate::reference::quantize) bit for bit.

use leankv_dsl::format::CodecSpec;
use leankv_dsl::lang::attention::{Codecs, Rows, RowsMut, Tokens};
use leankv_dsl::lang::*;

/// Codecs whose kernels are tested at every declared specialisation.
fn codecs() -> Vec<CodecSpec> {
    const NAMES: [&str; 9] =
        ["affine8", "affine4", "affine2", "affine1", "affine3", "affine4g2", "symmetric8", "midrise4", "f16"];
    NAMES.iter().map(|name| name.parse().expect("these are names of codecs")).collect()
}

/// Specialisation of [`quantize`](fn@quantize) and [`dequantize`](fn@dequantize).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
pub struct CodecRows {
    /// The codec, such as `affine4g2`.
    #[spec(default = CodecSpec::affine(4, 1).expect("4 bits and one group exist"), values = codecs())]
    pub codec: CodecSpec,
    /// Elements of a row.
    #[spec(default = 128, values = [64, 128])]
    pub head_dim: usize,
    /// Rows that one program works on.
    #[spec(default = 16)]
    pub rows: usize,
}

/// Whether the codec can code rows of this head dim; reported at the caller's line when not.
#[track_caller]
fn fits(codec: &dyn attention::Codec, head_dim: usize) -> bool {
    match codec.shape().check(u32::try_from(head_dim).unwrap_or(u32::MAX)) {
        Ok(()) => true,
        Err(error) => static_assert(false, error.to_string()),
    }
}

/// Rows without a sequence: their positions are their numbers.
#[track_caller]
fn numbered(first: Scalar<i64>, rows: usize) -> Tokens {
    Tokens { positions: first.cast::<i32>() + iota(rows), head: lit(0) }
}

/// Quantises `x: [rows, head_dim]`, each row (and each group of it) by itself.
///
/// * Shapes: `codes` is `[rows, head_dim * bits / 8]` bytes, `meta` is `[rows, groups, meta words]` 16-bit floats as bit patterns; both are
///   aligned to 128 bytes. `n` is the number of rows;
///   `codecs` says what the codec's name means.
/// * Grid: `[ceil(n / rows)]`.
/// * Values: NaN and infinities as [`quant`](leankv_dsl::format::quant) says.
/// * Errors: a head dim that the codec cannot code is refused at specialisation.
/// * Source: LeanKV, quantisation, with the rounding rules of [`quant`](leankv_dsl::format::quant).
#[kernel]
pub fn quantize<C: Codecs>(
    #[comptime] spec: CodecRows,
    n: Scalar<i64>,
    #[arg(align = 16)] x: View<f32, 2>,
    #[arg(align = 128)] codes: PtrMut<u8>,
    #[arg(align = 128)] meta: PtrMut<u16>,
    codecs: C,
) {
    let codec = codecs.keys(&spec.codec);
    if comptime(!fits(&*codec, spec.head_dim)) {
        return;
    }
    let first = program_id(0).cast::<i64>() * spec.rows as i64;
    let left = (n - first).min(spec.rows as i64).cast::<i32>();
    let rows = x.tile((element(first), 0), [spec.rows, spec.head_dim]).load();
    let valid = iota(spec.rows).lt(left);
    RowsMut::flat(&*codec, spec.head_dim, codes, meta, first, spec.rows, valid)
        .store(&codec.encode(rows, numbered(first, spec.rows)));
}

/// The values of quantised rows: the inverse of [`quantize`](fn@quantize) up to the codec's error.
///
/// * Shapes: as there; `out` is `[n, head_dim]`.
/// * Grid: `[ceil(n / rows)]`.
/// * Values: every code and metadata pattern decodes to something.
/// * Errors: a head dim that the codec cannot code is refused at specialisation.
#[kernel]
pub fn dequantize<C: Codecs>(
    #[comptime] spec: CodecRows,
    n: Scalar<i64>,
    #[arg(align = 128)] codes: Ptr<u8>,
    #[arg(align = 128)] meta: Ptr<u16>,
    #[arg(align = 16)] out: ViewMut<f32, 2>,
    codecs: C,
) {
    let codec = codecs.keys(&spec.codec);
    if comptime(!fits(&*codec, spec.head_dim)) {
        return;
    }
    let first = program_id(0).cast::<i64>() * spec.rows as i64;
    let left = (n - first).min(spec.rows as i64).cast::<i32>();
    let valid = iota(spec.rows).lt(left);
    let rows =
        Rows::flat(&*codec, spec.head_dim, codes, meta, first, spec.rows, valid, numbered(first, spec.rows));
    let extents = [spec.rows, spec.head_dim];
    out.tile((element(first), 0), extents)
        .store_masked(codec.decode(&rows), valid.expand_dims(1).broadcast(extents));
}
