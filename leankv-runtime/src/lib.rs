//! Devices, kernel cache and typed launch.
