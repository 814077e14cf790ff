//! The bars that this project holds itself to: each is measured in this run and printed beside what was measured, met or not.
//!
//! ```text
//! cargo bench -p leankv-runtime --bench bars
//! ```
//!
//! * "Cold" is a process of its own that has compiled nothing before; the figure is the median of several.
//! * Triton and ggml are measured beside ours where `make bench-peers` installed them; else their rows say so.
//! * What a token of decode attention costs is counted on the PTX machine and modelled from machine code (`leankv profile --per tokens --roofline`); codecs
//!   that a user adds: `cargo bench -p leankv-model --bench bars`.
//! * Nothing fails when a bar is missed: this machine may be busy.

mod common;
#[path = "common/decode.rs"]
mod decode;
#[path = "common/tune.rs"]
mod tune;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use leankv_dsl::ir::Func;
use leankv_kernels::workload::{Size, recipe};
use leankv_kernels::{KERNELS, find};
use leankv_ptx::Checks;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::tools::Ptxas;
use leankv_runtime::verify::profile_with;
use leankv_runtime::{Compiler, Device, Sm, Target};

use common::{HostRun, Outcome, Row, median, row, settings};

/// What asks this program for one measurement in a process of its own.
const COMPILE: &str = "measure-compile";
const MEMORY: &str = "measure-memory";
/// What asks it for the tuner's rows alone: `cargo bench -p leankv-runtime --bench bars -- tune`.
const TUNE: &str = "tune";

/// Decode attention for 8 query heads a KV head in its sizes, the smallest last; `scripts/peers` sets Triton's beside them.
const COMPILED: [(&str, &str); 3] = [
    (
        "two tiers with significance and candidates",
        "tiering=K8V4/K4V2,group=8,significance=true,candidates=true",
    ),
    ("two tiers", "tiering=K8V4/K4V2,group=8"),
    ("one tier", "tiering=K8V4,group=8"),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let result = match args.get(1).map(String::as_str) {
        Some(COMPILE) => compile_times(args.get(2).map_or("", String::as_str)).map(|ms| println!("{ms:?}")),
        Some(MEMORY) => compile_everything().map(|mb| println!("[{mb}]")),
        Some(TUNE) => tune::rows().map(|rows| common::print(&rows)),
        _ => table(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> Outcome<()> {
    let mut rows = Vec::new();
    let mut warm = Vec::new();
    for (tiers, settings) in COMPILED {
        let runs = (0..5).map(|_| in_own_process(&[COMPILE, settings])).collect::<Outcome<Vec<_>>>()?;
        let ms = median(runs.iter().map(|times| times[0]).collect());
        warm = runs.iter().flat_map(|times| &times[1..]).copied().collect();
        rows.push(row(
            format!("decode attention, {tiers}, spec to PTX, cold"),
            "<= 60 ms",
            format!("{ms:.1} ms"),
            ms <= 60.0,
        ));
    }
    rows.push(triton(median(warm))?);
    let (kernel, ms) = cached_to_launchable()?;
    let what = format!("cached kernel to launchable on host, slowest of {} ({kernel})", KERNELS.len());
    rows.push(row(what, "<= 2 ms", format!("{ms:.2} ms"), ms <= 2.0));
    rows.push(spills()?);
    let moved = bytes_moved()?;
    rows.push(row(
        "global bytes moved by decode over bytes it must read (modelled)",
        "<= 1.05",
        format!("{moved:.3}"),
        moved <= 1.05,
    ));
    rows.push(host_decode()?);
    rows.extend(decode_tokens()?);
    rows.extend(chunk_tiles()?);
    rows.extend(tune::rows()?);
    let mb = in_own_process(&[MEMORY])?[0];
    rows.push(row("peak memory of compiling every kernel", "<= 400 MB", format!("{mb:.0} MB"), mb <= 400.0));

    common::print(&rows);
    println!(
        "\nThe cache's bars (the page manager's shares, waste): cargo bench -p leankv-runtime --bench cache"
    );
    Ok(())
}

/// The numbers that this program prints when asked for one measurement.
fn in_own_process(args: &[&str]) -> Outcome<Vec<f64>> {
    let output = Command::new(std::env::current_exe()?).args(args).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let numbers: Vec<f64> = serde_json::from_slice(&output.stdout)?;
    if numbers.is_empty() { Err("nothing was measured".into()) } else { Ok(numbers) }
}

fn decode_func(pairs: &[(&str, &str)]) -> Outcome<Func> {
    let kernel = find("decode_attention").ok_or("decode_attention is not shipped")?;
    Ok(kernel.build(&settings(pairs)).map_err(|found| found.to_string())?)
}

/// Milliseconds from specialisation, given as `name=value,name=value`, to PTX: the first time in this process, and some more times.
fn compile_times(settings: &str) -> Outcome<Vec<f64>> {
    let pairs: Vec<(&str, &str)> = settings.split(',').filter_map(|pair| pair.split_once('=')).collect();
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        let func = decode_func(&pairs)?;
        Compiler::new(KernelCache::without_folder()).compile(&func, Target::Gpu(Sm::Sm80))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Megabytes that this process needed at most to compile each kernel's first specialisation, for the host and one GPU.
fn compile_everything() -> Outcome<f64> {
    for kernel in KERNELS {
        let Some(settings) = kernel.space().into_iter().next() else { continue };
        let func = kernel.build(&settings).map_err(|found| found.to_string())?;
        let compiler = Compiler::new(KernelCache::without_folder());
        for target in [Target::Host, Target::Gpu(Sm::Sm90)] {
            compiler.compile(&func, target)?;
        }
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in the status")?;
    let kb: f64 = line.split_whitespace().next().unwrap_or("").parse()?;
    Ok(kb / 1024.0)
}

/// A file of the peers that `make bench-peers` installs.
fn peer(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/peers").join(name);
    path.exists().then_some(path)
}

/// A peer's JSON answer.
fn ask(program: &Path, args: &[&str]) -> Outcome<serde_json::Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(program).args(args).current_dir(root).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn not_installed(what: &str, bar: &str) -> Row {
    Row {
        what: what.to_owned(),
        bar: bar.to_owned(),
        measured: "peer: make bench-peers".to_owned(),
        met: None,
    }
}

/// Triton's compile time over ours for one tier, both in processes that have compiled before.
fn triton(ours: f64) -> Outcome<Row> {
    let (what, bar) = ("the same, one tier, against Triton 3.9's equivalent, both warm", ">= 20 x");
    let Some(python) = peer("triton.installed").and(peer("venv/bin/python")) else {
        return Ok(not_installed(what, bar));
    };
    let answer = ask(&python, &["scripts/peers/triton_decode.py", "--runs", "4"])?;
    let times = answer["compile_ms"].as_array().ok_or("Triton gave no times")?;
    // The first compile also starts Triton up.
    let theirs = median(times.iter().skip(1).filter_map(serde_json::Value::as_f64).collect());
    let ratio = theirs / ours;
    Ok(row(what, bar, format!("{ratio:.1} x ({theirs:.0} ms)"), ratio >= 20.0))
}

/// The kernel that takes longest from a cache entry on disk to launchable on the host, with its median.
fn cached_to_launchable() -> Outcome<(&'static str, f64)> {
    let folder = tempfile::tempdir()?;
    let host = Device::host();
    let mut slowest = ("", 0.0);
    for kernel in KERNELS {
        let Some(settings) = kernel.space().into_iter().next() else { continue };
        let func = kernel.build(&settings).map_err(|found| found.to_string())?;
        let compiler = Compiler::new(KernelCache::at(folder.path()));
        compiler.compile(&func, Target::Host)?;
        let mut times = Vec::new();
        for _ in 0..9 {
            let start = Instant::now();
            compiler.kernel(&host, &func)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let ms = median(times);
        if ms > slowest.1 {
            slowest = (kernel.name(), ms);
        }
    }
    Ok(slowest)
}

/// Bytes of spills of every kernel's first specialisation on every GPU; `make spills` visits every specialisation.
fn spills() -> Outcome<Row> {
    let what =
        format!("spills of {} kernels on {} GPUs, first specialisations", KERNELS.len(), Sm::ALL.len());
    let bar = "0 bytes";
    let Ok(ptxas) = Ptxas::find() else {
        return Ok(Row { what, bar: bar.to_owned(), measured: "no ptxas: make setup".to_owned(), met: None });
    };
    let compiler = Compiler::new(KernelCache::without_folder());
    let mut bytes = 0;
    for kernel in KERNELS {
        let Some(settings) = kernel.space().into_iter().next() else { continue };
        let func = kernel.build(&settings).map_err(|found| found.to_string())?;
        for sm in Sm::ALL {
            let compiled = compiler.compile(&func, Target::Gpu(sm))?.kernel;
            let assembled = ptxas.assemble(compiled.ptx().unwrap_or_default(), &sm.to_string())?;
            for entry in assembled.entries {
                bytes += entry.spill_store_bytes + entry.spill_load_bytes + entry.stack_bytes;
            }
        }
    }
    Ok(row(what, bar, format!("{bytes} bytes"), bytes == 0))
}

/// The largest ratio over one tier, two tiers and the FP16 baseline.
fn bytes_moved() -> Outcome<f64> {
    let compiler = Compiler::new(KernelCache::without_folder());
    let mut most = 0f64;
    for tiering in ["K8V4", "K8V4/K4V2", "fp16"] {
        let pairs = [("tiering", tiering)];
        let recipe = recipe("decode_attention")?;
        let workload = recipe.make(&settings(&pairs), &recipe.sizes(Size::Typical, &[])?, 1)?;
        let profile = profile_with(&compiler, &decode_func(&pairs)?, &workload, Sm::Sm80, Checks::NONE)?;
        let arena = profile.buffers.iter().find(|buffer| buffer.name == "kv.arena");
        most = most.max(arena.and_then(|arena| arena.moved_ratio()).ok_or("the arena has no account")?);
    }
    Ok(most)
}

const SIGNIFICANCE: [(&str, &str); 2] = [("significance", "true"), ("candidates", "true")];

/// Codes as subnormal numbers.
const SUBNORMAL: (&str, &str) = ("subnormal", "true");

/// All pages in one split: the main loops alone.
const LOOPS: (&str, &str) = ("split_pages", "0");

/// What decode attention costs a token: its name, settings, the most PTX warp instructions, and the most that the busiest pipe takes of the memory's
/// time on an H200.
const DECODE: [(&str, &[(&str, &str)], f64, Option<f64>); 20] = [
    ("K8V4", &[("tiering", "K8V4"), LOOPS], 19.0, Some(0.7)),
    ("K8V4, group 8", &[("tiering", "K8V4"), ("group", "8"), LOOPS], 19.0, None),
    ("K4V2", &[("tiering", "K4V2"), LOOPS], 19.0, Some(0.95)),
    ("K4V4", &[("tiering", "K4V4"), LOOPS], 20.0, None),
    ("K8V2", &[("tiering", "K8V2"), LOOPS], 20.0, None),
    ("fp16, pages of 32 tokens", &[("tiering", "fp16"), ("page_bytes", "16640"), LOOPS], 12.0, None),
    ("K8V4, significance", &[("tiering", "K8V4"), SIGNIFICANCE[0], SIGNIFICANCE[1], LOOPS], 24.0, None),
    (
        "K8V4/K4V2, significance",
        &[("tiering", "K8V4/K4V2"), SIGNIFICANCE[0], SIGNIFICANCE[1], LOOPS],
        24.0,
        Some(1.0),
    ),
    (
        "K8V4/K4V2, significance, group 8",
        &[("tiering", "K8V4/K4V2"), ("group", "8"), SIGNIFICANCE[0], SIGNIFICANCE[1], LOOPS],
        28.0,
        None,
    ),
    // What each split begins and ends with is in it.
    (
        "K8V4/K4V2, significance, splits of 8 pages",
        &[("tiering", "K8V4/K4V2"), SIGNIFICANCE[0], SIGNIFICANCE[1]],
        28.0,
        None,
    ),
    // The default formats may take 1.2 times what K4V4 and two tiers may. The basis gives queries in f32.
    ("K8mV8m", &[("tiering", "K8mV8m"), ("input", "f32"), LOOPS], 24.0, Some(0.95)),
    ("K4mV4m", &[("tiering", "K4mV4m"), ("input", "f32"), LOOPS], 24.0, Some(0.95)),
    (
        "K8mV8m/K4mV4m, significance and peaks",
        &[
            ("tiering", "K8mV8m/K4mV4m"),
            ("input", "f32"),
            ("peaks", "100"),
            ("window", "32"),
            SIGNIFICANCE[0],
            SIGNIFICANCE[1],
            LOOPS,
        ],
        28.8,
        Some(1.0),
    ),
    ("K8V4, subnormal", &[("tiering", "K8V4"), SUBNORMAL, LOOPS], 15.0, None),
    ("K4V2, subnormal", &[("tiering", "K4V2"), SUBNORMAL, LOOPS], 14.0, None),
    ("K4V4, subnormal", &[("tiering", "K4V4"), SUBNORMAL, LOOPS], 16.0, None),
    ("K8V2, subnormal", &[("tiering", "K8V2"), SUBNORMAL, LOOPS], 16.0, None),
    (
        "K8V4, significance, subnormal",
        &[("tiering", "K8V4"), SIGNIFICANCE[0], SIGNIFICANCE[1], SUBNORMAL, LOOPS],
        19.0,
        None,
    ),
    (
        "K8V4/K4V2, significance, subnormal",
        &[("tiering", "K8V4/K4V2"), SIGNIFICANCE[0], SIGNIFICANCE[1], SUBNORMAL, LOOPS],
        19.0,
        None,
    ),
    (
        "K8V4/K4V2, significance, group 8, subnormal",
        &[("tiering", "K8V4/K4V2"), ("group", "8"), SIGNIFICANCE[0], SIGNIFICANCE[1], SUBNORMAL, LOOPS],
        22.0,
        None,
    ),
];

/// Of two tiers each holds half of the tokens.
fn decode_tokens() -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, pairs, most, pipe) in DECODE {
        let func = decode_func(pairs)?;
        let tiers = if pairs[0].1.contains('/') { 2 } else { 1 };
        let workload = |tokens: usize| {
            let recipe = recipe("decode_attention")?;
            let asked = [
                ("requests", 1),
                ("kv_heads", 1),
                ("tokens", tokens / tiers),
                ("low_tokens", tokens / tiers),
            ];
            let sizes = recipe.sizes(Size::Typical, &asked.map(|(name, n)| (name.to_owned(), n)))?;
            Ok(recipe.make(&settings(pairs), &sizes, 1)?)
        };
        let gpus = decode::GPUS.map(|gpu| decode::token(&func, gpu, workload));
        let tokens = gpus.into_iter().collect::<Outcome<Vec<_>>>()?;
        let what = format!("decode {what}");
        rows.extend(decode::rows(&what, most, &tokens));
        rows.extend(pipe.map(|most| decode::pipe_row(&what, most, &tokens[0])));
    }
    Ok(rows)
}

/// What attention of a chunk of a prompt costs for cached tokens: four warps of 16 rows each, 16 tokens of 4 query heads.
fn chunk_tiles() -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for pairs in
        [&[("tiering", "K8V4")][..], &[("tiering", "K4V2")], &[("tiering", "fp16"), ("page_bytes", "16640")]]
    {
        let kernel = find("chunk_attention").ok_or("chunk_attention is not shipped")?;
        let func = kernel.build(&settings(pairs)).map_err(|found| found.to_string())?;
        let workload = |tokens: usize| {
            let recipe = recipe("chunk_attention")?;
            let asked = [("queries", 16), ("kv_heads", 1), ("tokens", tokens)];
            let sizes = recipe.sizes(Size::Typical, &asked.map(|(name, n)| (name.to_owned(), n)))?;
            Ok(recipe.make(&settings(pairs), &sizes, 1)?)
        };
        let gpus = decode::GPUS.map(|gpu| decode::token(&func, gpu, workload));
        let tokens = gpus.into_iter().collect::<Outcome<Vec<_>>>()?;
        rows.extend(decode::tile_rows(&format!("chunk {}", pairs[0].1), 420.0, 64, &tokens));
    }
    Ok(rows)
}

/// ggml's time over ours: 32 query and 8 KV heads of 128, 4096 tokens, K8V4, one thread.
fn host_decode() -> Outcome<Row> {
    let pairs = [("tiering", "K8V4"), ("group", "4"), ("head_dim", "128"), ("split_pages", "0")];
    let func = decode_func(&pairs)?;
    let recipe = recipe("decode_attention")?;
    let asked = [("requests", 1), ("kv_heads", 8), ("tokens", 4096), ("ragged", 0)];
    let sizes = recipe.sizes(Size::Typical, &asked.map(|(name, n)| (name.to_owned(), n)))?;
    let workload = recipe.make(&settings(&pairs), &sizes, 1)?;
    let run = HostRun::new(&func, &workload)?;
    let mut best = f64::MAX;
    for _ in 0..50 {
        best = best.min(run.launch()?);
    }
    let (what, bar) =
        ("host decode attention, K8V4, 4096 tokens, against ggml q8_0/q4_0, one thread", ">= 8 x");
    let Some(ggml) = peer("ggml_decode") else {
        let measured = format!("ours {best:.2} ms; make bench-peers");
        return Ok(Row { measured, ..not_installed(what, bar) });
    };
    let theirs = ask(&ggml, &["4096", "10"])?["best_ms"].as_f64().ok_or("ggml gave no time")?;
    let ratio = theirs / best;
    Ok(row(what, bar, format!("{ratio:.1} x ({best:.2} ms, {theirs:.2} ms)"), ratio >= 8.0))
}
