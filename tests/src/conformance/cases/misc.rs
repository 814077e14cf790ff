//! Assertions, printing, inline PTX, shared memory.

use leankv_dsl::ir::{BinaryOp, CacheHint, CmpOp, Const, Dtype, Op, Type};

use crate::conformance::data::{Rng, values};
use crate::conformance::number::{Num, wrap};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "assert", cases: asserts, exchanges: true },
        Group { name: "print", cases: print, exchanges: true },
        Group { name: "inline_ptx", cases: inline_ptx, exchanges: true },
        Group { name: "local_memory", cases: local_memory, exchanges: true },
        Group { name: "async_copy", cases: async_copy, exchanges: true },
    ]
}

fn asserts() -> Vec<Case> {
    let mut out = Vec::new();
    for (name, limit, fails) in [("holds", 60, false), ("fails_at_the_last_element", 59, true)] {
        for warps in [1, 4] {
            let mut k = K::new(format!("assert.{name}.warps{warps}"));
            k.warps(warps);
            let to = k.expected("out", Dtype::I32, &(0..60).map(Num::Int).collect::<Vec<_>>(), Check::Bits);
            let limit = k.scalar("limit", limit);
            let ty = Type::tile(Dtype::I32, &[60]);
            let line = k.typed(Op::Iota, &[], &ty);
            let limit = k.typed(Op::Splat, &[limit], &ty);
            let ok = k.op(Op::Cmp(CmpOp::Lt), &[line, limit]);
            k.ops(Op::Assert { message: "below the limit".into() }, &[ok], None);
            k.store(to, line);
            if fails {
                k.fails();
            }
            out.push(k.done());
        }
    }
    out
}

/// Printing must not disturb anything; what is printed is for people.
fn print() -> Vec<Case> {
    let mut k = K::new("print");
    let out = k.expected("out", Dtype::I32, &(0..3).map(Num::Int).collect::<Vec<_>>(), Check::Bits);
    let line = k.typed(Op::Iota, &[], &Type::tile(Dtype::I32, &[3]));
    k.ops(Op::Print { prefix: "conformance: line".into() }, &[line], None);
    k.store(out, line);
    vec![k.done()]
}

fn inline_ptx() -> Vec<Case> {
    let mut out = Vec::new();
    for (name, dtype, constraint, asm, op) in [
        ("add", Dtype::I32, "r", "add.s32 $0, $1, $2;", BinaryOp::Add),
        ("xor", Dtype::U32, "r", "xor.b32 $0, $1, $2;", BinaryOp::Xor),
        ("mul", Dtype::I64, "l", "mul.lo.s64 $0, $1, $2;", BinaryOp::Mul),
    ] {
        let name = format!("inline_ptx.{name}");
        let mut rng = Rng::named(&name);
        let (a, b) = (values(dtype, 65, &mut rng), values(dtype, 65, &mut rng));
        let value = |i: usize| {
            let (a, b) = (a[i].int(), b[(i + 3) % 65].int());
            let x = match op {
                BinaryOp::Add => a + b,
                BinaryOp::Xor => a ^ b,
                _ => a * b,
            };
            Num::Int(wrap(dtype, x))
        };
        let expect: Vec<Num> = (0..65).map(value).collect();
        let b: Vec<Num> = (0..65).map(|i| b[(i + 3) % 65]).collect();
        let mut k = K::new(name);
        let (a, b) = (k.input("a", dtype, &a), k.input("b", dtype, &b));
        let to = k.expected("out", dtype, &expect, Check::Bits);
        let (a, b) = (k.load(a, &[5, 13]), k.load(b, &[5, 13]));
        let ptx = Op::InlinePtx {
            asm: asm.into(),
            constraints: format!("={constraint},{constraint},{constraint}"),
        };
        let scalar = Type::scalar(dtype);
        let tile = Type::tile(dtype, &[5, 13]);
        let results = k.with_region(ptx, &[a, b], &[scalar.clone(), scalar], &[tile], |k, p| {
            vec![k.op(Op::Binary(op), &[p[0], p[1]])]
        });
        k.store(to, results[0]);
        out.push(k.done());
    }
    out
}

fn local_memory() -> Vec<Case> {
    let case = |&dtype: &Dtype| {
        let name = format!("local_memory.{dtype}");
        let elements = values(dtype, 128, &mut Rng::named(&name));
        let mut k = K::new(name);
        let x = k.input("x", dtype, &elements);
        let to = k.expected("out", dtype, &elements, Check::Bits);
        let tile = k.load(x, &[8, 16]);
        let shared = Type::Shared { dtype, shape: leankv_dsl::ir::Shape::new(&[8, 16]), stages: 2 };
        let block = k.typed(Op::LocalAlloc, &[], &shared);
        let one = k.i32(1);
        k.ops(Op::LocalStore, &[block, one, tile], None);
        k.ops(Op::Barrier, &[], None);
        let tile = k.op(Op::LocalLoad, &[block, one]);
        k.store(to, tile);
        k.done()
    };
    [Dtype::I32, Dtype::F16, Dtype::U8, Dtype::F64].iter().map(case).collect()
}

fn async_copy() -> Vec<Case> {
    let case = |&dtype: &Dtype| {
        let name = format!("async_copy.{dtype}");
        let elements = values(dtype, 128, &mut Rng::named(&name));
        let mut expect = elements.clone();
        let zero = if dtype.is_float() { Num::Float(0.0) } else { Num::Int(0) };
        expect[100..].fill(zero);
        let mut k = K::new(name);
        let x = k.aligned_input("x", dtype, &elements);
        let to = k.expected("out", dtype, &expect, Check::Bits);
        let shared = Type::Shared { dtype, shape: leankv_dsl::ir::Shape::new(&[8, 16]), stages: 1 };
        let block = k.typed(Op::LocalAlloc, &[], &shared);
        let offsets = k.offsets(&[8, 16]);
        let ty = k.ty(offsets);
        let limit = k.constant(Const::Int(100), &ty);
        let mask = k.op(Op::Cmp(CmpOp::Lt), &[offsets, limit]);
        let zero = k.i32(0);
        k.ops(
            Op::AsyncCopy { masked: true, cache: CacheHint::Default },
            &[block, zero, x, offsets, mask],
            None,
        );
        k.ops(Op::AsyncCommit, &[], None);
        k.ops(Op::AsyncWait { pending: 0 }, &[], None);
        k.ops(Op::Barrier, &[], None);
        let tile = k.op(Op::LocalLoad, &[block, zero]);
        k.store(to, tile);
        k.done()
    };
    [Dtype::F16, Dtype::F32, Dtype::I64].iter().map(case).collect()
}
