//! The PTX of the shipped kernels: it assembles for every GPU, spills nothing, and uses the instructions that it should.

mod planted;
mod table;

use leankv_kernels::KERNELS;
use leankv_runtime::testing::{Limit, PtxMetrics, PtxSource, check_budget};
use leankv_runtime::{Sm, assert_ptx_budget, assert_ptx_snapshot};
use rayon::prelude::*;

use leankv_dsl::ir::Func;
use leankv_dsl::lang::Settings;

fn kernel(name: &str, settings: &[(&str, &str)]) -> Func {
    let settings: Settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let kernel = leankv_kernels::find(name).unwrap_or_else(|| panic!("there is no kernel `{name}`"));
    kernel.build(&settings).unwrap_or_else(|found| panic!("{found}"))
}

/// Compiles, reads with the PTX machine, which knows what the target has, and assembles; panics with all broken cases at once.
fn no_spills(cases: Vec<(Func, String)>) {
    let limits = [
        Limit { metric: "spills", relation: "==", bound: 0 },
        Limit { metric: "stack", relation: "==", bound: 0 },
        Limit { metric: "local", relation: "==", bound: 0 },
    ];
    let check = |func: &Func, sm: &str| {
        let ptx = func.ptx(sm)?;
        leankv_ptx::Module::parse(&ptx).map_err(|e| e.to_string())?;
        check_budget(&ptx, sm, &limits)
    };
    let broken: Vec<String> = cases
        .par_iter()
        .filter_map(|(func, sm)| {
            let found = check(func, sm).err()?;
            Some(format!("{} ({}): {found}", func.name, func.spec))
        })
        .collect();
    assert!(broken.is_empty(), "{} of {} cases:\n{}", broken.len(), cases.len(), broken.join("\n"));
}

#[test]
fn every_kernel_assembles_for_every_gpu_without_spills() {
    let mut cases = Vec::new();
    for kernel in KERNELS {
        for sm in Sm::ALL {
            let func = kernel.build(&Settings::new()).unwrap_or_else(|found| panic!("{found}"));
            cases.push((func, sm.to_string()));
        }
    }
    no_spills(cases);
}

#[test]
fn every_declared_specialisation_assembles_for_sm_80_without_spills() {
    let mut cases = Vec::new();
    for kernel in KERNELS {
        for settings in kernel.space() {
            let func = kernel.build(&settings).unwrap_or_else(|found| panic!("{found}"));
            cases.push((func, "sm_80".to_owned()));
        }
    }
    no_spills(cases);
}

#[test]
fn decode_attention_uses_tensor_cores_and_wide_loads_and_converts_codes_in_pairs() {
    for format in ["K8V4", "K4V4", "K4V2", "fp16"] {
        let func = kernel("decode_attention", &[("tiering", format), ("stages", "1")]);
        let ptx = func.ptx("sm_80").unwrap();
        let metrics = PtxMetrics::of(&ptx, "sm_80").unwrap();
        assert!(metrics.count("mma.sync.aligned.m16n8k16") > 0, "{format}: no tensor cores");
        let wide = metrics.count("ld.global.nc.v4")
            + metrics.count("ld.global.v4")
            + metrics.count("ld.global.nc.v2");
        assert!(wide > 0, "{format}: no vector loads");
        let converted = metrics.count("cvt.rn.f16.u") + metrics.count("cvt.rn.f16.s");
        assert_eq!(converted, 0, "{format}: codes are converted one by one");
    }
}

#[test]
fn views_of_any_extent_move_in_vectors() {
    let cases: [(&str, &[(&str, &str)], &str, &str); 4] = [
        ("vector_add", &[("block", "1024")], "ld.global.nc.v4.b32", "st.global.v4.b32"),
        ("vector_add", &[], "ld.global.nc.v2.b32", "st.global.v2.b32"),
        ("softmax", &[("block", "1024")], "ld.global.nc.v4.b32", "st.global.v4.b32"),
        ("quantize", &[("codec", "affine8")], "ld.global.nc.v4.b32", "st.global"),
    ];
    for (name, settings, load, store) in cases {
        let ptx = kernel(name, settings).ptx("sm_80").unwrap();
        let metrics = PtxMetrics::of(&ptx, "sm_80").unwrap();
        assert!(metrics.count(load) > 0, "{name} {settings:?}: no {load}");
        assert!(metrics.count(store) > 0, "{name} {settings:?}: no {store}");
    }
}

#[test]
fn budgets() {
    assert_ptx_budget!(kernel("vector_add", &[]), sm_90, regs <= 40, spills == 0, barriers == 0, calls == 0);
    assert_ptx_budget!(kernel("softmax", &[]), sm_90, regs <= 64, spills == 0);
    assert_ptx_budget!(kernel("matmul", &[]), sm_90, regs <= 168, spills == 0, mma >= 16);
    assert_ptx_budget!(kernel("decode_attention", &[]), sm_90, regs <= 255, spills == 0, mma >= 16);
    // Codes come 16 bytes at a time and become halves in pairs; what is converted one by one is scales and zero points. A turn of the loop is a page of two
    // tiles, for which one of a tile had 14 conversions and 8 barriers.
    let k8v4 = kernel("decode_attention", &[("tiering", "K8V4"), ("block", "16"), ("stages", "1")]);
    assert_ptx_budget!(
        k8v4,
        sm_80,
        local == 0,
        spills == 0,
        mma >= 16,
        wide_loads >= 4,
        wide_stores >= 1,
        conversions <= 52,
        loop_conversions <= 20,
        loop_barriers == 0,
        divisions <= 2
    );
    assert_ptx_budget!(
        kernel("matmul", &[("stages", "3")]),
        sm_80,
        copies_in_flight == 1,
        loop_barriers == 1,
        loop_loads == 0,
        loop_instructions <= 220
    );
    let in_caches = [("significance", "true"), ("candidates", "true"), ("stages", "1")];
    let decode = |group| kernel("decode_attention", &[in_caches.as_slice(), &[("group", group)]].concat());
    assert_ptx_budget!(decode("1"), sm_80, regs <= 255, spills == 0, mma >= 16);
    assert_ptx_budget!(decode("4"), sm_90, regs <= 255, spills == 0, mma >= 16);
    assert_ptx_budget!(decode("8"), sm_120, regs <= 255, spills == 0, mma >= 16);
    assert_ptx_budget!(kernel("plan_step", &[("shortlist", "true")]), sm_90, regs <= 255, spills == 0);
    assert_ptx_budget!(kernel("chunk_attention", &[]), sm_90, regs <= 255, spills == 0, mma >= 16);
}

/// Whole texts are for kernels that a person can read in full; what the others must hold is in the tables and in `filetests/ptx`.
#[test]
fn snapshots_of_small_kernels() {
    assert_ptx_snapshot!("llvm22.vector_add", kernel("vector_add", &[]), sm_80);
    assert_ptx_snapshot!("llvm22.softmax", kernel("softmax", &[]), sm_80);
    assert_ptx_snapshot!("llvm22.dequantize_affine4", kernel("dequantize", &[]), sm_80);
}
