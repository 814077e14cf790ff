//! Atomics: every operation and type, on addresses of their own and on shared ones.

use leankv_dsl::ir::{Access, AtomicOp, Axis, BinaryOp, CmpOp, Const, Dtype, MemOrder, MemScope, Op, Type};

use crate::conformance::case::{Output, STORE};
use crate::conformance::data::{Rng, small, values};
use crate::conformance::number::{Num, wrap, write_all};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    macro_rules! group {
        ($name:literal, $op:expr) => {
            Group { name: $name, cases: || operation($op), exchanges: true }
        };
    }
    vec![
        group!("atomic_add", AtomicOp::Add),
        group!("atomic_min", AtomicOp::Min),
        group!("atomic_max", AtomicOp::Max),
        group!("atomic_and", AtomicOp::And),
        group!("atomic_or", AtomicOp::Or),
        group!("atomic_xor", AtomicOp::Xor),
        group!("atomic_xchg", AtomicOp::Exchange),
        Group { name: "atomic_cas", cases: compare_and_swap, exchanges: true },
        Group { name: "atomic_orders", cases: orders, exchanges: true },
        Group { name: "atomic_last_program", cases: last_program, exchanges: true },
    ]
}

fn rmw(op: AtomicOp, order: MemOrder, scope: MemScope, masked: bool) -> Op {
    Op::AtomicRmw { op, order, scope, masked }
}

fn types(op: AtomicOp) -> Vec<Dtype> {
    let wide = [Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64];
    let floats: &[Dtype] = match op {
        AtomicOp::Add => &[Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64],
        AtomicOp::Min | AtomicOp::Max => &[Dtype::F32],
        AtomicOp::Exchange => &[Dtype::F32, Dtype::F64],
        _ => &[],
    };
    wide.iter().chain(floats).copied().collect()
}

fn apply(op: AtomicOp, dtype: Dtype, old: Num, x: Num) -> Num {
    match (old, x) {
        (Num::Float(a), Num::Float(b)) => Num::Float(match op {
            AtomicOp::Add => a + b,
            AtomicOp::Min => a.min(b),
            AtomicOp::Max => a.max(b),
            _ => b,
        }),
        (a, b) => {
            let (a, b) = (a.int(), b.int());
            Num::Int(wrap(
                dtype,
                match op {
                    AtomicOp::Add => a + b,
                    AtomicOp::Min => a.min(b),
                    AtomicOp::Max => a.max(b),
                    AtomicOp::And => a & b,
                    AtomicOp::Or => a | b,
                    AtomicOp::Xor => a ^ b,
                    AtomicOp::Exchange => b,
                },
            ))
        }
    }
}

fn operation(op: AtomicOp) -> Vec<Case> {
    let mut out = Vec::new();
    for dtype in types(op) {
        out.push(own_addresses(op, dtype));
        if op != AtomicOp::Exchange {
            out.push(shared_addresses(op, dtype));
        }
    }
    out
}

/// An address an element, every fourth masked off: old values and memory.
fn own_addresses(op: AtomicOp, dtype: Dtype) -> Case {
    let name = format!("atomic_{op}.{dtype}");
    let mut rng = Rng::named(&name);
    let mut k = K::new(name);
    for (i, n) in [1usize, 13, 60, 128].into_iter().enumerate() {
        let mut draw =
            || if dtype.is_float() { small(dtype, n, 9, &mut rng) } else { values(dtype, n, &mut rng) };
        let (before, x) = (draw(), draw());
        let on = |j: usize| j % 4 != 3;
        let after: Vec<Num> =
            (0..n).map(|j| if on(j) { apply(op, dtype, before[j], x[j]) } else { before[j] }).collect();
        let zero = if dtype.is_float() { Num::Float(0.0) } else { Num::Int(0) };
        let old: Vec<Num> = (0..n).map(|j| if on(j) { before[j] } else { zero }).collect();
        let output = Output { check: Check::Value, expect: Some(write_all(dtype, after)) };
        let memory = k.buffer(
            &format!("memory{i}"),
            dtype,
            write_all(dtype, before),
            Access::ReadWrite,
            1,
            Some(output),
        );
        let input = k.input(&format!("x{i}"), dtype, &x);
        let out = k.expected(&format!("old{i}"), dtype, &old, Check::Value);
        let offsets = k.offsets(&[n as u32]);
        let x = k.load(input, &[n as u32]);
        let ty = k.ty(offsets);
        let (four, three) = (k.constant(Const::Int(4), &ty), k.constant(Const::Int(3), &ty));
        let rest = k.op(Op::Binary(BinaryOp::Rem), &[offsets, four]);
        let mask = k.op(Op::Cmp(CmpOp::Ne), &[rest, three]);
        let got = k.op(rmw(op, MemOrder::Relaxed, MemScope::Device, true), &[memory, offsets, x, mask]);
        k.store(out, got);
    }
    k.done()
}

/// Four programs, each with a scalar and a tile of which many elements have one address. The order must not matter.
fn shared_addresses(op: AtomicOp, dtype: Dtype) -> Case {
    let name = format!("atomic_{op}.{dtype}.shared");
    let mut rng = Rng::named(&name);
    let mut k = K::new(name);
    let (programs, n, slots) = (4u32, 60usize, 5usize);
    k.grid([programs, 1, 1]);
    // Sums of 4 x 12 such numbers and the start are exact in bf16.
    let x = small(dtype, n, 2, &mut rng);
    let before = small(dtype, slots, 9, &mut rng);
    let mut after = before.clone();
    for _ in 0..programs {
        for (j, &x) in x.iter().enumerate() {
            after[j % slots] = apply(op, dtype, after[j % slots], x);
        }
        after[0] = apply(op, dtype, after[0], x[0]);
    }
    let output = Output { check: Check::Value, expect: Some(write_all(dtype, after)) };
    let memory = k.buffer("memory", dtype, write_all(dtype, before), Access::ReadWrite, 1, Some(output));
    let input = k.input("x", dtype, &x);
    let offsets = k.offsets(&[n as u32]);
    let x = k.load(input, &[n as u32]);
    let ty = k.ty(offsets);
    let count = k.constant(Const::Int(slots as i128), &ty);
    let slot = k.op(Op::Binary(BinaryOp::Rem), &[offsets, count]);
    k.op(rmw(op, MemOrder::Relaxed, MemScope::Device, false), &[memory, slot, x]);
    let one = k.load(input, &[]);
    let first = k.i32(0);
    k.op(rmw(op, MemOrder::Relaxed, MemScope::Device, false), &[memory, first, one]);
    k.done()
}

fn compare_and_swap() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let name = format!("atomic_cas.{dtype}");
        let mut rng = Rng::named(&name);
        let mut k = K::new(name);
        for (i, n) in [1usize, 13, 96].into_iter().enumerate() {
            let before = values(dtype, n, &mut rng);
            let new = values(dtype, n, &mut rng);
            // Every other comparison fails.
            let compare: Vec<Num> =
                (0..n).map(|j| Num::Int(wrap(dtype, before[j].int() + (j % 2) as i128))).collect();
            let after: Vec<Num> = (0..n).map(|j| if j % 2 == 0 { new[j] } else { before[j] }).collect();
            let output = Output { check: Check::Bits, expect: Some(write_all(dtype, after)) };
            let bytes = write_all(dtype, before.iter().copied());
            let memory = k.buffer(&format!("memory{i}"), dtype, bytes, Access::ReadWrite, 1, Some(output));
            let compare = k.input(&format!("compare{i}"), dtype, &compare);
            let new = k.input(&format!("new{i}"), dtype, &new);
            let out = k.expected(&format!("old{i}"), dtype, &before, Check::Bits);
            let offsets = k.offsets(&[n as u32]);
            let (compare, new) = (k.load(compare, &[n as u32]), k.load(new, &[n as u32]));
            let op = Op::AtomicCas { order: MemOrder::Relaxed, scope: MemScope::Device };
            let old = k.op(op, &[memory, offsets, compare, new]);
            k.store(out, old);
        }
        k.done()
    };
    [Dtype::I32, Dtype::I64, Dtype::U32, Dtype::U64].into_iter().map(case).collect()
}

/// Every order with every scope.
fn orders() -> Vec<Case> {
    let mut out = Vec::new();
    for &order in MemOrder::ALL {
        for &scope in MemScope::ALL {
            let mut k = K::new(format!("atomic_add.{order}.{scope}"));
            let bytes = write_all(Dtype::I32, (0..64).map(Num::Int));
            let expect = write_all(Dtype::I32, (0..64).map(|x| Num::Int(x + 3)));
            let output = Output { check: Check::Bits, expect: Some(expect) };
            let memory = k.buffer("memory", Dtype::I32, bytes, Access::ReadWrite, 1, Some(output));
            let offsets = k.offsets(&[64]);
            let three = k.constant(Const::Int(3), &Type::tile(Dtype::I32, &[64]));
            k.op(rmw(AtomicOp::Add, order, scope, false), &[memory, offsets, three]);
            out.push(k.done());
        }
    }
    out
}

/// Each program stores its part and counts itself; the last one, whichever it is, sums the parts of all.
fn last_program() -> Vec<Case> {
    let programs = 6u32;
    let mut k = K::new("atomic_last_program");
    k.grid([programs, 1, 1]);
    let zeros = |n: usize| write_all(Dtype::I32, vec![Num::Int(0); n]);
    let output =
        |expect: Vec<Num>| Some(Output { check: Check::Bits, expect: Some(write_all(Dtype::I32, expect)) });
    let parts = (0..programs).map(|p| Num::Int((p * p + 1).into())).collect();
    let parts = k.buffer("parts", Dtype::I32, zeros(programs as usize), Access::ReadWrite, 1, output(parts));
    let total = (0..programs).map(|p| i128::from(p * p + 1)).sum();
    let out = k.expected("out", Dtype::I32, &[Num::Int(total)], Check::Bits);
    let counter = output(vec![Num::Int(programs.into())]);
    let counter = k.buffer("counter", Dtype::I32, zeros(1), Access::ReadWrite, 1, counter);
    let program = k.op(Op::ProgramId(Axis::X), &[]);
    let square = k.op(Op::Binary(BinaryOp::Mul), &[program, program]);
    let one = k.i32(1);
    let part = k.op(Op::Binary(BinaryOp::Add), &[square, one]);
    k.ops(STORE, &[parts, program, part], None);
    let zero = k.i32(0);
    let old = k.op(rmw(AtomicOp::Add, MemOrder::AcqRel, MemScope::Device, false), &[counter, zero, one]);
    let last = k.i32(programs as i32 - 1);
    let is_last = k.op(Op::Cmp(CmpOp::Eq), &[old, last]);
    k.if_else(
        is_last,
        |k| {
            let limit = k.i32(programs as i32);
            let sum = k.for_loop([zero, limit, one], &[zero], 1, |k, i, carried| {
                let part = k.op(crate::conformance::case::LOAD, &[parts, i]);
                vec![k.op(Op::Binary(BinaryOp::Add), &[carried[0], part])]
            });
            k.store(out, sum[0]);
            vec![]
        },
        |_| vec![],
    );
    vec![k.done()]
}
