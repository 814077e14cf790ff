//! The cache as an engine uses it: promises by name, on the host and on devices that check every access.

mod budget;
mod common;
mod cut;
mod extents;
mod kept;
mod mixed;
mod model;
mod own;
mod own_given;
mod own_policy;
mod pressure;
mod promises;
mod prompt;
mod random;
mod safety;
mod wide_groups;
