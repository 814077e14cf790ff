//! IR to IR transformations, one file a pass.
//!
//! * A [`Pass`] changes a function and says whether it did; what it learns beyond the IR it leaves in the [`Facts`] for those
//!   after it.
//! * A [`Pipeline`] runs passes by order, verifies after each (always in debug builds), takes times, and hands the IR to a hook.
//! * [`standard`] is what every executor but the interpreter wants first.
//!
//! **Invariants**: a pass keeps the meaning that [`crate::ir::op`] gives, bit for bit, but for the approximate functions within their
//! documented error; the result depends on the function alone; a pass that finds nothing to do changes nothing.

pub mod axis;
mod canonicalise;
mod cse;
mod dce;
pub mod early_loads;
mod expand_quant;
pub mod layout_assign;
mod licm;
mod manager;
mod memory;
pub mod pipeline;
pub mod program_order;
pub mod shared_operands;
#[cfg(test)]
mod tests;

pub use canonicalise::Canonicalise;
pub use cse::Cse;
pub use dce::Dce;
pub use expand_quant::ExpandQuant;
pub use licm::Licm;
pub use manager::{
    Facts, Hook, Pass, PassError, PassReport, Pipeline, UnknownPass, by_name, names, standard,
};
