//! Diagnostics: codes, rendering in rustc's manner, and the text behind `explain`.
//!
//! * Whoever finds a mistake of the user makes a [`Diagnostic`] with the [`Loc`](crate::ir::Loc) of the user's line and collects it in
//!   [`Diagnostics`]; nothing stops at the first one where going on makes sense.
//! * `Display` is plain text with the source excerpt where the file can be read; [`Render`] gives colour, or texts that lie
//!   in no file.
//! * Messages speak the user's words: op names as in IR text, types as they print. Names of this crate's own types never
//!   appear in them.

mod codes;
mod diagnostic;
#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod registry_tests;
mod render;
#[cfg(test)]
mod tests;

pub use codes::{CODES, Code, INTERNAL_WORDS, explain};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use render::Render;
