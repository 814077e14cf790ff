//! Policies as kernels record them decide as their plain-Rust form does, on every executor.

mod common;

use common::{Run, filled, random};
use leankv_dsl::lang::*;
use leankv_dsl::workload::given;
use leankv_kernels::policy::{
    Candidate, Counting, HIGH, HeadFacts, HeadNumbers, PolicySpec, StepFacts, StepNumbers, TokenFacts,
};

const CASES: usize = 96;

/// The decisions of one step a program.
#[kernel]
fn step(
    #[comptime] policy: PolicySpec,
    #[comptime] has_low: bool,
    thresholds: View<f32, 2>,
    numbers: View<i32, 2>,
    sigs: View<f32, 2>,
    out: ViewMut<i32, 2>,
) {
    let at = program_id(0);
    let policy = policy.policy();
    let number = |i: i32| numbers.get([at, lit(i)]);
    let candidate =
        |i: i32| Candidate { sig: sigs.get([at, lit(i)]), position: lit(i), exists: number(3 + i).ne(0) };
    let head = HeadFacts {
        a_high: thresholds.get([at, lit(0)]),
        a_low: thresholds.get([at, lit(1)]),
        tokens: number(0),
        has_low,
        layer: lit(0),
        head: lit(0),
    };
    let facts = StepFacts {
        head,
        len_high: number(1),
        len_low: number(2),
        least_high: candidate(0),
        leaving: candidate(1),
        least_low: candidate(2),
    };
    let action = policy.step(&facts);
    out.set([at, lit(0)], action.victim);
    out.set([at, lit(1)], action.demote.select::<i32>(1, 0));
    out.set([at, lit(2)], action.evict_low.select::<i32>(1, 0));
    let sig = sigs.tile((at, 0), [1, 4]).load().squeeze(0);
    let tiers = policy.prompt_tier(
        &TokenFacts { sig, positions: iota(4), tier: lit(HIGH), vectors: &|| [Tile::zeros([4, 8]); 2] },
        &head,
    );
    out.tile((at, element(3)), [1, 4]).store(tiers.expand_dims(0));
}

fn check(policy: PolicySpec, has_low: bool) {
    let random = random(41, CASES * 12);
    let unit = |i: usize| (random[i] + 1.0) / 2.0;
    let (mut thresholds, mut numbers, mut sigs, mut expected) = (vec![], vec![], vec![], vec![]);
    let math = policy.math();
    for case in 0..CASES {
        let at = case * 12;
        let tokens = 1 + (unit(at) * 200.0) as i32;
        let (len_high, len_low) = ((unit(at + 1) * 60.0) as i32, (unit(at + 2) * 60.0) as i32);
        // Threshold pairs of every kind: equal, zero, crossed; a budget of tokens lies among the lengths.
        let (a_high, a_low) = match case % 5 {
            0 => (1.0, 0.02),
            1 => (3.0, 0.0),
            2 => (0.5, 0.5),
            3 => (0.25, 2.0),
            _ => (unit(at + 3) * 60.0, unit(at + 4)),
        };
        // Some significances lie exactly on a threshold.
        let base = 1.0 / tokens as f32;
        let sig = |i: usize| match (unit(at + 5 + i) * 6.0) as i32 {
            0 => a_high * base,
            1 => a_low * base,
            2 => 0.0,
            _ => unit(at + 5 + i) * 4.0 * base,
        };
        let exists = |i: usize| (unit(at + 8 + i) > 0.25 && (has_low || i != 2)) as i32;
        let four = [sig(0), sig(1), sig(2), f32::NAN];
        let some = |i: usize| (exists(i) == 1).then_some(four[i]);
        thresholds.extend([a_high, a_low]);
        numbers.extend([tokens, len_high, len_low, exists(0), exists(1), exists(2)]);
        sigs.extend(four);
        let head = HeadNumbers { a_high, a_low, tokens, has_low };
        let choice = math.step(&StepNumbers {
            head,
            len_high,
            len_low,
            least_high: some(0),
            leaving: some(1),
            least_low: some(2),
        });
        assert!(has_low || !choice.demote, "{policy}: nowhere to demote to");
        expected.extend([choice.victim, i32::from(choice.demote), i32::from(choice.evict_low)]);
        expected.extend(four.map(|sig| math.prompt_tier(sig, &head)));
    }
    let args = StepArgs {
        thresholds: given(&thresholds).tensor([CASES, 2]),
        numbers: given(&numbers).tensor([CASES, 6]),
        sigs: given(&sigs).tensor([CASES, 4]),
        out: filled(-1, [CASES, 7]),
    };
    let settings = format!("policy={policy},has_low={has_low}");
    let run = Run::new(&step::KERNEL, &settings, [CASES, 1, 1], args).launch();
    for (case, (got, want)) in run.read::<i32>("out").chunks(7).zip(expected.chunks(7)).enumerate() {
        assert_eq!(got, want, "{policy}, low tier {has_low}, case {case}");
    }
}

#[test]
fn steps_and_tiers_equal_the_plain_form() {
    for policy in PolicySpec::ALL.into_iter().chain([PolicySpec::LeanKv { late: 30 }]) {
        for has_low in [true, false] {
            check(policy, has_low);
        }
    }
}

/// `before` of every position.
#[kernel]
fn counted(
    #[comptime] chunk: usize,
    #[comptime] window_q: usize,
    prompts: View<i32, 1>,
    out: ViewMut<i32, 2>,
) {
    let at = program_id(0);
    let prompt = prompts.get([at]);
    let counted = Counting::new(chunk, window_q).before_tile(iota(128), prompt.splat([128]));
    out.tile((at, 0), [1, 128]).store(counted.expand_dims(0));
}

#[test]
fn counted_queries_equal_the_plain_form() {
    for (chunk, window_q) in [(32, 8), (24, 64), (512, 64), (1, 1), (20, 0)] {
        let prompts = [0, 1, 20, 31, 32, 33, 50, 72, 100, 127];
        let args = CountedArgs { prompts: given(&prompts).tensor([10]), out: filled(-1, [10, 128]) };
        let settings = format!("chunk={chunk},window_q={window_q}");
        let run = Run::new(&counted::KERNEL, &settings, [10, 1, 1], args).launch();
        let rule = Counting::new(chunk, window_q);
        let expected: Vec<i32> =
            prompts.iter().flat_map(|&prompt| (0..128).map(move |x| rule.before(x, prompt))).collect();
        assert_eq!(run.read::<i32>("out"), expected, "chunks of {chunk}, {window_q} counted");
    }
}
