//! `leankv demo`: a language model over an FP16 cache and over LeanKV's, then recorded keys and values of it through every format and through
//! the LeanKV cache on this machine, and the same kernels compiled for GPUs.

mod attend;
mod data;
mod model;
mod stream;

use std::path::{Path, PathBuf};

use half::f16;
use leankv_dsl::format::{Account, KvFormat, PageLayout, PlanOptions, plan_page_bytes};
use leankv_dsl::lang::TypedKernel;
use leankv_kernels::reference::softmax;
use leankv_runtime::{Compiler, Device, Resources, Sm, Target};
use serde_json::json;

use crate::args;
use crate::failure::{Failure, at_path};
use crate::heat_map;
use crate::table;
use crate::terminal;
use attend::{Decode, Kernels};
use data::{Layer, Recorded};

/// GPUs that the second table shows.
const GPUS: [Sm; 3] = [Sm::Sm80, Sm::Sm90, Sm::Sm120];

/// One format on the host.
struct Row {
    format: KvFormat,
    account: Account,
    /// Relative error of the output in each layer.
    errors: Vec<f64>,
    us_per_query: f64,
    page_bytes: u64,
}

/// One format's decode kernel on one GPU.
struct GpuRow {
    format: KvFormat,
    resources: Resources,
    file: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &args::Demo, compiler: &Compiler) -> Result<(), Failure> {
    let recorded = Recorded::read(&args.data)?;
    let formats = KvFormat::standard();
    let plan = plan_page_bytes(&formats, recorded.head_dim as u32, &PlanOptions::default())
        .map_err(Failure::usage)?;
    let device = Device::host();
    let answers = if args.no_model { Vec::new() } else { model::run(args, compiler)? };
    if !args.json {
        model::print(&answers);
        terminal::print(&format!(
            "{}: {} layers, {} KV heads, {} query heads of {} elements, {} tokens, the last {} queries",
            args.data.display(),
            recorded.layers.len(),
            recorded.kv_heads,
            recorded.query_heads,
            recorded.head_dim,
            recorded.tokens,
            recorded.queries
        ));
        println!("pages of {} bytes, decode attention on {}\n", plan.page_bytes, device.name());
    }

    let exact: Vec<Vec<f32>> =
        recorded.layers.iter().map(|layer| exact(&recorded, layer)).collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for format in formats {
        rows.push(on_host(compiler, &device, &recorded, format, plan.page_bytes, &exact)?);
    }
    let mut gpu_rows = Vec::new();
    for format in formats {
        for sm in GPUS {
            gpu_rows.push(on_gpu(compiler, &recorded, format, plan.page_bytes, sm, &args.ptx)?);
        }
    }
    let streamed = stream::run(compiler, &device, &recorded, &exact)?;
    heat_map::draw(&stream::heat_map(&streamed), &args.heat_map)?;
    if args.json {
        print_json(&recorded, plan.page_bytes, &rows, &gpu_rows, &streamed, &answers);
    } else {
        print_host(&recorded, &rows);
        stream::print(&streamed);
        println!("as a picture: {}\n", args.heat_map.display());
        print_gpu(&gpu_rows, &args.ptx);
    }
    Ok(())
}

/// Attention in f32 over the recorded, unquantised keys and values.
fn exact(recorded: &Recorded, layer: &Layer) -> Result<Vec<f32>, Failure> {
    let wide = |x: &[f16]| -> Vec<f32> { x.iter().map(|v| v.to_f32()).collect() };
    let (q, k, v) = (wide(&layer.queries), wide(&layer.keys), wide(&layer.values));
    let &Recorded { query_heads, kv_heads, head_dim: d, tokens, queries, .. } = recorded;
    let scale = 1.0 / (d as f32).sqrt();
    let mut out = vec![0.0; q.len()];
    for (row, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
        let (query, kv_head) = (row / query_heads, row % query_heads / recorded.group());
        let seen = tokens - queries + query + 1;
        let at = |t: usize| (t * kv_heads + kv_head) * d;
        let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        let logits: Vec<f32> = (0..seen).map(|t| scale * dot(&k[at(t)..][..d])).collect();
        for (t, p) in softmax(&logits, seen).map_err(Failure::machine)?.into_iter().enumerate() {
            out.iter_mut().zip(&v[at(t)..]).for_each(|(out, v)| *out += p * v);
        }
    }
    Ok(out)
}

fn on_host(
    compiler: &Compiler,
    device: &Device,
    recorded: &Recorded,
    format: KvFormat,
    page_bytes: u32,
    exact: &[Vec<f32>],
) -> Result<Row, Failure> {
    let kernels = Kernels::load(compiler, device, recorded, format, page_bytes)?;
    let layout = PageLayout::derive(&format, recorded.head_dim as u32, page_bytes).map_err(Failure::usage)?;
    let mut row =
        Row { format, account: layout.account(), errors: Vec::new(), us_per_query: 0.0, page_bytes: 0 };
    for (layer, exact) in recorded.layers.iter().zip(exact) {
        let attended = kernels.attend(recorded, layer)?;
        row.errors.push(relative_error(&attended.out, exact));
        row.us_per_query += attended.us_per_query / recorded.layers.len() as f64;
        row.page_bytes += attended.page_bytes;
    }
    Ok(row)
}

/// Length of the difference over length of the exact vector, all queries and heads in one.
fn relative_error(got: &[f32], exact: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = got.iter().zip(exact).map(|(g, e)| square(g - e)).sum();
    let length: f64 = exact.iter().map(|&e| square(e)).sum();
    (difference / length.max(f64::MIN_POSITIVE)).sqrt()
}

fn on_gpu(
    compiler: &Compiler,
    recorded: &Recorded,
    format: KvFormat,
    page_bytes: u32,
    sm: Sm,
    folder: &Path,
) -> Result<GpuRow, Failure> {
    let spec = attend::decode_spec(recorded, format, page_bytes);
    let func = Decode::KERNEL.build_spec(&spec).map_err(Failure::kernel)?;
    let kernel = compiler.compile(&func, Target::Gpu(sm)).map_err(Failure::kernel)?.kernel;
    let file = folder.join(format!("decode_attention.{format}.{sm}.ptx"));
    std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    std::fs::write(&file, kernel.ptx().unwrap_or_default()).map_err(at_path(&file))?;
    Ok(GpuRow { format, resources: kernel.resources().map_err(Failure::machine)?, file })
}

fn print_host(recorded: &Recorded, rows: &[Row]) {
    let mut table = table::table([
        "format",
        "bytes/token",
        "compression",
        "codes alone",
        "output error",
        "by layer",
        "us/query",
    ]);
    for row in rows {
        let by_layer: Vec<String> = row.errors.iter().map(|e| percent(*e)).collect();
        table.add_row([
            row.format.to_string(),
            format!("{:.1}", row.account.true_bytes_per_token()),
            format!("{:.2}x", row.account.true_compression()),
            format!("{:.2}x", row.account.payload_compression()),
            percent(mean(&row.errors)),
            by_layer.join(" "),
            format!("{:.0}", row.us_per_query),
        ]);
    }
    table::numbers_from(&mut table, 1);
    println!("{table}");
    let layers: Vec<String> = recorded.layers.iter().map(|l| l.number.to_string()).collect();
    terminal::print(&format!(
        "bytes/token: key and value of one KV head, with scales, zero points, significance, positions and padding; \
         compression is against FP16 without any of those. \
         codes alone: the same without them, as published figures count. output error: relative to f32 attention, layers {}. \
         us/query: one token of all {} query heads over {} tokens.",
        layers.join(", "),
        recorded.query_heads,
        recorded.tokens
    ));
    if let Some(verdict) = keys_or_values(rows) {
        terminal::print(&verdict);
    }
    println!();
}

/// Which of keys and values should have the bits: the formats with the two widths swapped take the same bytes.
fn keys_or_values(rows: &[Row]) -> Option<String> {
    let row = |name: &str| rows.iter().find(|r| r.format.to_string() == name);
    let (keys, values) = (row("K8V4")?, row("K4V8")?);
    let (good, bad) =
        if mean(&keys.errors) <= mean(&values.errors) { (keys, values) } else { (values, keys) };
    Some(format!(
        "{} and {} take the same {:.1} bytes; {} has {:.1} times less error.",
        keys.format,
        values.format,
        keys.account.true_bytes_per_token(),
        good.format,
        mean(&bad.errors) / mean(&good.errors).max(f64::MIN_POSITIVE)
    ))
}

fn print_gpu(rows: &[GpuRow], folder: &Path) {
    let mut table = table::table([
        "decode kernel",
        "GPU",
        "PTX lines",
        "registers",
        "spill B",
        "shared B",
        "mma",
        "compile ms",
    ]);
    for row in rows {
        let resources = &row.resources;
        let asm = resources.assembled.clone().unwrap_or_default();
        let ptx = resources.ptx.clone().unwrap_or_default();
        table.add_row([
            row.format.to_string(),
            resources.target.to_string(),
            ptx.lines.to_string(),
            asm.registers.to_string(),
            (asm.spill_store_bytes + asm.spill_load_bytes).to_string(),
            (asm.shared_bytes + resources.dynamic_shared_bytes).to_string(),
            ptx.count("mma").to_string(),
            format!("{:.0}", resources.compile_ms),
        ]);
    }
    table::numbers_from(&mut table, 2);
    println!("{table}");
    println!("registers, spills and shared memory as ptxas reports them. PTX files: {}/", folder.display());
}

fn print_json(
    recorded: &Recorded,
    page_bytes: u32,
    rows: &[Row],
    gpu_rows: &[GpuRow],
    streamed: &stream::Streamed,
    answers: &[model::Answer],
) {
    let layers: Vec<usize> = recorded.layers.iter().map(|l| l.number).collect();
    let host: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "format": row.format.to_string(),
                "bytes_per_token": row.account.true_bytes_per_token(),
                "compression": row.account.true_compression(),
                "codes_alone_compression": row.account.payload_compression(),
                "output_error": mean(&row.errors),
                "output_error_by_layer": row.errors,
                "us_per_query": row.us_per_query,
                "page_bytes_total": row.page_bytes,
            })
        })
        .collect();
    let gpu: Vec<_> = gpu_rows
        .iter()
        .map(|row| {
            json!({
                "format": row.format.to_string(),
                "ptx_file": row.file.display().to_string(),
                "resources": row.resources,
            })
        })
        .collect();
    println!(
        "{:#}",
        json!({
            "page_bytes": page_bytes, "layers": layers, "host": host, "cache": stream::to_json(streamed), "gpu": gpu,
            "model": model::to_json(answers),
        })
    );
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn percent(fraction: f64) -> String {
    format!("{:.3}%", fraction * 100.0)
}
