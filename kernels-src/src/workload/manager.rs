//! The page manager: one rebalance, launch by launch.

use leankv_dsl::lang::attention::{Lengths, PerTier};
use leankv_dsl::lang::launch::Tensor;
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::{RecipeError, Shapes, changed, filled};
use crate::manager::{
    CommitPagesArgs, CommitPagesSpec, FitPagesArgs, FitPagesSpec, PreparePagesArgs, PreparePagesSpec,
    ScanPagesArgs, ScanPagesSpec, commit_pages, fit_pages, prepare_pages, scan_pages,
};
use crate::reference::{PageShape, PageState};

/// A manager with lists that hold pages, and what a rebalance wants of it. Every page that is held has one reference, and there are
/// pages enough for everybody.
struct Rebalance {
    before: PageState,
    slots: Vec<i32>,
    /// `[requests, lists, 2]`.
    targets: Vec<i32>,
    requests: usize,
    lists: usize,
    tiles: usize,
    /// `[requests, lists, 2]`: pages that earlier lists of the tile take and release.
    offsets: Vec<i32>,
    /// `[requests, tiles, 2]`: what a tile takes and releases.
    sums: Vec<i32>,
}

/// The most pages of one tier of a list.
const MOST: usize = 3;

impl Rebalance {
    fn new(block: usize, shapes: &Shapes, seed: u64) -> Result<Rebalance, RecipeError> {
        let (requests, lists) = (shapes.get("requests"), shapes.get("lists").max(1));
        let pages = 4 * MOST * requests * lists + 1;
        let shape = PageShape { slots: requests, lists, table_len: 2 * MOST + 1, pages, page_tokens: [4, 7] };
        let mut random = Generator::new(seed);
        let mut before = PageState::new(shape);
        let slots = random.permutation(requests);
        let mut draw = |least: i32| -> Vec<i32> {
            let choices = (MOST as i32 + 1 - least) as usize;
            (0..requests * lists * 2).map(|_| random.below(choices) as i32 + least).collect()
        };
        let (first, targets) = (draw(0), draw(-1));
        before.rebalance(&slots, &first)?;
        before.lengths.iter_mut().enumerate().for_each(|(i, length)| *length = 1 + i as i32 % 7);
        // What a list without pages holds: nothing.
        for list in 0..requests * lists {
            let (held, mut lengths) = (PerTier::get(&before.held, list), Lengths::get(&before.lengths, list));
            if held.high == 0 {
                (lengths.high, lengths.frozen_high) = (0, 0);
            }
            if held.low == 0 {
                (lengths.low, lengths.frozen_low) = (0, 0);
            }
            lengths.put(&mut before.lengths, list);
        }
        let block = block.max(1);
        let (mut offsets, mut sums) = (Vec::new(), Vec::new());
        for (request, &slot) in slots.iter().enumerate() {
            let mut earlier = [0i32; 2];
            for list in 0..lists {
                if list % block == 0 && list > 0 {
                    sums.extend(std::mem::take(&mut earlier));
                }
                offsets.extend(earlier);
                for tier in 0..2 {
                    let wanted = targets[(request * lists + list) * 2 + tier];
                    let has = before.held[(slot * lists + list) * 2 + tier];
                    if wanted >= 0 {
                        earlier[0] += (wanted - has).max(0);
                        earlier[1] += (has - wanted).max(0);
                    }
                }
            }
            sums.extend(earlier);
        }
        let slots = slots.into_iter().map(|slot| slot as i32).collect();
        let tiles = lists.div_ceil(block);
        Ok(Rebalance { before, slots, targets, requests, lists, tiles, offsets, sums })
    }

    /// The state after the rebalance.
    fn after(&self) -> Result<PageState, RecipeError> {
        let slots: Vec<usize> = self.slots.iter().map(|&slot| slot as usize).collect();
        let mut after = self.before.clone();
        after.rebalance(&slots, &self.targets)?;
        Ok(after)
    }

    /// References after the pages beyond the targets were dropped, before any were taken.
    fn dropped_refs(&self) -> Vec<i32> {
        let mut refs = self.before.refs.clone();
        for (request, &slot) in self.slots.iter().enumerate() {
            for place in 0..self.lists * 2 {
                let wanted = self.targets[request * self.lists * 2 + place];
                let has = self.before.held[slot as usize * self.lists * 2 + place];
                for k in if wanted < 0 { has } else { wanted }..has {
                    let entry = self.before.entry(slot as usize, place / 2, place % 2 == 1, k as usize);
                    refs[self.before.table[entry] as usize] -= 1;
                }
            }
        }
        refs
    }

    /// Where in the ring each tile takes and gives.
    fn bases(&self) -> Vec<i64> {
        let mut at = self.before.cursors;
        let mut bases = Vec::new();
        for sums in self.sums.chunks(2) {
            bases.extend(at);
            at[0] += i64::from(sums[0]);
            at[1] += i64::from(sums[1]);
        }
        bases
    }

    fn slots(&self) -> Tensor<'static, i32, 1> {
        given(&self.slots).tensor([self.requests])
    }

    fn targets(&self) -> Tensor<'static, i32, 3> {
        given(&self.targets).tensor([self.requests, self.lists, 2])
    }
}

pub(super) fn prepare(spec: &PreparePagesSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let r = Rebalance::new(spec.block, shapes, seed)?;
    let PageShape { slots, lists, table_len, pages, .. } = r.before.shape;
    let args = PreparePagesArgs {
        slots: r.slots(),
        targets: r.targets(),
        held: given(&r.before.held).tensor([slots, lists, 2]),
        table: changed(&r.before.table, &r.before.table).tensor_mut([slots, lists, table_len]),
        refs: changed(&r.before.refs, &r.dropped_refs()).tensor_mut([pages]),
        offsets: filled(-9, &r.offsets, Check::Bits).tensor_mut([r.requests, lists, 2]),
        sums: filled(-9, &r.sums, Check::Bits).tensor_mut([r.requests, r.tiles, 2]),
    };
    Ok(Workload::of::<prepare_pages>([r.tiles, r.requests, 1], args))
}

pub(super) fn scan(_: &ScanPagesSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    // The tiles are those of the launches around it.
    let r = Rebalance::new(32, shapes, seed)?;
    let needs: Vec<i32> = r.sums.chunks(2 * r.tiles).map(|tiles| tiles.iter().step_by(2).sum()).collect();
    let args = ScanPagesArgs {
        sums: given(&r.sums).tensor([r.requests, r.tiles, 2]),
        cursors: changed(&r.before.cursors, &r.after()?.cursors).tensor_mut([2]),
        bases: filled(-9, &r.bases(), Check::Bits).tensor_mut([r.requests, r.tiles, 2]),
        granted: filled(-9, &vec![1; r.requests], Check::Bits).tensor_mut([r.requests]),
        needs: filled(-9, &needs, Check::Bits).tensor_mut([r.requests]),
    };
    Ok(Workload::of::<scan_pages>([1, 1, 1], args))
}

pub(super) fn commit(spec: &CommitPagesSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let r = Rebalance::new(spec.block, shapes, seed)?;
    let after = r.after()?;
    let PageShape { slots, lists, table_len, pages, .. } = r.before.shape;
    let args = CommitPagesArgs {
        slots: r.slots(),
        targets: r.targets(),
        offsets: given(&r.offsets).tensor([r.requests, lists, 2]),
        bases: given(&r.bases()).tensor([r.requests, r.tiles, 2]),
        granted: given(&vec![1; r.requests]).tensor([r.requests]),
        held: changed(&r.before.held, &after.held).tensor_mut([slots, lists, 2]),
        lengths: changed(&r.before.lengths, &after.lengths).tensor_mut([slots, lists, 4]),
        table: changed(&r.before.table, &after.table).tensor_mut([slots, lists, table_len]),
        refs: changed(&r.dropped_refs(), &after.refs).tensor_mut([pages]),
        generation: changed(&r.before.generation, &after.generation).tensor_mut([pages]),
        ring: changed(&r.before.ring, &after.ring).tensor_mut([pages]),
    };
    Ok(Workload::of::<commit_pages>([r.tiles, r.requests, 1], args))
}

pub(super) fn fit(spec: &FitPagesSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (requests, lists) = (shapes.get("requests"), shapes.get("lists"));
    let mut random = Generator::new(seed);
    let mut slots: Vec<i32> = random.permutation(requests).iter().map(|&slot| slot as i32).collect();
    slots.iter_mut().skip(1).step_by(3).for_each(|slot| *slot = -1);
    // Some layers have no low tier.
    let page_tokens: Vec<i32> =
        (0..requests * lists * 2).map(|place| (1 - place % 2 + random.below(9)) as i32).collect();
    let lengths: Vec<i32> = (0..requests * lists * 4).map(|_| random.below(40) as i32).collect();
    let (more, demotes) = ([3, 17], (seed % 2) as i32);
    let of_place = |slot: i32, place: usize| match usize::try_from(slot) {
        Err(_) => -1,
        Ok(slot) => {
            let (list, tier) = (place / 2, place % 2);
            let own = Lengths::get(&lengths, slot * lists + list);
            let demoted = if tier == 1 && demotes != 0 { own.tokens(false) } else { 0 };
            let tokens = own.tokens(tier == 1) + more[tier] + demoted;
            let per_page = page_tokens[(slot * lists + list) * 2 + tier];
            if per_page == 0 { 0 } else { (tokens + per_page - 1) / per_page }
        }
    };
    let targets: Vec<i32> =
        slots.iter().flat_map(|&slot| (0..lists * 2).map(move |place| of_place(slot, place))).collect();
    let args = FitPagesArgs {
        slots: given(&slots).tensor([requests]),
        more_high: more[0],
        more_low: more[1],
        demotes,
        page_tokens: given(&page_tokens).tensor([requests, lists, 2]),
        lengths: given(&lengths).tensor([requests, lists, 4]),
        targets: filled(-9, &targets, Check::Bits).tensor_mut([requests, lists, 2]),
    };
    Ok(Workload::of::<fit_pages>([lists.div_ceil(spec.block.max(1)), requests, 1], args))
}
