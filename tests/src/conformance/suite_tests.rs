//! The suite must be able to fail: executors that lie, refuse and crash.

use std::collections::BTreeSet;

use super::{Case, Executor, Failure, cases, check_case, executors::Interp, random};
use crate::op_coverage;

/// Changes one bit of the last buffer of what the interpreter gives.
struct Liar;

impl Executor for Liar {
    fn name(&self) -> &'static str {
        "liar"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let mut buffers = Interp.run(case)?;
        let last = buffers.last_mut().and_then(|buffer| buffer.last_mut());
        *last.expect("each case has a buffer") ^= 1;
        Ok(buffers)
    }
}

/// Refuses everything.
struct Refuser(&'static str);

impl Executor for Refuser {
    fn name(&self) -> &'static str {
        self.0
    }

    fn run(&self, _: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        Err(Failure::Unsupported("never".into()))
    }
}

/// Runs what the table says `ptx` refuses.
struct Boaster;

impl Executor for Boaster {
    fn name(&self) -> &'static str {
        "ptx"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        Interp.run(case)
    }
}

fn group(name: &str) -> Vec<Case> {
    let group = cases::all().into_iter().find(|group| group.name == name);
    (group.expect("the group exists").cases)()
}

#[test]
fn a_wrong_bit_is_found_in_integers_and_floats() {
    for name in ["add", "select", "load_store", "dot", "transpose", "pack", "for"] {
        for case in group(name) {
            let message = check_case(&Liar, name, &case).expect_err(&case.name);
            assert!(message.contains("1 of "), "{}: {message}", case.name);
        }
    }
    for seed in 0..10 {
        assert!(check_case(&Liar, "random", &random::program(seed)).is_err(), "seed {seed}");
    }
}

#[test]
fn refusing_is_an_error_unless_the_table_says_so() {
    let print = &group("print")[0];
    let message = check_case(&Refuser("host"), "print", print).expect_err("host prints");
    assert_eq!(message, "refused, and the table does not say so: never");
    assert_eq!(check_case(&Refuser("ptx"), "print", print), Ok(()));
    assert_eq!(check_case(&Refuser("ptx_apart"), "print", print), Ok(()));
}

#[test]
fn running_what_the_table_refuses_is_an_error() {
    let message = check_case(&Boaster, "print", &group("print")[0]).expect_err("it ran");
    assert!(message.starts_with("it runs, but the table says that it cannot: "), "{message}");
}

#[test]
fn names_of_cases_and_groups_are_unique() {
    let mut groups = BTreeSet::new();
    for group in cases::all() {
        assert!(groups.insert(group.name), "two groups `{}`", group.name);
        let mut names = BTreeSet::new();
        for case in (group.cases)() {
            assert!(names.insert(case.name.clone()), "two cases `{}` in `{}`", case.name, group.name);
        }
    }
}

/// Every op of the IR stands in some case, so a new op without a case fails here.
#[test]
fn every_op_is_in_the_suite() {
    let mut seen = BTreeSet::new();
    for group in cases::all() {
        for case in (group.cases)() {
            op_coverage::meet(&case.func, &mut seen);
        }
    }
    let wanted = op_coverage::wanted();
    let missing: Vec<_> = wanted.difference(&seen).collect();
    assert!(missing.is_empty(), "ops without a case: {missing:?}");
}
