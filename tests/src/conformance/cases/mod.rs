//! The cases, by kind of op.

mod atomics;
mod chains;
mod control;
mod convert;
mod dot;
mod elementwise;
mod fold;
mod memory;
mod misc;
mod packing;
mod shape;

use leankv_dsl::ir::Dtype;

use super::Group;

/// All groups: one for each op, and a few themes.
pub fn all() -> Vec<Group> {
    let parts = [
        elementwise::groups(),
        convert::groups(),
        shape::groups(),
        fold::groups(),
        dot::groups(),
        memory::groups(),
        atomics::groups(),
        packing::groups(),
        control::groups(),
        chains::groups(),
        misc::groups(),
    ];
    parts.into_iter().flatten().collect()
}

/// Shapes that element-wise ops are tried on.
pub(crate) const SHAPES: &[&[u32]] = &[
    &[],
    &[1],
    &[3],
    &[5],
    &[13],
    &[60],
    &[80],
    &[96],
    &[5, 13],
    &[16, 8],
    &[2, 3, 5],
    &[2, 3, 4, 5],
    &[1, 2, 1, 3, 2],
];

/// The number of elements of a shape.
pub(crate) fn count(extents: &[u32]) -> usize {
    extents.iter().product::<u32>() as usize
}

/// Shapes for element types other than the 32-bit ones: the kind of element and the shape hardly meet in a back end.
pub(crate) const FEW_SHAPES: &[&[u32]] = &[&[], &[3], &[5, 13], &[2, 3, 5], &[400]];

/// The shapes that an element-wise op is tried on for an element type.
pub(crate) fn shapes(dtype: Dtype) -> &'static [&'static [u32]] {
    if matches!(dtype, Dtype::I32 | Dtype::F32) { SHAPES } else { FEW_SHAPES }
}

/// The number of elements of all [`shapes`].
pub(crate) fn total(dtype: Dtype) -> usize {
    shapes(dtype).iter().map(|s| count(s)).sum()
}

/// For each of [`shapes`], where its elements start in a buffer that holds them all.
pub(crate) fn segments(dtype: Dtype) -> impl Iterator<Item = (usize, &'static [u32])> {
    shapes(dtype).iter().scan(0, |start, extents| {
        let at = *start;
        *start += count(extents);
        Some((at, *extents))
    })
}
