//! Budgets: the kernels choose what the reference chooses, and what they choose fits.

mod common;
#[path = "common/lists.rs"]
mod lists;

use std::ops::Range;

use common::{Run, filled};
use leankv_dsl::lang::attention::{Lengths, PerTier, Stock};
use leankv_dsl::workload::given;
use leankv_kernels::budget::{
    BudgetGroup, Ladder, LayerRungs, PriceTallyArgs, SolveBudgetArgs, TallyTokensArgs, price_tally,
    solve_budget, tally_tokens,
};
use leankv_kernels::policy::Peaks;
use leankv_kernels::reference::{self, BudgetList, BudgetRules};
use lists::{Lists, PAGE, Rules};

const LAYERS: usize = 2;
const HEADS: usize = 2;
const SLOTS: usize = 4;
const REQUESTS: [i32; 4] = [2, -1, 0, 3];
const PROMPTS: [i32; SLOTS] = [60, 9, 47, 4];
const RULES: Rules = Rules { window: 6, sinks: 2, chunk: 24, window_q: 10 };

/// Tallies, prices and thresholds of the four requests, of which those of a range share a budget; gives the pages of each group.
fn check(tiering: &str, gap: i32, ahead: i32, shared: &[Range<usize>], budgets: &[i64]) -> Vec<i32> {
    let of_list: Vec<i32> = PROMPTS.iter().flat_map(|&p| [p; LAYERS * HEADS]).collect();
    let lists = Lists::new(tiering, &of_list, &RULES, true, 11);
    let slot_of = |request: usize| REQUESTS[request].max(0) as usize;
    let tokens: Vec<i32> = (0..4).map(|r| PROMPTS[slot_of(r)]).collect();
    let settings = format!("tiering={tiering},block=16,{}", RULES.settings());
    let extents = [4, LAYERS, HEADS, 2, Ladder::RUNGS];
    let layers = || given(&(0..LAYERS as i32).collect::<Vec<_>>()).tensor([LAYERS]);
    let args = TallyTokensArgs {
        layers: layers(),
        tokens: given(&tokens).tensor([4]),
        prompts: given(&tokens).tensor([4]),
        kv: lists.layered(&lists.arena, &REQUESTS, [LAYERS, HEADS]),
        tally: filled(-7, extents),
        codecs: (),
    };
    let run = Run::new(&tally_tokens::<Stock>::KERNEL, &settings, [HEADS, LAYERS, 4], args).launch();
    let tally = run.read::<i32>("tally");

    let expected = |request: usize, head: usize, low: bool| {
        let Ok(slot) = usize::try_from(REQUESTS[request]) else { return vec![0; Ladder::RUNGS] };
        if low && lists.low.is_none() {
            return vec![0; Ladder::RUNGS];
        }
        let list = slot * LAYERS * HEADS + head;
        let frozen = Lengths::get(&lists.lengths, list).frozen(low) as usize;
        let rules = BudgetRules {
            tokens: tokens[request],
            prompt: tokens[request],
            window: RULES.window,
            sinks: RULES.sinks,
            counting: RULES.counting(),
            peaks: Peaks::NONE,
        };
        BudgetList { tokens: lists.tokens(list, low), frozen }.tally(&rules)
    };
    let tallies: Vec<[Vec<i32>; 2]> = (0..4 * LAYERS * HEADS)
        .map(|row| [false, true].map(|low| expected(row / (LAYERS * HEADS), row % (LAYERS * HEADS), low)))
        .collect();
    assert_eq!(tally, tallies.iter().flatten().flatten().copied().collect::<Vec<i32>>());

    // Every other layer's thresholds are higher.
    let stands_of = |layer: usize| LayerRungs {
        lift: 5 * (layer as i32 % 2),
        gap: if lists.low.is_some() { gap } else { 0 },
    };
    let stands: Vec<i32> = (0..4 * LAYERS).flat_map(|row| stands_of(row % LAYERS).to_row()).collect();
    let stands = || given(&stands).tensor([4, LAYERS, LayerRungs::COLUMNS]);
    let args = PriceTallyArgs {
        layers: layers(),
        more: 0,
        tally: given(&tally).tensor(extents),
        ahead: given(&[ahead; 4]).tensor([4]),
        stands: stands(),
        prices: filled(-7, [4, Ladder::RUNGS]),
        codecs: (),
    };
    let run = Run::new(&price_tally::<Stock>::KERNEL, &settings, [4, 1, 1], args).launch();
    let prices = run.read::<i64>("prices");
    let low = lists.low.as_ref();
    let per_page = [&lists.high, low.unwrap_or(&lists.high)].map(|paged| paged.tokens_per_page() as i32);
    let expected: Vec<Vec<i64>> = tallies
        .chunks(LAYERS * HEADS)
        .map(|of_request| {
            let price = |(layer, heads): (usize, &[[Vec<i32>; 2]])| {
                reference::price_tally(heads, per_page, (low.is_some(), stands_of(layer)), ahead)
            };
            let of_layers: Vec<Vec<i64>> = of_request.chunks(HEADS).enumerate().map(price).collect();
            (0..Ladder::RUNGS).map(|rung| of_layers.iter().map(|prices| prices[rung]).sum()).collect()
        })
        .collect();
    assert_eq!(prices, expected.concat());

    let group = |of: &Range<usize>| BudgetGroup { first: of.start as i32, count: of.len() as i32 }.to_row();
    let groups: Vec<i32> = shared.iter().flat_map(group).collect();
    let untouched = 0.125;
    let args = SolveBudgetArgs {
        slots: given(&REQUESTS).tensor([4]),
        stands: stands(),
        prices: given(&prices).tensor([4, Ladder::RUNGS]),
        groups: given(&groups).tensor([shared.len(), 2]),
        budgets: given(budgets).tensor([budgets.len()]),
        thresholds: filled(untouched, [SLOTS, LAYERS, HEADS, 2]),
        pages: filled(-7, [budgets.len()]),
        rungs: filled(-7, [4]),
    };
    let settings = format!("page_bytes={PAGE}");
    let run = Run::new(&solve_budget::KERNEL, &settings, [budgets.len(), 1, 1], args).launch();
    let (thresholds, pages) = (run.read::<f32>("thresholds"), run.read::<i32>("pages"));

    let mut want = vec![untouched; SLOTS * LAYERS * HEADS * 2];
    for ((members, &budget), &taken) in shared.iter().zip(budgets).zip(&pages) {
        if budget < 0 {
            assert_eq!(taken, -1);
            continue;
        }
        let here: Vec<usize> = members.clone().filter(|&request| REQUESTS[request] >= 0).collect();
        let prices: Vec<Vec<i64>> = here.iter().map(|&request| expected[request].clone()).collect();
        let (rung, most) = reference::solve_budget(&prices, PAGE as i64, budget);
        assert_eq!(taken, most, "{tiering}, requests {members:?}");
        if rung < Ladder::RUNGS as i32 - 1 {
            assert!(i64::from(taken) * PAGE as i64 <= budget);
        }
        for slot in here.into_iter().map(|request| REQUESTS[request] as usize) {
            for layer in 0..LAYERS {
                let at = stands_of(layer).of(rung);
                let pair = PerTier { high: Ladder::edge(at.high), low: Ladder::edge(at.low) };
                let first = (slot * LAYERS + layer) * HEADS;
                (first..first + HEADS).for_each(|list| pair.put(&mut want, list));
            }
        }
    }
    assert_eq!(thresholds, want, "{tiering}");
    pages
}

/// Each request by itself.
const ALONE: [Range<usize>; 4] = [0..1, 1..2, 2..3, 3..4];

#[test]
fn the_loosest_thresholds_that_fit_are_set() {
    let page = PAGE as i64;
    let loose = check("K8V4/K4V2", 12, 0, &ALONE, &[1 << 40; 4]);
    let tight = check("K8V4/K4V2", 12, 0, &ALONE, &[9 * page, -1, 9 * page, 4 * page]);
    assert!(tight[0] < loose[0] && tight[2] < loose[2], "{tight:?}, {loose:?}");
    check("K8V4/K4V2", 12, 0, &ALONE, &[8 * page - 1, 0, -1, 0]);
    // Room for what is to come costs pages.
    let ahead = check("K8V4/K4V2", 12, 30, &ALONE, &[1 << 40; 4]);
    assert!(ahead[0] > loose[0], "{ahead:?}, {loose:?}");
}

#[test]
fn without_a_low_tier_both_thresholds_are_one() {
    check("K8V4", 12, 2, &ALONE, &[6 * PAGE as i64, 0, 5 * PAGE as i64, -1]);
}

#[test]
fn requests_share_a_budget_and_get_the_same_thresholds() {
    let page = PAGE as i64;
    let [together, other] = [0..3, 3..4];
    let pages = check("K8V4/K4V2", 12, 0, &[together.clone(), other.clone()], &[16 * page, -1]);
    assert!(pages[0] <= 16 && pages[1] == -1, "{pages:?}");
    check("K8V4", 12, 0, &[together, other], &[14 * page, 1 << 40]);
}
