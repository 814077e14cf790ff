//! Decode steps: the kernels do what the references do, on every executor, byte by byte.

mod common;
#[path = "common/lists.rs"]
mod lists;

use common::{Run, filled};
use half::{bf16, f16};
use leankv_dsl::lang::attention::{Lengths, PagedKvMutArgs, Stock};
use leankv_dsl::lang::{Float, FloatType};
use leankv_dsl::workload::{Item, given};
use leankv_kernels::candidates::{SHORTLIST_COLUMNS, ShortlistArgs, ShortlistState};
use leankv_kernels::policy::{PolicySpec, StockPolicies};
use leankv_kernels::reference::{self, Found, shortlist};
use leankv_kernels::step::{InsertTokenArgs, PlanStepArgs, StepPlan, insert_token, plan_step};
use lists::{D, Lists, PAGE, Rules, TABLE, key, step_args, value};

const LAYERS: usize = 2;
const HEADS: usize = 2;
const SLOTS: usize = 4;
/// Requests 0 to 2 in slots out of order; request 1 is left out.
const REQUESTS: [i32; 3] = [2, -1, 0];
const RULES: Rules = Rules { window: 6, sinks: 2, chunk: 24, window_q: 10 };

/// What happened in the steps of a test.
#[derive(Default, Debug)]
struct Seen {
    appended: usize,
    dropped: usize,
    demoted_into_new: usize,
    demoted_into_freed: usize,
    moved: usize,
    shrunk: usize,
}

impl Seen {
    fn count(&mut self, plan: &StepPlan, len_low: i32) {
        self.appended += usize::from(plan.victim < 0);
        self.dropped += usize::from(plan.victim >= 0 && !plan.demotes());
        self.demoted_into_new += usize::from(plan.demotes() && plan.low == len_low);
        self.demoted_into_freed += usize::from(plan.demotes() && plan.low < len_low);
        self.moved += usize::from(plan.source >= 0);
        self.shrunk += usize::from(plan.hole >= 0);
    }
}

fn check<E: Item + Float>(input: FloatType, tiering: &str, policy: PolicySpec, seen: &mut Seen) {
    let prompts = [50, 9, 33, 3];
    let of_list: Vec<i32> = prompts.iter().flat_map(|&p| [p; LAYERS * HEADS]).collect();
    let mut lists = Lists::new(tiering, &of_list, &RULES, true, 7);
    for (list, pair) in lists.thresholds.chunks_exact_mut(2).enumerate() {
        let pairs = [[1.0, 0.3], [3.0, 0.8], [2.0, 2.0], [9.0, 0.0], [1.5, 1.0]];
        pair.copy_from_slice(&pairs[list % pairs.len()]);
        if policy == PolicySpec::HeavyHitter {
            pair[0] = 5.0 + 4.0 * list as f32;
        }
    }
    let math = policy.math();
    for step in 0..2 {
        let slot_of = |request: usize| REQUESTS[request].max(0) as usize;
        let positions: Vec<i32> = (0..3).map(|r| prompts[slot_of(r)] + step).collect();
        let prompt_of: Vec<i32> = (0..3).map(|r| prompts[slot_of(r)]).collect();
        let args = step_args(&RULES, &positions, &prompt_of, &lists.thresholds, LAYERS * HEADS, &*math);
        let expected = reference::plan_step(&args, &lists.view(&REQUESTS)).unwrap();

        let plan = |listed: bool, arena: &[u8], sig: &[f32], at: &[i32], state: &[i32]| {
            let of = |len: usize| [SLOTS, LAYERS, HEADS, len / (SLOTS * LAYERS * HEADS)];
            let args = PlanStepArgs {
                layers: given(&(0..LAYERS as i32).collect::<Vec<_>>()).tensor([LAYERS]),
                positions: given(&positions).tensor([3]),
                prompts: given(&prompt_of).tensor([3]),
                thresholds: given(&lists.thresholds).tensor([SLOTS, LAYERS, HEADS, 2]),
                kv: lists.layered(arena, &REQUESTS, [LAYERS, HEADS]),
                shortlist: ShortlistArgs {
                    sig: given(sig).tensor(of(sig.len())),
                    at: given(at).tensor(of(at.len())),
                    state: given(state).tensor(of(state.len())),
                },
                plan: filled(-7, [3, LAYERS, HEADS, StepPlan::COLUMNS]),
                target: filled(-7, [3, LAYERS, HEADS, 2]),
                codecs: (),
                policies: (),
            };
            let rules = RULES.settings();
            let settings = format!("tiering={tiering},policy={policy},block=16,shortlist={listed},{rules}");
            let kernel = plan_step::<Stock, StockPolicies>::KERNEL;
            let run = Run::new(&kernel, &settings, [HEADS, LAYERS, 3], args).launch();
            (run.read::<i32>("plan"), run.read::<i32>("target"))
        };
        let (plans, targets) = plan(false, &lists.arena, &[], &[], &[]);

        // What attention found gives the same plan, and no token is looked at: the arena holds no number.
        let own: Vec<i32> = REQUESTS.iter().map(|&slot| slot.max(0)).collect();
        let found = shortlist(&args, &lists.view(&own), 1).unwrap();
        let [sigs, ats] = SHORTLIST_COLUMNS;
        let all = SLOTS * LAYERS * HEADS;
        let (mut sig, mut at, mut state) =
            (vec![f32::NAN; all * sigs], vec![7; all * ats], vec![-1; all * ShortlistState::COLUMNS]);
        for (row, found) in found.iter().enumerate() {
            let list = own[row / (LAYERS * HEADS)] as usize * LAYERS * HEADS + row % (LAYERS * HEADS);
            let (of_sig, of_at) = Found::columns(Found::best_of(&found.splits));
            sig[list * sigs..][..sigs].copy_from_slice(&of_sig);
            at[list * ats..][..ats].copy_from_slice(&of_at);
            found.state.put(&mut state, list);
        }
        let what = format!("{tiering}, {policy}, step {step}");
        let nothing = vec![0xFF; lists.arena.len()];
        let listed = plan(true, &nothing, &sig, &at, &state);
        assert_eq!(listed, (plans.clone(), targets.clone()), "{what}, from the shortlist");

        // It holds for no other position and no other lengths.
        let (sig, at) = (vec![0.0; all * sigs], vec![0; all * ats]);
        for column in 0..ShortlistState::COLUMNS {
            let mut stale = state.clone();
            stale.iter_mut().skip(column).step_by(ShortlistState::COLUMNS).for_each(|number| *number += 1);
            let looked = plan(true, &lists.arena, &sig, &at, &stale);
            assert_eq!(looked, (plans.clone(), targets.clone()), "{what}, number {column} is another");
        }
        for (row, expected) in expected.iter().enumerate() {
            let plan = StepPlan::get(&plans, row);
            let (request, head) = (row / (LAYERS * HEADS), row % (LAYERS * HEADS));
            let what = format!("{tiering}, {policy}, step {step}, request {request}, head {head}");
            assert_eq!(targets[row * 2..][..2], expected.target, "{what}");
            if REQUESTS[request] < 0 {
                assert_eq!(plan.new, -1, "{what}");
            } else {
                assert_eq!(plan, expected.plan, "{what}");
                let list = slot_of(request) * LAYERS * HEADS + head;
                seen.count(&plan, Lengths::get(&lists.lengths, list).low);
            }
        }

        let lengths = lists.lengths.clone();
        for layer in 0..LAYERS {
            let layer_of = |all: &[i32], columns: usize| -> Vec<i32> {
                let rows = all.chunks_exact(HEADS * columns).skip(layer).step_by(LAYERS);
                rows.flatten().copied().collect()
            };
            let tokens = |token: fn(i32) -> Vec<f32>| {
                let of = |&p: &i32| [token(p), token(p)].concat();
                let all: Vec<E> = positions.iter().flat_map(of).map(|x| E::of(x.into())).collect();
                given(&all).tensor([3, HEADS, D]).into()
            };
            let args = InsertTokenArgs {
                keys: tokens(key),
                values: tokens(value),
                positions: given(&positions).tensor([3]),
                priors: given(&[]).tensor([0, HEADS]),
                plan: given(&layer_of(&plans, StepPlan::COLUMNS)).tensor([3, HEADS, StepPlan::COLUMNS]),
                kv: PagedKvMutArgs {
                    arena: given(&lists.arena).slice_mut(),
                    slots: given(&REQUESTS).tensor([3]),
                    table: given(&layer_of(&lists.table, TABLE)).tensor([SLOTS, HEADS, TABLE]),
                    lengths: given(&layer_of(&lengths, Lengths::COLUMNS)).tensor_mut([
                        SLOTS,
                        HEADS,
                        Lengths::COLUMNS,
                    ]),
                },
                codecs: (),
            };
            let settings = format!("tiering={tiering},head_dim={D},page_bytes={PAGE},input={input}");
            let run = Run::new(&insert_token::<Stock>::KERNEL, &settings, [HEADS, 3, 1], args).launch();
            for (request, &slot) in REQUESTS.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
                for head in layer * HEADS..(layer + 1) * HEADS {
                    let plan = expected[request * LAYERS * HEADS + head].plan;
                    let list = slot as usize * LAYERS * HEADS + head;
                    lists.insert(list, &plan, positions[request]);
                }
            }
            let what = format!("{input} into {tiering}, {policy}, step {step}, layer {layer}");
            assert!(run.read::<u8>("kv.arena") == lists.arena, "arena of {what}");
            assert_eq!(run.read::<i32>("kv.lengths"), layer_of(&lists.lengths, Lengths::COLUMNS), "{what}");
        }
        for list in 0..SLOTS * LAYERS * HEADS {
            lists.attend(list, 50, 10_000 * (step as u64 + 1) + 100 * list as u64);
        }
    }
}

#[test]
fn every_policy_plans_and_inserts_as_its_reference_does() {
    let mut seen = Seen::default();
    for policy in PolicySpec::ALL {
        check::<f16>(FloatType::F16, "K8V4/K4V2", policy, &mut seen);
    }
    let all = [
        seen.appended,
        seen.dropped,
        seen.demoted_into_new,
        seen.demoted_into_freed,
        seen.moved,
        seen.shrunk - seen.moved,
    ];
    assert!(all.iter().all(|&n| n > 0), "the steps leave something out: {seen:?}");
}

#[test]
fn one_tier_other_formats_and_other_inputs() {
    let mut seen = Seen::default();
    let late = PolicySpec::LeanKv { late: 25 };
    check::<f32>(FloatType::F32, "K8V4", PolicySpec::default(), &mut seen);
    check::<bf16>(FloatType::Bf16, "K8V4g1.2/K4V2g2.4", late, &mut seen);
    check::<f16>(FloatType::F16, "fp16/K3sV5", PolicySpec::Paper, &mut seen);
    assert!(seen.dropped > 0 && seen.demoted_into_new > 0, "{seen:?}");
}
