//! The cache as an engine uses it: promises by name, on the host and on devices that check every access.

mod common;
mod extents;
mod model;
mod own;
mod pressure;
mod promises;
mod prompt;
mod random;
