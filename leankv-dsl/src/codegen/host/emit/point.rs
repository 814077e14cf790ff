//! Coordinates of elements: of one, or of one per lane.

use super::super::build::{Build, Elem, V};
use smallvec::SmallVec;

/// A coordinate along one dimension. Values are `i64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) enum Coord {
    /// The same in all lanes.
    At {
        /// The coordinate.
        base: V,
        /// A power of two that divides it.
        align: u32,
    },
    /// `base + lane * stride`.
    Lanes {
        /// Lane 0.
        base: V,
        /// A power of two that divides the base.
        align: u32,
        /// Distance of neighbours, not 0.
        stride: i64,
    },
    /// A vector with any values.
    Each(V),
}

/// The coordinates of an element, outermost first.
pub(in super::super) type Point = SmallVec<[Coord; 5]>;

/// The largest alignment that is kept track of.
const MOST_ALIGNED: u32 = 1 << 16;

/// The power of two that divides a constant, or what is known otherwise.
fn alignment(base: V, known: u32, b: &Build<'_>) -> u32 {
    match b.as_constant(base) {
        Some(0) => MOST_ALIGNED,
        Some(value) => 1 << value.trailing_zeros().min(16),
        None => known,
    }
}

impl Coord {
    /// One coordinate for all lanes.
    pub(in super::super) fn at(base: V, b: &Build<'_>) -> Coord {
        Coord::At { base, align: alignment(base, 1, b) }
    }

    /// One coordinate for all lanes, a multiple of `align`.
    pub(in super::super) fn at_aligned(base: V, align: u32, b: &Build<'_>) -> Coord {
        Coord::At { base, align: alignment(base, align, b) }
    }

    /// `lanes` neighbours from `base`, which is a multiple of `lanes`; one lane is a plain coordinate.
    pub(in super::super) fn lanes(base: V, lanes: u32, b: &Build<'_>) -> Coord {
        let align = alignment(base, 1 << lanes.trailing_zeros(), b);
        if lanes == 1 { Coord::At { base, align } } else { Coord::Lanes { base, align, stride: 1 } }
    }

    /// Lane 0's coordinate; not for `Each`.
    pub(in super::super) fn first(self, b: &Build<'_>) -> Coord {
        match self {
            Coord::At { .. } => self,
            Coord::Lanes { base, align, .. } => Coord::At { base, align },
            Coord::Each(v) => Coord::At { base: b.lane(v, 0), align: 1 },
        }
    }

    /// One lane's coordinate.
    pub(in super::super) fn lane(self, lane: u32, b: &Build<'_>) -> Coord {
        match self {
            Coord::At { .. } => self,
            Coord::Lanes { base, stride, .. } => {
                let by = b.int(Elem::I64, 1, i64::from(lane) * stride);
                Coord::at(b.add(base, by), b)
            }
            Coord::Each(v) => Coord::at(b.lane(v, lane), b),
        }
    }

    /// The distance of neighbouring lanes, when there is one.
    pub(in super::super) fn stride(self) -> Option<i64> {
        match self {
            Coord::At { .. } => Some(0),
            Coord::Lanes { stride, .. } => Some(stride),
            Coord::Each(_) => None,
        }
    }

    /// The coordinate as a scalar (`At`) or a vector.
    pub(in super::super) fn value(self, lanes: u32, b: &Build<'_>) -> (V, u32) {
        match self {
            Coord::At { base, .. } => (base, 1),
            Coord::Lanes { base, stride, .. } => {
                let steps: Vec<i64> = (0..i64::from(lanes)).map(|lane| lane * stride).collect();
                (b.add(b.splat(base, lanes), b.ints(Elem::I64, &steps)), lanes)
            }
            Coord::Each(v) => (v, lanes),
        }
    }
}

/// Whether all coordinates are the same in all lanes.
pub(in super::super) fn is_uniform(point: &Point) -> bool {
    point.iter().all(|coord| matches!(coord, Coord::At { .. }))
}
