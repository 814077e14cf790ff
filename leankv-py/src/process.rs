//! Forks: the threads that run kernels do not live on in them, so a launch would wait for ever.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::errors::Failure;

/// The process that had the first cache; 0 before.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// Whether kernels can run in this process.
pub(crate) fn check() -> Result<(), Failure> {
    let here = std::process::id();
    match FIRST.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed) {
        Err(first) if first != here => Err(Failure::Forked),
        _ => Ok(()),
    }
}
