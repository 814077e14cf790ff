//! Pages wanted against pages held: prepare, scan, commit.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_dsl::lang::*;

use super::{Entries, wrapped};

row! {
    /// Pages that go from the ring to lists and back: counts, or places in the ring.
    pub struct Moved {
        /// Taken from the ring.
        taken,
        /// Given to it.
        given,
    }
}

/// What a rebalance does to one tier of a tile of lists.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// Pages held before.
    has: Tile<i32, 1>,
    /// Pages wanted; those held where they are left as they are.
    goal: Tile<i32, 1>,
    take: Tile<i32, 1>,
    give: Tile<i32, 1>,
}

impl Change {
    /// From targets (-1: as it is) and pages held.
    #[track_caller]
    fn new(wanted: Tile<i32, 1>, has: Tile<i32, 1>) -> Change {
        let goal = wanted.lt(0).select(has, wanted);
        let more = goal - has;
        Change { has, goal, take: more.max(0), give: (-more).max(0) }
    }
}

/// Drops the pages that lists hold beyond their targets, and counts what each list lacks.
///
/// A dropped page loses one reference. The list that drops the last one releases the page: its number stays in the table until
/// [`commit_pages`](fn@commit_pages) moves it to the ring. Where other references are left, the entry becomes -1.
///
/// * Shapes: `slots` is `[requests]`, without repetition; `targets` is `[requests, lists, 2]`, pages wanted per tier, -1 for "as it is"; `held`,
///   `table`, `refs` as in the [module](crate::manager). `offsets` is `[requests, lists, 2]`: pages that earlier lists of the tile take and
///   release; `sums` is `[requests, tiles, 2]`: what the tile takes and releases.
/// * Grid: `[tiles, requests]` with `tiles = ceil(lists / block)`.
/// * Values: a tile with a target below -1, or with more pages wanted than a row of the table has entries, takes -1: the scan refuses
///   the request.
/// * Source: LeanKV, parallel KV compaction: the planning step.
#[kernel(space(block = [256, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn prepare_pages(
    #[comptime] block: usize,
    slots: View<i32, 1>,
    targets: View<i32, 3>,
    held: View<i32, 3>,
    table: ViewMut<i32, 3>,
    refs: ViewMut<i32, 1>,
    offsets: ViewMut<i32, 3>,
    sums: ViewMut<i32, 3>,
) {
    let (tile, request) = (program_id(0), program_id(1));
    let slot = slots.get([request]);
    let list = (tile * block as i32 + iota(block)).cast::<i64>();
    let rows = slot.cast::<i64>() * table.stride(0) + list * table.stride(1);
    let table_len = table.extent(2);

    let (mut take, mut released) = (Tile::<i32, 1>::zeros([block]), Tile::<i32, 1>::zeros([block]));
    let mut wrong = Tile::<bool, 1>::full([block], false);
    let mut room = table_len.cast::<i32>().splat([block]);
    for low in [false, true] {
        let (tier, extents) = (PerTier::AT.of(low), [1, block, 1]);
        let wanted = targets.tile((request, tile, tier), extents).load_or(-1).reshape([block]);
        let has = held.tile((slot, tile, tier), extents).load().reshape([block]);
        let change = Change::new(wanted, has);
        wrong = wrong | wanted.lt(-1) | change.goal.gt(room);
        room -= change.goal;
        take += change.take;
        let entries = Entries { rows, table_len, low };
        for k in range(0, change.give.reduce_max(0)) {
            let dropped = change.give.gt(k);
            let at = entries.at(change.goal + k);
            let page = table.ptr().load_masked(at, dropped);
            let before = refs.ptr().atomic().add_masked(page, -1, dropped);
            let last = dropped & before.eq(1);
            table.ptr().store_masked(at, last.select(page, -1), dropped);
            released += last.cast::<i32>();
        }
    }
    Moved { taken: take, given: released }.store(|column, count| {
        let earlier = count.cumsum(0) - count;
        offsets.tile((request, tile, column), [1, block, 1]).store(earlier.reshape([1, block, 1]));
        sums.set([request, tile, lit(column)], count.reduce_sum(0));
    });
    if wrong.reduce_or(0) {
        sums.set([request, tile, lit(Moved::AT.taken)], -1);
    }
}

/// The lowest request of a tile whose pages do not fit any more; the tile's extent when all do.
#[track_caller]
fn first_beyond(need: Tile<i64, 1>, refused: Tile<i32, 1>, free: Scalar<i64>) -> Scalar<i32> {
    let kept = refused.eq(0).select(need, 0i64);
    let beyond = kept.cumsum(0).gt(free.splat(kept.extents()));
    let [n] = need.extents();
    beyond.select(iota(n), n as i32).reduce_min(0)
}

/// Decides, request by request in order, who gets the pages it lacks, and gives every tile its places in the ring.
///
/// A request gets all or nothing. What this rebalance releases counts as free from the next one on.
///
/// * Shapes: `sums` as [`prepare_pages`](fn@prepare_pages) left it; `cursors` is `[2]`; `bases` is `[requests, tiles, 2]`: cursor positions at
///   which a tile takes and gives; `granted` is `[requests]`: 1 granted, 0 out of pages, -1 targets that no row of the table can hold;
///   `needs` is `[requests]`: pages that the request lacked, 0 with answer -1.
/// * Grid: `[1]`.
/// * Values: a refused request does not keep later, smaller ones from being granted.
/// * Source: LeanKV, parallel KV compaction: the prefix sum; cursors on the device instead of on the host.
#[kernel(space(block = [128, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn scan_pages(
    #[comptime] block: usize,
    sums: View<i32, 3>,
    cursors: ViewMut<i64, 1>,
    bases: ViewMut<i64, 3>,
    granted: ViewMut<i32, 1>,
    needs: ViewMut<i32, 1>,
) {
    let requests = sums.extent(0).cast::<i32>();
    let tiles = sums.extent(1).cast::<i32>();
    let Moved { mut taken, mut given } = Moved::load(|column| cursors.get([lit(column)]));
    let at = Moved::AT;
    let mut free = given - taken;
    let extents = [block, 1, 1];
    for turn in range(0, requests.cdiv(block as i32)) {
        let (mut need, mut gives) = (Tile::<i64, 1>::zeros([block]), Tile::<i64, 1>::zeros([block]));
        let mut wrong = Tile::<i32, 1>::zeros([block]);
        for tile in range(0, tiles) {
            let take = sums.tile((turn, tile, at.taken), extents).load().reshape([block]);
            wrong |= take.lt(0).cast::<i32>();
            need += take.max(0).cast::<i64>();
            gives += sums.tile((turn, tile, at.given), extents).load().reshape([block]).cast::<i64>();
        }
        // Usually all fit and this turns not once.
        let mut refused = wrong;
        let mut beyond = first_beyond(need, refused, free);
        while beyond.lt(block as i32) {
            refused = iota(block).eq(beyond).select(1, refused);
            beyond = first_beyond(need, refused, free);
        }
        let takes = refused.eq(0).select(need, 0i64);
        let mut take_at = taken + (takes.cumsum(0) - takes);
        let mut give_at = given + (gives.cumsum(0) - gives);
        for tile in range(0, tiles) {
            bases.tile((turn, tile, at.taken), extents).store(take_at.reshape(extents));
            bases.tile((turn, tile, at.given), extents).store(give_at.reshape(extents));
            let take = sums.tile((turn, tile, at.taken), extents).load().reshape([block]);
            take_at += take.max(0).cast::<i64>();
            give_at += sums.tile((turn, tile, at.given), extents).load().reshape([block]).cast::<i64>();
        }
        let answer = wrong.ne(0).select(-1, 1 - refused);
        granted.tile(turn, [block]).store(answer);
        needs.tile(turn, [block]).store(wrong.ne(0).select(0, need.cast::<i32>()));
        let total = takes.reduce_sum(0);
        taken += total;
        free -= total;
        given += gives.reduce_sum(0);
    }
    Moved { taken, given }.store(|column, cursor| cursors.set([lit(column)], cursor));
}

/// Moves released pages to the ring, and pages of the ring into the lists of granted requests.
///
/// * Shapes: as [`prepare_pages`](fn@prepare_pages) and [`scan_pages`](fn@scan_pages) left them; `held`, `lengths`, `table`, `refs`, `generation` and
///   `ring` as in the [module](crate::manager).
/// * Grid: `[tiles, requests]` with `tiles = ceil(lists / block)`.
/// * Values: a taken page has one reference and the next generation. A request that was not granted takes nothing. A list
///   without pages has no tokens: its lengths become 0.
/// * Source: LeanKV, parallel KV compaction: the execution step.
#[kernel(space(block = [256, 32]), tune(block = [32, 64, 128, 256, 512]))]
pub fn commit_pages(
    #[comptime] block: usize,
    slots: View<i32, 1>,
    targets: View<i32, 3>,
    offsets: View<i32, 3>,
    bases: View<i64, 3>,
    granted: View<i32, 1>,
    held: ViewMut<i32, 3>,
    lengths: ViewMut<i32, 3>,
    table: ViewMut<i32, 3>,
    refs: ViewMut<i32, 1>,
    generation: ViewMut<i32, 1>,
    ring: ViewMut<i32, 1>,
) {
    let (tile, request) = (program_id(0), program_id(1));
    let slot = slots.get([request]);
    let list = (tile * block as i32 + iota(block)).cast::<i64>();
    let rows = slot.cast::<i64>() * table.stride(0) + list * table.stride(1);
    let table_len = table.extent(2);
    let pages = ring.extent(0);
    let takes = granted.get([request]).eq(1);
    let extents = [1, block, 1];
    let place = |column: i32| {
        let base = bases.get([request, tile, lit(column)]) % pages;
        let earlier = offsets.tile((request, tile, column), extents).load().reshape([block]);
        base + earlier.cast::<i64>()
    };
    let Moved { taken: mut take_at, given: mut give_at } = Moved::load(place);

    let changes = [false, true].map(|low| {
        let tier = PerTier::AT.of(low);
        let wanted = targets.tile((request, tile, tier), extents).load_or(-1).reshape([block]);
        let has = held.tile((slot, tile, tier), extents).load().reshape([block]);
        (low, Change::new(wanted, has))
    });
    // All that is given first: one tier may grow into entries that the other one leaves.
    for (low, change) in changes {
        let entries = Entries { rows, table_len, low };
        for k in range(0, change.give.reduce_max(0)) {
            let dropped = change.give.gt(k);
            let at = entries.at(change.goal + k);
            let page = table.ptr().load_masked(at, dropped);
            let released = dropped & page.ge(0);
            ring.ptr().store_masked(wrapped(give_at, pages), page, released);
            give_at += released.cast::<i64>();
            table.ptr().store_masked(at, -1, dropped);
        }
    }
    for (low, change) in changes {
        let entries = Entries { rows, table_len, low };
        let take = takes.splat([block]).select(change.take, 0);
        for k in range(0, take.reduce_max(0)) {
            let taken = take.gt(k);
            let page = ring.ptr().load_masked(wrapped(take_at + k.cast::<i64>(), pages), taken);
            let turns = generation.ptr().load_masked(page, taken);
            generation.ptr().store_masked(page, turns + 1, taken);
            refs.ptr().store_masked(page, 1, taken);
            table.ptr().store_masked(entries.at(change.has + k), page, taken);
        }
        take_at += take.cast::<i64>();
        let now = change.has - change.give + take;
        held.tile((slot, tile, PerTier::AT.of(low)), extents).store(now.reshape(extents));
        let empty = now.eq(0).reshape(extents);
        for column in [Lengths::AT.tokens(low), Lengths::AT.frozen(low)] {
            lengths.tile((slot, tile, column), extents).store_masked(0, empty);
        }
    }
}
