//! A byte budget turned into thresholds, edge by edge.

use super::pages::Token;
use crate::budget::Ladder;
use crate::policy::Counting;

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
                && token.position < rules.tokens - rules.window
                && token.position >= rules.sinks;
            !asked || token.significance / counted as f32 * rules.tokens as f32 >= edge
        };
        let count = |rung: usize| {
            let edge = Ladder::edge(rung as i32);
            self.tokens.iter().enumerate().filter(|(i, token)| reaches(*i, token, edge)).count() as i32
        };
        (0..Ladder::RUNGS).map(count).collect()
    }
}

/// The lowest rung of the high threshold under which all lists fit the budget, and the pages they then take: what
/// [`solve_budget`](fn@crate::budget::solve_budget) finds. `heads` are the tallies of the high and the low list of every head; `per_page` are
/// the tokens of a page of either tier.
#[must_use]
pub fn solve_budget(
    heads: &[[Vec<i32>; 2]],
    per_page: [i32; 2],
    page_bytes: i64,
    gap: i32,
    budget: i64,
) -> (i32, i32) {
    let pages = |rung: i32| -> i32 {
        let (high, low) = (rung as usize, (rung - gap).max(0) as usize);
        let of_head = |[of_high, of_low]: &[Vec<i32>; 2]| {
            let stays = of_high[high];
            let lower = of_low[low] + of_high[low] - of_high[high];
            (stays + per_page[0] - 1) / per_page[0] + (lower + per_page[1] - 1) / per_page[1]
        };
        heads.iter().map(of_head).sum()
    };
    let last = Ladder::RUNGS as i32 - 1;
    let rung = (0..last).find(|&rung| i64::from(pages(rung)) * page_bytes <= budget).unwrap_or(last);
    (rung, pages(rung))
}
