//! Devices, kernel cache and typed launch.

pub mod cache;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tools;
