//! The next position of every request.

use leankv_dsl::lang::*;

/// Moves requests on by a token. With it a step of the same batch needs nothing from the host: positions stay on the device.
///
/// * Shapes: `positions` is `[requests]`.
/// * Grid: `[ceil(requests / block)]`.
/// * Values: every number grows by 1.
#[kernel(default(block = 128), tune(block = [32, 128, 512]), warps = 1)]
pub fn advance_positions(#[comptime] block: usize, positions: ViewMut<i32, 1>) {
    let mine = positions.tile(program_id(0), [block]);
    mine.store(mine.load() + 1);
}
