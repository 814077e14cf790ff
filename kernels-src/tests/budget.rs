//! Budgets: the kernels choose what the reference chooses, and what they choose fits.

mod common;
#[path = "common/lists.rs"]
mod lists;

use common::Run;
use leankv_kernels::budget::Ladder;
use leankv_kernels::find;
use leankv_kernels::reference::{BudgetList, BudgetRules, solve_budget};
use lists::{D, Lists, PAGE, Rules, TABLE};

const LAYERS: usize = 2;
const HEADS: usize = 2;
const SLOTS: usize = 4;
const REQUESTS: [i32; 4] = [2, -1, 0, 3];
const PROMPTS: [i32; SLOTS] = [60, 9, 47, 4];
const RULES: Rules = Rules { window: 6, sinks: 2, chunk: 24, window_q: 10 };

/// Tallies and thresholds of the four requests under these budgets.
fn check(tiering: &str, gap: i32, budgets: [i64; 4]) -> Vec<i32> {
    let of_list: Vec<i32> = PROMPTS.iter().flat_map(|&p| [p; LAYERS * HEADS]).collect();
    let lists = Lists::new(tiering, &of_list, &RULES, true, 11);
    let slot_of = |request: usize| REQUESTS[request].max(0) as usize;
    let tokens: Vec<i32> = (0..4).map(|r| PROMPTS[slot_of(r)]).collect();
    let texts =
        [D as i32, PAGE as i32, RULES.window, RULES.sinks, RULES.chunk as i32, RULES.window_q as i32, gap];
    let texts = texts.map(|n| n.to_string());
    let names = ["head_dim", "page_bytes", "window", "sinks", "chunk", "window_q", "gap"];
    let mut settings = vec![("tiering", tiering), ("block", "16")];
    settings.extend(names.into_iter().zip(texts.iter().map(String::as_str)));

    let rows = 4 * LAYERS * HEADS * 2;
    let mut run = Run::new(find("tally_tokens").unwrap(), &settings);
    run.view("tokens", &tokens, &[4]).view("prompts", &tokens, &[4]);
    run.buffer("kv.arena", &lists.arena).view("kv.slots", &REQUESTS, &[4]);
    run.view("kv.table", &lists.table, &[SLOTS, LAYERS, HEADS, TABLE]);
    run.view("kv.lengths", &lists.lengths, &[SLOTS, LAYERS, HEADS, 4]);
    run.view("tally", &vec![-7i32; rows * Ladder::RUNGS], &[4, LAYERS, HEADS, 2, Ladder::RUNGS]);
    run.launch([HEADS, LAYERS, 4]);
    let tally = run.read::<i32>("tally");

    let expected = |request: usize, head: usize, low: bool| {
        let Ok(slot) = usize::try_from(REQUESTS[request]) else { return vec![0; Ladder::RUNGS] };
        if low && lists.low.is_none() {
            return vec![0; Ladder::RUNGS];
        }
        let list = slot * LAYERS * HEADS + head;
        let frozen = lists.lengths[list * 4 + 2 + usize::from(low)] as usize;
        let rules = BudgetRules {
            tokens: tokens[request],
            prompt: tokens[request],
            window: RULES.window,
            sinks: RULES.sinks,
            counting: RULES.counting(),
        };
        BudgetList { tokens: lists.tokens(list, low), frozen }.tally(&rules)
    };
    let tallies: Vec<[Vec<i32>; 2]> = (0..4 * LAYERS * HEADS)
        .map(|row| [false, true].map(|low| expected(row / (LAYERS * HEADS), row % (LAYERS * HEADS), low)))
        .collect();
    assert_eq!(tally, tallies.iter().flatten().flatten().copied().collect::<Vec<i32>>());

    let mut run = Run::new(find("solve_budget").unwrap(), &settings);
    run.view("slots", &REQUESTS, &[4]).view("budgets", &budgets, &[4]);
    run.view("tally", &tally, &[4, LAYERS, HEADS, 2, Ladder::RUNGS]);
    let untouched = 0.125;
    run.view("thresholds", &[untouched; SLOTS * LAYERS * HEADS * 2], &[SLOTS, LAYERS, HEADS, 2]);
    run.view("pages", &[-7i32; 4], &[4]);
    run.launch([4, 1, 1]);
    let (thresholds, pages) = (run.read::<f32>("thresholds"), run.read::<i32>("pages"));

    let low = lists.low.as_ref();
    let per_page = [&lists.high, low.unwrap_or(&lists.high)].map(|paged| paged.tokens_per_page() as i32);
    let gap = if low.is_some() { gap } else { 0 };
    let mut want = vec![untouched; SLOTS * LAYERS * HEADS * 2];
    for (request, &budget) in budgets.iter().enumerate() {
        let Some(slot) = usize::try_from(REQUESTS[request]).ok().filter(|_| budget >= 0) else {
            assert_eq!(pages[request], -1);
            continue;
        };
        let heads = &tallies[request * LAYERS * HEADS..][..LAYERS * HEADS];
        let (rung, taken) = solve_budget(heads, per_page, PAGE as i64, gap, budget);
        assert_eq!(pages[request], taken, "{tiering}, request {request}");
        if rung < Ladder::RUNGS as i32 - 1 {
            assert!(i64::from(taken) * PAGE as i64 <= budget);
        }
        for pair in want[slot * LAYERS * HEADS * 2..][..LAYERS * HEADS * 2].chunks_exact_mut(2) {
            pair.copy_from_slice(&[Ladder::edge(rung), Ladder::edge(rung - gap)]);
        }
    }
    assert_eq!(thresholds, want, "{tiering}");
    pages
}

#[test]
fn the_loosest_thresholds_that_fit_are_set() {
    let page = PAGE as i64;
    let loose = check("K8V4/K4V2", 12, [1 << 40; 4]);
    let tight = check("K8V4/K4V2", 12, [9 * page, 9 * page, 9 * page, 4 * page]);
    assert!(tight[0] < loose[0] && tight[2] < loose[2], "{tight:?}, {loose:?}");
    check("K8V4/K4V2", 12, [8 * page - 1, 0, -1, 0]);
}

#[test]
fn without_a_low_tier_both_thresholds_are_one() {
    check("K8V4", 12, [6 * PAGE as i64, 0, 5 * PAGE as i64, -1]);
}
