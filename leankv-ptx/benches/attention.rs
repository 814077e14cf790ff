//! Warp instructions per second on an attention-like kernel: tiles of K and V arrive by cp.async, go through
//! ldmatrix and mma, the softmax between them by shuffles and exponentials. One worker thread.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use leankv_ptx::{Arg, Checks, Config, LaunchConfig, Machine, Module};
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const TILES: usize = 8;
const KEYS: usize = 32;
const HEAD_DIM: usize = 64;

/// Four warps of 16 query rows; per tile 32 keys of dimension 64 for K, then as many for V.
fn kernel() -> String {
    let mut s = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.shared .align 16 .b8 s[8192];\n.visible .entry attend(.param .u64 po, .param .u64 pk, .param .u64 pv, .param .u64 pq) {\n\
         .reg .b32 %r<400>;\n.reg .b64 %rd<32>;\n.reg .f32 %f<400>;\n.reg .pred %p<8>;\n\
         ld.param.u64 %rd0, [po];\nld.param.u64 %rd1, [pk];\nld.param.u64 %rd2, [pv];\nld.param.u64 %rd3, [pq];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, %laneid;\nshr.u32 %r2, %r0, 5;\nmov.u32 %r3, s;\n\
         mov.u32 %r4, %ctaid.x;\nmad.lo.u32 %r5, %r4, 4, %r2;\nmul.lo.u32 %r5, %r5, 16;\n",
    );
    // Q fragments: row g, columns 2t.. of four k-steps.
    s += "shr.u32 %r6, %r1, 2;\nand.b32 %r7, %r1, 3;\nadd.u32 %r8, %r5, %r6;\nmad.lo.u32 %r8, %r8, 64, 0;\nmad.lo.u32 %r8, %r7, 2, %r8;\nmad.wide.u32 %rd4, %r8, 2, %rd3;\n";
    for k in 0..4 {
        for (i, off) in [0, 1024, 16, 1040].iter().enumerate() {
            let _ = writeln!(s, "ld.global.nc.b32 %r{}, [%rd4+{}];", 20 + 4 * k + i, off + 32 * k);
        }
    }
    for i in 0..32 {
        let _ = writeln!(s, "mov.f32 %f{}, 0f00000000;", 100 + i);
    }
    s += "mov.f32 %f90, 0fC6000000;\nmov.f32 %f91, 0fC6000000;\nmov.f32 %f92, 0f00000000;\nmov.f32 %f93, 0f00000000;\nmov.u32 %r10, 0;\n";
    // Swizzled staging: each thread copies two 16-byte pieces of K and of V.
    s += "shr.u32 %r11, %r0, 3;\nand.b32 %r12, %r0, 7;\nand.b32 %r13, %r11, 7;\nxor.b32 %r13, %r12, %r13;\nmad.lo.u32 %r14, %r11, 128, %r3;\nmad.lo.u32 %r14, %r13, 16, %r14;\nmul.wide.u32 %rd5, %r0, 16;\nadd.s64 %rd6, %rd1, %rd5;\nadd.s64 %rd7, %rd2, %rd5;\n";
    s += "LOOP:\nbar.sync 0;\n";
    for (base, src) in [(0, 6), (4096, 7)] {
        for half in 0..2 {
            let _ = writeln!(
                s,
                "cp.async.cg.shared.global [%r14+{}], [%rd{src}+{}], 16;",
                base + 2048 * half,
                2048 * half
            );
        }
    }
    s += "cp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\n";
    for i in 0..16 {
        let _ = writeln!(s, "mov.f32 %f{i}, 0f00000000;");
    }
    // S = Q K^T: per k-step and pair of 8-key blocks one ldmatrix.x4 and two mma.
    s += "and.b32 %r15, %r1, 7;\nshr.u32 %r16, %r1, 3;\nand.b32 %r17, %r16, 1;\nshr.u32 %r18, %r16, 1;\n";
    for k in 0..4 {
        for pair in 0..2 {
            let _ = writeln!(
                s,
                "shl.b32 %r60, %r18, 3;\nadd.u32 %r60, %r60, %r15;\nadd.u32 %r61, %r17, {};\nxor.b32 %r61, %r61, %r15;\nmad.lo.u32 %r62, %r60, 128, %r3;\nmad.lo.u32 %r62, %r61, 16, %r62;\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r64, %r65, %r66, %r67}}, [%r62+{}];",
                2 * k,
                2048 * pair
            );
            for b in 0..2 {
                let f = 8 * pair + 4 * b;
                let _ = writeln!(
                    s,
                    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f{f}, %f{}, %f{}, %f{}}}, {{%r{}, %r{}, %r{}, %r{}}}, {{%r{}, %r{}}}, {{%f{f}, %f{}, %f{}, %f{}}};",
                    f + 1,
                    f + 2,
                    f + 3,
                    20 + 4 * k,
                    21 + 4 * k,
                    22 + 4 * k,
                    23 + 4 * k,
                    64 + 2 * b,
                    65 + 2 * b,
                    f + 1,
                    f + 2,
                    f + 3
                );
            }
        }
    }
    // Online softmax of two rows a lane.
    for row in 0..2 {
        let m = 90 + row;
        let _ = writeln!(s, "max.f32 %f50, %f{}, %f{};", 2 * row, 2 * row + 1);
        for b in 1..4 {
            let _ = writeln!(
                s,
                "max.f32 %f50, %f50, %f{};\nmax.f32 %f50, %f50, %f{};",
                4 * b + 2 * row,
                4 * b + 2 * row + 1
            );
        }
        for d in [1, 2] {
            let _ = writeln!(
                s,
                "mov.b32 %r70, %f50;\nshfl.sync.bfly.b32 %r71, %r70, {d}, 31, -1;\nmov.b32 %f51, %r71;\nmax.f32 %f50, %f50, %f51;"
            );
        }
        let _ = writeln!(
            s,
            "mul.f32 %f50, %f50, 0f3E38AA3B;\nmax.f32 %f52, %f50, %f{m};\nsub.f32 %f53, %f{m}, %f52;\nex2.approx.ftz.f32 %f53, %f53;\nmov.f32 %f{m}, %f52;\nmov.f32 %f54, 0f00000000;"
        );
        for b in 0..4 {
            for c in 0..2 {
                let f = 4 * b + 2 * row + c;
                let _ = writeln!(
                    s,
                    "mul.f32 %f55, %f{f}, 0f3E38AA3B;\nsub.f32 %f55, %f55, %f52;\nex2.approx.ftz.f32 %f{f}, %f55;\nadd.f32 %f54, %f54, %f{f};"
                );
            }
        }
        let _ = writeln!(s, "fma.rn.f32 %f{}, %f{}, %f53, %f54;", 92 + row, 92 + row);
        for b in 0..8 {
            for c in 0..2 {
                let f = 100 + 4 * b + 2 * row + c;
                let _ = writeln!(s, "mul.f32 %f{f}, %f{f}, %f53;");
            }
        }
    }
    for b in 0..4 {
        let _ = writeln!(s, "cvt.rn.f16x2.f32 %r{}, %f{}, %f{};", 80 + 2 * b, 4 * b + 1, 4 * b);
        let _ = writeln!(s, "cvt.rn.f16x2.f32 %r{}, %f{}, %f{};", 81 + 2 * b, 4 * b + 3, 4 * b + 2);
    }
    // O += P V.
    for k in 0..2 {
        for pair in 0..4 {
            let _ = writeln!(
                s,
                "shl.b32 %r60, %r17, 3;\nadd.u32 %r60, %r60, %r15;\nadd.u32 %r61, %r18, {};\nxor.b32 %r61, %r61, %r15;\nmad.lo.u32 %r62, %r60, 128, %r3;\nmad.lo.u32 %r62, %r61, 16, %r62;\nldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r64, %r65, %r66, %r67}}, [%r62+{}];",
                2 * pair,
                4096 + 2048 * k
            );
            for b in 0..2 {
                let f = 100 + 8 * pair + 4 * b;
                let p = 80 + 4 * k;
                let _ = writeln!(
                    s,
                    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f{f}, %f{}, %f{}, %f{}}}, {{%r{}, %r{}, %r{}, %r{}}}, {{%r{}, %r{}}}, {{%f{f}, %f{}, %f{}, %f{}}};",
                    f + 1,
                    f + 2,
                    f + 3,
                    p,
                    p + 1,
                    p + 2,
                    p + 3,
                    64 + 2 * b,
                    65 + 2 * b,
                    f + 1,
                    f + 2,
                    f + 3
                );
            }
        }
    }
    let _ = writeln!(
        s,
        "add.s64 %rd6, %rd6, 4096;\nadd.s64 %rd7, %rd7, 4096;\nadd.u32 %r10, %r10, 1;\nsetp.lt.u32 %p0, %r10, {TILES};\n@%p0 bra LOOP;"
    );
    for row in 0..2 {
        for d in [1, 2] {
            let _ = writeln!(
                s,
                "mov.b32 %r70, %f{0};\nshfl.sync.bfly.b32 %r71, %r70, {d}, 31, -1;\nmov.b32 %f51, %r71;\nadd.f32 %f{0}, %f{0}, %f51;",
                92 + row
            );
        }
        let _ = writeln!(s, "rcp.approx.f32 %f{0}, %f{0};", 92 + row);
    }
    s += "mad.wide.u32 %rd8, %r8, 4, %rd0;\n";
    for b in 0..8 {
        for row in 0..2 {
            let f = 100 + 4 * b + 2 * row;
            let _ = writeln!(
                s,
                "mul.f32 %f{f}, %f{f}, %f{};\nmul.f32 %f{}, %f{}, %f{};",
                92 + row,
                f + 1,
                f + 1,
                92 + row
            );
            let _ = writeln!(s, "st.global.v2.f32 [%rd8+{}], {{%f{f}, %f{}}};", 32 * b + 2048 * row, f + 1);
        }
    }
    s + "ret;\n}\n"
}

struct Setup {
    machine: Machine,
    module: Module,
    args: Vec<Arg>,
    shape: LaunchConfig,
}

fn setup(checks: Checks) -> Setup {
    let blocks = 4;
    let module = Module::parse(&kernel()).expect("the kernel is valid");
    let mut machine = Machine::new(Config { checks, ..Config::default() });
    let mut half = |n: usize| {
        let data: Vec<u8> = (0..n)
            .flat_map(|i| half::f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 50.0).to_bits().to_le_bytes())
            .collect();
        let at = machine.alloc(data.len() as u64, 256).expect("memory");
        machine.write(at, &data).expect("in range");
        at
    };
    let k = half(TILES * KEYS * HEAD_DIM);
    let v = half(TILES * KEYS * HEAD_DIM);
    let q = half(blocks * 64 * HEAD_DIM);
    let o = machine.alloc((blocks * 64 * HEAD_DIM * 4) as u64, 256).expect("memory");
    let args = vec![Arg::U64(o), Arg::U64(k), Arg::U64(v), Arg::U64(q)];
    let shape = LaunchConfig { grid: [blocks as u32, 1, 1], block: [128, 1, 1], dynamic_shared_bytes: 0 };
    Setup { machine, module, args, shape }
}

/// Time this thread was on a processor, so that other load on the machine does not count; wall time elsewhere.
fn cpu_time() -> Duration {
    let on_cpu = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|s| s.split_whitespace().next().and_then(|n| n.parse().ok()));
    match on_cpu {
        Some(ns) => Duration::from_nanos(ns),
        None => START.get_or_init(Instant::now).elapsed(),
    }
}

static START: OnceLock<Instant> = OnceLock::new();

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (name, checks) in [("checks on", Checks::ALL), ("checks off", Checks::NONE)] {
        let mut s = setup(checks);
        let report = s.machine.launch(&s.module, "attend", s.shape, &s.args).expect("runs");
        assert!(report.is_clean(), "{}", report.findings[0]);
        // Elements are warp instructions.
        group.throughput(Throughput::Elements(report.counters.warp_instructions));
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let start = cpu_time();
                for _ in 0..n {
                    let _ = std::hint::black_box(s.machine.launch(&s.module, "attend", s.shape, &s.args));
                }
                cpu_time() - start
            });
        });
    }
    group.finish();
}

fn parse(c: &mut Criterion) {
    let text = kernel();
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("attention kernel", |b| b.iter(|| Module::parse(&text)));
    group.finish();
}

criterion_group!(benches, attention, parse);
criterion_main!(benches);
