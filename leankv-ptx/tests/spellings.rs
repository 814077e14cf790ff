//! Every opcode spelling that real producers were seen to write is decoded, printed and executed.
//!
//! The lists are histograms of PTX that was at hand when the machine was planned: eleven C kernels through LLVM 19 for sm_80, eight
//! Triton 3.9 kernels for sm_80 and sm_90a, feature probes through LLVM 22 and CUDA C++ front ends; and what those samples lacked.
//! Values are the conformance tests' business: here an instruction must run without a fault.

use leankv_ptx::{Arg, Ast, Config, LaunchConfig, Machine, Module};

/// Operands, and the spellings that take them. `%h` are 16 bits wide, `%r` 32, `%l` 64, `%p` predicates; `%g` points to global memory,
/// `%s` into shared memory. Registers numbered 1 to 4 are written, the others are read.
const FORMS: &[(&str, &str)] = &[
    ("", "ret exit trap nanosleep.u32"),
    ("%r1, %r5", "
        abs.f32 cvt.rn.f32.s32 cvt.rni.f32.f32 cvt.rzi.s32.f32 cvt.s8.s32 ex2.approx.ftz.f32 ex2.approx.f32 mov.b32 mov.u32 mov.f32
        neg.f32 neg.s32 rcp.approx.f32 rsqrt.approx.ftz.f32 sin.approx.f32 cos.approx.f32 lg2.approx.f32 tanh.approx.f32
        sqrt.approx.f32 sqrt.rn.f32 popc.b32 clz.b32 brev.b32 bfind.u32 bfind.s32 bfind.shiftamt.u32"),
    ("%r1, %r5, %r6", "
        add.f32 add.s32 add.rn.f16x2 add.rn.ftz.f32 and.b32 cvt.rn.bf16x2.f32 cvt.rn.f16x2.f32 div.approx.f32 div.full.f32 div.s32
        max.f32 max.s32 max.u32 max.ftz.f32 min.s32 min.u32 mul.f32 mul.lo.s32 mul.f16x2 mul.rn.ftz.f32 mul.hi.s32 mul.hi.u32 or.b32
        rem.s32 rem.u32 shl.b32 shr.s32 shr.u32 sub.f32 sub.s32 sub.ftz.f32 sub.rn.ftz.f32 xor.b32 add.cc.u32 addc.u32 addc.cc.u32
        sub.cc.u32 subc.u32 set.lt.u32.s32 set.gt.f32.f32"),
    ("%r1, %r5, %r6, %r7", "
        bfe.s32 bfe.u32 dp4a.s32.s32 dp2a.lo.s32.u32 fma.rn.f32 fma.rn.ftz.f32 fma.rn.f16x2 fma.rn.bf16x2 mad.lo.s32 mad.hi.u32
        madc.hi.u32 mad.lo.cc.u32 prmt.b32 fns.b32 slct.s32.s32 slct.f32.f32 shf.l.wrap.b32 shf.r.clamp.b32 sad.u32"),
    ("%r1, %r5, %r6, %r7, 0xca", "lop3.b32"),
    ("%r1, %r5, %r6, %r7, %r8", "bfi.b32"),
    ("%r1, %r5, %r6, %p5", "selp.f32 selp.b32"),
    ("%h1, %h5, %h6, %p5", "selp.b16"),
    ("%h1, %h5", "mov.b16 mov.u16"),
    ("%h1, %h5, %h6", "add.s16 and.b16 mul.f16 or.b16 add.rn.f16 add.rn.bf16"),
    ("%h1, %h5, %h6, %h7", "fma.rn.f16 fma.rn.bf16"),
    ("%h1, %h5, %r6", "shl.b16 shr.u16"),
    ("%h1, %r5", "cvt.rn.f16.f32 cvt.rn.bf16.f32 cvt.rn.f16.s32 cvt.u16.u32"),
    ("%r1, %h5", "cvt.f32.f16 cvt.rn.f32.s16 cvt.f32.bf16 cvt.u32.u16"),
    ("%l1, %r5", "cvt.s64.s32 cvt.u64.u32 cvt.f64.f32 cvt.rn.f64.s32"),
    ("%r1, %l5", "cvt.u32.u64 cvt.rn.f32.f64 cvt.rzi.s32.f64 popc.b64 clz.b64 bfind.u64"),
    ("%l1, %l5", "mov.u64 mov.b64 mov.f64 neg.f64 abs.f64 sqrt.rn.f64 rcp.rn.f64 brev.b64"),
    ("%l1, %l5, %l6", "
        add.s64 and.b64 mul.lo.s64 or.b64 xor.b64 add.rn.f64 mul.rn.f64 div.rn.f64 max.f64 min.f64 rem.u64 mul.hi.u64 div.s64
        sub.rn.f64 add.rn.f32x2"),
    ("%l1, %l5, %l6, %l7", "fma.rn.f64 mad.lo.s64 fma.rn.f32x2"),
    ("%l1, %l5, %r6", "shl.b64 shr.u64 shr.s64"),
    ("%l1, %r5, %r6", "mul.wide.s32 mul.wide.u32"),
    ("%l1, %r5, %r6, %l7", "mad.wide.s32 mad.wide.u32"),
    ("%p1, %p5", "mov.pred not.pred"),
    ("%p1, %p5, %p6", "or.pred and.pred xor.pred"),
    ("%p1, %r5, %r6", "
        setp.gt.s32 setp.lt.s32 setp.lt.u32 setp.eq.s32 setp.ge.s32 setp.ge.u32 setp.gt.f32 setp.gt.u32 setp.ne.s32 setp.eq.b32
        setp.eq.f32 setp.lt.f32 setp.ne.b32 setp.nan.f32 setp.num.f32 setp.ltu.f32"),
    ("%p1|%p2, %r5, %r6, %p5", "setp.lt.and.s32 setp.ge.or.f32"),
    ("%p1, %l5, %l6", "setp.le.s64 setp.lt.s64 setp.lt.u64 setp.lt.f64"),
    // Memory.
    ("%r1, [%g]", "
        ld.global.f32 ld.global.u32 ld.global.b32 ld.acquire.gpu.global.b32 ld.relaxed.gpu.global.b32 ld.volatile.global.u32
        ld.global.nc.b32 ld.global.L1::no_allocate.L2::128B.b32 ld.global.u8 ld.global.b8 ld.global.u16 ld.u32 ld.global.cg.u32"),
    ("%h1, [%g]", "ld.global.b16 ld.global.nc.b16 ld.global.nc.u16 ld.global.s8"),
    ("%l1, [%g]", "ld.global.b64 ld.global.f64"),
    ("{%r1, %r2}, [%g]", "ld.global.v2.f32 ld.global.v2.b32"),
    ("{%r1, %r2, %r3, %r4}, [%g]", "ld.global.v4.b32 ld.global.v4.u32 ld.global.nc.v4.b32 ld.global.v4.f32"),
    ("{%l1, %l2, %l3, %l4}, [%g]", "ld.global.v4.b64"),
    ("%r1, [p32]", "ld.param.f32 ld.param.u32 ld.param.b32 ld.param.s32"),
    ("%h1, [p16]", "ld.param.b16"),
    ("%l1, [pg]", "ld.param.u64 ld.param.b64"),
    ("{%r1, %r2}, [pg]", "ld.param.v2.b32"),
    ("%r1, [%s]", "ld.shared.f32 ld.shared.u32 ld.shared.b32"),
    ("{%r1, %r2}, [%s]", "ld.shared.v2.b32"),
    ("{%r1, %r2, %r3, %r4}, [%s]", "ld.shared.v4.b32"),
    ("%r1, [local]", "ld.local.u32"),
    ("%r1, [constant]", "ld.const.u32"),
    ("[%g], %r5", "st.global.f32 st.global.u32 st.global.b32 st.release.gpu.global.b32 st.volatile.global.u32 st.relaxed.gpu.global.b32"),
    ("[%g], %h5", "st.global.b16 st.global.u8"),
    ("[%g], %l5", "st.global.b64"),
    ("[%g], {%r5, %r6, %r7, %r8}", "st.global.v4.b32 st.global.v4.f32"),
    ("[%g], {%l5, %l6, %l7, %l8}", "st.global.v4.b64"),
    ("[%s], %r5", "st.shared.f32 st.shared.u32 st.shared.b32 st.shared::cta.b32"),
    ("[%s], %h5", "st.shared.b16 st.shared.u16"),
    ("[%s], {%r5, %r6}", "st.shared.v2.b32"),
    ("[%s], {%r5, %r6, %r7, %r8}", "st.shared.v4.b32"),
    ("[%s], {%h5, %h6, %h7, %h8}", "st.shared.v4.b16"),
    ("[local], %r5", "st.local.u32"),
    ("%r1, [%g], %r5", "
        atom.global.add.f32 atom.global.add.u32 atom.global.acq_rel.gpu.add.u32 atom.global.gpu.acq_rel.add.f32
        atom.global.gpu.acq_rel.exch.b32 atom.global.min.s32 atom.global.and.b32 atom.global.inc.u32 atom.add.u32"),
    ("%r1, [%g], %r5, %r6", "atom.global.acq_rel.gpu.cas.b32 atom.relaxed.sys.global.cas.b32"),
    ("%l1, [%g], %l5, %l6", "atom.global.cas.b64"),
    ("%h1, [%g], %h5", "atom.global.add.noftz.f16"),
    ("{%r1, %r2, %r3, %r4}, [%g], {%r5, %r6, %r7, %r8}", "atom.global.add.v4.f32 atom.global.v4.f32.add"),
    ("%r1, [%s], %r5", "atom.shared.add.u32 atom.shared.max.u32"),
    ("[%g], %r5", "red.global.add.u32 red.global.add.f32 red.relaxed.gpu.global.add.u32 red.global.add.noftz.f16x2"),
    ("", "membar.gl membar.cta membar.sys fence.acq_rel.gpu fence.sc.cta fence.proxy.async.shared::cta"),
    ("[%s], [%g], 16", "cp.async.cg.shared.global cp.async.ca.shared.global"),
    ("", "cp.async.commit_group cp.async.wait_all"),
    ("0", "cp.async.wait_group"),
    ("{%r1, %r2, %r3, %r4}, [%s]", "
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"),
    ("{%r1, %r2}, [%s]", "ldmatrix.sync.aligned.m8n8.x2.shared.b16"),
    ("[%s], {%r5, %r6, %r7, %r8}", "stmatrix.sync.aligned.m8n8.x4.shared.b16"),
    ("%l1, %l5", "cvta.shared.u64"),
    ("%l1, %g", "cvta.to.global.u64 cvta.global.u64"),
    ("%p1, %g", "isspacep.global isspacep.shared"),
    // Warps and blocks.
    ("0", "bar.sync barrier.sync barrier.sync.aligned"),
    ("0, 32", "bar.sync barrier.sync"),
    ("1, 64", "bar.arrive"),
    ("%r1, 0, %p5", "bar.red.popc.u32"),
    ("%p1, 0, %p5", "bar.red.and.pred bar.red.or.pred"),
    ("-1", "bar.warp.sync"),
    ("%r1, %r5, 1, 31, -1", "shfl.sync.bfly.b32 shfl.sync.idx.b32 shfl.sync.down.b32"),
    ("%r1|%p1, %r5, 1, 0, -1", "shfl.sync.up.b32"),
    ("%r1, %p5, -1", "vote.sync.ballot.b32"),
    ("%p1, %p5, -1", "vote.sync.any.pred vote.sync.all.pred vote.sync.uni.pred"),
    ("%r1, %r5, -1", "
        redux.sync.add.s32 redux.sync.min.u32 redux.sync.or.b32 redux.sync.max.f32 match.any.sync.b32"),
    ("%r1|%p1, %r5, -1", "match.all.sync.b32"),
    ("%r1|%p1, -1", "elect.sync"),
    ("%r1", "activemask.b32"),
    ("", "griddepcontrol.wait griddepcontrol.launch_dependents"),
    ("24", "setmaxnreg.inc.sync.aligned.u32"),
    // Matrices.
    ("{%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r5, %r6}, {%r5, %r6, %r7, %r8}", "
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
        mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32
        mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32
        mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
    ("{%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r5}, {%r5, %r6, %r7, %r8}", "
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32"),
];

/// Statements that need more than one line, or that jump.
const STATEMENTS: &[(&str, &str)] = &[
    ("bra", "bra A;\nA:"),
    ("bra.uni", "bra.uni A;\nA:"),
    ("brx.idx", "mov.u32 %r1, 1;\nT: .branchtargets A, B;\nbrx.idx %r1, T;\nA:\nB:"),
    ("call", "{ .param .b32 a;\n.param .b32 b;\nst.param.b32 [a], %r5;\ncall.uni (b), callee, (a);\nld.param.b32 %r1, [b]; }"),
    ("mov.b64 pack", "mov.b64 %l1, {%r5, %r6};\nmov.b64 {%r1, %r2}, %l5;\nmov.b32 %r3, {%h5, %h6};"),
    ("mbarrier", "
        { .reg .b64 %state;\n.reg .pred %done;\nmbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.shared.b64 %state, [bar];\n
        mbarrier.test_wait.shared.b64 %done, [bar], %state;\nmbarrier.try_wait.shared.b64 %done, [bar], %state; }"),
    ("wmma", "
        { .reg .b32 %a<8>, %b<8>;\n.reg .f32 %c<8>;\n
        wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%a0, %a1, %a2, %a3, %a4, %a5, %a6, %a7}, [%g], %r9;\n
        wmma.load.b.sync.aligned.col.m16n16k16.global.f16 {%b0, %b1, %b2, %b3, %b4, %b5, %b6, %b7}, [%g], %r9;\n
        wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7}, [%g], %r9;\n
        wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7},
            {%a0, %a1, %a2, %a3, %a4, %a5, %a6, %a7}, {%b0, %b1, %b2, %b3, %b4, %b5, %b6, %b7},
            {%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7};\n
        wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%g], {%c0, %c1, %c2, %c3, %c4, %c5, %c6, %c7}, %r9; }"),
];

/// Not executed, and refused with these words when a module is loaded.
const REFUSED: &[&str] = &[
    "wgmma.fence.sync.aligned;",
    "wgmma.commit_group.sync.aligned;",
    "wgmma.wait_group.sync.aligned 0;",
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%s], [%g, {%r5, %r6}], [bar];",
];

fn kernel(body: &str) -> String {
    format!(
        ".version 8.8\n.target sm_100a\n.address_size 64\n.shared .align 128 .b8 tile[4096];\n.shared .align 8 .b64 bar;\n\
         .const .align 4 .b32 constant = 7;\n\
         .func (.param .b32 out) callee(.param .b32 in) {{\n.reg .b32 %x;\nld.param.b32 %x, [in];\nst.param.b32 [out], %x;\nret;\n}}\n\
         .visible .entry k(.param .u64 pg, .param .u32 p32, .param .u16 p16) {{\n.local .align 4 .b32 local;\n\
         .reg .b16 %h<10>;\n.reg .b32 %r<10>, %s, %at;\n.reg .b64 %l<10>, %g, %off;\n.reg .pred %p<10>;\n\
         ld.param.u64 %g, [pg];\nmov.u32 %s, tile;\nmov.u32 %at, %tid.x;\nshl.b32 %at, %at, 5;\nadd.u32 %s, %s, %at;\n\
         cvt.u64.u32 %off, %at;\nadd.s64 %g, %g, %off;\n\
         st.shared.v4.u32 [%s], {{0, 0, 0, 0}};\nst.shared.v4.u32 [%s+16], {{0, 0, 0, 0}};\nst.local.u32 [local], 0;\n{}{}{}{}\
         mov.u32 %r9, 16;\nbar.sync 0;\n{body}\nret;\n}}\n",
        (1..9).map(|i| format!("mov.b16 %h{i}, {i};\n")).collect::<String>(),
        (1..9).map(|i| format!("mov.b32 %r{i}, {i};\n")).collect::<String>(),
        (1..9).map(|i| format!("mov.b64 %l{i}, {i};\n")).collect::<String>(),
        (1..9).map(|i| format!("setp.ne.u32 %p{i}, %r1, 0;\n")).collect::<String>(),
    )
}

/// What is wrong with a statement, if anything.
fn trouble(body: &str) -> Option<String> {
    let module = match Module::parse(&kernel(body)) {
        Ok(module) => module,
        Err(error) => return Some(error.to_string()),
    };
    match Ast::parse(&module.ast().print()) {
        Ok(again) if again.same(module.ast()) => {}
        _ => return Some("what is printed is something else".to_owned()),
    }
    let mut machine = Machine::new(Config::default());
    let memory = machine.alloc(1 << 16, 256).expect("there is memory");
    machine.write(memory, &vec![0; 1 << 16]).expect("it lies there");
    let shape = LaunchConfig { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::U64(memory), Arg::U32(7), Arg::U16(7)];
    machine.launch(&module, "k", shape, &args).err().map(|fault| fault.to_string())
}

#[test]
fn every_spelling_of_real_producers_runs() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (operands, spellings) in FORMS {
        for spelling in spellings.split_whitespace() {
            count += 1;
            // These end a program or make a fault of it, so a lane that is not there runs them.
            let (guard, operands) = match spelling {
                "trap" => ("@!%p5 ", ""),
                "nanosleep.u32" => ("", "%r5"),
                _ => ("", *operands),
            };
            if let Some(why) = trouble(&format!("{guard}{spelling} {operands};")) {
                wrong.push(format!("{spelling} {operands}: {why}"));
            }
        }
    }
    for (name, body) in STATEMENTS {
        count += 1;
        if let Some(why) = trouble(body) {
            wrong.push(format!("{name}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 320, "{count} spellings");
}

#[test]
fn what_is_not_executed_is_refused_by_name_when_loaded() {
    for statement in REFUSED {
        let error =
            Module::parse(&kernel(statement)).err().unwrap_or_else(|| panic!("{statement} was taken"));
        let text = error.to_string();
        assert!(text.contains("not executed"), "{statement}: {text}");
    }
}
