//! Random kernels give the same before and after the passes. What each pass does to IR stands in the file tests.

use std::time::Duration;

use super::*;
use crate::diag::Diagnostics;
use crate::interp::{self, Arg, Memory, Options};
use crate::ir::{
    Access, BinaryOp, Builder, CacheHint, CmpOp, Const, Dtype, Func, Loc, Op, Param, Type, UnaryOp, Value,
    parse, verify,
};
use proptest::prelude::*;

/// Elements of a tile in the random kernels.
const N: u32 = 8;

/// Makes kernels from a stream of numbers.
struct Random<'a> {
    draws: std::slice::Iter<'a, u16>,
    builder: Builder,
    /// Values in sight, by region depth.
    scope: Vec<Value>,
}

fn loc() -> Loc {
    Loc::unknown()
}

impl Random<'_> {
    fn draw(&mut self, below: usize) -> usize {
        self.draws.next().map_or(0, |&d| usize::from(d) % below)
    }

    /// A value of a type, made if there is none.
    fn pick(&mut self, ty: &Type) -> Value {
        let fitting: Vec<Value> = self.scope.iter().copied().filter(|&v| self.builder.ty(v) == ty).collect();
        // A constant now and then, so that there is something to fold.
        if fitting.is_empty() || self.draw(4) == 0 {
            let palette = [0i128, 1, -1, 2, 3, 7, 31, 64];
            let value = palette[self.draw(palette.len())];
            let value =
                if ty.dtype().is_float() { Const::float(value as f64 / 2.0) } else { Const::Int(value) };
            return self.builder.constant(value, ty, loc()).unwrap();
        }
        fitting[self.draw(fitting.len())]
    }

    fn op(&mut self, op: Op, operands: &[Value], wanted: Option<&Type>) {
        if let Ok(values) = self.builder.op(op, operands, wanted, loc()) {
            self.scope.extend(values);
        }
    }

    fn ty(&mut self) -> Type {
        let dtype = [Dtype::I32, Dtype::F32, Dtype::I1, Dtype::I32, Dtype::U8, Dtype::F16][self.draw(6)];
        if self.draw(3) == 0 { Type::scalar(dtype) } else { Type::tile(dtype, &[N]) }
    }

    fn step(&mut self, depth: usize) {
        let ty = self.ty();
        match self.draw(16) {
            0..=4 => {
                let op = BinaryOp::ALL[self.draw(BinaryOp::ALL.len())];
                let operands = [self.pick(&ty), self.pick(&ty)];
                self.op(Op::Binary(op), &operands, None);
            }
            5 => {
                let op = UnaryOp::ALL[self.draw(UnaryOp::ALL.len())];
                let x = self.pick(&ty);
                self.op(Op::Unary(op), &[x], None);
            }
            6 => {
                let op = CmpOp::ALL[self.draw(CmpOp::ALL.len())];
                let operands = [self.pick(&ty), self.pick(&ty)];
                self.op(Op::Cmp(op), &operands, None);
            }
            7 => {
                let operands = [self.pick(&ty.with_dtype(Dtype::I1)), self.pick(&ty), self.pick(&ty)];
                self.op(Op::Select, &operands, None);
            }
            8 => {
                let operands = [self.pick(&ty), self.pick(&ty), self.pick(&ty)];
                self.op(Op::Fma, &operands, None);
            }
            9 => {
                let x = self.pick(&ty);
                let to = self.ty().dtype();
                self.op(Op::Cast, &[x], Some(&ty.with_dtype(to)));
            }
            10 => {
                let x = self.pick(&Type::scalar(ty.dtype()));
                self.op(Op::Splat, &[x], Some(&Type::tile(ty.dtype(), &[N])));
            }
            11 => {
                let float = Type::tile(Dtype::F32, &[N]);
                let operands = [self.pick(&float), self.pick(&float), self.pick(&float)];
                let codes = self.builder.value(
                    Op::Quantize,
                    &operands,
                    Some(&float.with_dtype(Dtype::Code(3))),
                    loc(),
                );
                self.op(Op::Dequantize, &[codes.unwrap(), operands[1], operands[2]], None);
            }
            12 | 13 => {
                // Offsets 0.. 7 of the input, under a mask.
                let at =
                    self.builder.value(Op::Iota, &[], Some(&Type::tile(Dtype::I32, &[N])), loc()).unwrap();
                let mask = self.pick(&Type::tile(Dtype::I1, &[N]));
                let which = self.draw(2);
                let pointer = self.builder.func().param_values()[which];
                if self.draw(2) == 0 {
                    let load = Op::Load { masked: true, other: false, cache: CacheHint::Default };
                    self.op(load, &[pointer, at, mask], None);
                } else {
                    let scratch = self.builder.func().param_values()[1];
                    let value = self.pick(&Type::tile(Dtype::I32, &[N]));
                    let store = Op::Store { masked: true, cache: CacheHint::Default };
                    self.op(store, &[scratch, at, value, mask], None);
                }
            }
            14 if depth < 3 => self.branch(depth),
            15 if depth < 3 => self.repeat(depth),
            _ => {}
        }
    }

    fn body(&mut self, depth: usize, types: &[Type]) -> Vec<Value> {
        for _ in 0..self.draw(6) {
            self.step(depth + 1);
        }
        types.iter().map(|ty| self.pick(ty)).collect()
    }

    fn branch(&mut self, depth: usize) {
        let condition = self.pick(&Type::scalar(Dtype::I1));
        let types: Vec<Type> = (0..self.draw(3)).map(|_| self.ty()).collect();
        let inst = self.builder.begin(Op::If, &[condition], loc()).unwrap();
        let outer = self.scope.len();
        for _ in 0..2 {
            self.builder.open_region(inst, &[]);
            let yields = self.body(depth, &types);
            self.builder.close_region(inst, &yields, loc()).unwrap();
            self.scope.truncate(outer);
        }
        self.scope.extend(self.builder.finish(inst, &types));
    }

    fn repeat(&mut self, depth: usize) {
        let upper = self.draw(4) as i32;
        let step = 1 + self.draw(2) as i32;
        let types: Vec<Type> = (0..self.draw(3)).map(|_| self.ty()).collect();
        let mut operands =
            vec![self.builder.i32(0, loc()), self.builder.i32(upper, loc()), self.builder.i32(step, loc())];
        if self.draw(2) == 0 {
            // Bounds that the passes do not know: the kernel's parameter n is 3.
            operands[1] = self.builder.func().param_values()[2];
        }
        operands.extend(types.iter().map(|ty| self.pick(ty)));
        let inst = self.builder.begin(Op::For { stages: 1 }, &operands, loc()).unwrap();
        let mut params = vec![Type::scalar(Dtype::I32)];
        params.extend(types.iter().cloned());
        let outer = self.scope.len();
        let inside = self.builder.open_region(inst, &params);
        self.scope.extend(&inside);
        let mut yields = self.body(depth, &types);
        for (i, value) in yields.iter_mut().enumerate() {
            if self.draw(3) == 0 {
                *value = inside[1 + i];
            }
        }
        self.builder.close_region(inst, &yields, loc()).unwrap();
        self.scope.truncate(outer);
        self.scope.extend(self.builder.finish(inst, &types));
    }
}

/// A kernel that computes at random and stores everything it computed at its top level.
fn kernel(draws: &[u16]) -> Func {
    let params = vec![
        Param::new("input", Type::ptr(Dtype::F32), Access::Read),
        Param::new("scratch", Type::ptr(Dtype::I32), Access::ReadWrite),
        Param::new("n", Type::scalar(Dtype::I32), Access::Read),
        Param::new("out", Type::ptr(Dtype::F32), Access::Write),
    ];
    let mut random =
        Random { draws: draws.iter(), builder: Builder::new("random", params, loc()), scope: Vec::new() };
    random.scope.push(random.builder.func().param_values()[2]);
    while random.draws.len() > 0 {
        random.step(0);
    }
    let out = random.builder.func().param_values()[3];
    for (i, value) in random.scope.clone().into_iter().enumerate().skip(1).take(64) {
        let b = &mut random.builder;
        let ty = b.ty(value).clone();
        let float = ty.with_dtype(Dtype::F32);
        let value = b.value(Op::Cast, &[value], Some(&float), loc()).unwrap();
        let mut at = b.i32((i as u32 * N) as i32, loc());
        if !ty.is_scalar() {
            let tile = Type::tile(Dtype::I32, &[N]);
            let base = b.value(Op::Splat, &[at], Some(&tile), loc()).unwrap();
            let lanes = b.value(Op::Iota, &[], Some(&tile), loc()).unwrap();
            at = b.value(Op::Binary(BinaryOp::Add), &[base, lanes], None, loc()).unwrap();
        }
        let store = Op::Store { masked: false, cache: CacheHint::Default };
        b.op(store, &[out, at, value], None, loc()).unwrap();
    }
    random.builder.build(loc()).unwrap()
}

/// What the kernel leaves in memory; NaNs are alike. `None` when it fails.
fn run(func: &Func) -> Option<Vec<u32>> {
    let mut memory = Memory::new();
    let numbers = [5i32, -3, 0, 1000, i32::MAX, i32::MIN, 17, -1];
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let buffers =
        [memory.alloc_bytes(&bytes), memory.alloc_bytes(&bytes), memory.alloc_bytes(&[0; 64 * 8 * 4 + 64])];
    let args = [
        Arg::Buffer(buffers[0], 0),
        Arg::Buffer(buffers[1], 0),
        Arg::Scalar(interp::ScalarValue::I32(3)),
        Arg::Buffer(buffers[2], 0),
    ];
    match interp::launch(func, [1, 1, 1], &args, &mut memory, &Options::default()) {
        Ok(_) => {}
        // The division by zero that the interpreter reports; generated code goes on.
        Err(interp::LaunchError::Faults(_)) => return None,
        Err(other) => panic!("{other}\n{func}"),
    }
    let words = |id| {
        memory
            .bytes(id)
            .chunks_exact(4)
            .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
            .collect::<Vec<_>>()
    };
    let mut out = words(buffers[1]);
    out.extend(words(buffers[2]).into_iter().map(|w| if f32::from_bits(w).is_nan() { u32::MAX } else { w }));
    Some(out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_standard_pipeline_keeps_what_a_kernel_computes(draws in prop::collection::vec(any::<u16>(), 20..400)) {
        let func = kernel(&draws);
        let expected = run(&func);
        let mut optimised = func.clone();
        if let Err(error) = standard().run(&mut optimised, &mut Facts::new()) {
            panic!("{error}\n{func}");
        }
        // A fault may go away with the op that nobody needed; it never appears.
        if let Some(expected) = expected {
            let found = run(&optimised);
            prop_assert_eq!(found, Some(expected), "before:\n{}\nafter:\n{}", func, optimised);
        }
    }

    #[test]
    fn each_pass_alone_keeps_what_a_kernel_computes_and_then_finds_nothing_new(
        draws in prop::collection::vec(any::<u16>(), 20..200),
    ) {
        let func = kernel(&draws);
        let expected = run(&func);
        for name in names() {
            let mut changed = func.clone();
            let pipeline = || Pipeline::parse(name).unwrap();
            pipeline().run(&mut changed, &mut Facts::new()).unwrap_or_else(|e| panic!("{e}\n{func}"));
            if expected.is_some() {
                prop_assert_eq!(run(&changed), expected.clone(), "{}\n{}\n{}", name, func, changed);
            }
            let text = changed.to_string();
            pipeline().run(&mut changed, &mut Facts::new()).unwrap();
            if name != "canonicalise" {
                prop_assert_eq!(changed.to_string(), text, "{} twice", name);
            }
        }
    }

    #[test]
    fn random_kernels_round_trip_as_text_and_optimise_to_the_same_text(draws in prop::collection::vec(any::<u16>(), 20..200)) {
        let func = kernel(&draws);
        let again = parse("t", &func.to_string()).unwrap();
        prop_assert_eq!(again.to_string(), func.to_string());
        let optimise = |mut f: Func| {
            standard().run(&mut f, &mut Facts::new()).unwrap();
            f.to_string()
        };
        prop_assert_eq!(optimise(func), optimise(again));
    }
}

#[test]
fn a_pass_that_breaks_the_ir_is_named() {
    struct Breaker;
    impl Pass for Breaker {
        fn name(&self) -> &'static str {
            "breaker"
        }
        fn run(&self, func: &mut Func, _: &mut Facts) -> Result<bool, Diagnostics> {
            let entry = func.entry();
            func.block_insts_mut(entry).clear();
            Ok(true)
        }
    }
    let mut func = parse("t", "kernel @k() { return }").unwrap();
    let error = Pipeline::new().with(Breaker).verify(true).run(&mut func, &mut Facts::new()).unwrap_err();
    assert!(
        error.to_string().starts_with("internal error: the pass `breaker` made invalid tile IR of `k`\n"),
        "{error}"
    );
    assert!(matches!(error, PassError::Broken { pass: "breaker", .. }));
    let error = standard().verify(true).run(&mut func, &mut Facts::new()).unwrap_err();
    assert!(matches!(error, PassError::Invalid(_)), "{error}");
}

#[test]
fn the_hook_sees_each_pass_with_its_result_and_time() {
    let mut func = parse("t", "kernel @k() { %a = constant 1 : i32 return }").unwrap();
    let mut seen = Vec::new();
    let mut pipeline = Pipeline::parse("cse, dce,,standard").unwrap().hook(|report, func| {
        assert!(report.time < Duration::from_secs(5));
        seen.push((report.pass, report.changed, func.walk().len()));
    });
    assert_eq!(pipeline.names()[..2], ["cse", "dce"]);
    pipeline.run(&mut func, &mut Facts::new()).unwrap();
    drop(pipeline);
    assert_eq!(seen[..2], [("cse", false, 2), ("dce", true, 1)]);
    assert_eq!(seen.len(), 2 + standard().names().len());
    assert!(verify(&func).is_ok());
}

#[test]
fn an_unknown_pass_is_named_with_those_there_are() {
    let error = Pipeline::parse("cse,inline").err().unwrap().to_string();
    assert_eq!(error, "there is no pass `inline`; there are canonicalise, cse, dce, expand_quant, licm");
    assert!(names().iter().all(|name| by_name(name).is_some()));
}

#[test]
fn facts_are_kept_by_type() {
    let mut facts = Facts::new();
    facts.put(3u32);
    facts.put("text");
    facts.put(4u32);
    assert_eq!((facts.get::<u32>(), facts.expect::<&str>(), facts.get::<i64>()), (Some(&4), &"text", None));
    assert_eq!((facts.take::<u32>(), facts.take::<u32>()), (Some(4), None));
}

/// Values at the edges of a type.
fn edges(dtype: Dtype) -> Vec<Const> {
    let mut out: Vec<Const> = if dtype.is_float() {
        let floats =
            [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 2048.0, 6e-8, 6e4, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        floats.iter().map(|&x| Const::float(x).rounded(dtype)).collect()
    } else {
        let bits = i128::from(dtype.bits());
        let ints = [0, 1, -1, 2, 5, bits - 1, bits, 1 << (bits - 1), (1 << (bits - 1)) - 1];
        ints.iter().map(|&x| Const::Int(x).rounded(dtype)).collect()
    };
    out.dedup();
    out
}

/// A kernel that loads all edges of a type, computes, and stores the result; and what it stores.
fn on_edges(
    dtype: Dtype,
    compute: impl Fn(&mut Builder, Value) -> Option<Value>,
) -> Option<(Func, Memory, [Arg; 2])> {
    let values = edges(dtype);
    let params = vec![
        Param::new("x", Type::ptr(dtype), Access::Read),
        Param::new("out", Type::ptr(Dtype::U8), Access::Write),
    ];
    let mut b = Builder::new("edges", params, loc());
    let pointers = b.func().param_values().to_vec();
    let tile = |dtype| Type::tile(dtype, &[values.len() as u32]);
    let at = b.value(Op::Iota, &[], Some(&tile(Dtype::I32)), loc()).unwrap();
    let load = Op::Load { masked: false, other: false, cache: CacheHint::Default };
    let x = b.value(load, &[pointers[0], at], None, loc()).unwrap();
    let y = compute(&mut b, x)?;
    let out = b.ty(y).dtype();
    let typed = b.value(Op::PtrCast, &[pointers[1]], Some(&Type::ptr(out)), loc()).unwrap();
    b.op(Op::Store { masked: false, cache: CacheHint::Default }, &[typed, at, y], None, loc()).unwrap();
    let func = b.build(loc()).unwrap();
    let mut memory = Memory::new();
    let bytes: Vec<u8> = values.iter().flat_map(|&v| to_bytes(v, dtype)).collect();
    let args = [Arg::Buffer(memory.alloc_bytes(&bytes), 0), Arg::Buffer(memory.alloc_bytes(&[0; 16 * 8]), 0)];
    Some((func, memory, args))
}

fn to_bytes(value: Const, dtype: Dtype) -> Vec<u8> {
    let bytes = (dtype.bits() as usize).div_ceil(8);
    match (value, dtype) {
        (Const::Int(x), _) => x.to_le_bytes()[..bytes].to_vec(),
        (Const::Float(_), Dtype::F16) => half::f16::from_f64(value.as_f64()).to_le_bytes().to_vec(),
        (Const::Float(_), Dtype::BF16) => half::bf16::from_f64(value.as_f64()).to_le_bytes().to_vec(),
        (Const::Float(_), Dtype::F32) => (value.as_f64() as f32).to_le_bytes().to_vec(),
        (Const::Float(_), _) => value.as_f64().to_le_bytes().to_vec(),
    }
}

/// What the kernel stores, one number an element; NaNs are alike.
fn stored(func: &Func, mut memory: Memory, args: &[Arg; 2], out: Dtype) -> Option<Vec<u64>> {
    interp::launch(func, [1, 1, 1], args, &mut memory, &Options::default()).ok()?;
    let Arg::Buffer(buffer, _) = args[1] else { panic!("the second argument is a buffer") };
    let element = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(word);
        let nan = match out {
            Dtype::F16 => half::f16::from_bits(bits as u16).is_nan(),
            Dtype::BF16 => half::bf16::from_bits(bits as u16).is_nan(),
            Dtype::F32 => f32::from_bits(bits as u32).is_nan(),
            Dtype::F64 => f64::from_bits(bits).is_nan(),
            _ => false,
        };
        if nan { u64::MAX } else { bits }
    };
    Some(memory.bytes(buffer).chunks((out.bits() as usize).div_ceil(8)).map(element).collect())
}

/// Holds canonicalise to the meaning of the unoptimised kernel on all edges. Whether it changed the kernel.
fn holds_on_edges(dtype: Dtype, out: Dtype, compute: impl Fn(&mut Builder, Value) -> Option<Value>) -> bool {
    let Some((func, memory, args)) = on_edges(dtype, compute) else { return false };
    let mut changed = func.clone();
    Canonicalise.run(&mut changed, &mut Facts::new()).unwrap();
    if let Some(expected) = stored(&func, memory.clone(), &args, out) {
        assert_eq!(stored(&changed, memory, &args, out), Some(expected), "{func}{changed}");
    }
    func.to_string() != changed.to_string()
}

#[test]
fn every_identity_holds_for_every_edge_of_every_type() {
    let mut applied = 0;
    for dtype in Dtype::PLAIN {
        let constants = edges(dtype);
        let constant = |b: &mut Builder, c: Const, like: Value| {
            let ty = b.ty(like).clone();
            b.constant(c, &ty, loc()).unwrap()
        };
        for &op in BinaryOp::ALL {
            let apply = |b: &mut Builder, x, y| b.value(Op::Binary(op), &[x, y], None, loc()).ok();
            applied += usize::from(holds_on_edges(dtype, dtype, |b, x| apply(b, x, x)));
            for &c in &constants {
                applied += usize::from(holds_on_edges(dtype, dtype, |b, x| {
                    let c = constant(b, c, x);
                    apply(b, x, c)
                }));
                applied += usize::from(holds_on_edges(dtype, dtype, |b, x| {
                    let c = constant(b, c, x);
                    apply(b, c, x)
                }));
                for &d in &constants {
                    applied += usize::from(holds_on_edges(dtype, dtype, |b, x| {
                        let (c, d) = (constant(b, c, x), constant(b, d, x));
                        let first = apply(b, x, c)?;
                        apply(b, first, d)
                    }));
                }
            }
        }
        for &op in CmpOp::ALL {
            for &c in &constants {
                for swap in [false, true] {
                    applied += usize::from(holds_on_edges(dtype, Dtype::I1, |b, x| {
                        let c = constant(b, c, x);
                        let operands = if swap { [c, x] } else { [x, c] };
                        let truth = b.value(Op::Cmp(op), &operands, None, loc()).ok()?;
                        b.value(Op::Unary(UnaryOp::Not), &[truth], None, loc()).ok()
                    }));
                }
            }
            applied += usize::from(holds_on_edges(dtype, Dtype::I1, |b, x| {
                b.value(Op::Cmp(op), &[x, x], None, loc()).ok()
            }));
        }
        for &first in UnaryOp::ALL {
            for &second in UnaryOp::ALL {
                applied += usize::from(holds_on_edges(dtype, dtype, |b, x| {
                    let y = b.value(Op::Unary(first), &[x], None, loc()).ok()?;
                    b.value(Op::Unary(second), &[y], None, loc()).ok()
                }));
            }
        }
        for &c in &constants {
            for place in 0..3 {
                applied += usize::from(holds_on_edges(dtype, dtype, |b, x| {
                    let mut operands = [x; 3];
                    operands[place] = constant(b, c, x);
                    b.value(Op::Fma, &operands, None, loc()).ok()
                }));
            }
        }
    }
    assert!(applied > 1000, "{applied}");
}
