//! Generic address windows. Everything below the first window is global memory.

/// Base of the shared window.
pub(crate) const SHARED: u64 = 0x7000_0000_0000;
/// Base of the local window.
pub(crate) const LOCAL: u64 = 0x6000_0000_0000;
/// Base of the parameter window.
pub(crate) const PARAM: u64 = 0x5000_0000_0000;
/// Base of the (unreadable) code window: addresses of functions.
pub(crate) const CODE: u64 = 0x4000_0000_0000;
/// Size of each window.
pub(crate) const SIZE: u64 = 0x0100_0000_0000;

/// The window an address is in, or 0 for global memory.
#[inline(always)]
pub(crate) fn of(address: u64) -> u64 {
    for base in [SHARED, LOCAL, PARAM, CODE] {
        if address.wrapping_sub(base) < SIZE {
            return base;
        }
    }
    0
}
