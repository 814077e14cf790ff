//! The page manager: promises by name, and random operations on the device manager against the sequential one.
//!
//! `LEANKV_SOAK=100000 cargo test --release -p leankv-runtime --test manager p1_p2` (`make soak`) runs as many sequences.

mod common;
mod model;
mod promises;
