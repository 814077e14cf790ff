//! Each check can be switched on and off by itself.

use leankv_ptx::{Arg, Checks, Config, FindingKind, LaunchConfig, Machine, Module};

/// A check's switch, and a kernel that it alone has something to say about.
struct Switch {
    field: fn(&mut Checks) -> &mut bool,
    kind: FindingKind,
    body: &'static str,
    blocks: u32,
}

const SWITCHES: &[Switch] = &[
    Switch {
        field: |c| &mut c.uninit_shared,
        kind: FindingKind::UninitShared,
        body: "ld.shared.u32 %r1, [%s];",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.uninit_global,
        kind: FindingKind::UninitGlobal,
        body: "ld.global.u32 %r1, [%fresh];",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.uninit_registers,
        kind: FindingKind::UninitRegister,
        body: "@%p1 mov.u32 %r1, 0;",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.shared_races,
        kind: FindingKind::SharedRace,
        body: "st.shared.u32 [tile], %tid;",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.global_races,
        kind: FindingKind::GlobalRace,
        body: "st.global.u32 [%at], %cta;",
        blocks: 2,
    },
    Switch {
        field: |c| &mut c.barriers,
        kind: FindingKind::BarrierDivergence,
        body: "setp.lt.u32 %p0, %tid, 16;\n@%p0 bra A;\nbar.sync 0;\nbra E;\nA:\nbar.sync 0;\nE:",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.async_copies,
        kind: FindingKind::AsyncCopyInFlight,
        body: "cp.async.ca.shared.global [%s], [%at], 4;\nld.shared.u32 %r1, [%s];\ncp.async.wait_all;",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.membermask,
        kind: FindingKind::Membermask,
        body: "shfl.sync.bfly.b32 %r1, %tid, 1, 31, 0xffff7fff;",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.uniform,
        kind: FindingKind::NotUniform,
        body: "setp.lt.u32 %p0, %tid, 16;\n@%p0 bra.uni A;\nmov.u32 %r1, 0;\nA:",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.uniform,
        kind: FindingKind::NotUniform,
        body: "setp.lt.u32 %p0, %tid, 16;\n@%p0 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [tile];",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.division_by_zero,
        kind: FindingKind::DivisionByZero,
        body: "div.u32 %r1, %tid, %cta;",
        blocks: 1,
    },
    Switch {
        field: |c| &mut c.read_only,
        kind: FindingKind::ReadOnlyWrite,
        body: "ld.global.nc.u32 %r1, [%at];\nst.global.u32 [%at], %r1;",
        blocks: 1,
    },
];

/// The kinds of finding of a run.
fn found(body: &str, blocks: u32, checks: Checks) -> Vec<FindingKind> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.shared .align 16 .b8 tile[128];\n\
         .visible .entry k(.param .u64 pa, .param .u64 pf) {{\n.reg .b32 %r<4>, %tid, %cta, %s;\n.reg .b64 %at, %fresh;\n.reg .pred %p<4>;\n\
         ld.param.u64 %at, [pa];\nld.param.u64 %fresh, [pf];\nmov.u32 %tid, %tid.x;\nmov.u32 %cta, %ctaid.x;\nmov.u32 %s, tile;\n\
         mad.lo.u32 %s, %tid, 4, %s;\nmad.wide.u32 %at, %tid, 4, %at;\nmad.wide.u32 %fresh, %tid, 4, %fresh;\n{body}\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut machine = Machine::new(Config { checks, ..Config::default() });
    let written = machine.alloc(128, 16).expect("there is memory");
    machine.write(written, &[0; 128]).expect("it lies there");
    let fresh = machine.alloc(128, 16).expect("there is memory");
    let shape = LaunchConfig { grid: [blocks, 1, 1], block: [32, 1, 1], dynamic_shared_bytes: 0 };
    let report = machine
        .launch(&module, "k", shape, &[Arg::U64(written), Arg::U64(fresh)])
        .unwrap_or_else(|e| panic!("{body}: {e}"));
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn each_check_is_switched_by_its_own_field_alone() {
    for Switch { field, kind, body, blocks } in SWITCHES {
        let (mut alone, mut others) = (Checks::NONE, Checks::ALL);
        *field(&mut alone) = true;
        *field(&mut others) = false;
        assert!(found(body, *blocks, alone).contains(kind), "{kind:?} is not found by its check");
        assert!(found(body, *blocks, Checks::ALL).contains(kind), "{kind:?} is not found by all checks");
        assert!(!found(body, *blocks, others).contains(kind), "{kind:?} is found by another check");
        assert!(!found(body, *blocks, Checks::NONE).contains(kind), "{kind:?} is found without checks");
    }
}
