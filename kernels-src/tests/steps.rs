//! Decode steps: the kernels do what the references do, on every executor, byte by byte.

mod common;
#[path = "common/lists.rs"]
mod lists;

use common::{Item, Run};
use half::{bf16, f16};
use leankv_kernels::candidates::shortlist_columns;
use leankv_kernels::find;
use leankv_kernels::policy::PolicySpec;
use leankv_kernels::reference::{plan_step, shortlist};
use leankv_kernels::step::{PLAN_COLUMNS, StepPlan};
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
        self.dropped += usize::from(plan.victim >= 0 && !plan.demote);
        self.demoted_into_new += usize::from(plan.demote && plan.low == len_low);
        self.demoted_into_freed += usize::from(plan.demote && plan.low < len_low);
        self.moved += usize::from(plan.source >= 0);
        self.shrunk += usize::from(plan.hole >= 0);
    }
}

fn check<E: Item>(
    insert: &str,
    tiering: &str,
    policy: PolicySpec,
    seen: &mut Seen,
    number: impl Fn(f32) -> E,
) {
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
        let expected = plan_step(&args, &lists.view(&REQUESTS)).unwrap();

        let texts = [D, PAGE, RULES.window as usize, RULES.sinks as usize, RULES.chunk, RULES.window_q]
            .map(|n| n.to_string());
        let name = policy.to_string();
        let rows = 3 * LAYERS * HEADS;
        let plan = |splits: &str, arena: &[u8], [sig, at, state]: [&[i32]; 3]| {
            let mut settings =
                vec![("tiering", tiering), ("policy", &*name), ("block", "16"), ("splits", splits)];
            let names = ["head_dim", "page_bytes", "window", "sinks", "chunk", "window_q"];
            settings.extend(names.into_iter().zip(texts.iter().map(String::as_str)));
            let mut run = Run::new(find("plan_step").unwrap(), &settings);
            run.view("positions", &positions, &[3]).view("prompts", &prompt_of, &[3]);
            run.view("thresholds", &lists.thresholds, &[SLOTS, LAYERS, HEADS, 2]);
            run.buffer("kv.arena", arena).view("kv.slots", &REQUESTS, &[3]);
            run.view("kv.table", &lists.table, &[SLOTS, LAYERS, HEADS, TABLE]);
            run.view("kv.lengths", &lists.lengths, &[SLOTS, LAYERS, HEADS, 4]);
            let of = |numbers: &[i32]| [SLOTS, LAYERS, HEADS, numbers.len() / (SLOTS * LAYERS * HEADS)];
            let bits: Vec<f32> = sig.iter().map(|&bits| f32::from_bits(bits as u32)).collect();
            run.view("shortlist.sig", &bits, &of(sig)).view("shortlist.at", at, &of(at));
            run.view("shortlist.state", state, &of(state));
            run.view("plan", &vec![-7i32; rows * 8], &[3, LAYERS, HEADS, PLAN_COLUMNS]);
            run.view("target", &vec![-7i32; rows * 2], &[3, LAYERS, HEADS, 2]);
            run.launch([HEADS, LAYERS, 3]);
            (run.read::<i32>("plan"), run.read::<i32>("target"))
        };
        let (plans, targets) = plan("0", &lists.arena, [&[]; 3]);

        // What attention found gives the same plan, and no token is looked at: the arena holds no number.
        let splits = 3;
        let own: Vec<i32> = REQUESTS.iter().map(|&slot| slot.max(0)).collect();
        let found = shortlist(&args, &lists.view(&own), splits).unwrap();
        let [sigs, ats] = shortlist_columns(splits);
        let all = SLOTS * LAYERS * HEADS;
        let (mut sig, mut at, mut state) = (vec![-1; all * sigs], vec![7; all * ats], vec![-1; all * 5]);
        for (row, found) in found.iter().enumerate() {
            let list = own[row / (LAYERS * HEADS)] as usize * LAYERS * HEADS + row % (LAYERS * HEADS);
            let bits: Vec<i32> = found.sig.iter().map(|sig| sig.to_bits() as i32).collect();
            sig[list * sigs..][..sigs].copy_from_slice(&bits);
            at[list * ats..][..ats].copy_from_slice(&found.at);
            state[list * 5..][..5].copy_from_slice(&found.state);
        }
        let what = format!("{tiering}, {policy}, step {step}");
        let nothing = vec![0xFF; lists.arena.len()];
        let listed = plan("3", &nothing, [&sig, &at, &state]);
        assert_eq!(listed, (plans.clone(), targets.clone()), "{what}, from the shortlist");

        // It holds for no other position and no other lengths.
        let (sig, at) = (vec![0; all * sigs], vec![0; all * ats]);
        for column in 0..5 {
            let mut stale = state.clone();
            stale.iter_mut().skip(column).step_by(5).for_each(|number| *number += 1);
            let looked = plan("3", &lists.arena, [&sig, &at, &stale]);
            assert_eq!(looked, (plans.clone(), targets.clone()), "{what}, number {column} is another");
        }
        for (row, expected) in expected.iter().enumerate() {
            let plan = StepPlan::from_row(plans[row * 8..][..8].try_into().unwrap());
            let (request, head) = (row / (LAYERS * HEADS), row % (LAYERS * HEADS));
            let what = format!("{tiering}, {policy}, step {step}, request {request}, head {head}");
            assert_eq!(targets[row * 2..][..2], expected.target, "{what}");
            if REQUESTS[request] < 0 {
                assert_eq!(plan.new, -1, "{what}");
            } else {
                assert_eq!(plan, expected.plan, "{what}");
                let list = slot_of(request) * LAYERS * HEADS + head;
                seen.count(&plan, lists.lengths[list * 4 + 1]);
            }
        }

        let lengths = lists.lengths.clone();
        for layer in 0..LAYERS {
            let layer_of = |all: &[i32], columns: usize| -> Vec<i32> {
                let rows = all.chunks_exact(HEADS * columns).skip(layer).step_by(LAYERS);
                rows.flatten().copied().collect()
            };
            let settings = [("tiering", tiering), ("head_dim", &*texts[0]), ("page_bytes", &*texts[1])];
            let mut run = Run::new(find(insert).unwrap(), &settings);
            let tokens = |token: fn(i32) -> Vec<f32>| -> Vec<E> {
                let of = |&p: &i32| [token(p), token(p)].concat();
                positions.iter().flat_map(of).map(&number).collect()
            };
            run.view("keys", &tokens(key), &[3, HEADS, D]).view("values", &tokens(value), &[3, HEADS, D]);
            run.view("positions", &positions, &[3]);
            run.view("plan", &layer_of(&plans, 8), &[3, HEADS, PLAN_COLUMNS]);
            run.buffer("kv.arena", &lists.arena).view("kv.slots", &REQUESTS, &[3]);
            run.view("kv.table", &layer_of(&lists.table, TABLE), &[SLOTS, HEADS, TABLE]);
            run.view("kv.lengths", &layer_of(&lengths, 4), &[SLOTS, HEADS, 4]);
            run.launch([HEADS, 3, 1]);
            for (request, &slot) in REQUESTS.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
                for head in layer * HEADS..(layer + 1) * HEADS {
                    let plan = expected[request * LAYERS * HEADS + head].plan;
                    let list = slot as usize * LAYERS * HEADS + head;
                    lists.insert(list, &plan, positions[request]);
                }
            }
            let what = format!("{insert} of {tiering}, {policy}, step {step}, layer {layer}");
            assert!(run.read::<u8>("kv.arena") == lists.arena, "arena of {what}");
            assert_eq!(run.read::<i32>("kv.lengths"), layer_of(&lists.lengths, 4), "{what}");
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
        check("insert_token", "K8V4/K4V2", policy, &mut seen, f16::from_f32);
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
    check("insert_token_f32", "K8V4", PolicySpec::default(), &mut seen, |x| x);
    check("insert_token_bf16", "K8V4g1.2/K4V2g2.4", late, &mut seen, bf16::from_f32);
    check("insert_token", "fp16/K3sV5", PolicySpec::Paper, &mut seen, f16::from_f32);
    assert!(seen.dropped > 0 && seen.demoted_into_new > 0, "{seen:?}");
}
