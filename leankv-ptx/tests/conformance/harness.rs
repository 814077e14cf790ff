//! Runs one instruction over many operand tuples.

use leankv_ptx::{Arg, Config, LaunchConfig, Machine, Module};

/// Operand classes: register declaration, load and store suffix, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum T {
    P,
    B16,
    B32,
    B64,
}

impl T {
    fn reg(self) -> &'static str {
        match self {
            T::P => ".pred",
            T::B16 => ".b16",
            T::B32 => ".b32",
            T::B64 => ".b64",
        }
    }

    fn bytes(self) -> usize {
        match self {
            T::P | T::B32 => 4,
            T::B16 => 2,
            T::B64 => 8,
        }
    }
}

pub const ELEMENTS: usize = 512;

/// A small deterministic generator.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Values that break naive code, for integers and floats of every width.
pub const SPECIAL: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    u64::MAX - 1,
    0x5555_5555_5555_5555,
    0xdead_beef_0bad_f00d,
];

/// Bit patterns of f32 that matter.
pub const F32_SPECIAL: &[u32] = &[
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0xc020_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x7f80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x007f_ffff,
    0x0000_0001,
    0x8000_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x4f80_0000,
    0x5f00_0000,
    0x3f7f_ffff,
    0x3f80_0001,
    0x4b80_0000,
    0x477f_e000,
    0x477f_f000,
    0x3380_0000,
    0x387f_c000,
];

/// f16 patterns that matter.
pub const F16_SPECIAL: &[u32] = &[
    0, 0x8000, 0x3c00, 0xbc00, 0x3800, 0x7c00, 0xfc00, 0x7e00, 0x7c01, 0x7bff, 0xfbff, 0x0400, 0x03ff,
    0x0001, 0x8001, 0x8400, 0x3555, 0x4248,
];

/// Mixes special and random values.
pub fn values(special: &[u64], seed: u64) -> Vec<u64> {
    let mut rng = Rng(seed | 1);
    (0..ELEMENTS)
        .map(|_| {
            let r = rng.next();
            if r & 3 != 0 { special[(r >> 8) as usize % special.len()] } else { rng.next() }
        })
        .collect()
}

pub fn ints(seed: u64) -> Vec<u64> {
    values(SPECIAL, seed)
}

/// f32 patterns: special values, uniformly random bits and ordinary magnitudes.
pub fn floats(seed: u64) -> Vec<u64> {
    let special: Vec<u64> = F32_SPECIAL.iter().map(|v| u64::from(*v)).collect();
    let mut rng = Rng(seed | 1);
    (0..ELEMENTS)
        .map(|_| {
            let r = rng.next();
            match r % 4 {
                0 => special[(r >> 8) as usize % special.len()],
                1 => r >> 32,
                _ => {
                    let v = ((r >> 16) as i32 as f32) / 65536.0;
                    u64::from((v * 0.01).to_bits())
                }
            }
        })
        .collect()
}

pub fn doubles(seed: u64) -> Vec<u64> {
    let mut rng = Rng(seed | 1);
    floats(seed)
        .into_iter()
        .map(|v| {
            let r = rng.next();
            match r % 8 {
                0 => rng.next(),
                1 => [
                    0x7ff0_0000_0000_0000,
                    0xfff0_0000_0000_0000,
                    0x7ff8_0000_0000_0000,
                    1,
                    0x8000_0000_0000_0000,
                    0x000f_ffff_ffff_ffff,
                ][(r >> 8) as usize % 6],
                _ => (f64::from(f32::from_bits(v as u32)) * 1.000_000_1).to_bits(),
            }
        })
        .collect()
}

/// Pairs of f16 patterns in one word.
pub fn halves(seed: u64) -> Vec<u64> {
    let mut rng = Rng(seed | 1);
    (0..ELEMENTS)
        .map(|_| {
            let mut one = || {
                let r = rng.next();
                if r & 1 == 0 {
                    u64::from(F16_SPECIAL[(r >> 8) as usize % F16_SPECIAL.len()])
                } else {
                    r >> 48
                }
            };
            one() | one() << 16
        })
        .collect()
}

/// Runs `body` for every tuple of inputs `a`, `b`, `c`, `e`; it computes `d` (and `d2` if `outs` has two).
pub fn run(config: Config, body: &str, ins: &[(T, Vec<u64>)], outs: &[T]) -> Vec<Vec<u64>> {
    let names = ["a", "b", "c", "e"];
    let out_names = ["d", "d2"];
    let mut decl = String::new();
    let mut load = String::new();
    for (i, (t, _)) in ins.iter().enumerate() {
        let n = names[i];
        decl += &format!(".reg {} {n};\n", t.reg());
        load += &format!("ld.param.u64 %base, [in{i}];\n mad.wide.u32 %at, %i, {}, %base;\n", t.bytes());
        load += &match t {
            T::P => format!("ld.global.b32 %w, [%at];\n setp.ne.u32 {n}, %w, 0;\n"),
            T::B16 => format!("ld.global.b16 {n}, [%at];\n"),
            T::B32 => format!("ld.global.b32 {n}, [%at];\n"),
            T::B64 => format!("ld.global.b64 {n}, [%at];\n"),
        };
    }
    let mut store = String::new();
    for (i, t) in outs.iter().enumerate() {
        let n = out_names[i];
        decl += &format!(".reg {} {n};\n", t.reg());
        store += &format!("ld.param.u64 %base, [out{i}];\n mad.wide.u32 %at, %i, {}, %base;\n", t.bytes());
        store += &match t {
            T::P => format!("selp.u32 %w, 1, 0, {n};\n st.global.b32 [%at], %w;\n"),
            T::B16 => format!("st.global.b16 [%at], {n};\n"),
            T::B32 => format!("st.global.b32 [%at], {n};\n"),
            T::B64 => format!("st.global.b64 [%at], {n};\n"),
        };
    }
    let params: Vec<String> = (0..outs.len())
        .map(|i| format!(".param .u64 out{i}"))
        .chain((0..ins.len()).map(|i| format!(".param .u64 in{i}")))
        .collect();
    let ptx = format!(
        ".version 8.8\n.target sm_100a\n.address_size 64\n.visible .entry k({}) {{\n.reg .b32 %i, %w, %t0, %t1;\n.reg .b16 %h0, %h1;\n.reg .pred %q0, %q1;\n.reg .b64 %base, %at, %u0, %u1;\n{decl}\
         mov.u32 %i, %ctaid.x;\n mad.lo.u32 %i, %i, 64, %tid.x;\n{load}{body}\n{store}ret;\n}}\n",
        params.join(", ")
    );
    let module = Module::parse(&ptx).unwrap_or_else(|e| panic!("{body}: {e}"));
    let printed = leankv_ptx::Ast::parse(&module.ast().print()).expect("printed text parses");
    assert!(printed.same(module.ast()), "{body}: printing changed the tree");
    let mut machine = Machine::new(config);
    let n = ins.first().map_or(ELEMENTS, |i| i.1.len());
    assert_eq!(n % 64, 0, "elements come in blocks of 64");
    let mut args = Vec::new();
    let mut out_at = Vec::new();
    for t in outs {
        let at = machine.alloc((n * t.bytes()) as u64, 16).unwrap();
        out_at.push(at);
        args.push(Arg::U64(at));
    }
    for (t, v) in ins {
        let at = machine.alloc((n * t.bytes()) as u64, 16).unwrap();
        let data: Vec<u8> = v.iter().flat_map(|v| v.to_le_bytes()[..t.bytes()].to_vec()).collect();
        machine.write(at, &data).unwrap();
        args.push(Arg::U64(at));
    }
    let shape = LaunchConfig { grid: [(n / 64) as u32, 1, 1], block: [64, 1, 1], dynamic_shared_bytes: 0 };
    let report = machine.launch(&module, "k", shape, &args).unwrap_or_else(|e| panic!("{body}: {e}"));
    for f in &report.findings {
        assert!(matches!(f.kind, leankv_ptx::FindingKind::DivisionByZero), "{body}: {f}");
    }
    outs.iter()
        .zip(out_at)
        .map(|(t, at)| {
            let mut data = vec![0u8; n * t.bytes()];
            machine.read(at, &mut data).unwrap();
            data.chunks(t.bytes())
                .map(|c| {
                    let mut b = [0u8; 8];
                    b[..c.len()].copy_from_slice(c);
                    u64::from_le_bytes(b)
                })
                .collect()
        })
        .collect()
}

/// Checks one instruction: `want` gets the operands, truncated to their width.
pub fn check(body: &str, ins: &[(T, Vec<u64>)], out: T, want: impl Fn(&[u64]) -> u64) {
    check_if(body, ins, out, |v| Some(want(v)));
}

/// Like [`check`]; tuples for which `want` gives nothing are not compared.
pub fn check_if(body: &str, ins: &[(T, Vec<u64>)], out: T, want: impl Fn(&[u64]) -> Option<u64>) {
    let got = &run(Config::default(), body, ins, &[out])[0];
    let mut compared = 0;
    for (i, got) in got.iter().enumerate() {
        let v: Vec<u64> = ins
            .iter()
            .map(|(t, v)| match t {
                T::P => u64::from(v[i] as u32 != 0),
                T::B16 => v[i] & 0xffff,
                T::B32 => v[i] & 0xffff_ffff,
                T::B64 => v[i],
            })
            .collect();
        let Some(want) = want(&v) else { continue };
        compared += 1;
        assert_eq!(*got, want, "{body} of {v:x?}: got 0x{got:x}, want 0x{want:x}");
    }
    assert!(compared > 8, "{body}: only {compared} tuples were compared");
}
