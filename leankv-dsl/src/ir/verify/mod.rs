//! The verifier: whether a function keeps the IR's rules.
//!
//! It collects everything it finds, each with the op's place, and goes on after an error. What it accepts, every executor can
//! work on without checks of its own. Typing rules stand in [`infer`] and are asked there; here stand the rules about
//! what is visible where, about regions, parameters and access.

mod access;
mod regions;
mod signature;
#[cfg(test)]
mod tests;

use super::entity::{Block, Entity, Inst, Value};
use super::func::{Def, Func};
use super::infer;
use super::op::Op;
use super::parse::MAX_DEPTH;
use super::types::{Dtype, Type};
use crate::diag::{Diagnostic, Diagnostics};

/// A value is used where it is not computed.
pub const NOT_VISIBLE: &str = "K0201";
/// A block does not end as it should.
pub const TERMINATOR: &str = "K0202";
/// A region takes or yields the wrong values.
pub const REGION: &str = "K0203";
/// An op's result has another type than the op gives.
pub const RESULT: &str = "K0204";
/// A parameter of the kernel is not allowed.
pub const PARAMETER: &str = "K0205";
/// The kernel's name is not allowed.
pub const KERNEL_NAME: &str = "K0206";
/// Memory that is read alone is written.
pub const WRITES_READ_ONLY: &str = "K0207";
/// Memory that is written alone is read.
pub const READS_WRITE_ONLY: &str = "K0208";
/// A loop's bounds, step or stages are not allowed.
pub const LOOP: &str = "K0209";
/// The number of warps is not allowed.
pub const NUM_WARPS: &str = "K0210";
/// A region that is run once an element does more than compute.
pub const REGION_EFFECT: &str = "K0211";
/// The constraints of an `inline_ptx` do not fit it.
pub const CONSTRAINTS: &str = "K0212";
/// Ops and regions do not form a tree, or a too deep one.
pub const STRUCTURE: &str = "K0213";

/// Checks a function.
///
/// # Errors
/// Everything that is wrong, in the order of the text.
pub fn verify(func: &Func) -> Result<(), Diagnostics> {
    let mut out = Diagnostics::new();
    signature::check(func, &mut out);
    let mut verifier = Verifier {
        func,
        out,
        state: vec![State::Unseen; func.value_count()],
        block_seen: vec![false; func.block_count()],
        inst_seen: vec![false; func.inst_count()],
        sound: true,
    };
    verifier.block(func.entry(), 0, None);
    // Tracing pointers walks the function, which needs its ops to form a tree.
    if verifier.sound {
        access::check(func, &mut verifier.out);
    }
    verifier.out.into_result(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its op was not reached yet.
    Unseen,
    /// Its block encloses the current op.
    Visible,
    /// Its block is closed.
    Gone,
}

struct Verifier<'f> {
    func: &'f Func,
    out: Diagnostics,
    state: Vec<State>,
    block_seen: Vec<bool>,
    inst_seen: Vec<bool>,
    sound: bool,
}

impl Verifier<'_> {
    fn error(&mut self, code: &'static str, inst: Inst, message: impl Into<String>) -> &mut Diagnostic {
        self.out.push(Diagnostic::error(code, self.func.inst(inst).loc, message));
        self.out.last_mut().expect("one was pushed")
    }

    /// Checks a block and the regions in it. `owner` is `None` for the body.
    fn block(&mut self, block: Block, depth: usize, owner: Option<Inst>) {
        let loc = owner.map_or(self.func.loc, |inst| self.func.inst(inst).loc);
        if block.index() >= self.func.block_count()
            || std::mem::replace(&mut self.block_seen[block.index()], true)
        {
            self.sound = false;
            self.out.push(Diagnostic::error(STRUCTURE, loc, "a region belongs to two ops"));
            return;
        }
        if depth > MAX_DEPTH {
            self.sound = false;
            let message = format!("loops and branches nest more than {MAX_DEPTH} deep");
            self.out.push(Diagnostic::error(STRUCTURE, loc, message));
            return;
        }
        let func = self.func;
        let data = func.block(block);
        for &param in &data.params {
            self.state[param.index()] = State::Visible;
            self.value_type(param, loc);
        }
        for &inst in &data.insts {
            if std::mem::replace(&mut self.inst_seen[inst.index()], true) {
                self.sound = false;
                self.error(STRUCTURE, inst, "an op stands in two places");
                continue;
            }
            self.inst(inst, depth);
        }
        self.terminator(block, owner);
        let results = data.insts.iter().flat_map(|&inst| &func.inst(inst).results);
        for value in data.params.iter().chain(results) {
            self.state[value.index()] = State::Gone;
        }
    }

    fn inst(&mut self, inst: Inst, depth: usize) {
        let func = self.func;
        let data = func.inst(inst);
        let known = self.operands(inst);
        for &result in &data.results {
            self.value_type(result, data.loc);
        }
        let wanted = data.op.regions();
        if data.regions.len() != wanted {
            let message = format!("`{}` has {wanted} regions, not {}", data.op.name(), data.regions.len());
            self.error(REGION, inst, message);
        }
        // With operands that do not exist nothing can be said about types.
        if known {
            self.types(inst);
            if data.regions.len() == wanted {
                regions::check(func, inst, &mut self.out);
            }
        }
        for &region in &data.regions {
            self.block(region, depth + 1, Some(inst));
        }
        for &result in &data.results {
            self.state[result.index()] = State::Visible;
        }
    }

    /// Checks that operands are visible. Whether all exist at all.
    fn operands(&mut self, inst: Inst) -> bool {
        let func = self.func;
        let mut known = true;
        for &operand in &func.inst(inst).operands {
            let name = func.inst(inst).op.name();
            let Some(&state) = self.state.get(operand.index()) else {
                self.error(NOT_VISIBLE, inst, format!("`{name}` uses a value that nothing computes"));
                known = false;
                continue;
            };
            if state == State::Visible {
                continue;
            }
            let origin = match func.value(operand).def {
                Def::Result(def, _) => Some(def),
                Def::Param(..) => None,
            };
            let message = match state {
                State::Gone => format!("`{name}` uses {operand} outside the loop or branch that computes it"),
                _ => format!("`{name}` uses {operand} before it is computed"),
            };
            let place = origin.map(|def| (func.inst(def).loc, format!("{operand} is computed here")));
            let error = self.error(NOT_VISIBLE, inst, message);
            error.labels.extend(place);
            if state == State::Gone {
                error.help.push("carry the value out: make it a result of the loop or branch".to_owned());
            }
        }
        known
    }

    /// Asks the typing rules and compares the results.
    fn types(&mut self, inst: Inst) {
        let func = self.func;
        let data = func.inst(inst);
        let operands: Vec<&Type> = data.operands.iter().map(|&v| func.ty(v)).collect();
        let results: Vec<&Type> = data.results.iter().map(|&v| func.ty(v)).collect();
        match infer::result_types(&data.op, &operands, results.first().copied()) {
            Err(error) => self.out.push(Diagnostic::typing(&error, data.loc)),
            // Their results follow from their regions.
            Ok(_) if matches!(data.op, Op::For { .. } | Op::While | Op::If) => {}
            Ok(want) if want.iter().eq(results.iter().copied()) => {}
            Ok(want) => {
                let name = data.op.name();
                let message =
                    format!("`{name}` gives {}, not {}", type_list(want.iter()), type_list(results));
                self.error(RESULT, inst, message);
            }
        }
    }

    fn terminator(&mut self, block: Block, owner: Option<Inst>) {
        let func = self.func;
        let insts = &func.block(block).insts;
        let (wanted, place) = match owner {
            None => ("return", "the kernel's body".to_owned()),
            Some(inst) => ("yield", format!("a region of `{}`", func.inst(inst).op.name())),
        };
        for (i, &inst) in insts.iter().enumerate() {
            let op = &func.inst(inst).op;
            if op.is_terminator() && i + 1 != insts.len() {
                self.error(TERMINATOR, inst, format!("`{}` stands before the end of {place}", op.name()));
            } else if op.is_terminator() && op.name() != wanted {
                self.error(
                    TERMINATOR,
                    inst,
                    format!("{place} ends with `{wanted}`, not with `{}`", op.name()),
                );
            }
            if matches!(op, Op::Return) && !func.inst(inst).operands.is_empty() {
                self.error(TERMINATOR, inst, "`return` gives no values; a kernel stores its results");
            }
        }
        if func.terminator(block).is_none() {
            let loc = insts.last().or(owner.as_ref()).map_or(func.loc, |&inst| func.inst(inst).loc);
            self.out.push(Diagnostic::error(
                TERMINATOR,
                loc,
                format!("{place} does not end with `{wanted}`"),
            ));
        }
    }

    /// Types that no op could have made.
    fn value_type(&mut self, value: Value, loc: super::Loc) {
        if let Dtype::Code(bits) = self.func.ty(value).dtype()
            && !(1..=8).contains(&bits)
        {
            let message = format!("a code has 1 to 8 bits, not {bits}");
            self.out.push(Diagnostic::error(infer::UNSUPPORTED_ELEMENT, loc, message));
        }
    }
}

/// Types for a message: `` `f32`, `i32` ``, or `nothing`.
fn type_list<'t>(types: impl IntoIterator<Item = &'t Type>) -> String {
    let shown: Vec<String> = types.into_iter().map(|ty| format!("`{ty}`")).collect();
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") }
}
