//! Recording again: the second recording of a loop's body, and functions that call themselves.

use crate::diag::Diagnostic;
use crate::ir::{Block, Loc};
use crate::lang::record::{self, PLAIN_CHANGED, RECURSION, Region};

/// The two recordings of a loop.
///
/// A recorded body runs once for all turns of the loop. A Rust value that changes in it out of the macros' sight would change once, and the
/// kernel would be wrong without a word. So the body is recorded twice: the first is a rehearsal and taken out again, the second must come
/// out the same. Loops inside of a rehearsal are recorded once, so that a body inside of `d` loops is recorded `d + 1` times
/// and no more.
pub(crate) struct Rehearsal {
    /// Mistakes that were known before.
    mistakes: usize,
    stage: Stage,
}

enum Stage {
    /// The first recording is under way.
    First,
    /// The second is; these are the regions of the first.
    Second(Vec<Block>),
    /// There is one recording, or both are done.
    Over,
}

impl Rehearsal {
    /// Begins a loop.
    pub(crate) fn begin() -> Rehearsal {
        let stage = if record::rehearse(true) { Stage::Over } else { Stage::First };
        Rehearsal { mistakes: record::mistakes(), stage }
    }

    /// A recording ended: gives whether another one is due, for which the loop's regions were taken away. After the last one both are compared.
    pub(crate) fn again(&mut self, region: Region) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::First => {
                record::rehearse(false);
                // What is wrong is known by now; a second time would only repeat it.
                if record::mistakes() > self.mistakes {
                    return false;
                }
                self.stage = Stage::Second(record::detach(region));
                record::repeat(1);
                true
            }
            Stage::Second(first) => {
                record::repeat(-1);
                let differs = record::difference(region, &first);
                if let Some(loc) = differs.filter(|_| record::mistakes() == self.mistakes) {
                    record::report(
                        Diagnostic::error(
                            PLAIN_CHANGED,
                            loc,
                            "a Rust value changes inside this loop, which is recorded once, and this op depends on it",
                        )
                        .note("recorded a second time, the loop's body is not the same")
                        .help("assign to a `let mut` variable by its name, and make it a `Scalar` or a tile")
                        .help("if the loop is known at specialisation time, write `comptime(..)` around its range"),
                    );
                }
                false
            }
            Stage::Over => false,
        }
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        match self.stage {
            Stage::First => {
                record::rehearse(false);
            }
            Stage::Second(_) => record::repeat(-1),
            Stage::Over => {}
        }
    }
}

/// A call of a kernel or device function, until it is dropped.
#[doc(hidden)]
#[derive(Debug)]
#[must_use]
pub struct Call(());

/// Enters a kernel or device function. A function that calls itself without end while the kernel is recorded stops here, with a diagnostic.
#[doc(hidden)]
#[track_caller]
pub fn enter_call(name: &'static str) -> Call {
    let Err(endless) = record::enter_call(Loc::caller()) else { return Call(()) };
    let (message, label) = match endless.region {
        Some(_) => (
            format!(
                "`{name}` calls itself inside a loop or branch that is recorded, and recording never ends"
            ),
            "the body of a loop and both arms of a branch are recorded, whatever their condition is when the kernel runs",
        ),
        None => (
            format!("`{name}` calls itself too often while the kernel is recorded"),
            "a function is inlined wherever it is called",
        ),
    };
    let mut found = Diagnostic::error(RECURSION, Loc::caller(), message).say(label);
    if let Some(region) = endless.region {
        found = found.label(region, "the innermost loop or branch that it calls itself in");
    }
    let found = found
        .help("let a plain Rust number that is known at specialisation time end the recursion: `if comptime(depth == 0)`")
        .help("for a depth that is known when the kernel runs, write a `while` loop");
    // Recording ends here. The kernel's `record` takes the diagnostic; no message of a panic is printed.
    std::panic::resume_unwind(Box::new(found))
}

impl Drop for Call {
    fn drop(&mut self) {
        record::leave_call();
    }
}
