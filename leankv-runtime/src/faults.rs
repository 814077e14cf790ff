//! Faults that tests inject: a device that is lost from its n-th launch or copy on.

use std::cell::Cell;

use crate::device::DeviceError;

thread_local! {
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Launches and copies of this thread that still succeed; `None` for all.
pub(crate) fn lose_after(uses: Option<usize>) {
    LEFT.set(uses);
}

/// A launch or a copy.
pub(crate) fn hit(doing: &'static str) -> Result<(), DeviceError> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => {
            Err(DeviceError::Driver { doing, code: "a test lost the device".to_owned(), poisoned: true })
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
