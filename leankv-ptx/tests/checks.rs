//! Each check: a kernel that is right, the smallest change that makes it wrong, and the report.

#![allow(unreachable_pub, clippy::needless_range_loop)] // A test crate; lanes index several arrays.

use leankv_ptx::{
    Arg, Ast, Config, Divergence, Error, FaultKind, Finding, FindingKind, LaunchConfig, LaunchReport,
    Machine, Module, Severity,
};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.file 1 \"kernel.rs\"\n.shared .align 16 .b8 s[1024];\n.visible .entry k(.param .u64 po, .param .u64 pi) {\n\
     .reg .b32 %r<32>, %tid, %s, %cta;\n.reg .b64 %rd<16>, %out, %in;\n.reg .pred %p<8>;\n\
     ld.param.u64 %out, [po];\n ld.param.u64 %in, [pi];\n mov.u32 %tid, %tid.x;\n mov.u32 %cta, %ctaid.x;\n mov.u32 %s, s;\n mad.lo.u32 %s, %tid, 4, %s;\n mad.wide.u32 %rd1, %tid, 4, %in;\n mad.wide.u32 %rd2, %tid, 4, %out;\n";

struct Run {
    machine: Machine,
    out: u64,
    input: u64,
}

impl Run {
    fn new(config: Config) -> Run {
        let mut machine = Machine::new(config);
        let out = machine.alloc(1024, 16).unwrap();
        let input = machine.alloc(1024, 16).unwrap();
        machine.write(input, &[1; 1024]).unwrap();
        machine.name(input, "input");
        Run { machine, out, input }
    }

    fn go(&mut self, body: &str, grid: u32, block: u32) -> Result<LaunchReport, Error> {
        let text = format!("{HEAD}{body}\nret;\n}}\n");
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let shape = LaunchConfig { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared_bytes: 0 };
        self.machine.launch(&module, "k", shape, &[Arg::U64(self.out), Arg::U64(self.input)])
    }
}

fn report(body: &str, grid: u32, block: u32) -> LaunchReport {
    Run::new(Config::default()).go(body, grid, block).unwrap_or_else(|e| panic!("{body}: {e}"))
}

fn clean(body: &str, grid: u32, block: u32) {
    let r = report(body, grid, block);
    assert!(r.findings.is_empty(), "{body}: {}", r.findings[0]);
}

/// The only finding, of the given kind.
fn finds(body: &str, grid: u32, block: u32, kind: FindingKind) -> Finding {
    let r = report(body, grid, block);
    let all: Vec<String> = r.findings.iter().map(ToString::to_string).collect();
    assert_eq!(r.findings.len(), 1, "{body}: {all:#?}");
    assert_eq!(r.findings[0].kind, kind, "{body}: {all:#?}");
    r.findings[0].clone()
}

fn fault(body: &str, block: u32) -> (FaultKind, leankv_ptx::Site) {
    match Run::new(Config::default()).go(body, 1, block) {
        Err(Error::Fault(f)) => (f.kind.clone(), f.site.clone()),
        other => panic!("{body}: expected a fault, got {other:?}"),
    }
}

#[test]
fn out_of_bounds_accesses_name_lane_line_and_allocation() {
    clean("ld.global.u32 %r0, [%rd1+768];", 1, 64);
    let (kind, site) = fault(".loc 1 42 7\n ld.global.u32 %r0, [%rd1+772];", 64);
    let FaultKind::OutOfBounds { access, bytes, detail, .. } = kind else { panic!("{kind:?}") };
    assert_eq!((access, bytes), ("load", 4));
    assert_eq!((site.warp, site.lane), (1, 31));
    assert_eq!(site.source.as_deref(), Some("kernel.rs:42"));
    assert!(detail.contains("0 bytes past the end of `input`"), "{detail}");
    assert!(matches!(fault("st.global.u32 [%rd2+-4], %r0;", 32).0, FaultKind::OutOfBounds { .. }));
    assert!(matches!(fault("ld.global.u32 %r0, [0];", 32).0, FaultKind::OutOfBounds { .. }));
    assert!(matches!(fault("ld.shared.u32 %r0, [s+1024];", 1).0, FaultKind::OutOfBounds { .. }));
    assert!(matches!(
        fault("ld.shared.v4.u32 {%r0,%r1,%r2,%r3}, [s+1000];", 1).0,
        FaultKind::Misaligned { .. }
    ));
    assert!(matches!(
        fault("ld.shared.v2.u32 {%r0,%r1}, [s+1020];", 1).0,
        FaultKind::OutOfBounds { .. } | FaultKind::Misaligned { .. }
    ));
    let local = ".local .align 4 .b8 d[16];\n mov.u64 %rd3, d;\n";
    assert!(matches!(
        fault(&format!("{local} ld.local.u32 %r0, [%rd3+16];"), 1).0,
        FaultKind::OutOfBounds { .. }
    ));
    assert!(matches!(
        fault("cp.async.ca.shared.global [%s], [%rd1+1024], 4;", 32).0,
        FaultKind::OutOfBounds { .. }
    ));
    assert!(matches!(fault("red.global.add.u32 [%rd1+1024], 1;", 32).0, FaultKind::OutOfBounds { .. }));
}

#[test]
fn neighbouring_shared_variables_do_not_hide_an_overrun() {
    let decl = ".shared .align 4 .b8 t[16];\n mov.u32 %r9, t;\n";
    clean(&format!("{decl} st.shared.u32 [%r9+12], 1;"), 1, 1);
    assert!(matches!(
        fault(&format!("{decl} st.shared.u32 [%r9+16], 1;"), 1).0,
        FaultKind::OutOfBounds { .. }
    ));
    assert!(matches!(
        fault(&format!("{decl} st.shared.u32 [%r9+-4], 1;"), 1).0,
        FaultKind::OutOfBounds { .. }
    ));
}

#[test]
fn misaligned_accesses_are_faults() {
    assert!(matches!(fault("ld.global.u32 %r0, [%rd1+2];", 32).0, FaultKind::Misaligned { align: 4, .. }));
    assert!(matches!(
        fault("ld.global.v4.u32 {%r0,%r1,%r2,%r3}, [%rd1];", 32).0,
        FaultKind::Misaligned { align: 16, .. }
    ));
    assert!(matches!(fault("ld.shared.u16 %r0, [s+1];", 32).0, FaultKind::Misaligned { align: 2, .. }));
    assert!(matches!(
        fault("cp.async.ca.shared.global [s+4], [%in], 8;", 1).0,
        FaultKind::Misaligned { align: 8, .. }
    ));
}

#[test]
fn freed_memory_is_recognised() {
    let mut run = Run::new(Config::default());
    run.machine.free(run.input).unwrap();
    match run.go("ld.global.u32 %r0, [%rd1];", 1, 32) {
        Err(Error::Fault(f)) => assert!(matches!(f.kind, FaultKind::UseAfterFree { .. }), "{f}"),
        other => panic!("{other:?}"),
    }
    assert!(run.machine.free(run.input).is_err());
    assert!(run.machine.read(run.input, &mut [0; 4]).is_err());
}

#[test]
fn reads_of_memory_that_nothing_wrote() {
    clean("st.global.u32 [%rd2], %tid;\n ld.global.u32 %r0, [%rd2];", 1, 32);
    let f = finds("ld.global.u32 %r0, [%rd2];", 1, 32, FindingKind::UninitGlobal);
    assert_eq!(f.count, 32);
    finds("st.global.u8 [%rd2], %tid;\n ld.global.u32 %r0, [%rd2];", 1, 1, FindingKind::UninitGlobal);
    clean("st.shared.u32 [%s], %tid;\n ld.shared.u32 %r0, [%s];", 1, 32);
    finds("ld.shared.u32 %r0, [%s];", 1, 32, FindingKind::UninitShared);
    finds("st.shared.u16 [%s], %tid;\n ld.shared.u32 %r0, [%s];", 1, 32, FindingKind::UninitShared);
}

/// Thread t writes its word, then reads that of thread t xor `x`.
fn exchange(between: &str, x: u32) -> String {
    format!(
        "st.shared.u32 [%s], %tid;\n{between}\n xor.b32 %r1, %tid, {x};\n mov.u32 %r2, s;\n mad.lo.u32 %r2, %r1, 4, %r2;\n ld.shared.u32 %r0, [%r2];"
    )
}

#[test]
fn shared_exchange_between_warps_needs_a_barrier() {
    clean(&exchange("bar.sync 0;", 32), 1, 64);
    clean(&exchange("barrier.sync 1;", 32), 1, 64);
    clean(&exchange("bar.sync 2, 64;", 32), 1, 64);
    let r = report(&exchange("", 32), 1, 64);
    // Warp 0 ran first: warp 1 then reads what it wrote.
    let of_write = |f: &&Finding| f.other.as_ref().is_some_and(|o| o.access == "write");
    let race = r.findings.iter().find(of_write).expect("a race with a write");
    assert_eq!(race.kind, FindingKind::SharedRace);
    let other = race.other.as_ref().unwrap();
    assert_eq!((other.access, other.warp, race.site.warp), ("write", Some(0), 1));
    assert!(other.ptx_line < race.site.ptx_line);
    assert_eq!(race.severity, Severity::Error);
    // A warp-level barrier does not order two warps.
    assert!(!report(&exchange("bar.warp.sync -1;", 32), 1, 64).is_clean());
}

#[test]
fn shared_exchange_between_lanes_needs_a_warp_barrier() {
    clean(&exchange("bar.warp.sync 0xffffffff;", 1), 1, 32);
    clean(&exchange("bar.sync 0;", 1), 1, 32);
    finds(&exchange("", 1), 1, 32, FindingKind::SharedRace);
    clean(&exchange("bar.warp.sync 0xffffffff;", 1), 1, 64);
    let mut lockstep = Run::new(Config { assume_lockstep: true, ..Config::default() });
    assert!(lockstep.go(&exchange("", 1), 1, 32).unwrap().findings.is_empty());
    // Two halves synchronise separately: fine within a half, a race across.
    let halves = "setp.lt.u32 %p0, %tid, 16;\n selp.b32 %r9, 0xffff, 0xffff0000, %p0;\n bar.warp.sync %r9;";
    clean(&exchange(halves, 1), 1, 32);
    finds(&exchange(halves, 16), 1, 32, FindingKind::SharedRace);
}

#[test]
fn writes_after_reads_need_a_barrier_too() {
    let body =
        |between: &str| format!("{}\n{between}\n st.shared.u32 [%s], %r0;", exchange("bar.sync 0;", 32));
    clean(&body("bar.sync 0;"), 1, 64);
    // Both directions: the first warp's store races with the second's load, and the other way round.
    let r = report(&body(""), 1, 64);
    let sides: Vec<_> = r.findings.iter().map(|f| (f.kind, f.other.as_ref().unwrap().access)).collect();
    assert_eq!(sides, [(FindingKind::SharedRace, "write"), (FindingKind::SharedRace, "read")]);
}

#[test]
fn same_value_writes_are_benign() {
    let f = finds("st.shared.u32 [s], 7;", 1, 32, FindingKind::SharedRace);
    // The first lane changes the word, the rest repeat its value.
    assert_eq!(f.severity, Severity::Benign);
    finds("st.shared.u32 [s], %tid;", 1, 32, FindingKind::SharedRace);
    clean("red.shared.add.u32 [s], 1;", 1, 1);
    let r = report(
        "setp.eq.u32 %p0, %tid, 0;\n @%p0 st.shared.u32 [s], 0;\n bar.sync 0;\n red.shared.add.u32 [s], 1;\n bar.sync 0;\n ld.shared.u32 %r0, [s];",
        1,
        96,
    );
    assert!(r.findings.is_empty());
}

#[test]
fn atomics_and_plain_accesses_do_not_mix() {
    let body = "setp.eq.u32 %p0, %tid, 0;\n @%p0 st.shared.u32 [s], 0;\n bar.sync 0;\n red.shared.add.u32 [s], 1;\n ld.shared.u32 %r0, [s];";
    assert!(report(body, 1, 64).findings.iter().any(|f| f.kind == FindingKind::SharedRace));
}

#[test]
fn named_barriers_order_only_their_participants() {
    // Warp 0 produces for warp 1; warp 2 takes no part.
    let body = |who: u32| {
        format!(
            "shr.u32 %r1, %tid, 5;\n setp.eq.u32 %p0, %r1, 0;\n setp.eq.u32 %p1, %r1, {who};\n @%p0 st.shared.u32 [%s], %tid;\n @%p0 bar.arrive 1, 64;\n setp.eq.u32 %p2, %r1, 1;\n @%p2 bar.sync 1, 64;\n and.b32 %r2, %tid, 31;\n mov.u32 %r3, s;\n mad.lo.u32 %r3, %r2, 4, %r3;\n @%p1 ld.shared.u32 %r0, [%r3];"
        )
    };
    clean(&body(1), 1, 96);
    assert!(report(&body(2), 1, 96).findings.iter().any(|f| f.kind == FindingKind::SharedRace));
}

#[test]
fn blocks_race_on_global_memory_unless_ordered() {
    clean("st.global.u32 [%rd2], %tid;", 1, 32);
    let f = finds("st.global.u32 [%rd2], %cta;", 2, 32, FindingKind::GlobalRace);
    assert_eq!(f.other.unwrap().block, Some(0));
    clean("mad.wide.u32 %rd3, %cta, 128, %rd2;\n st.global.u32 [%rd3], %tid;", 4, 32);
    finds(
        "setp.eq.u32 %p0, %cta, 0;\n @%p0 st.global.u32 [%out], 1;\n @!%p0 ld.global.u32 %r0, [%out];",
        2,
        1,
        FindingKind::GlobalRace,
    );
    let two_read =
        "setp.eq.u32 %p0, %cta, 2;\n @!%p0 ld.global.u32 %r0, [%in];\n @%p0 st.global.u32 [%in], 5;";
    let f = finds(two_read, 3, 1, FindingKind::GlobalRace);
    assert!(f.to_string().contains("several blocks"), "{f}");
    // The last block to arrive reads what all wrote: the standard pattern, with and without its fences.
    let last = |fence: &str| {
        format!(
            "mad.wide.u32 %rd3, %cta, 4, %out;\n st.global.u32 [%rd3+16], %cta;\n {fence}\n atom.global.add.u32 %r1, [%in], 1;\n setp.ne.u32 %p0, %r1, {};\n @%p0 ret;\n {fence}\n ld.global.u32 %r2, [%out+16];\n ld.global.u32 %r3, [%out+20];",
            0x0101_0101 + 3
        )
    };
    clean(&last("membar.gl;"), 4, 1);
    clean(&last("fence.acq_rel.gpu;"), 4, 1);
    assert!(report(&last(""), 4, 1).findings.iter().all(|f| f.kind == FindingKind::GlobalRace));
    assert!(!report(&last(""), 4, 1).is_clean());
    assert!(!report(&last("membar.cta;"), 4, 1).is_clean());
}

#[test]
fn blocks_may_store_the_same_bits_to_one_place() {
    let f = finds("st.global.u32 [%rd2], %tid;", 2, 32, FindingKind::GlobalRace);
    assert_eq!(f.severity, Severity::Benign, "{f}");
    assert!(report("st.global.u32 [%rd2], %tid;", 2, 32).is_clean());
    let f = finds("st.global.u32 [%rd2], %cta;", 2, 32, FindingKind::GlobalRace);
    assert_eq!(f.severity, Severity::Error, "{f}");
    // Bytes of one word are judged each for itself.
    let bytes = "cvt.u64.u32 %rd3, %cta;\n add.u64 %rd3, %out, %rd3;\n mov.u32 %r2, 9;\n st.global.u8 [%out], %r2;\n st.global.u8 [%rd3+1], %cta;";
    assert!(report(bytes, 2, 1).is_clean());
    // A read is no store of the same bits, nor is an atomic.
    let read = "ld.global.u32 %r1, [%in];\n st.global.u32 [%in], %r1;";
    assert!(!report(read, 2, 1).is_clean());
    let atomic = "setp.eq.u32 %p0, %cta, 0;\n @%p0 st.global.u32 [%in], 5;\n @!%p0 atom.global.exch.b32 %r1, [%in], 5;";
    assert!(!report(atomic, 2, 1).is_clean());
}

#[test]
fn reads_of_registers_that_the_lane_never_wrote() {
    // A value may still be thrown away; what steers execution may not.
    let f = finds("add.u32 %r1, %r5, 1;", 1, 32, FindingKind::UninitRegister);
    assert_eq!(f.severity, Severity::Benign);
    assert!(f.message.contains("%r5"), "{f}");
    let steers = [
        "@%p5 mov.u32 %r1, 0;",
        "ld.shared.u32 %r1, [%r5];",
        "mov.pred %p1, %p5;\n vote.sync.ballot.b32 %r1, %p1, %r5;",
        "bar.sync %r5;",
    ];
    for body in steers {
        let errors = match Run::new(Config::default()).go(body, 1, 32) {
            Ok(r) => r.errors().cloned().collect::<Vec<_>>(),
            Err(Error::Fault(f)) => f.findings.clone(),
            Err(e) => panic!("{e}"),
        };
        let found =
            errors.iter().find(|f| f.kind == FindingKind::UninitRegister && f.severity == Severity::Error);
        assert!(found.is_some_and(|f| f.message.contains("5,")), "{body}: {errors:?}");
    }
    // Written under a guard, read by others; by the same; on one of two paths; around a loop.
    let guarded = "setp.lt.u32 %p0, %tid, 8;\n @%p0 mov.u32 %r5, 1;\n";
    let f = finds(&format!("{guarded} add.u32 %r1, %r5, 1;"), 1, 32, FindingKind::UninitRegister);
    assert_eq!(f.site.lane, 8);
    clean(&format!("{guarded} @%p0 add.u32 %r1, %r5, 1;"), 1, 32);
    let path = |last: &str| format!("setp.lt.u32 %p0, %tid, 8;\n @%p0 bra L;\n mov.u32 %r5, 1;\nL:\n {last}");
    assert_eq!(finds(&path("add.u32 %r1, %r5, 1;"), 1, 32, FindingKind::UninitRegister).site.lane, 0);
    clean(&path("@!%p0 add.u32 %r1, %r5, 1;"), 1, 32);
    let rounds = "mov.u32 %r1, 0;\nL:\n setp.eq.u32 %p0, %r1, 0;\n @%p0 mov.u32 %r5, 7;\n add.u32 %r1, %r1, %r5;\n setp.lt.u32 %p1, %r1, 30;\n @%p1 bra L;";
    clean(rounds, 1, 32);
    // Off: nothing.
    let checks = leankv_ptx::Checks { uninit_registers: false, ..leankv_ptx::Checks::ALL };
    let mut run = Run::new(Config { checks, ..Config::default() });
    assert!(run.go("add.u32 %r1, %r5, 1;", 1, 32).unwrap().findings.is_empty());
}

#[test]
fn a_race_with_another_function_names_its_line() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.shared .align 4 .b8 s[128];\n\
        .func put() {\n.reg .b32 %r<4>;\nmov.u32 %r1, %tid.x;\nst.shared.u32 [s], %r1;\nret;\n}\n\
        .visible .entry k() {\n.reg .b32 %r<2>;\nmov.u32 %r0, %tid.x;\nadd.u32 %r0, %r0, 1;\n\
        st.shared.u32 [s+64], %r0;\ncall put, ();\nld.shared.u32 %r1, [s];\nret;\n}\n";
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let line = |what: &str| text.lines().position(|l| l.starts_with(what)).unwrap() as u32 + 1;
    let shape = LaunchConfig { grid: [1, 1, 1], block: [64, 1, 1], dynamic_shared_bytes: 0 };
    let r = Machine::new(Config::default()).launch(&module, "k", shape, &[]).unwrap();
    let f = r.findings.iter().find(|f| f.site.opcode.starts_with("ld")).unwrap();
    let other = f.other.as_ref().unwrap();
    assert_eq!((f.site.function.as_str(), f.site.ptx_line), ("k", line("ld.shared")), "{f}");
    assert_eq!((other.function.as_str(), other.ptx_line), ("put", line("st.shared.u32 [s]")), "{f}");
    assert!(f.to_string().contains("in put"), "{f}");
}

#[test]
fn a_fault_brings_the_findings_before_it() {
    let mut run = Run::new(Config::default());
    match run.go("ld.shared.u32 %r0, [s];\n trap;", 1, 32) {
        Err(Error::Fault(f)) => {
            assert_eq!(f.kind, FaultKind::Trap);
            assert_eq!(f.findings.len(), 1);
            assert_eq!(f.findings[0].kind, FindingKind::UninitShared);
            assert!(f.to_string().contains("UninitShared"), "{f}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn barriers_in_divergent_code() {
    let body = "setp.lt.u32 %p0, %tid, 16;\n @%p0 bra A;\n bar.sync 0;\n bra E;\nA:\n bar.sync 0;\nE:";
    let r = report(body, 1, 32);
    assert!(r.findings.iter().any(|f| f.kind == FindingKind::BarrierDivergence), "{:?}", r.findings);
    // Whole warps may take different branches to barriers of the same number.
    clean(&body.replace("16", "32"), 1, 64);
    clean(&body.replace("bar.sync 0", "barrier.sync 0"), 1, 32);
    // One warp waits at a barrier that another never reaches, because it waits at another one.
    let (kind, _) =
        fault("setp.lt.u32 %p0, %tid, 32;\n @%p0 bra A;\n bar.sync 1;\n bra E;\nA:\n bar.sync 0;\nE:", 64);
    let FaultKind::Deadlock(text) = kind else { panic!("{kind:?}") };
    assert!(text.contains("at barrier 0") && text.contains("at barrier 1"), "{text}");
    let (kind, _) = fault("mov.u32 %r0, 33;\n bar.sync 0, %r0;", 64);
    assert!(matches!(kind, FaultKind::Illegal(_)));
    let r = report(
        "setp.lt.u32 %p0, %tid, 32;\n @%p0 bra A;\n bar.sync 1, 64;\n bra E;\nA:\n bar.sync 1;\nE:",
        1,
        64,
    );
    assert!(r.findings.iter().any(|f| f.kind == FindingKind::BarrierMismatch));
}

#[test]
fn asynchronous_copies_in_flight() {
    let copy = |wait: &str| {
        format!(
            "cp.async.ca.shared.global [%s], [%rd1], 4;\n cp.async.commit_group;\n {wait}\n ld.shared.u32 %r0, [%s];\n cp.async.wait_all;"
        )
    };
    clean(&copy("cp.async.wait_group 0;"), 1, 32);
    clean(&copy("cp.async.wait_all;"), 1, 32);
    finds(&copy(""), 1, 32, FindingKind::AsyncCopyInFlight);
    finds(&copy("cp.async.wait_group 1;"), 1, 32, FindingKind::AsyncCopyInFlight);
    finds("cp.async.ca.shared.global [%s], [%rd1], 4;", 1, 32, FindingKind::AsyncCopyLost);
    finds(
        "cp.async.ca.shared.global [%s], [%rd1], 4;\n st.shared.u32 [%s], 1;\n cp.async.wait_all;",
        1,
        32,
        FindingKind::AsyncCopyInFlight,
    );
    // A wait orders the copying thread only: others need a barrier as well.
    let cross = |between: &str| {
        format!(
            "cp.async.ca.shared.global [%s], [%rd1], 4;\n cp.async.wait_all;\n {between}\n xor.b32 %r1, %tid, 32;\n mov.u32 %r2, s;\n mad.lo.u32 %r2, %r1, 4, %r2;\n ld.shared.u32 %r0, [%r2];"
        )
    };
    clean(&cross("bar.sync 0;"), 1, 64);
    assert!(!report(&cross(""), 1, 64).is_clean());
    // Overwriting what another warp may still read.
    let reuse = |between: &str| {
        format!(
            "{}\n{between}\n cp.async.ca.shared.global [%s], [%rd1], 4;\n cp.async.wait_all;",
            cross("bar.sync 0;")
        )
    };
    clean(&reuse("bar.sync 0;"), 1, 64);
    let r = report(&reuse(""), 1, 64);
    assert!(r.findings.iter().all(|f| f.kind == FindingKind::SharedRace) && !r.is_clean());
}

#[test]
fn membermasks_name_exactly_the_lanes_that_come() {
    clean("shfl.sync.bfly.b32 %r0, %tid, 1, 31, 0xffffffff;", 1, 32);
    let f = finds("shfl.sync.bfly.b32 %r0, %tid, 1, 31, 0xffff7fff;", 1, 32, FindingKind::Membermask);
    assert_eq!(f.site.lane, 15);
    finds(
        "setp.lt.u32 %p0, %tid, 8;\n @%p0 shfl.sync.bfly.b32 %r0, %tid, 1, 31, 0xffffffff;",
        1,
        32,
        FindingKind::Membermask,
    );
    finds(
        "setp.lt.u32 %p0, %tid, 8;\n @%p0 shfl.sync.bfly.b32 %r0, %tid, 8, 31, 0xff;",
        1,
        32,
        FindingKind::InactiveLane,
    );
    clean("setp.lt.u32 %p0, %tid, 8;\n @%p0 shfl.sync.bfly.b32 %r0, %tid, 4, 31, 0xff;", 1, 32);
    // Lanes that have exited are not waited for.
    clean("setp.ge.u32 %p0, %tid, 8;\n @%p0 exit;\n vote.sync.ballot.b32 %r0, %p0, 0xffffffff;", 1, 32);
    let mma = "mov.u32 %r0, 0;\n setp.lt.u32 %p0, %tid, 31;\n @%p0 mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r0,%r0,%r0,%r0}, {%r0,%r0}, {%r0}, {%r0,%r0,%r0,%r0};";
    finds(mma, 1, 32, FindingKind::NotUniform);
}

#[test]
fn other_undefined_behaviour() {
    finds("setp.lt.u32 %p0, %tid, 8;\n @%p0 bra.uni L;\nL:", 1, 32, FindingKind::NotUniform);
    finds("and.b32 %r1, %tid, 3;\n div.u32 %r0, 5, %r1;", 1, 32, FindingKind::DivisionByZero);
    finds("ld.global.nc.u32 %r0, [%rd1];\n st.global.u32 [%rd1], 1;", 1, 32, FindingKind::ReadOnlyWrite);
    clean("ld.global.nc.u32 %r0, [%rd1];\n st.global.u32 [%rd1+512], 1;", 1, 32);
    assert!(matches!(fault("trap;", 32).0, FaultKind::Trap));
    let mut run = Run::new(Config { budget: 10_000, ..Config::default() });
    match run.go("L:\n bra L;", 1, 32) {
        Err(Error::Fault(f)) => assert!(matches!(f.kind, FaultKind::Budget(10_000))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn independent_lanes_break_code_that_leans_on_lockstep() {
    // A warp reduction through shared memory without warp barriers, as it was written before sm_70.
    let step = |n: u32, sync: &str| {
        format!(
            "ld.volatile.shared.u32 %r1, [%s];\n ld.volatile.shared.u32 %r2, [%s+{}];\n add.u32 %r1, %r1, %r2;\n {sync}\n setp.lt.u32 %p0, %tid, {n};\n @%p0 st.volatile.shared.u32 [%s], %r1;\n {sync}\n",
            4 * n
        )
    };
    let body = |sync: &str| {
        let steps: String = [16, 8, 4, 2, 1].iter().map(|n| step(*n, sync)).collect();
        format!(
            "st.volatile.shared.u32 [%s], %tid;\n st.volatile.shared.u32 [%s+128], 0;\n {sync}\n{steps} setp.eq.u32 %p1, %tid, 0;\n @%p1 st.global.u32 [%out], %r1;"
        )
    };
    let result = |sync: &str, divergence, seed| {
        let mut run =
            Run::new(Config { divergence, seed, checks: leankv_ptx::Checks::NONE, ..Config::default() });
        run.go(&body(sync), 1, 32).unwrap();
        let mut v = [0; 4];
        run.machine.read(run.out, &mut v).unwrap();
        u32::from_le_bytes(v)
    };
    assert_eq!(result("", Divergence::Reconverge, 0), 496);
    for seed in 1..20 {
        assert_eq!(result("bar.warp.sync 0xffffffff;", Divergence::Independent, seed), 496);
    }
    let wrong = (1..20).filter(|seed| result("", Divergence::Independent, *seed) != 496).count();
    assert!(wrong > 15, "only {wrong} of 19 schedules show the fault");
}

#[test]
fn a_seed_fixes_the_schedule() {
    // The order of atomics on one address shows the schedule.
    let body = "atom.global.add.u32 %r0, [%in], 1;\n mad.lo.u32 %r1, %cta, 32, %tid;\n mad.wide.u32 %rd3, %r1, 4, %out;\n st.global.u32 [%rd3], %r0;";
    let order = |seed| {
        let mut run = Run::new(Config { seed, ..Config::default() });
        run.go(body, 8, 32).unwrap();
        let mut v = vec![0; 1024];
        run.machine.read(run.out, &mut v).unwrap();
        v
    };
    assert_eq!(order(5), order(5));
    assert_ne!(order(5), order(6));
}

#[test]
fn counters_follow_the_rules() {
    let mut run = Run::new(Config::default());
    run.machine.track("first half", run.input, 64);
    let body = "ld.global.u32 %r0, [%rd1];\n st.shared.u32 [%s], %r0;\n mov.u32 %r1, s;\n mad.lo.u32 %r1, %tid, 128, %r1;\n setp.lt.u32 %p0, %tid, 8;\n @%p0 st.shared.u32 [%r1], %r0;\n bar.sync 0;\n setp.lt.u32 %p1, %tid, 5;\n @%p1 bra L;\n add.u32 %r0, %r0, 1;\nL:\n st.global.u32 [%rd2], %r0;";
    let c = run.go(body, 1, 32).unwrap().counters;
    assert!(c.modelled);
    assert_eq!((c.global_requests, c.global_sectors, c.global_ideal_sectors), (2, 8, 8));
    // One conflict-free store, one with eight lanes on one bank.
    assert_eq!((c.shared_wavefronts, c.bank_conflicts), (9, 7));
    assert_eq!((c.barriers, c.divergent_branches, c.blocks), (1, 1, 1));
    let of = |n: &str| c.ranges.iter().find(|r| r.name == n).unwrap();
    assert_eq!((of("input").read_bytes, of("input").read_sector_bytes), (128, 128));
    assert_eq!((of("first half").read_bytes, of("first half").written_bytes), (64, 0));
    let add = c.instructions.iter().find(|i| i.opcode == "add.u32").unwrap();
    assert_eq!((add.counters.warp, add.counters.lanes), (1, 27));
    assert!(c.table().contains("modelled"));
    assert!(c.json().contains("\"global_sectors\": 8"));
}

#[test]
fn launches_are_checked_before_they_run() {
    let text = format!("{HEAD}ret;\n}}\n").replace("{\n.reg", ".maxntid 64, 1, 1\n{\n.reg");
    let module = Module::parse(&text).unwrap();
    let mut m = Machine::new(Config::default());
    let shape = |b: u32, d: u32| LaunchConfig { grid: [1, 1, 1], block: [b, 1, 1], dynamic_shared_bytes: d };
    let args = [Arg::U64(1), Arg::U64(2)];
    assert!(m.launch(&module, "k", shape(64, 0), &args).is_ok());
    assert!(matches!(m.launch(&module, "k", shape(96, 0), &args), Err(Error::Launch { .. })));
    assert!(matches!(m.launch(&module, "k", shape(0, 0), &args), Err(Error::Launch { .. })));
    assert!(matches!(m.launch(&module, "k", shape(32, 300_000), &args), Err(Error::Launch { .. })));
    assert!(matches!(m.launch(&module, "j", shape(32, 0), &args), Err(Error::NoKernel { .. })));
    assert!(matches!(
        m.launch(&module, "k", shape(32, 0), &args[..1]),
        Err(Error::Argument { index: 1, .. })
    ));
    let wrong = [Arg::U64(1), Arg::U32(2)];
    assert!(matches!(m.launch(&module, "k", shape(32, 0), &wrong), Err(Error::Argument { index: 1, .. })));
}

#[test]
fn unknown_and_unsupported_instructions_are_errors_with_their_place() {
    let error = |line: &str| Module::parse(&format!("{HEAD}{line}\nret;\n}}\n")).unwrap_err();
    let at = HEAD.lines().count() as u32 + 1;
    for (line, text) in [
        ("frobnicate.u32 %r0, %r1;", "unknown opcode"),
        ("add.u32.foo %r0, %r1, %r2;", "unknown modifier `.foo`"),
        ("add.bogus.u32 %r0, %r1, %r2;", "bogus"),
        ("ld.global.L3::no.u32 %r0, [%rd0];", "unknown modifier `.L3::no`"),
        ("mov.u32 %r0, %nothing;", "not declared"),
        ("mov.u64 %rd0, %r0;", "32-bit register"),
        ("add.u32 %r0, %r1;", "takes 3 operands"),
        ("bra NOWHERE;", "NOWHERE"),
        ("wgmma.fence.sync.aligned;", "not supported"),
        ("cp.async.bulk.commit_group;", "not supported"),
        ("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r0}, [%rd0];", "needs 8 registers"),
        ("@%r0 ret;", "not a predicate"),
        ("cvt.s32.f32 %r0, %r1;", "integer rounding"),
        (
            "mma.sync.aligned.m16n8k7.row.col.f32.f16.f16.f32 {%r0}, {%r0}, {%r0}, {%r0};",
            "unknown modifier `.m16n8k7`",
        ),
        ("cp.async.cg.shared.global [%s], [%rd1], 8;", "copies 16 bytes"),
    ] {
        let e = error(line);
        assert!(e.message.contains(text), "{line}: {e}");
        assert_eq!(e.line, at, "{line}: {e}");
    }
    // The column is that of the modifier.
    assert_eq!(error(" add.u32.foo %r0, %r1, %r2;").col, 9);
}

#[test]
fn refused_forms_say_what_to_write_instead() {
    let at_3 = |decl: &str| {
        Module::parse(&format!(".version 8.0\n.target sm_80\n{decl}\n.entry k() {{ ret; }}\n")).unwrap_err()
    };
    for decl in [
        ".func f(.reg .v2 .f32 v) { ret; }",
        ".func (.reg .v4 .f32 v) f() { ret; }",
        ".func f(.reg .b128 v) { ret; }",
    ] {
        let e = at_3(decl);
        assert_eq!(e.line, 3, "{e}");
        assert!(e.col > 5 && e.message.contains("`.param`"), "{decl}: {e}");
    }
    assert!(at_3(".const .b8 a[65537];").message.contains("65536 bytes of constant"));
    let error = |line: &str| Module::parse(&format!("{HEAD}{line}\nret;\n}}\n")).unwrap_err();
    for (line, text) in [
        ("vote.ballot.b32 %r0, %p0;", ".sync"),
        ("shfl.up.b32 %r0, %r1, 1, 0;", ".sync"),
        ("mov.v4.b32 {%r0,%r1,%r2,%r3}, {%r0,%r1,%r2,%r3};", "unknown modifier `.v4`"),
        ("set.lo.u32.f16x2 %r0, %r1, %r2;", "not a form"),
        ("bar.sync 16;", "0 to 15"),
        ("bar.sync 1, 33;", "a multiple of 32"),
        ("cvt.rn.f64.f32 %rd0, %r0;", "takes no rounding"),
    ] {
        let e = error(line);
        assert!(e.message.contains(text) && e.col > 0, "{line}: {e}");
    }
    // A predicate where the function takes a number is told when it runs.
    let text = ".version 8.0\n.target sm_80\n.func f(.reg .u32 a) { ret; }\n.entry k() {\n.reg .pred %p;\nsetp.eq.u32 %p, 0, 0;\ncall f, (%p);\nret;\n}\n";
    let shape = LaunchConfig { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared_bytes: 0 };
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let e = Machine::new(Config::default()).launch(&module, "k", shape, &[]).unwrap_err();
    assert!(e.to_string().contains("predicate"), "{e}");
}

/// What ptxas refuses as well. Taken, it would mean something else once printed, or nothing at all.
#[test]
fn what_is_no_ptx_is_refused() {
    let error = |text: &str| match Ast::parse(text) {
        Ok(_) => panic!("taken:\n{text}"),
        Err(e) => e,
    };
    for operands in [
        "mov.u32 %r1, (%r2);",
        "mov.u64 %rd1, (s);",
        "mov.u64 %rd1, (s) + 4;",
        "mov.u64 %rd1, (s | 4);",
        "mov.u64 %rd1, s | 4 + s;",
        "mov.u64 %rd1, 4 + s;",
        "mov.u64 %rd1, s + s;",
        "mov.u64 %rd1, s - 4;",
        "mov.u64 %rd1, s * 2;",
        "mov.u64 %rd1, generic(s);",
        "mov.u64 %rd1, 0xFF(5);",
        "mov.u32 %r1, (_);",
        "setp.eq.u32 %p1|(%p2), %r1, %r2;",
        "mov.pred %p1, !(%p2);",
        "ld.shared.u32 %r1, [s,];",
        "ld.shared.v2.u32 {%r1, %r2,}, [s];",
    ] {
        let e = error(&format!("{HEAD}{operands}\nret;\n}}\n"));
        assert!(e.line > 1 && e.col > 0, "{operands}: {e}");
    }
    let e = error(&format!("{HEAD}mov.u32 %r1, (%r2);\nret;\n}}\n"));
    assert!(e.message.contains("name + constant"), "{e}");
    // A version has one digit behind the point; ptxas refuses 8.97 and lets 8.05 pass.
    for (version, text) in [
        ("8.97", ""),
        ("8.05", ""),
        ("8.0", ".global .u32 g[4] = {1, 2,};"),
        ("8.0", ".entry k() .maxntid 1, { ret; }"),
    ] {
        error(&format!(".version {version}\n.target sm_80\n.address_size 64\n{text}\n"));
    }
    // These are PTX.
    for operands in
        ["mov.u64 %rd1, s+4*2+1;", "mov.u64 %rd1, s+-4;", "mov.u32 %r1, (5&4)|3;", "mov.u32 %r1, !(5);"]
    {
        let text = format!("{HEAD}{operands}\nret;\n}}\n");
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{operands}: {e}"));
        let printed = module.ast().print();
        assert!(Module::parse(&printed).is_ok_and(|m| m.ast().same(module.ast())), "{operands}:\n{printed}");
    }
}
