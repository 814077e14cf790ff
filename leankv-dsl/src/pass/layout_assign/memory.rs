//! Coalesced layouts for loads, stores and atomics.

use smallvec::SmallVec;

use crate::ir::Shape;
use crate::layout::f2::Span;
use crate::layout::{LANE_BITS, LinearLayout, blocked};
use crate::pass::axis::AccessShape;

use super::pull::dims;

/// The blocked layout with the widest vectors along the dimension that runs fastest through memory.
pub(crate) fn coalesced(shape: &Shape, access: &AccessShape, warp_bits: u32) -> LinearLayout {
    let dims = dims(shape);
    let rank = dims.len();
    let total: u32 = dims.iter().sum();
    let fastest = access.order[0];
    // Rather use all threads than give few of them wide vectors.
    let spare = total.saturating_sub(LANE_BITS as u32 + warp_bits);
    let mut per_thread: SmallVec<[u32; 5]> = SmallVec::from_elem(0, rank);
    per_thread[fastest] = u32::from(access.vector[fastest]).min(dims[fastest]).min(spare.max(1));
    let mut left: SmallVec<[u32; 5]> = dims.iter().zip(&per_thread).map(|(d, p)| d - p).collect();
    let mut spread = |count: u32, order: &mut dyn Iterator<Item = usize>| {
        let mut out: SmallVec<[u32; 5]> = SmallVec::from_elem(0, rank);
        let mut count = count;
        for axis in order {
            let take = count.min(left[axis]);
            out[axis] = take;
            left[axis] -= take;
            count -= take;
        }
        out
    };
    let lanes = spread(LANE_BITS as u32, &mut access.order.iter().copied());
    let warps = spread(warp_bits, &mut access.order.iter().rev().copied());
    blocked(&dims, &per_thread, &lanes, &warps, &access.order, warp_bits as usize)
}

/// The layout of the operands of a scan along `axis`, and of a reduction whose order matters: each thread holds a run of
/// elements next to each other, lanes follow each other, and no two warps share a row.
pub(crate) fn scan_layout(shape: &Shape, axis: usize, warp_bits: u32) -> LinearLayout {
    let dims = dims(shape);
    let rank = dims.len();
    let lanes_here = dims[axis].min(LANE_BITS as u32);
    let mut per_thread: SmallVec<[u32; 5]> = SmallVec::from_elem(0, rank);
    per_thread[axis] = dims[axis] - lanes_here;
    let order: SmallVec<[usize; 5]> =
        std::iter::once(axis).chain((0..rank).rev().filter(|&a| a != axis)).collect();
    let mut lanes: SmallVec<[u32; 5]> = SmallVec::from_elem(0, rank);
    lanes[axis] = lanes_here;
    let mut warps: SmallVec<[u32; 5]> = SmallVec::from_elem(0, rank);
    let (mut lanes_left, mut warps_left) = (LANE_BITS as u32 - lanes_here, warp_bits);
    for &a in &order[1..] {
        lanes[a] = lanes_left.min(dims[a]);
        lanes_left -= lanes[a];
        warps[a] = warps_left.min(dims[a] - lanes[a]);
        warps_left -= warps[a];
    }
    blocked(&dims, &per_thread, &lanes, &warps, &order, warp_bits as usize)
}

/// A layout for a tile that no memory access decides: rows over warps, the last dimension over lanes.
pub(crate) fn default_layout(shape: &Shape, warp_bits: u32) -> LinearLayout {
    let access = AccessShape {
        vector: SmallVec::from_elem(0, shape.rank()),
        order: (0..shape.rank()).rev().collect(),
    };
    coalesced(shape, &access, warp_bits)
}

/// log2 of the elements that one access can take when the tile has `layout`.
pub(crate) fn vector_bits(layout: &LinearLayout, access: &AccessShape) -> u32 {
    let fastest = access.order[0];
    let low = layout.shift(fastest);
    let span = Span::of(layout.registers().iter().copied());
    let others = layout.lanes().iter().chain(layout.warps()).fold(0, |a, &b| a | b);
    (0..u32::from(access.vector[fastest]))
        .take_while(|i| span.contains(1 << (low + i)) && others >> (low + i) & 1 == 0)
        .count() as u32
}
