//! Sequences of decode steps against a set of tokens: what is kept, where, with which significance.

mod common;
#[path = "common/lists.rs"]
mod lists;

use leankv_dsl::lang::attention::Lengths;
use leankv_kernels::policy::{HIGH, HeadNumbers, LOW, PolicyMath, PolicySpec, StepNumbers};
use leankv_kernels::reference::plan_step;
use lists::{Lists, Rules, key, step_args, unit, value};
use proptest::prelude::*;

/// A token as the model knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kept {
    position: i32,
    tier: i32,
    mass: f32,
    frozen: bool,
}

/// Everything in the lists, by position.
fn kept(lists: &Lists) -> Vec<Kept> {
    let mut all = Vec::new();
    for low in [false, true] {
        let frozen = Lengths::get(&lists.lengths, 0).frozen(low) as usize;
        for (index, token) in lists.tokens(0, low).into_iter().enumerate() {
            assert_eq!(token.key, key(token.position), "a key follows its token");
            assert_eq!(token.value, value(token.position), "a value follows its token");
            all.push(Kept {
                position: token.position,
                tier: if low { LOW } else { HIGH },
                mass: token.significance,
                frozen: index < frozen,
            });
        }
    }
    all.sort_by_key(|token| token.position);
    all
}

/// The number of counted queries at `from..to`, from the definition.
fn counted(rules: &Rules, prompt: i32, from: i32, to: i32) -> i32 {
    let (chunk, window) = (rules.chunk as i32, rules.window_q as i32);
    let counts = |query: &i32| {
        let end = ((query / chunk + 1) * chunk).min(prompt);
        *query >= prompt || *query >= end - window
    };
    (from..to).filter(counts).count() as i32
}

/// One step on the set.
fn step(
    set: &mut Vec<Kept>,
    policy: &dyn PolicyMath,
    rules: &Rules,
    [a_high, a_low]: [f32; 2],
    prompt: i32,
    position: i32,
    has_low: bool,
) {
    // The last step's query has not been added yet.
    let asked = if position > prompt { position - 1 } else { position };
    let sig = |t: &Kept| t.mass / counted(rules, prompt, t.position, asked) as f32;
    let may = |t: &Kept| {
        !t.frozen
            && t.position <= position - rules.window
            && t.position >= rules.sinks
            && counted(rules, prompt, t.position, asked) > 0
    };
    let least = |tier: i32| {
        let of_tier = set.iter().filter(|t| t.tier == tier && may(t));
        of_tier.min_by(|a, b| sig(a).total_cmp(&sig(b)).then(a.position.cmp(&b.position))).copied()
    };
    let needs = policy.needs();
    let high = least(HIGH).filter(|_| needs.least_high || needs.leaving);
    let low = least(LOW).filter(|_| needs.least_low);
    let leaves = |t: &&Kept| t.tier == HIGH && may(t) && t.position == position - rules.window;
    let leaving = set.iter().find(leaves).filter(|_| needs.leaving).copied();
    let len = |tier: i32| set.iter().filter(|t| t.tier == tier).count() as i32;
    let choice = policy.step(&StepNumbers {
        head: HeadNumbers { a_high, a_low, tokens: position + 1, has_low },
        len_high: len(HIGH),
        len_low: len(LOW),
        least_high: high.map(|t| sig(&t)),
        leaving: leaving.map(|t| sig(&t)),
        least_low: low.map(|t| sig(&t)),
    });
    let victim = [None, high, leaving][choice.victim as usize].map(|t| t.position);
    let evicted = low.filter(|_| choice.evict_low).map(|t| t.position);
    set.retain(|t| Some(t.position) != evicted && (Some(t.position) != victim || choice.demote));
    if let Some(demoted) = set.iter_mut().find(|t| Some(t.position) == victim) {
        demoted.tier = LOW;
    }
    set.push(Kept { position, tier: HIGH, mass: 0.0, frozen: false });
}

fn run(policy: PolicySpec, tiering: &str, rules: &Rules, thresholds: [f32; 2], prompt: i32, seed: u64) {
    let mut lists = Lists::new(tiering, &[prompt], rules, seed.is_multiple_of(2), seed);
    lists.thresholds.copy_from_slice(&thresholds);
    let math = policy.math();
    let mut set = kept(&lists);
    for turn in 0..45 {
        let position = prompt + turn;
        let at = [position];
        let prompts = [prompt];
        let args = step_args(rules, &at, &prompts, &thresholds, 1, &*math);
        let planned = plan_step(&args, &lists.view(&[0])).unwrap()[0];
        let before = [lists.lengths[0], lists.lengths[1]];
        lists.insert(0, &planned.plan, position);
        step(&mut set, &*math, rules, thresholds, prompt, position, lists.low.is_some());
        let now = kept(&lists);
        assert_eq!(now, set, "{policy} of {tiering}, turn {turn}: {planned:?}");

        // Pages for what the moves read and for what is there afterwards, and at most one more than before.
        let tokens = [Some(&lists.high), lists.low.as_ref()].map(|p| p.map_or(1, |p| p.tokens_per_page()));
        let pages = |lengths: [i32; 2]| [0, 1].map(|t| (lengths[t] as usize).div_ceil(tokens[t]) as i32);
        let (old, new) = (pages(before), pages([lists.lengths[0], lists.lengths[1]]));
        let target = planned.target;
        assert_eq!(target, [old[0].max(new[0]), old[1].max(new[1])]);
        assert!(target[0] + target[1] <= old[0] + old[1] + 1, "a step takes at most one page");
        assert!(now.iter().filter(|t| t.tier == HIGH).count() as i32 >= rules.window.min(position + 1));

        lists.attend(0, position + 1, seed + 977 * turn as u64);
        for (token, now) in set.iter_mut().zip(kept(&lists)) {
            assert_eq!((token.position, token.tier), (now.position, now.tier));
            assert!(now.mass >= token.mass && (!token.frozen || now.mass == token.mass));
            token.mass = now.mass;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn lists_hold_what_the_policy_keeps(
        policy in 0usize..7, two in any::<bool>(), prompt in 0i32..60, window in 1i32..9, sinks in 0i32..4,
        chunk in 1usize..40, window_q in 1usize..20, seed in 0u64..1_000_000,
    ) {
        let policies = [&PolicySpec::ALL[..], &[PolicySpec::LeanKv { late: 40 }]].concat();
        let policy = policies[policy];
        let rules = Rules { window, sinks, chunk, window_q };
        let a_high = match policy {
            PolicySpec::HeavyHitter => 10.0 + 40.0 * unit(seed),
            _ => 3.0 * unit(seed),
        };
        let a_low = [0.0, 0.5, 1.0][(seed % 3) as usize] * unit(seed + 1) * 2.0;
        let tiering = if two { "K8V4/K4V2" } else { "K8V4" };
        run(policy, tiering, &rules, [a_high, a_low], prompt, seed);
    }
}

#[test]
fn a_released_cache_never_shrinks_and_ours_does() {
    let rules = Rules { window: 4, sinks: 1, chunk: 16, window_q: 8 };
    let shrinks = |policy: PolicySpec| {
        let mut lists = Lists::new("K8V4/K4V2", &[60], &rules, false, 3);
        lists.thresholds.copy_from_slice(&[2.0, 1.0]);
        let math = policy.math();
        let mut fell = false;
        for turn in 0..40 {
            let (at, thresholds) = ([60 + turn], lists.thresholds.clone());
            let args = step_args(&rules, &at, &[60], &thresholds, 1, &*math);
            let plan = plan_step(&args, &lists.view(&[0])).unwrap()[0].plan;
            fell |= plan.len_high + plan.len_low < lists.lengths[0] + lists.lengths[1];
            lists.insert(0, &plan, 60 + turn);
        }
        fell
    };
    assert!(!shrinks(PolicySpec::Released));
    assert!(shrinks(PolicySpec::default()));
}
