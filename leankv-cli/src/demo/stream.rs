//! The recorded keys and values as a request of the LeanKV cache: prompt, decode steps, what each head keeps, what the output loses.
//!
//! Every way of compressing is a request of one batch: thresholds and budgets are a request's own, and one cache holds them all.

use half::f16;
use leankv_dsl::format::{KvFormat, PlanOptions, Tiering, plan_page_bytes};
use leankv_runtime::kv::{CacheConfig, HeadStats, KvCache, KvError, RequestId, RequestStats, Thresholds};
use leankv_runtime::{Compiler, Device};
use serde_json::json;

use super::data::Recorded;
use super::{mean, percent, relative_error};
use crate::failure::Failure;
use crate::heat_map::{HeatMap, Panel};
use crate::table;
use crate::terminal;

/// How many of the recorded queries are decode steps; the others are the prompt's last ones, which give significance.
const STEPS: usize = 32;

/// Thresholds that are shown: multiples of `1 / tokens`, high and low.
const THRESHOLDS: [[f32; 2]; 3] = [[3.0, 0.05], [8.0, 0.4], [32.0, 2.0]];

/// Budgets that are shown, as parts of FP16.
const BUDGETS: [usize; 3] = [5, 8, 11];

/// One way of compressing, after the last step.
pub(super) struct Way {
    /// For people.
    pub(super) name: String,
    /// What the request holds.
    pub(super) stats: RequestStats,
    /// Relative error of the decode steps' output, `[layers, kv_heads]`.
    pub(super) errors: Vec<f64>,
}

/// All ways, and what they have in common.
pub(super) struct Streamed {
    /// The ways.
    pub(super) ways: Vec<Way>,
    /// Numbers of the layers in the model.
    pub(super) layers: Vec<usize>,
    /// KV heads of a layer.
    pub(super) kv_heads: usize,
    /// Bytes of a page.
    pub(super) page_bytes: usize,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    tiering: Tiering,
    head_dim: usize,
}

impl Streamed {
    /// Bytes of a head's pages.
    pub(super) fn bytes(&self, head: &HeadStats) -> usize {
        head.pages * self.page_bytes
    }

    /// Bytes of a head's pages as a part of FP16.
    pub(super) fn share(&self, way: &Way, head: &HeadStats) -> f64 {
        self.bytes(head) as f64 / (way.stats.tokens * self.head_dim * 4) as f64
    }
}

/// Streams the recording through a cache on `device`. `exact` is f32 attention of the recorded queries, `[queries, query_heads, head_dim]` a layer.
pub(super) fn run(
    compiler: &Compiler,
    device: &Device,
    recorded: &Recorded,
    exact: &[Vec<f32>],
) -> Result<Streamed, Failure> {
    let steps = STEPS.min(recorded.queries.saturating_sub(1));
    let prompt = recorded.tokens - steps;
    let format = |key, value| KvFormat::affine(key, value).map_err(Failure::usage);
    let tiering = Tiering::two(format(8, 4)?, format(4, 2)?);
    let formats = [tiering.high, tiering.low.unwrap_or(tiering.high)];
    // Small pages: a head of this recording keeps a few hundred tokens, and pages that are partly empty count.
    let options = PlanOptions { max_bytes: 2048, ..PlanOptions::default() };
    let page_bytes = plan_page_bytes(&formats, recorded.head_dim as u32, &options)
        .map_err(Failure::usage)?
        .page_bytes as usize;
    let ways = THRESHOLDS.len() + BUDGETS.len();
    let extents = [recorded.layers.len(), recorded.kv_heads, recorded.group(), recorded.head_dim];
    let mut config = CacheConfig::new(extents, ways, recorded.tokens, 0);
    config.formats = tiering.into();
    config.page_bytes = page_bytes;
    // The recording has no queries of earlier chunks, so the prompt is one.
    config.chunk = prompt;
    config.window_q = recorded.queries - steps;
    config.pages = ways * config.lists() * pages_of_a_list(&config)?;
    let mut cache = KvCache::new(compiler, device, config).map_err(machine)?;

    let fp16 = recorded.tokens * recorded.layers.len() * recorded.kv_heads * recorded.head_dim * 4;
    let thresholds =
        THRESHOLDS.map(|[high, low]| (format!("a_h {high}, a_l {low}"), Thresholds::new(high, low)));
    let budgets = BUDGETS.map(|part| (format!("budget 1/{part}"), Thresholds::within(fp16 / part)));
    let mut requests: Vec<(String, RequestId)> = Vec::new();
    for (name, thresholds) in thresholds.into_iter().chain(budgets) {
        let id = cache.admit(prompt, &thresholds).map_err(machine)?;
        prefill(&mut cache, device, recorded, id, prompt)?;
        requests.push((name, id));
    }

    let ids: Vec<RequestId> = requests.iter().map(|(_, id)| *id).collect();
    let row = recorded.query_heads * recorded.head_dim;
    // [request][layer]: outputs of all steps, one after another.
    let mut outputs = vec![vec![Vec::new(); recorded.layers.len()]; ways];
    for step in 0..steps {
        let mut decode = cache.decode_step(&ids).map_err(machine)?;
        for (number, layer) in recorded.layers.iter().enumerate() {
            let repeated = |x: &[f16], row: usize, at: usize| {
                let one = &x[at * row..(at + 1) * row];
                device.upload(&one.repeat(ids.len())).map_err(machine)
            };
            let pair = recorded.kv_heads * recorded.head_dim;
            let q = repeated(&layer.queries, row, recorded.queries - steps + step)?;
            let k = repeated(&layer.keys, pair, prompt + step)?;
            let v = repeated(&layer.values, pair, prompt + step)?;
            let mut out = vec![0f32; ids.len() * row];
            decode.layer(&q, &k, &v).map_err(machine)?.read_into(&mut out).map_err(machine)?;
            for (way, out) in out.chunks_exact(row).enumerate() {
                outputs[way][number].extend_from_slice(out);
            }
        }
        decode.finish().map_err(machine)?;
    }
    let findings = cache.audit().map_err(machine)?;
    if let Some(finding) = findings.first() {
        return Err(Failure::machine(format_args!("the cache's books do not agree: {finding}")));
    }

    let mut done = Vec::new();
    for ((name, id), outputs) in requests.into_iter().zip(outputs) {
        let skipped = (recorded.queries - steps) * row;
        let errors = outputs
            .iter()
            .zip(exact)
            .flat_map(|(got, exact)| {
                (0..recorded.kv_heads).map(|head| error_of_head(recorded, got, &exact[skipped..], head))
            })
            .collect();
        done.push(Way { name, stats: cache.stats(id).map_err(machine)?, errors });
    }
    Ok(Streamed {
        ways: done,
        layers: recorded.layers.iter().map(|layer| layer.number).collect(),
        kv_heads: recorded.kv_heads,
        page_bytes,
        prompt,
        tiering,
        head_dim: recorded.head_dim,
    })
}

fn machine(error: impl Into<KvError>) -> Failure {
    Failure::machine(error.into())
}

/// Pages that one list can ever hold: all tokens high, and a chunk low.
fn pages_of_a_list(config: &CacheConfig) -> Result<usize, Failure> {
    let (high, low) = config.layouts().map_err(machine)?;
    let pages = |tokens: usize, per_page: u32| tokens.div_ceil(per_page as usize) + 1;
    let low = low.map_or(0, |low| pages(config.max_tokens, low.tokens_per_page()));
    Ok(pages(config.max_tokens, high.tokens_per_page()) + low)
}

/// The prompt in chunks. Queries that were not recorded are zeros: they do not count, and their output is not looked at.
fn prefill(
    cache: &mut KvCache,
    device: &Device,
    recorded: &Recorded,
    id: RequestId,
    prompt: usize,
) -> Result<(), Failure> {
    let first_query = recorded.tokens - recorded.queries;
    while cache.tokens(id).map_err(machine)? < prompt {
        let mut chunk = cache.prefill_chunk(id).map_err(machine)?;
        let positions = chunk.positions();
        for layer in &recorded.layers {
            let row = recorded.query_heads * recorded.head_dim;
            let mut q = vec![f16::ZERO; positions.len() * row];
            for (at, position) in positions.clone().enumerate() {
                if position >= first_query {
                    q[at * row..][..row]
                        .copy_from_slice(&layer.queries[(position - first_query) * row..][..row]);
                }
            }
            let pair = recorded.kv_heads * recorded.head_dim;
            let rows = positions.start * pair..positions.end * pair;
            let upload = |x: &[f16]| device.upload(x).map_err(machine);
            let (q, k, v) = (upload(&q)?, upload(&layer.keys[rows.clone()])?, upload(&layer.values[rows])?);
            chunk.layer(&q, &k, &v).map_err(machine)?;
        }
        chunk.finish().map_err(machine)?;
    }
    Ok(())
}

/// The relative error of a KV head's query group.
fn error_of_head(recorded: &Recorded, got: &[f32], exact: &[f32], head: usize) -> f64 {
    let part = recorded.group() * recorded.head_dim;
    let of_head = |x: &[f32]| -> Vec<f32> {
        x.chunks_exact(part).skip(head).step_by(recorded.kv_heads).flatten().copied().collect()
    };
    relative_error(&of_head(got), &of_head(exact))
}

/// The tables.
pub(super) fn print(streamed: &Streamed) {
    terminal::print(&format!(
        "The LeanKV cache: {} over pages of {} bytes, a prompt of {} tokens, then {} decode steps; one batch, a request each way.",
        streamed.tiering,
        streamed.page_bytes,
        streamed.prompt,
        streamed.ways.first().map_or(0, |way| way.stats.tokens - streamed.prompt)
    ));
    let mut summary = table::table([
        "way",
        "high",
        "low",
        "pruned",
        "true bytes",
        "smaller",
        "empty places",
        "output error",
    ]);
    for way in &streamed.ways {
        let sum = |count: fn(&HeadStats) -> usize| way.stats.heads.iter().map(count).sum::<usize>();
        let all = way.stats.tokens * way.stats.heads.len();
        let part = |n: usize| format!("{:.1} %", 100.0 * n as f64 / all as f64);
        summary.add_row([
            way.name.clone(),
            part(sum(|h| h.high)),
            part(sum(|h| h.low)),
            part(sum(|h| h.pruned)),
            way.stats.bytes.to_string(),
            format!("{:.2}x", way.stats.compression()),
            format!("{:.1} %", 100.0 * way.stats.waste()),
            percent(mean(&way.errors)),
        ]);
    }
    table::numbers_from(&mut summary, 1);
    println!("{summary}");
    terminal::print(
        "true bytes: whole pages and page tables. smaller: than FP16 without any bookkeeping. output error: of the decode steps, \
         relative to f32 attention over all tokens, mean over layers and KV heads.",
    );
    println!();

    let heads = (0..streamed.kv_heads).map(|head| format!("KV head {head}"));
    let mut table = table::table([]);
    table.set_header(["way".to_owned(), "layer".to_owned()].into_iter().chain(heads));
    for way in &streamed.ways {
        let rows = way.stats.heads.chunks(streamed.kv_heads).zip(way.errors.chunks(streamed.kv_heads));
        for (at, (heads, errors)) in rows.enumerate() {
            let cells = heads.iter().zip(errors).map(|(head, error)| {
                let HeadStats { high, low, pruned, .. } = head;
                format!("{high}/{low}/{pruned}\n{} B {}", streamed.bytes(head), percent(*error))
            });
            let name = if at == 0 { way.name.clone() } else { String::new() };
            table.add_row([name, streamed.layers[at].to_string()].into_iter().chain(cells));
        }
    }
    table::numbers_from(&mut table, 1);
    println!("{table}");
    println!("high/low/pruned tokens, bytes of the head's pages, output error of its query group.");
}

/// The same as a picture.
pub(super) fn heat_map(streamed: &Streamed) -> HeatMap {
    let panel = |way: &Way| Panel {
        name: way.name.clone(),
        smaller: way.stats.compression(),
        parts: way.stats.heads.iter().map(|head| streamed.share(way, head)).collect(),
    };
    HeatMap {
        title: "Memory by layer (down) and KV head (across)".to_owned(),
        layers: streamed.layers.iter().map(|layer| format!("layer {layer}")).collect(),
        kv_heads: streamed.kv_heads,
        panels: streamed.ways.iter().map(panel).collect(),
    }
}

/// The same for programs.
pub(super) fn to_json(streamed: &Streamed) -> serde_json::Value {
    let ways = streamed.ways.iter().map(|way| {
        let heads = way.stats.heads.iter().zip(&way.errors).enumerate().map(|(at, (head, error))| {
            json!({
                "layer": streamed.layers[at / streamed.kv_heads],
                "kv_head": at % streamed.kv_heads,
                "high": head.high,
                "low": head.low,
                "pruned": head.pruned,
                "page_bytes": streamed.bytes(head),
                "output_error": error,
            })
        });
        json!({
            "way": way.name,
            "bytes": way.stats.bytes,
            "fp16_bytes": way.stats.fp16_bytes,
            "compression": way.stats.compression(),
            "empty_places": way.stats.waste(),
            "output_error": mean(&way.errors),
            "heads": heads.collect::<Vec<_>>(),
        })
    });
    json!({
        "tiering": streamed.tiering.to_string(),
        "page_bytes": streamed.page_bytes,
        "prompt": streamed.prompt,
        "ways": ways.collect::<Vec<_>>(),
    })
}
