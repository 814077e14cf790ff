//! Functions that call themselves.

use super::{control::run, mistake};
use crate::lang::*;

#[device]
fn down_to_zero(n: Scalar<i32>) -> Scalar<i32> {
    if n.gt(0) { down_to_zero(n - 1) } else { n }
}

#[kernel]
fn recursion_on_a_run_time_value(n: Scalar<i32>, out: PtrMut<i32>) {
    out.set(0, down_to_zero(n));
}

#[device]
fn ping(n: Scalar<i32>, out: PtrMut<i32>) {
    for i in range(0, n) {
        pong(i, out);
    }
}

#[device]
fn pong(n: Scalar<i32>, out: PtrMut<i32>) {
    out.set(n, n);
    ping(n, out);
}

#[kernel]
fn recursion_through_another_function(n: Scalar<i32>, out: PtrMut<i32>) {
    ping(n, out);
}

#[device]
fn add_from(n: Scalar<i32>, next: u64) -> Scalar<i32> {
    if next == u64::MAX { n } else { add_from(n + 1, next + 1) }
}

#[kernel]
fn recursion_over_a_rust_value(#[comptime] depth: u64, n: Scalar<i32>, out: PtrMut<i32>) {
    out.set(0, add_from(n, u64::MAX - depth));
}

#[test]
fn recursion_that_recording_never_leaves_is_named() {
    let (code, message, line) =
        mistake(recursion_on_a_run_time_value::build(&RecursionOnARunTimeValueSpec {}));
    assert_eq!(code, "K0010");
    assert_eq!(
        message,
        "`down_to_zero` calls itself inside a loop or branch that is recorded, and recording never ends"
    );
    assert!(line.starts_with("fn down_to_zero("), "{line}");
    let (code, message, _) =
        mistake(recursion_through_another_function::build(&RecursionThroughAnotherFunctionSpec {}));
    assert_eq!(code, "K0010");
    assert!(message.starts_with("`pong` calls itself inside a loop"), "{message}");
}

#[test]
fn recursion_over_rust_values_is_unrolled_to_some_depth() {
    let build = |depth| recursion_over_a_rust_value::build(&RecursionOverARustValueSpec { depth });
    assert_eq!(run(&build(150).expect("it ends"), 7)[0], 157);
    let (code, message, line) = mistake(build(u64::MAX));
    assert_eq!(
        (&*code, &*message),
        ("K0010", "`add_from` calls itself too often while the kernel is recorded")
    );
    assert!(line.starts_with("fn add_from("), "{line}");
}
