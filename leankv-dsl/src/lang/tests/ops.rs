//! The op surface: each method records what its name says. Kernels run on the interpreter and are compared with the same
//! computation in plain Rust.

use half::f16;

use crate::interp::{self, Arg, BufferId, Memory, Options};
use crate::ir::Func;
use crate::lang::*;

const N: usize = 8;
type Built = Result<Func, crate::diag::Diagnostics>;

/// Runs a kernel `(x, out)` over f32 buffers of 64 numbers.
#[track_caller]
fn floats(built: Built, x: &[f32]) -> Vec<f32> {
    run(built, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), f32::from_le_bytes)
}

/// Runs a kernel `(x, out)` over i32 buffers of 64 numbers.
#[track_caller]
fn ints(built: Built, x: &[i32]) -> Vec<i32> {
    run(built, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), i32::from_le_bytes)
}

#[track_caller]
fn run<T>(built: Built, input: &[u8], read: impl Fn([u8; 4]) -> T) -> Vec<T> {
    let func = built.unwrap_or_else(|found| panic!("{found}"));
    let mut memory = Memory::new();
    let mut bytes = input.to_vec();
    bytes.resize(256, 0);
    let (x, out): (BufferId, BufferId) = (memory.alloc_bytes(&bytes), memory.alloc_bytes(&[0; 256]));
    let args = [Arg::Buffer(x, 0), Arg::Buffer(out, 0)];
    interp::launch(&func, [1, 1, 1], &args, &mut memory, &Options::default())
        .unwrap_or_else(|error| panic!("{error}\n{func}"));
    memory.bytes(out).chunks_exact(4).map(|w| read(w.try_into().expect("4 bytes"))).collect()
}

macro_rules! float_kernels {
    ($($name:ident($x:ident) $value:expr;)*) => {$(
        #[kernel]
        fn $name(x: Ptr<f32>, out: PtrMut<f32>) {
            let $x = x.load(iota(N));
            out.store(iota(N), $value);
        }
    )*};
}

float_kernels! {
    exp(x) x.exp();
    log(x) x.log();
    sigmoid(x) x.sigmoid();
    clamp(x) x.clamp(-0.5, 0.5);
    fused(x) x.fma(x, 1.0);
    mixed(x) 2.0 * x - x / 4.0 + -x;
    rounded(x) x.floor() + 10.0 * x.ceil() + 100.0 * x.round() + 1000.0 * x.trunc();
    chosen(x) x.gt(0.0).select(x, 0.0);
    roots(x) x.abs().sqrt() + x.abs().rsqrt();
    circle(x) x.sin() * x.sin() + x.cos() * x.cos();
    bent(x) x.tanh() + x.erf();
    powers(x) x.exp2().log2();
    through_f16(x) x.cast::<f16>().exp().cast::<f32>();
    bits(x) (x.bitcast::<u32>() & 0x7FFF_FFFF).bitcast::<f32>();
    soft(x) x.softmax(0);
    prefix(x) x.cumsum(0);
    suffix(x) x.cumsum_reverse(0);
    peak(x) x.cummax(0);
    scanned(x) x.scan(0, false, |a, b| a * b);
    backwards(x) x.flip(0);
    middle(x) x.slice(0, 2, 4).interleave(Tile::zeros([4]));
    behind(x) x.slice(0, 4, 4).cat(x.slice(0, 0, 4), 0);
    total(x) x.reduce_sum(0).splat([N]);
    largest(x) (x.reduce_max(0) - x.reduce_min(0)).splat([N]);
    folded(x) x.reduce(0, |a, b| a.max(b)).splat([N]);
    joined(x) {
        let (a, b) = x.join(x + 1.0).split();
        a * b
    };
    shaped(x) x.reshape([2, 4]).t().reshape([2, 2, 2]).permute([2, 0, 1]).ravel();
    spread(x) (x.slice(0, 0, 2).expand_dims(1) + x.slice(0, 0, 4).expand_dims(0)).ravel();
    product(x) {
        let a = x.reshape([2, 4]);
        a.dot(a.t(), Tile::full([2, 2], 1.0)).ravel().cat(Tile::zeros([4]), 0)
    };
    quantized(x) {
        let codes = x.quantize(lit(0.25), lit(-1.0), 3);
        codes.cast::<i32>().cast_code(4).pack::<u8>().unpack(4).dequantize(lit(0.25), lit(-1.0))
    };
    inline(x) InlinePtx::new("abs.f32 $0, $1;", "=f,f").apply(x, |x| x.abs());
}

const X: [f32; N] = [-1.5, -0.75, -0.25, 0.125, 0.5, 0.625, 1.25, 2.0];

macro_rules! check {
    ($($name:ident / $spec:ident: $expected:expr;)*) => {$({
        let expected: Vec<f32> = $expected;
        let got = floats($name::build(&$spec {}), &X);
        for (i, (e, g)) in expected.iter().zip(&got).enumerate() {
            assert!((e - g).abs() <= 1e-3 * e.abs().max(1.0), "{}: element {i} is {g}, expected {e}", stringify!($name));
        }
    })*};
}

fn each(f: impl Fn(f32) -> f32) -> Vec<f32> {
    X.iter().map(|&x| f(x)).collect()
}

#[test]
fn element_wise_mathematics() {
    check! {
        exp / ExpSpec: each(f32::exp);
        sigmoid / SigmoidSpec: each(|x| 1.0 / (1.0 + (-x).exp()));
        clamp / ClampSpec: each(|x| x.clamp(-0.5, 0.5));
        fused / FusedSpec: each(|x| x * x + 1.0);
        mixed / MixedSpec: each(|x| 2.0 * x - x / 4.0 - x);
        rounded / RoundedSpec: each(|x| {
            x.floor() + 10.0 * x.ceil() + 100.0 * x.round_ties_even() + 1000.0 * x.trunc()
        });
        chosen / ChosenSpec: each(|x| x.max(0.0));
        roots / RootsSpec: each(|x| x.abs().sqrt() + 1.0 / x.abs().sqrt());
        circle / CircleSpec: each(|_| 1.0);
        powers / PowersSpec: each(|x| x);
        through_f16 / ThroughF16Spec: each(f32::exp);
        bits / BitsSpec: each(f32::abs);
        inline / InlineSpec: each(f32::abs);
    }
    let logs = floats(log::build(&LogSpec {}), &X);
    assert!(logs[0].is_nan() && (logs[7] - 2f32.ln()).abs() < 1e-5);
    let bent = floats(bent::build(&BentSpec {}), &X);
    assert!((bent[4] - (0.5f32.tanh() + 0.520_499_9)).abs() < 1e-4, "{}", bent[4]);
}

#[test]
fn reductions_scans_shapes_and_products() {
    let sum = |x: &[f32]| x.iter().sum::<f32>();
    let powers = each(f32::exp);
    let a = [&X[..4], &X[4..]];
    let dot = |i: usize, j: usize| a[i].iter().zip(a[j]).map(|(x, y)| x * y).sum::<f32>() + 1.0;
    // x as [2, 4], transposed to [4, 2], seen as [2, 2, 2], its last axis first.
    let t: Vec<f32> = (0..8).map(|i| X[(i % 2) * 4 + i / 2]).collect();
    check! {
        soft / SoftSpec: powers.iter().map(|p| p / sum(&powers)).collect();
        prefix / PrefixSpec: (0..N).map(|i| sum(&X[..=i])).collect();
        suffix / SuffixSpec: (0..N).map(|i| sum(&X[i..])).collect();
        peak / PeakSpec: each(|x| x);
        scanned / ScannedSpec: (0..N).map(|i| X[..=i].iter().product()).collect();
        backwards / BackwardsSpec: X.iter().rev().copied().collect();
        middle / MiddleSpec: X[2..6].iter().flat_map(|&x| [x, 0.0]).collect();
        behind / BehindSpec: [&X[4..], &X[..4]].concat();
        total / TotalSpec: vec![sum(&X); N];
        largest / LargestSpec: vec![3.5; N];
        folded / FoldedSpec: vec![2.0; N];
        joined / JoinedSpec: each(|x| x * (x + 1.0));
        shaped / ShapedSpec: (0..8).map(|i| t[(i % 4) * 2 + i / 4]).collect();
        spread / SpreadSpec: X[..2].iter().flat_map(|a| X[..4].iter().map(move |b| a + b)).collect();
        product / ProductSpec: vec![dot(0, 0), dot(0, 1), dot(1, 0), dot(1, 1), 0.0, 0.0, 0.0, 0.0];
        quantized / QuantizedSpec: each(|x| ((x + 1.0) / 0.25).round_ties_even().clamp(0.0, 7.0) * 0.25 - 1.0);
    }
}

macro_rules! int_kernels {
    ($($name:ident($x:ident, $out:ident) $body:block)*) => {$(
        #[kernel]
        fn $name(x: Ptr<i32>, out: PtrMut<i32>) {
            let ($x, $out) = (x, out);
            $body
        }
    )*};
}

int_kernels! {
    arithmetic(x, out) {
        let v = x.load(iota(N));
        out.store(iota(N), (v % 3) + ((v << 2) ^ (v >> 1) | 1) * 100 + (v & 6).popcount() * 100_000);
        out.store(iota(N) + N as i32, v.cdiv(3) + v.clz() * 1000);
    }

    extremes(x, out) {
        let (top, at) = x.load(iota(N)).reduce_argmax(0);
        out.set(0, top);
        out.set(1, at);
        let (least, at) = x.load(iota(N)).reshape([2, 4]).reduce_argmin(1);
        out.store(iota(2) + 2, least);
        out.store(iota(2) + 4, at);
        let small = x.load(iota(N)).lt(3);
        out.set(6, small.reduce_or(0).cast::<i32>() + small.reduce_and(0).cast::<i32>() * 10);
        out.set(7, x.load(iota(N)).reduce_xor(0));
    }

    masked(x, out) {
        let odd = (iota(N) % 2).eq(1);
        let v = x.load_masked(iota(N), odd) + x.load_or(iota(N), !odd, -1) * 100;
        out.store_masked(iota(N), v, iota(N).ne(0));
        out.set(N as i32, x.get(3) + x.add(2i64).get(0) + x.byte_add(4).get(0));
        let bytes = x.cast::<u8>().load(iota(4));
        out.store(iota(4) + 16, bytes.cast::<i32>());
    }

    atomics(x, out) {
        let v = x.load(iota(N));
        let old = out.atomic().add(iota(N) % 2, v);
        out.atomic().order(MemOrder::AcqRel).scope(MemScope::System).max(Tile::<i32, 1>::full([N], 2), v);
        out.atomic().or_masked(Tile::<i32, 1>::full([N], 3), v, v.gt(4));
        out.set(4, old.reduce_min(0));
        out.atomic().compare_exchange(iota(1) + 5, 0, 7);
        out.atomic().exchange(iota(1) + 6, 9);
    }

    gathered(x, out) {
        let v = x.load(iota(N));
        out.store(iota(N), v.gather(7 - iota(N), 0));
        let wide = x.load(iota(N)).cast::<u32>();
        out.set(N as i32, wide.mulhi(0x8000_0000u32).reduce_sum(0).cast::<i32>());
        device_print("sum", (v.reduce_sum(0), v));
        device_assert(v.ge(0), "numbers are not negative");
    }
}

const V: [i32; N] = [3, 1, 4, 1, 5, 9, 2, 6];

#[test]
fn integers_masks_pointers_and_atomics() {
    let got = ints(arithmetic::build(&ArithmeticSpec {}), &V);
    for (i, v) in V.into_iter().enumerate() {
        let bits = (v & 6).count_ones() as i32;
        assert_eq!(got[i], (v % 3) + ((v << 2) ^ (v >> 1) | 1) * 100 + bits * 100_000);
        assert_eq!(got[N + i], (v + 2) / 3 + v.leading_zeros() as i32 * 1000);
    }
    let got = ints(extremes::build(&ExtremesSpec {}), &V);
    assert_eq!(got[..8], [9, 5, 1, 2, 1, 2, 1, V.iter().fold(0, |a, b| a ^ b)]);
    let got = ints(masked::build(&MaskedSpec {}), &V);
    let expected: Vec<i32> = (0..N).map(|i| if i % 2 == 1 { V[i] - 100 } else { V[i] * 100 }).collect();
    assert_eq!((got[0], &got[1..N]), (0, &expected[1..]));
    assert_eq!(got[N], V[3] + V[2] + V[1]);
    assert_eq!(got[16..20], [3, 0, 0, 0]);
    let got = ints(atomics::build(&AtomicsSpec {}), &V);
    let sum = |from: usize| V.iter().skip(from).step_by(2).sum::<i32>();
    assert_eq!(got[..7], [sum(0), sum(1), 9, 5 | 9 | 6, 0, 7, 9]);
    let got = ints(gathered::build(&GatheredSpec {}), &V);
    assert_eq!(got[..N].iter().rev().copied().collect::<Vec<_>>(), V);
    assert_eq!(got[N], V.iter().map(|v| v / 2).sum::<i32>());
}

#[kernel]
fn views(#[arg(strided)] x: View<i32, 2>, #[arg(align = 32)] y: View<i32, 2>, out: ViewMut<i32, 2>) {
    let block = x.tile((0, element(1)), [4, 2]).load();
    out.tile((0, 0), [4, 2]).store(block);
    let rows = x.tile((iota(2) * 2, 0), [2, 2]).load_or(-1);
    out.tile((1, 0), [4, 2])
        .store_masked(rows.join(rows).permute([0, 2, 1]).reshape([4, 2]), iota(4).lt(3).expand_dims(1));
    out.set(
        [lit(0), lit(2)],
        y.get([lit(1), lit(0)]) + x.extent(0).cast::<i32>() + x.stride(1).cast::<i32>(),
    );
}

#[test]
fn views_decompose_and_mask_what_lies_outside() {
    let func = views::build(&ViewsSpec {}).unwrap_or_else(|found| panic!("{found}"));
    let names: Vec<&str> = func.params.iter().map(|p| p.name.as_str()).collect();
    let expected = [
        "x",
        "x.shape0",
        "x.shape1",
        "x.stride0",
        "x.stride1",
        "y",
        "y.shape0",
        "y.shape1",
        "y.stride0",
        "out",
        "out.shape0",
        "out.shape1",
        "out.stride0",
    ];
    assert_eq!(names, expected);
    let promise = |name: &str| func.params.iter().find(|p| p.name == name).map(|p| p.multiple_of);
    assert_eq!((promise("y"), promise("y.stride0"), promise("out")), (Some(32), Some(8), Some(4)));

    // x is a 3 x 2 matrix, stored by columns; what lies beyond it is not touched.
    let mut memory = Memory::new();
    let bytes = |x: &[i32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let x = memory.alloc_bytes(&bytes(&[1, 2, 3, 4, 5, 6]));
    let y = memory.alloc_bytes(&bytes(&[0, 0, 0, 0, 0, 0, 0, 0, 50]));
    let out = memory.alloc_bytes(&bytes(&[9; 8 * 3]));
    let n = |n: i64| Arg::from(n);
    let args = [
        Arg::Buffer(x, 0),
        n(3),
        n(2),
        n(1),
        n(3),
        Arg::Buffer(y, 0),
        n(2),
        n(1),
        n(8),
        Arg::Buffer(out, 0),
        n(8),
        n(3),
        n(3),
    ];
    interp::launch(&func, [1, 1, 1], &args, &mut memory, &Options::default())
        .unwrap_or_else(|e| panic!("{e}\n{func}"));
    let got: Vec<i32> = memory
        .bytes(out)
        .chunks_exact(4)
        .map(|w| i32::from_le_bytes(w.try_into().expect("4 bytes")))
        .collect();
    let expected = [4, 0, 56, 5, 0, 9, 6, 0, 9, 0, 0, 9, 1, 4, 9, 1, 4, 9, 3, 6, 9, 9, 9, 9];
    assert_eq!(got, expected);
}

#[kernel]
fn around_the_edges(from: Scalar<i32>, x: View<i32, 1>, out: ViewMut<i32, 1>) {
    // Before the first element, over it, and beyond the last one.
    out.tile(0, [4]).store(x.tile(from, [4]).load_or(-1));
    out.tile(1, [4]).store(x.tile(element(from), [4]).load_or(-1));
    x.tile(element(from), [4]).mask();
    out.tile(element(from - 4), [4]).store(7);
    out.tile(from - 1, [4]).store(7);
}

#[test]
fn what_lies_before_a_view_is_not_touched_either() {
    let func = around_the_edges::build(&AroundTheEdgesSpec {}).unwrap_or_else(|found| panic!("{found}"));
    let run = |from: i32| {
        let mut memory = Memory::new();
        let bytes = |x: &[i32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        // The view lies in the middle of its buffer, so that only masks keep accesses inside of it.
        let x = memory.alloc_bytes(&bytes(&[99, 99, 99, 99, 1, 2, 3, 4, 5, 99, 99, 99]));
        let out = memory.alloc_bytes(&bytes(&[0; 16]));
        let args =
            [Arg::from(from), Arg::Buffer(x, 16), Arg::from(5i64), Arg::Buffer(out, 32), Arg::from(8i64)];
        interp::launch(&func, [1, 1, 1], &args, &mut memory, &Options::default())
            .unwrap_or_else(|e| panic!("{e}\n{func}"));
        let words = memory.bytes(out).chunks_exact(4);
        words.map(|w| i32::from_le_bytes(w.try_into().expect("4 bytes"))).collect::<Vec<i32>>()
    };
    let nothing = [0; 8];
    let case = |from, tile: [i32; 4], lanes: [i32; 4]| {
        assert_eq!(run(from), [&nothing[..], &tile, &lanes].concat(), "from {from}");
    };
    case(-1, [-1; 4], [-1, 1, 2, 3]);
    case(-4, [-1; 4], [-1; 4]);
    case(-100, [-1; 4], [-1; 4]);
    case(0, [1, 2, 3, 4], [1, 2, 3, 4]);
}

#[kernel]
fn half_literals(x: Ptr<f32>, out: PtrMut<f32>) {
    let v = x.load(iota(N)).cast::<f16>();
    out.store(iota(N), (v * 0.1 + 1.0).cast::<f32>());
}

#[test]
fn literals_round_to_the_element_type_when_the_kernel_is_specialised() {
    let got = floats(half_literals::build(&HalfLiteralsSpec {}), &[1.0; N]);
    let expected = f16::from_f32(f16::from_f32(0.1).to_f32() + 1.0).to_f32();
    assert_eq!(got[0], expected);
}
