//! Whole small kernels.

use super::*;
use crate::interp::{self, Memory, Options};
use crate::ir::parse;

pub(super) fn interpret(func: &Func, grid: [u32; 3], buffers: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut memory = Memory::new();
    let ids: Vec<_> = buffers.iter().map(|b| memory.alloc_bytes(b)).collect();
    let args: Vec<interp::Arg> = ids.iter().map(|&id| interp::Arg::Buffer(id, 0)).collect();
    interp::launch(func, grid, &args, &mut memory, &Options::default())
        .unwrap_or_else(|e| panic!("{e}\n{func}"));
    ids.iter().map(|&id| memory.bytes(id).to_vec()).collect()
}

fn check_text(text: &str, grid: [u32; 3], buffers: &[Vec<u8>], tolerance: f64) {
    let func = parse("test.tile", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let want = interpret(&func, grid, buffers);
    check(&func, grid, buffers, &want, tolerance);
}

fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| ((i % 37) as f32 - 11.5).to_le_bytes()).collect()
}

#[test]
fn vectors_are_added() {
    let text = "kernel @add(%px x: ptr<f32> read multiple_of 16, %py y: ptr<f32> read multiple_of 16, %po o: ptr<f32> write multiple_of 16) num_warps 4 {
  %p = program_id x : i32
  %b = constant 512 : i32
  %s = mul %p, %b : i32
  %i = iota : tile<512xi32>
  %st = splat %s : tile<512xi32>
  %at = add %st, %i : tile<512xi32>
  %x = load %px[%at] : tile<512xf32>
  %y = load %py[%at] : tile<512xf32>
  %z = add %x, %y : tile<512xf32>
  store %po[%at], %z
  return
}";
    check_text(text, [3, 1, 1], &[floats(1536), floats(1536), vec![0; 6144]], 0.0);
    let func = parse("test.tile", text).unwrap();
    let artifact = compile(&func, &NvptxTarget::Sm80, &NvptxOptions::default()).unwrap();
    assert!(artifact.ptx.contains("ld.global.nc.v4.b32"), "{}", artifact.ptx);
    assert!(artifact.ptx.contains("st.global.v4.b32"), "{}", artifact.ptx);
    assert!(!artifact.ptx.contains("bar.sync"), "{}", artifact.ptx);
}

pub(super) fn halves(n: usize, seed: u32) -> Vec<u8> {
    let value =
        |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as f32 / 64.0 - 2.0;
    (0..n).flat_map(|i| f16::from_f32(value(i)).to_le_bytes()).collect()
}

/// `o = a b` for 64 x `turns * 32` by `turns * 32` x 64, with the last `missing` of k masked off.
pub(super) fn product(turns: u32, stages: u32, missing: u32) -> String {
    let k = turns * 32;
    let bound = k - missing;
    format!(
        "kernel @mm(%pa a: ptr<f16> read multiple_of 16, %pb b: ptr<f16> read multiple_of 16, %po o: ptr<f32> write multiple_of 16) num_warps 4 {{
  %r = iota : tile<64xi32>
  %c = iota : tile<32xi32>
  %kw = constant {k} : tile<64xi32>
  %rk = mul %r, %kw : tile<64xi32>
  %rk1 = expand_dims %rk axis 1 : tile<64x1xi32>
  %rkb = broadcast %rk1 : tile<64x32xi32>
  %nw = constant 64 : tile<32xi32>
  %bound = constant {bound} : tile<32xi32>
  %z = constant 0.0 : tile<64x64xf32>
  %lo = constant 0 : i32
  %hi = constant {k} : i32
  %st = constant 32 : i32
  %acc = for %lo to %hi step %st carry %z stages {stages} : tile<64x64xf32> {{ |%i: i32, %sum: tile<64x64xf32>|
    %is = splat %i : tile<32xi32>
    %kc = add %is, %c : tile<32xi32>
    %ok = cmp lt %kc, %bound : tile<32xi1>
    %kc1 = expand_dims %kc axis 0 : tile<1x32xi32>
    %kcb = broadcast %kc1 : tile<64x32xi32>
    %ao = add %rkb, %kcb : tile<64x32xi32>
    %ok1 = expand_dims %ok axis 0 : tile<1x32xi1>
    %okb = broadcast %ok1 : tile<64x32xi1>
    %a = load %pa[%ao] mask %okb : tile<64x32xf16>
    %kn = mul %kc, %nw : tile<32xi32>
    %kn1 = expand_dims %kn axis 1 : tile<32x1xi32>
    %knb = broadcast %kn1 : tile<32x64xi32>
    %n1 = expand_dims %r axis 0 : tile<1x64xi32>
    %nb = broadcast %n1 : tile<32x64xi32>
    %bo = add %knb, %nb : tile<32x64xi32>
    %ok2 = expand_dims %ok axis 1 : tile<32x1xi1>
    %okc = broadcast %ok2 : tile<32x64xi1>
    %b = load %pb[%bo] mask %okc : tile<32x64xf16>
    %next = dot %a, %b, %sum : tile<64x64xf32>
    yield %next
  }}
  %ow = constant 64 : tile<64xi32>
  %or = mul %r, %ow : tile<64xi32>
  %or1 = expand_dims %or axis 1 : tile<64x1xi32>
  %orb = broadcast %or1 : tile<64x64xi32>
  %oc1 = expand_dims %r axis 0 : tile<1x64xi32>
  %ocb = broadcast %oc1 : tile<64x64xi32>
  %oo = add %orb, %ocb : tile<64x64xi32>
  store %po[%oo], %acc
  return
}}"
    )
}

#[test]
fn pipelined_products_copy_ahead_and_read_fragments_from_shared_memory() {
    for (turns, stages, missing) in [(1, 2, 0), (1, 4, 5), (2, 3, 0), (5, 2, 3), (5, 3, 0), (4, 4, 31)] {
        let text = product(turns, stages, missing);
        let k = (turns * 32) as usize;
        let buffers = [halves(64 * k, 1), halves(64 * k, 2), vec![0; 64 * 64 * 4]];
        check_text(&text, [1, 1, 1], &buffers, 1e-4);
    }
    let func = parse("test.tile", &product(5, 3, 3)).unwrap();
    let artifact = compile(&func, &NvptxTarget::Sm80, &NvptxOptions::default()).unwrap();
    for needed in [
        "cp.async.cg.shared.global",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
        ".x4.trans",
        "cp.async.wait_group",
    ] {
        assert!(artifact.ptx.contains(needed), "{needed}\n{:?}\n{}", artifact.notes, artifact.ptx);
    }
    assert!(!artifact.ptx.contains("ld.shared"), "{}", artifact.ptx);
    assert!(
        artifact.notes[0].ends_with("2 loads pipelined over 3 stages of 8192 bytes"),
        "{:?}",
        artifact.notes
    );
}

#[test]
fn code_is_the_same_every_time_and_line_information_does_not_change_it() {
    let func = parse("test.tile", &product(5, 3, 3)).unwrap();
    let ptx = |line_info| {
        let options = NvptxOptions { line_info, ..NvptxOptions::default() };
        compile(&func, &NvptxTarget::Sm90, &options).unwrap().ptx
    };
    let with = ptx(true);
    assert_eq!(with, ptx(true));
    assert!(with.contains(".loc") && !with.contains(", debug"), "{with}");
    let without = ptx(false);
    assert!(!without.contains(".loc"), "{without}");
}

#[test]
fn what_a_gpu_cannot_do_is_refused_with_its_place() {
    let text = "kernel @k(%px x: ptr<f64> read_write) num_warps 4 {
  %i = iota : tile<4xi32>
  %x = load %px[%i] : tile<4xf64>
  %y = exp2 %x : tile<4xf64>
  store %px[%i], %y
  return
}";
    let func = parse("test.tile", text).unwrap();
    let error = compile(&func, &NvptxTarget::Sm80, &NvptxOptions::default()).unwrap_err();
    let CodegenError::Unsupported { op, target, loc, .. } = &error else { panic!("{error}") };
    assert_eq!((op.as_str(), target.as_str(), loc.line()), ("exp2 of f64", "sm_80", 4));
}

#[test]
fn accesses_of_one_program_stay_in_order() {
    // Reverses in place, twice: each element is written by one thread and read by another.
    let text = "kernel @k(%px x: ptr<i32> read_write) num_warps 4 {
  %i = iota : tile<256xi32>
  %n = constant 255 : tile<256xi32>
  %j = sub %n, %i : tile<256xi32>
  %a = load %px[%i] : tile<256xi32>
  store %px[%j], %a
  %b = load %px[%i] : tile<256xi32>
  %one = constant 1 : tile<256xi32>
  %c = add %b, %one : tile<256xi32>
  store %px[%j], %c
  return
}";
    let data: Vec<u8> = (0..256i32).flat_map(|i| (i * 7).to_le_bytes()).collect();
    check_text(text, [1, 1, 1], &[data], 0.0);
}

/// The larger of three numbers in one instruction, which is newer than what LLVM writes by itself.
const LARGEST_OF_THREE: &str = "kernel @largest(%px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 1 {
  %i = iota : tile<32xi32>
  %x = load %px[%i] : tile<32xf32>
  %y = neg %x : tile<32xf32>
  %z = inline_ptx \"max.f32 $0, $1, $2, 0f3F800000;\" \"=f,f,f\" %x, %y : tile<32xf32> { |%a: f32, %b: f32|
    %m = max %a, %b : f32
    %one = constant 1.0 : f32
    %n = max %m, %one : f32
    yield %n
  }
  store %po[%i], %z
  return
}";

#[test]
fn inline_ptx_gets_the_version_that_it_needs_or_is_refused_at_its_line() {
    let func = parse("test.tile", LARGEST_OF_THREE).unwrap_or_else(|e| panic!("{e}"));
    for (target, version) in [(NvptxTarget::Sm100, ".version 8.8"), (NvptxTarget::Sm120, ".version 8.8")] {
        let artifact = compile(&func, &target, &NvptxOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert!(artifact.ptx.contains(version), "{}", artifact.ptx);
        let buffers = [floats(32), vec![0; 128]];
        let want = interpret(&func, [1, 1, 1], &buffers);
        assert_eq!(run(&artifact, [1, 1, 1], &buffers, Config::default())[1], want[1]);
    }
    let error = compile(&func, &NvptxTarget::Sm90, &NvptxOptions::default()).unwrap_err();
    let CodegenError::Unsupported { op, reason, loc, .. } = &error else { panic!("{error}") };
    assert_eq!((&op[..], loc.line()), ("max.f32", 5));
    assert!(reason.contains("sm_100") && reason.contains("8.8") && reason.contains("sm_90"), "{reason}");
}
