//! Quantise and dequantise against the plain-Rust codecs, on the interpreter: codes and metadata bit for bit.

mod common;

use common::{Run, filled, random};
use leankv_dsl::format::CodecSpec;
use leankv_dsl::lang::attention::Stock;
use leankv_dsl::workload::given;
use leankv_kernels::quantize::{DequantizeArgs, QuantizeArgs, dequantize, quantize};
use leankv_kernels::reference;

/// Rows with everything that is special: zeros, constants, NaN, infinities, tiny and huge numbers.
fn rows(head_dim: usize) -> (usize, Vec<f32>) {
    let mut x = random(11, 12 * head_dim);
    let row = |i: usize| i * head_dim..(i + 1) * head_dim;
    x[row(1)].fill(0.0);
    x[row(2)].fill(-3.5);
    x[row(3)].fill(f32::NAN);
    x[row(4)][3] = f32::NAN;
    x[row(5)][0] = f32::INFINITY;
    x[row(5)][head_dim - 1] = f32::NEG_INFINITY;
    x[row(6)].iter_mut().for_each(|x| *x *= 1e-30);
    x[row(7)].iter_mut().for_each(|x| *x *= 1e30);
    x[row(8)].iter_mut().for_each(|x| *x += 354.0);
    x[row(9)].iter_mut().for_each(|x| *x *= 1e-6);
    x[row(10)].fill(-0.0);
    x[row(11)].fill(1.0 / 3.0);
    (12, x)
}

fn check(codec: &str, head_dim: usize) {
    let spec: CodecSpec = codec.parse().unwrap();
    let (n, x) = rows(head_dim);
    let expected = reference::quantize(&spec, &x, head_dim).unwrap();
    let (settings, grid) = (format!("codec={codec},head_dim={head_dim},rows=8"), [n.div_ceil(8), 1, 1]);
    let words = expected.meta.len();
    let args = QuantizeArgs {
        n: n as i64,
        x: given(&x).tensor([n, head_dim]),
        codes: given(&vec![0xEE; expected.packed.len()]).slice_mut(),
        meta: given(&vec![0xEEEE; words.max(1)]).slice_mut(),
        codecs: (),
    };
    let run = Run::new(&quantize::<Stock>::KERNEL, &settings, grid, args).launch();
    assert_eq!(run.read::<u8>("codes"), expected.packed, "codes of {codec} at head dim {head_dim}");
    assert_eq!(run.read::<u16>("meta")[..words], expected.meta, "metadata of {codec} at head dim {head_dim}");

    let values = reference::dequantize(&spec, &expected, head_dim).unwrap();
    let args = DequantizeArgs {
        n: n as i64,
        codes: given(&expected.packed).slice(),
        meta: given(if words == 0 { &[0] } else { &expected.meta }).slice(),
        out: filled(9.0, [n, head_dim]),
        codecs: (),
    };
    let run = Run::new(&dequantize::<Stock>::KERNEL, &settings, grid, args).launch();
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    assert_eq!(bits(&run.read::<f32>("out")), bits(&values), "values of {codec} at head dim {head_dim}");
}

#[test]
fn affine_codecs_of_every_width_and_group_count() {
    for bits in 1..=8 {
        for groups in ["", "g2", "g4"] {
            check(&format!("affine{bits}{groups}"), 64);
        }
    }
}

#[test]
fn symmetric_codecs_of_every_width() {
    for bits in 1..=8 {
        check(&format!("symmetric{bits}"), 64);
    }
    check("symmetric4g4", 96);
}

#[test]
fn bf16_metadata_and_unquantised_rows() {
    for codec in ["affine4-bf16", "affine1g2-bf16", "symmetric8-bf16", "f16", "bf16"] {
        check(codec, 64);
    }
}

#[test]
fn every_head_dim() {
    for head_dim in [80, 96, 128, 256] {
        for codec in ["affine4", "affine3g2", "affine8g4", "affine1"] {
            check(codec, head_dim);
        }
    }
}
