//! Control flow that would leave a region half recorded.

use proc_macro2::Span;
use syn::Lifetime;

use crate::error::Errors;
use crate::parse::control::Kind;

/// Something that control flow can leave or stop at.
pub(crate) enum Target {
    /// A rewritten construct.
    Region { kind: Kind, label: Option<Lifetime> },
    /// A loop or labelled block that stays plain Rust.
    Plain { label: Option<Lifetime>, is_loop: bool },
    /// A closure or async block: `return` and `?` end here.
    Function,
}

/// The targets around the cursor, innermost last.
#[derive(Default)]
pub(crate) struct Flow {
    targets: Vec<Target>,
}

const HELP_LOOP: &str = "\nhelp: a loop over values known at specialisation time may be left early when it is written \
    `for x in comptime(..)` or `while comptime(..)`; otherwise put the condition into the loop's `while`, \
    or mask the work with `select`";
const HELP_IF: &str = "\nhelp: if the condition is known at specialisation time, write `if comptime(cond)`; otherwise let both \
    arms give a value and go on, or mask the work with `select`";

impl Flow {
    pub(crate) fn push(&mut self, target: Target) {
        self.targets.push(target);
    }

    pub(crate) fn pop(&mut self) {
        self.targets.pop();
    }

    /// The innermost region that a `return` or `?` here would leave.
    fn region_left_by_return(&self) -> Option<Kind> {
        let mut targets = self.targets.iter().rev();
        targets.find_map(|target| match target {
            Target::Function => Some(None),
            Target::Region { kind, .. } => Some(Some(*kind)),
            Target::Plain { .. } => None,
        })?
    }

    /// The innermost region that a `break` or `continue` here would leave.
    fn region_left_by_jump(&self, to: Option<&Lifetime>) -> Option<Kind> {
        let mut left = None;
        for target in self.targets.iter().rev() {
            match target {
                Target::Function => return None,
                Target::Region { kind, label } => {
                    left = left.or(Some(*kind));
                    let here = match to {
                        Some(to) => label.as_ref().is_some_and(|l| l.ident == to.ident),
                        None => *kind != Kind::If,
                    };
                    if here {
                        return Some(*kind);
                    }
                }
                Target::Plain { label, is_loop } => {
                    let here = match to {
                        Some(to) => label.as_ref().is_some_and(|l| l.ident == to.ident),
                        None => *is_loop,
                    };
                    if here {
                        return left;
                    }
                }
            }
        }
        // No such label or loop: rustc says so.
        None
    }

    /// Reports a `break` or `continue` that leaves a region.
    pub(crate) fn check_jump(&self, word: &str, span: Span, to: Option<&Lifetime>, errors: &mut Errors) {
        if let Some(kind) = self.region_left_by_jump(to) {
            report(kind, &format!("`{word}`"), span, errors);
        }
    }

    /// Reports a `return` or `?` that leaves a region.
    pub(crate) fn check_return(&self, word: &str, span: Span, errors: &mut Errors) {
        if let Some(kind) = self.region_left_by_return() {
            report(kind, &format!("`{word}`"), span, errors);
        }
    }

    /// Whether any region is open here (inside of the same function).
    pub(crate) fn in_region(&self) -> bool {
        self.region_left_by_return().is_some()
    }
}

fn report(kind: Kind, word: &str, span: Span, errors: &mut Errors) {
    let (what, help) = match kind {
        Kind::If => {
            ("an `if` that may be recorded for the device, where nothing leaves an arm early", HELP_IF)
        }
        Kind::For => {
            ("a `for` that may be recorded for the device, where nothing leaves a loop early", HELP_LOOP)
        }
        Kind::While => {
            ("a `while` that may be recorded for the device, where nothing leaves a loop early", HELP_LOOP)
        }
    };
    errors.at(span, format!("{word} would leave {what}{help}"));
}
