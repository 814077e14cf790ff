//! What the rewriting of control flow must know before it touches anything: which variables a region may change
//! ([`walk`], [`mention`]), and where control flow would leave one ([`flow`]).

pub(crate) mod flow;
mod hint;
mod mention;
pub(crate) mod scope;
pub(crate) mod walk;
