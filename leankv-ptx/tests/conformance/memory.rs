//! Memory, atomics, control flow, calls, barriers and asynchronous copies.

use leankv_ptx::{Arg, Config, Divergence, LaunchConfig, LaunchReport, Machine, Module};

/// Runs a kernel with parameters `out` (n words) and `in` (given words); returns the output.
fn launch(
    config: Config,
    ptx: &str,
    block: u32,
    grid: u32,
    dynamic: u32,
    input: &[u32],
    n: usize,
) -> (Vec<u32>, LaunchReport) {
    let text = format!(".version 8.8\n.target sm_100\n.address_size 64\n{ptx}");
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let printed = leankv_ptx::Ast::parse(&module.ast().print()).unwrap();
    assert!(printed.same(module.ast()), "printing changed the tree");
    let mut m = Machine::new(config);
    let po = m.alloc((n * 4) as u64, 16).unwrap();
    let pi = m.alloc((input.len() * 4).max(4) as u64, 16).unwrap();
    m.write(po, &vec![0u8; n * 4]).unwrap();
    m.write(pi, &input.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let shape = LaunchConfig { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared_bytes: dynamic };
    let report =
        m.launch(&module, "k", shape, &[Arg::U64(po), Arg::U64(pi)]).unwrap_or_else(|e| panic!("{e}"));
    let mut out = vec![0u8; n * 4];
    m.read(po, &mut out).unwrap();
    (out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect(), report)
}

const HEAD: &str = ".visible .entry k(.param .u64 po, .param .u64 pi) {\n.reg .b32 %r<64>, %tid, %cta, %ntid;\n.reg .b16 %h<16>;\n.reg .b64 %rd<64>, %out, %in;\n.reg .pred %p<16>;\n.reg .f32 %f<8>;\n\
     ld.param.u64 %out, [po];\n ld.param.u64 %in, [pi];\n mov.u32 %tid, %tid.x;\n mov.u32 %cta, %ctaid.x;\n mov.u32 %ntid, %ntid.x;\n";

/// A kernel whose every thread stores `%r0` at its global index.
fn simple(config: Config, decl: &str, body: &str, block: u32, input: &[u32]) -> Vec<u32> {
    let ptx = format!(
        "{decl}{HEAD}{body}\n mad.lo.u32 %r60, %cta, %ntid, %tid;\n mad.wide.u32 %rd60, %r60, 4, %out;\n st.global.u32 [%rd60], %r0;\n ret;\n}}\n"
    );
    let (out, report) = launch(config, &ptx, block, 1, 0, input, block as usize);
    assert!(report.is_clean(), "{body}: {}", report.findings[0]);
    out
}

fn both(decl: &str, body: &str, block: u32, input: &[u32], want: impl Fn(u32) -> u32) {
    for (divergence, seed) in
        [(Divergence::Reconverge, 0), (Divergence::Reconverge, 4), (Divergence::Independent, 11)]
    {
        let out = simple(Config { divergence, seed, ..Config::default() }, decl, body, block, input);
        for (i, v) in out.iter().enumerate() {
            assert_eq!(*v, want(i as u32), "{divergence:?} seed {seed} thread {i}: {body}");
        }
    }
}

#[test]
fn narrow_loads_extend_by_their_type() {
    let input = [0x8180_ff7f, 0xdead_beef];
    for (ty, want) in [
        ("u8", 0x7f),
        ("s8", 0x7f),
        ("b8", 0x7f),
        ("u16", 0xff7f),
        ("s16", 0xffff_ff7f),
        ("b16", 0xff7f),
        ("u32", 0x8180_ff7f),
    ] {
        both("", &format!("ld.global.{ty} %r0, [%in];"), 32, &input, |_| want);
    }
    both("", "ld.global.s8 %r0, [%in+1];", 32, &input, |_| 0xffff_ffff);
    both("", "ld.global.s8 %h0, [%in+2];\n cvt.u32.u16 %r0, %h0;", 32, &input, |_| 0xff80);
    both(
        "",
        "ld.global.s32 %rd0, [%in];\n shr.u64 %rd0, %rd0, 32;\n cvt.u32.u64 %r0, %rd0;",
        32,
        &input,
        |_| 0xffff_ffff,
    );
    both(
        "",
        "ld.global.u32 %rd0, [%in];\n shr.u64 %rd0, %rd0, 32;\n cvt.u32.u64 %r0, %rd0;",
        32,
        &input,
        |_| 0,
    );
    both("", "ld.global.L1::no_allocate.L2::128B.b32 %r0, [%in+4];", 32, &input, |_| 0xdead_beef);
    both("", "ld.global.nc.b32 %r0, [%in+4];", 32, &input, |_| 0xdead_beef);
    both("", "ld.volatile.global.u32 %r0, [%in+4];", 32, &input, |_| 0xdead_beef);
    both("", "ld.acquire.gpu.global.b32 %r0, [%in+4];", 32, &input, |_| 0xdead_beef);
}

#[test]
fn vector_loads_and_stores() {
    let input: Vec<u32> = (0..64).map(|i| i * 3 + 1).collect();
    both("", "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%in+16];\n add.u32 %r0, %r1, %r4;", 32, &input, |_| {
        13 + 22
    });
    both("", "ld.global.v2.u32 {%r1, _}, [%in+8];\n mov.u32 %r0, %r1;", 32, &input, |_| 7);
    both(
        "",
        "ld.global.v2.b64 {%rd0, %rd1}, [%in];\n shr.u64 %rd1, %rd1, 32;\n cvt.u32.u64 %r0, %rd1;",
        32,
        &input,
        |_| 10,
    );
    both("", "ld.global.v4.b16 {%h0, %h1, %h2, %h3}, [%in+8];\n cvt.u32.u16 %r0, %h2;", 32, &input, |_| 10);
    both(
        "",
        "ld.global.v8.b32 {%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8}, [%in+32];\n mov.b32 %r0, %r8;",
        32,
        &input,
        |_| 46,
    );
    both(
        ".shared .align 16 .b8 s[1024];\n",
        "mov.u32 %r9, s;\n mad.lo.u32 %r9, %tid, 16, %r9;\n add.u32 %r1, %tid, 1;\n add.u32 %r2, %tid, 2;\n st.shared.v4.b32 [%r9], {%tid, %r1, %r2, %tid};\n \
         bar.sync 0;\n xor.b32 %r3, %tid, 31;\n mov.u32 %r9, s;\n mad.lo.u32 %r9, %r3, 16, %r9;\n ld.shared.v2.b32 {%r4, %r5}, [%r9+8];\n mov.u32 %r0, %r4;",
        32,
        &input,
        |t| (t ^ 31) + 2,
    );
    both(
        ".shared .align 8 .b8 s[256];\n",
        "mov.u32 %r9, s;\n cvt.u16.u32 %h0, %tid;\n mad.lo.u32 %r9, %tid, 8, %r9;\n st.shared.v4.b16 [%r9], {%h0, %h0, %h0, %h0};\n ld.shared.b64 %rd0, [%r9];\n shr.u64 %rd0, %rd0, 48;\n cvt.u32.u64 %r0, %rd0;",
        32,
        &[],
        |t| t,
    );
}

#[test]
fn generic_addresses_reach_every_space() {
    let decl = ".shared .align 4 .b8 s[128];\n.const .align 4 .b32 c[4] = {5, 6, 7, 8};\n.global .align 4 .u32 g[2] = {40, 41};\n";
    both(decl, "mov.u64 %rd0, c;\n cvta.const.u64 %rd0, %rd0;\n ld.u32 %r0, [%rd0+8];", 32, &[], |_| 7);
    both(decl, "ld.const.u32 %r0, [c+4];", 32, &[], |_| 6);
    both(decl, "ld.global.u32 %r0, [g+4];", 32, &[], |_| 41);
    both(decl, "mov.u64 %rd0, g+4;\n ld.global.u32 %r0, [%rd0];", 32, &[], |_| 41);
    both(
        decl,
        "mov.u64 %rd0, s;\n cvta.shared.u64 %rd0, %rd0;\n mad.wide.u32 %rd1, %tid, 4, %rd0;\n st.u32 [%rd1], %tid;\n cvta.to.shared.u64 %rd2, %rd1;\n ld.shared.u32 %r0, [%rd2];",
        32,
        &[],
        |t| t,
    );
    both(decl, "cvta.to.global.u64 %rd0, %in;\n ld.global.u32 %r0, [%rd0];", 32, &[99], |_| 99);
    both(
        decl,
        "mov.u64 %rd0, s;\n cvta.shared.u64 %rd0, %rd0;\n isspacep.shared %p0, %rd0;\n isspacep.global %p1, %rd0;\n isspacep.global %p2, %in;\n selp.u32 %r1, 1, 0, %p0;\n selp.u32 %r2, 2, 0, %p1;\n selp.u32 %r3, 4, 0, %p2;\n or.b32 %r0, %r1, %r2;\n or.b32 %r0, %r0, %r3;",
        32,
        &[],
        |_| 5,
    );
    // Lanes of one instruction in different spaces.
    both(
        decl,
        "mov.u64 %rd0, s;\n cvta.shared.u64 %rd0, %rd0;\n st.u32 [%rd0], 77;\n bar.sync 0;\n setp.lt.u32 %p0, %tid, 8;\n selp.b64 %rd1, %rd0, %in, %p0;\n ld.u32 %r0, [%rd1];",
        1,
        &[3],
        |_| 77,
    );
}

#[test]
fn initialisers_hold_addresses_and_rows() {
    let decl = ".global .align 8 .u32 tab[2][3] = {{1, 2}, {4, 5, 6}};\n.global .align 8 .u64 ptr[2] = {generic(tab), tab+8};\n.global .align 4 .f32 fs[2] = {0f3F800000, 2.5};\n.global .align 1 .b8 bytes[4] = {255, 1, 0x10, 7};\n";
    both(decl, "ld.global.u64 %rd0, [ptr+8];\n ld.global.u32 %r0, [%rd0];", 32, &[], |_| 0);
    both(decl, "ld.global.u64 %rd0, [ptr];\n ld.global.u32 %r0, [%rd0+12];", 32, &[], |_| 4);
    both(decl, "ld.global.f32 %f0, [fs+4];\n mov.b32 %r0, %f0;", 32, &[], |_| 2.5f32.to_bits());
    both(decl, "ld.global.b32 %r0, [bytes+0];", 32, &[], |_| 0x0710_01ff);
}

#[test]
fn an_access_without_a_space_takes_that_of_the_variable_it_names() {
    let decl = ".shared .align 4 .b32 s[32];\n.global .align 4 .u32 g[2] = {40, 41};\n";
    both(decl, "ld.u32 %r0, [g+4];", 32, &[], |_| 41);
    let body = ".local .align 4 .b32 l;\n setp.eq.u32 %p0, %tid, 0;\n @%p0 st.u32 [s+8], 5;\n bar.sync 0;\n st.u32 [l], %tid;\n ld.u32 %r1, [s+8];\n ld.u32 %r2, [l];\n add.u32 %r0, %r1, %r2;";
    both(decl, body, 32, &[], |t| t + 5);
    let body = "setp.eq.u32 %p0, %tid, 0;\n @%p0 st.u32 [s], 0;\n bar.sync 0;\n red.add.u32 [s], 2;\n bar.sync 0;\n ld.u32 %r0, [s];";
    both(decl, body, 64, &[], |_| 128);
}

#[test]
fn vector_registers_are_their_elements() {
    let body = ".reg .v4 .b32 v, w<2>;\n ld.global.v4.u32 v, [%in];\n add.u32 v.x, v.x, v.w;\n mov.u32 w1.y, v.x;\n mad.lo.u32 %r0, w1.y, 10, v.z;";
    both("", body, 32, &[1, 2, 3, 4], |_| 53);
}

#[test]
fn local_memory_is_private_to_its_thread() {
    let body = ".local .align 8 .b8 depot[64];\n mov.u64 %rd0, depot;\n cvta.local.u64 %rd1, %rd0;\n and.b32 %r1, %tid, 7;\n mad.wide.u32 %rd2, %r1, 4, %rd1;\n st.u32 [%rd2], %tid;\n mad.wide.u32 %rd3, %r1, 4, %rd0;\n ld.local.u32 %r0, [%rd3];\n st.local.v2.b32 [depot+32], {%r0, %tid};\n ld.local.u32 %r2, [depot+36];\n add.u32 %r0, %r0, %r2;";
    both("", body, 64, &[], |t| 2 * t);
}

#[test]
fn shared_atomics_of_every_operation() {
    // 64 threads work on one word each 8 share; the result is read after a barrier.
    let run = |op: &str, ty: &str, init: u32, operand: &str| {
        let body = format!(
            "mov.u32 %r9, s;\n and.b32 %r1, %tid, 7;\n mad.lo.u32 %r9, %r1, 4, %r9;\n setp.lt.u32 %p0, %tid, 8;\n @%p0 st.shared.u32 [%r9], {init};\n bar.sync 0;\n {operand}\n red.shared.{op}.{ty} [%r9], %r2;\n bar.sync 0;\n ld.shared.u32 %r0, [%r9];"
        );
        simple(Config::default(), ".shared .align 4 .b8 s[32];\n", &body, 64, &[])
    };
    let own = "mov.u32 %r2, %tid;";
    let group = |t: u32| (0..8).map(move |i| (t & 7) + 8 * i);
    let check = |got: Vec<u32>, want: &dyn Fn(u32) -> u32, what: &str| {
        for (t, v) in got.iter().enumerate() {
            assert_eq!(*v, want(t as u32), "{what} thread {t}");
        }
    };
    check(run("add", "u32", 100, own), &|t| 100 + group(t).sum::<u32>(), "add");
    check(run("min", "u32", 1000, own), &|t| t & 7, "min");
    check(run("max", "u32", 0, own), &|t| 56 + (t & 7), "max");
    check(run("min", "s32", 5, "sub.u32 %r2, 20, %tid;"), &|t| 20u32.wrapping_sub(56 + (t & 7)), "min.s32");
    check(run("max", "s32", 0xffff_fff0, "sub.u32 %r2, 0, %tid;"), &|t| 0u32.wrapping_sub(t & 7), "max.s32");
    check(
        run("or", "b32", 0, "shl.b32 %r2, 1, %tid;"),
        &|t| group(t).filter(|x| *x < 32).fold(0, |m, x| m | 1 << x),
        "or",
    );
    check(
        run("and", "b32", 0xffff_ffff, "shl.b32 %r2, 1, %tid;\n not.b32 %r2, %r2;"),
        &|t| !group(t).filter(|x| *x < 32).fold(0u32, |m, x| m | 1 << x),
        "and",
    );
    check(run("xor", "b32", 0, own), &|t| group(t).fold(0, |m, x| m ^ x), "xor");
    check(run("inc", "u32", 0, "mov.u32 %r2, 5;"), &|_| 2, "inc");
    check(run("dec", "u32", 3, "mov.u32 %r2, 4;"), &|_| 0, "dec");
    check(
        run("add", "f32", 0, "cvt.rn.f32.u32 %f0, %tid;\n mov.b32 %r2, %f0;"),
        &|t| (group(t).sum::<u32>() as f32).to_bits(),
        "add.f32",
    );
}

#[test]
fn global_atomics_return_the_old_value() {
    for (op, operands, want_final) in [
        ("atom.global.add.u32 %r1, [%rd0], 1;", "", 32u32),
        ("atom.global.gpu.acq_rel.add.u32 %r1, [%rd0], 1;", "", 32),
        ("atom.global.acq_rel.gpu.add.s32 %r1, [%rd0], 1;", "", 32),
        ("atom.relaxed.sys.global.add.u32 %r1, [%rd0], 1;", "", 32),
        ("atom.add.u32 %r1, [%rd0], 1;", "", 32),
        ("atom.global.inc.u32 %r1, [%rd0], 40;", "", 32),
    ] {
        let body = format!("{operands} mov.u64 %rd0, g;\n {op}\n mov.u32 %r0, %r1;");
        let decl = ".global .align 8 .u32 g;\n";
        let mut got = simple(Config::default(), decl, &body, 32, &[]);
        got.sort_unstable();
        // Every lane saw another value: the operation is indivisible.
        assert_eq!(got, (0..32).collect::<Vec<_>>(), "{op}");
        assert_eq!(want_final, 32);
    }
    let body = "mov.u64 %rd0, g;\n atom.global.exch.b32 %r1, [%rd0], %tid;\n mov.u32 %r0, %r1;";
    let mut got = simple(Config::default(), ".global .u32 g = 1000;\n", body, 32, &[]);
    got.sort_unstable();
    assert_eq!(got.iter().filter(|v| **v == 1000).count(), 1);
    // A counter in a compare-and-swap loop, with lanes that fail and try again.
    let body = "mov.u64 %rd0, g;\nL:\n ld.relaxed.gpu.global.u32 %r1, [%rd0];\n add.u32 %r2, %r1, 3;\n atom.global.cas.b32 %r3, [%rd0], %r1, %r2;\n setp.ne.u32 %p0, %r3, %r1;\n @%p0 bra L;\n mov.u32 %r0, %r1;";
    for divergence in [Divergence::Reconverge, Divergence::Independent] {
        let mut got =
            simple(Config { divergence, seed: 2, ..Config::default() }, ".global .u32 g;\n", body, 64, &[]);
        got.sort_unstable();
        assert_eq!(got, (0..64).map(|i| 3 * i).collect::<Vec<_>>());
    }
}

#[test]
fn packed_half_and_wide_atomics() {
    let decl = ".global .align 8 .b32 g;\n.global .align 8 .u64 w;\n.global .align 8 .f64 d;\n.global .align 8 .b32 v[2];\n";
    let after = " bar.sync 0;\n";
    both(
        decl,
        &format!("red.global.add.noftz.f16x2 [g], 0x3c003c00;\n{after} ld.global.u32 %r0, [g];"),
        32,
        &[],
        |_| 0x5000_5000,
    );
    both(
        decl,
        &format!("red.global.add.noftz.bf16x2 [g], 0x3f803f80;\n{after} ld.global.u32 %r0, [g];"),
        32,
        &[],
        |_| 0x4200_4200,
    );
    both(
        decl,
        &format!(
            "mov.b16 %h0, 0x3c00;\n atom.global.add.noftz.f16 %h1, [g+2], %h0;\n{after} ld.global.u32 %r0, [g];"
        ),
        32,
        &[],
        |_| 0x5000_0000,
    );
    both(
        decl,
        &format!(
            "red.global.add.u64 [w], 0x100000001;\n{after} ld.global.u64 %rd0, [w];\n shr.u64 %rd1, %rd0, 32;\n cvt.u32.u64 %r0, %rd1;"
        ),
        32,
        &[],
        |_| 32,
    );
    both(
        decl,
        &format!(
            ".reg .f64 %d0;\n mov.f64 %d0, 0d3FE0000000000000;\n red.global.add.f64 [d], %d0;\n{after} ld.global.f64 %d0, [d];\n cvt.rzi.u32.f64 %r0, %d0;"
        ),
        32,
        &[],
        |_| 16,
    );
    both(
        decl,
        &format!(
            "mov.b32 %f0, 0f3F800000;\n red.global.v2.f32.add [v], {{%f0, %f0}};\n{after} mov.u32 %r0, 1;"
        )
        .replace("v2.f32.add", "add.v2.f32"),
        32,
        &[],
        |_| 1,
    );
}

#[test]
fn branches_loops_and_switches() {
    // Collatz steps: every lane runs its own number of iterations.
    let steps = |mut v: u32| {
        let mut n = 0;
        while v != 1 {
            v = if v.is_multiple_of(2) { v / 2 } else { 3 * v + 1 };
            n += 1;
        }
        n
    };
    let body = "add.u32 %r1, %tid, 1;\n mov.u32 %r0, 0;\nLOOP:\n setp.eq.u32 %p0, %r1, 1;\n @%p0 bra DONE;\n and.b32 %r2, %r1, 1;\n setp.ne.u32 %p1, %r2, 0;\n @%p1 bra ODD;\n shr.u32 %r1, %r1, 1;\n bra.uni NEXT;\nODD:\n mad.lo.u32 %r1, %r1, 3, 1;\nNEXT:\n add.u32 %r0, %r0, 1;\n bra.uni LOOP;\nDONE:";
    both("", &body.replace("bra.uni", "bra"), 128, &[], |t| steps(t + 1));
    let body = "and.b32 %r1, %tid, 3;\nts: .branchtargets A, B, C, D;\n brx.idx %r1, ts;\nA: mov.u32 %r0, 10; bra E;\nB: mov.u32 %r0, 20; bra E;\nC: mov.u32 %r0, 30;\nD: add.u32 %r0, %tid, 100;\nE:";
    both("", body, 64, &[], |t| match t & 3 {
        0 => 10,
        1 => 20,
        _ => t + 100,
    });
    let body =
        "mov.u32 %r0, 7;\n setp.lt.u32 %p0, %tid, 5;\n @!%p0 add.u32 %r0, %r0, 1;\n @%p0 mov.u32 %r0, %tid;";
    both("", body, 32, &[], |t| if t < 5 { t } else { 8 });
}

#[test]
fn lanes_may_leave_early() {
    let ptx = format!(
        "{HEAD} and.b32 %r1, %tid, 1;\n setp.eq.u32 %p0, %r1, 0;\n @%p0 exit;\n bar.sync 0;\n mad.wide.u32 %rd0, %tid, 4, %out;\n st.global.u32 [%rd0], %tid;\n ret;\n}}\n"
    );
    for divergence in [Divergence::Reconverge, Divergence::Independent] {
        let (out, report) = launch(Config { divergence, ..Config::default() }, &ptx, 64, 1, 0, &[], 64);
        assert!(report.is_clean(), "{}", report.findings[0]);
        for (t, v) in out.iter().enumerate() {
            assert_eq!(*v, if t % 2 == 1 { t as u32 } else { 0 });
        }
    }
}

#[test]
fn calls_pass_values_by_parameter_memory_and_registers() {
    let decl = ".func (.param .b32 ret) twice(.param .b32 x) {\n .reg .b32 %r<3>;\n ld.param.b32 %r0, [x];\n add.u32 %r1, %r0, %r0;\n st.param.b32 [ret], %r1;\n ret;\n}\n\
                .func (.reg .u32 o) inc(.reg .u32 a) {\n add.u32 o, a, 1;\n ret;\n}\n\
                .func (.param .b32 ret) fact(.param .b32 n) {\n .reg .b32 %r<5>;\n .reg .pred %p;\n ld.param.b32 %r0, [n];\n setp.gt.u32 %p, %r0, 1;\n @%p bra REC;\n st.param.b32 [ret], 1;\n ret;\nREC:\n sub.u32 %r1, %r0, 1;\n {\n .param .b32 p0;\n .param .b32 r0;\n st.param.b32 [p0], %r1;\n call.uni (r0), fact, (p0);\n ld.param.b32 %r2, [r0];\n }\n mul.lo.u32 %r3, %r0, %r2;\n st.param.b32 [ret], %r3;\n ret;\n}\n";
    let call = "{\n .param .b32 p0;\n .param .b32 r0;\n st.param.b32 [p0+0], %tid;\n call.uni (r0), twice, (p0);\n ld.param.b32 %r0, [r0+0];\n }";
    both(decl, call, 64, &[], |t| 2 * t);
    both(decl, "call (%r0), inc, (%tid);", 64, &[], |t| t + 1);
    let odd = ".func (.reg .pred o) odd(.reg .b32 v, .reg .pred flip) {\n .reg .b32 %r;\n and.b32 %r, v, 1;\n setp.ne.u32 o, %r, 0;\n xor.pred o, o, flip;\n ret;\n}\n";
    let call = "setp.lt.u32 %p1, %tid, 8;\n call (%p2), odd, (%tid, %p1);\n selp.u32 %r0, 5, 6, %p2;";
    both(odd, call, 64, &[], |t| if (t & 1 == 1) != (t < 8) { 5 } else { 6 });
    // Recursion of a different depth in every lane.
    let call = "and.b32 %r5, %tid, 7;\n {\n .param .b32 p0;\n .param .b32 r0;\n st.param.b32 [p0], %r5;\n call (r0), fact, (p0);\n ld.param.b32 %r0, [r0];\n }".replace("call.uni", "call");
    let decl = decl.replace("call.uni", "call");
    both(&decl, &call, 64, &[], |t| (1..=t & 7).product());
    // A call by address, different for even and odd lanes.
    let call = "and.b32 %r5, %tid, 1;\n setp.eq.u32 %p0, %r5, 0;\n mov.u64 %rd0, twice;\n mov.u64 %rd1, fact;\n selp.b64 %rd2, %rd0, %rd1, %p0;\n and.b32 %r6, %tid, 7;\n {\n .param .b32 p0;\n .param .b32 r0;\n st.param.b32 [p0], %r6;\n proto: .callprototype (.param .b32 _) _ (.param .b32 _);\n call (r0), %rd2, (p0), proto;\n ld.param.b32 %r0, [r0];\n }";
    both(&decl, call, 64, &[], |t| if t & 1 == 0 { 2 * (t & 7) } else { (1..=t & 7).product() });
}

#[test]
fn a_structure_is_passed_by_value() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 po, .param .align 8 .b8 s[16], .param .u8 small) {\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n.reg .b16 %h;\nld.param.u64 %rd0, [po];\nld.param.u32 %r0, [s+4];\nld.param.u64 %rd1, [s+8];\nld.param.u8 %h, [small];\ncvt.u32.u16 %r1, %h;\nadd.u32 %r0, %r0, %r1;\ncvt.u32.u64 %r2, %rd1;\nmov.b64 %rd2, s;\ncvta.param.u64 %rd2, %rd2;\nld.u32 %r3, [%rd2];\nst.global.v4.b32 [%rd0], {%r0, %r2, %r3, %r1};\nret;\n}\n";
    let module = Module::parse(text).unwrap();
    let mut m = Machine::new(Config::default());
    let po = m.alloc(16, 16).unwrap();
    let s: Vec<u8> = [1u32, 20, 300, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = LaunchConfig { grid: [1, 1, 1], block: [1, 1, 1], dynamic_shared_bytes: 0 };
    m.launch(&module, "k", shape, &[Arg::U64(po), Arg::Bytes(s), Arg::U8(5)]).unwrap();
    let mut out = [0u8; 16];
    m.read(po, &mut out).unwrap();
    let v: Vec<u32> = out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(v, [25, 300, 1, 5]);
}

#[test]
fn barriers_with_reductions_and_partial_counts() {
    let body = "setp.lt.u32 %p0, %tid, 20;\n bar.red.popc.u32 %r0, 0, %p0;\n bar.red.or.pred %p1, 0, %p0;\n bar.red.and.pred %p2, 0, %p0;\n @%p1 add.u32 %r0, %r0, 100;\n @%p2 add.u32 %r0, %r0, 1000;";
    both("", body, 96, &[], |_| 120);
    // A producer warp arrives, two consumers wait: named barrier 1 for 96 threads.
    let body = "mov.u32 %r9, s;\n shr.u32 %r1, %tid, 5;\n setp.ne.u32 %p0, %r1, 0;\n @%p0 bra CONSUME;\n mad.lo.u32 %r2, %tid, 4, %r9;\n st.shared.u32 [%r2], %tid;\n bar.arrive 1, 96;\n mov.u32 %r0, 0;\n bra END;\nCONSUME:\n bar.sync 1, 96;\n and.b32 %r3, %tid, 31;\n mad.lo.u32 %r2, %r3, 4, %r9;\n ld.shared.u32 %r0, [%r2];\nEND:";
    both(".shared .align 4 .b8 s[128];\n", body, 96, &[], |t| if t < 32 { 0 } else { t & 31 });
    let body = "barrier.sync.aligned 3;\n barrier.sync 2;\n bar.warp.sync 0xffffffff;\n membar.cta;\n fence.acq_rel.gpu;\n mov.u32 %r0, 1;";
    both("", body, 64, &[], |_| 1);
}

#[test]
fn barrier_objects_hand_over_data() {
    let body = "mov.u32 %r9, bar;\n mov.u32 %r8, s;\n setp.eq.u32 %p0, %tid, 0;\n @%p0 mbarrier.init.shared.b64 [%r9], 64;\n bar.sync 0;\n mad.lo.u32 %r7, %tid, 4, %r8;\n st.shared.u32 [%r7], %tid;\n mbarrier.arrive.shared.b64 %rd0, [%r9];\nWAIT:\n mbarrier.try_wait.parity.shared.b64 %p1, [%r9], 0;\n @!%p1 bra WAIT;\n xor.b32 %r1, %tid, 63;\n mad.lo.u32 %r7, %r1, 4, %r8;\n ld.shared.u32 %r0, [%r7];";
    both(".shared .align 8 .b8 bar[8];\n.shared .align 4 .b8 s[256];\n", body, 64, &[], |t| t ^ 63);
}

#[test]
fn asynchronous_copies_land_at_their_wait() {
    let input: Vec<u32> = (0..256).map(|i| i * 11).collect();
    let copy = |kind: &str, bytes: u32, tail: &str| {
        format!(
            "mov.u32 %r9, s;\n mul.lo.u32 %r1, %tid, {bytes};\n add.u32 %r2, %r9, %r1;\n cvt.u64.u32 %rd1, %r1;\n add.u64 %rd2, %in, %rd1;\n cp.async.{kind}.shared.global [%r2], [%rd2], {bytes}{tail};\n cp.async.commit_group;\n cp.async.wait_group 0;\n bar.sync 0;\n xor.b32 %r3, %tid, 1;\n mul.lo.u32 %r3, %r3, {bytes};\n add.u32 %r3, %r3, %r9;\n ld.shared.u32 %r0, [%r3+{}];",
            bytes - 4
        )
    };
    let decl = ".shared .align 16 .b8 s[1024];\n";
    for (kind, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        both(decl, &copy(kind, bytes, ""), 64, &input, |t| ((t ^ 1) * bytes / 4 + bytes / 4 - 1) * 11);
    }
    // A short source is filled with zeros; an ignored one is all zeros.
    both(decl, &copy("cg", 16, ", 12"), 64, &input, |_| 0);
    both(decl, &copy("cg", 16, ", 16"), 64, &input, |t| ((t ^ 1) * 4 + 3) * 11);
    both(decl, &format!("setp.lt.u32 %p0, %tid, 2;\n {}", copy("ca", 16, ", %p0")), 64, &input, |t| {
        if t < 2 { 0 } else { ((t ^ 1) * 4 + 3) * 11 }
    });
    // Two groups; the wait leaves the newer one pending.
    let body = "mov.u32 %r9, s;\n mad.lo.u32 %r1, %tid, 16, %r9;\n mad.wide.u32 %rd1, %tid, 16, %in;\n cp.async.cg.shared.global [%r1], [%rd1], 16;\n cp.async.commit_group;\n cp.async.cg.shared.global [%r1+512], [%rd1+512], 16;\n cp.async.commit_group;\n cp.async.wait_group 1;\n ld.shared.u32 %r0, [%r1];\n cp.async.wait_all;\n ld.shared.u32 %r2, [%r1+512];\n add.u32 %r0, %r0, %r2;";
    both(decl, body, 32, &input, |t| (4 * t + 4 * t + 128) * 11);
}

#[test]
fn special_registers_describe_the_launch() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 po) {\n.reg .b32 %r<16>;\n.reg .b64 %rd<4>;\n ld.param.u64 %rd0, [po];\n mov.u32 %r0, %tid.x;\n mov.u32 %r1, %tid.y;\n mov.u32 %r2, %tid.z;\n mov.u32 %r3, %ctaid.y;\n mov.u32 %r4, %nctaid.z;\n mov.u32 %r5, %ntid.y;\n mov.u32 %r6, %warpid;\n mov.u32 %r7, %laneid;\n mov.u32 %r8, %ctaid.x;\n mov.u32 %r9, %ctaid.z;\n mad.lo.u32 %r10, %r2, 3, %r1;\n mad.lo.u32 %r10, %r10, 4, %r0;\n mad.lo.u32 %r11, %r9, 2, %r3;\n mad.lo.u32 %r11, %r11, 2, %r8;\n mad.lo.u32 %r11, %r11, 60, %r10;\n mad.wide.u32 %rd1, %r11, 32, %rd0;\n st.global.v4.b32 [%rd1], {%r0, %r1, %r2, %r3};\n st.global.v4.b32 [%rd1+16], {%r4, %r5, %r6, %r7};\n mov.u64 %rd3, %clock64;\n ret;\n}\n";
    let module = Module::parse(text).unwrap();
    let mut m = Machine::new(Config { threads: 4, ..Config::default() });
    let n = 60 * 8;
    let po = m.alloc(n * 32, 32).unwrap();
    let shape = LaunchConfig { grid: [2, 2, 2], block: [4, 3, 5], dynamic_shared_bytes: 0 };
    m.launch(&module, "k", shape, &[Arg::U64(po)]).unwrap();
    let mut out = vec![0u8; n as usize * 32];
    m.read(po, &mut out).unwrap();
    for (i, c) in out.chunks(32).enumerate() {
        let v: Vec<u32> = c.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        let (b, t) = ((i / 60) as u32, (i % 60) as u32);
        assert_eq!(v, [t % 4, t / 4 % 3, t / 12, b / 2 % 2, 2, 3, t / 32, t % 32], "element {i}");
    }
}

#[test]
fn many_blocks_on_many_threads_add_up() {
    let ptx = format!(
        "{HEAD} mad.lo.u32 %r0, %cta, %ntid, %tid;\n red.global.add.u32 [%out], %r0;\n red.global.max.u32 [%out+4], %r0;\n ret;\n}}\n"
    );
    for threads in [1, 2, 4] {
        let (out, report) =
            launch(Config { threads, seed: 3, ..Config::default() }, &ptx, 96, 200, 0, &[], 2);
        assert!(report.is_clean());
        let n = 200u64 * 96;
        assert_eq!(u64::from(out[0]), (n * (n - 1) / 2) & 0xffff_ffff);
        assert_eq!(u64::from(out[1]), n - 1);
        assert_eq!(report.counters.blocks, 200);
    }
}

#[test]
fn blocks_that_wait_for_each_other_make_progress() {
    // Each block waits for the next one's flag, in an order that plain sequential execution cannot satisfy.
    let ptx = format!(
        "{HEAD} setp.ne.u32 %p0, %tid, 0;\n @%p0 ret;\n add.u32 %r1, %cta, 1;\n mov.u32 %r2, %nctaid.x;\n setp.eq.u32 %p1, %r1, %r2;\n @%p1 bra SET;\n mad.wide.u32 %rd1, %r1, 4, %out;\nSPIN:\n ld.acquire.gpu.global.u32 %r3, [%rd1];\n setp.eq.u32 %p2, %r3, 0;\n @%p2 bra SPIN;\nSET:\n mad.wide.u32 %rd2, %cta, 4, %out;\n st.release.gpu.global.u32 [%rd2], 1;\n ret;\n}}\n"
    );
    let (out, _) = launch(Config::default(), &ptx, 32, 5, 0, &[], 5);
    assert_eq!(out, [1; 5]);
}
