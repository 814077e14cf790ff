//! Helpers of the workspace tests.

pub mod conformance;
pub mod filetest;

#[cfg(test)]
mod op_coverage;
