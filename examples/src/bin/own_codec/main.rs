//! A compression variant of one's own: the codec in `codebook.rs` quantises, dequantises and serves attention in the stock kernels,
//! with no edit anywhere else. Here it quantises rows and gives them back on the host device; the same value as `CacheConfig::codecs` codes the keys and values of
//! a whole cache.

mod codebook;

use std::error::Error;

use codebook::Codebook;
use leankv_dsl::lang::Choices;
use leankv_dsl::lang::attention::{ChosenCodecs, CodecChoice, ForLayer};
use leankv_examples::{largest_difference, numbers};
use leankv_kernels::quantize::{CodecRows, DequantizeArgs, QuantizeArgs, dequantize, quantize};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

/// 16 levels in `-1..1`, closer together around 0.
fn levels() -> Vec<f32> {
    (0..16).map(|k| (k as f32 - 7.5) / 7.5).map(|t| 0.5 * t + 0.5 * t.powi(3)).collect()
}

/// The rows after a trip through 4-bit codes.
fn round_trip(device: &Device, x: &[f32], head_dim: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let rows = x.len() / head_dim;
    let codecs = CodecChoice::stock().with("codebook", Codebook(device.upload(&levels())?));
    // The specialisation names a stock codec, whose place the codebook takes.
    let spec = CodecRows { codec: "affine4".parse()?, head_dim, rows: 16 };
    let (compiler, choices) = (Compiler::new(KernelCache::user()), Choices::new().with(codecs.clone()));
    let encode = compiler.load_with(device, &quantize::<ChosenCodecs>::KERNEL, &spec, &choices)?;
    let decode = compiler.load_with(device, &dequantize::<ChosenCodecs>::KERNEL, &spec, &choices)?;

    let input = device.upload(x)?;
    let mut codes = device.zeros::<u8>(rows * head_dim / 2)?;
    let mut meta = device.zeros::<u16>(rows)?;
    let mut out = device.zeros::<f32>(x.len())?;
    let (programs, n) = (rows.div_ceil(spec.rows) as u32, rows as i64);
    let codecs = ForLayer { choice: &codecs, layer: 0 };
    let (x, extents) = (input.tensor([rows, head_dim]), [rows, head_dim]);
    let args = QuantizeArgs { n, x, codes: (&mut codes).into(), meta: (&mut meta).into(), codecs };
    // SAFETY: `codes` holds `rows * head_dim / 2` bytes and `meta` one word a row, as the codec's shape says.
    unsafe { encode.launch(programs, args).run() }?;
    let (codes, meta) = ((&codes).into(), (&meta).into());
    let args = DequantizeArgs { n, codes, meta, out: out.tensor_mut(extents), codecs };
    // SAFETY: as above.
    unsafe { decode.launch(programs, args).run() }?;
    Ok(out.to_vec()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (rows, head_dim) = (1000, 128);
    let x = numbers(1, rows * head_dim);
    let back = round_trip(&Device::host(), &x, head_dim)?;
    println!("{rows} rows through 4-bit codes: largest error {:.3}", largest_difference(&x, &back));
    Ok(())
}

#[test]
fn a_round_trip_is_close() {
    let x = numbers(1, 40 * 64);
    let back = round_trip(&Device::host(), &x, 64).unwrap();
    // Levels are at most 0.25 apart.
    assert!(largest_difference(&x, &back) < 0.13);
}
