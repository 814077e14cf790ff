//! Codes: packing into words, quantising, dequantising.

use leankv_dsl::ir::{Dtype, Op, Type};

use super::count;
use crate::conformance::data::{Rng, random, units};
use crate::conformance::number::{Num, rounded};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "pack", cases: || each_word("pack", pack), exchanges: true },
        Group { name: "unpack", cases: || each_word("unpack", unpack), exchanges: true },
        Group { name: "quantize", cases: quantize, exchanges: true },
        Group { name: "dequantize", cases: dequantize, exchanges: true },
        Group { name: "quantize_round_trip", cases: round_trip, exchanges: true },
    ]
}

fn each_word(name: &str, build: fn(&mut K, u32, Dtype, &mut Rng)) -> Vec<Case> {
    let mut out = Vec::new();
    for bits in [1u32, 2, 4, 8] {
        for word in [Dtype::U8, Dtype::U16, Dtype::U32] {
            let name = format!("{name}.code{bits}.{word}");
            let mut rng = Rng::named(&name);
            let mut k = K::new(name);
            build(&mut k, bits, word, &mut rng);
            out.push(k.done());
        }
    }
    out
}

/// Leading extents and the number of words along the last axis.
const WORDS: [(&[u32], u32); 6] = [(&[], 1), (&[], 13), (&[5], 3), (&[16], 16), (&[2, 3], 5), (&[60], 8)];

/// Shapes of codes and words, with their elements.
struct Packed {
    code_extents: Vec<u32>,
    word_extents: Vec<u32>,
    codes: Vec<Num>,
    words: Vec<Num>,
}

fn packed(bits: u32, word: Dtype, lead: &[u32], words: u32, rng: &mut Rng) -> Packed {
    let per_word = word.bits() / bits;
    let extents = |last: u32| [lead, &[last]].concat();
    let code_extents = extents(words * per_word);
    let codes: Vec<u64> = (0..count(&code_extents)).map(|_| rng.bits() & ((1 << bits) - 1)).collect();
    let value = |chunk: &[u64]| chunk.iter().enumerate().map(|(i, c)| c << (i as u32 * bits)).sum::<u64>();
    Packed {
        word_extents: extents(words),
        words: codes.chunks(per_word as usize).map(|c| Num::Int(value(c).into())).collect(),
        codes: codes.into_iter().map(|c| Num::Int(c.into())).collect(),
        code_extents,
    }
}

fn pack(k: &mut K, bits: u32, word: Dtype, rng: &mut Rng) {
    for (i, (lead, words)) in WORDS.into_iter().enumerate() {
        let p = packed(bits, word, lead, words, rng);
        let x = k.input(&format!("codes{i}"), Dtype::U8, &p.codes);
        let out = k.expected(&format!("words{i}"), word, &p.words, Check::Bits);
        let codes = k.load_as(x, Dtype::Code(bits as u8), &p.code_extents);
        let tile = k.typed(Op::Pack, &[codes], &Type::tile(word, &p.word_extents));
        k.store(out, tile);
    }
}

fn unpack(k: &mut K, bits: u32, word: Dtype, rng: &mut Rng) {
    for (i, (lead, words)) in WORDS.into_iter().enumerate() {
        let p = packed(bits, word, lead, words, rng);
        let x = k.aligned_input(&format!("words{i}"), word, &p.words);
        let out = k.expected(&format!("codes{i}"), Dtype::U8, &p.codes, Check::Bits);
        let tile = k.load(x, &p.word_extents);
        let codes = k.typed(Op::Unpack, &[tile], &Type::tile(Dtype::Code(bits as u8), &p.code_extents));
        k.store_as(out, codes);
    }
}

const N: usize = 96;

fn expected_code(x: f32, scale: f32, zero: f32, bits: u8) -> Num {
    let quotient = (x - zero) / scale;
    let most = f64::from((1u32 << bits) - 1);
    Num::Int(match scale == 0.0 || quotient.is_nan() {
        true => 0,
        false => f64::from(quotient).round_ties_even().clamp(0.0, most) as i128,
    })
}

/// Values, scales and zero points, with those that break things in front.
fn quantities(rng: &mut Rng) -> [Vec<f32>; 3] {
    let inf = f32::INFINITY;
    let mut out = [
        // Ties, both ends, and what has no quotient.
        vec![0.5, 1.5, 2.5, -3.0, 1e9, -1e9, f32::NAN, inf, -inf, 1.0, inf, 7.0, 0.0, 3.0],
        vec![1.0, 1.0, 1.0, 1.0, 1e-3, 1e-3, 1.0, 1.0, 1.0, 0.0, inf, -1.0, 0.0, f32::NAN],
        vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0, 0.0, 0.0],
    ];
    while out[0].len() < N {
        out[0].push((rng.unit() * 4.0) as f32);
        out[1].push(((rng.unit() + 1.1) / 8.0) as f32);
        out[2].push((rng.unit() * 4.0) as f32);
    }
    out
}

fn nums(v: &[f32]) -> Vec<Num> {
    v.iter().map(|&x| Num::Float(x.into())).collect()
}

fn quantize() -> Vec<Case> {
    let case = |bits: u8| {
        let name = format!("quantize.code{bits}");
        let [x, scale, zero] = quantities(&mut Rng::named(&name));
        let expect: Vec<Num> = (0..N).map(|i| expected_code(x[i], scale[i], zero[i], bits)).collect();
        let mut k = K::new(name);
        let x = k.input("x", Dtype::F32, &nums(&x));
        let scale = k.input("scale", Dtype::F32, &nums(&scale));
        let zero = k.input("zero", Dtype::F32, &nums(&zero));
        let out = k.expected("out", Dtype::U8, &expect, Check::Bits);
        let shape = [6, 16];
        let (x, scale, zero) = (k.load(x, &shape), k.load(scale, &shape), k.load(zero, &shape));
        let codes = k.typed(Op::Quantize, &[x, scale, zero], &Type::tile(Dtype::Code(bits), &shape));
        k.store_as(out, codes);
        k.done()
    };
    (1..=8).map(case).collect()
}

fn dequantize() -> Vec<Case> {
    let case = |bits: u8| {
        let name = format!("dequantize.code{bits}");
        let mut rng = Rng::named(&name);
        let codes: Vec<Num> = (0..N).map(|_| Num::Int((rng.bits() & ((1 << bits) - 1)).into())).collect();
        let scale: Vec<Num> = (0..N).map(|_| random(Dtype::F32, &mut rng)).collect();
        let zero: Vec<Num> = (0..N).map(|_| random(Dtype::F32, &mut rng)).collect();
        let value = |i: usize| {
            let (scale, code, zero) =
                (scale[i].float() as f32, codes[i].float() as f32, zero[i].float() as f32);
            Num::Float(scale.mul_add(code, zero).into())
        };
        let expect: Vec<Num> = (0..N).map(value).collect();
        let mut k = K::new(name);
        let codes = k.input("codes", Dtype::U8, &codes);
        let scale = k.input("scale", Dtype::F32, &scale);
        let zero = k.input("zero", Dtype::F32, &zero);
        let out = k.expected("out", Dtype::F32, &expect, Check::Bits);
        let codes = k.load_as(codes, Dtype::Code(bits), &[N as u32]);
        let (scale, zero) = (k.load(scale, &[N as u32]), k.load(zero, &[N as u32]));
        let x = k.op(Op::Dequantize, &[codes, scale, zero]);
        k.store(out, x);
        k.done()
    };
    (1..=8).map(case).collect()
}

/// Quantise, pack, unpack, dequantise: within half a step.
fn round_trip() -> Vec<Case> {
    let case = |&(bits, word): &(u8, Dtype)| {
        let name = format!("round_trip.code{bits}.{word}");
        let mut rng = Rng::named(&name);
        let (rows, columns) = (5u32, 128u32);
        let n = (rows * columns) as usize;
        let x = units(Dtype::F32, n, &mut rng);
        let step = 2.0 / f64::from((1u32 << bits) - 1);
        let mut k = K::new(name);
        let input = k.aligned_input("x", Dtype::F32, &x);
        let scale = k.scalar("scale", step as f32);
        let zero = k.scalar("zero", -1.0f32);
        let expect: Vec<Num> = x.iter().map(|&x| rounded(Dtype::F32, x)).collect();
        let out = k.expected("out", Dtype::F32, &expect, Check::Close { rel: 0.0, abs: step / 2.0 + 1e-6 });
        let shape = [rows, columns];
        let x = k.load(input, &shape);
        let wide = Type::tile(Dtype::F32, &shape);
        let (scale, zero) = (k.typed(Op::Splat, &[scale], &wide), k.typed(Op::Splat, &[zero], &wide));
        let codes = k.typed(Op::Quantize, &[x, scale, zero], &Type::tile(Dtype::Code(bits), &shape));
        let words = [rows, columns * u32::from(bits) / word.bits()];
        let words = k.typed(Op::Pack, &[codes], &Type::tile(word, &words));
        let codes = k.typed(Op::Unpack, &[words], &Type::tile(Dtype::Code(bits), &shape));
        let x = k.op(Op::Dequantize, &[codes, scale, zero]);
        k.store(out, x);
        k.done()
    };
    let forms =
        [(1, Dtype::U8), (2, Dtype::U32), (4, Dtype::U32), (4, Dtype::U16), (8, Dtype::U32), (8, Dtype::U8)];
    forms.iter().map(case).collect()
}
