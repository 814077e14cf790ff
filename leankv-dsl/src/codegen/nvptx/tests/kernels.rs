//! Whole small kernels.

use super::*;
use crate::interp::{self, Memory, Options};
use crate::ir::parse;

fn interpret(func: &Func, grid: [u32; 3], buffers: &[Vec<u8>]) -> Vec<Vec<u8>> {
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
