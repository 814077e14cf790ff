//! The decode step: its plan, and carrying it out.

use leankv_dsl::format::Tiering;
use leankv_dsl::lang::attention::{Lengths, Stock};
use leankv_dsl::workload::{Check, Generator, Workload, given};

use super::cache::{Cache, all_layers};
use super::floats::Floats;
use super::{RecipeError, Shapes, changed, filled};
use crate::candidates::{ShortlistArgs, ShortlistState};
use crate::policy::{Counting, Peaks, PolicySpec, StockPolicies};
use crate::reference::{self, Planned, StepArgs};
use crate::step::{
    AdvancePositionsArgs, AdvancePositionsSpec, InsertSpec, InsertTokenArgs, PlanSpec, PlanStepArgs,
    StepPlan, advance_positions, insert_token, plan_step,
};

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
    peaks: Peaks,
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
            peaks: rules.peaks,
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
        peaks: Peaks::new(spec.peaks),
        policy: spec.policy,
    };
    let mut random = Generator::new(seed);
    let (d, page) = (spec.head_dim, spec.page_bytes);
    let step = Step::new(&spec.tiering, d, page, shapes, layers * kv_heads, &rules, &mut random)?;
    let requests = step.cache.requests;
    let plan: Vec<i32> = step.plans.iter().flat_map(|p| p.plan.to_row()).collect();
    let target: Vec<i32> = step.plans.iter().flat_map(|p| p.target).collect();
    let of = |columns: usize| step.cache.of_layers(layers, columns);
    let args = PlanStepArgs {
        layers: all_layers(layers),
        positions: given(&step.positions).tensor([requests]),
        prompts: given(&step.prompts).tensor([requests]),
        thresholds: given(&step.thresholds).tensor(of(2)),
        kv: step.cache.layered(layers),
        // It holds for no step: a plan then looks for itself.
        shortlist: ShortlistArgs {
            sig: given(&[]).tensor(of(0)),
            at: given(&[]).tensor(of(0)),
            state: given(&vec![-1; step.plans.len() * ShortlistState::COLUMNS])
                .tensor(of(ShortlistState::COLUMNS)),
        },
        plan: filled(-7, &plan, Check::Bits).tensor_mut(of(StepPlan::COLUMNS)),
        target: filled(-7, &target, Check::Bits).tensor_mut(of(2)),
        codecs: (),
        policies: (),
    };
    Ok(Workload::of::<plan_step<Stock, StockPolicies>>([kv_heads, layers, requests], args))
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
    let args = AdvancePositionsArgs { positions: changed(&positions, &next).tensor_mut([requests]) };
    Ok(Workload::of::<advance_positions>([requests.div_ceil(spec.block.max(1)), 1, 1], args))
}

pub(super) fn insert(spec: &InsertSpec, shapes: &Shapes, seed: u64) -> Result<Workload, RecipeError> {
    let kv_heads = shapes.get("kv_heads");
    let peaks = Peaks::new(spec.peaks);
    let (counting, policy) = (Counting::new(512, 64), PolicySpec::default());
    let rules = Rules { window: 6, sinks: 1, counting, peaks, policy };
    let mut random = Generator::new(seed);
    let (d, page) = (spec.head_dim, spec.page_bytes);
    let Step { cache, positions, plans, .. } =
        Step::new(&spec.tiering, d, page, shapes, kv_heads, &rules, &mut random)?;
    let requests = cache.requests;
    let [keys, values] = [0, 1].map(|_| Floats::random(spec.input, &mut random, [requests, kv_heads, d]));
    let priors = random.f32s(if peaks.kept() { requests * kv_heads } else { 0 }, 0.0, 1.0);
    let plan: Vec<i32> = plans.iter().flat_map(|p| p.plan.to_row()).collect();
    let (mut arena, mut lengths) = (cache.arena.clone(), cache.lengths.clone());
    for (row, Planned { plan, .. }) in plans.iter().enumerate() {
        let list = cache.slots[row / kv_heads] as usize * kv_heads + row % kv_heads;
        let ids = cache.ids(list);
        let (key, value) = (&keys.exact[row * d..][..d], &values.exact[row * d..][..d]);
        let word = peaks.word(0.0, priors.get(row).copied().unwrap_or(0.0));
        let position = positions[row / kv_heads];
        reference::insert_token(&cache.lists(&ids), &mut arena, plan, key, value, word, position)?;
        let before = Lengths::get(&lengths, list);
        Lengths { high: plan.len_high, low: plan.len_low, ..before }.put(&mut lengths, list);
    }
    let args = InsertTokenArgs {
        keys: keys.tensor,
        values: values.tensor,
        positions: given(&positions).tensor([requests]),
        priors: given(&priors).tensor([if peaks.kept() { requests } else { 0 }, kv_heads]),
        plan: given(&plan).tensor([requests, kv_heads, StepPlan::COLUMNS]),
        kv: cache.kv_mut(changed(&cache.arena, &arena), changed(&cache.lengths, &lengths)),
        codecs: (),
    };
    Ok(Workload::of::<insert_token<Stock>>([kv_heads, requests, 1], args))
}
