//! The conformance suite: every op, on every executor, against the interpreter.
//!
//! * A [`Case`] is a kernel with arguments. The interpreter's outputs are checked against expectations that were found without
//!   it; every other executor's outputs against the interpreter's.
//! * What an executor cannot do is an error of its own kind, and stands in [`table`]; a case that is refused without standing
//!   there fails, and so does one that stands there and runs.
//! * Integers and single correctly rounded float ops must be equal bit for bit; sums and approximate functions within the bounds
//!   that the op list states.

pub mod case;
pub mod cases;
pub mod compare;
pub mod data;
pub mod executors;
pub mod number;
pub mod random;
#[cfg(test)]
mod suite_tests;
pub mod table;

pub use case::{Case, CaseArg, Check, K};

/// Why an executor gave no outputs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It said, by an error of its own, that it cannot run such a kernel.
    Unsupported(String),
    /// The kernel did something wrong while it ran.
    Fault(String),
    /// Anything else: a bug.
    Broken(String),
}

/// Something that runs kernels.
pub trait Executor: Sync {
    /// Its name in the names of tests and in [`table`].
    fn name(&self) -> &'static str;

    /// Runs a case and gives its buffers afterwards, inputs included.
    ///
    /// # Errors
    /// See [`Failure`].
    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure>;
}

/// Cases of one op or theme.
pub struct Group {
    /// The op's name in IR text, or the theme.
    pub name: &'static str,
    /// Makes the cases.
    pub cases: fn() -> Vec<Case>,
    /// Whether lanes of a GPU's warp depend on each other; not so for ops on each element alone.
    pub exchanges: bool,
}

/// Runs a group on an executor.
///
/// # Errors
/// What went wrong, case by case.
pub fn check_group(executor: &dyn Executor, group: &Group) -> Result<(), String> {
    let mut wrong = Vec::new();
    for case in (group.cases)() {
        if let Err(message) = check_case(executor, group.name, &case) {
            wrong.push(format!("{}: {message}", case.name));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Runs one case on an executor.
///
/// # Errors
/// What went wrong.
pub fn check_case(executor: &dyn Executor, group: &str, case: &Case) -> Result<(), String> {
    if let Err(errors) = leankv_dsl::ir::verify(&case.func) {
        return Err(format!("the verifier refuses the suite's kernel:\n{errors}"));
    }
    let reference = match executors::Interp.run(case) {
        Ok(buffers) if !case.fails => buffers,
        Err(Failure::Fault(_)) if case.fails => Vec::new(),
        Ok(_) => return Err("the interpreter ran a kernel that must fail".to_owned()),
        Err(failure) => return Err(format!("the interpreter: {failure:?}\n{}", case.func)),
    };
    let refused = table::reason(executor.name(), group, &case.name);
    let got = match (executor.run(case), refused) {
        (Ok(_), Some(reason)) => {
            return Err(format!("it runs, but the table says that it cannot: {reason}"));
        }
        (Err(Failure::Unsupported(_)), Some(_)) => return Ok(()),
        (Err(Failure::Unsupported(message)), None) => {
            return Err(format!("refused, and the table does not say so: {message}"));
        }
        (Err(Failure::Fault(_)), _) if case.fails => return Ok(()),
        (Err(failure), _) => return Err(format!("{failure:?}\n{}", case.func)),
        (Ok(_), None) if case.fails => return Err("it ran a kernel that must fail".to_owned()),
        (Ok(got), None) => got,
    };
    let mut wrong = Vec::new();
    for ((slot, got), reference) in case.buffers().zip(&got).zip(&reference) {
        let (check, want) = match &slot.output {
            Some(output) => (output.check, reference),
            None => (Check::Bits, &slot.bytes),
        };
        wrong.extend(compare::differences(&slot.name, slot.dtype, check, got, want));
        if let Some(expect) = slot.output.as_ref().and_then(|output| output.expect.as_ref()) {
            let name = format!("{} (as expected)", slot.name);
            wrong.extend(compare::differences(&name, slot.dtype, check, got, expect));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n{}", wrong.join("\n"), case.func)) }
}
