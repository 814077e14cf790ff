//! A byte budget: the tally of what thresholds would cost, and the thresholds.

use leankv_dsl::lang::attention::{Lengths, PerTier, Stock};
use leankv_dsl::lang::launch::Tensor;
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::cache::{Cache, all_layers};
use super::{RecipeError, Shapes, changed, filled};
use crate::budget::{
    BudgetGroup, BudgetSpec, Ladder, LayerRungs, MakeRoomArgs, PriceTallyArgs, SolveBudgetArgs,
    SolveBudgetSpec, TallyTokensArgs, make_room, price_tally, solve_budget, tally_tokens,
};
use crate::policy::{Counting, Peaks};
use crate::reference::{self, BudgetList, BudgetRules};

/// A cache, how far its requests are, and what plain Rust tallies.
struct Tallies {
    cache: Cache,
    layers: usize,
    kv_heads: usize,
    tokens: Vec<i32>,
    prompts: Vec<i32>,
    /// `[requests, layers, kv_heads]`: of the high and of the low list.
    tallies: Vec<[Vec<i32>; 2]>,
}

impl Tallies {
    fn new(spec: &BudgetSpec, shapes: &Shapes, seed: u64) -> Result<Tallies, RecipeError> {
        let (layers, kv_heads) = (shapes.get("layers"), shapes.get("kv_heads"));
        let lists = layers * kv_heads;
        let mut random = Generator::new(seed);
        let (d, page) = (spec.head_dim, spec.page_bytes);
        let mut cache = Cache::with(&spec.tiering, d, page, shapes, lists, 0, &mut random)?;
        let slots: Vec<usize> = cache.slots.iter().map(|&slot| slot as usize).collect();
        // Of every five requests, the fourth is left out.
        cache.slots.iter_mut().skip(3).step_by(5).for_each(|slot| *slot = -1);
        let longest = (cache.longest as i32).saturating_add(spec.window / 4 * 3);
        let tokens: Vec<i32> = (0..cache.requests as i32).map(|r| longest.saturating_add(r)).collect();
        // A prompt that just ended, one that ended before, and one none of whose queries has counted yet.
        let uncounted = i32::try_from(spec.window_q).unwrap_or(i32::MAX);
        let prompt = |(request, &tokens): (usize, &i32)| match request % 3 {
            0 => tokens,
            1 => tokens / 2,
            _ => tokens.saturating_add(uncounted),
        };
        let prompts: Vec<i32> = tokens.iter().enumerate().map(prompt).collect();
        let mut tallies = Vec::new();
        for (request, &slot) in slots.iter().enumerate() {
            let rules = BudgetRules {
                tokens: tokens[request],
                prompt: prompts[request],
                window: spec.window,
                sinks: spec.sinks,
                counting: Counting::new(spec.chunk, spec.window_q),
                peaks: Peaks::new(spec.peaks),
            };
            for list in slot * lists..(slot + 1) * lists {
                let mut both = [vec![0; Ladder::RUNGS], vec![0; Ladder::RUNGS]];
                let tiers = [Some(&cache.high), cache.low.as_ref()];
                let lengths = Lengths::get(&cache.lengths, list);
                for (tier, (tally, ids)) in both.iter_mut().zip(cache.ids(list)).enumerate() {
                    let Some(paged) = tiers[tier].filter(|_| cache.slots[request] >= 0) else { continue };
                    let frozen = lengths.frozen(tier == 1) as usize;
                    let len = lengths.tokens(tier == 1) as usize;
                    let tokens = reference::read_tokens(paged, &cache.arena, &ids, len)?;
                    *tally = BudgetList { tokens, frozen }.tally(&rules);
                }
                tallies.push(both);
            }
        }
        Ok(Tallies { cache, layers, kv_heads, tokens, prompts, tallies })
    }

    /// Extents of the tally.
    fn extents(&self) -> [usize; 5] {
        [self.cache.requests, self.layers, self.kv_heads, 2, Ladder::RUNGS]
    }

    /// The tally as the kernels know it.
    fn flat(&self) -> Vec<i32> {
        self.tallies.as_flattened().concat()
    }
}

pub(super) fn tally(spec: &BudgetSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let t = Tallies::new(spec, shapes, seed)?;
    let requests = t.cache.requests;
    let args = TallyTokensArgs {
        layers: all_layers(t.layers),
        tokens: given(&t.tokens).tensor([requests]),
        prompts: given(&t.prompts).tensor([requests]),
        kv: t.cache.layered(t.layers),
        tally: filled(-7, &t.flat(), Check::Bits).tensor_mut(t.extents()),
        codecs: (),
    };
    Ok(Workload::of::<tally_tokens<Stock>>([t.kv_heads, t.layers, requests], args))
}

/// Tokens of a request for which there is room ahead.
fn ahead(request: usize) -> i32 {
    [0, 3, 40][request % 3]
}

/// Where the thresholds of a request's layer stand.
fn stands(request: usize, layer: usize, two_tiers: bool) -> LayerRungs {
    let gap = [16, Ladder::LAST, 5][request % 3];
    LayerRungs { lift: [0, 3, -6][(request + layer) % 3], gap: if two_tiers { gap } else { 0 } }
}

impl Tallies {
    /// Tokens of a page of either tier.
    fn per_page(&self) -> [i32; 2] {
        let tiers = [&self.cache.high, self.cache.low.as_ref().unwrap_or(&self.cache.high)];
        tiers.map(|paged| paged.tokens_per_page() as i32)
    }

    /// The prices of each request, on top of `before`.
    fn prices(&self, before: i64) -> Vec<i64> {
        let mut prices = Vec::new();
        for request in 0..self.cache.requests {
            let mut of_request = vec![before; Ladder::RUNGS];
            for layer in 0..self.layers {
                let heads = &self.tallies[(request * self.layers + layer) * self.kv_heads..][..self.kv_heads];
                let how = (self.two_tiers(), stands(request, layer, self.two_tiers()));
                let of_layer = reference::price_tally(heads, self.per_page(), how, ahead(request));
                of_request.iter_mut().zip(of_layer).for_each(|(sum, price)| *sum += price);
            }
            prices.extend(of_request);
        }
        prices
    }

    fn two_tiers(&self) -> bool {
        self.cache.low.is_some()
    }

    /// Where the thresholds of all layers of all requests stand, as kernels are told.
    fn stands(&self) -> Tensor<'static, i32, 3> {
        let of = |request| {
            (0..self.layers).flat_map(move |layer| stands(request, layer, self.two_tiers()).to_row())
        };
        let all: Vec<i32> = (0..self.cache.requests).flat_map(of).collect();
        given(&all).tensor([self.cache.requests, self.layers, LayerRungs::COLUMNS])
    }
}

pub(super) fn price(spec: &BudgetSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let t = Tallies::new(spec, shapes, seed)?;
    let requests = t.cache.requests;
    // Those of other tierings.
    let before = 7;
    let given_prices = vec![before; requests * Ladder::RUNGS];
    let args = PriceTallyArgs {
        layers: all_layers(t.layers),
        more: 1,
        tally: given(&t.flat()).tensor(t.extents()),
        ahead: given(&(0..requests).map(ahead).collect::<Vec<_>>()).tensor([requests]),
        stands: t.stands(),
        prices: changed(&given_prices, &t.prices(before)).tensor_mut([requests, Ladder::RUNGS]),
        codecs: (),
    };
    Ok(Workload::of::<price_tally<Stock>>([requests, 1, 1], args))
}

pub(super) fn solve(spec: &SolveBudgetSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let [requests, layers, kv_heads] = ["requests", "layers", "kv_heads"].map(|name| shapes.get(name));
    let mut random = Generator::new(seed);
    let page_bytes = spec.page_bytes as i64;
    let mut slots: Vec<i32> = random.permutation(requests).iter().map(|&slot| slot as i32).collect();
    // Of every five requests, the fourth is left out; of three, one has a single tier.
    slots.iter_mut().skip(3).step_by(5).for_each(|slot| *slot = -1);
    let stands_of = |request: usize, layer: usize| stands(request, layer, request % 3 != 1);
    // The higher the threshold, the fewer the pages.
    let mut price = || {
        let mut left = 40 + random.below(100) as i64;
        let mut of_rung = || {
            left -= random.below(3).min(left as usize) as i64;
            left
        };
        (0..Ladder::RUNGS).map(|_| of_rung()).collect::<Vec<i64>>()
    };
    let prices: Vec<Vec<i64>> = (0..requests).map(|_| price()).collect();
    // Groups of one, two, three, ... requests.
    let (mut groups, mut budgets, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    let mut after = vec![0.125f32; requests * layers * kv_heads * 2];
    let mut rungs = vec![-1; requests];
    let mut first = 0;
    while first < requests {
        let count = (groups.len() / 2 + 1).min(requests - first);
        let members = first..first + count;
        let here: Vec<Vec<i64>> =
            members.clone().filter(|&m| slots[m] >= 0).map(|m| prices[m].clone()).collect();
        let half = here.iter().map(|price| (price[0] + price[Ladder::RUNGS - 1]) / 2).sum::<i64>();
        // Half-way between the loosest thresholds and the tightest; none; everything; nothing.
        let budget = [half * page_bytes, -1, i64::MAX, 0][groups.len() / 2 % 4];
        groups.extend(BudgetGroup { first: first as i32, count: count as i32 }.to_row());
        budgets.push(budget);
        if budget < 0 {
            pages.push(-1);
        } else {
            let (rung, taken) = reference::solve_budget(&here, page_bytes, budget);
            pages.push(taken);
            for member in members.filter(|&member| slots[member] >= 0) {
                rungs[member] = rung;
                for layer in 0..layers {
                    let PerTier { high, low } = stands_of(member, layer).of(rung);
                    let (high, low) = (Ladder::edge(high), Ladder::edge(low));
                    let first = (slots[member] as usize * layers + layer) * kv_heads;
                    (first..first + kv_heads).for_each(|list| PerTier { high, low }.put(&mut after, list));
                }
            }
        }
        first += count;
    }
    let all = (0..requests).flat_map(|request| (0..layers).map(move |layer| (request, layer)));
    let all: Vec<i32> = all.flat_map(|(request, layer)| stands_of(request, layer).to_row()).collect();
    let args = SolveBudgetArgs {
        slots: given(&slots).tensor([requests]),
        stands: given(&all).tensor([requests, layers, LayerRungs::COLUMNS]),
        prices: given(&prices.concat()).tensor([requests, Ladder::RUNGS]),
        groups: given(&groups).tensor([budgets.len(), 2]),
        budgets: given(&budgets).tensor([budgets.len()]),
        thresholds: filled(0.125, &after, Check::Bits).tensor_mut([requests, layers, kv_heads, 2]),
        pages: filled(-7, &pages, Check::Bits).tensor_mut([pages.len()]),
        rungs: filled(-7, &rungs, Check::Bits).tensor_mut([requests]),
    };
    Ok(Workload::of::<solve_budget>([budgets.len(), 1, 1], args))
}

pub(super) fn room(spec: &BudgetSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let t = Tallies::new(spec, shapes, seed)?;
    let (requests, lists) = (t.cache.requests, t.layers * t.kv_heads);
    // Where nothing was solved for, nothing is wanted; the second request has its thresholds set alone.
    let rungs: Vec<i32> = (0..requests).map(|request| [40, 52, -1, 47, 3][request % 5]).collect();
    let moving: Vec<i32> =
        (0..requests).map(|request| if request == 1 { -1 } else { t.cache.slots[request] }).collect();
    let (two_tiers, per_page) = (t.two_tiers(), t.per_page());
    let (mut targets, mut thresholds) = (Vec::new(), vec![0.125f32; requests * lists * 2]);
    for (request, &rung) in rungs.iter().enumerate() {
        for list in 0..lists {
            let mut wanted = -1;
            if let (0.., 0..) = (t.cache.slots[request], rung) {
                let head = &t.tallies[request * lists + list];
                let how = (two_tiers, stands(request, list / t.kv_heads, two_tiers));
                let (lowest, low) = reference::fill_pages(head, per_page, how, rung, ahead(request));
                let list = t.cache.slots[request] as usize * lists + list;
                thresholds[list * 2 + 1] = Ladder::edge(lowest);
                if two_tiers && moving[request] >= 0 {
                    let pages = (low as usize).div_ceil(per_page[1] as usize) as i32;
                    wanted = pages.max(PerTier::get(&t.cache.held, list).low);
                }
            }
            targets.extend([-1, wanted]);
        }
    }
    let extents = [requests, t.layers, t.kv_heads, 2];
    let args = MakeRoomArgs {
        layers: all_layers(t.layers),
        slots: given(&t.cache.slots).tensor([requests]),
        moving: given(&moving).tensor([requests]),
        rungs: given(&rungs).tensor([requests]),
        ahead: given(&(0..requests).map(ahead).collect::<Vec<_>>()).tensor([requests]),
        stands: t.stands(),
        tally: given(&t.flat()).tensor(t.extents()),
        held: given(&t.cache.held).tensor(extents),
        thresholds: filled(0.125, &thresholds, Check::Bits).tensor_mut(extents),
        targets: filled(-9, &targets, Check::Bits).tensor_mut(extents),
        codecs: (),
    };
    Ok(Workload::of::<make_room<Stock>>([t.kv_heads, t.layers, requests], args))
}
