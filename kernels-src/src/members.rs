//! The query heads of a KV head that a program works on at a time.

use leankv_dsl::format::FormatError;
use leankv_dsl::lang::*;

/// Most query heads whose rows lie in one tile; a larger group is worked on in equal parts.
const MOST: usize = 16;

/// Which time a program reads queries. Each tier has its own way to hold them; a second read, told apart from the first one by a hint, is cheaper than to hold
/// two ways at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    First,
    Again,
}

/// Some query heads of a KV head's group: all of a small one, or a part of a large one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Members<I> {
    /// Where they lie among the query heads of all KV heads.
    pub(crate) rows: I,
    /// Rows of a tile of them.
    pub(crate) count: usize,
    /// The first of a part, and the size of the group. The last part may reach beyond it, into the rows of the next KV head.
    part: Option<(Scalar<i32>, usize)>,
}

/// Parts of a group, and the query heads of each.
pub(crate) fn parts_of(group: usize) -> (usize, usize) {
    let count = group.div_ceil(group.div_ceil(MOST).max(1));
    (group.div_ceil(count.max(1)), count)
}

/// Whether attention is built for vectors of this size and so many query heads a KV head; reported at the caller's line when it is not.
#[track_caller]
pub(crate) fn possible(head_dim: usize, group: usize) -> bool {
    let number = u32::try_from(head_dim).unwrap_or(u32::MAX);
    // Rows of 16-bit numbers are read in words of 16 bytes.
    let dims = static_assert(
        head_dim.is_multiple_of(8) && (8..=512).contains(&head_dim),
        FormatError::HeadDim { head_dim: number }.to_string(),
    );
    let most = crate::MAX_GROUP;
    dims & static_assert(group <= most, format!("{group} query heads a KV head; at most {most} are possible"))
}

impl Members<Scalar<i32>> {
    /// All query heads of a group.
    pub(crate) fn all(head: Scalar<i32>, group: usize) -> Self {
        Members { rows: head, count: group, part: None }
    }
}

impl Members<At> {
    /// Part number `part` of a group.
    #[track_caller]
    pub(crate) fn part(head: Scalar<i32>, group: usize, part: Scalar<i32>) -> Self {
        let (_, count) = parts_of(group);
        let first = part * count as i32;
        Members { rows: element(head * group as i32 + first), count, part: Some((first, group)) }
    }
}

impl<I: ViewIndex> Members<I> {
    /// Their numbers in the group, `[count]`.
    #[track_caller]
    pub(crate) fn numbers(&self) -> Tile<i32, 1> {
        match self.part {
            None => iota(self.count),
            // Rows beyond the group stand for its last member: hooks see numbers that there are.
            Some((first, group)) => (iota(self.count) + first).min(group as i32 - 1),
        }
    }

    /// Which rows belong to the group; none where all do.
    #[track_caller]
    pub(crate) fn inside(&self) -> Option<Tile<bool, 1>> {
        let (first, group) = self.part.filter(|(_, group)| !group.is_multiple_of(self.count))?;
        Some((iota(self.count) + first).lt(group as i32))
    }

    /// Their rows of `[requests, query_heads, head_dim]`, `[count, head_dim]`.
    #[track_caller]
    pub(crate) fn load<E: Plain>(
        &self,
        q: View<E, 3>,
        request: Scalar<i32>,
        head_dim: usize,
        read: Read,
    ) -> Tile<E, 2> {
        let tile = q.tile((request, self.rows, 0), [1, self.count, head_dim]);
        let tile = if read == Read::Again { tile.keep() } else { tile };
        tile.load().squeeze(0)
    }

    /// As [`load`](Members::load), of a tensor of any type of floats.
    #[track_caller]
    pub(crate) fn load_floats<E: Float>(
        &self,
        q: FloatView<3>,
        request: Scalar<i32>,
        head_dim: usize,
        read: Read,
    ) -> Tile<E, 2> {
        let tile = q.tile((request, self.rows, 0), [1, self.count, head_dim]);
        let tile = if read == Read::Again { tile.keep() } else { tile };
        tile.load().squeeze(0)
    }

    /// Stores what `rows` gives, `[count, head_dim]`, as their rows of `[requests, query_heads, head_dim]`.
    #[track_caller]
    pub(crate) fn store_rows<E: Plain>(
        &self,
        to: ViewMut<E, 3>,
        request: Scalar<i32>,
        head_dim: usize,
        rows: impl FnOnce() -> Tile<E, 2>,
    ) {
        let extents = [1, self.count, head_dim];
        let to = to.tile((request, self.rows, 0), extents);
        self.store(to, rows().expand_dims(0), |inside| inside.reshape([1, self.count, 1]).broadcast(extents));
    }

    /// Stores `[count]` as their numbers of `[requests, query_heads]`.
    #[track_caller]
    pub(crate) fn store_numbers<E: Plain>(
        &self,
        to: ViewMut<E, 2>,
        request: Scalar<i32>,
        numbers: Tile<E, 1>,
    ) {
        let to = to.tile((request, self.rows), [1, self.count]);
        self.store(to, numbers.expand_dims(0), |inside| inside.expand_dims(0));
    }

    /// Stores the rows that belong to the group; `spread` brings what marks them to the tile's extents.
    #[track_caller]
    pub(crate) fn store<E: Plain, const R: usize>(
        &self,
        to: ViewTileMut<E, R>,
        value: Tile<E, R>,
        spread: impl FnOnce(Tile<bool, 1>) -> Tile<bool, R>,
    ) {
        match self.inside() {
            None => to.store(value),
            Some(inside) => to.store_masked(value, spread(inside)),
        }
    }
}
