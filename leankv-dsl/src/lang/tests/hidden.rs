//! Changes that no assignment shows: they are carried, or found.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{control::run, mistake};
use crate::lang::*;

#[kernel]
fn local_macros(n: Scalar<i32>, out: PtrMut<i32>) {
    let (mut sum, mut last) = (lit(0), lit(-1));
    macro_rules! add {
        ($x:expr) => {
            sum += $x
        };
    }
    macro_rules! keep {
        ($x:expr) => {{
            last = $x;
            add!(0);
        }};
    }
    for i in range(0, n) {
        add!(i);
        out.set(i, sum);
    }
    if n.gt(3) {
        keep!(n);
    }
    out.set(8, last);
    while sum.lt(100) {
        add!(sum + 1);
    }
    out.set(9, sum);
}

#[test]
fn what_a_local_macro_assigns_is_carried() {
    let func = local_macros::build(&LocalMacrosSpec {}).expect("it is fine");
    let five = run(&func, 5);
    assert_eq!((&five[..5], five[8], five[9]), (&[0, 1, 3, 6, 10][..], 5, 175));
    let two = run(&func, 2);
    assert_eq!((&two[..2], two[8]), (&[0, 1][..], -1));
}

/// The code and line of a kernel's only mistake.
macro_rules! found {
    ($kernel:ident, $spec:ident) => {{
        let (code, message, line) = mistake($kernel::build(&$spec {}));
        (&*code.leak(), &*message.leak(), &*line.leak())
    }};
}

#[kernel]
fn cell_of_a_scalar(n: Scalar<i32>, out: PtrMut<i32>) {
    let sum = Cell::new(lit(0));
    for i in range(0, n) {
        sum.set(sum.get() + i);
        out.set(i, sum.get());
    }
}

#[kernel]
fn shared_cell_of_a_scalar(n: Scalar<i32>, out: PtrMut<i32>) {
    let sum = Rc::new(RefCell::new(lit(0)));
    for i in range(0, n) {
        *sum.borrow_mut() += i;
        out.set(i, *sum.borrow());
    }
}

#[kernel]
fn cell_inside_of_an_outer_loop(n: Scalar<i32>, out: PtrMut<i32>) {
    for i in range(0, n) {
        let sum = Cell::new(i);
        for j in range(0, i) {
            sum.set(sum.get() + j);
            out.set(j, sum.get());
        }
    }
}

#[kernel]
fn cell_in_a_while(n: Scalar<i32>, out: PtrMut<i32>) {
    let (mut left, sum) = (n, Cell::new(lit(0)));
    while left.gt(0) {
        left -= 1;
        sum.set(sum.get() + left);
        out.set(left, sum.get());
    }
}

#[test]
fn a_value_of_the_turn_before_is_refused() {
    let message = "a value is used outside the loop or branch that computes it";
    let cell = found!(cell_of_a_scalar, CellOfAScalarSpec);
    assert_eq!(cell, ("K0109", message, "sum.set(sum.get() + i);"));
    let shared = found!(shared_cell_of_a_scalar, SharedCellOfAScalarSpec);
    assert_eq!(shared, ("K0109", message, "*sum.borrow_mut() += i;"));
    let inner = found!(cell_inside_of_an_outer_loop, CellInsideOfAnOuterLoopSpec);
    assert_eq!(inner, ("K0109", message, "sum.set(sum.get() + j);"));
    let in_while = found!(cell_in_a_while, CellInAWhileSpec);
    assert_eq!(in_while, ("K0109", message, "sum.set(sum.get() + left);"));
    let text = cell_of_a_scalar::build(&CellOfAScalarSpec {}).expect_err("it is refused").to_string();
    assert!(text.contains("the value is one of the loop's last turn"), "{text}");
}

thread_local! {
    static TURNS: Cell<i32> = const { Cell::new(0) };
}

#[kernel]
fn counts_in_a_static(n: Scalar<i32>, out: PtrMut<i32>) {
    for i in range(0, n) {
        TURNS.set(TURNS.get() + 1);
        out.set(i, TURNS.get());
    }
}

#[kernel]
fn changes_between_outer_values(n: Scalar<i32>, out: PtrMut<i32>) {
    let (a, b) = (n + 1, n + 2);
    let now = Cell::new(a);
    for i in range(0, n) {
        out.set(i, now.get());
        now.set(b);
    }
}

trait Source {
    fn next(&self) -> i32;
}

struct Counter(Cell<i32>);

impl Source for Counter {
    fn next(&self) -> i32 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

#[device]
fn store_all<S: Source>(source: &S, n: Scalar<i32>, out: PtrMut<i32>) {
    for i in range(0, n) {
        out.set(i, source.next());
    }
}

#[kernel]
fn counts_behind_a_type_parameter(n: Scalar<i32>, out: PtrMut<i32>) {
    store_all(&Counter(Cell::new(0)), n, out);
}

#[test]
fn a_loop_that_is_not_the_same_at_its_second_turn_is_refused() {
    let message = "a Rust value changes inside this loop, which is recorded once, and this op depends on it";
    let line = found!(counts_in_a_static, CountsInAStaticSpec);
    assert_eq!(line, ("K0004", message, "out.set(i, TURNS.get());"));
    let line = found!(changes_between_outer_values, ChangesBetweenOuterValuesSpec);
    assert_eq!(line, ("K0004", message, "out.set(i, now.get());"));
    let line = found!(counts_behind_a_type_parameter, CountsBehindATypeParameterSpec);
    assert_eq!(line, ("K0004", message, "out.set(i, source.next());"));
}

#[kernel]
fn cell_of_a_number(n: Scalar<i32>, out: PtrMut<i32>) {
    let kept = Cell::new(1);
    if n.gt(100) {
        kept.set(7);
    }
    out.set(0, kept.get());
}

#[kernel]
fn cell_of_an_outer_value(n: Scalar<i32>, out: PtrMut<i32>) {
    let kept = Cell::new(n);
    let other = n * 2;
    if n.gt(100) {
        kept.set(other);
    }
    out.set(0, kept.get());
}

#[kernel]
fn cell_behind_a_closure(n: Scalar<i32>, out: PtrMut<i32>) {
    let kept = Cell::new(1);
    let set = |value| kept.set(value);
    if n.gt(100) {
        set(7);
    }
    out.set(0, kept.get());
}

#[derive(Debug)]
struct Kept {
    value: Cell<i32>,
}

impl Kept {
    fn keep(&self, value: i32) {
        self.value.set(value);
    }
}

#[kernel]
fn cell_behind_a_method(n: Scalar<i32>, out: PtrMut<i32>) {
    let kept = Kept { value: Cell::new(1) };
    if n.gt(100) {
        kept.keep(7);
    }
    out.set(0, kept.value.get());
}

#[kernel]
fn locked_number(n: Scalar<i32>, out: PtrMut<i32>) {
    let kept = Mutex::new(1);
    if n.gt(100) {
        *kept.lock().expect("nobody else holds it") = 7;
    }
    let now = *kept.lock().expect("nobody else holds it");
    out.set(0, now);
}

#[kernel]
fn atomic_number(n: Scalar<i32>, out: PtrMut<i32>) {
    let kept = Rc::new(AtomicI32::new(1));
    for _ in range(0, n) {
        kept.store(7, Ordering::Relaxed);
    }
    out.set(0, kept.load(Ordering::Relaxed));
}

fn first(of: &mut [Vec<i32>]) -> &mut Vec<i32> {
    &mut of[0]
}

#[kernel]
fn reference_from_a_function(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut all = [vec![1], vec![2]];
    let kept = first(&mut all);
    if n.gt(100) {
        kept.push(7);
    }
    out.set(0, kept.len() as i32);
}

#[test]
fn a_rust_value_that_changes_behind_a_reference_is_found() {
    let message = "`kept` holds a Rust value that changes inside this branch, which is recorded once";
    assert_eq!(found!(cell_of_a_number, CellOfANumberSpec), ("K0004", message, "kept.set(7);"));
    let outer = found!(cell_of_an_outer_value, CellOfAnOuterValueSpec);
    assert_eq!(outer, ("K0004", message, "kept.set(other);"));
    let closure = found!(cell_behind_a_closure, CellBehindAClosureSpec);
    assert_eq!(closure, ("K0004", message, "let set = |value| kept.set(value);"));
    assert_eq!(found!(cell_behind_a_method, CellBehindAMethodSpec), ("K0004", message, "kept.keep(7);"));
    let locked = found!(locked_number, LockedNumberSpec);
    assert_eq!((locked.0, locked.1), ("K0004", message));
    let reference = found!(reference_from_a_function, ReferenceFromAFunctionSpec);
    assert_eq!(reference, ("K0004", message, "kept.push(7);"));
    let atomic = found!(atomic_number, AtomicNumberSpec);
    assert_eq!((atomic.0, atomic.2), ("K0004", "kept.store(7, Ordering::Relaxed);"));
}

#[kernel]
fn cells_that_stay(n: Scalar<i32>, out: PtrMut<i32>) {
    let step = Rc::new(Cell::new(3));
    let names = Mutex::new(vec!["a", "b"]);
    let mut sum = lit(0);
    for i in range(0, n) {
        // A cell of the body's own, and one that changes where Rust runs it.
        let own = Cell::new(i);
        for t in 0..2 {
            own.set(own.get() * step.get());
            sum += own.get() + t;
        }
        if i.gt(1) {
            sum += names.lock().expect("nobody else holds it").len() as i32;
        }
    }
    step.set(0);
    out.set(0, sum + step.get());
}

#[test]
fn cells_that_do_not_change_in_a_recorded_construct_are_fine() {
    let func = cells_that_stay::build(&CellsThatStaySpec {}).expect("it is fine");
    let expected = |n: i32| (0..n).map(|i| 3 * i + 9 * i + 1 + if i > 1 { 2 } else { 0 }).sum::<i32>();
    assert_eq!([0, 2, 5].map(|n| run(&func, n)[0]), [0, 2, 5].map(expected));
}
