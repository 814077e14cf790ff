//! Threads of one block that hand values to each other through global memory.

use leankv_ptx::{Arg, Config, Divergence, Finding, FindingKind, LaunchConfig, Machine, Module, Severity};

/// Threads of the block.
const THREADS: u32 = 64;

/// `%own` is the thread's word of a buffer, `%other` that of thread `%tid xor DISTANCE`, `%first` the buffer's first word.
fn run(body: &str, distance: u32, config: Config) -> Vec<Finding> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.file 1 \"kernel.rs\"\n\
         .visible .entry k(.param .u64 pa) {{\n.reg .b32 %r<8>, %tid;\n.reg .b64 %own, %other, %first;\n.reg .pred %p<4>;\n\
         ld.param.u64 %first, [pa];\nmov.u32 %tid, %tid.x;\nmad.wide.u32 %own, %tid, 4, %first;\nxor.b32 %r1, %tid, {distance};\n\
         mad.wide.u32 %other, %r1, 4, %first;\n.loc 1 7 0\n{body}\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut machine = Machine::new(config);
    // More than one page of the shadow.
    let memory = machine.alloc(8192, 16).expect("there is memory");
    machine.write(memory, &[0; 8192]).expect("it lies there");
    let shape = LaunchConfig { grid: [1, 1, 1], block: [THREADS, 1, 1], dynamic_shared_bytes: 0 };
    let report = machine.launch(&module, "k", shape, &[Arg::U64(memory)]);
    report.unwrap_or_else(|e| panic!("{body}: {e}")).findings
}

fn configs() -> [Config; 2] {
    [Config::default(), Config { divergence: Divergence::Independent, seed: 5, ..Config::default() }]
}

#[track_caller]
fn clean(body: &str, distance: u32) {
    for config in configs() {
        let found = run(body, distance, config);
        assert!(found.is_empty(), "{body}: {}", found[0]);
    }
}

#[track_caller]
fn race(body: &str, distance: u32, severity: Severity) -> Finding {
    let mut first = None;
    for config in configs() {
        let found = run(body, distance, config);
        let race = found.iter().find(|f| f.kind == FindingKind::GlobalRace && f.severity == severity);
        first = first.or_else(|| race.cloned());
        assert!(race.is_some(), "{body}: {found:?}");
    }
    first.expect("each run has one")
}

#[test]
fn warps_need_a_barrier_between_store_and_load() {
    let exchange =
        |between: &str| format!("st.global.u32 [%own], %tid;\n{between}\nld.global.u32 %r2, [%other];");
    clean(&exchange("bar.sync 0;"), 32);
    let found = race(&exchange(""), 32, Severity::Error);
    let text = found.to_string();
    assert!(text.contains("global memory") && text.contains("a barrier between"), "{text}");
    assert!(text.contains("kernel.rs:7"), "{text}");
    let other = found.other.expect("there is another side");
    assert_ne!(other.warp, Some(found.site.warp));
    assert!(other.warp.is_some() && other.block == Some(0), "{other:?}");
    // A barrier of the warp does not order another one.
    race(&exchange("bar.warp.sync -1;"), 32, Severity::Error);
}

#[test]
fn lanes_need_a_barrier_of_their_warp() {
    let exchange =
        |between: &str| format!("st.global.u32 [%own], %tid;\n{between}\nld.global.u32 %r2, [%other];");
    clean(&exchange("bar.warp.sync -1;"), 1);
    race(&exchange(""), 1, Severity::Error);
    let lockstep = Config { assume_lockstep: true, ..Config::default() };
    assert!(run(&exchange(""), 1, lockstep).is_empty());
}

#[test]
fn what_was_read_may_be_overwritten_after_a_barrier_only() {
    let exchange = |between: &str| {
        format!("ld.global.u32 %r2, [%other];\n{between}\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%own], %r2;")
    };
    clean(&exchange("bar.sync 0;"), 32);
    race(&exchange(""), 32, Severity::Error);
    race(&exchange(""), 1, Severity::Error);
}

#[test]
fn a_thread_alone_and_words_of_one_s_own_are_no_race() {
    clean("st.global.u32 [%own], %tid;\nld.global.u32 %r2, [%own];\nst.global.u32 [%own], %r2;", 32);
    clean("ld.global.u32 %r2, [%other];\nld.global.u32 %r3, [%own];", 32);
    clean("st.global.u8 [%own], %tid;\nst.global.u8 [%own+1], %tid;", 32);
}

#[test]
fn the_same_bits_twice_are_benign() {
    race("st.global.u32 [%first], 9;", 32, Severity::Benign);
}

#[test]
fn atomics_do_not_race_with_each_other() {
    clean("red.global.add.u32 [%first], 1;\natom.global.add.u32 %r2, [%first], 1;", 32);
    race("red.global.add.u32 [%first], 1;\nld.global.u32 %r2, [%first];", 32, Severity::Error);
    clean("red.global.add.u32 [%first], 1;\nbar.sync 0;\nld.global.u32 %r2, [%first];", 32);
}

/// A flag in global memory: released by a fence and a store, acquired by a load, hands over what was written before it.
#[test]
fn a_flag_orders_what_was_written_before_it() {
    let hand_over = |release: &str, acquire: &str| {
        format!(
            "setp.ne.u32 %p0, %tid, 0;\nsetp.ne.u32 %p1, %tid, 32;\n@%p0 bra B;\n\
             st.global.u32 [%first+4096], 7;\n{release}\nB:\n@%p1 bra E;\nW:\n{acquire}\nsetp.eq.u32 %p2, %r2, 0;\n@%p2 bra W;\n\
             ld.global.u32 %r3, [%first+4096];\nE:"
        )
    };
    let load = "ld.acquire.gpu.global.u32 %r2, [%first];";
    clean(&hand_over("st.release.gpu.global.u32 [%first], 1;", load), 32);
    clean(&hand_over("membar.gl;\nst.volatile.global.u32 [%first], 1;", load), 32);
    clean(&hand_over("membar.gl;\natom.global.exch.b32 %r4, [%first], 1;", load), 32);
    race(
        &hand_over("st.volatile.global.u32 [%first], 1;", "ld.volatile.global.u32 %r2, [%first];"),
        32,
        Severity::Error,
    );
}

#[test]
fn the_source_of_an_asynchronous_copy_is_read() {
    let text = "st.global.u32 [%own], %tid;\nBETWEEN\nmov.u32 %r2, tile;\nmad.lo.u32 %r2, %tid, 4, %r2;\n\
                cp.async.ca.shared.global [%r2], [%other], 4;\ncp.async.wait_all;";
    let with =
        |between: &str| format!(".shared .align 16 .b8 tile[256];\n{}", text.replace("BETWEEN", between));
    clean(&with("bar.sync 0;"), 32);
    race(&with(""), 32, Severity::Error);
}
