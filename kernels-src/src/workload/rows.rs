//! Quantise and dequantise rows: codes and metadata bit for bit.

use leankv_dsl::lang::attention::Stock;
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::{RecipeError, Shapes, filled};
use crate::quantize::{self, CodecRows, DequantizeArgs, QuantizeArgs};
use crate::reference::{self, Quantized};

/// Rows with everything that is special: zeros, constants, NaN, infinities, tiny and huge numbers.
fn special(rows: usize, head_dim: usize, seed: u64) -> Vec<f32> {
    let mut x = Generator::new(seed).f32s(rows * head_dim, -1.0, 1.0);
    for (r, row) in x.chunks_mut(head_dim).enumerate() {
        match r % 16 {
            1 => row.fill(0.0),
            2 => row.fill(-3.5),
            3 => row.fill(f32::NAN),
            4 => row[3] = f32::NAN,
            5 => (row[0], row[head_dim - 1]) = (f32::INFINITY, f32::NEG_INFINITY),
            6 => row.iter_mut().for_each(|x| *x *= 1e-30),
            7 => row.iter_mut().for_each(|x| *x *= 1e30),
            8 => row.iter_mut().for_each(|x| *x += 354.0),
            9 => row.fill(-0.0),
            10 => row.fill(1.0 / 3.0),
            11 => row.iter_mut().for_each(|x| *x *= 1e-6),
            _ => {}
        }
    }
    x
}

fn input(spec: &CodecRows, shapes: &Shapes, seed: u64) -> Result<(usize, Vec<f32>, Quantized), RecipeError> {
    let rows = shapes.get("rows");
    spec.codec.shape().check(u32::try_from(spec.head_dim).unwrap_or(u32::MAX))?;
    let x = special(rows, spec.head_dim, seed);
    let quantized = reference::quantize(&spec.codec, &x, spec.head_dim)?;
    Ok((rows, x, quantized))
}

/// A pointer needs something to point to.
fn at_least_one(mut words: Vec<u16>) -> Vec<u16> {
    if words.is_empty() {
        words.push(0xEEEE);
    }
    words
}

pub(super) fn quantize(spec: &CodecRows, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (rows, x, quantized) = input(spec, shapes, seed)?;
    let args = QuantizeArgs {
        n: rows as i64,
        x: given(&x).tensor([rows, spec.head_dim]),
        codes: filled(0xEE, &quantized.packed, Check::Bits).slice_mut(),
        meta: filled(0xEEEE, &at_least_one(quantized.meta), Check::Bits).slice_mut(),
        codecs: (),
    };
    Ok(Workload::of::<quantize::quantize<Stock>>([rows.div_ceil(spec.rows).max(1), 1, 1], args))
}

pub(super) fn dequantize(spec: &CodecRows, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (rows, _, quantized) = input(spec, shapes, seed)?;
    let values = reference::dequantize(&spec.codec, &quantized, spec.head_dim)?;
    let args = DequantizeArgs {
        n: rows as i64,
        codes: given(&quantized.packed).slice(),
        meta: given(&at_least_one(quantized.meta)).slice(),
        out: filled(9.0, &values, Check::Bits).tensor_mut([rows, spec.head_dim]),
        codecs: (),
    };
    Ok(Workload::of::<quantize::dequantize<Stock>>([rows.div_ceil(spec.rows).max(1), 1, 1], args))
}
