//! What recording does about Rust values that change while it goes on: rehearsals of loops, and texts of what variables hold.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{self, Debug};

use super::{Handle, Region, with};
use crate::ir::{Block, Entity, Func, Loc, Value};

/// Starts (`true`) or ends a rehearsal: what is recorded in it is taken out again. Gives whether one was under way; while nothing is
/// recorded, one always is.
pub(crate) fn rehearse(on: bool) -> bool {
    with(|s| std::mem::replace(&mut s.rehearsing, on)).unwrap_or(true)
}

/// Counts loops that are recorded a second time.
pub(crate) fn repeat(by: isize) {
    with(|s| s.repeated = s.repeated.saturating_add_signed(by));
}

/// The number of mistakes so far.
pub(crate) fn mistakes() -> usize {
    with(|s| s.found.len()).unwrap_or(0)
}

/// Takes an op's closed regions away, so that they can be recorded again. Values made in them are out of sight from now on.
pub(crate) fn detach(region: Region) -> Vec<Block> {
    with(|s| {
        s.detached = true;
        std::mem::take(&mut s.builder.func_mut().inst_mut(region.0).regions).into_vec()
    })
    .unwrap_or_default()
}

/// The first op of an op's regions that differs from the regions that it had before.
pub(crate) fn difference(region: Region, before: &[Block]) -> Option<Loc> {
    with(|s| {
        let func = s.builder.func();
        let mut same = HashMap::new();
        let now = func.inst(region.0).regions.iter();
        before.iter().zip(now).find_map(|(&a, &b)| differing(func, a, b, &mut same))
    })
    .flatten()
}

/// The first op of `b` that is not as in `a`. `same` has the values of `b` for those of `a`.
fn differing(func: &Func, a: Block, b: Block, same: &mut HashMap<Value, Value>) -> Option<Loc> {
    let (a, b) = (func.block(a), func.block(b));
    same.extend(a.params.iter().copied().zip(b.params.iter().copied()));
    for i in 0..a.insts.len().max(b.insts.len()) {
        let (Some(&x), Some(&y)) = (a.insts.get(i), b.insts.get(i)) else {
            return a.insts.get(i).or(b.insts.get(i)).map(|&inst| func.inst(inst).loc);
        };
        let (x, y) = (func.inst(x), func.inst(y));
        let operands = x.operands.iter().map(|v| same.get(v).unwrap_or(v)).eq(&y.operands);
        let results = x.results.iter().map(|&v| func.ty(v)).eq(y.results.iter().map(|&v| func.ty(v)));
        if x.op != y.op || !operands || !results || x.regions.len() != y.regions.len() {
            return Some(y.loc);
        }
        same.extend(x.results.iter().copied().zip(y.results.iter().copied()));
        for (&inner, &other) in x.regions.iter().zip(&y.regions) {
            if let Some(loc) = differing(func, inner, other, same) {
                return Some(loc);
            }
        }
    }
    None
}

/// A Rust value as text, with tiles and scalars by number.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) text: String,
    /// It names a value that was made in a region that is closed, or the result of an op that failed.
    pub(crate) out_of_sight: bool,
}

thread_local! {
    /// While a value is shown: whether one that is out of sight was met.
    static SHOWING: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Shows a value.
pub(crate) fn show(value: &dyn Debug) -> Shown {
    let outer = SHOWING.replace(Some(false));
    let text = format!("{value:?}");
    let out_of_sight = SHOWING.replace(outer) == Some(true);
    Shown { text, out_of_sight }
}

/// Writes a handle while a value is shown; gives whether one is.
pub(crate) fn shown(handle: Handle, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
    let hidden = SHOWING.get()?;
    let visible = with(|s| handle.session == s.id && s.builder.visible(handle.value)).unwrap_or(false);
    SHOWING.set(Some(hidden || !visible));
    Some(write!(f, "%{}", handle.value.index()))
}
