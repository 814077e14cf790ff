//! A diagnostic and a collection of them.

use std::fmt;

use super::Render;
use crate::ir::{BuildError, Loc, TypeError};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The kernel works, but probably not as meant.
    Warning,
    /// The kernel cannot be used.
    Error,
}

/// One message to the user: what is wrong, where, and what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `K0101`; `leankv explain` has a page on it.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence without a full stop, in the user's words.
    pub message: String,
    /// Places with what is to be said about each (may be empty); the first is where it went wrong, the others are context.
    pub labels: Vec<(Loc, String)>,
    /// Facts that help to understand it.
    pub notes: Vec<String>,
    /// What to do about it.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: &'static str, loc: Loc, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: vec![(loc, String::new())],
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A warning at a place.
    pub fn warning(code: &'static str, loc: Loc, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, loc, message) }
    }

    /// A broken typing rule, at the op's place.
    pub fn typing(error: &TypeError, loc: Loc) -> Diagnostic {
        let mut out = Diagnostic::error(error.code, loc, error.message.clone());
        out.help.extend(error.help.clone());
        out
    }

    /// A refusal of the builder, at the op's place.
    pub fn building(error: &BuildError, loc: Loc) -> Diagnostic {
        match error {
            BuildError::Type(error) => Diagnostic::typing(error, loc),
            BuildError::Nesting => Diagnostic::error("K0108", loc, error.to_string()),
            BuildError::OutOfRegion => Diagnostic::error("K0109", loc, error.to_string()).help(
                "carry the value out of the loop or branch: assign it to a variable declared before it",
            ),
        }
    }

    /// Says something about the main place.
    pub fn say(mut self, text: impl Into<String>) -> Diagnostic {
        if let Some((_, label)) = self.labels.first_mut() {
            *label = text.into();
        }
        self
    }

    /// Adds a place with what is to be said about it.
    pub fn label(mut self, loc: Loc, text: impl Into<String>) -> Diagnostic {
        self.labels.push((loc, text.into()));
        self
    }

    /// Adds a note.
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// Adds a help.
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help.push(text.into());
        self
    }

    /// The main place; [`Loc::unknown`] when there is none.
    pub fn loc(&self) -> Loc {
        self.labels.first().map_or(Loc::unknown(), |(loc, _)| *loc)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Render::plain().diagnostic(self))
    }
}

/// As [`Display`](fmt::Display): it is what a test or `unwrap` shows.
impl fmt::Debug for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diagnostic {}

/// Diagnostics in the order they were found.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// None yet.
    pub fn new() -> Diagnostics {
        Diagnostics::default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// The newest one, to add to it.
    pub fn last_mut(&mut self) -> Option<&mut Diagnostic> {
        self.0.last_mut()
    }

    /// Adds those of another collection.
    pub fn append(&mut self, other: Diagnostics) {
        self.0.extend(other.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// Them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// `value` when there is no error.
    ///
    /// # Errors
    /// The diagnostics, when one of them is an error. Warnings alone are dropped here: report them before.
    pub fn into_result<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.has_errors() { Err(self) } else { Ok(value) }
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Diagnostics {
        Diagnostics(vec![diagnostic])
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Diagnostics {
        Diagnostics(iter.into_iter().collect())
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, iter: I) {
        self.0.extend(iter);
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Render::plain().all(self))
    }
}

/// As [`Display`](fmt::Display): it is what a test or `unwrap` shows.
impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diagnostics {}
