//! Ops that move elements, reductions and scans.

use super::{bytes, check, random};
use crate::ir::Dtype;

/// A kernel over f32 tiles: loads `%x` of `shape`, then `body`, then stores `%r` of `out` elements and shape.
fn shaped(shape: &[u32], body: &str, out: &[u32]) -> String {
    let dims = |s: &[u32]| s.iter().map(u32::to_string).collect::<Vec<_>>().join("x");
    let count = |s: &[u32]| s.iter().product::<u32>();
    let (n, m) = (count(shape), count(out));
    format!(
        "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {{
  %in = iota : tile<{n}xi32>
  %flat = load %px[%in] : tile<{n}xf32>
  %x = reshape %flat : tile<{}xf32>
{body}
  %out = iota : tile<{m}xi32>
  %rf = reshape %r : tile<{m}xf32>
  store %po[%out], %rf
  return
}}",
        dims(shape)
    )
}

fn run(shape: &[u32], body: &str, out: &[u32], tolerance: f64) {
    let n = shape.iter().product::<u32>() as usize;
    let m = out.iter().product::<u32>() as usize;
    let data = [random(Dtype::F32, n, 7), vec![0; m * 4]];
    check(&shaped(shape, body, out), [1, 1, 1], &data, tolerance);
}

#[test]
fn join_and_split() {
    run(&[21], "  %y = neg %x : tile<21xf32>\n  %r = join %x, %y : tile<21x2xf32>", &[21, 2], 0.0);
    run(
        &[3, 32],
        "  %y = neg %x : tile<3x32xf32>\n  %j = join %x, %y : tile<3x32x2xf32>\n  %r = reshape %j : tile<3x64xf32>",
        &[3, 64],
        0.0,
    );
    run(
        &[3, 19, 2],
        "  %a, %b = split %x : tile<3x19xf32>, tile<3x19xf32>\n  %r = sub %a, %b : tile<3x19xf32>",
        &[3, 19],
        0.0,
    );
    run(
        &[3, 38],
        "  %p = reshape %x : tile<3x19x2xf32>\n  %a, %b = split %p : tile<3x19xf32>, tile<3x19xf32>\n  %r = sub %a, %b : tile<3x19xf32>",
        &[3, 19],
        0.0,
    );
}

#[test]
fn gathers_along_any_axis() {
    for (axis, shape) in [(0, [5u32, 19u32]), (1, [5, 19])] {
        let (extent, other) = (shape[axis], shape[1 - axis]);
        let index: Vec<f64> = (0..extent * other).map(|i| f64::from(i * 7 % extent)).collect();
        let text = format!(
            "kernel @k(%px x: ptr<f32> read, %pi i: ptr<i32> read, %po o: ptr<f32> write) num_warps 4 {{
  %f = iota : tile<95xi32>
  %xf = load %px[%f] : tile<95xf32>
  %x = reshape %xf : tile<5x19xf32>
  %jf = load %pi[%f] : tile<95xi32>
  %j = reshape %jf : tile<5x19xi32>
  %g = gather %x, %j axis {axis} : tile<5x19xf32>
  %y = exp2 %x : tile<5x19xf32>
  %h = gather %y, %j axis {axis} : tile<5x19xf32>
  %r = add %g, %h : tile<5x19xf32>
  %rf = reshape %r : tile<95xf32>
  store %po[%f], %rf
  return
}}"
        );
        let data = [random(Dtype::F32, 95, 2), bytes(Dtype::I32, index), vec![0; 95 * 4]];
        check(&text, [1, 1, 1], &data, 1e-5);
    }
}

#[test]
fn packing_and_unpacking_are_inverse_and_dense() {
    for bits in [1u32, 2, 4, 8] {
        for word in [Dtype::U8, Dtype::U16, Dtype::U32] {
            for words in [1u32, 3, 8, 21] {
                let n = words * word.bits() / bits;
                let text = format!(
                    "kernel @k(%px x: ptr<{word}> read, %po o: ptr<{word}> write, %pc c: ptr<u8> write, %pf f: ptr<f32> write) num_warps 4 {{
  %r = iota : tile<3xi32>
  %re = expand_dims %r axis 1 : tile<3x1xi32>
  %rw = constant {words} : tile<3x1xi32>
  %ro = mul %re, %rw : tile<3x1xi32>
  %rb = broadcast %ro : tile<3x{words}xi32>
  %i = iota : tile<{words}xi32>
  %ie = expand_dims %i axis 0 : tile<1x{words}xi32>
  %ib = broadcast %ie : tile<3x{words}xi32>
  %at = add %rb, %ib : tile<3x{words}xi32>
  %w = load %px[%at] : tile<3x{words}x{word}>
  %c = unpack %w : tile<3x{n}xcode{bits}>
  %p = pack %c : tile<3x{words}x{word}>
  store %po[%at], %p
  %u = cast %c : tile<3x{n}xu8>
  %uf = reshape %u : tile<{}xu8>
  %j = iota : tile<{}xi32>
  store %pc[%j], %uf
  %t = transpose %c perm [1, 0] : tile<{n}x3xcode{bits}>
  %tf = cast %t : tile<{n}x3xf32>
  %tr = reshape %tf : tile<{}xf32>
  store %pf[%j], %tr
  return
}}",
                    3 * n,
                    3 * n,
                    3 * n
                );
                let data = [
                    random(word, 3 * words as usize, 11),
                    vec![0; 3 * (words * word.bits() / 8) as usize],
                    vec![0; 3 * n as usize],
                    vec![0; 12 * n as usize],
                ];
                check(&text, [1, 1, 1], &data, 0.0);
            }
        }
    }
}
