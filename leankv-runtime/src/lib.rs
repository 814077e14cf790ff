//! Devices, kernel cache and typed launch.

pub mod cache;
pub mod tools;
