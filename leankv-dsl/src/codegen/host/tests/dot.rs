//! Products: every type, both forms, extents that fit no block.

use super::{check, random};
use crate::ir::Dtype;

/// `o = c + a b`; b is stored `[k, n]`, or `[n, k]` and transposed on the way in.
fn product(m: u32, k: u32, n: u32, a: Dtype, b: Dtype, acc: Dtype, transposed: bool) {
    let (rows, columns) = if transposed { (n, k) } else { (k, n) };
    let b_text = if transposed {
        format!("  %b = transpose %bs perm [1, 0] : tile<{k}x{n}x{b}>")
    } else {
        format!("  %b = bitcast %bs : tile<{k}x{n}x{b}>")
    };
    let text = format!(
        "kernel @k(%pa a: ptr<{a}> read, %pb b: ptr<{b}> read, %pc c: ptr<{acc}> read, %po o: ptr<{acc}> write) num_warps 4 {{
  %ia = iota : tile<{}xi32>
  %af = load %pa[%ia] : tile<{}x{a}>
  %a = reshape %af : tile<{m}x{k}x{a}>
  %r = iota : tile<{rows}xi32>
  %r1 = expand_dims %r axis 1 : tile<{rows}x1xi32>
  %w = constant {columns} : tile<{rows}x1xi32>
  %rw = mul %r1, %w : tile<{rows}x1xi32>
  %rb = broadcast %rw : tile<{rows}x{columns}xi32>
  %c0 = iota : tile<{columns}xi32>
  %c1 = expand_dims %c0 axis 0 : tile<1x{columns}xi32>
  %cb = broadcast %c1 : tile<{rows}x{columns}xi32>
  %ib = add %rb, %cb : tile<{rows}x{columns}xi32>
  %bs = load %pb[%ib] : tile<{rows}x{columns}x{b}>
{b_text}
  %ic = iota : tile<{}xi32>
  %cf = load %pc[%ic] : tile<{}x{acc}>
  %c = reshape %cf : tile<{m}x{n}x{acc}>
  %d = dot %a, %b, %c : tile<{m}x{n}x{acc}>
  %df = reshape %d : tile<{}x{acc}>
  store %po[%ic], %df
  return
}}",
        m * k,
        m * k,
        m * n,
        m * n,
        m * n
    );
    let data = [
        random(a, (m * k) as usize, 1),
        random(b, (k * n) as usize, 2),
        random(acc, (m * n) as usize, 3),
        vec![0; (m * n * acc.bytes().unwrap()) as usize],
    ];
    check(&text, [1, 1, 1], &data, 1e-4);
}

#[test]
fn products_of_every_type() {
    let f = |d, acc| (d, d, acc);
    for (a, b, acc) in [
        f(Dtype::F16, Dtype::F32),
        f(Dtype::BF16, Dtype::F32),
        f(Dtype::F32, Dtype::F32),
        f(Dtype::F64, Dtype::F64),
        f(Dtype::I8, Dtype::I32),
        f(Dtype::U8, Dtype::I32),
        (Dtype::I8, Dtype::U8, Dtype::I32),
    ] {
        for transposed in [false, true] {
            product(4, 33, 35, a, b, acc, transposed);
            product(17, 16, 32, a, b, acc, transposed);
        }
    }
}

#[test]
fn products_of_awkward_extents() {
    for transposed in [false, true] {
        for (m, k, n) in
            [(1, 1, 1), (1, 7, 3), (3, 5, 2), (8, 80, 9), (5, 128, 48), (9, 3, 70), (64, 24, 40), (2, 2, 96)]
        {
            product(m, k, n, Dtype::F32, Dtype::F32, Dtype::F32, transposed);
        }
    }
}
