//! Shape ops: no element changes, only where it lies.

use smallvec::SmallVec;

use crate::diag::Diagnostic;
use crate::ir::infer::BAD_AXIS;
use crate::ir::{Loc, Op, Type};
use crate::lang::element::Element;
use crate::lang::record;
use crate::lang::tile::{Tile, extents, iota};

/// An axis as the IR wants it; `None` (reported) when it is not below `limit`.
pub(crate) fn axis(op: &str, axis: usize, limit: usize, loc: Loc) -> Option<u8> {
    if axis < limit {
        return u8::try_from(axis).ok();
    }
    record::report(
        Diagnostic::error(BAD_AXIS, loc, format!("`{op}` along axis {axis}"))
            .help(format!("the axes here are 0 to {}", limit.saturating_sub(1))),
    );
    None
}

impl<E: Element, const R: usize> Tile<E, R> {
    /// The same elements in row-major order under another shape.
    #[track_caller]
    pub fn reshape<const N: usize>(self, to: [usize; N]) -> Tile<E, N> {
        let loc = Loc::caller();
        let (Some(to), Some(ty)) = (extents("reshape", &to, loc), record::ty(self.handle, loc)) else {
            return Tile::poison();
        };
        Tile::new(record::value(Op::Reshape, &[self.handle], Some(&Type::tile(ty.dtype(), &to)), loc))
    }

    /// All elements in one dimension.
    #[track_caller]
    pub fn ravel(self) -> Tile<E, 1> {
        let n = self.extents().iter().product();
        self.reshape([n])
    }

    /// Repeats extents of 1.
    #[track_caller]
    pub fn broadcast(self, to: [usize; R]) -> Self {
        let loc = Loc::caller();
        let (Some(to), Some(ty)) = (extents("broadcast", &to, loc), record::ty(self.handle, loc)) else {
            return Tile::poison();
        };
        let to = Type::tile(ty.dtype(), &to);
        if to == ty {
            return self;
        }
        Tile::new(record::value(Op::Broadcast, &[self.handle], Some(&to), loc))
    }

    /// Result dimension i is dimension `perm[i]`.
    #[track_caller]
    pub fn permute(self, perm: [usize; R]) -> Self {
        let loc = Loc::caller();
        let mut out = SmallVec::new();
        for &p in &perm {
            match axis("transpose", p, R, loc) {
                Some(p) => out.push(p),
                None => return Tile::poison(),
            }
        }
        Tile::new(record::value(Op::Transpose { perm: out }, &[self.handle], None, loc))
    }
}

impl<E: Element> Tile<E, 2> {
    /// Rows become columns.
    #[track_caller]
    pub fn t(self) -> Self {
        self.permute([1, 0])
    }
}

macro_rules! ranks {
    ($($rank:literal -> $up:literal)*) => {$(
        impl<E: Element> Tile<E, $rank> {
            /// Puts in a dimension of extent 1 at `axis`.
            #[track_caller]
            pub fn expand_dims(self, axis: usize) -> Tile<E, $up> {
                let loc = Loc::caller();
                match self::axis("expand_dims", axis, $up, loc) {
                    Some(axis) => Tile::new(record::value(Op::ExpandDims { axis }, &[self.handle], None, loc)),
                    None => Tile::poison(),
                }
            }

            /// A new last dimension of extent 2: this tile at 0, the other at 1.
            #[track_caller]
            pub fn join(self, other: Tile<E, $rank>) -> Tile<E, $up> {
                let loc = Loc::caller();
                Tile::new(record::value(Op::Join, &[self.handle, other.handle], None, loc))
            }
        }

        impl<E: Element> Tile<E, $up> {
            /// Takes out dimension `axis`, which has extent 1.
            #[track_caller]
            pub fn squeeze(self, axis: usize) -> Tile<E, $rank> {
                let loc = Loc::caller();
                if self::axis("squeeze", axis, $up, loc).is_none() {
                    return Tile::poison();
                }
                let mut to = [1usize; $rank];
                let rest = self.extents();
                let kept = rest.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, &e)| e);
                to.iter_mut().zip(kept).for_each(|(slot, extent)| *slot = extent);
                self.reshape(to)
            }

            /// The two halves of a last dimension of extent 2.
            #[track_caller]
            pub fn split(self) -> (Tile<E, $rank>, Tile<E, $rank>) {
                let loc = Loc::caller();
                let halves = record::ops(Op::Split, &[self.handle], None, 2, loc);
                (Tile::new(halves[0]), Tile::new(halves[1]))
            }
        }
    )*};
}
ranks!(0 -> 1 1 -> 2 2 -> 3 3 -> 4 4 -> 5);

macro_rules! joined {
    ($($rank:literal)*) => {$(
        impl<E: Element> Tile<E, $rank> {
            /// Elements of both tiles in turn along the last dimension, which doubles.
            #[track_caller]
            pub fn interleave(self, other: Self) -> Self {
                let mut to = self.extents();
                to[$rank - 1] *= 2;
                self.join(other).reshape(to)
            }

            /// This tile followed by the other along `axis`; both have the same extents.
            #[track_caller]
            pub fn cat(self, other: Self, axis: usize) -> Self {
                let loc = Loc::caller();
                if self::axis("cat", axis, $rank, loc).is_none() {
                    return Tile::poison();
                }
                let mut to = self.extents();
                to[axis] *= 2;
                // The new dimension goes before `axis`, then both become one.
                let mut perm = [0usize; $rank + 1];
                for (i, slot) in perm.iter_mut().enumerate() {
                    *slot = match i {
                        i if i < axis => i,
                        i if i == axis => $rank,
                        i => i - 1,
                    };
                }
                self.join(other).permute(perm).reshape(to)
            }
        }
    )*};
}
joined!(1 2 3 4);

impl<E: Element, const R: usize> Tile<E, R> {
    /// Along `axis`: `out[..i..] = self[..index[..i..]..]`. The other extents are equal. An index out of range is a checked error
    /// in the interpreter and undefined elsewhere.
    #[track_caller]
    pub fn gather<I: crate::lang::element::Int>(self, index: Tile<I, R>, axis: usize) -> Self {
        let loc = Loc::caller();
        match self::axis("gather", axis, R, loc) {
            Some(axis) => {
                Tile::new(record::value(Op::Gather { axis }, &[self.handle, index.handle], None, loc))
            }
            None => Tile::poison(),
        }
    }

    /// Elements `start .. start + len` along `axis`.
    #[track_caller]
    pub fn slice(self, axis: usize, start: usize, len: usize) -> Self {
        let loc = Loc::caller();
        let from = self.extents();
        if self::axis("slice", axis, R, loc).is_none() {
            return Tile::poison();
        }
        if start + len > from[axis] && !self.handle.is_poison() {
            return Tile::new(record::fail(
                Diagnostic::error(
                    record::BAD_ARGUMENT,
                    loc,
                    format!("`slice` of elements {start} to {}", start + len),
                )
                .note(format!("axis {axis} has {} elements", from[axis])),
            ));
        }
        let mut shape = [1usize; R];
        shape[axis] = len;
        let mut to = from;
        to[axis] = len;
        let index = (iota(len) + start as i32).reshape(shape).broadcast(to);
        self.gather(index, axis)
    }

    /// The elements in reverse order along `axis`.
    #[track_caller]
    pub fn flip(self, axis: usize) -> Self {
        let loc = Loc::caller();
        if self::axis("flip", axis, R, loc).is_none() {
            return Tile::poison();
        }
        let to = self.extents();
        let mut shape = [1usize; R];
        shape[axis] = to[axis];
        let index = ((to[axis] as i32 - 1) - iota(to[axis])).reshape(shape).broadcast(to);
        self.gather(index, axis)
    }
}
