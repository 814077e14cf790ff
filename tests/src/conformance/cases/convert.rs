//! Conversions: from every element type to every other.

use leankv_dsl::ir::{Const, Dtype, Op, Type};

use crate::conformance::data::{Rng, values};
use crate::conformance::number::{Num, wrap};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "cast", cases: casts, exchanges: false },
        Group { name: "cast_rounds_once", cases: rounds_once, exchanges: false },
        Group { name: "bitcast", cases: bitcasts, exchanges: false },
        Group { name: "constant", cases: constants, exchanges: false },
    ]
}

const N: usize = 96;

fn casts() -> Vec<Case> {
    let codes = [1, 2, 3, 4, 5, 8].map(Dtype::Code);
    let all: Vec<Dtype> = Dtype::PLAIN.into_iter().chain(codes).collect();
    all.iter().map(|&from| casts_from(from, &all)).collect()
}

fn casts_from(from: Dtype, all: &[Dtype]) -> Case {
    let mut k = K::new(format!("cast.{from}"));
    let memory = |dtype: Dtype| if dtype.is_code() { Dtype::U8 } else { dtype };
    let mut rng = Rng::named(&from.to_string());
    let mut input = values(memory(from), N, &mut rng);
    if from.is_code() {
        input = input.into_iter().map(|x| Num::Int(wrap(from, x.int()))).collect();
    }
    if from.is_float() {
        // Around the ends of integer ranges.
        let edges = [
            127.5,
            128.0,
            -128.9,
            255.5,
            256.0,
            -0.9,
            32768.0,
            65535.0,
            2147483648.0,
            -2147483648.0,
            9.3e18,
            1.9e19,
        ];
        for (slot, edge) in input.iter_mut().skip(30).zip(edges) {
            *slot = crate::conformance::number::rounded(from, Num::Float(edge));
        }
    }
    let x = k.input("x", memory(from), &input);
    let x = k.load_as(x, from, &[N as u32]);
    for &to in all {
        if to.is_code() && from.is_float() {
            continue;
        }
        let expect: Vec<Num> = input.iter().map(|&x| convert(x, to)).collect();
        let out = k.expected(&format!("as_{to}"), memory(to), &expect, Check::Bits);
        let converted = k.cast(x, to);
        k.store_as(out, converted);
    }
    k.done()
}

fn convert(x: Num, to: Dtype) -> Num {
    match (x, to) {
        (x, Dtype::I1) => Num::Int(i128::from(match x {
            Num::Int(x) => x != 0,
            Num::Float(x) => x.is_nan() || x.abs() > 0.0,
        })),
        // One rounding; through a double there would be two.
        (Num::Int(x), Dtype::F32) => Num::Float((x as f32).into()),
        (x, to) if to.is_float() => Num::Float(x.float()),
        (Num::Int(x), to) => Num::Int(wrap(to, x)),
        (Num::Float(x), to) => {
            let (least, most) = match to.is_signed_int() {
                true => (-(1i128 << (to.bits() - 1)), (1i128 << (to.bits() - 1)) - 1),
                false => (0, (1i128 << to.bits()) - 1),
            };
            Num::Int(if x.is_nan() { 0 } else { (x.trunc() as i128).clamp(least, most) })
        }
    }
}

/// Values just above the middle of two neighbours: rounding through a type between rounds them down.
fn rounds_once() -> Vec<Case> {
    let case = |name: &str, from: Dtype, to: Dtype, pairs: &[(Num, f64)]| {
        let mut k = K::new(format!("cast_once.{name}"));
        let input: Vec<Num> = pairs.iter().map(|p| p.0).collect();
        let expect: Vec<Num> = pairs.iter().map(|p| Num::Float(p.1)).collect();
        let n = pairs.len() as u32;
        let x = k.input("x", from, &input);
        let out = k.expected("out", to, &expect, Check::Bits);
        let x = k.load(x, &[n]);
        let y = k.cast(x, to);
        k.store(out, y);
        k.done()
    };
    let f = |x: f64| Num::Float(x);
    let i = |x: i128| Num::Int(x);
    let p = |e: i32| 2f64.powi(e);
    vec![
        case(
            "f64.f16",
            Dtype::F64,
            Dtype::F16,
            &[
                (f(1.0 + p(-11)), 1.0),
                (f(1.0 + p(-11) + p(-40)), 1.0 + p(-10)),
                (f(-1.0 - p(-11) - p(-40)), -1.0 - p(-10)),
                (f(65519.999999), 65504.0),
                (f(65520.0), f64::INFINITY),
                (f(1e300), f64::INFINITY),
                (f(p(-25) * 1.0000001), p(-24)),
            ],
        ),
        case(
            "f64.bf16",
            Dtype::F64,
            Dtype::BF16,
            &[
                (f(1.0 + p(-8)), 1.0),
                (f(1.0 + p(-8) + p(-40)), 1.0 + p(-7)),
                (f(-1.0 - p(-8) - p(-40)), -1.0 - p(-7)),
            ],
        ),
        case(
            "i32.bf16",
            Dtype::I32,
            Dtype::BF16,
            &[(i((1 << 30) + (1 << 22)), p(30)), (i((1 << 30) + (1 << 22) + 1), p(30) + p(23))],
        ),
        case(
            "i64.bf16",
            Dtype::I64,
            Dtype::BF16,
            &[(i((1 << 62) + (1 << 54)), p(62)), (i((1 << 62) + (1 << 54) + 1), p(62) + p(55))],
        ),
        case(
            "i64.f32",
            Dtype::I64,
            Dtype::F32,
            &[(i((1 << 62) + (1 << 38)), p(62)), (i((1 << 62) + (1 << 38) + 1), p(62) + p(39))],
        ),
        case(
            "u64.f64",
            Dtype::U64,
            Dtype::F64,
            &[(i((1 << 63) + (1 << 10)), p(63)), (i((1 << 63) + (1 << 10) + 1), p(63) + p(11))],
        ),
    ]
}

fn bitcasts() -> Vec<Case> {
    let plain: Vec<Dtype> = Dtype::PLAIN.into_iter().filter(|&d| d != Dtype::I1).collect();
    let mut out = Vec::new();
    for &from in &plain {
        let mut k = K::new(format!("bitcast.{from}"));
        let input = values(from, N, &mut Rng::named(&from.to_string()));
        let bytes = crate::conformance::number::write_all(from, input.iter().copied());
        let x = k.input("x", from, &input);
        let x = k.load(x, &[N as u32]);
        for &to in plain.iter().filter(|to| to.bits() == from.bits()) {
            let expect = crate::conformance::number::read_all(to, &bytes);
            let out = k.expected(&format!("as_{to}"), to, &expect, Check::Bits);
            let ty = k.ty(x).with_dtype(to);
            let y = k.typed(Op::Bitcast, &[x], &ty);
            k.store(out, y);
        }
        out.push(k.done());
    }
    out
}

fn constants() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let mut k = K::new(format!("constant.{dtype}"));
        let memory = if dtype.is_code() { Dtype::U8 } else { dtype };
        let all = crate::conformance::data::specials(memory);
        let all: Vec<Num> = all
            .into_iter()
            .map(|x| if dtype.is_code() { Num::Int(wrap(dtype, x.int())) } else { x })
            .collect();
        let expect: Vec<Num> = all.iter().flat_map(|&x| [x; 6]).collect();
        let out = k.expected("out", memory, &expect, Check::Bits);
        for (i, &x) in all.iter().enumerate() {
            let constant = match x {
                Num::Int(x) => Const::Int(x),
                Num::Float(x) => Const::float(x),
            };
            // As a scalar, and as a tile of five.
            let scalar = k.constant(constant, &Type::scalar(dtype));
            let to = k.at(out, i * 6);
            k.store_as(to, scalar);
            let tile = k.constant(constant, &Type::tile(dtype, &[5]));
            let to = k.at(out, i * 6 + 1);
            k.store_as(to, tile);
        }
        k.done()
    };
    Dtype::PLAIN.into_iter().chain([Dtype::Code(3), Dtype::Code(8)]).map(case).collect()
}
