//! IR to IR transformations, one file a pass.

pub mod axis;
pub mod layout_assign;
