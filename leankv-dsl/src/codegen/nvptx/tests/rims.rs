//! Vectors at rims: views whose extent, start or row length is known only when the kernel runs.

use super::*;
use crate::interp::{self, Memory, Options};
use crate::ir::parse;

/// `o[i] = x[i] + x[i]` for `i < n`, both views starting `start` elements after their buffers.
fn row(dtype: &str) -> String {
    format!(
        "kernel @row(%px x: ptr<{dtype}> read, %po o: ptr<{dtype}> read_write, %pn n: ptr<i32> read) num_warps 4 {{
  %zero = constant 0 : i32
  %one = constant 1 : i32
  %n = load %pn[%zero] : i32
  %start = load %pn[%one] : i32
  %far = cast %start : i64
  %x = ptr_add %px, %far : ptr<{dtype}>
  %o = ptr_add %po, %far : ptr<{dtype}>
  %p = program_id x : i32
  %b = constant 512 : i32
  %s = mul %p, %b : i32
  %rest = sub %n, %s : i32
  %i = iota : tile<512xi32>
  %rests = splat %rest : tile<512xi32>
  %ok = cmp lt %i, %rests : tile<512xi1>
  %ss = splat %s : tile<512xi32>
  %at = add %ss, %i : tile<512xi32>
  %v = load %x[%at] mask %ok : tile<512x{dtype}>
  %w = add %v, %v : tile<512x{dtype}>
  store %o[%at], %w mask %ok
  return
}}"
    )
}

/// As [`row`] for `rows` rows of `columns` elements, `stride` elements apart.
const ROWS: &str =
    "kernel @rows(%x x: ptr<f16> read, %o o: ptr<f16> read_write, %pn n: ptr<i32> read) num_warps 4 {
  %zero = constant 0 : i32
  %one = constant 1 : i32
  %two = constant 2 : i32
  %rows = load %pn[%zero] : i32
  %columns = load %pn[%one] : i32
  %stride = load %pn[%two] : i32
  %r = iota : tile<16xi32>
  %c = iota : tile<64xi32>
  %rs = splat %rows : tile<16xi32>
  %cs = splat %columns : tile<64xi32>
  %rok = cmp lt %r, %rs : tile<16xi1>
  %cok = cmp lt %c, %cs : tile<64xi1>
  %rok1 = expand_dims %rok axis 1 : tile<16x1xi1>
  %cok1 = expand_dims %cok axis 0 : tile<1x64xi1>
  %rokb = broadcast %rok1 : tile<16x64xi1>
  %cokb = broadcast %cok1 : tile<16x64xi1>
  %ok = and %rokb, %cokb : tile<16x64xi1>
  %st = splat %stride : tile<16xi32>
  %ra = mul %r, %st : tile<16xi32>
  %ra1 = expand_dims %ra axis 1 : tile<16x1xi32>
  %rab = broadcast %ra1 : tile<16x64xi32>
  %c1 = expand_dims %c axis 0 : tile<1x64xi32>
  %cb = broadcast %c1 : tile<16x64xi32>
  %at = add %rab, %cb : tile<16x64xi32>
  %minus = constant -1.0 : tile<16x64xf16>
  %v = load %x[%at] mask %ok other %minus : tile<16x64xf16>
  %w = add %v, %v : tile<16x64xf16>
  store %o[%at], %w mask %ok
  return
}";

fn numbers(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Bytes that are small numbers in every element type.
fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 % 48) as u8).collect()
}

fn check_text(text: &str, grid: [u32; 3], buffers: &[Vec<u8>]) {
    let func = parse("rims.tile", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut memory = Memory::new();
    let ids: Vec<_> = buffers.iter().map(|b| memory.alloc_bytes(b)).collect();
    let args: Vec<interp::Arg> = ids.iter().map(|&id| interp::Arg::Buffer(id, 0)).collect();
    interp::launch(&func, grid, &args, &mut memory, &Options::default())
        .unwrap_or_else(|e| panic!("{e}\n{func}"));
    let want: Vec<Vec<u8>> = ids.iter().map(|&id| memory.bytes(id).to_vec()).collect();
    check(&func, grid, buffers, &want, 0.0);
}

/// Requests to global memory of one launch.
fn requests(text: &str, grid: [u32; 3], buffers: &[Vec<u8>]) -> u64 {
    let func = parse("rims.tile", text).unwrap();
    let artifact = compile(&func, &NvptxTarget::Sm80, &NvptxOptions::default()).unwrap();
    let (report, _) = launch(&artifact, grid, buffers, Config::default());
    report.counters.global_requests
}

#[test]
fn rims_cut_vectors_wherever_they_fall() {
    // Lengths about a vector, a program and two; starts at every byte offset of a vector.
    for (dtype, size) in [("f32", 4), ("f16", 2), ("u8", 1), ("i64", 8)] {
        for (n, start) in
            [(0, 0), (1, 0), (512, 0), (1024, 0), (1023, 0), (509, 0), (516, 4), (1024, 1), (777, 3)]
        {
            // Exactly as long as what may be touched: any access past the rim is a fault.
            let len = (n + start).max(1) as usize * size;
            let buffers = [bytes(len), vec![0; len], numbers(&[n, start])];
            check_text(&row(dtype), [2, 1, 1], &buffers);
        }
    }
}

#[test]
fn rows_are_cut_and_lie_at_any_stride() {
    for (rows, columns, stride) in
        [(16, 64, 64), (16, 61, 61), (9, 40, 40), (16, 64, 67), (3, 5, 8), (0, 0, 0)]
    {
        let len = ((rows - 1) * stride + columns).max(1) as usize * 2;
        let buffers = [bytes(len), vec![0; len], numbers(&[rows, columns, stride])];
        check_text(ROWS, [1, 1, 1], &buffers);
    }
}

#[test]
fn whole_vectors_take_one_request_each() {
    let with = |n: i32, start: i32| {
        let len = (n + start) as usize * 4;
        requests(&row("f32"), [2, 1, 1], &[bytes(len), vec![0; len], numbers(&[n, start])])
    };
    // Per program four warps load and store four floats a lane at once; each warp reads two numbers.
    assert_eq!(with(1024, 0), 2 * 4 * (1 + 1 + 2));
    // One vector is cut: its warp goes element by element where it has to, all others do not.
    assert!(with(1022, 0) <= 2 * 4 * (1 + 1 + 2) + 2 * 4);
    // Off its alignment: element by element.
    assert_eq!(with(1024, 1), 2 * 4 * (4 + 4 + 2));
}
