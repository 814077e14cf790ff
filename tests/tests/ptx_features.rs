//! The PTX machine's table of features against ptxas: what is taken for which target and version, and what is refused.

use std::collections::BTreeSet;

use leankv_ptx::{Ast, Module, feature};
use leankv_runtime::tools::{Ptxas, ToolError};

/// Operands, and opcodes that take them, for each row of the table. `%h` are 16 bits wide, `%r` 32, `%l` 64, `%p` predicates; `%g`
/// points to global memory, `%s` into shared memory.
const FORMS: &[(&str, &str)] = &[
    ("[%s], %r5", "st.shared::cta.b32"),
    (
        "%p1, [bar], %l5",
        "
        mbarrier.test_wait.shared::cta.b64 mbarrier.try_wait.acquire.cluster.shared::cta.b64
        mbarrier.try_wait.shared.b64 mbarrier.try_wait.relaxed.cta.shared.b64
        mbarrier.test_wait.acquire.cta.shared::cta.b64 mbarrier.test_wait.relaxed.cta.shared.b64",
    ),
    (
        "{%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8}, [%s], %r9",
        "
        wmma.load.a.sync.aligned.row.m16n16k16.shared::cta.f16",
    ),
    (
        "%r1, %r5, %r6",
        "
        mapa.shared::cluster.u32 mapa.u32 add.u16x2 min.u16x2 min.relu.s16x2 max.relu.s32 bmsk.clamp.b32
        szext.clamp.s32 szext.wrap.u32 min.f16x2 max.xorsign.abs.bf16x2 max.xorsign.abs.f32
        set.lt.u32.bf16x2 set.lt.u32.f16x2 cvt.pack.sat.u16.s32 cvt.rn.bf16x2.f32 cvt.rn.satfinite.f16x2.f32
        cvt.rn.satfinite.bf16x2.f32 add.s32 set.lt.f16x2.f16x2",
    ),
    (
        "",
        "
        fence.proxy.async.shared::cluster barrier.cluster.arrive fence.acquire.cluster fence.acquire.gpu
        fence.release.sync_restrict::shared::cta.cluster fence.mbarrier_init.release.cluster
        fence.proxy.tensormap::generic.release.gpu fence.proxy.alias membar.proxy.alias
        fence.proxy.async.shared::cta fence.proxy.async.global barrier.cluster.arrive.release
        barrier.cluster.arrive.release.aligned barrier.cluster.wait.acquire.aligned griddepcontrol.wait
        griddepcontrol.launch_dependents",
    ),
    ("%l1, %l5", "cvta.to.shared::cluster.u64 cvta.param::entry.u64 cvta.param.u64 cvta.to.param.u64"),
    (
        "%r1, [%g]",
        "
        ld.relaxed.cluster.global.b32 ld.mmio.relaxed.sys.global.b32 ld.global.L1::no_allocate.L2::128B.b32
        ld.global.L1::evict_normal.b32 ld.global.L2::256B.b32",
    ),
    ("%r1, [p32]", "ld.param::entry.b32"),
    ("%p1, %g", "isspacep.param::entry isspacep.param"),
    ("%r1, [%g], %l5", "ld.global.L2::cache_hint.b32"),
    ("[%g], %r5, %l5", "st.global.L2::cache_hint.b32"),
    ("[%s], [%g], 16, %l5", "cp.async.cg.shared.global.L2::cache_hint"),
    (
        "[%g], %r5",
        "
        st.mmio.relaxed.sys.global.b32 st.global.L1::no_allocate.b32 red.global.add.noftz.bf16x2",
    ),
    ("{%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%g]", "ld.global.v8.b32 ld.global.nc.v8.f32"),
    ("[%g], {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}", "st.global.v8.f32"),
    ("{%l1, %l2, %l3, %l4}, [%g]", "ld.global.v4.b64 ld.global.v4.u64 ld.global.v4.f64"),
    (
        "[%g]",
        "
        prefetch.global.L2::evict_last prefetch.global.L2::evict_normal prefetch.tensormap
        prefetch.param.tensormap prefetch.const.tensormap",
    ),
    ("[%g], 128", "discard.global.L2"),
    ("%l1", "createpolicy.fractional.L2::evict_last.b64"),
    ("%l1, 1.0", "createpolicy.fractional.L2::evict_last.b64"),
    (
        "[%s], [%g], 16",
        "
        cp.async.cg.shared.global cp.async.cg.shared::cta.global cp.async.cg.shared.global.L2::128B
        cp.async.cg.shared.global.L2::64B cp.async.ca.shared.global.L2::256B",
    ),
    ("[%s]", "cp.async.mbarrier.arrive.shared::cta.b64 mbarrier.inval.shared.b64"),
    ("[%s], [%g], 16, %p5", "cp.async.cg.shared.global cp.async.ca.shared.global"),
    ("{%r1, %r2, %r3, %r4}, [%s]", "ldmatrix.sync.aligned.m8n8.x4.shared.b16"),
    ("{%r1}, [%s]", "ldmatrix.sync.aligned.m8n8.x1.shared.b16 ldmatrix.sync.aligned.m8n8.x1.b16"),
    ("[%s], {%r5, %r6, %r7, %r8}", "stmatrix.sync.aligned.m8n8.x4.shared.b16"),
    (
        "[%s], {%r5}",
        "
        stmatrix.sync.aligned.m8n8.x1.shared.b16 stmatrix.sync.aligned.m8n8.x1.trans.shared::cta.b16",
    ),
    (
        "%r1, %r5",
        "
        movmatrix.sync.aligned.m8n8.trans.b16 getctarank.shared::cluster.u32 neg.bf16x2 abs.f16x2
        ex2.approx.f16x2 tanh.approx.f32 tanh.approx.bf16x2 cvt.rn.relu.tf32.f32 cvt.rn.satfinite.tf32.f32
        cvt.rna.tf32.f32 cvt.rn.tf32.f32",
    ),
    ("[%g], {%h5, %h6, %h7, %h8}", "red.global.add.noftz.v4.bf16"),
    ("%h1, [%g], %h5", "atom.global.add.noftz.bf16"),
    ("[%g], {%r5, %r6}", "red.global.v2.f32.add"),
    ("{%h1, %h2}, [%g], {%h5, %h6}", "atom.global.min.noftz.v2.bf16"),
    ("0", "bar.cta.sync barrier.cta.sync.aligned"),
    ("%l1, [bar], %r5", "mbarrier.arrive.noComplete.shared.b64 mbarrier.arrive.expect_tx.shared.b64"),
    ("%p1, [bar], %r5, %r6", "mbarrier.try_wait.parity.shared.b64"),
    (
        "%p1, [bar], %r5",
        "
        mbarrier.test_wait.parity.shared.b64 mbarrier.test_wait.parity.acquire.cta.shared::cta.b64",
    ),
    (
        "_, [bar], 1",
        "
        mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 mbarrier.arrive.expect_tx.shared.b64
        mbarrier.arrive.shared::cluster.b64",
    ),
    (
        "[bar], 1",
        "
        mbarrier.expect_tx.relaxed.cta.shared::cta.b64
        mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64",
    ),
    ("_, [bar]", "mbarrier.arrive.release.cluster.shared::cluster.b64"),
    ("%l1, [bar]", "mbarrier.arrive.relaxed.cta.shared::cta.b64"),
    ("%r1|%p1, -1", "elect.sync"),
    ("24", "setmaxnreg.inc.sync.aligned.u32 setmaxnreg.dec.sync.aligned.u32"),
    ("%l1, %l5, %r6", "mapa.shared::cluster.u64"),
    (
        "%r1, %r5, -1",
        "
        redux.sync.add.s32 redux.sync.min.NaN.f32 redux.sync.max.s32 redux.sync.max.f32 redux.sync.min.f32",
    ),
    ("%r1|%p1, %r5, %r6, %r7, 0xca, %p5", "lop3.or.b32"),
    ("%r1, %h5, %r6", "add.f32.f16 add.rz.sat.f32.bf16 sub.rn.f32.f16 sub.f32.bf16"),
    ("%r1, %h5, %h6, %r7", "fma.rn.f32.f16 fma.rm.sat.f32.bf16"),
    ("%h1, %h5, %h6", "add.rn.bf16 add.bf16 sub.rn.bf16 max.xorsign.abs.bf16"),
    ("%l1, %l5, %l6", "add.rn.f32x2 mul.f32x2"),
    ("%l1, %l5, %l6, %l7", "fma.rn.ftz.f32x2"),
    (
        "%r1, %r5, %r6, %r7",
        "
        fma.rn.bf16x2 fma.rn.relu.bf16x2 min.f32 max.f32 cvt.pack.sat.u8.s32.b32 cvt.pack.sat.s4.s32.b32
        fma.rn.f32",
    ),
    ("%h1, %h5, %h6, %h7", "fma.rn.relu.bf16 fma.rn.oob.f16"),
    (
        "%h1, %h5",
        "
        neg.bf16 abs.bf16 abs.f16 ex2.approx.f16 tanh.approx.f16 tanh.approx.bf16 ex2.approx.ftz.bf16
        cvt.rn.f16.bf16",
    ),
    ("%h1, %r5, %r6", "set.lt.bf16.f32 cvt.rn.satfinite.e5m2x2.f32"),
    ("%p1|%p2, %r5, %r6", "setp.lt.bf16x2"),
    ("%r1, %h5, %h6", "set.lt.u32.f16"),
    (
        "%h1, %r5",
        "
        cvt.rn.relu.f16.f32 cvt.rn.satfinite.relu.e5m2x2.f16x2 cvt.rn.satfinite.bf16.f32 cvt.rn.f16.f32",
    ),
    ("%r1, %h5", "cvt.f32.bf16 cvt.rni.s32.bf16 cvt.rn.f16x2.e4m3x2"),
    ("%h1, %l5", "cvt.rn.bf16.f64"),
    (
        "{%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r5, %r6}, {%r5, %r6, %r7, %r8}",
        "
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
        mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32",
    ),
    (
        "{%r1, %r2}, {%r1, %r2, %r3, %r4}, {%r1, %r2}, {%r1, %r2}",
        "
        mma.sync.aligned.m16n8k32.row.col.f16.e5m2.e4m3.f16
        mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16",
    ),
    ("{%r1, %r2}, {%r1}, {%r1}, {%r1, %r2}", "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc"),
    (
        "{%r1, %r2, %r3, %r4}, {%r1, %r2}, {%r1}, {%r1, %r2, %r3, %r4}",
        "
        mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.xor.popc
        mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc
        mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e4m3.f32
        mma.sync.aligned.m16n8k16.row.col.f32.e5m2.e4m3.f32",
    ),
    (
        "{%r1, %r2, %r3, %r4}, {%r1, %r2, %r3, %r4}, {%r1, %r2}, {%r1, %r2, %r3, %r4}",
        "
        mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc",
    ),
    ("{%r1, %r2}, {%r1, %r2}, {%r1}, {%r1, %r2}", "mma.sync.aligned.m16n8k16.row.col.f16.e5m2.e4m3.f16"),
    (
        "{%l1, %l2, %l3, %l4}, {%l1, %l2}, {%l1}, {%l1, %l2, %l3, %l4}",
        "
        mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64",
    ),
    (
        "{%l1, %l2, %l3, %l4}, {%l1, %l2, %l3, %l4}, {%l1, %l2}, {%l1, %l2, %l3, %l4}",
        "
        mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64",
    ),
    (
        "{%l1, %l2, %l3, %l4}, {%l1, %l2, %l3, %l4, %l5, %l6, %l7, %l8}, {%l1, %l2, %l3, %l4}, {%l1, %l2, %l3, %l4}",
        "
        mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64",
    ),
    ("{%r1, %r2, %r3, %r4}, [%g], %r9", "wmma.load.a.sync.aligned.row.m16n16k16.global.bf16"),
    ("{%l1}, [%g], %r9", "wmma.load.a.sync.aligned.row.m8n8k4.global.f64"),
    (
        "{%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, {%r1, %r2, %r3, %r4}, {%r1, %r2, %r3, %r4}, {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}",
        "
        wmma.mma.sync.aligned.row.col.m16n16k8.f32.tf32.tf32.f32",
    ),
    ("%r1, %reserved_smem_offset_begin", "mov.u32"),
    ("%r1, %reserved_smem_offset_end", "mov.u32"),
    ("%r1, %reserved_smem_offset_cap", "mov.u32"),
    ("%r1, %clusterid.x", "mov.u32"),
    ("%r1, %nclusterid.x", "mov.u32"),
    ("%r1, %cluster_ctaid.x", "mov.u32"),
    ("%r1, %cluster_nctaid.y", "mov.u32"),
    ("%r1, %cluster_ctarank", "mov.u32"),
    ("%r1, %cluster_nctarank", "mov.u32"),
    ("%p1, %is_explicit_cluster", "mov.pred"),
    ("%l1, %current_graph_exec", "mov.u64"),
    ("%r1, %aggr_smem_size", "mov.u32"),
    ("%r1, %r5, 1, 31, -1", "shfl.sync.bfly.b32"),
    ("{%r1, %r2, %r3, %r4}, [%g]", "ld.global.v4.b32"),
    ("%r1, [%g], %r5", "atom.global.add.f32"),
    ("[%s], [%g], 4", "cp.async.ca.shared::cta.global"),
];

/// Versions and targets on both sides of what the table says.
const MODULES: &[(&str, &str)] = &[
    ("6.3", "sm_75"),
    ("6.5", "sm_75"),
    ("7.4", "sm_75"),
    ("8.3", "sm_75"),
    ("7.0", "sm_80"),
    ("7.1", "sm_80"),
    ("7.4", "sm_80"),
    ("7.8", "sm_80"),
    ("8.8", "sm_80"),
    ("7.2", "sm_86"),
    ("7.8", "sm_89"),
    ("8.1", "sm_89"),
    ("8.4", "sm_89"),
    ("8.7", "sm_89"),
    ("7.8", "sm_90"),
    ("8.0", "sm_90"),
    ("8.1", "sm_90"),
    ("8.6", "sm_90"),
    ("9.0", "sm_90"),
    ("8.0", "sm_90a"),
    ("8.6", "sm_100"),
    ("8.8", "sm_100"),
    ("8.6", "sm_100a"),
    ("8.8", "sm_100f"),
    ("8.8", "sm_103f"),
    ("8.7", "sm_120"),
    ("8.8", "sm_120a"),
];

fn statements() -> Vec<String> {
    let each = |(operands, opcodes): &(&str, &str)| -> Vec<String> {
        opcodes.split_whitespace().map(|opcode| format!("{opcode} {operands};")).collect()
    };
    FORMS.iter().flat_map(each).collect()
}

/// A kernel with these statements, each on a line of its own; and the number of the first of those lines.
fn module(version: &str, target: &str, statements: &[&str]) -> (String, usize) {
    let head = format!(
        ".version {version}\n.target {target}\n.address_size 64\n.shared .align 128 .b8 tile[4096];\n\
         .shared .align 8 .b64 bar;\n.visible .entry k(.param .u64 pg, .param .u32 p32) {{\n\
         .reg .b16 %h<10>;\n.reg .b32 %r<10>, %s;\n.reg .b64 %l<10>, %g;\n.reg .pred %p<10>;\n"
    );
    let first = head.lines().count() + 1;
    (format!("{head}{}\nret;\n}}\n", statements.join("\n")), first)
}

/// The statements that ptxas refuses: all at once, and again without them, since some errors end its reading.
fn refused_by_ptxas(ptxas: &Ptxas, version: &str, target: &str, all: &[String]) -> BTreeSet<String> {
    let mut left: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut refused = BTreeSet::new();
    loop {
        let (text, first) = module(version, target, &left);
        let log = match ptxas.assemble(&text, target) {
            Ok(_) => return refused,
            Err(ToolError::Refused { log, .. }) => log,
            Err(other) => panic!("{other}"),
        };
        let line = |message: &str| message.split_once(", line ")?.1.split_once(';')?.0.parse::<usize>().ok();
        let bad: BTreeSet<usize> = log.lines().filter_map(line).map(|line| line - first).collect();
        assert!(!bad.is_empty(), "{version} {target}: {log}");
        refused.extend(bad.iter().map(|&at| left[at].to_owned()));
        left = left.iter().enumerate().filter(|(at, _)| !bad.contains(at)).map(|(_, s)| *s).collect();
    }
}

#[test]
fn the_machine_takes_and_refuses_what_ptxas_does() {
    let ptxas = Ptxas::find().unwrap_or_else(|e| panic!("{e}"));
    let statements = statements();
    let mut differ = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    for (version, target) in MODULES {
        let by_ptxas = refused_by_ptxas(&ptxas, version, target, &statements);
        for statement in &statements {
            let (text, _) = module(version, target, &[statement]);
            let ast = Ast::parse(&text).unwrap_or_else(|e| panic!("{statement}: {e}"));
            match (feature::check(&ast), by_ptxas.contains(statement)) {
                (Ok(()), false) => taken += 1,
                (Err(_), true) => refused += 1,
                (Ok(()), true) => differ.push(format!("{version} {target}: {statement} is taken")),
                (Err(e), false) => differ.push(format!("{version} {target}: {statement} is refused: {e}")),
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(taken > 1500 && refused > 1500, "{taken} taken, {refused} refused");
}

#[test]
fn targets_begin_with_the_version_that_ptxas_begins_with() {
    let ptxas = Ptxas::find().unwrap_or_else(|e| panic!("{e}"));
    for target in
        ["sm_50", "sm_75", "sm_80", "sm_89", "sm_90a", "sm_100", "sm_100f", "sm_110", "sm_121a", "sm_x"]
    {
        for version in ["6.0", "7.0", "7.8", "7.9", "8.0", "8.6", "8.8", "9.0", "9.9"] {
            let (text, _) = module(version, target, &[]);
            let ours = feature::check(&Ast::parse(&text).unwrap_or_else(|e| panic!("{e}")));
            let theirs = ptxas.assemble(&text, target);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{version} {target}: {ours:?}, {theirs:?}");
        }
    }
}

#[test]
fn a_refusal_names_the_feature_what_it_needs_and_what_the_module_says() {
    for (version, target, statement, words) in [
        (
            "7.8",
            "sm_80",
            "add.bf16 %h1, %h5, %h6;",
            ["`add.bf16`", "`.target sm_90`", "`.version 7.8`", "`.target sm_80`"],
        ),
        (
            "7.8",
            "sm_89",
            "cvt.rn.satfinite.e4m3x2.f32 %h1, %r5, %r6;",
            ["e4m3x2", "sm_90", "8.1", "`.target sm_89`"],
        ),
        (
            "8.6",
            "sm_90",
            "redux.sync.min.f32 %r1, %r5, -1;",
            ["`redux.sync.min.f32`", "sm_100a", "8.6", "`.target sm_90`"],
        ),
        (
            "8.0",
            "sm_90",
            "mov.u32 %r1, %aggr_smem_size;",
            ["`%aggr_smem_size`", "sm_90", "8.1", "`.version 8.0`"],
        ),
        (
            "8.0",
            "sm_90",
            "setmaxnreg.inc.sync.aligned.u32 96;",
            ["`setmaxnreg", "sm_90a", "8.0", "`.target sm_90`"],
        ),
        ("8.0", "sm_100", "", ["`.target sm_100`", "`.version 8.6`", "newer", "`.version 8.0`"]),
        ("9.9", "sm_80", "", ["`.version 9.9`", "not known", "8.0 to 8.8", "9.0 to 9.5"]),
        ("8.0", "sm_50", "", ["`.target sm_50`", "not known", "sm_75", "sm_90a"]),
    ] {
        let error = Module::parse(&module(version, target, &[statement]).0).err();
        let error = error.unwrap_or_else(|| panic!("{statement} was taken")).to_string();
        for word in words {
            assert!(error.contains(word), "{statement}: no {word} in {error}");
        }
    }
}
