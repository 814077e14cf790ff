//! Decode attention on one host thread at several lengths: 32 query and 8 KV heads of 128, all tokens at K8V4, and what K8V4/K4V2 keeps of them in a
//! fifth of FP16's bytes, with significance and the next step's candidates. `scripts/peers` sets vLLM's kernel beside it.
//!
//! ```text
//! cargo bench -p leankv-runtime --bench host_lengths [-- TOKENS...]
//! ```
//!
//! Prints a JSON object a row: the shortest of several launches. Each row's first launch is held to plain Rust.

use std::time::Instant;

use leankv_dsl::codegen::host::{HostArg, HostKernel};
use leankv_dsl::format::KvFormat;
use leankv_dsl::lang::Settings;
use leankv_dsl::workload::{Argument, Buffer, Guarded, compare, scalar_bits};
use leankv_kernels::reference::PagedFormat;
use leankv_kernels::workload::{Size, recipe};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::compiled::Code;
use leankv_runtime::{Compiler, Target};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const KV_HEADS: usize = 8;
const D: usize = 128;
/// The published page at head dim 128.
const PAGE_BYTES: usize = 6784;
/// Tokens of the high and of the low tier in a hundred, as the demo's recording has them at a fifth of FP16's bytes.
const HIGH_AND_LOW: [usize; 2] = [13, 45];
const TURNS: usize = 50;

fn main() -> Outcome<()> {
    let mut lengths: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    if lengths.is_empty() {
        lengths = vec![256, 1024, 4096, 16384];
    }
    for tokens in lengths {
        row("K8V4", &[("tiering", "K8V4")], tokens, [tokens, 0])?;
        let settings = [("tiering", "K8V4/K4V2"), ("significance", "true"), ("candidates", "true")];
        row("K8V4/K4V2@1/5, significance", &settings, tokens, fifth(tokens)?)?;
    }
    Ok(())
}

/// How many tokens of each tier a fifth of FP16's bytes holds, in whole pages.
fn fifth(tokens: usize) -> Outcome<[usize; 2]> {
    let mut mean = 0;
    for ([keys, values], part) in [[8, 4], [4, 2]].into_iter().zip(HIGH_AND_LOW) {
        let paged = PagedFormat::new(KvFormat::affine(keys, values)?, D as u32, PAGE_BYTES as u32)?;
        mean += part * PAGE_BYTES / paged.tokens_per_page();
    }
    // No tier's last page need be full.
    let bytes = (tokens * 4 * D / 5).saturating_sub(2 * PAGE_BYTES);
    Ok(HIGH_AND_LOW.map(|part| bytes * part / mean))
}

fn row(name: &str, settings: &[(&str, &str)], tokens: usize, [high, low]: [usize; 2]) -> Outcome<()> {
    let shape = [("head_dim", "128"), ("group", "4"), ("split_pages", "0")];
    let settings: Settings =
        settings.iter().chain(&shape).map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    let func = leankv_kernels::find("decode_attention")
        .ok_or("decode_attention is not shipped")?
        .build(&settings)
        .map_err(|found| found.to_string())?;
    let recipe = recipe("decode_attention")?;
    let asked =
        [("requests", 1), ("kv_heads", KV_HEADS), ("tokens", high), ("low_tokens", low), ("ragged", 0)];
    let sizes = recipe.sizes(Size::Typical, &asked.map(|(name, n)| (name.to_owned(), n)))?;
    let workload = recipe.make(&settings, &sizes, 1)?;
    let compiled = Compiler::new(KernelCache::without_folder()).compile(&func, Target::Host)?.kernel;
    let Code::Host(artifact) = &compiled.code else { return Err("it was compiled for a GPU".into()) };
    let kernel = HostKernel::load(artifact)?;

    let mut values = Vec::new();
    let mut buffers: Vec<(String, Buffer, Guarded)> = Vec::new();
    for (name, argument) in workload.arguments(&func)? {
        values.push(match argument {
            Argument::Scalar(value) => HostArg::Bits(scalar_bits(value)),
            Argument::Buffer(buffer) => {
                let mut memory = Guarded::new(&buffer.bytes);
                let at = memory.as_mut_ptr();
                buffers.push((name, buffer, memory));
                HostArg::Ptr(at)
            }
        });
    }
    let launch = || -> Outcome<f64> {
        let start = Instant::now();
        // SAFETY: a recipe's arguments are the kernel's parameters in order and describe the buffers, which live here.
        unsafe { kernel.launch(workload.grid(), &values, 1) }?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    launch()?;
    for (name, buffer, memory) in &buffers {
        let Some((want, check)) = &buffer.expect else { continue };
        let found = compare(buffer.dtype, *check, &buffer.bytes, memory.bytes(), want);
        if let Some(difference) = found.difference {
            return Err(format!("{tokens} tokens: `{name}` is wrong: {difference}").into());
        }
    }
    let mut best = f64::MAX;
    for _ in 0..TURNS {
        best = best.min(launch()?);
    }
    println!(
        r#"{{"name": "{name}", "tokens": {tokens}, "high": {high}, "low": {low}, "best_ms": {best:.4}}}"#
    );
    Ok(())
}
