//! Approximate functions over the whole range of each.

use super::run_host;
use crate::ir::{UnaryOp, parse};
use crate::workload::Generator;

/// The largest error that `ir::op` allows, relative to the true value.
#[test]
fn approximate_functions_keep_their_bound() {
    let functions: [(UnaryOp, fn(f64) -> f64, f32, f32); 8] = [
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
        let mut numbers = Generator::new(9);
        // Half of them spread evenly, half small.
        let spread = numbers.f32s(COUNT / 2, low, high).into_iter();
        let small = numbers.f32s(COUNT / 2, -1.5, 1.5).into_iter().map(|x| x.clamp(low, high));
        let xs: Vec<f32> = spread.chain(small).map(|x| if x == 0.0 { 1.0 } else { x }).collect();
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
