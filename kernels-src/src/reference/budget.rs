//! A byte budget turned into thresholds, edge by edge.

use leankv_dsl::lang::attention::PerTier;

use super::pages::Token;
use crate::budget::{Ladder, LayerRungs};
use crate::policy::{Counting, Peaks, last_behind};

/// What is the same for all lists of a request.
#[derive(Clone, Copy, Debug)]
pub struct BudgetRules {
    /// Tokens of the sequence.
    pub tokens: i32,
    /// Tokens of its prompt.
    pub prompt: i32,
    /// Tokens of the recent window.
    pub window: i32,
    /// Attention sinks.
    pub sinks: i32,
    /// Which queries count.
    pub counting: Counting,
    /// How words of significance are read.
    pub peaks: Peaks,
}

/// One list: its tokens, and how many of the first ones are frozen.
#[derive(Clone, Debug)]
pub struct BudgetList {
    /// The tokens.
    pub tokens: Vec<Token>,
    /// Frozen ones.
    pub frozen: usize,
}

impl BudgetList {
    /// For every edge, the tokens at or above it: what [`tally_tokens`](fn@crate::budget::tally_tokens) counts.
    #[must_use]
    pub fn tally(&self, rules: &BudgetRules) -> Vec<i32> {
        let asked = Counting::asked(rules.tokens, rules.prompt);
        let queries = rules.counting.before(asked, rules.prompt);
        let reaches = |index: usize, token: &Token, edge: f32| {
            let counted = queries - rules.counting.before(token.position, rules.prompt);
            let asked = index >= self.frozen
                && counted > 0
                && token.position <= last_behind(rules.tokens - 1, rules.window)
                && token.position >= rules.sinks;
            let (mass, peak) = rules.peaks.parts(token.significance);
            let sig = rules.peaks.score(Counting::significance(mass, counted), peak);
            !asked || sig * rules.tokens as f32 >= edge
        };
        let count = |rung: usize| {
            let edge = Ladder::edge(rung as i32);
            self.tokens.iter().enumerate().filter(|(i, token)| reaches(*i, token, edge)).count() as i32
        };
        (0..Ladder::RUNGS).map(count).collect()
    }
}

/// The pages that heads of one layer take under every rung that a budget can be solved with: what [`price_tally`](fn@crate::budget::price_tally) gives.
/// `heads` are the tallies of the high and the low list of every head, `per_page` the tokens of a page of either tier, `stands` where the layer's
/// thresholds stand; `ahead` tokens more find room in every head, in whichever tier they come to lie.
#[must_use]
pub fn price_tally(
    heads: &[[Vec<i32>; 2]],
    per_page: [i32; 2],
    (two_tiers, stands): (bool, LayerRungs),
    ahead: i32,
) -> Vec<i64> {
    let pages = |rung: usize| -> i64 {
        let PerTier { high, low } = stands.of(rung as i32);
        let at = [high, low].map(|rung| rung as usize);
        let of_head = |head: &[Vec<i32>; 2]| pages_of(head, per_page, two_tiers, at, ahead);
        heads.iter().map(of_head).sum()
    };
    (0..Ladder::RUNGS).map(pages).collect()
}

/// The pages of one head by its tallies under two rungs, of the high and of the low threshold.
fn pages_of(
    [of_high, of_low]: &[Vec<i32>; 2],
    per_page: [i32; 2],
    two_tiers: bool,
    [rung, below]: [usize; 2],
    ahead: i32,
) -> i64 {
    let stays = if two_tiers { of_high[rung] } else { of_high[below] };
    let lower = if two_tiers { of_low[below] + of_high[below] - stays } else { 0 };
    let whole = |tokens: i32, per_page: i32| i64::from((tokens + per_page - 1) / per_page);
    let split =
        |in_high: i32| whole(stays + in_high, per_page[0]) + whole(lower + ahead - in_high, per_page[1]);
    // Without a low tier all that comes is high.
    let first = if two_tiers { 0 } else { ahead };
    (first..=ahead).map(split).max().unwrap_or(0)
}

/// The rung to which the low threshold of a head falls, since its pages hold what that keeps, and its low tokens then: what
/// [`make_room`](fn@crate::budget::make_room) finds.
#[must_use]
pub fn fill_pages(
    head: &[Vec<i32>; 2],
    per_page: [i32; 2],
    (two_tiers, stands): (bool, LayerRungs),
    rung: i32,
    ahead: i32,
) -> (i32, i32) {
    let PerTier { high: rung, low: below } = stands.of(rung);
    let below = below as usize;
    let pages = |below: usize| pages_of(head, per_page, two_tiers, [rung as usize, below], ahead);
    let lowest = (0..below).find(|&lower| pages(lower) <= pages(below)).unwrap_or(below);
    let low = head[0][lowest] + head[1][lowest] - head[0][rung as usize];
    (lowest as i32, if two_tiers { low } else { 0 })
}

/// The lowest rung of the high threshold under which requests of these prices fit their budget together, and the pages they then take:
/// what [`solve_budget`](fn@crate::budget::solve_budget) finds.
#[must_use]
pub fn solve_budget(prices: &[Vec<i64>], page_bytes: i64, budget: i64) -> (i32, i32) {
    let pages = |rung: usize| prices.iter().map(|price| price[rung]).sum::<i64>();
    let last = Ladder::RUNGS - 1;
    let rung = (0..last).find(|&rung| pages(rung) * page_bytes <= budget).unwrap_or(last);
    (rung as i32, pages(rung) as i32)
}
