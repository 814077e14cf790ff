//! Matrix multiply-accumulate of every shape and type, and matrix moves.

use crate::harness::{Rng, T};
use crate::reference::Table;
use leankv_ptx::{Arg, Config, LaunchConfig, Machine, Module};

/// Runs one warp: `regs` are 32-bit input words per register and lane; returns the output registers.
pub fn warp(body: &str, outs: usize, ins: &[[u32; 32]], config: Config) -> Vec<[u32; 32]> {
    warp_with_shared(body, outs, ins, config, "")
}

pub fn warp_with_shared(
    body: &str,
    outs: usize,
    ins: &[[u32; 32]],
    config: Config,
    decl: &str,
) -> Vec<[u32; 32]> {
    let mut load = String::new();
    for i in 0..ins.len() {
        load += &format!("ld.global.b32 %i{i}, [%in + {}];\n", i * 128);
    }
    let mut store = String::new();
    for i in 0..outs {
        store += &format!("st.global.b32 [%out + {}], %o{i};\n", i * 128);
    }
    let ptx = format!(
        ".version 8.8\n.target sm_100a\n.address_size 64\n.visible .entry k(.param .u64 po, .param .u64 pi) {{\n{decl}\n\
         .reg .b32 %i<64>, %o<32>, %lane, %s, %x<8>;\n.reg .b64 %in, %out, %wide, %f<16>;\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n\
         ld.param.u64 %out, [po];\n ld.param.u64 %in, [pi];\n mov.u32 %lane, %laneid;\n\
         mad.wide.u32 %in, %lane, 4, %in;\n mad.wide.u32 %out, %lane, 4, %out;\n{load}{body}\n{store}ret;\n}}\n"
    );
    let module = Module::parse(&ptx).unwrap_or_else(|e| panic!("{body}: {e}"));
    let mut m = Machine::new(config);
    let pi = m.alloc((ins.len() * 128).max(128) as u64, 128).unwrap();
    let po = m.alloc((outs * 128).max(128) as u64, 128).unwrap();
    let data: Vec<u8> = ins.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    m.write(pi, &data).unwrap();
    let shape = LaunchConfig { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared_bytes: 0 };
    let report = m
        .launch(&module, "k", shape, &[Arg::U64(po), Arg::U64(pi)])
        .unwrap_or_else(|e| panic!("{body}: {e}"));
    assert!(report.is_clean(), "{body}: {}", report.findings[0]);
    let mut out = vec![0u8; outs * 128];
    m.read(po, &mut out).unwrap();
    out.chunks(128)
        .map(|c| std::array::from_fn(|l| u32::from_le_bytes(c[4 * l..4 * l + 4].try_into().unwrap())))
        .collect()
}

/// Element encodings: bits, and the value of a pattern.
struct Elem {
    bits: u32,
    value: Box<dyn Fn(u64) -> f64>,
    random: Box<dyn Fn(&mut Rng) -> u64>,
}

fn elem(ty: &str) -> Elem {
    let signed = |bits: u32| {
        move |v: u64| {
            let s = 64 - bits;
            ((v << s) as i64 >> s) as f64
        }
    };
    match ty {
        "f16" | "bf16" => {
            let table = if ty == "f16" { Table::f16() } else { Table::bf16() };
            let (one, spread) = if ty == "f16" { (0x3c00u64, 0xbfff) } else { (0x3f80, 0x81ff) };
            Elem {
                bits: 16,
                value: Box::new(move |v| table.value(v)),
                random: Box::new(move |r| {
                    let v = r.next();
                    (one - (v & 0x3ff) + (v >> 20 & 0x3ff)) & 0x7fff | (v >> 40 & 0x8000) & spread
                }),
            }
        }
        "tf32" => Elem {
            bits: 32,
            value: Box::new(|v| f64::from(f32::from_bits(v as u32 & 0xffff_e000))),
            random: Box::new(|r| u64::from((((r.next() >> 32) as i32) as f32 / 1e9).to_bits() & 0xffff_e000)),
        },
        "e4m3" | "e5m2" => {
            let e4 = ty == "e4m3";
            Elem {
                bits: 8,
                value: Box::new(move |v| {
                    let s = if v & 0x80 != 0 { -1.0 } else { 1.0 };
                    let b = v & 0x7f;
                    let (e, m, bias) = if e4 {
                        (b >> 3, (b & 7) as f64 / 8.0, 7)
                    } else {
                        (b >> 2, (b & 3) as f64 / 4.0, 15)
                    };
                    s * if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(e as i32 - bias) }
                }),
                random: Box::new(move |r| {
                    let v = r.next();
                    // Around one, no NaN.
                    (if e4 { 0x30 + (v & 15) } else { 0x38 + (v & 7) }) | (v >> 20 & 0x80)
                }),
            }
        }
        "f64" => Elem {
            bits: 64,
            value: Box::new(f64::from_bits),
            random: Box::new(|r| (((r.next() >> 11) as f64) / 9e15 - 0.5).to_bits()),
        },
        "b1" => Elem { bits: 1, value: Box::new(|v| v as f64), random: Box::new(|r| r.next() >> 7 & 1) },
        _ => {
            let bits: u32 = ty[1..].parse().unwrap();
            let m = (1u64 << bits) - 1;
            let value: Box<dyn Fn(u64) -> f64> =
                if ty.starts_with('s') { Box::new(signed(bits)) } else { Box::new(|v| v as f64) };
            Elem { bits, value, random: Box::new(move |r| r.next() >> 13 & m) }
        }
    }
}

/// Register, lane and element position of A's (row, k), written from the ISA's figures: `rows` is 8 or 16.
fn place(bits: u32, rows: usize, row: usize, k: usize) -> (usize, usize, usize) {
    let per_reg = (32 / bits.min(32)) as usize;
    let group = row % 8;
    let span = per_reg * 4;
    let (block, inside) = (k / span, k % span);
    let lane = group * 4 + inside / per_reg;
    let reg = if rows == 16 { 2 * block + row / 8 } else { block };
    (reg, lane, inside % per_reg)
}

struct Case {
    shape: &'static str,
    m: usize,
    k: usize,
    a: &'static str,
    b: &'static str,
    acc: &'static str,
    sat: bool,
}

fn case(shape: &'static str, a: &'static str, b: &'static str, acc: &'static str) -> Case {
    let m = if shape.starts_with("m16") { 16 } else { 8 };
    let k = shape.split('k').nth(1).unwrap().parse().unwrap();
    Case { shape, m, k, a, b, acc, sat: false }
}

fn words(bits: u32, regs: usize, put: impl Fn(&mut dyn FnMut(usize, usize, usize, u64))) -> Vec<[u32; 32]> {
    let mut out = vec![[0u32; 32]; regs];
    put(&mut |reg, lane, pos, v| {
        out[reg][lane] |= ((v as u32) & (u32::MAX >> (32 - bits.min(32)))) << (pos as u32 * bits)
    });
    out
}

/// One mma against an f64 (or exact integer) product.
fn check(c: &Case, seed: u64, mma_seed: u64) {
    let (ea, eb) = (elem(c.a), elem(c.b));
    let mut rng = Rng(seed | 1);
    let a: Vec<Vec<u64>> = (0..c.m).map(|_| (0..c.k).map(|_| (ea.random)(&mut rng)).collect()).collect();
    let b: Vec<Vec<u64>> = (0..c.k).map(|_| (0..8).map(|_| (eb.random)(&mut rng)).collect()).collect();
    let integer = c.acc == "s32";
    let cc: Vec<Vec<f64>> = (0..c.m)
        .map(|_| {
            (0..8)
                .map(|_| {
                    let r = rng.next();
                    match c.acc {
                        "s32" if c.sat => f64::from((r >> 32) as i32 | 0x7f00_0000),
                        "s32" => f64::from((r >> 40) as i32 - (1 << 23)),
                        "f16" => f64::from((r >> 60) as i32 - 8),
                        _ => f64::from(((r >> 32) as i32 as f32) / 1e9),
                    }
                })
                .collect()
        })
        .collect();
    let na = (c.m * c.k * ea.bits as usize / 32 / 32).max(1);
    let nb = (8 * c.k * eb.bits as usize / 32 / 32).max(1);
    let aw = words(ea.bits, na, |put| {
        for row in 0..c.m {
            for k in 0..c.k {
                let (r, l, p) = place(ea.bits, c.m, row, k);
                put(r, l, p, a[row][k]);
            }
        }
    });
    let bw = words(eb.bits, nb, |put| {
        for col in 0..8 {
            for k in 0..c.k {
                let (r, l, p) = place(eb.bits, 8, col, k);
                put(r, l, p, b[k][col]);
            }
        }
    });
    let f16 = Table::f16();
    let acc_bits = |v: f64| match c.acc {
        "s32" => v as i32 as u32,
        "f16" => f16.round(v, 0.0, crate::reference::R::N) as u32,
        _ => (v as f32).to_bits(),
    };
    let half = c.acc == "f16";
    let nc = if half { c.m * 8 / 64 } else { c.m * 8 / 32 };
    let at = |row: usize, col: usize| {
        let lane = row % 8 * 4 + col / 2;
        if half { (row / 8, lane, col % 2 * 16) } else { (row / 8 * 2 + col % 2, lane, 0) }
    };
    let mut cw = vec![[0u32; 32]; nc];
    for row in 0..c.m {
        for col in 0..8 {
            let (r, l, s) = at(row, col);
            cw[r][l] |= acc_bits(cc[row][col]) << s;
        }
    }
    let list = |p: &str, from: usize, n: usize| {
        let v: Vec<String> = (from..from + n).map(|i| format!("{p}{i}")).collect();
        format!("{{{}}}", v.join(", "))
    };
    let sat = if c.sat { ".satfinite" } else { "" };
    let (op, tail) = if c.a == "b1" { ("", ".xor.popc") } else { ("", "") };
    let body = format!(
        "mma.sync.aligned.{}.row.col{sat}{op}.{}.{}.{}.{}{tail} {}, {}, {}, {};",
        c.shape,
        c.acc,
        c.a,
        c.b,
        c.acc,
        list("%o", 0, nc),
        list("%i", 0, na),
        list("%i", na, nb),
        list("%i", na + nb, nc),
    );
    let ins: Vec<[u32; 32]> = aw.into_iter().chain(bw).chain(cw).collect();
    let out = warp(&body, nc, &ins, Config { mma_seed, ..Config::default() });
    for row in 0..c.m {
        for col in 0..8 {
            let product = |k: usize| {
                let (x, y) = ((ea.value)(a[row][k]), (eb.value)(b[k][col]));
                if c.a == "b1" { (x - y).abs() } else { x * y }
            };
            let want: f64 = (0..c.k).map(product).sum::<f64>() + cc[row][col];
            let scale: f64 = (0..c.k).map(|k| product(k).abs()).sum::<f64>() + cc[row][col].abs();
            let (r, l, s) = at(row, col);
            let bits = out[r][l] >> s;
            if integer {
                let want =
                    if c.sat { want.clamp(-2147483648.0, 2147483647.0) as i32 } else { want as i64 as i32 };
                assert_eq!(bits as i32, want, "{body} at {row},{col}");
            } else {
                let got = if half { f16.value(u64::from(bits)) } else { f64::from(f32::from_bits(bits)) };
                let bound = scale * if half { 2f64.powi(-10) } else { 2f64.powi(-20) } + 1e-30;
                assert!((got - want).abs() <= bound, "{body} at {row},{col}: {got}, want {want}");
            }
        }
    }
}

#[test]
fn floating_point_products_of_every_shape() {
    for (shape, a, b, acc) in [
        ("m16n8k16", "f16", "f16", "f32"),
        ("m16n8k16", "f16", "f16", "f16"),
        ("m16n8k16", "bf16", "bf16", "f32"),
        ("m16n8k8", "f16", "f16", "f32"),
        ("m16n8k8", "f16", "f16", "f16"),
        ("m16n8k8", "bf16", "bf16", "f32"),
        ("m16n8k4", "tf32", "tf32", "f32"),
        ("m16n8k8", "tf32", "tf32", "f32"),
        ("m16n8k32", "e4m3", "e4m3", "f32"),
        ("m16n8k32", "e4m3", "e5m2", "f32"),
        ("m16n8k32", "e5m2", "e4m3", "f32"),
        ("m16n8k32", "e5m2", "e5m2", "f32"),
        ("m16n8k16", "e4m3", "e4m3", "f32"),
        ("m16n8k32", "e4m3", "e4m3", "f16"),
    ] {
        for seed in [3, 1234567] {
            check(&case(shape, a, b, acc), seed, 0);
        }
    }
}

#[test]
fn integer_products_of_every_shape_and_sign() {
    for (shape, ty) in [
        ("m16n8k16", "8"),
        ("m16n8k32", "8"),
        ("m8n8k16", "8"),
        ("m16n8k32", "4"),
        ("m16n8k64", "4"),
        ("m8n8k32", "4"),
    ] {
        for (a, b) in [("s", "s"), ("s", "u"), ("u", "s"), ("u", "u")] {
            let name = |s: &str| -> &'static str {
                match (s, ty) {
                    ("s", "8") => "s8",
                    ("u", "8") => "u8",
                    ("s", _) => "s4",
                    _ => "u4",
                }
            };
            let mut c = case(shape, name(a), name(b), "s32");
            check(&c, 99, 0);
            c.sat = true;
            check(&c, 77, 0);
        }
    }
    for shape in ["m16n8k128", "m16n8k256", "m8n8k128"] {
        check(&case(shape, "b1", "b1", "s32"), 5, 0);
    }
}

#[test]
fn accumulation_order_moves_results_within_the_bound_only() {
    for seed in 1..6 {
        check(&case("m16n8k16", "f16", "f16", "f32"), 3, seed);
        check(&case("m16n8k32", "s8", "s8", "s32"), 3, seed);
    }
}

#[test]
fn double_precision_products() {
    // m8n8k4: one element of A and B per lane, two of C.
    let mut rng = Rng(17);
    let mut v = |n: usize| -> Vec<f64> { (0..n).map(|_| (rng.next() >> 11) as f64 / 9e15 - 0.5).collect() };
    let (a, b, c) = (v(32), v(32), v(64));
    let words = |x: &[f64]| -> Vec<[u32; 32]> {
        let lo = std::array::from_fn(|l| x[l].to_bits() as u32);
        let hi = std::array::from_fn(|l| (x[l].to_bits() >> 32) as u32);
        vec![lo, hi]
    };
    let c0: Vec<f64> = (0..32).map(|l| c[2 * l]).collect();
    let c1: Vec<f64> = (0..32).map(|l| c[2 * l + 1]).collect();
    let ins: Vec<[u32; 32]> = [words(&a), words(&b), words(&c0), words(&c1)].concat();
    let body = "mov.b64 %f0, {%i0, %i1};\n mov.b64 %f1, {%i2, %i3};\n mov.b64 %f2, {%i4, %i5};\n mov.b64 %f3, {%i6, %i7};\n mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%f4, %f5}, {%f0}, {%f1}, {%f2, %f3};\n mov.b64 {%o0, %o1}, %f4;\n mov.b64 {%o2, %o3}, %f5;";
    let out = warp(body, 4, &ins, Config::default());
    for row in 0..8 {
        for col in 0..8 {
            // A: lane = 4 row + k. B: lane = 4 col + k. C: lane = 4 row + col / 2.
            let want: f64 = (0..4).map(|k| a[4 * row + k] * b[4 * col + k]).sum::<f64>()
                + c[2 * (4 * row + col / 2) + col % 2];
            let l = 4 * row + col / 2;
            let r = 2 * (col % 2);
            let got = f64::from_bits(u64::from(out[r][l]) | u64::from(out[r + 1][l]) << 32);
            assert!((got - want).abs() < 1e-14, "{row},{col}");
        }
    }
}

/// Fills shared memory with its own half-word indices, row l at 16 * l with a stride of 16 bytes.
const FILL: &str = "mov.u32 %s, m;\n mad.lo.u32 %s, %lane, 16, %s;\n shl.b32 %x0, %lane, 3;\n add.u32 %x1, %x0, 1;\n shl.b32 %x1, %x1, 16;\n or.b32 %x0, %x0, %x1;\n \
     add.u32 %x1, %x0, 0x20002;\n add.u32 %x2, %x0, 0x40004;\n add.u32 %x3, %x0, 0x60006;\n st.shared.v4.b32 [%s], {%x0, %x1, %x2, %x3};\n bar.warp.sync 0xffffffff;\n";
const SHARED: &str = ".shared .align 16 .b8 m[512];";

#[test]
fn ldmatrix_distributes_rows() {
    for (x, n) in [("x1", 1usize), ("x2", 2), ("x4", 4)] {
        for trans in [false, true] {
            let regs: Vec<String> = (0..n).map(|i| format!("%o{i}")).collect();
            let t = if trans { ".trans" } else { "" };
            let body =
                format!("{FILL}ldmatrix.sync.aligned.m8n8.{x}{t}.shared.b16 {{{}}}, [%s];", regs.join(", "));
            let out = warp_with_shared(&body, n, &[], Config::default(), SHARED);
            for (j, o) in out.iter().enumerate() {
                for (l, v) in o.iter().enumerate() {
                    // Element (row, col) of matrix j is 8 * (8 j + row) + col.
                    let e = |row: usize, col: usize| (8 * (8 * j + row) + col) as u32;
                    let (r, c) = (l / 4, 2 * (l % 4));
                    let want = if trans { e(c, r) | e(c + 1, r) << 16 } else { e(r, c) | e(r, c + 1) << 16 };
                    assert_eq!(*v, want, "{x} trans {trans} matrix {j} lane {l}");
                }
            }
        }
    }
}

#[test]
fn stmatrix_is_the_inverse_of_ldmatrix() {
    for t in ["", ".trans"] {
        let body = format!(
            "{FILL}ldmatrix.sync.aligned.m8n8.x4{t}.shared.b16 {{%x0, %x1, %x2, %x3}}, [%s];\n bar.warp.sync 0xffffffff;\n \
             xor.b32 %x0, %x0, 0x80008000;\n xor.b32 %x1, %x1, 0x80008000;\n xor.b32 %x2, %x2, 0x80008000;\n xor.b32 %x3, %x3, 0x80008000;\n \
             stmatrix.sync.aligned.m8n8.x4{t}.shared.b16 [%s], {{%x0, %x1, %x2, %x3}};\n bar.warp.sync 0xffffffff;\n ld.shared.v4.b32 {{%o0, %o1, %o2, %o3}}, [%s];"
        );
        let out = warp_with_shared(&body, 4, &[], Config::default(), SHARED);
        for (i, o) in out.iter().enumerate() {
            for (l, v) in o.iter().enumerate() {
                let e = (8 * l + 2 * i) as u32;
                assert_eq!(*v, (e | (e + 1) << 16) ^ 0x8000_8000, "register {i} lane {l}");
            }
        }
    }
}

#[test]
fn movmatrix_transposes() {
    let input: [u32; 32] = std::array::from_fn(|l| {
        let e = (l / 4 * 8 + 2 * (l % 4)) as u32;
        e | (e + 1) << 16
    });
    let out = warp("movmatrix.sync.aligned.m8n8.trans.b16 %o0, %i0;", 1, &[input], Config::default());
    for (l, v) in out[0].iter().enumerate() {
        let (r, c) = (l / 4, 2 * (l % 4));
        let e = |row: usize, col: usize| (8 * row + col) as u32;
        assert_eq!(*v, e(c, r) | e(c + 1, r) << 16);
    }
}

#[test]
fn a_fragment_register_has_the_documented_count() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {\n.reg .b32 %r<16>;\nmma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5,%r6}, {%r8,%r9}, {%r0,%r1,%r2,%r3};\nret;\n}\n";
    let e = Module::parse(ptx).unwrap_err();
    assert_eq!(e.line, 6);
    assert!(e.message.contains("needs 4 registers for A, found 3"), "{e}");
    let _ = T::B32;
}
