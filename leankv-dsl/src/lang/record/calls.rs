//! The calls of kernel and device functions that are under way.

use super::with;
use crate::ir::Loc;

/// Recorded loops and branches that one function may call itself through: more than any kernel nests.
const REGIONS: usize = 48;

/// Stack in bytes that the calls may take before a call of a function inside of itself is taken for endless. A thread of a test
/// has 2 MiB.
const STACK: usize = 1 << 20;

/// A call.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Where the function is written.
    function: Loc,
    /// Open regions when it was called.
    regions: usize,
}

/// The calls of a recording, innermost last.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    frames: Vec<Frame>,
    /// The address of something on the stack at the first call.
    start: usize,
}

/// A function that calls itself without end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless {
    /// The innermost loop or branch, when it calls itself through one.
    pub(crate) region: Option<Loc>,
}

/// Enters a function.
///
/// # Errors
/// It is inside of itself, through many recorded loops and branches or through much stack.
pub(crate) fn enter_call(function: Loc) -> Result<(), Endless> {
    let marker = 0u8;
    let here = std::ptr::from_ref(&marker).addr();
    with(|s| {
        let (regions, innermost) = (s.builder.depth(), s.builder.innermost());
        let calls = &mut s.calls;
        if calls.frames.is_empty() {
            calls.start = here;
        }
        let mut of_itself = calls.frames.iter().filter(|frame| frame.function == function);
        // Each call of itself that stands in more regions than the one before.
        let (through, _) = of_itself.clone().fold((0, 0), |(count, depth), frame| {
            if frame.regions > depth { (count + 1, frame.regions) } else { (count, depth) }
        });
        let region = innermost.filter(|_| through >= REGIONS).map(|inst| s.builder.inst(inst).loc);
        let deep = here.abs_diff(calls.start) > STACK && of_itself.next().is_some();
        if region.is_some() || deep {
            return Err(Endless { region });
        }
        calls.frames.push(Frame { function, regions });
        Ok(())
    })
    .unwrap_or(Ok(()))
}

/// Leaves the innermost function.
pub(crate) fn leave_call() {
    with(|s| s.calls.frames.pop());
}
