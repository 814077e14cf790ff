//! Matrix products: all element types, sizes that fill no fragment, chains.

use leankv_dsl::ir::{BinaryOp, Combine, CombineKind, Const, Dtype, Op, Type, UnaryOp, Value};

use crate::conformance::data::{Rng, small, units};
use crate::conformance::number::Num;
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "dot", cases: dots, exchanges: true },
        Group { name: "dot_fractions", cases: fractions, exchanges: true },
        Group { name: "dot_transposed", cases: transposed, exchanges: true },
        Group { name: "dot_warps", cases: warps, exchanges: true },
        Group { name: "dot_chain", cases: chain, exchanges: true },
    ]
}

const TYPES: [(Dtype, Dtype, Dtype); 8] = [
    (Dtype::F16, Dtype::F16, Dtype::F32),
    (Dtype::BF16, Dtype::BF16, Dtype::F32),
    (Dtype::F32, Dtype::F32, Dtype::F32),
    (Dtype::F64, Dtype::F64, Dtype::F64),
    (Dtype::I8, Dtype::I8, Dtype::I32),
    (Dtype::U8, Dtype::U8, Dtype::I32),
    (Dtype::I8, Dtype::U8, Dtype::I32),
    (Dtype::U8, Dtype::I8, Dtype::I32),
];

/// m, k, n.
const SIZES: [[u32; 3]; 10] = [
    [16, 16, 8],
    [1, 1, 1],
    [3, 5, 7],
    [16, 32, 16],
    [32, 64, 32],
    [5, 80, 13],
    [60, 13, 3],
    [1, 96, 32],
    [17, 33, 9],
    [9, 3, 70],
];

fn product(a: &[Num], b: &[Num], acc: &[Num], [m, k, n]: [u32; 3], float: bool) -> Vec<Num> {
    let (m, k, n) = (m as usize, k as usize, n as usize);
    let mut out = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|p| (a[i * k + p], b[p * n + j]));
            out.push(match float {
                true => Num::Float(terms.fold(acc[i * n + j].float(), |s, (a, b)| s + a.float() * b.float())),
                false => Num::Int(terms.fold(acc[i * n + j].int(), |s, (a, b)| s + a.int() * b.int())),
            });
        }
    }
    out
}

struct Operands {
    a: Vec<Num>,
    b: Vec<Num>,
    acc: Vec<Num>,
}

/// Small integers: every order of adding gives the same.
fn integers(a: Dtype, b: Dtype, acc: Dtype, [m, k, n]: [u32; 3], rng: &mut Rng) -> Operands {
    let most = |d: Dtype| {
        if d == Dtype::U8 {
            255
        } else if d == Dtype::I8 {
            127
        } else {
            8
        }
    };
    Operands {
        a: small(a, (m * k) as usize, most(a), rng),
        b: small(b, (k * n) as usize, most(b), rng),
        acc: small(acc, (m * n) as usize, 100, rng),
    }
}

fn one(k: &mut K, i: usize, [a, b, acc]: [Dtype; 3], size: [u32; 3], operands: &Operands, check: Check) {
    let [m, depth, n] = size;
    let expect = product(&operands.a, &operands.b, &operands.acc, size, acc.is_float());
    let x = k.aligned_input(&format!("a{i}"), a, &operands.a);
    let y = k.aligned_input(&format!("b{i}"), b, &operands.b);
    let z = k.aligned_input(&format!("acc{i}"), acc, &operands.acc);
    let out = k.expected(&format!("out{i}"), acc, &expect, check);
    let (x, y, z) = (k.load(x, &[m, depth]), k.load(y, &[depth, n]), k.load(z, &[m, n]));
    let result = k.op(Op::Dot, &[x, y, z]);
    k.store(out, result);
}

fn dots() -> Vec<Case> {
    let case = |&(a, b, acc): &(Dtype, Dtype, Dtype)| {
        let name = format!("dot.{a}.{b}.{acc}");
        let mut rng = Rng::named(&name);
        let mut k = K::new(name);
        for (i, &size) in SIZES.iter().enumerate() {
            let operands = integers(a, b, acc, size, &mut rng);
            one(&mut k, i, [a, b, acc], size, &operands, Check::Value);
        }
        k.done()
    };
    TYPES.iter().map(case).collect()
}

/// Fractions: equal within the rounding of the accumulator.
fn fractions() -> Vec<Case> {
    let case = |&(a, b, acc): &(Dtype, Dtype, Dtype)| {
        let name = format!("dot_fractions.{a}");
        let mut rng = Rng::named(&name);
        let mut k = K::new(name);
        for (i, &size) in SIZES.iter().enumerate() {
            let [m, depth, n] = size.map(|e| e as usize);
            let operands = Operands {
                a: units(a, m * depth, &mut rng),
                b: units(b, depth * n, &mut rng),
                acc: units(acc, m * n, &mut rng),
            };
            // Tensor cores may truncate where they align products, which costs two bits more than rounding.
            let unit = if acc == Dtype::F64 { 2f64.powi(-53) } else { 2f64.powi(-22) };
            let check = Check::Close { rel: 0.0, abs: unit * (depth + 1) as f64 };
            one(&mut k, i, [a, b, acc], size, &operands, check);
        }
        k.done()
    };
    TYPES[..4].iter().map(case).collect()
}

/// Operands that lie the other way in memory, as keys do: both, or the second alone.
fn transposed() -> Vec<Case> {
    let case = |&(a, b, acc): &(Dtype, Dtype, Dtype)| {
        let name = format!("dot_transposed.{a}.{b}");
        let mut rng = Rng::named(&name);
        let mut k = K::new(name);
        let both = [[16u32, 64, 32], [5, 80, 13], [32, 16, 64]].map(|size| (size, true));
        let second = [[17, 16, 32], [4, 33, 35], [9, 3, 70], [1, 7, 3]].map(|size| (size, false));
        for (i, (size, both)) in both.into_iter().chain(second).enumerate() {
            let [m, depth, n] = size;
            let operands = integers(a, b, acc, size, &mut rng);
            let expect = product(&operands.a, &operands.b, &operands.acc, size, acc.is_float());
            let flip = |v: &[Num], rows: u32, columns: u32| -> Vec<Num> {
                (0..columns).flat_map(|c| (0..rows).map(move |r| v[(r * columns + c) as usize])).collect()
            };
            let first = if both { flip(&operands.a, m, depth) } else { operands.a.clone() };
            let x = k.aligned_input(&format!("a{i}"), a, &first);
            let y = k.aligned_input(&format!("b{i}"), b, &flip(&operands.b, depth, n));
            let z = k.aligned_input(&format!("acc{i}"), acc, &operands.acc);
            let out = k.expected(&format!("out{i}"), acc, &expect, Check::Value);
            let turned = |k: &mut K, ptr: Value, rows: u32, columns: u32| {
                let tile = k.load(ptr, &[columns, rows]);
                k.op(Op::Transpose { perm: [1, 0].into_iter().collect() }, &[tile])
            };
            let x = if both { turned(&mut k, x, m, depth) } else { k.load(x, &[m, depth]) };
            let y = turned(&mut k, y, depth, n);
            let z = k.load(z, &[m, n]);
            let result = k.op(Op::Dot, &[x, y, z]);
            k.store(out, result);
        }
        k.done()
    };
    TYPES.iter().map(case).collect()
}

fn warps() -> Vec<Case> {
    let mut out = Vec::new();
    for warps in [1, 2, 8] {
        for &(a, b, acc) in &[TYPES[0], TYPES[2], TYPES[4]] {
            let name = format!("dot_warps.{warps}.{a}");
            let mut rng = Rng::named(&name);
            let mut k = K::new(name);
            k.warps(warps);
            for (i, &size) in [
                [16u32, 32, 16],
                [64, 32, 64],
                [5, 13, 60],
                [1, 96, 32],
                [4, 64, 32],
                [8, 32, 128],
                [3, 20, 100],
            ]
            .iter()
            .enumerate()
            {
                let operands = integers(a, b, acc, size, &mut rng);
                one(&mut k, i, [a, b, acc], size, &operands, Check::Value);
            }
            out.push(k.done());
        }
    }
    out
}

/// Attention of a block: scores, softmax, weighted values, in f16 with f32 accumulators; accumulated over a loop.
fn chain() -> Vec<Case> {
    let case = |&([q_rows, keys, dim], warps): &([u32; 3], u32)| {
        let name = format!("dot_chain.{q_rows}x{keys}x{dim}.{warps}");
        let mut rng = Rng::named(&name);
        let mut k = K::new(name);
        k.warps(warps);
        let (m, n, d) = (q_rows as usize, keys as usize, dim as usize);
        let q = units(Dtype::F16, m * d, &mut rng);
        let key = units(Dtype::F16, n * d, &mut rng);
        let value = units(Dtype::F16, n * d, &mut rng);
        let mut expect = vec![0.0; m * d];
        for i in 0..m {
            let score = |j: usize| (0..d).map(|p| q[i * d + p].float() * key[j * d + p].float()).sum::<f64>();
            let scores: Vec<f64> = (0..n).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - most).exp2()).sum();
            for p in 0..d {
                let weighted: f64 =
                    (0..n).map(|j| (scores[j] - most).exp2() / sum * value[j * d + p].float()).sum();
                expect[i * d + p] = weighted;
            }
        }
        let expect: Vec<Num> = expect.into_iter().map(Num::Float).collect();
        // Probabilities are rounded to f16 before the second product.
        let check = Check::Close { rel: 0.0, abs: 2f64.powi(-10) };
        let q = k.aligned_input("q", Dtype::F16, &q);
        let key = k.aligned_input("key", Dtype::F16, &key);
        let value = k.aligned_input("value", Dtype::F16, &value);
        let out = k.expected("out", Dtype::F32, &expect, check);
        let q = k.load(q, &[q_rows, dim]);
        let key = k.load(key, &[keys, dim]);
        let key = k.op(Op::Transpose { perm: [1, 0].into_iter().collect() }, &[key]);
        let zero =
            |k: &mut K, extents: &[u32]| k.constant(Const::float(0.0), &Type::tile(Dtype::F32, extents));
        let acc = zero(&mut k, &[q_rows, keys]);
        let scores = k.op(Op::Dot, &[q, key, acc]);
        let wide = Type::tile(Dtype::F32, &[q_rows, keys]);
        let fold = |k: &mut K, tile: Value, kind: CombineKind| {
            let row = k.op(Op::Reduce { axis: 1, combine: Combine::Kind(kind) }, &[tile]);
            let column = k.op(Op::ExpandDims { axis: 1 }, &[row]);
            k.typed(Op::Broadcast, &[column], &wide)
        };
        let most = fold(&mut k, scores, CombineKind::Max);
        let shifted = k.op(Op::Binary(BinaryOp::Sub), &[scores, most]);
        let powers = k.op(Op::Unary(UnaryOp::Exp2), &[shifted]);
        let sum = fold(&mut k, powers, CombineKind::Add);
        let weights = k.op(Op::Binary(BinaryOp::Div), &[powers, sum]);
        let weights = k.cast(weights, Dtype::F16);
        let value = k.load(value, &[keys, dim]);
        let acc = zero(&mut k, &[q_rows, dim]);
        let result = k.op(Op::Dot, &[weights, value, acc]);
        k.store(out, result);
        k.done()
    };
    // Few rows and few warps: operands change places.
    let few = [([4, 32, 64], 1), ([8, 32, 128], 2), ([7, 20, 48], 1), ([1, 60, 96], 2), ([4, 64, 80], 4)];
    [([16, 32, 64], 4), ([5, 13, 80], 4), ([32, 64, 32], 4), ([1, 60, 96], 4)]
        .iter()
        .chain(&few)
        .map(case)
        .collect()
}
