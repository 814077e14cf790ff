//! File tests: tile IR with directives and expectations in its comments.
//!
//! The first lines of a file say what is tested, each with options:
//!
//! ```text
//! ; test parse                   the text parses and prints as in the `;>` block, or its mistakes are marked
//! ; test verify                  exactly the marked mistakes are found
//! ; test opt passes=cse,dce      the passes give the `;>` block, or what the `CHECK` lines want
//! ; test interpret               the `run` lines hold on the interpreter
//! ; test run skip=host           the `run` lines hold on every executor but those that are skipped (and must refuse)
//! ; test ptx sm=80               the PTX is as the `CHECK` lines want
//! ; test counters sm=80          what `launch` lines cost on the PTX machine is as the `CHECK` lines want
//! ```
//!
//! * A mistake is marked at the end of its line: `; error: K0101: the message`.
//! * Expected text stands at the end of the file in lines that begin with `;>`.
//! * `; CHECK: text` must be found in the output in this order; `; CHECK-NOT: text` must not stand between its neighbours; `; COUNT 2: text`
//!   counts lines. `[[R]]` stands for a word, the same one each time; `{{*}}` for anything.
//! * `; run: x=[1, 2] out=[0; 2] n=2 grid=1 == out=[2, 4]` launches the first kernel (`; run @name:` another one). A buffer is a list, a
//!   range `[0..8]`, one value `[0; 8]` or seeded numbers `[random 7; 8]`, with an element type before it where the kernel does not say it
//!   (`x=u8[..]`). What follows `==` must hold: `out~1e-6=[..]` within a tolerance, relative and absolute; `fault "text"`.
//! * `; launch: x=[0; 2] out=[0; 2] n=2 grid=1` is such a launch whose counters are asked for, one a line of the output.
//!
//! A test computes what the file should say and compares: a failure shows the difference and the command that accepts it.

mod check;
mod counters;
#[cfg(test)]
mod coverage_tests;
mod directive;
mod expect;
#[cfg(test)]
mod mutation_tests;
mod run;

use std::path::Path;

use leankv_dsl::ir::{self, Func};
use leankv_dsl::pass::{Facts, Pipeline};

use crate::conformance::Executor;

pub use directive::Header;

/// What a file should say, and what else is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// The file with the expectations that hold.
    pub text: String,
    /// What no other expectation could mend.
    pub wrong: Vec<String>,
}

/// Runs the tests of a file's text. `name` is its path below the folder of file tests.
pub fn run_text(name: &str, text: &str, executors: &[&dyn Executor]) -> Outcome {
    let mut out = Outcome { text: text.to_owned(), wrong: Vec::new() };
    let headers = directive::headers(text);
    if headers.is_empty() {
        out.wrong.push("the file does not begin with a line `; test ..`".to_owned());
    }
    for header in headers {
        let result = header.and_then(|header| one(name, &header, &mut out, executors));
        if let Err(message) = result {
            out.wrong.push(message);
        }
    }
    out
}

/// Runs a file and, when `bless` is set, writes what it should say.
///
/// # Errors
/// The difference with the command that accepts it, and everything else that is wrong.
pub fn run_file(root: &Path, name: &str, executors: &[&dyn Executor], bless: bool) -> Result<(), String> {
    let path = root.join(name);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let outcome = run_text(name, &text, executors);
    let mut wrong = outcome.wrong;
    if outcome.text != text {
        if bless {
            std::fs::write(&path, &outcome.text).map_err(|e| format!("{}: {e}", path.display()))?;
        } else {
            wrong.push(expect::difference(name, &text, &outcome.text));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn one(name: &str, header: &Header, out: &mut Outcome, executors: &[&dyn Executor]) -> Result<(), String> {
    match header.test.as_str() {
        "parse" => {
            header.allow(&[])?;
            parse_test(name, out)
        }
        "verify" => {
            header.allow(&[])?;
            verify_test(name, out)
        }
        "opt" => {
            header.allow(&["passes"])?;
            opt_test(name, header.get("passes").unwrap_or("standard"), out)
        }
        "interpret" => {
            header.allow(&[])?;
            run::interpret(&valid(name, &out.text)?, out)
        }
        "run" => {
            header.allow(&["skip"])?;
            let skip: Vec<&str> = header.get("skip").map_or(Vec::new(), |list| list.split(',').collect());
            run::run(&valid(name, &out.text)?, executors, &skip, out)
        }
        "ptx" => {
            header.allow(&["sm"])?;
            let sm = header.get("sm").ok_or("`test ptx` needs a target: `sm=80`")?;
            let ptx = run::ptx(&valid(name, &out.text)?, sm)?;
            expect::output(&ptx, out)
        }
        "counters" => {
            header.allow(&["sm"])?;
            let sm = header.get("sm").ok_or("`test counters` needs a target: `sm=80`")?;
            let counters = counters::counters(&out.text, &valid(name, &out.text)?, sm)?;
            expect::output(&counters, out)
        }
        other => Err(format!(
            "there is no test `{other}`; there are parse, verify, opt, interpret, run, ptx, counters"
        )),
    }
}

fn parse_test(name: &str, out: &mut Outcome) -> Result<(), String> {
    match ir::parse_all(name, &out.text) {
        Err(error) => {
            out.text = expect::mark(&out.text, &[(error.loc().line(), expect::error_text(&error))]);
            Ok(())
        }
        Ok(funcs) => {
            out.text = expect::mark(&out.text, &[]);
            let printed = print(&funcs);
            let again = ir::parse_all("printed", &printed)
                .map_err(|e| format!("what was printed does not parse: {e}"))?;
            if print(&again) != printed {
                return Err(format!("printing twice differs:\n{}\n{}", printed, print(&again)));
            }
            expect::output(&printed, out)
        }
    }
}

fn verify_test(name: &str, out: &mut Outcome) -> Result<(), String> {
    let funcs = ir::parse_all(name, &out.text).map_err(|e| e.to_string())?;
    let mut errors = Vec::new();
    for func in &funcs {
        if let Err(found) = ir::verify(func) {
            errors.extend(found.iter().map(|error| (error.loc().line(), expect::error_text(error))));
        }
    }
    out.text = expect::mark(&out.text, &errors);
    Ok(())
}

fn opt_test(name: &str, passes: &str, out: &mut Outcome) -> Result<(), String> {
    let mut funcs = valid(name, &out.text)?;
    for func in &mut funcs {
        let mut pipeline = Pipeline::parse(passes).map_err(|e| e.to_string())?.verify(true);
        pipeline.run(func, &mut Facts::new()).map_err(|e| e.to_string())?;
    }
    expect::output(&print(&funcs), out)
}

/// The kernels of a file, which must be valid.
fn valid(name: &str, text: &str) -> Result<Vec<Func>, String> {
    let funcs = ir::parse_all(name, text).map_err(|e| e.to_string())?;
    for func in &funcs {
        ir::verify(func).map_err(|e| e.to_string())?;
    }
    Ok(funcs)
}

fn print(funcs: &[Func]) -> String {
    let texts: Vec<String> = funcs.iter().map(Func::to_string).collect();
    texts.join("\n")
}
