//! Tests of the language: what recording gives, and what it says about mistakes.

mod args;
mod control;
mod hidden;
mod mistakes;
mod ops;
mod recursion;

use crate::diag::Diagnostics;
use crate::ir::{Func, verify};

/// Checks a recorded kernel and gives its text without locations.
fn text(built: Result<Func, Diagnostics>) -> String {
    let func = built.unwrap_or_else(|found| panic!("{found}"));
    verify(&func).unwrap_or_else(|found| panic!("{found}\n{func}"));
    func.to_string()
}

/// The only diagnostic of a kernel that does not build: code, message, and the source line it points to.
fn mistake(built: Result<Func, Diagnostics>) -> (String, String, String) {
    let found = built.expect_err("the kernel has a mistake");
    assert_eq!(found.len(), 1, "one mistake gives one message:\n{found}");
    let first = found.iter().next().expect("there is one");
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../").to_owned() + first.loc().file())
            .expect("the kernel's source can be read");
    let line = source.lines().nth(first.loc().line() as usize - 1).unwrap_or_default();
    (first.code.to_owned(), first.message.clone(), line.trim().to_owned())
}
