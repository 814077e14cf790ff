//! Ctrl-C, for commands that have something to show for what they did so far.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C is only noted; the second ends the process as it always does.
pub(crate) fn watch() {
    #[cfg(unix)]
    {
        let handler = note as extern "C" fn(libc::c_int);
        // SAFETY: `note` does nothing but what a signal handler may: it stores to an atomic and calls `signal`.
        unsafe {
            libc::signal(libc::SIGINT, handler as libc::sighandler_t);
        }
    }
}

/// Whether there was one.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(unix)]
extern "C" fn note(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    // SAFETY: `signal` may be called in a signal handler.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL);
    }
}
