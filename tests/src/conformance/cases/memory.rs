//! Loads, stores and pointer arithmetic.

use leankv_dsl::ir::{Access, BinaryOp, CacheHint, CmpOp, Const, Dtype, Op, Type, Value};

use super::{count, shapes};
use crate::conformance::case::{LOAD, LOAD_MASKED, LOAD_OTHER, Output, STORE, STORE_MASKED};
use crate::conformance::data::{Rng, values};
use crate::conformance::number::{Num, write_all};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "load_store", cases: || each_type("load_store", whole_tiles), exchanges: true },
        Group { name: "load_masked", cases: || each_type("load_masked", masked), exchanges: true },
        Group { name: "store_masked", cases: || each_type("store_masked", masked_store), exchanges: true },
        Group { name: "load_scattered", cases: || each_type("load_scattered", scattered), exchanges: true },
        Group {
            name: "vectorised_copy",
            cases: || each_type("vectorised_copy", vectorised),
            exchanges: true,
        },
        Group { name: "strided_rows", cases: || each_type("strided_rows", strided), exchanges: true },
        Group { name: "cache_hints", cases: cache_hints, exchanges: true },
        Group { name: "ptr_add", cases: || each_type("ptr_add", ptr_add), exchanges: true },
        Group { name: "ptr_cast", cases: ptr_cast, exchanges: true },
        Group { name: "program_id", cases: program_ids, exchanges: true },
        Group { name: "num_programs", cases: program_ids, exchanges: true },
        Group { name: "scalar_parameters", cases: scalar_parameters, exchanges: true },
        Group { name: "load_after_store", cases: load_after_store, exchanges: true },
    ]
}

fn each_type(name: &str, build: fn(&mut K, Dtype, &mut Rng)) -> Vec<Case> {
    Dtype::PLAIN
        .into_iter()
        .map(|dtype| {
            let name = format!("{name}.{dtype}");
            let mut rng = Rng::named(&name);
            let mut k = K::new(name);
            build(&mut k, dtype, &mut rng);
            k.done()
        })
        .collect()
}

fn whole_tiles(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    for (i, extents) in shapes(dtype).iter().enumerate() {
        let elements = values(dtype, count(extents), rng);
        let x = k.input(&format!("x{i}"), dtype, &elements);
        let out = k.expected(&format!("out{i}"), dtype, &elements, Check::Bits);
        let tile = k.load(x, extents);
        k.store(out, tile);
    }
}

/// A mask that is true for offsets below `n`.
fn below(k: &mut K, offsets: Value, n: i128) -> Value {
    let ty = k.ty(offsets);
    let limit = k.constant(Const::Int(n), &ty);
    k.op(Op::Cmp(CmpOp::Lt), &[offsets, limit])
}

/// Buffers shorter than the tile: masked-off elements must not be touched.
fn masked(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    for (i, (extents, n)) in
        [(&[16][..], 13), (&[128], 96), (&[128], 1), (&[5, 13], 60), (&[64], 0), (&[], 0)]
            .into_iter()
            .enumerate()
    {
        let elements = values(dtype, n, rng);
        let other = values(dtype, 3, rng)[i % 2];
        let pad = |fill: Num| {
            let mut out = elements.clone();
            out.resize(count(extents), fill);
            out
        };
        let zero = if dtype.is_float() { Num::Float(0.0) } else { Num::Int(0) };
        let x = k.input(&format!("x{i}"), dtype, &elements);
        let with_zero = k.expected(&format!("zero{i}"), dtype, &pad(zero), Check::Bits);
        let with_other = k.expected(&format!("other{i}"), dtype, &pad(other), Check::Bits);
        let offsets = k.offsets(extents);
        let mask = below(k, offsets, n as i128);
        let tile = k.op(LOAD_MASKED, &[x, offsets, mask]);
        k.store(with_zero, tile);
        let constant = match other {
            Num::Int(x) => Const::Int(x),
            Num::Float(x) => Const::float(x),
        };
        let fill = k.constant(constant, &Type::tile(dtype, extents));
        let tile = k.op(LOAD_OTHER, &[x, offsets, mask, fill]);
        k.store(with_other, tile);
    }
}

/// Stores under a mask of every third element: the others keep what they held.
fn masked_store(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    for (i, extents) in [&[16][..], &[96], &[5, 13], &[2, 3, 5]].into_iter().enumerate() {
        let elements = values(dtype, count(extents), rng);
        let before = values(dtype, count(extents), rng);
        let keep = rng.below(3);
        let expect: Vec<Num> =
            (0..elements.len()).map(|j| if j % 3 == keep { elements[j] } else { before[j] }).collect();
        let x = k.input(&format!("x{i}"), dtype, &elements);
        let output = Output { check: Check::Bits, expect: Some(write_all(dtype, expect)) };
        let bytes = write_all(dtype, before);
        let out = k.buffer(&format!("out{i}"), dtype, bytes, Access::Write, 1, Some(output));
        let offsets = k.offsets(extents);
        let tile = k.op(LOAD, &[x, offsets]);
        let ty = k.ty(offsets);
        let (three, keep) = (k.constant(Const::Int(3), &ty), k.constant(Const::Int(keep as i128), &ty));
        let rest = k.op(Op::Binary(BinaryOp::Rem), &[offsets, three]);
        let mask = k.op(Op::Cmp(CmpOp::Eq), &[rest, keep]);
        k.ops(STORE_MASKED, &[out, offsets, tile, mask], None);
    }
}

/// Offsets in any order, some of them twice, as `i32` and as `i64`; then back to a permutation.
fn scattered(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    for (i, (extents, wide)) in
        [(&[60][..], false), (&[96], true), (&[5, 13], true), (&[32], false)].into_iter().enumerate()
    {
        let n = count(extents);
        let offset_type = if wide { Dtype::I64 } else { Dtype::I32 };
        let elements = values(dtype, n, rng);
        let picks: Vec<usize> = (0..n).map(|_| rng.below(n)).collect();
        // A permutation: multiply by a number without a common divisor.
        let step = if n.is_multiple_of(7) { 11 } else { 7 };
        let places: Vec<usize> = (0..n).map(|j| (j * step + 3) % n).collect();
        let mut expect = vec![Num::Int(0); n];
        for j in 0..n {
            expect[places[j]] = elements[picks[j]];
        }
        let nums = |v: &[usize]| v.iter().map(|&x| Num::Int(x as i128)).collect::<Vec<_>>();
        let x = k.input(&format!("x{i}"), dtype, &elements);
        let from = k.input(&format!("from{i}"), offset_type, &nums(&picks));
        let to = k.input(&format!("to{i}"), offset_type, &nums(&places));
        let out = k.expected(&format!("out{i}"), dtype, &expect, Check::Bits);
        let (from, to) = (k.load(from, extents), k.load(to, extents));
        let tile = k.op(LOAD, &[x, from]);
        k.ops(STORE, &[out, to, tile], None);
    }
}

/// The tutorials' copy kernel: blocks over many programs, aligned pointers, a ragged end.
fn vectorised(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    let (n, block) = (1000usize, 256);
    k.grid([4, 1, 1]);
    let elements = values(dtype, n, rng);
    let x = k.aligned_input("x", dtype, &elements);
    let output = Output { check: Check::Bits, expect: Some(write_all(dtype, elements.iter().copied())) };
    let zeros = vec![0; n * dtype.bytes().unwrap_or(1) as usize];
    let out = k.buffer("out", dtype, zeros, Access::Write, 16, Some(output));
    let limit = k.scalar("n", n as i32);
    let program = k.op(Op::ProgramId(leankv_dsl::ir::Axis::X), &[]);
    let size = k.i32(block);
    let first = k.op(Op::Binary(BinaryOp::Mul), &[program, size]);
    let ty = Type::tile(Dtype::I32, &[block as u32]);
    let (first, limit) = (k.typed(Op::Splat, &[first], &ty), k.typed(Op::Splat, &[limit], &ty));
    let lane = k.typed(Op::Iota, &[], &ty);
    let offsets = k.op(Op::Binary(BinaryOp::Add), &[first, lane]);
    let mask = k.op(Op::Cmp(CmpOp::Lt), &[offsets, limit]);
    let tile = k.op(LOAD_MASKED, &[x, offsets, mask]);
    k.ops(STORE_MASKED, &[out, offsets, tile, mask], None);
}

/// Rows of a matrix whose stride is an argument: row offset times stride plus column.
fn strided(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    let (rows, columns, stride) = (5u32, 60u32, 64usize);
    let elements = values(dtype, rows as usize * stride, rng);
    let expect: Vec<Num> = (0..columns as usize)
        .flat_map(|c| (0..rows as usize).map(move |r| (r, c)))
        .map(|(r, c)| elements[r * stride + c])
        .collect();
    let x = k.aligned_input("x", dtype, &elements);
    // Stored transposed.
    let out = k.expected("out", dtype, &expect, Check::Bits);
    let stride = k.scalar("stride", stride as i32);
    let offsets = |k: &mut K, stride: Value| {
        let shape = Type::tile(Dtype::I32, &[rows, columns]);
        let spread = |k: &mut K, n: u32, axis: u8| {
            let line = k.typed(Op::Iota, &[], &Type::tile(Dtype::I32, &[n]));
            let line = k.op(Op::ExpandDims { axis }, &[line]);
            k.typed(Op::Broadcast, &[line], &shape)
        };
        let row = spread(k, rows, 1);
        let column = spread(k, columns, 0);
        let stride = k.typed(Op::Splat, &[stride], &shape);
        let start = k.op(Op::Binary(BinaryOp::Mul), &[row, stride]);
        k.op(Op::Binary(BinaryOp::Add), &[start, column])
    };
    let from = offsets(k, stride);
    let tile = k.op(LOAD, &[x, from]);
    let turned = k.op(Op::Transpose { perm: [1, 0].into_iter().collect() }, &[tile]);
    k.store(out, turned);
}

fn cache_hints() -> Vec<Case> {
    let case = |&hint: &CacheHint| {
        let mut k = K::new(format!("cache.{hint}"));
        let elements = values(Dtype::F32, 96, &mut Rng::named("cache"));
        let x = k.aligned_input("x", Dtype::F32, &elements);
        let out = k.expected("out", Dtype::F32, &elements, Check::Bits);
        let offsets = k.offsets(&[96]);
        let tile = k.op(Op::Load { masked: false, other: false, cache: hint }, &[x, offsets]);
        k.ops(Op::Store { masked: false, cache: hint }, &[out, offsets, tile], None);
        k.done()
    };
    CacheHint::ALL.iter().map(case).collect()
}

/// Forward by an argument and back by a constant.
fn ptr_add(k: &mut K, dtype: Dtype, rng: &mut Rng) {
    let elements = values(dtype, 64, rng);
    let x = k.input("x", dtype, &elements);
    let out = k.expected("out", dtype, &elements[7..7 + 13], Check::Bits);
    let by = k.scalar("by", 17i64);
    let back = k.constant(Const::Int(-10), &Type::scalar(Dtype::I64));
    let moved = k.op(Op::PtrAdd, &[x, by]);
    let moved = k.op(Op::PtrAdd, &[moved, back]);
    let tile = k.load(moved, &[13]);
    k.store(out, tile);
}

fn ptr_cast() -> Vec<Case> {
    let case = |to: Dtype| {
        let name = format!("ptr_cast.u8.{to}");
        let bytes: Vec<u8> = {
            let mut rng = Rng::named(&name);
            (0..96).map(|_| if to == Dtype::I1 { rng.bits() as u8 & 1 } else { rng.bits() as u8 }).collect()
        };
        let mut k = K::new(name);
        let x = k.buffer("x", Dtype::U8, bytes.clone(), Access::Read, 16, None);
        let n = bytes.len() / to.bytes().unwrap_or(1) as usize;
        let expect = crate::conformance::number::read_all(to, &bytes);
        let out = k.expected("out", to, &expect, Check::Bits);
        let x = k.typed(Op::PtrCast, &[x], &Type::ptr(to));
        let tile = k.load(x, &[n as u32]);
        k.store(out, tile);
        k.done()
    };
    Dtype::PLAIN.into_iter().map(case).collect()
}

/// Each program of a grid in three dimensions writes its index and the grid's extents.
fn program_ids() -> Vec<Case> {
    use leankv_dsl::ir::Axis;
    let grid = [3u32, 2, 4];
    let mut k = K::new("program_id.xyz");
    k.grid(grid);
    let mut expect = Vec::new();
    for z in 0..grid[2] {
        for y in 0..grid[1] {
            for x in 0..grid[0] {
                expect.extend([x, y, z, grid[0], grid[1], grid[2]].map(|v| Num::Int(v.into())));
            }
        }
    }
    let out = k.expected("out", Dtype::I32, &expect, Check::Bits);
    let axes = [Axis::X, Axis::Y, Axis::Z];
    let ids: Vec<Value> = axes.iter().map(|&a| k.op(Op::ProgramId(a), &[])).collect();
    let extents: Vec<Value> = axes.iter().map(|&a| k.op(Op::NumPrograms(a), &[])).collect();
    let mul = |k: &mut K, a, b| k.op(Op::Binary(BinaryOp::Mul), &[a, b]);
    let add = |k: &mut K, a, b| k.op(Op::Binary(BinaryOp::Add), &[a, b]);
    let planes = mul(&mut k, ids[2], extents[1]);
    let rows = add(&mut k, planes, ids[1]);
    let rows = mul(&mut k, rows, extents[0]);
    let program = add(&mut k, rows, ids[0]);
    let six = k.i32(6);
    let first = mul(&mut k, program, six);
    for (i, &value) in ids.iter().chain(&extents).enumerate() {
        let by = k.i32(i as i32);
        let at = add(&mut k, first, by);
        k.ops(STORE, &[out, at, value], None);
    }
    vec![k.done()]
}

fn scalar_parameters() -> Vec<Case> {
    let mut k = K::new("scalar_parameters");
    let float = |x: f64| Num::Float(x);
    macro_rules! each {
        ($($dtype:ident $value:expr, $num:expr;)*) => { $(
            let value = k.scalar(stringify!($dtype), $value);
            let out = k.expected(concat!("out_", stringify!($dtype)), Dtype::$dtype, &[$num], Check::Bits);
            k.store(out, value);
        )* };
    }
    each! {
        I1 true, Num::Int(1);
        I8 -100i8, Num::Int(-100);
        I16 -30000i16, Num::Int(-30000);
        I32 i32::MIN, Num::Int(i32::MIN.into());
        I64 i64::MIN + 1, Num::Int((i64::MIN + 1).into());
        U8 200u8, Num::Int(200);
        U16 60000u16, Num::Int(60000);
        U32 u32::MAX - 1, Num::Int((u32::MAX - 1).into());
        U64 u64::MAX - 1, Num::Int((u64::MAX - 1).into());
        F16 half::f16::from_f32(1.5), float(1.5);
        BF16 half::bf16::from_f32(-2.5), float(-2.5);
        F32 0.1f32, float(0.1f32.into());
        F64 0.1f64, float(0.1);
    }
    vec![k.done()]
}

/// A program sees its own stores, also through another shape.
fn load_after_store() -> Vec<Case> {
    let case = |warps: u32| {
        let mut k = K::new(format!("load_after_store.warps{warps}"));
        k.warps(warps);
        let elements = values(Dtype::F32, 128, &mut Rng::named("load_after_store"));
        let x = k.input("x", Dtype::F32, &elements);
        let output =
            |expect| Some(Output { check: Check::Bits, expect: Some(write_all(Dtype::F32, expect)) });
        let scratch =
            k.buffer("scratch", Dtype::F32, vec![0; 512], Access::ReadWrite, 16, output(elements.clone()));
        let turned: Vec<Num> = (0..128).map(|i| elements[i % 8 * 16 + i / 8]).collect();
        let out = k.expected("out", Dtype::F32, &turned, Check::Bits);
        let tile = k.load(x, &[128]);
        k.store(scratch, tile);
        let tile = k.load(scratch, &[8, 16]);
        let tile = k.op(Op::Transpose { perm: [1, 0].into_iter().collect() }, &[tile]);
        k.store(out, tile);
        k.done()
    };
    [1, 4].into_iter().map(case).collect()
}
