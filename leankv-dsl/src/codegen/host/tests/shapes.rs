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
fn reshapes_keep_row_major_order() {
    for (from, to) in [
        (&[6, 20][..], &[120][..]),
        (&[6, 20], &[20, 6]),
        (&[4, 32], &[4, 2, 16]),
        (&[4, 2, 16], &[8, 16]),
        (&[3, 1, 35], &[1, 105, 1]),
        (&[2, 48], &[2, 6, 8]),
        (&[8, 3], &[3, 8]),
    ] {
        let dims = to.iter().map(u32::to_string).collect::<Vec<_>>().join("x");
        run(from, &format!("  %r = reshape %x : tile<{dims}xf32>"), to, 0.0);
    }
}

#[test]
fn transposes_and_broadcasts() {
    run(&[5, 19], "  %r = transpose %x perm [1, 0] : tile<19x5xf32>", &[19, 5], 0.0);
    run(&[3, 4, 17], "  %r = transpose %x perm [2, 0, 1] : tile<17x3x4xf32>", &[17, 3, 4], 0.0);
    run(
        &[21],
        "  %e = expand_dims %x axis 1 : tile<21x1xf32>\n  %r = broadcast %e : tile<21x11xf32>",
        &[21, 11],
        0.0,
    );
    run(
        &[21],
        "  %e = expand_dims %x axis 0 : tile<1x21xf32>\n  %r = broadcast %e : tile<6x21xf32>",
        &[6, 21],
        0.0,
    );
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
fn reductions_along_every_axis() {
    for kind in ["add", "max", "min", "mul"] {
        run(&[5, 37], &format!("  %r = reduce {kind} %x axis 1 : tile<5xf32>"), &[5], 1e-5);
        run(&[5, 37], &format!("  %r = reduce {kind} %x axis 0 : tile<37xf32>"), &[37], 1e-5);
        run(&[3, 4, 18], &format!("  %r = reduce {kind} %x axis 1 : tile<3x18xf32>"), &[3, 18], 1e-5);
        let scalar = format!("  %s = reduce {kind} %x axis 0 : f32\n  %r = splat %s : tile<3xf32>");
        run(&[53], &scalar, &[3], 1e-5);
    }
}

#[test]
fn integer_and_truth_reductions() {
    let text = "kernel @k(%px x: ptr<u8> read, %po o: ptr<u8> write, %pm m: ptr<i1> write) num_warps 4 {
  %i = iota : tile<51xi32>
  %x = load %px[%i] : tile<51xu8>
  %h = constant 128 : tile<51xu8>
  %m = cmp lt %x, %h : tile<51xi1>
  %any = reduce or %m axis 0 : i1
  %all = reduce and %m axis 0 : i1
  %odd = reduce xor %m axis 0 : i1
  %a = reduce add %x axis 0 : u8
  %b = reduce max %x axis 0 : u8
  %c = reduce xor %x axis 0 : u8
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %2 = constant 2 : i32
  store %po[%0], %a
  store %po[%1], %b
  store %po[%2], %c
  store %pm[%0], %any
  store %pm[%1], %all
  store %pm[%2], %odd
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::U8, 51, 8), vec![0; 3], vec![0; 3]], 0.0);
}

#[test]
fn sums_of_16_bit_floats_are_within_rounding() {
    let text = "kernel @k(%px x: ptr<f16> read, %po o: ptr<f16> write) num_warps 4 {
  %i = iota : tile<40xi32>
  %x = load %px[%i] : tile<40xf16>
  %s = reduce add %x axis 0 : f16
  %0 = constant 0 : i32
  store %po[%0], %s
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F16, 40, 8), vec![0; 2]], 0.05);
}

#[test]
fn arg_max_by_a_region() {
    let body = "  %ix = iota : tile<37xi32>
  %e = expand_dims %ix axis 0 : tile<1x37xi32>
  %b = broadcast %e : tile<5x37xi32>
  %m, %at = reduce %x, %b axis 1 : tile<5xf32>, tile<5xi32> { |%x0: f32, %i0: i32, %x1: f32, %i1: i32|
    %c = cmp gt %x1, %x0 : i1
    %xm = select %c, %x1, %x0 : f32
    %im = select %c, %i1, %i0 : i32
    yield %xm, %im
  }
  %f = cast %at : tile<5xf32>
  %r = add %f, %m : tile<5xf32>";
    run(&[5, 37], body, &[5], 0.0);
}

#[test]
fn scans_in_both_directions() {
    for reverse in ["", " reverse"] {
        for kind in ["add", "max"] {
            run(&[5, 23], &format!("  %r = scan {kind} %x axis 1{reverse} : tile<5x23xf32>"), &[5, 23], 1e-5);
            run(&[5, 23], &format!("  %r = scan {kind} %x axis 0{reverse} : tile<5x23xf32>"), &[5, 23], 1e-5);
        }
        // The last positive element so far: associative and not commutative, so it shows the order.
        let body = format!(
            "  %r = scan %x axis 0{reverse} : tile<23xf32> {{ |%a: f32, %b: f32|
    %h = constant 0.0 : f32
    %t = cmp gt %b, %h : i1
    %u = select %t, %b, %a : f32
    yield %u
  }}"
        );
        run(&[23], &body, &[23], 1e-5);
    }
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
