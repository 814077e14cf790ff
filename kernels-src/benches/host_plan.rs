//! Planning a decode step on the host: 128 requests, 32 layers, 8 KV heads in one launch, K8V4/K4V2 at head dim 128.
//!
//! `cargo bench -p leankv-kernels --bench host_plan`

mod host;

use host::{Launch, compiled};
use leankv_dsl::codegen::host::HostOptions;
use leankv_dsl::format::PageLayout;
use leankv_dsl::lang::attention::{LayeredKvArgs, Lengths, Stock};
use leankv_dsl::workload::given;
use leankv_kernels::candidates::{SHORTLIST_COLUMNS, ShortlistArgs, ShortlistState};
use leankv_kernels::policy::StockPolicies;
use leankv_kernels::step::{PlanStepArgs, StepPlan, plan_step};

const REQUESTS: usize = 128;
const LAYERS: usize = 32;
const HEADS: usize = 8;
const PAGE_BYTES: usize = 6784;
/// Pages of the arena. Lists share them, since all pages of so many lists would not fit; it is still larger than caches.
const PAGES: usize = 24_000;
const TABLE: usize = 32;

/// An arena whose slots hold plausible positions and masses, for both formats: it is written at the offsets of `format`.
fn arena(bytes: &mut [u8], format: &str, pages: std::ops::Range<usize>) {
    let format = format.parse().expect("this is a name of a format");
    let layout =
        PageLayout::derive(&format, 128, PAGE_BYTES as u32).expect("a page of this size holds tokens");
    for page in pages {
        for slot in 0..layout.tokens_per_page() {
            let mut put = |row: u32, word: u32| {
                bytes[page * PAGE_BYTES + row as usize..][..4].copy_from_slice(&word.to_le_bytes());
            };
            let seed = (page * 61 + slot as usize).wrapping_mul(2_654_435_761) as u32;
            put(layout.positions().row(slot), seed % 4000);
            put(layout.significance().row(slot), ((seed >> 8) as f32 / (1 << 24) as f32).to_bits());
        }
    }
}

fn main() {
    let mut bytes = vec![0u8; PAGES * PAGE_BYTES];
    arena(&mut bytes, "K8V4", 0..PAGES / 2);
    arena(&mut bytes, "K4V2", PAGES / 2..PAGES);
    let lists = REQUESTS * LAYERS * HEADS;
    let page = |list: usize, k: usize| ((list * TABLE + k) * 7919 % (PAGES / 2)) as i32;
    let table: Vec<i32> = (0..lists * TABLE)
        .map(|i| match (i / TABLE, i % TABLE) {
            (list, k) if k < TABLE / 2 => page(list, k),
            (list, k) => (PAGES / 2) as i32 + page(list, k),
        })
        .collect();
    let slots: Vec<i32> = (0..REQUESTS as i32).collect();
    let (positions, prompts) = (vec![4200i32; REQUESTS], vec![4000i32; REQUESTS]);
    let thresholds: Vec<f32> = [1.0, 0.02].repeat(lists);
    let of = |columns: usize| [REQUESTS, LAYERS, HEADS, columns];
    let kernel = plan_step::<Stock, StockPolicies>::KERNEL;
    for (policy, listed) in [("leankv", false), ("leankv", true), ("leankv-paper", false), ("uniform", false)]
    {
        let settings = format!("policy={policy},shortlist={listed}");
        let code = compiled(&kernel, &settings, &HostOptions::default());
        let columns = SHORTLIST_COLUMNS;
        let layers: Vec<i32> = (0..LAYERS as i32).collect();
        for (high, low) in [(64, 0), (256, 256), (448, 576)] {
            let lengths = Lengths { high, low, frozen_high: 0, frozen_low: 0 };
            let state = ShortlistState::new(4200, lengths);
            let args = PlanStepArgs {
                layers: given(&layers).tensor([LAYERS]),
                positions: given(&positions).tensor([REQUESTS]),
                prompts: given(&prompts).tensor([REQUESTS]),
                thresholds: given(&thresholds).tensor(of(2)),
                kv: LayeredKvArgs {
                    arena: given(&bytes).slice_mut(),
                    slots: given(&slots).tensor([REQUESTS]),
                    table: given(&table).tensor(of(TABLE)),
                    lengths: given(&lengths.to_row().repeat(lists)).tensor(of(Lengths::COLUMNS)),
                },
                shortlist: ShortlistArgs {
                    sig: given(&vec![0.5; lists * columns[0]]).tensor(of(columns[0])),
                    at: given(&vec![1; lists * columns[1]]).tensor(of(columns[1])),
                    state: given(&state.to_row().repeat(lists)).tensor(of(ShortlistState::COLUMNS)),
                },
                plan: given(&vec![0; lists * StepPlan::COLUMNS]).tensor_mut(of(StepPlan::COLUMNS)),
                target: given(&vec![0; lists * 2]).tensor_mut(of(2)),
                codecs: (),
                policies: (),
            };
            let best = Launch::new(&code, &kernel, [HEADS, LAYERS, REQUESTS], args).best(5) * 1e-3;
            let tokens = lists * (high + low) as usize;
            println!(
                "{policy}{}, {high} + {low} tokens a head: {:.2} ms on one thread, {:.2} ns a token, {:.0} ns a head",
                if listed { " from attention's shortlist" } else { "" },
                best * 1e3,
                best * 1e9 / tokens as f64,
                best * 1e9 / lists as f64
            );
        }
    }
}
