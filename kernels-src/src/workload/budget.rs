//! A byte budget: the tally of what thresholds would cost, and the thresholds.

use leankv_dsl::workload::{Check, Generator, Workload};

use super::cache::Cache;
use super::{RecipeError, Shapes};
use crate::budget::{BudgetSpec, Ladder};
use crate::policy::Counting;
use crate::reference::{self, BudgetList, BudgetRules};

/// A cache, how far its requests are, and what plain Rust tallies.
struct Tallies {
    cache: Cache,
    layers: usize,
    kv_heads: usize,
    /// The slot of each request, of those left out as well.
    slots: Vec<usize>,
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
            };
            for list in slot * lists..(slot + 1) * lists {
                let mut both = [vec![0; Ladder::RUNGS], vec![0; Ladder::RUNGS]];
                let tiers = [Some(&cache.high), cache.low.as_ref()];
                for (tier, (tally, ids)) in both.iter_mut().zip(cache.ids(list)).enumerate() {
                    let Some(paged) = tiers[tier].filter(|_| cache.slots[request] >= 0) else { continue };
                    let [len, frozen] =
                        [tier, tier + 2].map(|column| cache.lengths[list * 4 + column] as usize);
                    let tokens = reference::read_tokens(paged, &cache.arena, &ids, len)?;
                    *tally = BudgetList { tokens, frozen }.tally(&rules);
                }
                tallies.push(both);
            }
        }
        Ok(Tallies { cache, layers, kv_heads, slots, tokens, prompts, tallies })
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
    let (requests, expected) = (t.cache.requests, t.flat());
    let workload = Workload::new([t.kv_heads, t.layers, requests])
        .view("tokens", &t.tokens, &[requests])
        .view("prompts", &t.prompts, &[requests])
        .view("tally", &vec![-7i32; expected.len()], &t.extents())
        .output("tally", Check::Bits)
        .expect("tally", &expected, Check::Bits);
    Ok(t.cache.layered(workload, t.layers))
}

pub(super) fn solve(spec: &BudgetSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let t = Tallies::new(spec, shapes, seed)?;
    let (requests, lists) = (t.cache.requests, t.layers * t.kv_heads);
    let low = t.cache.low.as_ref();
    let per_page = [&t.cache.high, low.unwrap_or(&t.cache.high)].map(|paged| paged.tokens_per_page() as i32);
    let gap = if low.is_some() { spec.gap } else { 0 };
    let page_bytes = spec.page_bytes as i64;
    // No budget, which leaves the thresholds as they are.
    let none = -1i64;
    let (mut budgets, mut pages) = (Vec::new(), Vec::new());
    let mut after = vec![0.125f32; requests * lists * 2];
    for request in 0..requests {
        let heads = &t.tallies[request * lists..][..lists];
        let solved = |budget: i64| reference::solve_budget(heads, per_page, page_bytes, gap, budget);
        let budget = match request % 5 {
            // Half-way between the pages under the loosest thresholds and those under the tightest.
            0 | 3 => i64::from(solved(i64::MAX).1 + solved(none).1) / 2 * page_bytes,
            1 => i64::MAX,
            2 => 0,
            _ => none,
        };
        budgets.push(budget);
        if t.cache.slots[request] < 0 || budget < 0 {
            pages.push(-1);
            continue;
        }
        let (rung, taken) = solved(budget);
        pages.push(taken);
        for pair in after[t.slots[request] * lists * 2..][..lists * 2].chunks_exact_mut(2) {
            pair.copy_from_slice(&[Ladder::edge(rung), Ladder::edge(rung - gap)]);
        }
    }
    let extents = [requests, t.layers, t.kv_heads, 2];
    Ok(Workload::new([requests, 1, 1])
        .view("slots", &t.cache.slots, &[requests])
        .view("budgets", &budgets, &[requests])
        .view("tally", &t.flat(), &t.extents())
        .view("thresholds", &vec![0.125f32; after.len()], &extents)
        .view("pages", &vec![-7i32; requests], &[requests])
        .output("thresholds", Check::Bits)
        .output("pages", Check::Bits)
        .expect("thresholds", &after, Check::Bits)
        .expect("pages", &pages, Check::Bits))
}
