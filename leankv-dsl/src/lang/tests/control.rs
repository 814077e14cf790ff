//! Control flow: what is recorded, what stays plain Rust, what is carried. Each kernel runs on the interpreter and is
//! compared with the same computation in plain Rust.

// The kernels below write things in every way that a user might.
#![allow(clippy::assign_op_pattern, clippy::needless_return, clippy::never_loop, clippy::useless_vec)]

use crate::interp::{self, Arg, Memory, Options};
use crate::ir::{Func, Op};
use crate::lang::*;

/// Runs a kernel `(n, out)` and gives what it stored.
#[track_caller]
pub(super) fn run(func: &Func, n: i32) -> Vec<i32> {
    let mut memory = Memory::new();
    let out = memory.alloc_bytes(&[0; 64]);
    let args = [Arg::from(n), Arg::Buffer(out, 0)];
    interp::launch(func, [1, 1, 1], &args, &mut memory, &Options::default())
        .unwrap_or_else(|e| panic!("{e}\n{func}"));
    memory.bytes(out).chunks_exact(4).map(|w| i32::from_le_bytes(w.try_into().expect("4 bytes"))).collect()
}

/// The first number a kernel stores, for each n.
#[track_caller]
fn first<const N: usize>(built: Result<Func, crate::diag::Diagnostics>, inputs: [i32; N]) -> [i32; N] {
    let func = built.unwrap_or_else(|found| panic!("{found}"));
    inputs.map(|n| run(&func, n)[0])
}

fn count(func: &Func, wanted: impl Fn(&Op) -> bool) -> usize {
    func.walk().into_iter().filter(|&i| wanted(&func.inst(i).op)).count()
}

macro_rules! kernels {
    ($($name:ident / $spec:ident ($n:ident, $out:ident) $body:block)*) => {$(
        #[kernel]
        fn $name($n: Scalar<i32>, $out: PtrMut<i32>) $body
    )*};
}

// Kernels out of a user's own macro: names of the expansion resolve there too.
kernels! {
    assigned_in_a_nested_branch / AssignedInANestedBranchSpec (n, out) {
        let mut acc = lit(0);
        for i in range(0, n) {
            if (i % 2).eq(0) {
                acc = acc + i;
            }
        }
        out.set(0, acc);
    }

    assigned_in_a_nested_loop / AssignedInANestedLoopSpec (n, out) {
        let mut acc = lit(0);
        for i in range(0, n) {
            for j in range(0, i) {
                acc = acc + j;
            }
        }
        out.set(0, acc);
    }

    compound_assignment / CompoundAssignmentSpec (n, out) {
        let mut acc = lit(1);
        for i in range(0, n) {
            acc += i;
            acc *= 2;
        }
        out.set(0, acc);
    }

    shadowed / ShadowedSpec (n, out) {
        let mut acc = lit(0);
        for i in range(0, n) {
            {
                let mut acc = i;
                acc += 1;
                out.set(1, acc);
            }
            acc = acc + i;
        }
        out.set(0, acc);
    }
}

#[test]
fn the_scan_finds_what_the_naive_one_misses() {
    let sum = |n: i32| (0..n).sum::<i32>();
    let ns = [0, 1, 5];
    let build = assigned_in_a_nested_branch::build(&AssignedInANestedBranchSpec {});
    assert_eq!(first(build, ns), ns.map(|n| (0..n).filter(|i| i % 2 == 0).sum::<i32>()));
    let build = assigned_in_a_nested_loop::build(&AssignedInANestedLoopSpec {});
    assert_eq!(first(build, ns), ns.map(|n| (0..n).map(sum).sum::<i32>()));
    let build = compound_assignment::build(&CompoundAssignmentSpec {});
    assert_eq!(first(build, ns), ns.map(|n| (0..n).fold(1, |acc, i| (acc + i) * 2)));
    assert_eq!(first(shadowed::build(&ShadowedSpec {}), ns), ns.map(sum));
}

macro_rules! bump {
    ($v:ident, $by:expr) => {
        $v += $by
    };
    ($v:ident by $by:expr) => {
        $v += $by
    };
}

fn bump_by(acc: &mut Scalar<i32>, by: Scalar<i32>) {
    *acc += by;
}

#[kernel]
fn through_a_macro(n: Scalar<i32>, out: PtrMut<i32>) {
    let (mut a, mut b) = (lit(0), lit(0));
    for i in range(0, n) {
        bump!(a, i);
        bump!(b by i);
    }
    out.set(0, a + b);
}

#[kernel]
fn through_a_reference(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = lit(0);
    for i in range(0, n) {
        bump_by(&mut acc, i);
    }
    out.set(0, acc);
}

#[kernel]
fn through_a_method(n: Scalar<i32>, out: PtrMut<i32>) {
    use std::ops::AddAssign;
    let mut acc = lit(0);
    for i in range(0, n) {
        acc.add_assign(i);
    }
    out.set(0, acc);
}

#[kernel]
fn through_a_held_reference(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = lit(0);
    let held = &mut acc;
    for i in range(0, n) {
        *held += i;
    }
    out.set(0, acc);
}

#[device]
fn sum_into(acc: &mut Scalar<i32>, n: Scalar<i32>) {
    for i in range(0, n) {
        *acc += i;
    }
}

#[kernel]
fn through_a_device_function(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = lit(0);
    sum_into(&mut acc, n);
    out.set(0, acc);
}

#[derive(Clone, Copy, Carry)]
struct Running {
    sum: Scalar<i32>,
    count: Scalar<i32>,
}

#[device]
impl Running {
    fn new() -> Running {
        Running { sum: lit(0), count: lit(0) }
    }

    fn take(&mut self, x: Scalar<i32>) {
        if (x % 2).eq(1) {
            self.sum += x;
        } else {
            self.count += 1;
        }
    }

    fn take_all(&mut self, n: Scalar<i32>) {
        for i in range(0, n) {
            self.take(i);
        }
    }
}

#[kernel]
fn through_a_struct(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut running = Running::new();
    running.take_all(n);
    for i in range(0, n) {
        running.sum += i;
    }
    out.set(0, running.sum * 100 + running.count);
}

#[kernel]
fn arrays_tuples_vectors_and_options(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut array = [lit(0); 3];
    let mut pair = (lit(0), lit(1));
    let mut vector = vec![lit(0); 2];
    let mut option = Some(lit(0));
    for i in range(0, n) {
        array[2] += i;
        (pair.0, pair.1) = (pair.1, pair.0 + pair.1);
        vector[1] = vector[1] + 2 * i;
        if let Some(inner) = &mut option {
            *inner += 1;
        }
    }
    out.set(0, array[2] + pair.1 + vector[1] + option.unwrap_or(lit(-1)));
}

#[test]
fn every_way_to_change_a_variable_is_carried() {
    let ns = [0, 1, 6];
    let sum = ns.map(|n| (0..n).sum::<i32>());
    assert_eq!(first(through_a_macro::build(&ThroughAMacroSpec {}), ns), sum.map(|s| 2 * s));
    assert_eq!(first(through_a_reference::build(&ThroughAReferenceSpec {}), ns), sum);
    assert_eq!(first(through_a_method::build(&ThroughAMethodSpec {}), ns), sum);
    assert_eq!(first(through_a_held_reference::build(&ThroughAHeldReferenceSpec {}), ns), sum);
    assert_eq!(first(through_a_device_function::build(&ThroughADeviceFunctionSpec {}), ns), sum);
    let expected = ns.map(|n: i32| {
        let odd: i32 = (0..n).filter(|i| i % 2 == 1).sum();
        (odd + (0..n).sum::<i32>()) * 100 + (n + 1) / 2
    });
    assert_eq!(first(through_a_struct::build(&ThroughAStructSpec {}), ns), expected);
    let expected = ns.map(|n| {
        let mut pair = (0, 1);
        (0..n).for_each(|_| pair = (pair.1, pair.0 + pair.1));
        3 * (0..n).sum::<i32>() + pair.1 + n
    });
    let build = arrays_tuples_vectors_and_options::build(&ArraysTuplesVectorsAndOptionsSpec {});
    assert_eq!(first(build, ns), expected);
}

#[kernel]
fn collatz(n: Scalar<i32>, out: PtrMut<i32>) {
    let (mut x, mut steps) = (n, lit(0));
    while x.gt(1) {
        x = if (x % 2).eq(0) { x / 2 } else { 3 * x + 1 };
        steps += 1;
    }
    out.set(0, steps);
}

#[kernel]
fn condition_with_effects(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut x = lit(0);
    while {
        x += 3;
        x.lt(n)
    } {
        x += 1;
    }
    out.set(0, x);
}

#[kernel]
fn static_while(n: Scalar<i32>, out: PtrMut<i32>) {
    let (mut i, mut acc) = (0, n);
    while i < 3 {
        acc += i;
        i += 1;
    }
    out.set(0, acc);
}

#[test]
fn while_loops_run_their_condition_first() {
    let steps = |mut x: i32| {
        let mut steps = 0;
        while x > 1 {
            x = if x % 2 == 0 { x / 2 } else { 3 * x + 1 };
            steps += 1;
        }
        steps
    };
    let ns = [0, 1, 6, 27];
    assert_eq!(first(collatz::build(&CollatzSpec {}), ns), ns.map(steps));
    let expected = ns.map(|n| {
        let mut x = 0;
        while {
            x += 3;
            x < n
        } {
            x += 1;
        }
        x
    });
    assert_eq!(first(condition_with_effects::build(&ConditionWithEffectsSpec {}), ns), expected);
    let func = static_while::build(&StaticWhileSpec {}).expect("it is fine");
    assert_eq!(count(&func, |op| matches!(op, Op::While)), 0);
    assert_eq!(run(&func, 10)[0], 13);
}

#[kernel]
fn values_of_branches(n: Scalar<i32>, out: PtrMut<i32>) {
    let sign = if n.gt(0) {
        1 * n / n
    } else if n.eq(0) {
        lit(0)
    } else {
        lit(-1)
    };
    let (low, high) = if n.lt(10) { (n, lit(10)) } else { (lit(10), n) };
    let mut one_armed = n;
    if n.lt(0) {
        one_armed = -one_armed;
    }
    if n.eq(7) {}
    out.set(0, sign * 10000 + low * 100 + high + one_armed);
}

#[kernel]
fn plain_branches(#[comptime] flag: bool, n: Scalar<i32>, out: PtrMut<i32>) {
    let mut names = Vec::new();
    let mut scale = 1;
    if flag {
        names.push("flag");
        scale = 3;
    } else {
        names.push("none");
    }
    let chosen = if flag { "yes" } else { "no" };
    out.set(0, n * scale + (names.len() + chosen.len()) as i32);
}

#[kernel]
fn early_exit(#[comptime] flag: bool, n: Scalar<i32>, out: PtrMut<i32>) {
    if comptime(flag) {
        out.set(0, n);
        return;
    }
    let mut total = n;
    for i in comptime(0..10) {
        if comptime(i == 3) {
            break;
        }
        if comptime(i == 1) {
            continue;
        }
        total += i;
    }
    let mut turns = 0;
    loop {
        turns += 1;
        if comptime(turns == 4) {
            break;
        }
    }
    out.set(0, total * 10 + turns);
}

#[kernel]
fn arms_that_do_not_end(#[comptime] width: usize, n: Scalar<i32>, out: PtrMut<i32>) {
    if width > 8 {
        panic!("a width is at most 8");
    }
    let factor = if width > 0 { n } else { unreachable!() };
    let name = if width == 4 { "four" } else { panic!("only four has a name") };
    out.set(0, factor * name.len() as i32);
}

#[test]
fn arms_that_do_not_end_give_any_type() {
    let build = arms_that_do_not_end::build(&ArmsThatDoNotEndSpec { width: 4 });
    assert_eq!(first(build, [3]), [12]);
    for width in [0, 5, 9] {
        assert!(arms_that_do_not_end::build(&ArmsThatDoNotEndSpec { width }).is_err());
    }
}

#[test]
fn branches_merge_values_and_stay_plain_when_they_are_plain() {
    let expected = |n: i32| n.signum() * 10000 + n.min(10) * 100 + n.max(10) + n.abs();
    let ns = [-3, 0, 4, 25];
    assert_eq!(first(values_of_branches::build(&ValuesOfBranchesSpec {}), ns), ns.map(expected));
    for (flag, expected) in [(true, 3 * 5 + 4), (false, 5 + 3)] {
        let func = plain_branches::build(&PlainBranchesSpec { flag }).expect("it is fine");
        assert_eq!(count(&func, |op| matches!(op, Op::If)), 0);
        assert_eq!(run(&func, 5)[0], expected);
    }
    assert_eq!(first(early_exit::build(&EarlyExitSpec { flag: true }), [7]), [7]);
    assert_eq!(first(early_exit::build(&EarlyExitSpec { flag: false }), [7]), [94]);
}

#[kernel]
fn unchanged_variables(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = lit(0);
    let mut step = lit(2);
    let plain = vec![1, 2, 3];
    for i in range(0, n) {
        // `step` might change for all the macro can tell.
        acc += bump_nothing(&mut step) * plain.len() as i32 + i;
    }
    if n.gt(3) {
        acc += bump_nothing(&mut step);
    }
    out.set(0, acc + step);
}

fn bump_nothing(x: &mut Scalar<i32>) -> Scalar<i32> {
    *x
}

#[test]
fn variables_that_do_not_change_are_not_carried() {
    let func = unchanged_variables::build(&UnchangedVariablesSpec {}).expect("it is fine");
    for inst in func.walk() {
        let data = func.inst(inst);
        if matches!(data.op, Op::For { .. } | Op::If) {
            assert_eq!(data.results.len(), 1, "only `acc` leaves `{}`\n{func}", data.op.name());
        }
    }
    assert_eq!(run(&func, 4)[0], (0..4).map(|i| 6 + i).sum::<i32>() + 2 + 2);
}

#[kernel]
fn mut_that_is_only_read(#[comptime] width: i32, n: Scalar<i32>, out: PtrMut<i32>) {
    let mut scale = width;
    scale += 1;
    let mut text = String::from("x");
    text.push('y');
    let mut acc = lit(0);
    for i in range(0, n) {
        acc += i * scale + text.len() as i32;
    }
    if n.gt(0) {
        acc += scale;
    }
    out.set(0, acc);
}

#[test]
fn a_plain_mut_that_is_only_read_is_no_error() {
    let build = mut_that_is_only_read::build(&MutThatIsOnlyReadSpec { width: 4 });
    assert_eq!(first(build, [3]), [3 * 5 + 3 * 2 + 5]);
}

#[kernel]
fn closures_and_inner_functions(n: Scalar<i32>, out: PtrMut<i32>) {
    fn early(x: i32) -> i32 {
        if x > 2 {
            return x;
        }
        2
    }
    let twice = |x: Scalar<i32>| {
        let y = if x.gt(5) { x * 2 } else { x };
        return y + 1;
    };
    let mut acc = lit(0);
    for i in range(0, n) {
        acc += twice(i);
        for k in comptime([5, 1].iter().map(|&k| early(k))) {
            acc += k;
        }
        let found = loop {
            break early(3);
        };
        acc += found;
    }
    out.set(0, acc);
}

#[test]
fn jumps_inside_closures_functions_and_plain_loops_are_fine() {
    let expected = |n: i32| (0..n).map(|i| if i > 5 { i * 2 } else { i } + 1 + 5 + 2 + 3).sum::<i32>();
    let ns = [0, 3, 9];
    let build = closures_and_inner_functions::build(&ClosuresAndInnerFunctionsSpec {});
    assert_eq!(first(build, ns), ns.map(expected));
}

#[kernel]
fn steps_and_stages(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = lit(0);
    for i in range(1, n).step(3).stages(2) {
        acc += i;
    }
    for (i, square) in range(0, n).map(|i| (i, i * i)) {
        acc += square - i;
    }
    out.set(0, acc);
}

#[kernel]
fn matches_on_known_values(#[comptime] mode: u32, n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = n;
    match mode {
        0 => acc += 1,
        1 | 2 => {
            if n.gt(0) {
                acc *= 2;
            }
        }
        _ => acc = lit(-1),
    }
    out.set(0, acc);
}

#[test]
fn ranges_have_steps_stages_and_maps_and_match_chooses_statically() {
    let expected = |n: i32| (1..n).step_by(3).sum::<i32>() + (0..n).map(|i| i * i - i).sum::<i32>();
    let ns = [0, 1, 8];
    let func = steps_and_stages::build(&StepsAndStagesSpec {}).expect("it is fine");
    assert_eq!(ns.map(|n| run(&func, n)[0]), ns.map(expected));
    assert_eq!(count(&func, |op| matches!(op, Op::For { stages: 2 })), 1);
    for (mode, expected) in [(0, 6), (1, 10), (2, 10), (3, -1)] {
        assert_eq!(
            first(matches_on_known_values::build(&MatchesOnKnownValuesSpec { mode }), [5]),
            [expected]
        );
    }
}

#[device]
trait Weight {
    fn of(&self, i: Scalar<i32>) -> Scalar<i32> {
        if i.gt(2) { i } else { lit(0) }
    }
}

#[derive(Clone, Copy, KernelArg)]
struct ByDefault;
impl Weight for ByDefault {}

#[derive(Clone, Copy, KernelArg)]
struct Scaled {
    #[arg(multiple_of = 2)]
    by: Scalar<i32>,
}

impl Weight for Scaled {
    fn of(&self, i: Scalar<i32>) -> Scalar<i32> {
        i * self.by
    }
}

#[kernel]
fn generic<W: Weight>(weight: W, n: Scalar<i32>, out: PtrMut<i32>) {
    let mut acc = lit(0);
    for i in range(0, n) {
        acc += weight.of(i);
    }
    out.set(0, acc);
}

#[test]
fn kernels_are_generic_over_traits_with_default_bodies() {
    let plain = generic::<ByDefault>::build(&GenericSpec {}).expect("it is fine");
    assert_eq!(run(&plain, 6)[0], 3 + 4 + 5);
    let scaled = generic::<Scaled>::named("scaled");
    assert_eq!(scaled.name(), "scaled");
    let func = scaled.build(&Settings::new()).expect("it is fine");
    let names: Vec<&str> = func.params.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["weight.by", "n", "out"]);
    assert_eq!(func.params[0].multiple_of, 2);
}

#[kernel]
fn located(n: Scalar<i32>, out: PtrMut<i32>) {
    let a = n + 1;
    if a.gt(3) {
        out.set(0, a * 2);
    }
}

#[test]
fn every_op_stands_at_its_source_line() {
    let func = located::build(&LocatedSpec {}).expect("it is fine");
    let start = func.loc.line();
    let line_of = |name: &str| {
        let inst =
            func.walk().into_iter().find(|&i| func.inst(i).op.name() == name).expect("the op is there");
        func.inst(inst).loc.line() - start
    };
    assert_eq!((line_of("add"), line_of("cmp"), line_of("if")), (1, 2, 2));
    assert_eq!((line_of("mul"), line_of("store")), (3, 3));
    assert!(func.walk().into_iter().all(|i| func.inst(i).loc.file().ends_with("lang/tests/control.rs")));
}
