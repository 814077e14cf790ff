//! Random LLVM functions, compiled by LLVM for the host and for NVPTX: run natively and here, the results are equal.

#![allow(unreachable_pub)] // A test crate.

use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};
use leankv_ptx::{Arg, Config, Divergence, LaunchConfig, Machine, Module};
use std::fmt::Write as _;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 20) % n as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// Values in scope by type.
#[derive(Clone, Default)]
struct Scope {
    i32: Vec<String>,
    i64: Vec<String>,
    i16: Vec<String>,
    f32: Vec<String>,
    f64: Vec<String>,
    i1: Vec<String>,
}

impl Scope {
    fn of(&mut self, ty: &str) -> &mut Vec<String> {
        match ty {
            "i32" => &mut self.i32,
            "i64" => &mut self.i64,
            "i16" => &mut self.i16,
            "float" => &mut self.f32,
            "double" => &mut self.f64,
            _ => &mut self.i1,
        }
    }
}

struct Gen {
    rng: Rng,
    out: String,
    n: usize,
    scope: Scope,
    block: String,
}

impl Gen {
    fn fresh(&mut self) -> String {
        self.n += 1;
        format!("%v{}", self.n)
    }

    fn value(&mut self, ty: &str) -> String {
        let list = self.scope.of(ty).clone();
        if self.rng.below(8) == 0 && ty.starts_with('i') && ty != "i1" {
            return match ty {
                "i16" => (self.rng.next() as i16).to_string(),
                "i32" => (self.rng.next() as i32).to_string(),
                _ => (self.rng.next() as i64).to_string(),
            };
        }
        // Later values are more interesting.
        let n = list.len();
        list[n - 1 - self.rng.below(n.min(6))].clone()
    }

    fn emit(&mut self, ty: &str, text: &str) {
        let v = self.fresh();
        let _ = writeln!(self.out, "  {v} = {text}");
        self.scope.of(ty).push(v);
    }

    /// A shift amount or divisor that has a defined meaning.
    fn tame(&mut self, ty: &str, and: i64, or: i64) -> String {
        let a = self.value(ty);
        let v = self.fresh();
        let w = self.fresh();
        let _ = writeln!(self.out, "  {v} = and {ty} {a}, {and}\n  {w} = or {ty} {v}, {or}");
        w
    }

    fn integer(&mut self) {
        let ty = self.rng.pick(&["i32", "i32", "i64", "i16"]);
        let bits: i64 = ty[1..].parse().unwrap();
        let (a, b) = (self.value(ty), self.value(ty));
        match self.rng.below(12) {
            0..=3 => {
                let op = self.rng.pick(&["add", "sub", "mul", "and", "or", "xor"]);
                self.emit(ty, &format!("{op} {ty} {a}, {b}"));
            }
            4 => {
                let op = self.rng.pick(&["shl", "lshr", "ashr"]);
                let s = self.tame(ty, bits - 1, 0);
                self.emit(ty, &format!("{op} {ty} {a}, {s}"));
            }
            5 => {
                let op = self.rng.pick(&["udiv", "urem", "sdiv", "srem"]);
                let d = self.tame(ty, 0x7fe, 1);
                self.emit(ty, &format!("{op} {ty} {a}, {d}"));
            }
            6 => {
                let op = self.rng.pick(&["smin", "smax", "umin", "umax"]);
                self.emit(ty, &format!("call {ty} @llvm.{op}.{ty}({ty} {a}, {ty} {b})"));
            }
            7 => {
                let op = self.rng.pick(&["ctpop", "bswap", "bitreverse"]);
                self.emit(ty, &format!("call {ty} @llvm.{op}.{ty}({ty} {a})"));
            }
            8 => {
                let op = self.rng.pick(&["ctlz", "cttz", "abs"]);
                self.emit(ty, &format!("call {ty} @llvm.{op}.{ty}({ty} {a}, i1 false)"));
            }
            9 => {
                let op = self.rng.pick(&["fshl", "fshr"]);
                let s = self.value(ty);
                self.emit(ty, &format!("call {ty} @llvm.{op}.{ty}({ty} {a}, {ty} {b}, {ty} {s})"));
            }
            10 => {
                let op = self.rng.pick(&["sadd.sat", "uadd.sat", "ssub.sat", "usub.sat"]);
                self.emit(ty, &format!("call {ty} @llvm.{op}.{ty}({ty} {a}, {ty} {b})"));
            }
            _ => {
                let p = self.rng.pick(&["eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge"]);
                self.emit("i1", &format!("icmp {p} {ty} {a}, {b}"));
            }
        }
    }

    fn float(&mut self) {
        let ty = self.rng.pick(&["float", "float", "double"]);
        let s = if ty == "float" { "f32" } else { "f64" };
        let (a, b) = (self.value(ty), self.value(ty));
        match self.rng.below(9) {
            0..=2 => {
                let op = self.rng.pick(&["fadd", "fsub", "fmul"]);
                self.emit(ty, &format!("{op} {ty} {a}, {b}"));
            }
            3 => self.emit(ty, &format!("fdiv {ty} {a}, {b}")),
            4 => {
                let c = self.value(ty);
                self.emit(ty, &format!("call {ty} @llvm.fma.{s}({ty} {a}, {ty} {b}, {ty} {c})"));
            }
            5 => {
                let op = self.rng.pick(&["sqrt", "fabs", "floor", "ceil", "trunc", "rint"]);
                self.emit(ty, &format!("call {ty} @llvm.{op}.{s}({ty} {a})"));
            }
            6 => self.emit(ty, &format!("fneg {ty} {a}")),
            7 => {
                let p = self.rng.pick(&[
                    "oeq", "one", "olt", "ole", "ogt", "oge", "ord", "ueq", "une", "ult", "ule", "ugt",
                    "uge", "uno",
                ]);
                self.emit("i1", &format!("fcmp {p} {ty} {a}, {b}"));
            }
            // No copysign: the sign of a NaN is not the same on both sides.
            _ => self.emit(ty, &format!("call {ty} @llvm.fabs.{s}({ty} {a})")),
        }
    }

    fn convert(&mut self) {
        let from = self.rng.pick(&["i16", "i32", "i64", "float", "double"]);
        let to = self.rng.pick(&["i16", "i32", "i64", "float", "double"]);
        let a = self.value(from);
        let (fi, ti) = (from.starts_with('i'), to.starts_with('i'));
        let suffix = |t: &str| if t == "float" { "f32" } else { "f64" };
        match (fi, ti) {
            (true, true) => {
                let (f, t): (u32, u32) = (from[1..].parse().unwrap(), to[1..].parse().unwrap());
                if f > t {
                    self.emit(to, &format!("trunc {from} {a} to {to}"));
                } else if f < t {
                    let op = self.rng.pick(&["sext", "zext"]);
                    self.emit(to, &format!("{op} {from} {a} to {to}"));
                }
            }
            (true, false) => {
                let op = self.rng.pick(&["sitofp", "uitofp"]);
                self.emit(to, &format!("{op} {from} {a} to {to}"));
            }
            (false, true) => {
                let op = self.rng.pick(&["fptosi", "fptoui"]);
                self.emit(to, &format!("call {to} @llvm.{op}.sat.{to}.{}({from} {a})", suffix(from)));
            }
            (false, false) if from == "float" && to == "double" => {
                self.emit(to, &format!("fpext float {a} to double"));
            }
            (false, false) if from == "double" && to == "float" => {
                self.emit(to, &format!("fptrunc double {a} to float"));
            }
            _ => {}
        }
    }

    fn select(&mut self) {
        let ty = self.rng.pick(&["i32", "i64", "i16", "float", "double"]);
        let (c, a, b) = (self.value("i1"), self.value(ty), self.value(ty));
        self.emit(ty, &format!("select i1 {c}, {ty} {a}, {ty} {b}"));
    }

    fn straight(&mut self, n: usize) {
        for _ in 0..n {
            match self.rng.below(10) {
                0..=4 => self.integer(),
                5..=7 => self.float(),
                8 => self.convert(),
                _ => self.select(),
            }
        }
    }

    fn label(&mut self) -> String {
        self.n += 1;
        format!("b{}", self.n)
    }

    fn start(&mut self, label: &str) {
        let _ = writeln!(self.out, "{label}:");
        self.block = label.to_string();
    }

    /// `if` with a value from each side.
    fn diamond(&mut self, depth: usize) {
        let c = self.value("i1");
        let (yes, no, join) = (self.label(), self.label(), self.label());
        let _ = writeln!(self.out, "  br i1 {c}, label %{yes}, label %{no}");
        let before = self.scope.clone();
        let ty = self.rng.pick(&["i32", "i64", "float"]);
        let mut sides = Vec::new();
        for label in [&yes, &no] {
            self.scope = before.clone();
            self.start(label);
            self.code(depth + 1);
            sides.push((self.value(ty), self.block.clone()));
            let _ = writeln!(self.out, "  br label %{join}");
        }
        self.scope = before;
        self.start(&join);
        let text =
            format!("phi {ty} [ {}, %{} ], [ {}, %{} ]", sides[0].0, sides[0].1, sides[1].0, sides[1].1);
        self.emit(ty, &text);
    }

    /// A loop of up to seven rounds, a number that differs between threads.
    fn repeat(&mut self, depth: usize) {
        let count = self.tame("i32", 7, 0);
        let (head, body, done) = (self.label(), self.label(), self.label());
        let (i, next, c) = (self.fresh(), self.fresh(), self.fresh());
        let (acc, new_acc) = (self.fresh(), self.fresh());
        let init = self.value("i32");
        let entry = self.block.clone();
        let before = self.scope.clone();
        let _ = writeln!(self.out, "  br label %{head}");
        self.start(&head);
        let phi = self.out.len();
        let _ = writeln!(
            self.out,
            "  {c} = icmp ult i32 {i}, {count}\n  br i1 {c}, label %{body}, label %{done}"
        );
        self.start(&body);
        self.scope.i32.push(acc.clone());
        self.scope.i32.push(i.clone());
        self.code(depth + 1);
        let last = self.value("i32");
        let _ = writeln!(
            self.out,
            "  {new_acc} = add i32 {last}, {acc}\n  {next} = add i32 {i}, 1\n  br label %{head}"
        );
        let latch = self.block.clone();
        let text = format!(
            "  {i} = phi i32 [ 0, %{entry} ], [ {next}, %{latch} ]\n  {acc} = phi i32 [ {init}, %{entry} ], [ {new_acc}, %{latch} ]\n"
        );
        self.out.insert_str(phi, &text);
        self.scope = before;
        self.scope.i32.push(acc);
        self.start(&done);
    }

    fn code(&mut self, depth: usize) {
        let n = 3 + self.rng.below(8);
        self.straight(n);
        if depth < 3 {
            match self.rng.below(4) {
                0 => self.diamond(depth),
                1 => self.repeat(depth),
                _ => {}
            }
        }
        self.straight(2);
    }
}

/// The body of one function: takes seven values and folds everything it computed into 64 bits.
fn function(seed: u64) -> String {
    let s = |v: &str| v.to_string();
    let scope = Scope {
        i32: vec![s("%a"), s("%b")],
        i64: vec![s("%c"), s("%d")],
        i16: vec![s("%h")],
        f32: vec![s("%x"), s("%y")],
        f64: vec![s("%z")],
        i1: vec![s("%t")],
    };
    let mut g = Gen {
        rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        out: String::new(),
        n: 0,
        scope,
        block: s("entry"),
    };
    for _ in 0..6 {
        g.code(0);
    }
    // NaNs differ in their bits between machines: they become one constant first.
    let mut sum = "%c".to_string();
    let scope = g.scope.clone();
    let mut fold = |g: &mut Gen, v: &str| {
        let (m, n) = (g.fresh(), g.fresh());
        let _ = writeln!(g.out, "  {m} = mul i64 {sum}, 1099511628211\n  {n} = xor i64 {m}, {v}");
        sum = n;
    };
    for v in &scope.i64 {
        fold(&mut g, v);
    }
    for (list, ty) in [(&scope.i32, "i32"), (&scope.i16, "i16"), (&scope.i1, "i1")] {
        for v in list {
            let w = g.fresh();
            let _ = writeln!(g.out, "  {w} = zext {ty} {v} to i64");
            fold(&mut g, &w);
        }
    }
    for (list, ty, int) in [(&scope.f32, "float", "i32"), (&scope.f64, "double", "i64")] {
        for v in list {
            let (n, k, b, w) = (g.fresh(), g.fresh(), g.fresh(), g.fresh());
            let _ = writeln!(
                g.out,
                "  {n} = fcmp uno {ty} {v}, {v}\n  {k} = bitcast {ty} {v} to {int}\n  {b} = select i1 {n}, {int} 12345, {int} {k}"
            );
            if int == "i32" {
                let _ = writeln!(g.out, "  {w} = zext i32 {b} to i64");
                fold(&mut g, &w);
            } else {
                fold(&mut g, &b);
            }
        }
    }
    let noinline = if seed.is_multiple_of(2) { "noinline" } else { "alwaysinline" };
    format!(
        "define i64 @body(i32 %a, i32 %b, i64 %c, i64 %d, float %x, float %y, double %z) {noinline} {{\nentry:\n  %h = trunc i32 %a to i16\n  %t = icmp slt i32 %a, %b\n{}  ret i64 {sum}\n}}\n",
        g.out
    )
}

/// Loads the thread's 48-byte record, calls the body, stores its result.
const KERNEL: &str = "
define ptx_kernel void @k(ptr addrspace(1) %in, ptr addrspace(1) %out) {
  %tid = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %i = zext i32 %tid to i64
  %p = getelementptr { i32, i32, i64, i64, float, float, double }, ptr addrspace(1) %in, i64 %i
  %a = load i32, ptr addrspace(1) %p
  %pb = getelementptr i8, ptr addrspace(1) %p, i64 4
  %b = load i32, ptr addrspace(1) %pb
  %pc = getelementptr i8, ptr addrspace(1) %p, i64 8
  %c = load i64, ptr addrspace(1) %pc
  %pd = getelementptr i8, ptr addrspace(1) %p, i64 16
  %d = load i64, ptr addrspace(1) %pd
  %px = getelementptr i8, ptr addrspace(1) %p, i64 24
  %x = load float, ptr addrspace(1) %px
  %py = getelementptr i8, ptr addrspace(1) %p, i64 28
  %y = load float, ptr addrspace(1) %py
  %pz = getelementptr i8, ptr addrspace(1) %p, i64 32
  %z = load double, ptr addrspace(1) %pz
  %r = call i64 @body(i32 %a, i32 %b, i64 %c, i64 %d, float %x, float %y, double %z)
  %o = getelementptr i64, ptr addrspace(1) %out, i64 %i
  store i64 %r, ptr addrspace(1) %o
  ret void
}
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
";

type Body = unsafe extern "C" fn(i32, i32, i64, i64, f32, f32, f64) -> i64;

#[derive(Clone, Copy)]
struct Record(i32, i32, i64, i64, f32, f32, f64);

fn records(seed: u64) -> Vec<Record> {
    let mut r = Rng(seed | 1);
    let f = |r: &mut Rng| {
        const SPECIAL: [f32; 8] = [0.0, -0.0, 1.0, f32::INFINITY, -3.5, f32::MIN_POSITIVE, 1e-42, 3e9];
        let v = r.next();
        if v & 3 == 0 { SPECIAL[(v >> 8) as usize % 8] } else { ((v >> 32) as i32 as f32) / 65536.0 }
    };
    (0..64)
        .map(|i| {
            let small = i % 3 == 0;
            let v = r.next();
            let (a, b) =
                if small { (v as i32 % 100, (v >> 40) as i32 % 50) } else { (v as i32, (v >> 32) as i32) };
            Record(
                a,
                b,
                r.next() as i64,
                r.next() as i64 >> 30,
                f(&mut r),
                f(&mut r),
                f64::from(f(&mut r)) * 1.000_000_3,
            )
        })
        .collect()
}

fn parse<'c>(context: &'c Context, text: &str) -> inkwell::module::Module<'c> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    let buffer = MemoryBuffer::create_from_memory_range_copy(&bytes, "m");
    context.create_module_from_ir(buffer).unwrap_or_else(|e| panic!("{}\n{text}", e.to_string()))
}

fn ptx_of(text: &str, level: OptimizationLevel) -> String {
    let context = Context::create();
    let module = parse(&context, &format!("target triple = \"nvptx64-nvidia-cuda\"\n{text}{KERNEL}"));
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).expect("NVPTX is built in");
    let machine: TargetMachine = target
        .create_target_machine(&triple, "sm_80", "+ptx80", level, RelocMode::Default, CodeModel::Default)
        .expect("sm_80 is known");
    let out = machine.write_to_memory_buffer(&module, FileType::Assembly).expect("code generation");
    String::from_utf8_lossy(out.as_slice()).trim_end_matches('\0').to_string()
}

fn check(seed: u64) {
    let text = function(seed);
    let data = records(seed);
    let context = Context::create();
    let module = parse(&context, &text);
    let engine = module.create_jit_execution_engine(OptimizationLevel::None).expect("a host engine");
    // SAFETY: the body has exactly this signature and touches no memory.
    let want: Vec<u64> = unsafe {
        let f = engine.get_function::<Body>("body").expect("the body is there");
        data.iter().map(|r| f.call(r.0, r.1, r.2, r.3, r.4, r.5, r.6) as u64).collect()
    };
    for level in [OptimizationLevel::None, OptimizationLevel::Aggressive] {
        let ptx = ptx_of(&text, level);
        let loaded = Module::parse(&ptx).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{ptx}"));
        for divergence in [Divergence::Reconverge, Divergence::Independent] {
            let mut m = Machine::new(Config { divergence, seed, ..Config::default() });
            let input = m.alloc(64 * 40, 16).expect("memory");
            let output = m.alloc(64 * 8, 16).expect("memory");
            for (i, r) in data.iter().enumerate() {
                let mut b = Vec::new();
                b.extend(r.0.to_le_bytes());
                b.extend(r.1.to_le_bytes());
                b.extend(r.2.to_le_bytes());
                b.extend(r.3.to_le_bytes());
                b.extend(r.4.to_le_bytes());
                b.extend(r.5.to_le_bytes());
                b.extend(r.6.to_le_bytes());
                m.write(input + 40 * i as u64, &b).expect("in range");
            }
            let shape = LaunchConfig { grid: [1, 1, 1], block: [64, 1, 1], dynamic_shared_bytes: 0 };
            let report = m
                .launch(&loaded, "k", shape, &[Arg::U64(input), Arg::U64(output)])
                .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{ptx}"));
            assert!(report.is_clean(), "seed {seed}: {}", report.findings[0]);
            for (i, want) in want.iter().enumerate() {
                let mut b = [0; 8];
                m.read(output + 8 * i as u64, &mut b).expect("in range");
                let got = u64::from_le_bytes(b);
                assert_eq!(got, *want, "seed {seed} thread {i} {level:?} {divergence:?}\n{text}\n{ptx}");
            }
        }
    }
}

/// Number of random functions; `LEANKV_FUZZ=N` sets another.
#[test]
fn random_functions_give_the_host_results() {
    Target::initialize_native(&InitializationConfig::default()).expect("a host target");
    Target::initialize_nvptx(&InitializationConfig::default());
    let n = std::env::var("LEANKV_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(40);
    for seed in 1..=n {
        check(seed);
    }
}
