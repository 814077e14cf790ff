//! Leaving out requests that got no pages.

use leankv_dsl::lang::*;

/// The slots of the requests that go on, and -1 for those that do not: what the kernels of a step are launched with.
///
/// * Shapes: `slots` is `[requests]`, `granted` is `[requests]` as [`scan_pages`](fn@crate::manager::scan_pages) left it, `active` is
///   `[requests]`.
/// * Grid: `[ceil(requests / block)]`.
/// * Values: a step of a request that was not granted its pages changes nothing and can be made again.
#[kernel(default(block = 128), warps = 1)]
pub fn active_slots(
    #[comptime] block: usize,
    slots: View<i32, 1>,
    granted: View<i32, 1>,
    active: ViewMut<i32, 1>,
) {
    let at = program_id(0);
    let go = granted.tile(at, [block]).load().eq(1);
    active.tile(at, [block]).store(go.select(slots.tile(at, [block]).load(), -1));
}
