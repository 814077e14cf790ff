//! Targets: what they are made of, and what becomes of kernels where one lacks something.

use super::kernels::{halves, interpret, product};
use super::*;
use crate::codegen::nvptx::compile_for;
use crate::codegen::nvptx::dot::{DotCode, DotPlan, DotStrategy, mma_sync, multiply_adds};
use crate::codegen::nvptx::emit::{Emitted, Emitter};
use crate::codegen::nvptx::target::Target;
use crate::ir::{Inst, parse};
use crate::layout::LinearLayout;
use crate::pass::layout_assign::DotSite;
use crate::target::Gpu;

fn on(target: &Target, text: &str, buffers: &[Vec<u8>], tolerance: f64) -> NvptxArtifact {
    let func = parse("test.tile", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let artifact = compile_for(&func, target, &NvptxOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let want = interpret(&func, [1, 1, 1], buffers);
    let got = run(&artifact, [1, 1, 1], buffers, Config::default());
    for ((want, got), param) in want.iter().zip(&got).zip(&func.params) {
        let (dtype, size) = (param.ty.dtype(), param.ty.dtype().bytes().unwrap() as usize);
        for (at, (a, b)) in want.chunks(size).zip(got.chunks(size)).enumerate() {
            assert!(close(dtype, a, b, tolerance), "{}: element {at}\n{}", param.name, artifact.ptx);
        }
    }
    artifact
}

/// Lines that make `%name`, offsets of a tile of rows that lie `stride` apart.
fn grid(name: &str, rows: u32, columns: u32, stride: u32) -> String {
    format!(
        "  %{name}r = iota : tile<{rows}xi32>
  %{name}s = constant {stride} : tile<{rows}xi32>
  %{name}m = mul %{name}r, %{name}s : tile<{rows}xi32>
  %{name}e = expand_dims %{name}m axis 1 : tile<{rows}x1xi32>
  %{name}b = broadcast %{name}e : tile<{rows}x{columns}xi32>
  %{name}c = iota : tile<{columns}xi32>
  %{name}f = expand_dims %{name}c axis 0 : tile<1x{columns}xi32>
  %{name}d = broadcast %{name}f : tile<{rows}x{columns}xi32>
  %{name} = add %{name}b, %{name}d : tile<{rows}x{columns}xi32>
"
    )
}

/// `o = a b`, with sums of type `sum`.
fn dot(types: [&str; 2], sum: &str, [m, n, k]: [u32; 3]) -> String {
    let [a, b] = types;
    let zero = if sum.starts_with('f') { "0.0" } else { "0" };
    format!(
        "kernel @dot(%pa a: ptr<{a}> read, %pb b: ptr<{b}> read, %po o: ptr<{sum}> write) num_warps 2 {{
{}{}{}  %a = load %pa[%at_a] : tile<{m}x{k}x{a}>
  %b = load %pb[%at_b] : tile<{k}x{n}x{b}>
  %z = constant {zero} : tile<{m}x{n}x{sum}>
  %c = dot %a, %b, %z : tile<{m}x{n}x{sum}>
  store %po[%at_o], %c
  return
}}",
        grid("at_a", m, k, k),
        grid("at_b", k, n, n),
        grid("at_o", m, n, n),
    )
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 37 + 11) as u8).collect()
}

#[test]
fn without_tensor_cores_dots_are_multiply_adds_with_a_note() {
    let target = Target { gpu: NvptxTarget::Sm80.gpu(), dots: &[&multiply_adds::MultiplyAdds] };
    let extents = [16, 8, 24];
    let (a, b) = (halves(16 * 24, 1), halves(24 * 8, 2));
    for (types, sum, buffers, tolerance) in [
        (["f16", "f16"], "f32", [a, b, vec![0; 512]], 1e-5),
        (["i8", "u8"], "i32", [bytes(16 * 24), bytes(24 * 8), vec![0; 512]], 0.0),
        (["u8", "i8"], "i32", [bytes(16 * 24), bytes(24 * 8), vec![0; 512]], 0.0),
    ] {
        let text = dot(types, sum, extents);
        let artifact = on(&target, &text, &buffers, tolerance);
        let note =
            format!("multiply-adds, since no tensor-core instruction of this target takes {}", types[0]);
        assert!(artifact.notes.iter().any(|n| n.ends_with(&note)), "{:?}", artifact.notes);
        assert!(!artifact.ptx.contains("mma"), "{}", artifact.ptx);
        let artifact = on(&NvptxTarget::Sm80.into(), &text, &buffers, tolerance);
        assert!(artifact.ptx.contains("mma.sync.aligned.m16n8k"), "{}", artifact.ptx);
    }
}

/// A made-up way: every thread holds all of both operands and computes all of the product.
struct Everywhere;

impl DotStrategy for Everywhere {
    fn plan(&self, site: &DotSite<'_>) -> Option<DotPlan> {
        if site.types() != [Dtype::F16; 2] || site.extents().iter().product::<u32>() > 128 {
            return None;
        }
        let layouts = site.dims().map(|dims| LinearLayout::replicated(&dims, site.warp_bits as usize));
        Some(DotPlan { layouts: Some(layouts), code: Box::new(Everywhere) })
    }
}

impl DotCode for Everywhere {
    fn note(&self) -> String {
        "everything everywhere".to_owned()
    }

    fn emit(&self, emitter: &mut Emitter<'_, '_>, inst: Inst) -> Emitted {
        let data = emitter.func.inst(inst);
        let [a, b, acc] = [0, 1, 2].map(|i| data.operands[i]);
        let of = |emitter: &Emitter<'_, '_>, value, row: u32, column: u32| {
            let flat = emitter.layout(value).flat(&[row, column]);
            (0..emitter.layout(value).register_count())
                .find(|&r| emitter.layout(value).at(r as u32, 0, 0) == flat)
        };
        let k = emitter.func.ty(a).shape().expect("an operand is a tile")[1];
        let mut sums = emitter.registers(acc).to_vec();
        for (r, sum) in sums.iter_mut().enumerate() {
            let at = emitter.layout(acc).coordinates(emitter.layout(acc).at(r as u32, 0, 0));
            for i in 0..k {
                let x = emitter.registers(a)[of(emitter, a, at[0], i).expect("each thread has all")];
                let y = emitter.registers(b)[of(emitter, b, i, at[1]).expect("each thread has all")];
                let wide = [x, y].map(|v| emitter.cast_one(Dtype::F16, Dtype::F32, v));
                let [x, y] = wide;
                *sum = emitter.fma(Dtype::F32, x?, y?, *sum)?;
            }
        }
        emitter.set_registers(data.results[0], sums);
        Ok(())
    }
}

#[test]
fn a_way_to_do_dots_is_its_file_and_an_entry_of_a_targets_list() {
    let target = Target { gpu: NvptxTarget::Sm80.gpu(), dots: &[&Everywhere, &mma_sync::HALVES] };
    let text = dot(["f16", "f16"], "f32", [4, 4, 8]);
    let small = on(&target, &text, &[halves(32, 1), halves(32, 2), vec![0; 64]], 1e-5);
    assert!(small.notes.iter().any(|n| n.ends_with("everything everywhere")), "{:?}", small.notes);
    assert!(!small.ptx.contains("mma"), "{}", small.ptx);
    // What it does not take, the next one does.
    let text = dot(["f16", "f16"], "f32", [16, 8, 16]);
    let large = on(&target, &text, &[halves(256, 1), halves(128, 2), vec![0; 512]], 1e-5);
    assert!(large.notes.iter().any(|n| n.ends_with("mma.sync m16n8k16")), "{:?}", large.notes);
}

#[test]
fn instructions_that_a_gpu_lacks_are_not_used() {
    let buffers = [halves(64 * 160, 1), halves(64 * 160, 2), vec![0; 64 * 64 * 4]];
    let text = product(5, 3, 3);
    let with = |gpu: Gpu| on(&Target { gpu, ..NvptxTarget::Sm80.into() }, &text, &buffers, 1e-4);
    let whole = NvptxTarget::Sm80.gpu();
    let slow = with(Gpu { matrix_loads: false, ..whole.clone() });
    assert!(slow.ptx.contains("cp.async.cg") && !slow.ptx.contains("ldmatrix"), "{}", slow.ptx);
    let direct = with(Gpu { async_copies: false, ..whole.clone() });
    assert!(!direct.ptx.contains("cp.async"), "{}", direct.ptx);
    assert!(direct.notes[0].ends_with("sm_80 copies nothing on its own"), "{:?}", direct.notes);
    // Stages of 8 KB beside the 16 KB that are left for other uses.
    let cramped = with(Gpu { shared_bytes: 32 << 10, ..whole.clone() });
    assert!(cramped.notes[0].ends_with("over 2 stages of 8192 bytes"), "{:?}", cramped.notes);
    // What fits without asking is declared, what does not is asked for.
    assert_eq!((cramped.static_shared_bytes, cramped.dynamic_shared_bytes), (16 << 10, 0));
    let asking = with(Gpu { static_shared_bytes: 8 << 10, ..whole });
    assert_eq!((asking.static_shared_bytes, asking.dynamic_shared_bytes), (0, 24 << 10));
}

/// `(q k) v` with 16 rows, 64 columns and 128 columns: attention without its softmax, over 8-bit keys and 4-bit values.
#[test]
fn quantised_operands_are_loaded_into_fragments_without_shared_memory() {
    let text = format!(
        "kernel @k(%pq q: ptr<f16> read multiple_of 16, %pk k: ptr<u8> read multiple_of 16, %pv v: ptr<u8> read multiple_of 16, %po o: ptr<f32> write multiple_of 16) num_warps 1 {{
{}{}{}{}  %q = load %pq[%at_q] : tile<16x128xf16>
  %kb = load %pk[%at_k] : tile<64x128xu8>
  %kh = cast %kb : tile<64x128xf16>
  %kt = transpose %kh perm [1, 0] : tile<128x64xf16>
  %z = constant 0.0 : tile<16x64xf32>
  %s = dot %q, %kt, %z : tile<16x64xf32>
  %p = cast %s : tile<16x64xf16>
  %vb = load %pv[%at_v] : tile<64x64xu8>
  %vc = unpack %vb : tile<64x128xcode4>
  %vh = cast %vc : tile<64x128xf16>
  %y = constant 0.0 : tile<16x128xf32>
  %o = dot %p, %vh, %y : tile<16x128xf32>
  store %po[%at_o], %o
  return
}}",
        grid("at_q", 16, 128, 128),
        grid("at_k", 64, 128, 128),
        grid("at_v", 64, 64, 64),
        grid("at_o", 16, 128, 128),
    );
    let func = parse("test.tile", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let artifact = compile(&func, &NvptxTarget::Sm80, &NvptxOptions::default()).unwrap();
    assert_eq!(artifact.notes[2], "layout conversions: 0 by shuffles, 0 through shared memory");
    assert!(!artifact.ptx.contains("shared"), "{}", artifact.ptx);
    // Queries in fragment order, keys and values in whole words: 4, 16 and 8 KB by 32 lanes.
    let count = |form: &str| artifact.ptx.matches(form).count();
    assert_eq!(count("ld.global.nc.v4.b32"), (4096 + 8192) / 512, "{}", artifact.ptx);
    assert_eq!(count("ld.global.nc.v2.b32"), 4096 / 256, "{}", artifact.ptx);
    assert_eq!(count("ld.global"), 24 + 16, "{}", artifact.ptx);
}

#[test]
fn bfloat16_is_worked_on_as_such_where_the_gpu_does() {
    let text = "kernel @k(%px x: ptr<bf16> read, %py y: ptr<bf16> read, %po o: ptr<bf16> write) num_warps 1 {
  %i = iota : tile<64xi32>
  %x = load %px[%i] : tile<64xbf16>
  %y = load %py[%i] : tile<64xbf16>
  %p = mul %x, %y : tile<64xbf16>
  %d = sub %p, %x : tile<64xbf16>
  %b = cast %i : tile<64xbf16>
  %s = add %d, %b : tile<64xbf16>
  %lt = cmp lt %s, %y : tile<64xi1>
  %m = select %lt, %s, %d : tile<64xbf16>
  store %po[%i], %m
  return
}";
    // All exponents, subnormal numbers and infinities among them.
    let numbers =
        |step: u16| (0..64u16).flat_map(|i| (i.wrapping_mul(step) ^ 0x3f80).to_le_bytes()).collect();
    let buffers = [numbers(1021), numbers(2053), vec![0; 128]];
    let native = on(&NvptxTarget::Sm90.into(), text, &buffers, 0.0);
    for form in ["mul.rn.bf16x2", "sub.rn.bf16x2", "add.rn.bf16x2", "setp.lt.bf16", "cvt.rn.bf16.u32"] {
        assert!(native.ptx.contains(form), "no {form} in {}", native.ptx);
    }
    assert!(!native.ptx.contains("f32"), "{}", native.ptx);
    let wide = on(&NvptxTarget::Sm80.into(), text, &buffers, 0.0);
    let instructions = |artifact: &NvptxArtifact| artifact.ptx.matches(";\n").count();
    assert!(instructions(&native) < instructions(&wide), "{}\n{}", native.ptx, wide.ptx);
}

#[test]
fn singles_are_worked_on_in_pairs_where_that_is_one_instruction() {
    let text = "kernel @k(%px x: ptr<f32> read, %py y: ptr<f32> read, %po o: ptr<f32> write) num_warps 1 {
  %i = iota : tile<64xi32>
  %x = load %px[%i] : tile<64xf32>
  %y = load %py[%i] : tile<64xf32>
  %p = mul %x, %y : tile<64xf32>
  %d = sub %p, %x : tile<64xf32>
  %s = add %d, %y : tile<64xf32>
  %f = fma %s, %x, %y : tile<64xf32>
  store %po[%i], %f
  return
}";
    let numbers =
        |step: u32| (0..64u32).flat_map(|i| (i.wrapping_mul(step) ^ 0x3f80_0000).to_le_bytes()).collect();
    let buffers = [numbers(0x0101_1111), numbers(0x0203_0507), vec![0; 256]];
    let pairs = on(&NvptxTarget::Sm100.into(), text, &buffers, 0.0);
    for form in ["mul.rn.f32x2", "sub.rn.f32x2", "add.rn.f32x2", "fma.rn.f32x2"] {
        assert!(pairs.ptx.contains(form), "no {form} in {}", pairs.ptx);
    }
    for name in NvptxTarget::ALL.into_iter().filter(|name| *name != NvptxTarget::Sm100) {
        assert!(!on(&name.into(), text, &buffers, 0.0).ptx.contains("f32x2"), "{name}");
    }
}
