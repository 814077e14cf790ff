//! Long chains of ops that each need the one before, as unrolled loops give them. They run on the stack of a thread.

use leankv_dsl::ir::{Dtype, Func};
use leankv_dsl::lang::{Ptr, PtrMut, Scalar, iota, kernel};

use crate::conformance::data::{Rng, small};
use crate::conformance::number::Num;
use crate::conformance::{Case, Check, Group};

pub(super) fn groups() -> Vec<Group> {
    vec![Group { name: "long_chains", cases: chains, exchanges: false }]
}

/// Ops in a chain.
const OPS: usize = 10_000;
const N: usize = 64;

#[kernel]
fn of_a_loaded_tile(x: Ptr<f32>, out: PtrMut<f32>) {
    let mut a = x.load(iota(N));
    for i in 0..OPS / 2 {
        a = a * 0.5 + i as f32;
    }
    out.store(iota(N), a);
}

/// Nothing is loaded, so each consumer could compute it anew; and each value is used twice.
#[kernel]
fn of_a_count(out: PtrMut<i32>) {
    let mut a = iota(N);
    for i in 0..OPS / 2 {
        a = a + (a ^ i as i32);
    }
    out.store(iota(N), a);
}

#[kernel]
fn of_scalars(start: Scalar<i32>, out: PtrMut<i32>) {
    let mut a = start;
    for i in 0..OPS / 2 {
        a = a * 3 + i as i32;
    }
    out.set(0, a);
}

#[kernel]
fn of_shapes(x: Ptr<i32>, out: PtrMut<i32>) {
    let mut a = x.load(iota(N));
    for i in 0..OPS / 10 {
        a = (a.reshape([8, 8]).t() * 3 + i as i32).reshape([N]);
    }
    out.store(iota(N), a);
}

#[kernel]
fn of_addresses(x: Ptr<i32>, out: PtrMut<i32>) {
    let mut at = x;
    for _ in 0..OPS {
        at = at.add(1);
    }
    out.set(0, at.get(0));
}

fn chains() -> Vec<Case> {
    let built = |func: Result<Func, leankv_dsl::diag::Diagnostics>| func.unwrap_or_else(|e| panic!("{e}"));
    let mut rng = Rng::named("chains");
    let floats = small(Dtype::F32, N, 100, &mut rng);
    let ints = small(Dtype::I32, N, 100, &mut rng);

    let mut loaded = Case::of("loaded", built(of_a_loaded_tile::build(&OfALoadedTileSpec {})));
    let step = |a: f32, i: usize| a * 0.5 + i as f32;
    let expect: Vec<Num> =
        floats.iter().map(|x| Num::Float((0..OPS / 2).fold(x.float() as f32, step).into())).collect();
    loaded.input("x", Dtype::F32, &floats);
    loaded.expected("out", Dtype::F32, &expect, Check::Bits);

    let mut counted = Case::of("counted", built(of_a_count::build(&OfACountSpec {})));
    let step = |a: i32, i: usize| a.wrapping_add(a ^ i as i32);
    let expect: Vec<Num> = (0..N as i32).map(|x| Num::Int((0..OPS / 2).fold(x, step).into())).collect();
    counted.expected("out", Dtype::I32, &expect, Check::Bits);

    let mut scalars = Case::of("scalars", built(of_scalars::build(&OfScalarsSpec {})));
    let step = |a: i32, i: usize| a.wrapping_mul(3).wrapping_add(i as i32);
    scalars.scalar(7);
    scalars.expected("out", Dtype::I32, &[Num::Int((0..OPS / 2).fold(7, step).into())], Check::Bits);

    let mut shapes = Case::of("shapes", built(of_shapes::build(&OfShapesSpec {})));
    let mut now: Vec<i32> = ints.iter().map(|x| x.int() as i32).collect();
    for i in 0..OPS / 10 {
        now = (0..N).map(|at| step(now[at % 8 * 8 + at / 8], i)).collect();
    }
    let expect: Vec<Num> = now.into_iter().map(|x| Num::Int(x.into())).collect();
    shapes.input("x", Dtype::I32, &ints);
    shapes.expected("out", Dtype::I32, &expect, Check::Bits);

    let mut addresses = Case::of("addresses", built(of_addresses::build(&OfAddressesSpec {})));
    let far: Vec<Num> = (0..=OPS).map(|i| Num::Int(i as i128)).collect();
    addresses.input("x", Dtype::I32, &far);
    addresses.expected("out", Dtype::I32, &far[OPS..], Check::Bits);

    vec![loaded, counted, scalars, shapes, addresses]
}
