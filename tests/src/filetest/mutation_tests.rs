//! Damaged kernels are refused or run: nothing panics, and what the verifier accepts the passes and the interpreter can work on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use leankv_dsl::codegen::nvptx::NvptxTarget;
use leankv_dsl::interp::{self, Arg, Memory, Options, ScalarValue};
use leankv_dsl::ir::{self, Dtype, Func, Op};
use leankv_dsl::pass::{Facts, standard};

use crate::conformance::case::Slot;
use crate::conformance::data::{Rng, small};
use crate::conformance::number::write_all;
use crate::conformance::{Case, CaseArg, Check, Executor, Failure, compare, executors};

/// Damaged texts a file.
const TRIES: usize = 60;

fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut out = Vec::new();
    for folder in ["run", "opt", "verify", "parse"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("the folder of file tests can be read");
        for entry in entries {
            let path = entry.unwrap().path();
            // Names seed the damage, so they must not depend on where the project lies.
            let name = format!("filetests/{folder}/{}", path.file_name().unwrap_or_default().display());
            out.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    out.sort();
    out
}

/// Swaps two words, drops one, doubles a line or changes a number: damage that often still parses.
fn damage(text: &str, rng: &mut Rng) -> String {
    let mut lines: Vec<String> = text.lines().filter(|l| !l.starts_with(';')).map(str::to_owned).collect();
    for _ in 0..=rng.below(3) {
        let at = rng.below(lines.len());
        let mut words: Vec<String> = lines[at].split(' ').map(str::to_owned).collect();
        let (a, b) = (rng.below(words.len()), rng.below(words.len()));
        let other = rng.below(lines.len());
        match rng.below(6) {
            0 => words.swap(a, b),
            1 => {
                words.remove(a);
            }
            2 => words[a] = lines[other].split(' ').next_back().unwrap_or_default().to_owned(),
            3 => {
                words[a] = rng
                    .pick(&["0", "1", "-1", "5", "i32", "f32", "tile<8xi32>", "tile<3xf16>", "i1", "{"])
                    .to_owned()
            }
            4 => {
                let line = lines[other].clone();
                lines.insert(at, line);
                continue;
            }
            _ => words[a] = words[a].replace(|c: char| c.is_ascii_digit(), rng.pick(&["0", "3", "7", "16"])),
        }
        lines[at] = words.join(" ");
    }
    lines.join("\n")
}

fn scalar(dtype: Dtype) -> ScalarValue {
    match dtype {
        Dtype::I1 => ScalarValue::I1(true),
        Dtype::I8 => ScalarValue::I8(3),
        Dtype::I16 => ScalarValue::I16(3),
        Dtype::I32 => ScalarValue::I32(3),
        Dtype::I64 => ScalarValue::I64(3),
        Dtype::U8 => ScalarValue::U8(3),
        Dtype::U16 => ScalarValue::U16(3),
        Dtype::U32 => ScalarValue::U32(3),
        Dtype::U64 => ScalarValue::U64(3),
        Dtype::F16 => ScalarValue::F16(half::f16::ONE),
        Dtype::BF16 => ScalarValue::BF16(half::bf16::ONE),
        Dtype::F64 => ScalarValue::F64(1.0),
        _ => ScalarValue::F32(1.0),
    }
}

/// Tiles of 2^24 elements are valid but slow.
fn is_small(func: &Func) -> bool {
    let small = |v: ir::Value| func.ty(v).shape().is_none_or(|s| s.elements() <= 4096);
    func.walk().into_iter().flat_map(|i| func.inst(i).results.clone()).all(small)
}

/// Runs a kernel on buffers of 4 KiB; it may fault, and mostly does.
fn launch(func: &Func) {
    let mut memory = Memory::new();
    let args: Vec<Arg> = func
        .params
        .iter()
        .map(|p| match p.ty.is_ptr() {
            true => Arg::Buffer(memory.alloc_bytes(&[0; 4096]), 0),
            false => Arg::Scalar(scalar(p.ty.dtype())),
        })
        .collect();
    let options = Options { max_steps: 2_000, ..Options::default() };
    let _ = interp::launch(func, [2, 1, 1], &args, &mut memory, &options);
}

#[test]
fn damaged_kernels_are_refused_or_run() {
    let (mut parsed, mut valid) = (0, 0);
    for (name, text) in texts() {
        let mut rng = Rng::named(&name);
        for _ in 0..TRIES {
            let damaged = damage(&text, &mut rng);
            let done = catch_unwind(AssertUnwindSafe(|| {
                let Ok(funcs) = ir::parse_all("damaged.tile", &damaged) else { return };
                for mut func in funcs {
                    parsed += 1;
                    let printed = func.to_string();
                    assert_eq!(ir::parse("printed.tile", &printed).unwrap().to_string(), printed);
                    match ir::verify(&func) {
                        Err(errors) => assert!(!errors.to_string().is_empty()),
                        Ok(()) => {
                            valid += 1;
                            // Tiles of 2^24 elements are valid but slow.
                            let small =
                                |v: ir::Value| func.ty(v).shape().is_none_or(|s| s.elements() <= 4096);
                            let results = func.walk().into_iter().flat_map(|i| func.inst(i).results.clone());
                            if results.into_iter().all(small) {
                                launch(&func);
                            }
                            standard().verify(true).run(&mut func, &mut Facts::new()).unwrap();
                        }
                    }
                }
            }));
            assert!(done.is_ok(), "{name}:\n{damaged}");
        }
    }
    // The damage is mild enough to get behind the parser and the verifier.
    assert!(parsed > 1000 && valid > 300, "{parsed} parsed, {valid} were valid");
}

/// The kernel with buffers of small numbers.
fn case(func: &Func, rng: &mut Rng) -> Case {
    let args = func.params.iter().map(|p| {
        let dtype = p.ty.dtype();
        if !p.ty.is_ptr() {
            return CaseArg::Scalar(scalar(dtype));
        }
        let bytes = write_all(dtype, small(dtype, 512, 40, rng));
        CaseArg::Buffer(Slot { name: p.name.clone(), dtype, bytes, output: None })
    });
    Case {
        name: func.name.clone(),
        func: func.clone(),
        grid: [1, 1, 1],
        args: args.collect(),
        fails: false,
        checked: true,
    }
}

/// Whether a kernel ends within a few steps and without a fault: the others only have to compile or to be refused.
fn is_tame(case: &Case) -> bool {
    let mut memory = Memory::new();
    let args: Vec<Arg> = case
        .args
        .iter()
        .map(|arg| match arg {
            CaseArg::Buffer(slot) => Arg::Buffer(memory.alloc_bytes(&slot.bytes), 0),
            CaseArg::Scalar(value) => Arg::Scalar(*value),
        })
        .collect();
    let options = Options { max_steps: 20_000, ..Options::default() };
    interp::launch(&case.func, case.grid, &args, &mut memory, &options).is_ok()
}

fn agree(name: &str, case: &Case) {
    let show = |what: &str, message: &str| panic!("{name}, {what}: {message}\n{}", case.func);
    if !is_tame(case) {
        for target in [NvptxTarget::Sm80, NvptxTarget::Sm120] {
            if let Err(Failure::Broken(message)) = executors::ptx::compile(case, 4, target) {
                show("PTX", &message);
            }
        }
        return;
    }
    let want = executors::Interp.run(case).expect("the kernel was run before");
    for executor in executors::all() {
        let got = match executor.run(case) {
            Ok(got) => got,
            Err(Failure::Unsupported(_)) => continue,
            Err(failure) => return show(executor.name(), &format!("{failure:?}")),
        };
        for ((slot, got), want) in case.buffers().zip(&got).zip(&want) {
            let check = Check::Close { rel: 2e-6, abs: 2e-6 };
            if let Some(difference) = compare::differences(&slot.name, slot.dtype, check, got, want) {
                show(executor.name(), &difference);
            }
        }
    }
}

/// `LEANKV_FUZZ=500` looks longer.
#[test]
fn damaged_kernels_give_the_same_on_every_executor() {
    let tries = std::env::var("LEANKV_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let mut tested = 0;
    for (name, text) in
        texts().into_iter().filter(|(name, _)| name.contains("/run/") || name.contains("/opt/"))
    {
        let mut rng = Rng::named(&name);
        for _ in 0..tries {
            let damaged = damage(&text, &mut rng);
            for func in ir::parse_all("damaged.tile", &damaged).unwrap_or_default() {
                let prints = func.walk().iter().any(|&i| matches!(func.inst(i).op, Op::Print { .. }));
                if !prints && ir::verify(&func).is_ok() && is_small(&func) {
                    agree(&name, &case(&func, &mut rng));
                    tested += 1;
                }
            }
        }
    }
    assert!(tested > 30, "{tested}");
}
