//! Every mistake that recording can find: its code, its message, its line.

// A hidden `break` looks like a loop that never loops.
#![allow(clippy::never_loop)]

use std::cell::Cell;

use super::mistake;
use crate::lang::*;

thread_local! {
    static SMUGGLED: Cell<Option<Scalar<i32>>> = const { Cell::new(None) };
}

#[kernel]
fn smuggles(out: PtrMut<i32>) {
    let one = lit(1);
    SMUGGLED.set(Some(one));
    out.set(0, one);
}

#[kernel]
fn uses_smuggled(out: PtrMut<i32>) {
    out.set(0, SMUGGLED.get().unwrap_or(lit(0)) + 1);
}

#[test]
fn a_value_of_another_kernel_is_refused() {
    smuggles::build(&SmugglesSpec {}).expect("the first kernel is fine");
    let (code, message, line) = mistake(uses_smuggled::build(&UsesSmuggledSpec {}));
    assert_eq!(code, "K0001");
    assert_eq!(message, "a value of another kernel is used here");
    assert!(line.starts_with("out.set(0, SMUGGLED"), "{line}");
}

macro_rules! stop {
    () => {
        break
    };
}

macro_rules! leave {
    () => {
        return
    };
}

macro_rules! skip {
    () => {
        continue
    };
}

#[kernel]
fn hidden_break(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    for i in range(0, n) {
        total += i;
        stop!();
    }
    out.set(0, total);
}

#[kernel]
fn hidden_continue(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    for i in range(0, n) {
        total += i;
        skip!();
    }
    out.set(0, total);
}

#[kernel]
#[allow(unreachable_code)]
fn hidden_return(n: Scalar<i32>, out: PtrMut<i32>) {
    out.set(0, n);
    if n.gt(0) {
        leave!();
    }
}

#[kernel]
fn hidden_break_of_while(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    while total.lt(n) {
        total += 1;
        stop!();
    }
    out.set(0, total);
}

#[test]
fn jumps_that_hide_in_macros_are_found() {
    let (code, message, line) = mistake(hidden_break::build(&HiddenBreakSpec {}));
    assert_eq!(code, "K0002");
    assert_eq!(message, "control flow leaves this `for` while it is recorded");
    assert_eq!(line, "for i in range(0, n) {");
    assert_eq!(mistake(hidden_continue::build(&HiddenContinueSpec {})).0, "K0002");
    let (code, message, line) = mistake(hidden_return::build(&HiddenReturnSpec {}));
    assert_eq!((&*code, &*line), ("K0002", "if n.gt(0) {"));
    assert_eq!(message, "control flow leaves this `if` while it is recorded");
    let (code, message, _) = mistake(hidden_break_of_while::build(&HiddenBreakOfWhileSpec {}));
    assert_eq!((&*code, &*message), ("K0002", "control flow leaves this `while` while it is recorded"));
}

#[kernel]
fn grows(n: Scalar<i32>, x: View<f32, 1>, out: ViewMut<f32, 1>) {
    let mut acc = Tile::<f32, 1>::zeros([16]);
    for i in range(0, n) {
        acc = acc.cat(x.tile(i, [16]).load(), 0);
    }
    out.tile(0, [16]).store(acc);
}

#[test]
fn a_carried_variable_keeps_its_extents() {
    let (code, message, line) = mistake(grows::build(&GrowsSpec {}));
    assert_eq!(code, "K0003");
    assert_eq!(message, "`acc` enters this loop as `tile<16xf32>` and leaves its body as `tile<32xf32>`");
    assert!(line.starts_with("acc = acc.cat("), "{line}");
}

macro_rules! bump {
    ($v:ident) => {
        $v += 1
    };
}

#[kernel]
fn counts_in_rust(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut turns = 0;
    for _ in range(0, n) {
        bump!(turns);
    }
    out.set(0, turns);
}

#[kernel]
fn counts_in_rust_in_a_branch(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut turns = 0;
    if n.gt(0) {
        bump!(turns);
    }
    out.set(0, turns);
}

#[derive(Carry, Clone, Copy)]
struct State {
    sum: Scalar<i32>,
    #[carry(fixed)]
    step: i32,
}

#[kernel]
fn changes_a_fixed_field(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut state = State { sum: lit(0), step: 1 };
    for i in range(0, n) {
        state.sum += i;
        state.step = 2;
    }
    out.set(0, state.sum * state.step);
}

#[kernel]
fn grows_a_vector(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut all = vec![lit(0)];
    for i in range(0, n) {
        all.push(i);
    }
    out.set(0, all[0]);
}

#[test]
fn a_plain_value_that_changes_is_found() {
    let (code, message, line) = mistake(counts_in_rust::build(&CountsInRustSpec {}));
    assert_eq!(code, "K0004");
    assert_eq!(message, "`turns` is a plain Rust value and changes inside this loop, which is recorded once");
    assert_eq!(line, "bump!(turns);");
    let branch = mistake(counts_in_rust_in_a_branch::build(&CountsInRustInABranchSpec {}));
    assert_eq!(branch.0, "K0004");
    let (code, message, _) = mistake(changes_a_fixed_field::build(&ChangesAFixedFieldSpec {}));
    assert_eq!(code, "K0004");
    assert!(message.starts_with("`state.step` is a plain Rust value"), "{message}");
    let (code, message, _) = mistake(grows_a_vector::build(&GrowsAVectorSpec {}));
    assert_eq!(code, "K0004");
    assert!(message.starts_with("`all.len()` is a plain Rust value"), "{message}");
}

#[kernel]
fn arms_differ(n: Scalar<i32>, out: ViewMut<f32, 1>) {
    let y = if n.gt(0) { Tile::<f32, 1>::zeros([16]) } else { Tile::<f32, 1>::zeros([32]) };
    out.tile(0, [16]).store(y);
}

#[kernel]
fn arms_assign_differently(n: Scalar<i32>, out: ViewMut<f32, 1>) {
    let mut y = Tile::<f32, 1>::zeros([16]);
    if n.gt(0) {
        y = Tile::<f32, 1>::zeros([32]);
    }
    out.tile(0, [16]).store(y);
}

#[test]
fn arms_of_different_extents_are_refused() {
    let (code, message, _) = mistake(arms_differ::build(&ArmsDifferSpec {}));
    assert_eq!(code, "K0005");
    assert_eq!(
        message,
        "the value of this `if` is `tile<16xf32>` after one arm of the `if` and `tile<32xf32>` after the other"
    );
    let (code, message, line) = mistake(arms_assign_differently::build(&ArmsAssignDifferentlySpec {}));
    assert_eq!(code, "K0005");
    assert!(message.starts_with("`y` is `tile<32xf32>` after one arm"), "{message}");
    assert!(line.starts_with("y = Tile::<f32, 1>::zeros([32])"), "{line}");
}

#[kernel(space(block = [128]), valid = |s| s.block % 32 == 0)]
fn picky(#[comptime] block: usize, #[comptime] depth: u8, out: ViewMut<f32, 1>) {
    static_assert(depth < 4, "a depth is below 4");
    out.tile(program_id(0), [block]).store(f32::from(depth));
}

#[test]
fn settings_that_are_no_specialisation_say_so() {
    let build = |pairs: &[(&str, &str)]| {
        let settings = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        picky::KERNEL.build(&settings)
    };
    let (code, message, _) = mistake(build(&[("block", "64"), ("dept", "1")]));
    assert_eq!(code, "K0006");
    assert_eq!(message, "`picky`: there is no field `dept`; `depth` has no value and no default");
    let (_, message, _) = mistake(build(&[("block", "many"), ("depth", "1")]));
    assert_eq!(message, "`picky`: `block=many`: invalid digit found in string");
    let (_, message, _) = mistake(build(&[("block", "33"), ("depth", "1")]));
    assert_eq!(message, "`picky` cannot be specialised for block=33,depth=1");
    let (code, message, line) = mistake(build(&[("block", "64"), ("depth", "9")]));
    assert_eq!((&*code, &*message), ("K0008", "a depth is below 4"));
    assert!(line.starts_with("static_assert("), "{line}");
    let settings = [("depth".to_owned(), "3".to_owned())].into_iter().collect();
    let func = picky::KERNEL.build(&settings).expect("`block` has a declared value");
    assert_eq!(func.spec, "block=128,depth=3");
}

#[kernel]
fn panics(#[comptime] which: usize, out: PtrMut<i32>) {
    let table = [1, 2];
    out.set(0, table[which]);
}

#[test]
fn a_panic_while_recording_is_a_diagnostic_and_the_next_kernel_is_fine() {
    let (code, message, line) = mistake(panics::build(&PanicsSpec { which: 2 }));
    assert_eq!(code, "K0007");
    assert!(message.contains("index out of bounds"), "{message}");
    assert!(line.starts_with("fn panics("), "{line}");
    panics::build(&PanicsSpec { which: 1 }).expect("the session of the panic is gone");
}

#[kernel]
fn three_mistakes(out: ViewMut<f32, 1>) {
    let a = Tile::<f32, 1>::zeros([16]);
    let row = program_id(7);
    let sum = a + Tile::<f32, 1>::zeros([32]);
    let axis = a.reduce_sum(3);
    out.tile(row, [16]).store(sum + axis);
}

#[test]
fn mistakes_are_collected_and_follow_ups_are_not_reported() {
    let found = three_mistakes::build(&ThreeMistakesSpec {}).expect_err("it has mistakes");
    let codes: Vec<&str> = found.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["K0009", "K0102", "K0104"], "{found}");
}

#[kernel]
fn escapes(n: Scalar<i32>, out: PtrMut<i32>) {
    let seen = Cell::new(lit(0));
    for i in range(0, n) {
        seen.set(i);
    }
    out.set(0, seen.get());
}

#[test]
fn a_value_that_escapes_its_loop_is_refused() {
    let (code, message, line) = mistake(escapes::build(&EscapesSpec {}));
    assert_eq!(code, "K0109");
    assert_eq!(message, "a value is used outside the loop or branch that computes it");
    assert_eq!(line, "out.set(0, seen.get());");
}

#[kernel]
fn nested_sums(#[comptime] turns: usize, n: Scalar<i32>, out: PtrMut<i32>) {
    let mut total = lit(0);
    for _ in 0..turns {
        for i in range(0, n) {
            total += i;
        }
    }
    out.set(0, total);
}

#[test]
fn kernels_record_on_many_threads_at_once() {
    let expected = super::text(nested_sums::build(&NestedSumsSpec { turns: 3 }));
    let texts: Vec<String> = std::thread::scope(|scope| {
        let spawn = || scope.spawn(|| super::text(nested_sums::build(&NestedSumsSpec { turns: 3 })));
        let threads: Vec<_> = std::iter::repeat_with(spawn).take(8).collect();
        threads.into_iter().map(|t| t.join().expect("recording does not panic")).collect()
    });
    assert!(texts.iter().all(|t| *t == expected));
}
