//! Every element-wise op for every element type.

use super::{Lcg, bytes, check, random, run_host};
use crate::ir::{BinaryOp, CmpOp, Dtype, UnaryOp, parse};

/// Elements: no multiple of a vector, with a whole vector in it.
const N: usize = 45;

const DTYPES: [Dtype; 13] = Dtype::PLAIN;

/// A kernel that applies ops to tiles x, y and stores one result a line: `(op text, operand types, result type)`.
fn elementwise(inputs: &[Dtype], lines: &[(String, Dtype)]) -> String {
    let mut params: Vec<String> =
        inputs.iter().enumerate().map(|(i, d)| format!("%p{i} p{i}: ptr<{d}> read")).collect();
    params.extend(lines.iter().enumerate().map(|(i, (_, d))| format!("%o{i} o{i}: ptr<{d}> write")));
    let mut text = format!("kernel @k({}) num_warps 4 {{\n  %i = iota : tile<{N}xi32>\n", params.join(", "));
    for (i, d) in inputs.iter().enumerate() {
        text += &format!("  %x{i} = load %p{i}[%i] : tile<{N}x{d}>\n");
    }
    for (i, (op, d)) in lines.iter().enumerate() {
        text += &format!("  %r{i} = {op} : tile<{N}x{d}>\n  store %o{i}[%i], %r{i}\n");
    }
    text + "  return\n}\n"
}

fn run(inputs: &[Dtype], lines: &[(String, Dtype)], data: &[Vec<u8>], tolerance: f64) {
    let mut buffers = data.to_vec();
    buffers.extend(lines.iter().map(|(_, d)| vec![0; N * d.bytes().unwrap() as usize]));
    check(&elementwise(inputs, lines), [1, 1, 1], &buffers, tolerance);
}

/// Interesting numbers, then random ones.
fn specials(dtype: Dtype, seed: u64) -> Vec<u8> {
    let mut lcg = Lcg::new(seed);
    let mut values = vec![0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-3];
    if dtype.is_float() {
        values.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 65504.0, 1e-7, -1e30]);
    } else {
        let bits = dtype.bits() as i32;
        values.extend([2f64.powi(bits - 1) - 1.0, -2f64.powi(bits - 1), 7.0, 100.0]);
    }
    while values.len() < N {
        values.push(lcg.unit() * 100.0);
    }
    // Rotated, so that special values meet each other in binary ops.
    values.rotate_left(seed as usize % N);
    bytes(dtype, values)
}

#[test]
fn arithmetic_of_every_type() {
    for d in DTYPES {
        let mut lines = Vec::new();
        for &op in BinaryOp::ALL {
            let ok = match op {
                BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => !d.is_float(),
                BinaryOp::Shl | BinaryOp::Shr => d.is_int(),
                BinaryOp::MulHi => d.is_int() && d.bits() >= 32,
                // Division by zero is an error of the interpreter; see below.
                BinaryOp::Div | BinaryOp::Rem => d.is_float(),
                _ => d != Dtype::I1,
            };
            if ok {
                lines.push((format!("{op} %x0, %x1"), d));
            }
        }
        lines.extend(CmpOp::ALL.iter().map(|op| (format!("cmp {op} %x0, %x1"), Dtype::I1)));
        lines.push(("select %x2, %x0, %x1".to_owned(), d));
        if d.is_float() {
            lines.push(("fma %x0, %x1, %x0".to_owned(), d));
        }
        let mask = random(Dtype::I1, N, 3);
        for shift in [0, 1, 5] {
            let data = [specials(d, 0), specials(d, shift), mask.clone()];
            run(&[d, d, Dtype::I1], &lines, &data, 0.0);
        }
    }
}

#[test]
fn integer_division() {
    for d in DTYPES.into_iter().filter(|d| d.is_int()) {
        let divisors: Vec<f64> = (0..N).map(|i| [1.0, -1.0, 3.0, 7.0, -5.0][i % 5]).collect();
        let lines = [("div %x0, %x1".to_owned(), d), ("rem %x0, %x1".to_owned(), d)];
        run(&[d, d], &lines, &[specials(d, 0), bytes(d, divisors)], 0.0);
    }
}

#[test]
fn integer_division_by_zero_gives_zero() {
    let lines = [("div %x0, %x1".to_owned(), Dtype::I32), ("rem %x0, %x1".to_owned(), Dtype::I32)];
    let func = parse("t", &elementwise(&[Dtype::I32, Dtype::I32], &lines)).unwrap();
    let zero = vec![0u8; N * 4];
    let mut buffers = vec![specials(Dtype::I32, 0), zero.clone(), vec![7; N * 4], vec![7; N * 4]];
    run_host(&func, [1, 1, 1], &mut buffers, None, 1).unwrap();
    assert_eq!((&buffers[2], &buffers[3]), (&zero, &zero));
}

#[test]
fn unary_ops_of_every_type() {
    for d in DTYPES {
        let mut lines = Vec::new();
        for &op in UnaryOp::ALL {
            let ok = match op {
                UnaryOp::Neg | UnaryOp::Abs => d != Dtype::I1,
                UnaryOp::Not => !d.is_float(),
                UnaryOp::Popcount | UnaryOp::Clz => d.is_int(),
                _ => d.is_float(),
            };
            let approximate = matches!(
                op,
                UnaryOp::Exp2
                    | UnaryOp::Log2
                    | UnaryOp::Rsqrt
                    | UnaryOp::Rcp
                    | UnaryOp::Sin
                    | UnaryOp::Cos
                    | UnaryOp::Tanh
                    | UnaryOp::Erf
            );
            if ok && !approximate {
                lines.push((format!("{op} %x0"), d));
            }
        }
        run(&[d], &lines, &[specials(d, 0)], 0.0);
    }
}

/// The largest error that `ir::op` allows, relative to the true value.
#[test]
fn approximate_functions_keep_their_bound() {
    let functions: [(UnaryOp, fn(f64) -> f64, f64, f64); 8] = [
        (UnaryOp::Exp2, f64::exp2, -126.0, 127.9),
        (UnaryOp::Log2, f64::log2, 1e-30, 1e6),
        (UnaryOp::Rsqrt, |x| 1.0 / x.sqrt(), 1e-6, 1e6),
        (UnaryOp::Rcp, |x| 1.0 / x, 1e-3, 1e6),
        (UnaryOp::Sin, f64::sin, -1e5, 1e5),
        (UnaryOp::Cos, f64::cos, -1e5, 1e5),
        (UnaryOp::Tanh, f64::tanh, -12.0, 12.0),
        (UnaryOp::Erf, erf, -5.0, 5.0),
    ];
    const COUNT: usize = 4096;
    for (op, exact, low, high) in functions {
        let text = format!(
            "kernel @k(%0 x: ptr<f32> read, %1 y: ptr<f32> write) num_warps 4 {{
  %i = iota : tile<{COUNT}xi32>
  %x = load %0[%i] : tile<{COUNT}xf32>
  %y = {op} %x : tile<{COUNT}xf32>
  store %1[%i], %y
  return
}}"
        );
        let func = parse("t", &text).unwrap();
        let mut lcg = Lcg::new(9);
        // Half of them spread evenly, half small.
        let xs: Vec<f32> = (0..COUNT)
            .map(|i| {
                let t = (lcg.unit() + 1.0) / 2.0;
                let x = low + (high - low) * t;
                (if i % 2 == 0 { x } else { (lcg.unit() * 1.5).clamp(low, high) }) as f32
            })
            .map(|x| if x == 0.0 { 1.0 } else { x })
            .collect();
        let raw: Vec<u8> = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut buffers = vec![raw, vec![0; COUNT * 4]];
        run_host(&func, [1, 1, 1], &mut buffers, None, 1).unwrap();
        let circular = matches!(op, UnaryOp::Sin | UnaryOp::Cos);
        for (x, y) in xs.iter().zip(buffers[1].chunks(4)) {
            let y = f64::from(f32::from_le_bytes(y.try_into().unwrap()));
            let want = exact(f64::from(*x));
            let scale = if circular { 1.0 } else { want.abs() };
            assert!((y - want).abs() <= scale * 2f64.powi(-20), "{op}({x}) = {y}, not {want}");
        }
    }
}

/// erf by its series and continued fraction, in double precision.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..80 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut f = a;
        for n in (1..60).rev() {
            f = a + f64::from(n) / 2.0 / f;
        }
        1.0 - (-a * a).exp() / (f * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

#[test]
fn functions_of_special_values() {
    for d in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16] {
        let lines: Vec<_> = ["exp2", "log2", "tanh", "erf", "rcp", "rsqrt"]
            .iter()
            .map(|op| (format!("{op} %x0"), d))
            .collect();
        let tolerance = match d {
            Dtype::F16 => 2f64.powi(-9),
            Dtype::BF16 => 2f64.powi(-6),
            _ => 2f64.powi(-19),
        };
        let mut values = vec![0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1.0, -0.0, 1e-4];
        values.resize(N, 0.25);
        run(&[d], &lines, &[bytes(d, values)], tolerance);
    }
}

#[test]
fn casts_between_all_types() {
    for from in DTYPES {
        let lines: Vec<_> = DTYPES.iter().map(|&to| ("cast %x0".to_owned(), to)).collect();
        for seed in 0..2 {
            run(&[from], &lines, &[specials(from, seed)], 0.0);
            run(&[from], &lines, &[random(from, N, seed)], 0.0);
        }
        let same: Vec<_> = DTYPES
            .iter()
            .filter(|to| to.bits() == from.bits() && from != Dtype::I1)
            .map(|&to| ("bitcast %x0".to_owned(), to))
            .collect();
        run(&[from], &same, &[specials(from, 0)], 0.0);
    }
}

#[test]
fn rounding_to_16_bits_happens_once() {
    // Ties that a second rounding would decide wrongly.
    let mut values = vec![1.0 + 2f64.powi(-11) + 2f64.powi(-40), 1.0 + 2f64.powi(-8) + 2f64.powi(-40)];
    values.extend([-values[0], -values[1], 65519.999999, 65520.0, 1e300, 2f64.powi(-25) * 1.0000001]);
    values.resize(N, 2049.0);
    let lines = [("cast %x0".to_owned(), Dtype::F16), ("cast %x0".to_owned(), Dtype::BF16)];
    run(&[Dtype::F64], &lines, &[bytes(Dtype::F64, values)], 0.0);
    let near: Vec<u8> =
        (0..N as i64).flat_map(|i| ((1i64 << 62) + (1 << 54) + i % 3 - 1).to_le_bytes()).collect();
    run(&[Dtype::I64], &lines, &[near], 0.0);
}

#[test]
fn codes_convert_like_small_integers() {
    for bits in [1, 2, 3, 4, 5, 8] {
        let text = format!(
            "kernel @k(%0 x: ptr<i32> read, %1 a: ptr<f32> write, %2 b: ptr<u8> write, %3 c: ptr<f16> write, %4 d: ptr<f32> write) num_warps 4 {{
  %i = iota : tile<{N}xi32>
  %x = load %0[%i] : tile<{N}xi32>
  %c = cast %x : tile<{N}xcode{bits}>
  %f = cast %c : tile<{N}xf32>
  store %1[%i], %f
  %u = cast %c : tile<{N}xu8>
  store %2[%i], %u
  %h = cast %c : tile<{N}xf16>
  store %3[%i], %h
  %s = constant 0.75 : tile<{N}xf32>
  %d = dequantize %c, %s, %f : tile<{N}xf32>
  store %4[%i], %d
  return
}}"
        );
        let out = |bytes: usize| vec![0u8; N * bytes];
        check(&text, [1, 1, 1], &[random(Dtype::I32, N, 4), out(4), out(1), out(2), out(4)], 0.0);
    }
}

#[test]
fn quantisation_clamps_and_has_no_surprises() {
    let text = format!(
        "kernel @k(%0 x: ptr<f32> read, %1 s: ptr<f32> read, %2 a: ptr<u8> write) num_warps 4 {{
  %i = iota : tile<{N}xi32>
  %x = load %0[%i] : tile<{N}xf32>
  %s = load %1[%i] : tile<{N}xf32>
  %z = constant -0.5 : tile<{N}xf32>
  %q = quantize %x, %s, %z : tile<{N}xcode4>
  %u = cast %q : tile<{N}xu8>
  store %2[%i], %u
  return
}}"
    );
    let scales: Vec<f64> = (0..N).map(|i| [0.0, 0.25, 1.0, f64::NAN, f64::INFINITY][i % 5]).collect();
    let data = [specials(Dtype::F32, 0), bytes(Dtype::F32, scales), vec![9; N]];
    check(&text, [1, 1, 1], &data, 0.0);
}

#[test]
fn inline_ptx_runs_its_meaning() {
    let text = format!(
        "kernel @k(%0 x: ptr<f32> read, %1 y: ptr<f32> write) num_warps 4 {{
  %i = iota : tile<{N}xi32>
  %x = load %0[%i] : tile<{N}xf32>
  %y = inline_ptx \"fma.rn.f32 $0, $1, $2, $1;\" \"=f,f,f\" %x, %x : tile<{N}xf32> {{ |%a: f32, %b: f32|
    %c = fma %a, %b, %a : f32
    yield %c
  }}
  store %1[%i], %y
  return
}}"
    );
    check(&text, [1, 1, 1], &[random(Dtype::F32, N, 5), vec![0; N * 4]], 0.0);
}
