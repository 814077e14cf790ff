//! Bytes that significance costs: what decode attention and planning move beside keys and values, counted by the PTX machine.
//! Attention also looks for the next step's candidates, so that planning reads no token.

mod common;

use common::{filled, no_partials, spec};
use half::f16;
use leankv_dsl::format::PageLayout;
use leankv_dsl::lang::TypedKernel;
use leankv_dsl::lang::attention::{LayeredKvArgs, PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::workload::{Workload, given};
use leankv_kernels::candidates::{FindsArgs, LookingArgs, ShortlistArgs};
use leankv_kernels::decode::{DecodeAttentionArgs, decode_attention};
use leankv_kernels::pending::PendingArgs;
use leankv_kernels::policy::StockPolicies;
use leankv_kernels::step::{PlanStepArgs, StepPlan, plan_step};
use leankv_ptx::Config;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::verify::PtxLaunch;
use leankv_runtime::{Compiler, Sm, Target};

const D: usize = 128;
const PAGE: usize = 6784;
/// Of either tier. Enough tokens that what is read once a head does not count.
const PAGES: usize = 16;
const TABLE: usize = 2 * PAGES;

/// Bytes of the sectors that a program reads, each once, and writes.
fn moved<K: TypedKernel>(kernel: &K, settings: &str, args: K::Args<'_>) -> u64 {
    let func = kernel.build_spec(&spec(kernel, settings)).unwrap_or_else(|e| panic!("{e}"));
    let compiled =
        Compiler::new(KernelCache::without_folder()).compile(&func, Target::Gpu(Sm::Sm80)).unwrap().kernel;
    let config = Config { distinct_sectors: true, ..Config::default() };
    let workload = Workload::of::<K>([1, 1, 1], args);
    let report = PtxLaunch::new(&func, &compiled, &workload, config).unwrap().run().unwrap();
    assert_eq!(report.errors().count(), 0);
    report.counters.ranges.iter().map(|r| r.distinct_sector_bytes + r.written_sector_bytes).sum()
}

/// Tokens of the two lists: full pages.
fn lengths() -> [i32; 4] {
    let tokens = |format: &str| {
        let format = format.parse().unwrap();
        let layout = PageLayout::derive(&format, D as u32, PAGE as u32).unwrap();
        layout.tokens_per_page() as i32 * PAGES as i32
    };
    [tokens("K8V4"), tokens("K4V2"), 0, 0]
}

fn table() -> Vec<i32> {
    (0..TABLE as i32).collect()
}

fn attention(group: usize, significance: bool) -> u64 {
    let settings = format!(
        "group={group},significance={significance},candidates={significance},split_pages=0,tiering=K8V4/K4V2"
    );
    let [high, ..] = lengths();
    let q = vec![f16::ONE; group * D];
    let args = DecodeAttentionArgs {
        q: given(&q).tensor([1, group, D]).into(),
        query_positions: given(&[1000]).tensor([1]),
        scale: 0.1,
        kv: PagedKvArgs {
            arena: given(&vec![0; 2 * PAGES * PAGE]).slice_mut(),
            slots: given(&[0]).tensor([1]),
            table: given(&table()).tensor([1, 1, TABLE]),
            lengths: given(&lengths()).tensor([1, 1, 4]),
        },
        out: no_partials([1, group, 1], 1, D),
        pending: PendingArgs {
            q: given(&q).tensor([1, group, D]),
            lse: given(&vec![0.0; group]).tensor([1, group]),
            newest: given(&[high - 1]).tensor([1, 1, 1]),
        },
        shortlist: LookingArgs {
            prompts: given(&[900]).tensor([1]),
            finds: FindsArgs { sig: filled(0.0, [1, 1, 3, 1]), at: filled(0, [1, 1, 6, 1]) },
            state: filled(0, [1, 1, 5]),
        },
        codecs: (),
        hooks: (),
    };
    moved(&decode_attention::<Stock, Plain, PagedKv>::KERNEL, &settings, args)
}

/// Planning from what attention found.
fn planning() -> u64 {
    let [high, low, ..] = lengths();
    let args = PlanStepArgs {
        layers: given(&[0]).tensor([1]),
        positions: given(&[1000]).tensor([1]),
        prompts: given(&[900]).tensor([1]),
        thresholds: given(&[1.0, 0.0]).tensor([1, 1, 1, 2]),
        kv: LayeredKvArgs {
            arena: given(&vec![0; 2 * PAGES * PAGE]).slice_mut(),
            slots: given(&[0]).tensor([1]),
            table: given(&table()).tensor([1, 1, 1, TABLE]),
            lengths: given(&lengths()).tensor([1, 1, 1, 4]),
        },
        shortlist: ShortlistArgs {
            sig: given(&[0.0; 3]).tensor([1, 1, 1, 3]),
            at: given(&[1; 6]).tensor([1, 1, 1, 6]),
            state: given(&[1000, high, low, 0, 0]).tensor([1, 1, 1, 5]),
        },
        plan: filled(0, [1, 1, 1, StepPlan::COLUMNS]),
        target: filled(0, [1, 1, 1, 2]),
        codecs: (),
        policies: (),
    };
    moved(&plan_step::<Stock, StockPolicies>::KERNEL, "shortlist=true", args)
}

#[test]
fn bytes_that_significance_costs_for_a_token() {
    let [high, low, ..] = lengths();
    let tokens = f64::from(high + low);
    let plan = planning() as f64 / tokens;
    println!("planning: {plan:.1} bytes a token and KV head");
    // Once a head: what attention found, and the plan. It looks at no token.
    assert!(plan < 1.0, "{plan}");
    let of_group = [1, 2, 4, 8, 16].map(|group| {
        let extra = attention(group, true) as f64 - attention(group, false) as f64;
        println!(
            "group {group}: attention {:.1} bytes more a token and KV head, {:.1} with planning",
            extra / tokens,
            extra / tokens + plan
        );
        assert!(
            extra / tokens + plan <= 16.0,
            "group {group}: {extra} bytes, and {plan} a token for planning"
        );
        // Once a head: the pending queries, their logarithms, the new token's number and the shortlist, in whole sectors.
        let once = (group * D * 2 + 17 * 32) as f64;
        (extra - once) / tokens
    });
    // A token's significance is read once and written once, and its position read once, in whole sectors, whatever the group.
    for extra in of_group {
        assert!((12.0..12.6).contains(&extra), "{of_group:?}");
        assert!((extra - of_group[0]).abs() < 0.5, "it does not grow with the group: {of_group:?}");
    }
}
