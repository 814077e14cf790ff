//! How decode attention's work is spread over a GPU's processors: counted, not measured.

use leankv_dsl::format::{PageLayout, Tiering};
use leankv_dsl::lang::attention::pages_of_split;
use leankv_dsl::lang::{Settings, Spec};
use leankv_dsl::workload::Generator;
use leankv_kernels::decode::DecodeSpec;

const KV_HEADS: usize = 8;
/// Of an H100 or H200.
const PROCESSORS: usize = 132;

/// As GPUs run it, in one tier.
fn spec() -> DecodeSpec {
    let usual = DecodeSpec::from_settings(&Settings::default()).unwrap();
    DecodeSpec { tiering: Tiering::single("K8V4".parse().unwrap()), ..usual }
}

/// Pages of lists of so many tokens.
fn pages(spec: &DecodeSpec, tokens: usize) -> usize {
    let (dim, bytes) = (spec.head_dim as u32, spec.page_bytes as u32);
    let layout = PageLayout::derive(&spec.tiering.high, dim, bytes).unwrap();
    tokens.div_ceil(layout.tokens_per_page() as usize)
}

/// The pages of every program that has any, in launch order, over `[requests, KV_HEADS]` lists of pages.
fn work(spec: &DecodeSpec, lists: &[usize]) -> Vec<usize> {
    let splits = lists.iter().map(|&pages| spec.splits_of(pages)).max().unwrap_or(0);
    let of_split =
        |split: usize| lists.iter().map(move |&pages| pages_of_split(pages, spec.split_pages, split).len());
    (0..splits).flat_map(of_split).filter(|&pages| pages > 0).collect()
}

#[test]
fn one_long_request_has_two_programs_for_every_processor() {
    let spec = spec();
    let programs = work(&spec, &[pages(&spec, 32_768); KV_HEADS]).len();
    println!("{programs} programs");
    assert!(programs >= 2 * PROCESSORS, "{programs}");
}

#[test]
fn requests_of_any_lengths_load_all_processors_alike() {
    let spec = spec();
    let mut worst = 0f64;
    for seed in 0..200 {
        let mut random = Generator::new(seed);
        let mut lists = Vec::new();
        for _ in 0..16 {
            let tokens = 1 + random.below(32_768);
            // Policies keep as many tokens in each head as they like.
            lists.extend((0..KV_HEADS).map(|_| pages(&spec, 1 + random.below(tokens))));
        }
        let mut loads = [0; PROCESSORS];
        let all = work(&spec, &lists);
        for pages in &all {
            *loads.iter_mut().min().expect("there are processors") += pages;
        }
        let mean = all.iter().sum::<usize>() as f64 / PROCESSORS as f64;
        let most = loads.into_iter().max().unwrap_or(0) as f64 / mean;
        assert!(most <= 1.15, "seed {seed}: {most:.3} of the mean");
        worst = worst.max(most);
    }
    println!("the most loaded processor has {worst:.3} of the mean");
}
