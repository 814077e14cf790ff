//! Planted faults: five kernels, each mutated at every barrier, buffer, fragment, wait and membermask.
//!
//! A mutant counts as detected if a check reports an error, the machine faults, or the result differs. The share
//! is asserted, so it can only be lowered on purpose; `cargo test -- --nocapture` prints it.

#![allow(unreachable_pub)] // A test crate.

use leankv_ptx::{Arg, Config, Divergence, LaunchConfig, Machine, Module};

struct Kernel {
    name: &'static str,
    ptx: String,
    block: u32,
    grid: u32,
    /// Bytes of each buffer; the first is the output.
    buffers: Vec<Vec<u8>>,
    element: usize,
}

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";
const BODY: &str = "{\n.reg .b32 %r<64>, %tid, %cta, %lane, %warp;\n.reg .b64 %rd<32>, %out, %in, %in2;\n.reg .f32 %f<32>;\n.reg .pred %p<16>;\n.reg .b16 %h<8>;\nld.param.u64 %out, [po];\nld.param.u64 %in, [pi];\nmov.u32 %tid, %tid.x;\nmov.u32 %cta, %ctaid.x;\nmov.u32 %lane, %laneid;\nshr.u32 %warp, %tid, 5;\n";
const TWO: &str = ".visible .entry k(.param .u64 po, .param .u64 pi)\n";
const THREE: &str = ".visible .entry k(.param .u64 po, .param .u64 pi, .param .u64 pj)\n";

fn words(n: usize, f: impl Fn(usize) -> u32) -> Vec<u8> {
    (0..n).flat_map(|i| f(i).to_le_bytes()).collect()
}

/// Tree sum of 128 words in shared memory, one barrier a step.
fn tree_sum() -> Kernel {
    let mut s = format!(
        "{HEAD}.shared .align 4 .b8 s[512];\n{TWO}{BODY}mov.u32 %r1, s;\nmad.lo.u32 %r1, %tid, 4, %r1;\nmad.lo.u32 %r9, %cta, 128, %tid;\nmad.wide.u32 %rd1, %r9, 4, %in;\nld.global.u32 %r2, [%rd1];\nst.shared.u32 [%r1], %r2;\n"
    );
    for n in [64, 32, 16, 8, 4, 2, 1] {
        s += &format!(
            "bar.sync 0;\nsetp.lt.u32 %p0, %tid, {n};\n@%p0 ld.shared.u32 %r3, [%r1+{}];\n@%p0 ld.shared.u32 %r4, [%r1];\n@%p0 add.u32 %r4, %r4, %r3;\n@%p0 st.shared.u32 [%r1], %r4;\n",
            4 * n
        );
    }
    s += "bar.sync 0;\nsetp.ne.u32 %p1, %tid, 0;\n@%p1 ret;\nld.shared.u32 %r5, [s];\nmad.wide.u32 %rd2, %cta, 4, %out;\nst.global.u32 [%rd2], %r5;\nret;\n}\n";
    Kernel {
        name: "tree sum",
        ptx: s,
        block: 128,
        grid: 3,
        buffers: vec![words(3, |_| 0), words(384, |i| (i * i % 97) as u32)],
        element: 4,
    }
}

/// Row maximum and sum by shuffles, then across four warps through shared memory.
fn softmax() -> Kernel {
    let mut s = format!(
        "{HEAD}.shared .align 4 .b8 m[16];\n.shared .align 4 .b8 n[16];\n{TWO}{BODY}mad.lo.u32 %r9, %cta, 128, %tid;\nmad.wide.u32 %rd1, %r9, 4, %in;\nld.global.f32 %f0, [%rd1];\nmov.f32 %f1, %f0;\n"
    );
    for d in [16, 8, 4, 2, 1] {
        s += &format!(
            "mov.b32 %r1, %f1;\nshfl.sync.bfly.b32 %r2, %r1, {d}, 31, 0xffffffff;\nmov.b32 %f2, %r2;\nmax.f32 %f1, %f1, %f2;\n"
        );
    }
    s += "mov.u32 %r3, m;\nmad.lo.u32 %r3, %warp, 4, %r3;\nsetp.eq.u32 %p0, %lane, 0;\n@%p0 st.shared.f32 [%r3], %f1;\nbar.sync 0;\nld.shared.f32 %f3, [m];\nld.shared.f32 %f4, [m+4];\nld.shared.f32 %f5, [m+8];\nld.shared.f32 %f6, [m+12];\nmax.f32 %f3, %f3, %f4;\nmax.f32 %f5, %f5, %f6;\nmax.f32 %f3, %f3, %f5;\nsub.f32 %f0, %f0, %f3;\nmul.f32 %f0, %f0, 0f3FB8AA3B;\nex2.approx.f32 %f0, %f0;\nmov.f32 %f1, %f0;\n";
    for d in [16, 8, 4, 2, 1] {
        s += &format!(
            "mov.b32 %r1, %f1;\nshfl.sync.bfly.b32 %r2, %r1, {d}, 31, 0xffffffff;\nmov.b32 %f2, %r2;\nadd.f32 %f1, %f1, %f2;\n"
        );
    }
    s += "mov.u32 %r3, n;\nmad.lo.u32 %r3, %warp, 4, %r3;\n@%p0 st.shared.f32 [%r3], %f1;\nbar.sync 0;\nld.shared.f32 %f3, [n];\nld.shared.f32 %f4, [n+4];\nld.shared.f32 %f5, [n+8];\nld.shared.f32 %f6, [n+12];\nadd.f32 %f3, %f3, %f4;\nadd.f32 %f5, %f5, %f6;\nadd.f32 %f3, %f3, %f5;\ndiv.full.f32 %f0, %f0, %f3;\nmad.wide.u32 %rd2, %r9, 4, %out;\nst.global.f32 [%rd2], %f0;\nret;\n}\n";
    let data = words(256, |i| (((i * 37 % 101) as f32) / 10.0).to_bits());
    Kernel {
        name: "softmax",
        ptx: s,
        block: 128,
        grid: 2,
        buffers: vec![words(256, |_| 0), data],
        element: 4,
    }
}

/// Sum over tiles that arrive by double-buffered asynchronous copies; every thread reads another warp's words.
fn pipeline() -> Kernel {
    let s = format!(
        "{HEAD}.shared .align 16 .b8 s[2048];\n{TWO}{BODY}mov.u32 %r1, s;\nmad.lo.u32 %r2, %tid, 16, %r1;\nmad.wide.u32 %rd1, %tid, 16, %in;\nxor.b32 %r3, %tid, 32;\nmad.lo.u32 %r4, %r3, 16, %r1;\nmov.u32 %r10, 0;\nmov.u32 %r11, 0;\nmov.u32 %r12, 0;\ncp.async.cg.shared.global [%r2], [%rd1], 16;\ncp.async.commit_group;\nLOOP:\nadd.u32 %r12, %r11, 1;\nsetp.ge.u32 %p0, %r12, 5;\n@%p0 bra LAST;\nand.b32 %r13, %r12, 1;\nmad.lo.u32 %r14, %r13, 1024, %r2;\nmad.wide.u32 %rd2, %r12, 1024, %rd1;\ncp.async.cg.shared.global [%r14], [%rd2], 16;\ncp.async.commit_group;\ncp.async.wait_group 1;\nbra GO;\nLAST:\ncp.async.wait_group 0;\nGO:\nbar.sync 0;\nand.b32 %r15, %r11, 1;\nmad.lo.u32 %r16, %r15, 1024, %r4;\nld.shared.v4.u32 {{%r20, %r21, %r22, %r23}}, [%r16];\nmad.lo.u32 %r10, %r10, 3, %r20;\nadd.u32 %r10, %r10, %r21;\nxor.b32 %r10, %r10, %r22;\nadd.u32 %r10, %r10, %r23;\nbar.sync 0;\nmov.u32 %r11, %r12;\nsetp.lt.u32 %p1, %r11, 5;\n@%p1 bra LOOP;\nmad.wide.u32 %rd3, %tid, 4, %out;\nst.global.u32 [%rd3], %r10;\nret;\n}}\n"
    );
    Kernel {
        name: "copy pipeline",
        ptx: s,
        block: 64,
        grid: 1,
        buffers: vec![words(64, |_| 0), words(1280, |i| (i as u32).wrapping_mul(2_654_435_761))],
        element: 4,
    }
}

/// 32 x 8 x 16 matrix product by two warps: A and B staged in shared memory, ldmatrix, mma.
fn matmul() -> Kernel {
    let s = format!(
        "{HEAD}.shared .align 16 .b8 a[1024];\n.shared .align 16 .b8 b[256];\n{THREE}{BODY}ld.param.u64 %in2, [pj];\nmad.wide.u32 %rd1, %tid, 16, %in;\nmov.u32 %r1, a;\nmad.lo.u32 %r2, %tid, 16, %r1;\ncp.async.cg.shared.global [%r2], [%rd1], 16;\nsetp.lt.u32 %p0, %tid, 16;\nmad.wide.u32 %rd2, %tid, 16, %in2;\nmov.u32 %r3, b;\nmad.lo.u32 %r4, %tid, 16, %r3;\n@%p0 cp.async.cg.shared.global [%r4], [%rd2], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\nand.b32 %r5, %lane, 15;\nshl.b32 %r6, %r5, 5;\nshr.u32 %r7, %lane, 4;\nmad.lo.u32 %r6, %r7, 16, %r6;\nmad.lo.u32 %r6, %warp, 512, %r6;\nadd.u32 %r6, %r6, %r1;\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r6];\nand.b32 %r8, %lane, 15;\nmad.lo.u32 %r8, %r8, 16, %r3;\nldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {{%r14, %r15}}, [%r8];\nmov.f32 %f0, 0f00000000;\nmma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f1, %f2, %f3, %f4}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%f0, %f0, %f0, %f0}};\nshr.u32 %r20, %lane, 2;\nand.b32 %r21, %lane, 3;\nmad.lo.u32 %r20, %warp, 16, %r20;\nshl.b32 %r22, %r20, 3;\nmad.lo.u32 %r22, %r21, 2, %r22;\nmad.wide.u32 %rd3, %r22, 4, %out;\nst.global.v2.f32 [%rd3], {{%f1, %f2}};\nst.global.v2.f32 [%rd3+256], {{%f3, %f4}};\nret;\n}}\n"
    );
    let half = |n: usize, k: usize| -> Vec<u8> {
        // Small integers as f16: exact products and sums.
        (0..n).flat_map(|i| half::f16::from_f32(((i * k) % 9) as f32 - 4.0).to_bits().to_le_bytes()).collect()
    };
    Kernel {
        name: "matmul",
        ptx: s,
        block: 64,
        grid: 1,
        buffers: vec![words(256, |_| 0), half(512, 7), half(128, 5)],
        element: 4,
    }
}

/// Histogram in shared memory, added to global memory.
fn histogram() -> Kernel {
    let s = format!(
        "{HEAD}.shared .align 4 .b8 h[128];\n{TWO}{BODY}mov.u32 %r1, h;\nmad.lo.u32 %r2, %tid, 4, %r1;\nsetp.lt.u32 %p0, %tid, 32;\n@%p0 st.shared.u32 [%r2], 0;\nbar.sync 0;\nmad.lo.u32 %r9, %cta, 96, %tid;\nmad.wide.u32 %rd1, %r9, 4, %in;\nld.global.u32 %r3, [%rd1];\nand.b32 %r3, %r3, 31;\nmad.lo.u32 %r4, %r3, 4, %r1;\nred.shared.add.u32 [%r4], 1;\nbar.sync 0;\n@!%p0 ret;\nld.shared.u32 %r5, [%r2];\nmad.wide.u32 %rd2, %tid, 4, %out;\nred.global.add.u32 [%rd2], %r5;\nvote.sync.ballot.b32 %r6, %p0, 0xffffffff;\nret;\n}}\n"
    );
    Kernel {
        name: "histogram",
        ptx: s,
        block: 96,
        grid: 4,
        buffers: vec![words(32, |_| 0), words(384, |i| ((i * 2_654_435) >> 7) as u32)],
        element: 4,
    }
}

/// Output bytes, or what went wrong.
fn run(k: &Kernel, ptx: &str, shrink: Option<usize>, config: Config) -> Result<Vec<u8>, String> {
    let module = Module::parse(ptx).map_err(|e| e.to_string())?;
    let mut m = Machine::new(Config { budget: 5_000_000, ..config });
    let mut args = Vec::new();
    for (i, b) in k.buffers.iter().enumerate() {
        let n = if shrink == Some(i) { b.len() - k.element } else { b.len() };
        let at = m.alloc(n as u64, 16).map_err(|e| e.to_string())?;
        m.write(at, &b[..n]).map_err(|e| e.to_string())?;
        args.push((at, n));
    }
    let shape = LaunchConfig { grid: [k.grid, 1, 1], block: [k.block, 1, 1], dynamic_shared_bytes: 0 };
    let list: Vec<Arg> = args.iter().map(|(a, _)| Arg::U64(*a)).collect();
    let report = m.launch(&module, "k", shape, &list).map_err(|e| e.to_string())?;
    if let Some(f) = report.errors().next() {
        return Err(f.to_string());
    }
    let mut out = vec![0; args[0].1];
    m.read(args[0].0, &mut out).map_err(|e| e.to_string())?;
    Ok(out)
}

/// All mutants of a kernel: description, text, shrunken buffer.
fn mutants(k: &Kernel) -> Vec<(String, String, Option<usize>)> {
    let lines: Vec<&str> = k.ptx.lines().collect();
    let with = |i: usize, line: &str| {
        let mut l: Vec<&str> = lines.clone();
        l[i] = line;
        l.join("\n") + "\n"
    };
    let mut out = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let at = format!("line {}: {line}", i + 1);
        if line.contains("bar.sync") {
            out.push((format!("no barrier, {at}"), with(i, ""), None));
        }
        if line.contains("cp.async.wait") {
            out.push((format!("no wait, {at}"), with(i, ""), None));
        }
        if line.contains("0xffffffff") {
            for bit in [0u32, 13, 31] {
                let mask = format!("0x{:08x}", !(1u32 << bit));
                out.push((
                    format!("mask without lane {bit}, {at}"),
                    with(i, &line.replace("0xffffffff", &mask)),
                    None,
                ));
            }
        }
        if line.starts_with("mma") {
            for (a, b) in [
                ("%r10", "%r11"),
                ("%r11", "%r12"),
                ("%r10", "%r13"),
                ("%r14", "%r15"),
                ("%f1", "%f2"),
                ("%f2", "%f3"),
            ] {
                let swapped = line.replace(a, "%T").replace(b, a).replace("%T", b);
                out.push((format!("{a} and {b} swapped, {at}"), with(i, &swapped), None));
            }
        }
        if line.starts_with(".shared") {
            let size: usize = line.split(['[', ']']).nth(1).and_then(|n| n.parse().ok()).unwrap();
            let smaller = line.replace(&format!("[{size}]"), &format!("[{}]", size - k.element));
            out.push((format!("one element less, {at}"), with(i, &smaller), None));
        }
    }
    for b in 0..k.buffers.len() {
        out.push((format!("buffer {b} one element short"), k.ptx.clone(), Some(b)));
    }
    out
}

/// Reference results, computed in Rust.
fn expected(k: &Kernel) -> Vec<u8> {
    let w = |b: usize, i: usize| u32::from_le_bytes(k.buffers[b][4 * i..4 * i + 4].try_into().unwrap());
    let h = |b: usize, i: usize| {
        half::f16::from_bits(u16::from_le_bytes(k.buffers[b][2 * i..2 * i + 2].try_into().unwrap())).to_f32()
    };
    match k.name {
        "tree sum" => words(3, |c| (0..128).map(|i| w(1, 128 * c + i)).fold(0, u32::wrapping_add)),
        "histogram" => words(32, |b| (0..384).filter(|i| w(1, *i) & 31 == b as u32).count() as u32),
        "copy pipeline" => words(64, |t| {
            let t = t ^ 32;
            (0..5).fold(0u32, |acc, tile| {
                let v = |j: usize| w(1, 256 * tile + 4 * t + j);
                ((acc.wrapping_mul(3).wrapping_add(v(0)).wrapping_add(v(1))) ^ v(2)).wrapping_add(v(3))
            })
        }),
        "matmul" => words(256, |i| {
            let (row, col) = (i / 8, i % 8);
            (0..16).map(|x| h(1, 16 * row + x) * h(2, 8 * x + col)).sum::<f32>().to_bits()
        }),
        _ => Vec::new(),
    }
}

#[test]
fn planted_faults_are_found() {
    let kernels = [tree_sum(), softmax(), pipeline(), matmul(), histogram()];
    let (mut all, mut found) = (0, 0);
    let mut missed = Vec::new();
    for k in &kernels {
        let configs = [
            Config::default(),
            Config { seed: 7, ..Config::default() },
            Config { seed: 3, divergence: Divergence::Independent, ..Config::default() },
        ];
        let right = run(k, &k.ptx, None, configs[0].clone()).unwrap_or_else(|e| panic!("{}: {e}", k.name));
        let want = expected(k);
        assert!(want.is_empty() || want == right, "{} computes something else", k.name);
        for c in &configs {
            let again = run(k, &k.ptx, None, c.clone()).unwrap_or_else(|e| panic!("{}: {e}", k.name));
            assert!(again == right, "{} depends on the schedule", k.name);
        }
        for (what, ptx, shrink) in mutants(k) {
            all += 1;
            let caught = configs.iter().any(|c| match run(k, &ptx, shrink, c.clone()) {
                Ok(out) => out != right,
                Err(_) => true,
            });
            if caught {
                found += 1;
            } else {
                missed.push(format!("{}: {what}", k.name));
            }
        }
    }
    println!("{found} of {all} planted faults found; missed: {missed:#?}");
    assert!(all >= 60, "only {all} mutants");
    // The last barrier of the tree sum is redundant: thread 0 alone reads the word that it wrote itself, so its
    // removal is no fault. Any other miss needs an explanation here.
    assert_eq!(missed.len(), 1, "{found} of {all} found; missed: {missed:#?}");
    assert!(missed[0].starts_with("tree sum: no barrier, line 66"), "{missed:?}");
}
