//! Writing expansions; each file but `args` has a namesake in `parse`.

pub(crate) mod args;
pub(crate) mod control;
pub(crate) mod derive;
pub(crate) mod device;
pub(crate) mod kernel;
pub(crate) mod spec;

use proc_macro2::{Ident, Span};

/// A name of the expansion. It resolves at the attribute, so that kernels written by a user's own macro work; the calls
/// around it keep the user's spans, since ops take their location from them. Errors about it point to `at`.
pub(crate) fn own(name: &str, at: Span) -> Ident {
    Ident::new(name, Span::call_site().located_at(at))
}
