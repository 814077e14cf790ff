//! Every shipped kernel at every declared specialisation on every executor, through the recipes that `leankv verify` uses; and the
//! bytes that decode attention moves.

use leankv_dsl::lang::Settings;
use leankv_kernels::find;
use leankv_kernels::workload::{RECIPES, Recipe, Size, recipe};
use leankv_ptx::Checks;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::verify::{Options, Profile, profile_with, verify_with};
use leankv_runtime::{Compiler, Sm};
use rayon::prelude::*;

fn compiler() -> Compiler {
    Compiler::new(KernelCache::without_folder())
}

/// `name=value,name=value`.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()))
}

/// What is wrong with a kernel at a specialisation, for a workload of sizes of its own.
fn wrong_at(recipe: &Recipe, settings: &Settings, asked: &[(String, usize)]) -> Option<String> {
    let func = find(recipe.kernel)?.build(settings).unwrap_or_else(|e| panic!("{e}"));
    let shapes = recipe.sizes(Size::Small, asked).unwrap_or_else(|e| panic!("{e}"));
    let workload = recipe.make(settings, &shapes, 5).unwrap_or_else(|e| panic!("{e}"));
    let options = Options { targets: vec![Sm::Sm80, Sm::Sm90], seed: 5, perturb: true, ptx: None };
    let report = verify_with(&compiler(), &func, &workload, &options).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.runs.len(), 9, "{report}");
    (!report.passed()).then(|| report.to_string())
}

/// Asserts that nothing is wrong with kernels at these settings, for workloads of these sizes.
#[track_caller]
fn agree(cases: &[(&str, &str, &str)]) {
    let wrong = cases.par_iter().filter_map(|(kernel, settings, sizes)| {
        let asked: Vec<(String, usize)> = pairs(sizes).map(|(k, v)| (k, v.parse().unwrap())).collect();
        wrong_at(recipe(kernel).unwrap(), &pairs(settings).collect(), &asked)
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kernel_agrees_on_every_executor_at_every_declared_specialisation() {
    let all: Vec<(&Recipe, Settings)> = RECIPES
        .iter()
        .flat_map(|recipe| {
            let kernel = find(recipe.kernel).unwrap_or_else(|| panic!("`{}` is shipped", recipe.kernel));
            kernel.space().into_iter().map(move |settings| (recipe, settings))
        })
        .collect();
    assert!(all.len() > 200, "{}", all.len());
    let wrong: Vec<String> =
        all.par_iter().filter_map(|(recipe, settings)| wrong_at(recipe, settings, &[])).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Vectors, rows and matrices of one element, of exactly a block, of one more.
#[test]
fn tutorial_kernels_agree_at_any_extents() {
    agree(&[
        ("vector_add", "", "n=1"),
        ("vector_add", "", "n=255"),
        ("vector_add", "", "n=256"),
        ("softmax", "rows_per_program=4", "rows=1,cols=1"),
        ("softmax", "rows_per_program=4", "rows=3,cols=128"),
        ("matmul", "bm=64", "m=64,n=64,k=32"),
        ("matmul", "bm=64", "m=1,n=8,k=8"),
    ]);
}

#[test]
#[should_panic(expected = "a row is longer than the block")]
fn softmax_refuses_rows_that_do_not_fit() {
    agree(&[("softmax", "rows_per_program=1", "rows=1,cols=200")]);
}

/// Every width, group count and type of metadata, and every head dim: codes and metadata bit for bit.
#[test]
fn rows_of_every_codec_are_coded_as_plain_rust_codes_them() {
    let groups = ["", "g2", "g4"].map(|groups| (1..=8).map(move |bits| format!("affine{bits}{groups}")));
    let symmetric = (1..=8).map(|bits| format!("symmetric{bits}"));
    let others = ["affine4-bf16", "affine1g2-bf16", "symmetric8-bf16", "f16", "bf16"].map(str::to_owned);
    let at_64 = groups.into_iter().flatten().chain(symmetric).chain(others).map(|codec| (codec, 64));
    let elsewhere = [80, 96, 128, 256].into_iter().flat_map(|dim| {
        ["affine4", "affine3g2", "affine8g4", "affine1"].map(|codec| (codec.to_owned(), dim))
    });
    let all = at_64.chain(elsewhere).chain([("symmetric4g4".to_owned(), 96)]);
    let settings: Vec<String> =
        all.map(|(codec, dim)| format!("codec={codec},head_dim={dim},rows=8")).collect();
    let both = |settings| ["quantize", "dequantize"].map(|kernel| (kernel, settings, ""));
    agree(&settings.iter().flat_map(|settings| both(settings.as_str())).collect::<Vec<_>>());
}

/// What no declared specialisation has: significance, patterns, uneven groups, other head dims and blocks.
#[test]
fn decode_attention_agrees_away_from_its_declared_space() {
    let settings = [
        "tiering=K8V4/K4V2,significance=true,head_dim=64,page_bytes=2048,block=16",
        "tiering=K8V4/K4V2,significance=true,split_pages=2,group=7,head_dim=64,page_bytes=2048,block=8",
        "tiering=K8V4/K4V2,significance=true,candidates=true,head_dim=64,page_bytes=2048,block=16,window=4,sinks=2,chunk=24,window_q=9",
        "tiering=K8V4/K4V2,significance=true,candidates=true,split_pages=1,group=7,head_dim=64,page_bytes=2048,block=8,window=20",
        "tiering=K8V4,significance=true,candidates=true,split_pages=1,group=8,head_dim=128,window=9,chunk=16,window_q=2",
        "tiering=K8V4/K4V2,significance=true,candidates=true,split_pages=2,group=71,head_dim=64,page_bytes=2048,block=16,window=4,sinks=2",
        "tiering=K8V4/K4V2,significance=true,candidates=true,peaks=10,head_dim=64,page_bytes=2048,block=16,window=40,sinks=2",
        "tiering=K8mV8m/K4mV4m,significance=true,candidates=true,peaks=10,split_pages=2,group=5,head_dim=64,page_bytes=2048",
        "tiering=K4mV4m/K3mV2m,head_dim=80,page_bytes=4096,input=f32",
        "tiering=K8V4,pattern=causal,group=3,head_dim=64,page_bytes=2048",
        "tiering=K8V4,significance=true,input=bf16,head_dim=64,page_bytes=2048",
        "tiering=K4V2g2.4,pattern=sink3-window9,head_dim=96,page_bytes=4096",
        "tiering=K8V4,warps=2",
        "tiering=K4V2,warps=1,group=1,split_pages=0",
        "tiering=K4V4,warps=2,group=8,significance=true,block=16",
        "tiering=K8V4/K4V2,significance=true,candidates=true,warps=1,split_pages=1,head_dim=64,page_bytes=2048",
        "tiering=K8V4g1.2/K4V2g2.4,significance=true,candidates=true,warps=2,group=5,head_dim=96,page_bytes=4096",
        "subnormal=true,tiering=K8V4,group=1,split_pages=0",
        "subnormal=true,tiering=K4V2,group=8",
        "subnormal=true,tiering=K4V4,head_dim=80,page_bytes=4096",
        "subnormal=true,tiering=K8V2,input=bf16,head_dim=64,page_bytes=2048",
        "subnormal=true,tiering=fp16/K4V2,group=8,page_bytes=8320",
        "subnormal=true,tiering=K3V1,head_dim=80,page_bytes=4096,warps=2",
        "subnormal=true,tiering=K8V4/K4V2,significance=true,candidates=true,group=1",
        "subnormal=true,tiering=K8V4/K4V2,significance=true,candidates=true,group=8,head_dim=80,page_bytes=4096,window=9",
    ];
    let both = |settings| ["decode_attention", "merge_splits"].map(|kernel| (kernel, settings, ""));
    agree(&settings.into_iter().flat_map(both).collect::<Vec<_>>());
}

/// More splits than are read or looked at together, and fewer.
#[test]
fn merges_agree_for_any_number_of_splits() {
    let settings = "significance=true,candidates=true,head_dim=64";
    let wide = "significance=true,candidates=true,head_dim=64,group=71";
    agree(&[
        ("merge_splits", settings, "splits=1"),
        ("merge_splits", settings, "splits=130,requests=3"),
        ("merge_splits", "significance=true,candidates=true,split_pages=0", "splits=1"),
        ("merge_splits", wide, "splits=9,requests=3"),
    ]);
}

/// What is in no declared specialisation and no default size: sinks, short chunks and windows, other policies, a low list without room,
/// a request that is left out, a prompt none of whose queries has counted.
#[test]
fn tiers_and_budgets_agree_away_from_their_declared_spaces() {
    agree(&[
        ("classify_chunk", "sinks=600,window=8,chunk=128,window_q=16,policy=uniform", ""),
        ("classify_chunk", "policy=leankv-paper,two_tiers=false,window=0", "before=0"),
        ("classify_chunk", "", "left_out=1"),
        ("classify_chunk", "peaks=100", ""),
        ("recompact", "peaks=100", ""),
        ("tally_tokens", "peaks=100", ""),
        ("plan_step", "peaks=100", ""),
        ("insert_token", "peaks=10", ""),
        ("cached_significance", "peaks=10,window=20", ""),
        ("chunk_significance", "peaks=10,window=4", ""),
        ("classify_chunk", "", "after=100"),
        ("recompact", "sinks=14,window=8,chunk=32,window_q=8,policy=leankv-paper,block=8", "tokens=90"),
        ("recompact", "tiering=K8V4g1.2/K4V2g2.4,head_dim=64,page_bytes=2048", "low_tokens=37"),
        ("recompact", "tiering=bf16,policy=heavy-hitter,window=0", "ragged=0"),
        ("recompact", "", "left_out=1"),
        ("make_room", "sinks=12,window=8,chunk=32,window_q=8", "requests=8"),
        ("tally_tokens", "sinks=12,window=8,chunk=32,window_q=8,block=16", ""),
        ("price_tally", "sinks=12,window=8,chunk=32,window_q=8", "requests=8"),
        ("solve_budget", "page_bytes=4096", "requests=23"),
        ("write_chunk", "tiering=K8V4g1.2/K4V2g2.4,head_dim=64,page_bytes=2048,block=8", ""),
        ("write_chunk", "tiering=K3V5,head_dim=96,input=f32", "tokens=0"),
    ]);
}

/// Every head dim, with odd widths, which are planes of 4, 2 and 1 bits; at head dim 80 four groups do not fill whole bytes of the
/// 1-bit plane.
#[test]
fn odd_widths_and_groups_agree_at_every_head_dim() {
    let elsewhere = [64, 96, 128, 256].into_iter().flat_map(|dim| ["K3V5", "K3V5g4.4"].map(|f| (dim, f)));
    let formats = ["K3V5", "K1V7", "K5V3g2.4", "K7V1g4.2", "K3V5g4.4", "K1V7g4.4", "K8V4g4.4"];
    let all = elsewhere.chain(formats.map(|format| (80, format)));
    let settings: Vec<String> = all.map(|(dim, format)| format!("tiering={format},head_dim={dim}")).collect();
    let both = |settings| ["decode_attention", "write_chunk"].map(|kernel| (kernel, settings, ""));
    agree(&settings.iter().flat_map(|settings| both(settings.as_str())).collect::<Vec<_>>());
}

fn decode(tiering: &str, tokens: usize, low_tokens: usize) -> Profile {
    let settings = pairs(&format!("tiering={tiering},head_dim=128,group=4")).collect();
    let recipe = recipe("decode_attention").unwrap();
    let asked = [("tokens", tokens), ("low_tokens", low_tokens)].map(|(k, v)| (k.to_owned(), v));
    let shapes = recipe.sizes(Size::Typical, &asked).unwrap();
    let func = find("decode_attention").unwrap().build(&settings).unwrap_or_else(|e| panic!("{e}"));
    let workload = recipe.make(&settings, &shapes, 1).unwrap();
    profile_with(&compiler(), &func, &workload, Sm::Sm80, Checks::ALL).unwrap_or_else(|e| panic!("{e}"))
}

/// Decode attention moves at most 1.05 times the bytes that it must read of the pages.
///
/// * Must: the 32-byte sectors that hold the codes and metadata of the listed tokens (positions too, for patterns that look at them;
///   not significance, not padding, not rows after a list's last token).
/// * Moved: the distinct sectors of the arena that each program loads. That several warps of a program ask for one sector is not
///   traffic beyond the first-level cache, if that keeps what the program loaded; how often they do is bounded here too.
///
/// Lists of 3 to 10 pages, the last one partly filled.
#[test]
fn decode_attention_moves_no_more_of_the_pages_than_it_must_read() {
    for (tiering, tokens, low_tokens, most_repeats) in [
        ("K8V4", 75, 0, 1.05),
        ("K8V4", 300, 0, 1.02),
        ("K8V4/K4V2", 75, 110, 1.04),
        ("K8V4/K4V2", 200, 300, 1.02),
        ("fp16", 35, 0, 1.015),
        ("fp16", 120, 0, 1.015),
    ] {
        let profile = decode(tiering, tokens, low_tokens);
        assert!(profile.findings.is_empty(), "{}", profile.findings[0]);
        let arena = profile.buffers.iter().find(|b| b.name == "kv.arena").unwrap();
        let (moved, repeats) = (arena.moved_ratio().unwrap(), arena.repeat_ratio().unwrap());
        println!(
            "{tiering}, {tokens} + {low_tokens} tokens: moved {moved:.4} of what it must, asked {repeats:.3} of that"
        );
        // Less than it must read would be a wrong account.
        assert!((1.0..=1.05).contains(&moved), "{tiering}, {tokens} + {low_tokens} tokens: {moved}");
        assert!(repeats <= most_repeats, "{tiering}, {tokens} + {low_tokens} tokens: {repeats}");
    }
}
