//! A compression variant of one's own: the codec in `codebook.rs` quantises, dequantises and serves attention in the stock kernels,
//! with no edit anywhere else. Here it quantises rows and gives them back on the host device.

mod codebook;

use std::error::Error;

use codebook::Codebook;
use leankv_dsl::lang::attention::Of;
use leankv_dsl::lang::*;
use leankv_examples::{largest_difference, numbers};
use leankv_kernels::quantize::{CodecRows, dequantize, quantize};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

/// Keys and values with the codebook; only the key side is used below.
type Books = Of<Codebook, Codebook>;

/// 16 levels in `-1..1`, closer together around 0.
fn levels() -> Vec<f32> {
    (0..16).map(|k| (k as f32 - 7.5) / 7.5).map(|t| 0.5 * t + 0.5 * t.powi(3)).collect()
}

/// The rows after a trip through 4-bit codes.
fn round_trip(device: &Device, x: &[f32], head_dim: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let rows = x.len() / head_dim;
    // The specialisation names a stock codec; `Of` puts the codebook in its place.
    let spec = CodecRows { codec: "affine4".parse()?, head_dim, rows: 16 };
    let compiler = Compiler::new(KernelCache::user());
    let encode =
        compiler.kernel(device, &quantize::<Books>::named("quantize_codebook").build_spec(&spec)?)?;
    let decode =
        compiler.kernel(device, &dequantize::<Books>::named("dequantize_codebook").build_spec(&spec)?)?;

    let (input, table) = (device.upload(x)?, device.upload(&levels())?);
    let mut codes = device.zeros::<u8>(rows * head_dim / 2)?;
    let mut meta = device.zeros::<u16>(rows)?;
    let programs = rows.div_ceil(spec.rows) as u32;
    let launch = encode
        .launch(programs)
        .scalar("n", rows as i64)
        .view("x", &input, &[rows, head_dim])
        .buffer_mut("codes", &mut codes)
        .buffer_mut("meta", &mut meta)
        .view("codecs.keys.levels", &table, &[16])
        .view("codecs.values.levels", &table, &[16]);
    // SAFETY: `codes` holds `rows * head_dim / 2` bytes and `meta` one word a row, as the codec's shape says; numbers 0 to 15 of the table are read.
    unsafe { launch.run() }?;

    let mut out = device.zeros::<f32>(x.len())?;
    let launch = decode
        .launch(programs)
        .scalar("n", rows as i64)
        .buffer("codes", &codes)
        .buffer("meta", &meta)
        .view_mut("out", &mut out, &[rows, head_dim])
        .view("codecs.keys.levels", &table, &[16])
        .view("codecs.values.levels", &table, &[16]);
    // SAFETY: as above.
    unsafe { launch.run() }?;
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
