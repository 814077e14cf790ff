//! Ops on each element alone: every op, every element type it exists for, every shape.

use leankv_dsl::ir::{BinaryOp, CmpOp, Dtype, Op, UnaryOp};

use super::{segments, total};
use crate::conformance::data::{Rng, pairs, random, values};
use crate::conformance::number::{Num, least, most, rounded, wrap};
use crate::conformance::{Case, Check, Group, K};

const FLOATS: [Dtype; 4] = [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64];
const INTS: [Dtype; 8] =
    [Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64, Dtype::U8, Dtype::U16, Dtype::U32, Dtype::U64];

/// The bound on approximate functions.
const APPROXIMATE: Check = Check::Close { rel: 1.0 / 1048576.0, abs: 0.0 };
/// The bound on `sin` and `cos` within `[-pi, pi]`.
const APPROXIMATE_ABSOLUTE: Check = Check::Close { rel: 0.0, abs: 1.0 / 1048576.0 };

pub(super) fn groups() -> Vec<Group> {
    macro_rules! group {
        ($name:literal, $cases:expr) => {
            Group { name: $name, cases: || $cases, exchanges: false }
        };
    }
    vec![
        group!("neg", unary(UnaryOp::Neg)),
        group!("not", unary(UnaryOp::Not)),
        group!("abs", unary(UnaryOp::Abs)),
        group!("exp2", unary(UnaryOp::Exp2)),
        group!("log2", unary(UnaryOp::Log2)),
        group!("sqrt", unary(UnaryOp::Sqrt)),
        group!("rsqrt", unary(UnaryOp::Rsqrt)),
        group!("rcp", unary(UnaryOp::Rcp)),
        group!("sin", unary(UnaryOp::Sin)),
        group!("cos", unary(UnaryOp::Cos)),
        group!("tanh", unary(UnaryOp::Tanh)),
        group!("erf", unary(UnaryOp::Erf)),
        group!("floor", unary(UnaryOp::Floor)),
        group!("ceil", unary(UnaryOp::Ceil)),
        group!("round", unary(UnaryOp::Round)),
        group!("trunc", unary(UnaryOp::Trunc)),
        group!("popcount", unary(UnaryOp::Popcount)),
        group!("clz", unary(UnaryOp::Clz)),
        group!("add", binary(BinaryOp::Add)),
        group!("sub", binary(BinaryOp::Sub)),
        group!("mul", binary(BinaryOp::Mul)),
        group!("div", binary(BinaryOp::Div)),
        group!("rem", binary(BinaryOp::Rem)),
        group!("division_by_zero", division_by_zero()),
        group!("min", binary(BinaryOp::Min)),
        group!("max", binary(BinaryOp::Max)),
        group!("and", binary(BinaryOp::And)),
        group!("or", binary(BinaryOp::Or)),
        group!("xor", binary(BinaryOp::Xor)),
        group!("shl", binary(BinaryOp::Shl)),
        group!("shr", binary(BinaryOp::Shr)),
        group!("mulhi", binary(BinaryOp::MulHi)),
        group!("fma", fma()),
        group!("no_contraction", no_contraction()),
        group!("cmp", compare()),
        group!("select", select()),
    ]
}

/// An op, the type of its result's elements, and what it does with one element of each operand.
struct Tried<'r> {
    op: Op,
    out: Dtype,
    check: Check,
    reference: Box<dyn Fn(&[Num]) -> Num + 'r>,
}

/// A kernel that applies ops to tiles of all shapes for `dtype`. `inputs` hold the elements of all shapes one after another.
fn over_shapes(name: String, dtype: Dtype, inputs: &[(Dtype, Vec<Num>)], tried: &[Tried<'_>]) -> K {
    let mut k = K::new(name);
    let memory = |dtype: Dtype| if dtype.is_code() { Dtype::U8 } else { dtype };
    let pointers: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(i, (dtype, values))| k.input(&format!("x{i}"), memory(*dtype), values))
        .collect();
    let outputs: Vec<_> = tried
        .iter()
        .map(|tried| {
            let args = |i: usize| inputs.iter().map(|(_, values)| values[i]).collect::<Vec<Num>>();
            let expect: Vec<Num> = (0..total(dtype)).map(|i| (tried.reference)(&args(i))).collect();
            k.expected(&output_name(&tried.op), memory(tried.out), &expect, tried.check)
        })
        .collect();
    for (start, extents) in segments(dtype) {
        let mut args = Vec::new();
        for ((dtype, _), &pointer) in inputs.iter().zip(&pointers) {
            let pointer = k.at(pointer, start);
            args.push(k.load_as(pointer, *dtype, extents));
        }
        for (tried, &to) in tried.iter().zip(&outputs) {
            let result = k.op(tried.op.clone(), &args);
            let to = k.at(to, start);
            k.store_as(to, result);
        }
    }
    k
}

fn output_name(op: &Op) -> String {
    match op {
        Op::Cmp(op) => format!("out_{op}"),
        op => format!("out_{}", op.name()),
    }
}

/// As [`over_shapes`] with one op whose operands and result have one element type.
fn one_op<'r>(
    name: String,
    op: Op,
    inputs: &[(Dtype, Vec<Num>)],
    out: Dtype,
    check: Check,
    reference: impl Fn(&[Num]) -> Num + 'r,
) -> K {
    over_shapes(name, out, inputs, &[Tried { op, out, check, reference: Box::new(reference) }])
}

fn unary_types(op: UnaryOp) -> Vec<Dtype> {
    match op {
        UnaryOp::Neg | UnaryOp::Abs => INTS.into_iter().chain(FLOATS).collect(),
        UnaryOp::Not => INTS.into_iter().chain([Dtype::I1]).collect(),
        UnaryOp::Popcount | UnaryOp::Clz => INTS.to_vec(),
        _ => FLOATS.to_vec(),
    }
}

fn unary(op: UnaryOp) -> Vec<Case> {
    unary_types(op).into_iter().map(|dtype| unary_case(op, dtype)).collect()
}

fn unary_case(op: UnaryOp, dtype: Dtype) -> Case {
    let name = format!("{op}.{dtype}");
    let mut rng = Rng::named(&name);
    let mut input = values(dtype, total(dtype), &mut rng);
    let check = match op {
        UnaryOp::Sin | UnaryOp::Cos => {
            // The bound holds within [-pi, pi].
            let scaled = |_| rounded(dtype, Num::Float(rng.unit() * 3.0));
            input = (0..total(dtype)).map(scaled).collect();
            input[0] = Num::Float(0.0);
            input[1] = Num::Float(f64::NAN);
            input[2] = Num::Float(f64::INFINITY);
            APPROXIMATE_ABSOLUTE
        }
        UnaryOp::Exp2 | UnaryOp::Log2 | UnaryOp::Rsqrt | UnaryOp::Rcp | UnaryOp::Tanh | UnaryOp::Erf => {
            APPROXIMATE
        }
        _ => Check::Bits,
    };
    let bits = i128::from(dtype.bits());
    let reference = |args: &[Num]| match args[0] {
        Num::Int(x) => Num::Int(match op {
            UnaryOp::Neg => -x,
            UnaryOp::Abs => x.abs(),
            UnaryOp::Not => -1 - x,
            UnaryOp::Popcount => (0..bits).filter(|i| x >> i & 1 == 1).count() as i128,
            _ => (0..bits).rev().take_while(|i| x >> i & 1 == 0).count() as i128,
        }),
        Num::Float(x) => Num::Float(float_function(op, x)),
    };
    one_op(name, Op::Unary(op), &[(dtype, input)], dtype, check, reference).done()
}

fn float_function(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp2 => x.exp2(),
        UnaryOp::Log2 => x.log2(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Rcp => 1.0 / x,
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Erf => erf(x),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Round => x.round_ties_even(),
        _ => x.trunc(),
    }
}

/// The error function: its Maclaurin series, or the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let z = x.abs();
    let tail = 2.0 / std::f64::consts::PI.sqrt();
    if z < 2.5 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return tail * sum;
    }
    let mut fraction = z;
    for n in (1..200).rev() {
        fraction = z + f64::from(n) / 2.0 / fraction;
    }
    let complement =
        if z.is_infinite() { 0.0 } else { (-z * z).exp() / fraction / std::f64::consts::PI.sqrt() };
    (1.0 - complement).copysign(x)
}

fn binary_types(op: BinaryOp) -> Vec<Dtype> {
    match op {
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => INTS.into_iter().chain([Dtype::I1]).collect(),
        BinaryOp::Shl | BinaryOp::Shr => INTS.to_vec(),
        BinaryOp::MulHi => INTS.into_iter().filter(|d| d.bits() >= 32).collect(),
        _ => INTS.into_iter().chain(FLOATS).collect(),
    }
}

fn binary(op: BinaryOp) -> Vec<Case> {
    binary_types(op).into_iter().map(|dtype| binary_case(op, dtype)).collect()
}

fn binary_case(op: BinaryOp, dtype: Dtype) -> Case {
    let name = format!("{op}.{dtype}");
    let (a, mut b) = pairs(dtype, total(dtype), &mut Rng::named(&name));
    if matches!(op, BinaryOp::Div | BinaryOp::Rem) && !dtype.is_float() {
        for b in b.iter_mut().filter(|b| b.int() == 0) {
            *b = Num::Int(5);
        }
    }
    if matches!(op, BinaryOp::Shl | BinaryOp::Shr) {
        // Random amounts are nearly all beyond the width; half of them shall not be.
        for b in b.iter_mut().skip(200).step_by(2) {
            *b = Num::Int(b.int().rem_euclid(dtype.bits().into()));
        }
    }
    let reference = |args: &[Num]| match (args[0], args[1]) {
        (Num::Int(a), Num::Int(b)) => Num::Int(int_function(op, dtype, a, b)),
        (a, b) => Num::Float(float_function2(op, a.float(), b.float())),
    };
    one_op(name, Op::Binary(op), &[(dtype, a), (dtype, b)], dtype, Check::Bits, reference).done()
}

fn int_function(op: BinaryOp, dtype: Dtype, a: i128, b: i128) -> i128 {
    let bits = i128::from(dtype.bits());
    // The bits of the amount, as an unsigned number.
    let amount = b & ((1 << bits) - 1);
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul if dtype == Dtype::U64 => (a as u128).wrapping_mul(b as u128) as i128,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Rem => a - a / b * b,
        BinaryOp::Min => a.min(b),
        BinaryOp::Max => a.max(b),
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        BinaryOp::Shl if amount >= bits => 0,
        BinaryOp::Shl => a << amount,
        // Numbers are wider than any type, so the sign fills.
        BinaryOp::Shr => a >> amount.min(100),
        _ if dtype == Dtype::U64 => ((a as u128 * b as u128) >> 64) as i128,
        _ => (a * b) >> bits,
    }
}

fn float_function2(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Rem => a % b,
        BinaryOp::Min => least(a, b),
        _ => most(a, b),
    }
}

/// Generated code gives 0; what the interpreter does when it checks is tested with it.
fn division_by_zero() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let name = format!("division_by_zero.{dtype}");
        let (a, mut b) = pairs(dtype, total(dtype), &mut Rng::named(&name));
        for b in b.iter_mut().step_by(3) {
            *b = Num::Int(0);
        }
        let tried = [BinaryOp::Div, BinaryOp::Rem].map(|op| {
            let reference = move |args: &[Num]| match args[1].int() {
                0 => Num::Int(0),
                b => Num::Int(int_function(op, dtype, args[0].int(), b)),
            };
            Tried { op: Op::Binary(op), out: dtype, check: Check::Bits, reference: Box::new(reference) }
        });
        let mut k = over_shapes(name, dtype, &[(dtype, a), (dtype, b)], &tried);
        k.unchecked();
        k.done()
    };
    INTS.into_iter().map(case).collect()
}

fn fma() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let name = format!("fma.{dtype}");
        let mut rng = Rng::named(&name);
        let (mut a, mut b) = pairs(dtype, total(dtype), &mut rng);
        let mut c: Vec<Num> = (0..total(dtype)).map(|_| random(dtype, &mut rng)).collect();
        // (1 + e)(1 - e) - 1 is -e^2: two roundings would give 0.
        let e = 2f64.powi(match dtype {
            Dtype::F16 => -6,
            Dtype::BF16 => -5,
            Dtype::F32 => -13,
            _ => -28,
        });
        (a[0], b[0], c[0]) = (Num::Float(1.0 + e), Num::Float(1.0 - e), Num::Float(-1.0));
        let reference = |args: &[Num]| {
            let [a, b, c] = [args[0].float(), args[1].float(), args[2].float()];
            Num::Float(match dtype {
                Dtype::F64 => a.mul_add(b, c),
                _ => (a as f32).mul_add(b as f32, c as f32).into(),
            })
        };
        one_op(name, Op::Fma, &[(dtype, a), (dtype, b), (dtype, c)], dtype, Check::Bits, reference).done()
    };
    FLOATS.into_iter().map(case).chain(fma_of_f32()).collect()
}

/// A 16-bit `fma` is that of `f32`, then rounded: a product in the middle of two neighbours stays there when what is subtracted
/// is too little for `f32`, and goes to the even one above.
fn fma_of_f32() -> Vec<Case> {
    let case = |(dtype, a, b, c, expect): (Dtype, f64, f64, f64, f64)| {
        let mut k = K::new(format!("fma.{dtype}.middle"));
        let [a, b, c] = [("a", a), ("b", b), ("c", c)].map(|(name, x)| {
            let ptr = k.input(name, dtype, &[Num::Float(x)]);
            k.load(ptr, &[1])
        });
        let out = k.expected("out", dtype, &[Num::Float(expect)], Check::Bits);
        let result = k.op(Op::Fma, &[a, b, c]);
        k.store(out, result);
        k.done()
    };
    let p = |e: i32| 2f64.powi(e);
    vec![
        case((Dtype::BF16, 7.0, 37.0 * p(-8), -p(-30), 260.0 * p(-8))),
        case((Dtype::F16, 7.0, 293.0 * p(-11), -p(-24), 2052.0 * p(-11))),
    ]
}

/// `mul` and `add` are rounded each: never contracted to a `fma`.
fn no_contraction() -> Vec<Case> {
    let case = |(dtype, e): (Dtype, i32)| {
        let n = 80;
        let e = 2f64.powi(e);
        let mut k = K::new(format!("mul_add.{dtype}"));
        let a = k.input("a", dtype, &vec![Num::Float(1.0 + e); n]);
        let b = k.input("b", dtype, &vec![Num::Float(1.0 - e); n]);
        let c = k.input("c", dtype, &vec![Num::Float(-1.0); n]);
        let out = k.expected("out", dtype, &vec![Num::Float(0.0); n], Check::Bits);
        let (a, b, c) = (k.load(a, &[n as u32]), k.load(b, &[n as u32]), k.load(c, &[n as u32]));
        let product = k.op(Op::Binary(BinaryOp::Mul), &[a, b]);
        let sum = k.op(Op::Binary(BinaryOp::Add), &[product, c]);
        k.store(out, sum);
        k.done()
    };
    [(Dtype::F16, -6), (Dtype::BF16, -5), (Dtype::F32, -13), (Dtype::F64, -28)]
        .into_iter()
        .map(case)
        .collect()
}

fn compare() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let name = format!("cmp.{dtype}");
        let (a, b) = code_pairs(dtype, &name);
        let tried: Vec<Tried<'_>> = CmpOp::ALL
            .iter()
            .map(|&op| Tried {
                op: Op::Cmp(op),
                out: Dtype::I1,
                check: Check::Bits,
                reference: Box::new(move |args| Num::Int(i128::from(holds(op, args[0], args[1])))),
            })
            .collect();
        over_shapes(name, dtype, &[(dtype, a), (dtype, b)], &tried).done()
    };
    Dtype::PLAIN.into_iter().chain([Dtype::Code(2), Dtype::Code(8)]).map(case).collect()
}

fn holds(op: CmpOp, a: Num, b: Num) -> bool {
    let order = match (a, b) {
        (Num::Int(a), Num::Int(b)) => Some(a.cmp(&b)),
        _ => a.float().partial_cmp(&b.float()),
    };
    match op {
        CmpOp::Eq => order.is_some_and(|o| o.is_eq()),
        CmpOp::Ne => order.is_none_or(|o| o.is_ne()),
        CmpOp::Lt => order.is_some_and(|o| o.is_lt()),
        CmpOp::Le => order.is_some_and(|o| o.is_le()),
        CmpOp::Gt => order.is_some_and(|o| o.is_gt()),
        CmpOp::Ge => order.is_some_and(|o| o.is_ge()),
    }
}

/// Pairs of any element type; codes are in range.
fn code_pairs(dtype: Dtype, name: &str) -> (Vec<Num>, Vec<Num>) {
    let memory = if dtype.is_code() { Dtype::U8 } else { dtype };
    let (a, b) = pairs(memory, total(dtype), &mut Rng::named(name));
    let wrapped = |v: Vec<Num>| match dtype.is_code() {
        true => v.into_iter().map(|x| Num::Int(wrap(dtype, x.int()))).collect(),
        false => v,
    };
    (wrapped(a), wrapped(b))
}

fn select() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let name = format!("select.{dtype}");
        let (a, b) = code_pairs(dtype, &name);
        let mut rng = Rng::named(&name);
        let c = (0..total(dtype)).map(|_| Num::Int((rng.bits() & 1).into())).collect();
        let reference = |args: &[Num]| if args[0].int() == 1 { args[1] } else { args[2] };
        let inputs = [(Dtype::I1, c), (dtype, a), (dtype, b)];
        one_op(name, Op::Select, &inputs, dtype, Check::Bits, reference).done()
    };
    Dtype::PLAIN.into_iter().chain([Dtype::Code(3), Dtype::Code(8)]).map(case).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_suite_s_error_function_is_right() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.0, 0.9999779095)] {
            assert!((super::erf(x) - y).abs() < 1e-10);
            assert!((super::erf(-x) + y).abs() < 1e-10);
        }
    }

    #[test]
    fn segments_cover_all_elements() {
        for dtype in [super::Dtype::F32, super::Dtype::U8] {
            let (start, extents) = super::segments(dtype).last().expect("there are shapes");
            assert_eq!(start + super::super::count(extents), super::total(dtype));
        }
    }
}
