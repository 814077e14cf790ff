//! The decode step: its plan, and carrying it out.

use half::{bf16, f16};
use leankv_dsl::format::Tiering;
use leankv_dsl::workload::{Check, Generator, Workload};

use super::cache::Cache;
use super::vectors::Vectors;
use super::{RecipeError, Shapes};
use crate::candidates::SHORTLIST_STATE;
use crate::policy::{Counting, PolicySpec};
use crate::reference::{self, Planned, StepArgs};
use crate::step::{AdvancePositionsSpec, InsertSpec, PLAN_COLUMNS, PlanSpec};

/// A cache and the plan of its next step.
struct Step {
    cache: Cache,
    positions: Vec<i32>,
    prompts: Vec<i32>,
    /// `[slots, lists, 2]`.
    thresholds: Vec<f32>,
    plans: Vec<Planned>,
}

/// Rules of a step.
struct Rules {
    window: i32,
    sinks: i32,
    counting: Counting,
    policy: PolicySpec,
}

impl Step {
    fn new(
        tiering: &Tiering,
        head_dim: usize,
        page_bytes: usize,
        shapes: &Shapes,
        lists: usize,
        rules: &Rules,
        random: &mut Generator,
    ) -> Result<Step, RecipeError> {
        // A step may add a token to either tier.
        let cache = Cache::with(tiering, head_dim, page_bytes, shapes, lists, 1, random)?;
        let positions: Vec<i32> = (0..cache.requests).map(|r| (cache.longest + r) as i32).collect();
        let prompts: Vec<i32> = positions.iter().map(|p| p / 2).collect();
        let thresholds: Vec<f32> = (0..cache.requests * lists)
            .flat_map(|_| [random.f32s(1, 0.8, 4.0)[0], random.f32s(1, 0.0, 0.8)[0]])
            .collect();
        let policy = rules.policy.math();
        let args = StepArgs {
            positions: &positions,
            prompts: &prompts,
            thresholds: &thresholds,
            heads: lists,
            window: rules.window,
            sinks: rules.sinks,
            counting: rules.counting,
            policy: &*policy,
        };
        let plans = reference::plan_step(&args, &cache.paged())?;
        Ok(Step { cache, positions, prompts, thresholds, plans })
    }
}

pub(super) fn plan(spec: &PlanSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let (layers, kv_heads) = (shapes.get("layers"), shapes.get("kv_heads"));
    let rules = Rules {
        window: spec.window,
        sinks: spec.sinks,
        counting: Counting::new(spec.chunk, spec.window_q),
        policy: spec.policy,
    };
    let mut random = Generator::new(seed);
    let (d, page) = (spec.head_dim, spec.page_bytes);
    let step = Step::new(&spec.tiering, d, page, shapes, layers * kv_heads, &rules, &mut random)?;
    let requests = step.cache.requests;
    let plan: Vec<i32> = step.plans.iter().flat_map(|p| p.plan.to_row()).collect();
    let target: Vec<i32> = step.plans.iter().flat_map(|p| p.target).collect();
    let workload = Workload::new([kv_heads, layers, requests])
        .view("positions", &step.positions, &[requests])
        .view("prompts", &step.prompts, &[requests])
        .view("thresholds", &step.thresholds, &[requests, layers, kv_heads, 2])
        .view("plan", &vec![-7i32; plan.len()], &[requests, layers, kv_heads, PLAN_COLUMNS])
        .view("target", &vec![-7i32; target.len()], &[requests, layers, kv_heads, 2])
        .output("plan", Check::Bits)
        .output("target", Check::Bits)
        .expect("plan", &plan, Check::Bits)
        .expect("target", &target, Check::Bits);
    Ok(step.cache.layered(shortlist(workload, requests, layers, kv_heads), layers))
}

/// A shortlist that holds for no step: a plan then looks for itself.
fn shortlist(workload: Workload, requests: usize, layers: usize, kv_heads: usize) -> Workload {
    let heads = [requests, layers, kv_heads];
    let of = |columns: usize| [heads[0], heads[1], heads[2], columns];
    let rows = requests * layers * kv_heads;
    workload.view::<f32>("shortlist.sig", &[], &of(0)).view::<i32>("shortlist.at", &[], &of(0)).view(
        "shortlist.state",
        &vec![-1i32; rows * SHORTLIST_STATE],
        &of(SHORTLIST_STATE),
    )
}

pub(super) fn advance(
    spec: &AdvancePositionsSpec,
    shapes: &Shapes,
    seed: u64,
) -> Result<Workload, RecipeError> {
    let requests = shapes.get("requests");
    let mut random = Generator::new(seed);
    let positions: Vec<i32> = (0..requests).map(|_| random.below(1 << 20) as i32).collect();
    let next: Vec<i32> = positions.iter().map(|position| position + 1).collect();
    Ok(Workload::new([requests.div_ceil(spec.block.max(1)), 1, 1])
        .view("positions", &positions, &[requests])
        .output("positions", Check::Bits)
        .expect("positions", &next, Check::Bits))
}

fn insert<E: Vectors>(spec: &InsertSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let kv_heads = shapes.get("kv_heads");
    let rules =
        Rules { window: 6, sinks: 1, counting: Counting::new(512, 64), policy: PolicySpec::default() };
    let mut random = Generator::new(seed);
    let (d, page) = (spec.head_dim, spec.page_bytes);
    let Step { cache, positions, plans, .. } =
        Step::new(&spec.tiering, d, page, shapes, kv_heads, &rules, &mut random)?;
    let requests = cache.requests;
    let len = requests * kv_heads * d;
    let ((keys, keys32), (values, values32)) = (E::random(&mut random, len), E::random(&mut random, len));
    let plan: Vec<i32> = plans.iter().flat_map(|p| p.plan.to_row()).collect();
    let (mut arena, mut lengths) = (cache.arena.clone(), cache.lengths.clone());
    for (row, Planned { plan, .. }) in plans.iter().enumerate() {
        let list = cache.slots[row / kv_heads] as usize * kv_heads + row % kv_heads;
        let ids = cache.ids(list);
        let (key, value) = (&keys32[row * d..][..d], &values32[row * d..][..d]);
        reference::insert_token(&cache.lists(&ids), &mut arena, plan, key, value, positions[row / kv_heads])?;
        lengths[list * 4..][..2].copy_from_slice(&[plan.len_high, plan.len_low]);
    }
    let extents = [requests, kv_heads, d];
    let workload = Workload::new([kv_heads, requests, 1])
        .view("keys", &keys, &extents)
        .view("values", &values, &extents)
        .view("positions", &positions, &[requests])
        .view("plan", &plan, &[requests, kv_heads, PLAN_COLUMNS]);
    Ok(cache
        .arguments(workload)
        .output("kv.arena", Check::Bits)
        .output("kv.lengths", Check::Bits)
        .expect("kv.arena", &arena, Check::Bits)
        .expect("kv.lengths", &lengths, Check::Bits))
}

pub(super) fn insert_f16(s: &InsertSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    insert::<f16>(s, shapes, seed)
}

pub(super) fn insert_bf16(s: &InsertSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    insert::<bf16>(s, shapes, seed)
}

pub(super) fn insert_f32(s: &InsertSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    insert::<f32>(s, shapes, seed)
}
