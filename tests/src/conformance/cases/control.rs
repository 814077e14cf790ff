//! Loops and branches.

use leankv_dsl::ir::{BinaryOp, CmpOp, Combine, CombineKind, Const, Dtype, Op, Type, Value};

use crate::conformance::case::{LOAD, STORE};
use crate::conformance::data::{Rng, small};
use crate::conformance::number::{Num, wrap};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "for", cases: for_loops, exchanges: true },
        Group { name: "for_ends", cases: for_ends, exchanges: false },
        Group { name: "for_stages_ends", cases: staged_ends, exchanges: false },
        Group { name: "for_pointer", cases: carried_pointer, exchanges: true },
        Group { name: "for_stages", cases: staged, exchanges: true },
        Group { name: "while", cases: while_loops, exchanges: true },
        Group { name: "if", cases: ifs, exchanges: true },
        Group { name: "nested_control", cases: nested, exchanges: true },
    ]
}

fn add(k: &mut K, a: Value, b: Value) -> Value {
    k.op(Op::Binary(BinaryOp::Add), &[a, b])
}

fn mul(k: &mut K, a: Value, b: Value) -> Value {
    k.op(Op::Binary(BinaryOp::Mul), &[a, b])
}

/// Bounds known only at run time, steps, loops that run never, carried scalars and tiles.
fn for_loops() -> Vec<Case> {
    let mut out = Vec::new();
    for bounds in [[0, 5, 1], [3, 20, 4], [5, 5, 1], [9, 2, 1], [-7, 8, 3], [0, 1, 100]] {
        for dtype in [Dtype::I32, Dtype::I64] {
            out.push(for_case(bounds, dtype, false));
        }
    }
    out
}

/// Loops whose next index would leave the type, and loops with steps of 0 and below; bounds known when compiled, and not.
fn for_ends() -> Vec<Case> {
    let mut out = Vec::new();
    for dtype in [Dtype::I32, Dtype::I64] {
        let (min, max) = (-1i128 << (dtype.bits() - 1), (1i128 << (dtype.bits() - 1)) - 1);
        let ends = [
            [max - 5, max, 1],
            [max - 5, max, 2],
            [max - 5, max, 3],
            [max - 5, max, 5],
            [max - 5, max, 6],
            [max - 1, max, max],
            [min, max, max],
            [min, max, max / 2 + 1],
            [min, min + 3, 2],
            [min, min + 1, max],
            [-3, max, max - 1],
            [max, max, 1],
            [0, 5, 0],
            [0, 5, -1],
            [5, 0, -1],
            [min, max, min],
            [max - 3, max, -max],
        ];
        for bounds in ends {
            out.push(for_case(bounds, dtype, false));
            // The verifier refuses constant steps of 0 and below.
            if bounds[2] > 0 {
                out.push(for_case(bounds, dtype, true));
            }
        }
    }
    out
}

/// The sum of a loop's indices, a number that their order shows in, and a tile that grows with them.
fn for_case(bounds: [i128; 3], dtype: Dtype, constant: bool) -> Case {
    let [lower, upper, step] = bounds;
    let kind = if constant { ".constant" } else { "" };
    let mut k = K::new(format!("for.{lower}.{upper}.{step}.{dtype}{kind}"));
    k.unchecked();
    let wide = dtype == Dtype::I64;
    let mut names = ["lower", "upper", "step"].into_iter();
    let bounds = bounds.map(|x| {
        let name = names.next().expect("each bound has a name");
        match (constant, wide) {
            (true, _) => k.constant(Const::Int(x), &Type::scalar(dtype)),
            (false, true) => k.scalar(name, x as i64),
            (false, false) => k.scalar(name, x as i32),
        }
    });
    let mut indices = Vec::new();
    let mut i = lower;
    while i < upper && step > 0 {
        indices.push(i);
        i += step;
    }
    let sum = wrap(dtype, indices.iter().sum());
    let narrow = |i: i128| i as i32;
    let hash = indices.iter().fold(1i32, |h, &i| h.wrapping_mul(31).wrapping_add(narrow(i)));
    let total = indices.iter().fold(0i32, |sum, &i| sum.wrapping_add(narrow(i)));
    let tile: Vec<Num> = (0..13i32).map(|j| Num::Int(total.wrapping_mul(j).wrapping_add(j).into())).collect();
    let to_sum = k.expected("sum", dtype, &[Num::Int(sum)], Check::Bits);
    let to_hash = k.expected("hash", Dtype::I32, &[Num::Int(hash.into())], Check::Bits);
    let to_tile = k.expected("tile", Dtype::I32, &tile, Check::Bits);
    let zero = k.constant(Const::Int(0), &Type::scalar(dtype));
    let one = k.i32(1);
    let line = k.typed(Op::Iota, &[], &Type::tile(Dtype::I32, &[13]));
    let finals = k.for_loop(bounds, &[zero, one, line], 1, |k, i, carried| {
        let sum = add(k, carried[0], i);
        let narrow = if wide { k.cast(i, Dtype::I32) } else { i };
        let factor = k.i32(31);
        let hash = mul(k, carried[1], factor);
        let hash = add(k, hash, narrow);
        let wide = k.typed(Op::Splat, &[narrow], &Type::tile(Dtype::I32, &[13]));
        let grown = mul(k, wide, line);
        let tile = add(k, carried[2], grown);
        vec![sum, hash, tile]
    });
    k.store(to_sum, finals[0]);
    k.store(to_hash, finals[1]);
    k.store(to_tile, finals[2]);
    k.done()
}

/// A pointer that moves on with the loop, and two values that swap.
fn carried_pointer() -> Vec<Case> {
    let mut k = K::new("for.pointer");
    let rows = 7usize;
    let elements = small(Dtype::I32, rows * 16, 100, &mut Rng::named("for.pointer"));
    let sums: Vec<Num> =
        (0..16).map(|c| Num::Int((0..rows).map(|r| elements[r * 16 + c].int()).sum())).collect();
    let x = k.aligned_input("x", Dtype::I32, &elements);
    let out = k.expected("out", Dtype::I32, &sums, Check::Bits);
    let swapped = k.expected("swapped", Dtype::I32, &[Num::Int(2), Num::Int(1)], Check::Bits);
    let count = k.scalar("rows", rows as i32);
    let (zero, one, two) = (k.i32(0), k.i32(1), k.i32(2));
    let acc = k.constant(Const::Int(0), &Type::tile(Dtype::I32, &[16]));
    let finals = k.for_loop([zero, count, one], &[x, acc, one, two], 1, |k, _, carried| {
        let row = k.load(carried[0], &[16]);
        let next = k.at(carried[0], 16);
        let acc = add(k, carried[1], row);
        vec![next, acc, carried[3], carried[2]]
    });
    k.store(out, finals[1]);
    k.store(swapped, finals[2]);
    let second = k.at(swapped, 1);
    k.store(second, finals[3]);
    vec![k.done()]
}

/// Loops that ask for a software pipeline: loads into a product, ragged at the end.
fn staged() -> Vec<Case> {
    let mut out = Vec::new();
    for stages in [1u8, 2, 3, 4] {
        for steps in [0usize, 1, 2, 5] {
            let name = format!("for.stages{stages}.steps{steps}");
            out.push(staged_case(name, stages, steps, [0, steps as i128, 1], Dtype::I32));
        }
    }
    out
}

/// The same at the upper end of the index's type, where the turns that are fetched ahead are beyond it; and with steps that let
/// the loop not run.
fn staged_ends() -> Vec<Case> {
    let mut out = Vec::new();
    for dtype in [Dtype::I32, Dtype::I64] {
        let max = (1i128 << (dtype.bits() - 1)) - 1;
        for (steps, bounds) in [
            (3, [max - 3, max, 1]),
            (2, [max - 5, max, 3]),
            (1, [max - 1, max, max]),
            (4, [-max - 1, max, max / 2 + 1]),
            (0, [0, 5, 0]),
            (0, [0, 5, -max]),
        ] {
            let [lower, upper, step] = bounds;
            let name = format!("for.stages4.{lower}.{upper}.{step}.{dtype}");
            out.push(staged_case(name, 4, steps, bounds, dtype));
        }
    }
    out
}

/// A product whose operands are loaded in a loop of `steps` turns.
fn staged_case(name: String, stages: u8, steps: usize, bounds: [i128; 3], dtype: Dtype) -> Case {
    let mut k = K::new(name);
    k.unchecked();
    let (m, depth, n) = (16usize, 32usize, 16usize);
    let mut rng = Rng::named("staged");
    let total = depth * steps;
    let a = small(Dtype::F16, (m * total).max(1), 4, &mut rng);
    let b = small(Dtype::F16, (total * n).max(1), 4, &mut rng);
    let mut expect = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..total).map(|p| a[i * total + p].float() * b[p * n + j].float()).sum();
            expect.push(Num::Float(sum));
        }
    }
    let a = k.aligned_input("a", Dtype::F16, &a);
    let b = k.aligned_input("b", Dtype::F16, &b);
    let out_ptr = k.expected("out", Dtype::F32, &expect, Check::Value);
    let stride = k.scalar("stride", total as i32);
    let mut names = ["lower", "upper", "step"].into_iter();
    let bounds = bounds.map(|x| {
        let name = names.next().expect("each bound has a name");
        if dtype == Dtype::I64 { k.scalar(name, x as i64) } else { k.scalar(name, x as i32) }
    });
    let shape = Type::tile(Dtype::I32, &[m as u32, depth as u32]);
    let spread = |k: &mut K, n: usize, axis: u8| {
        let line = k.typed(Op::Iota, &[], &Type::tile(Dtype::I32, &[n as u32]));
        let line = k.op(Op::ExpandDims { axis }, &[line]);
        k.typed(Op::Broadcast, &[line], &shape)
    };
    let (row, column) = (spread(&mut k, m, 1), spread(&mut k, depth, 0));
    let stride = k.typed(Op::Splat, &[stride], &shape);
    let start = mul(&mut k, row, stride);
    let start = add(&mut k, start, column);
    let b_start = k.offsets(&[depth as u32, n as u32]);
    let acc = k.constant(Const::float(0.0), &Type::tile(Dtype::F32, &[m as u32, n as u32]));
    let finals = k.for_loop(bounds, &[acc], stages, |k, i, carried| {
        // The number of the turn; it is exact though the difference may wrap.
        let from_start = k.op(Op::Binary(BinaryOp::Sub), &[i, bounds[0]]);
        let unsigned = if dtype == Dtype::I64 { Dtype::U64 } else { Dtype::U32 };
        let (from_start, step) = (k.cast(from_start, unsigned), k.cast(bounds[2], unsigned));
        let turn = k.op(Op::Binary(BinaryOp::Div), &[from_start, step]);
        let i = k.cast(turn, Dtype::I32);
        let moved = |k: &mut K, start: Value, by: usize| {
            let by = k.i32(by as i32);
            let by = mul(k, i, by);
            let ty = k.ty(start);
            let by = k.typed(Op::Splat, &[by], &ty);
            add(k, start, by)
        };
        let a_at = moved(k, start, depth);
        let b_at = moved(k, b_start, depth * n);
        let (x, y) = (k.op(LOAD, &[a, a_at]), k.op(LOAD, &[b, b_at]));
        vec![k.op(Op::Dot, &[x, y, carried[0]])]
    });
    k.store(out_ptr, finals[0]);
    k.done()
}

/// Steps of the Collatz sequence, for a few starts; and one that runs never.
fn while_loops() -> Vec<Case> {
    let mut out = Vec::new();
    for start in [1i64, 6, 27] {
        let mut k = K::new(format!("while.collatz{start}"));
        let (mut n, mut steps) = (start, 0);
        while n != 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        let to_steps = k.expected("steps", Dtype::I32, &[Num::Int(steps)], Check::Bits);
        let to_n = k.expected("n", Dtype::I64, &[Num::Int(1)], Check::Bits);
        let start = k.scalar("start", start);
        let zero = k.i32(0);
        let wide = |k: &mut K, x: i128| k.constant(Const::Int(x), &Type::scalar(Dtype::I64));
        let finals = k.while_loop(
            &[start, zero],
            |k, carried| {
                let one = wide(k, 1);
                k.op(Op::Cmp(CmpOp::Ne), &[carried[0], one])
            },
            |k, carried| {
                let (one, two, three) = (wide(k, 1), wide(k, 2), wide(k, 3));
                let rest = k.op(Op::Binary(BinaryOp::Rem), &[carried[0], two]);
                let odd = k.op(Op::Cmp(CmpOp::Eq), &[rest, one]);
                let next = k.if_else(
                    odd,
                    |k| {
                        let tripled = mul(k, carried[0], three);
                        vec![add(k, tripled, one)]
                    },
                    |k| vec![k.op(Op::Binary(BinaryOp::Div), &[carried[0], two])],
                );
                let count = k.i32(1);
                let steps = add(k, carried[1], count);
                vec![next[0], steps]
            },
        );
        k.store(to_n, finals[0]);
        k.store(to_steps, finals[1]);
        out.push(k.done());
    }
    out
}

/// Branches with scalar, tile and pointer results, and with effects alone.
fn ifs() -> Vec<Case> {
    let mut out = Vec::new();
    for flag in [false, true] {
        let mut k = K::new(format!("if.{flag}"));
        let elements = small(Dtype::F32, 60, 100, &mut Rng::named("if"));
        let x = k.input("x", Dtype::F32, &elements);
        let y = k.input("y", Dtype::F32, &[Num::Float(7.0); 60]);
        let picked: Vec<Num> = if flag { elements.clone() } else { vec![Num::Float(7.0); 60] };
        let changed: Vec<Num> = elements
            .iter()
            .map(|x| Num::Float(if flag { x.float() * 2.0 } else { x.float() - 1.0 }))
            .collect();
        let to_picked = k.expected("picked", Dtype::F32, &picked, Check::Bits);
        let to_changed = k.expected("changed", Dtype::F32, &changed, Check::Bits);
        let to_number =
            k.expected("number", Dtype::I32, &[Num::Int(if flag { 11 } else { -4 })], Check::Bits);
        let to_effect = k.expected("effect", Dtype::I32, &[Num::Int(if flag { 5 } else { 6 })], Check::Bits);
        let cond = k.scalar("flag", flag);
        let tile = k.load(x, &[60]);
        let results = k.if_else(
            cond,
            |k| {
                let doubled = add(k, tile, tile);
                let (number, effect) = (k.i32(11), k.i32(5));
                k.store(to_effect, effect);
                vec![doubled, number, x]
            },
            |k| {
                let one = k.constant(Const::float(1.0), &Type::tile(Dtype::F32, &[60]));
                let less = k.op(Op::Binary(BinaryOp::Sub), &[tile, one]);
                let (number, effect) = (k.i32(-4), k.i32(6));
                k.store(to_effect, effect);
                vec![less, number, y]
            },
        );
        k.store(to_changed, results[0]);
        k.store(to_number, results[1]);
        let tile = k.load(results[2], &[60]);
        k.store(to_picked, tile);
        out.push(k.done());
    }
    out
}

/// A loop in a branch in a loop, over several programs: row sums of the even rows, of the odd ones their maximum.
fn nested() -> Vec<Case> {
    let (programs, rows, columns) = (2usize, 5usize, 3usize);
    let width = 20usize;
    let mut k = K::new("nested");
    k.grid([programs as u32, 1, 1]);
    let n = programs * rows * columns * width;
    let elements = small(Dtype::I32, n, 1000, &mut Rng::named("nested"));
    let mut expect = Vec::new();
    for (i, row) in elements.chunks(columns * width).enumerate() {
        let values = row.iter().map(|x| x.int());
        expect.push(Num::Int(if i % rows % 2 == 0 { values.sum() } else { values.max().unwrap_or(0) }));
    }
    let x = k.input("x", Dtype::I32, &elements);
    let out = k.expected("out", Dtype::I32, &expect, Check::Bits);
    let program = k.op(Op::ProgramId(leankv_dsl::ir::Axis::X), &[]);
    let (zero, one, two) = (k.i32(0), k.i32(1), k.i32(2));
    let (row_count, column_count, width_value) =
        (k.i32(rows as i32), k.i32(columns as i32), k.i32(width as i32));
    let first_row = mul(&mut k, program, row_count);
    k.for_loop([zero, row_count, one], &[], 1, |k, row, _| {
        let rest = k.op(Op::Binary(BinaryOp::Rem), &[row, two]);
        let even = k.op(Op::Cmp(CmpOp::Eq), &[rest, zero]);
        let at = add(k, first_row, row);
        let first_block = mul(k, at, column_count);
        let over_columns = |k: &mut K, init: i32, kind: CombineKind| {
            let init = k.i32(init);
            k.for_loop([zero, column_count, one], &[init], 1, |k, column, carried| {
                let block = add(k, first_block, column);
                let start = mul(k, block, width_value);
                let ty = Type::tile(Dtype::I32, &[width as u32]);
                let start = k.typed(Op::Splat, &[start], &ty);
                let lane = k.typed(Op::Iota, &[], &ty);
                let offsets = add(k, start, lane);
                let tile = k.op(LOAD, &[x, offsets]);
                let value = k.op(Op::Reduce { axis: 0, combine: Combine::Kind(kind) }, &[tile]);
                vec![k.op(Op::Binary(kind.binary()), &[carried[0], value])]
            })
        };
        let value = k.if_else(
            even,
            |k| over_columns(k, 0, CombineKind::Add),
            |k| over_columns(k, i32::MIN, CombineKind::Max),
        );
        k.ops(STORE, &[out, at, value[0]], None);
        vec![]
    });
    vec![k.done()]
}
