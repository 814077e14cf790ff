//! `reduce` and `scan`: each kind, each axis, by region too.

use leankv_dsl::ir::{BinaryOp, CmpOp, Combine, CombineKind, Dtype, Op, Type, UnaryOp, Value};

use leankv_dsl::lang::{Number, Ptr, PtrMut, iota, kernel};

use super::count;
use crate::conformance::data::{Rng, random, small, units};
use crate::conformance::number::{Num, least, most, rounded, wrap};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    macro_rules! group {
        ($name:literal, $cases:expr) => {
            Group { name: $name, cases: || $cases, exchanges: true }
        };
    }
    vec![
        group!("reduce_add", kinds(CombineKind::Add, Mode::Reduce)),
        group!("reduce_mul", kinds(CombineKind::Mul, Mode::Reduce)),
        group!("reduce_min", kinds(CombineKind::Min, Mode::Reduce)),
        group!("reduce_max", kinds(CombineKind::Max, Mode::Reduce)),
        group!("reduce_and", kinds(CombineKind::And, Mode::Reduce)),
        group!("reduce_or", kinds(CombineKind::Or, Mode::Reduce)),
        group!("reduce_xor", kinds(CombineKind::Xor, Mode::Reduce)),
        group!("scan_add", scans(CombineKind::Add)),
        group!("scan_mul", scans(CombineKind::Mul)),
        group!("scan_min", scans(CombineKind::Min)),
        group!("scan_max", scans(CombineKind::Max)),
        group!("scan_and", scans(CombineKind::And)),
        group!("scan_or", scans(CombineKind::Or)),
        group!("scan_xor", scans(CombineKind::Xor)),
        group!("fold_specials", specials()),
        group!("float_sums", float_sums()),
        group!("reduce_arg", arg_cases()),
        group!("reduce_region", regions(Mode::Reduce)),
        group!("scan_region", [regions(Mode::Scan), regions(Mode::ScanReverse)].concat()),
        group!("reduce_warps", warps()),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Reduce,
    Scan,
    ScanReverse,
}

impl Mode {
    fn op(self, axis: u8, combine: Combine) -> Op {
        match self {
            Mode::Reduce => Op::Reduce { axis, combine },
            _ => Op::Scan { axis, reverse: self == Mode::ScanReverse, combine },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Mode::Reduce => "reduce",
            Mode::Scan => "scan",
            Mode::ScanReverse => "scan_reverse",
        }
    }
}

/// Shapes and the axis that goes.
const FOLDS: &[(&[u32], usize)] = &[
    (&[1], 0),
    (&[3], 0),
    (&[13], 0),
    (&[60], 0),
    (&[96], 0),
    (&[128], 0),
    (&[5, 13], 0),
    (&[5, 13], 1),
    (&[80, 3], 0),
    (&[16, 64], 1),
    (&[16, 64], 0),
    (&[2, 3, 5], 0),
    (&[2, 3, 5], 1),
    (&[2, 3, 5], 2),
    (&[2, 3, 4, 5], 2),
];

/// Combines along an axis, one element after another; `a` is of lower index.
fn fold<T: Copy>(elements: &[T], extents: &[u32], axis: usize, mode: Mode, f: impl Fn(T, T) -> T) -> Vec<T> {
    let inner = count(&extents[axis + 1..]);
    let extent = extents[axis] as usize;
    let outer = count(&extents[..axis]);
    let at = |o: usize, k: usize, i: usize| elements[(o * extent + k) * inner + i];
    let mut out = Vec::new();
    for o in 0..outer {
        let positions = if mode == Mode::Reduce { 1 } else { extent };
        for k in 0..positions {
            for i in 0..inner {
                let (from, to) = match mode {
                    Mode::Reduce => (0, extent),
                    Mode::Scan => (0, k + 1),
                    Mode::ScanReverse => (k, extent),
                };
                out.push((from + 1..to).fold(at(o, from, i), |acc, k| f(acc, at(o, k, i))));
            }
        }
    }
    out
}

fn types(kind: CombineKind) -> Vec<Dtype> {
    let bitwise = matches!(kind, CombineKind::And | CombineKind::Or | CombineKind::Xor);
    let fits = |d: &Dtype| if bitwise { !d.is_float() } else { *d != Dtype::I1 };
    Dtype::PLAIN.into_iter().filter(fits).collect()
}

fn scans(kind: CombineKind) -> Vec<Case> {
    [kinds(kind, Mode::Scan), kinds(kind, Mode::ScanReverse)].concat()
}

/// One kernel an element type, over all shapes; data that make every association equal.
fn kinds(kind: CombineKind, mode: Mode) -> Vec<Case> {
    types(kind).into_iter().map(|dtype| kind_case(kind, mode, dtype)).collect()
}

fn kind_case(kind: CombineKind, mode: Mode, dtype: Dtype) -> Case {
    let name = format!("{}_{kind}.{dtype}", mode.name());
    let mut rng = Rng::named(&name);
    let mut k = K::new(name);
    for (i, &(extents, axis)) in FOLDS.iter().enumerate() {
        let n = count(extents);
        let elements: Vec<Num> = match kind {
            // Sums of up to 128 of these are exact in bf16.
            CombineKind::Add if dtype.is_float() => small(dtype, n, 1, &mut rng),
            // Powers of two that nearly cancel.
            CombineKind::Mul if dtype.is_float() => {
                (0..n).map(|j| Num::Float([2.0, 0.5, -1.0, 1.0][j % 4])).collect()
            }
            _ => (0..n).map(|_| random(dtype, &mut rng)).collect(),
        };
        let combine = |a: Num, b: Num| match (a, b) {
            (Num::Float(a), Num::Float(b)) => Num::Float(match kind {
                CombineKind::Add => a + b,
                CombineKind::Mul => a * b,
                CombineKind::Min => a.min(b),
                _ => a.max(b),
            }),
            (a, b) => Num::Int({
                let (a, b) = (a.int(), b.int());
                wrap(
                    dtype,
                    match kind {
                        CombineKind::Add => a + b,
                        CombineKind::Mul => (a as u128).wrapping_mul(b as u128) as i128,
                        CombineKind::Min => a.min(b),
                        CombineKind::Max => a.max(b),
                        CombineKind::And => a & b,
                        CombineKind::Or => a | b,
                        CombineKind::Xor => a ^ b,
                    },
                )
            }),
        };
        let expect = fold(&elements, extents, axis, mode, combine);
        let x = k.input(&format!("x{i}"), dtype, &elements);
        let out = k.expected(&format!("out{i}"), dtype, &expect, Check::Value);
        let x = k.load(x, extents);
        let folded = k.op(mode.op(axis as u8, Combine::Kind(kind)), &[x]);
        k.store(out, folded);
    }
    k.done()
}

/// What stands in the rows of [`specials`]: each row takes its elements from one list. Sums and products of them are exact.
const ROWS: &[&[f64]] = {
    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    &[
        &[NAN],
        &[NAN, NAN, NAN, 1.0, -2.0],
        &[NAN, -0.0],
        &[NAN, -0.0, 0.0],
        &[-0.0],
        &[-0.0, 0.0],
        &[-0.0, 1.0, -1.0],
        &[INF],
        &[-INF, NAN],
        &[INF, -INF, 1.0],
        &[-INF, 0.0, 1.0],
        &[INF, -1.0, 1.0, 1.0],
        &[NAN, INF, -INF, 0.0, -0.0, 1.0],
    ]
};

/// NaN, infinities and signed zeros through every kind of every float type, bit by bit, along rows and across them.
fn specials() -> Vec<Case> {
    let mut out = Vec::new();
    for kind in [CombineKind::Add, CombineKind::Mul, CombineKind::Min, CombineKind::Max] {
        for mode in [Mode::Reduce, Mode::Scan, Mode::ScanReverse] {
            for dtype in Dtype::PLAIN.into_iter().filter(|d| d.is_float()) {
                out.push(special_case(kind, mode, dtype));
            }
        }
    }
    out
}

/// Rows of `extent` elements from [`ROWS`], one behind the other.
fn special_rows(extent: usize, rng: &mut Rng) -> Vec<f64> {
    ROWS.iter().flat_map(|row| (0..extent).map(|_| rng.pick(row)).collect::<Vec<f64>>()).collect()
}

/// The same with rows down instead of along.
fn transposed<T: Copy>(rows: usize, elements: &[T]) -> Vec<T> {
    let extent = elements.len() / rows;
    (0..extent).flat_map(|at| (0..rows).map(move |row| elements[row * extent + at])).collect()
}

fn special_case(kind: CombineKind, mode: Mode, dtype: Dtype) -> Case {
    let name = format!("{}_{kind}.{dtype}.specials", mode.name());
    let mut rng = Rng::named(&name);
    let mut k = K::new(name);
    let rows = ROWS.len();
    // A power of two and another, along the last axis and across it.
    for (i, extent) in [64usize, 100].into_iter().enumerate() {
        let along = special_rows(extent, &mut rng);
        for (axis, elements) in [(1, along.clone()), (0, transposed(rows, &along))] {
            let extents = if axis == 1 { [rows as u32, extent as u32] } else { [extent as u32, rows as u32] };
            let expect = fold(&elements, &extents, axis, mode, |a, b| match kind {
                CombineKind::Add => a + b,
                CombineKind::Mul => a * b,
                CombineKind::Min => least(a, b),
                _ => most(a, b),
            });
            let nums = |v: &[f64]| v.iter().map(|&x| Num::Float(x)).collect::<Vec<_>>();
            let x = k.input(&format!("x{i}_{axis}"), dtype, &nums(&elements));
            let out = k.expected(&format!("out{i}_{axis}"), dtype, &nums(&expect), Check::Bits);
            let x = k.load(x, &extents);
            let folded = k.op(mode.op(axis as u8, Combine::Kind(kind)), &[x]);
            k.store(out, folded);
        }
    }
    k.done()
}

/// Sums of fractions: equal within rounding.
fn float_sums() -> Vec<Case> {
    let mut out = Vec::new();
    for (dtype, unit) in [
        (Dtype::F16, 2f64.powi(-11)),
        (Dtype::BF16, 2f64.powi(-8)),
        (Dtype::F32, 2f64.powi(-24)),
        (Dtype::F64, 2f64.powi(-53)),
    ] {
        for mode in [Mode::Reduce, Mode::Scan, Mode::ScanReverse] {
            let name = format!("{}_add.{dtype}.fractions", mode.name());
            let mut rng = Rng::named(&name);
            let mut k = K::new(name);
            for (i, &(extents, axis)) in FOLDS.iter().enumerate() {
                let elements = units(dtype, count(extents), &mut rng);
                let expect = fold(&elements, extents, axis, mode, |a, b| Num::Float(a.float() + b.float()));
                // Each of the n sums rounds a partial sum, which is at most n.
                let n = f64::from(extents[axis]);
                let check = Check::Close { rel: 0.0, abs: unit * n * n / 2.0 };
                let x = k.input(&format!("x{i}"), dtype, &elements);
                let out = k.expected(&format!("out{i}"), dtype, &expect, check);
                let x = k.load(x, extents);
                let folded = k.op(mode.op(axis as u8, Combine::Kind(CombineKind::Add)), &[x]);
                k.store(out, folded);
            }
            out.push(k.done());
        }
    }
    out
}

/// Combining by region: index of the maximum, and composition of affine maps, where order matters.
fn regions(mode: Mode) -> Vec<Case> {
    let mut out = vec![affine(mode)];
    for dtype in [Dtype::F32, Dtype::I32, Dtype::F16, Dtype::I64] {
        out.push(argmax(mode, dtype));
    }
    out
}

fn affine(mode: Mode) -> Case {
    let name = format!("{}_region.affine", mode.name());
    let mut rng = Rng::named(&name);
    let mut k = K::new(name);
    let u32_scalar = Type::scalar(Dtype::U32);
    for (i, &(extents, axis)) in FOLDS.iter().enumerate() {
        let n = count(extents);
        let a: Vec<u32> = (0..n).map(|_| rng.bits() as u32 | 1).collect();
        let b: Vec<u32> = (0..n).map(|_| rng.bits() as u32).collect();
        let pairs: Vec<(u32, u32)> = a.iter().copied().zip(b.iter().copied()).collect();
        // First x -> a x + b, then x -> c x + d.
        let then =
            |(a, b): (u32, u32), (c, d): (u32, u32)| (a.wrapping_mul(c), b.wrapping_mul(c).wrapping_add(d));
        let expect = fold(&pairs, extents, axis, mode, then);
        let nums = |v: &mut dyn Iterator<Item = u32>| v.map(|x| Num::Int(x.into())).collect::<Vec<_>>();
        let x = k.input(&format!("a{i}"), Dtype::U32, &nums(&mut a.into_iter()));
        let y = k.input(&format!("b{i}"), Dtype::U32, &nums(&mut b.into_iter()));
        let to_a =
            k.expected(&format!("out_a{i}"), Dtype::U32, &nums(&mut expect.iter().map(|p| p.0)), Check::Bits);
        let to_b =
            k.expected(&format!("out_b{i}"), Dtype::U32, &nums(&mut expect.iter().map(|p| p.1)), Check::Bits);
        let (x, y) = (k.load(x, extents), k.load(y, extents));
        let op = mode.op(axis as u8, Combine::Region);
        let results = fold_types(&k, &op, &[x, y]);
        let folded = k.with_region(op, &[x, y], &vec![u32_scalar.clone(); 4], &results, |k, p| {
            let a = k.op(Op::Binary(BinaryOp::Mul), &[p[0], p[2]]);
            let scaled = k.op(Op::Binary(BinaryOp::Mul), &[p[1], p[2]]);
            let b = k.op(Op::Binary(BinaryOp::Add), &[scaled, p[3]]);
            vec![a, b]
        });
        k.store(to_a, folded[0]);
        k.store(to_b, folded[1]);
    }
    k.done()
}

/// Result types of a fold by region.
fn fold_types(k: &K, op: &Op, operands: &[Value]) -> Vec<Type> {
    let types: Vec<Type> = operands.iter().map(|&v| k.ty(v)).collect();
    let types: Vec<&Type> = types.iter().collect();
    leankv_dsl::ir::infer::result_types(op, &types, None).expect("the suite's folds are well typed").to_vec()
}

fn argmax(mode: Mode, dtype: Dtype) -> Case {
    let name = format!("{}_region.argmax.{dtype}", mode.name());
    let mut rng = Rng::named(&name);
    let mut k = K::new(name);
    for (i, &(extents, axis)) in FOLDS.iter().enumerate() {
        // Few different values, so that ties occur: the lower index wins.
        let elements = small(dtype, count(extents), 4, &mut rng);
        let indices: Vec<i128> = {
            let inner = count(&extents[axis + 1..]);
            (0..elements.len()).map(|at| (at / inner % extents[axis] as usize) as i128).collect()
        };
        let pairs: Vec<(f64, i128)> =
            elements.iter().map(|x| x.float()).zip(indices.iter().copied()).collect();
        let expect = fold(&pairs, extents, axis, mode, |a, b| if b.0 > a.0 { b } else { a });
        let best: Vec<Num> = expect.iter().map(|p| Num::Int(p.1)).collect();
        let x = k.input(&format!("x{i}"), dtype, &elements);
        let index_nums: Vec<Num> = indices.into_iter().map(Num::Int).collect();
        let at = k.input(&format!("at{i}"), Dtype::I32, &index_nums);
        let out = k.expected(&format!("best{i}"), Dtype::I32, &best, Check::Bits);
        let (x, at) = (k.load(x, extents), k.load(at, extents));
        let op = mode.op(axis as u8, Combine::Region);
        let results = fold_types(&k, &op, &[x, at]);
        let (value, index) = (Type::scalar(dtype), Type::scalar(Dtype::I32));
        let params = [value.clone(), index.clone(), value, index];
        let folded = k.with_region(op, &[x, at], &params, &results, |k, p| {
            let later = k.op(Op::Cmp(CmpOp::Gt), &[p[2], p[0]]);
            let value = k.op(Op::Select, &[later, p[2], p[0]]);
            let index = k.op(Op::Select, &[later, p[3], p[1]]);
            vec![value, index]
        });
        k.store(out, folded[1]);
    }
    k.done()
}

/// Across 1, 2, 4 and 8 warps, and a chain of them: softmax of rows.
fn warps() -> Vec<Case> {
    let case = |warps: u32| {
        let name = format!("softmax.warps{warps}");
        let mut rng = Rng::named(&name);
        let mut k = K::new(name);
        k.warps(warps);
        for (i, extents) in [[3u32, 60], [16, 128], [1, 96], [5, 13]].into_iter().enumerate() {
            let elements = units(Dtype::F32, count(&extents), &mut rng);
            let scaled: Vec<Num> =
                elements.iter().map(|x| rounded(Dtype::F32, Num::Float(8.0 * x.float()))).collect();
            let row = extents[1] as usize;
            let mut expect = Vec::new();
            for row in scaled.chunks(row) {
                let most = row.iter().fold(f64::MIN, |m, x| m.max(x.float()));
                let powers: Vec<f64> = row.iter().map(|x| (x.float() - most).exp2()).collect();
                let sum: f64 = powers.iter().sum();
                expect.extend(powers.iter().map(|p| Num::Float(p / sum)));
            }
            let x = k.input(&format!("x{i}"), Dtype::F32, &scaled);
            let check = Check::Close { rel: 2f64.powi(-17), abs: 0.0 };
            let out = k.expected(&format!("out{i}"), Dtype::F32, &expect, check);
            let x = k.load(x, &extents);
            let spread = |k: &mut K, row: Value| {
                let column = k.op(Op::ExpandDims { axis: 1 }, &[row]);
                k.typed(Op::Broadcast, &[column], &Type::tile(Dtype::F32, &extents))
            };
            let most = k.op(Op::Reduce { axis: 1, combine: Combine::Kind(CombineKind::Max) }, &[x]);
            let most = spread(&mut k, most);
            let shifted = k.op(Op::Binary(BinaryOp::Sub), &[x, most]);
            let powers = k.op(Op::Unary(UnaryOp::Exp2), &[shifted]);
            let sum = k.op(Op::Reduce { axis: 1, combine: Combine::Kind(CombineKind::Add) }, &[powers]);
            let sum = spread(&mut k, sum);
            let result = k.op(Op::Binary(BinaryOp::Div), &[powers, sum]);
            k.store(out, result);
        }
        k.done()
    };
    [1, 2, 4, 8].into_iter().map(case).collect()
}

/// The language's `reduce_argmax` and `reduce_argmin` of rows of `extent` elements, which lie along or across.
#[kernel]
fn first_best<E: Number>(
    #[comptime] rows: usize,
    #[comptime] extent: usize,
    #[comptime] along: bool,
    x: Ptr<E>,
    most: PtrMut<E>,
    most_at: PtrMut<i32>,
    least: PtrMut<E>,
    least_at: PtrMut<i32>,
) {
    let (shape, axis) = if along { ([rows, extent], 1) } else { ([extent, rows], 0) };
    let tile = x.load(iota(rows * extent)).reshape(shape);
    let (value, at) = tile.reduce_argmax(axis);
    most.store(iota(rows), value);
    most_at.store(iota(rows), at);
    let (value, at) = tile.reduce_argmin(axis);
    least.store(iota(rows), value);
    least_at.store(iota(rows), at);
}

/// The first of the largest and of the smallest elements, zeros of both signs being equal; NaN only where there is nothing else.
fn arg_cases() -> Vec<Case> {
    let rows = ROWS.len();
    let mut out = Vec::new();
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64, Dtype::I32] {
        for (extent, along) in [(3, true), (13, false), (64, true), (100, true), (100, false)] {
            let spec = FirstBestSpec { rows, extent, along };
            let built = match dtype {
                Dtype::F16 => first_best::<half::f16>::build(&spec),
                Dtype::BF16 => first_best::<half::bf16>::build(&spec),
                Dtype::F32 => first_best::<f32>::build(&spec),
                Dtype::F64 => first_best::<f64>::build(&spec),
                _ => first_best::<i32>::build(&spec),
            };
            let func = built.unwrap_or_else(|found| panic!("{found}"));
            let name = format!("argmax_argmin.{dtype}.{extent}.{}", if along { "along" } else { "across" });
            let mut rng = Rng::named(&name);
            let elements: Vec<f64> = if dtype.is_float() {
                special_rows(extent, &mut rng)
            } else {
                small(dtype, rows * extent, 4, &mut rng).iter().map(|x| x.float()).collect()
            };
            let best = |better: fn(f64, f64) -> bool| -> (Vec<Num>, Vec<Num>) {
                let first = |row: &[f64]| {
                    let beats = |a: f64, b: f64| better(a, b) || (b.is_nan() && !a.is_nan());
                    let at = (1..extent).fold(0, |best, i| if beats(row[i], row[best]) { i } else { best });
                    (number(dtype, row[at]), Num::Int(at as i128))
                };
                elements.chunks(extent).map(first).unzip()
            };
            let (most, most_at) = best(|a, b| a > b);
            let (least, least_at) = best(|a, b| a < b);
            let elements = if along { elements } else { transposed(rows, &elements) };
            let x: Vec<Num> = elements.into_iter().map(|x| number(dtype, x)).collect();
            let mut case = Case::of(name, func);
            case.input("x", dtype, &x);
            case.expected("most", dtype, &most, Check::Bits);
            case.expected("most_at", Dtype::I32, &most_at, Check::Bits);
            case.expected("least", dtype, &least, Check::Bits);
            case.expected("least_at", Dtype::I32, &least_at, Check::Bits);
            out.push(case);
        }
    }
    out
}

fn number(dtype: Dtype, x: f64) -> Num {
    if dtype.is_float() { Num::Float(x) } else { Num::Int(x as i128) }
}
