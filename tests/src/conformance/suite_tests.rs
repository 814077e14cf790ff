//! The suite must be able to fail: executors that lie, refuse and crash.

use std::collections::BTreeSet;

use super::{Case, Executor, Failure, cases, check_case, executors::Interp, random};

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
    use leankv_dsl::ir::{AtomicOp, BinaryOp, CmpOp, Combine, CombineKind, Op, UnaryOp};
    let mut seen = BTreeSet::new();
    for group in cases::all() {
        for case in (group.cases)() {
            for inst in case.func.walk() {
                let op = &case.func.inst(inst).op;
                seen.insert(match op {
                    Op::Cmp(cmp) => format!("cmp {cmp}"),
                    Op::Reduce { combine: Combine::Kind(kind), .. } => format!("reduce {kind}"),
                    Op::Scan { combine: Combine::Kind(kind), .. } => format!("scan {kind}"),
                    Op::AtomicRmw { op, .. } => format!("atomic_rmw {op}"),
                    other => other.name().to_owned(),
                });
            }
        }
    }
    let mut wanted: Vec<String> = Vec::new();
    wanted.extend(UnaryOp::ALL.iter().map(|op| op.name().to_owned()));
    wanted.extend(BinaryOp::ALL.iter().map(|op| op.name().to_owned()));
    wanted.extend(CmpOp::ALL.iter().map(|op| format!("cmp {op}")));
    wanted
        .extend(CombineKind::ALL.iter().flat_map(|kind| [format!("reduce {kind}"), format!("scan {kind}")]));
    wanted.extend(AtomicOp::ALL.iter().map(|op| format!("atomic_rmw {op}")));
    for name in [
        "program_id",
        "num_programs",
        "constant",
        "iota",
        "splat",
        "fma",
        "select",
        "cast",
        "bitcast",
        "reshape",
        "transpose",
        "expand_dims",
        "broadcast",
        "join",
        "split",
        "reduce",
        "scan",
        "dot",
        "gather",
        "ptr_cast",
        "ptr_add",
        "load",
        "store",
        "atomic_cas",
        "pack",
        "unpack",
        "quantize",
        "dequantize",
        "assert",
        "print",
        "inline_ptx",
        "for",
        "while",
        "if",
        "yield",
        "return",
        "convert_layout",
        "local_alloc",
        "async_copy",
        "async_commit",
        "async_wait",
        "local_load",
        "local_store",
        "barrier",
    ] {
        wanted.push(name.to_owned());
    }
    let missing: Vec<&String> = wanted.iter().filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "ops without a case: {missing:?}");
}
