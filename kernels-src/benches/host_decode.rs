//! The shipped decode attention kernel on one host thread: 32 query heads, 8 KV heads, head dim 128, at several lengths: K8V4, with the significance of
//! the last step's queries added, with the next step's candidates looked for too, and what K8V4/K4V2 keeps in a fifth of FP16's bytes, with both.
//! Pages are those that caches have. Every row is held to plain Rust. `scripts/peers` sets vLLM's kernel beside it.
//!
//! ```text
//! cargo bench -p leankv-kernels --bench host_decode [-- v3 object json page=6784 TOKENS...]
//! ```
//!
//! `v3` compiles for AVX2 alone, `object` writes the code for a disassembler, `json` prints an object a row, `page=` sets the bytes of a page.

mod host;

use std::time::Instant;

use host::{Compiled, Launch, compiled};
use leankv_dsl::codegen::host::{HostKernel, HostOptions};
use leankv_dsl::format::{Tiering, cache_page_bytes};
use leankv_dsl::lang::attention::{Lengths, PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::workload::{Generator, given};
use leankv_kernels::candidates::{FindsArgs, LookingArgs, ShortlistState};
use leankv_kernels::decode::{DecodeAttentionArgs, PartialsArgs, decode_attention};
use leankv_kernels::pending::PendingArgs;
use leankv_kernels::reference::{PagedFormat, Token, read_tokens, write_token};

const HEADS: usize = 8;
const GROUP: usize = 4;
const D: usize = 128;
const LENGTHS: [usize; 4] = [256, 1024, 4096, 16384];
/// What each row adds, and whether it has two tiers.
const ROWS: [(&str, &str, bool); 4] = [
    ("K8V4", "", false),
    ("  with significance", ",significance=true", false),
    ("  with the next step's candidates too", ",significance=true,candidates=true", false),
    ("K8V4/K4V2@1/5, with both", ",significance=true,candidates=true", true),
];
/// Tokens of the high and of the low tier in a hundred, as the demo's recording has them at a fifth of FP16's bytes.
const HIGH_AND_LOW: [usize; 2] = [13, 45];

/// A cache of one request.
struct Cache {
    tiers: Vec<PagedFormat>,
    bytes: Vec<u8>,
    /// Pages of a head: high ones from the left, low ones from the right.
    table: Vec<i32>,
    table_len: usize,
    tokens: [usize; 2],
    cached: Vec<Vec<Token>>,
}

impl Cache {
    fn new(tiering: &Tiering, page_bytes: usize, tokens: [usize; 2], random: &mut Generator) -> Cache {
        let paged =
            |format| PagedFormat::new(format, D as u32, page_bytes as u32).expect("a page holds tokens");
        let tiers: Vec<PagedFormat> = tiering.formats().map(paged).collect();
        let pages: Vec<usize> = tiers
            .iter()
            .zip(tokens)
            .map(|(paged, tokens)| tokens.div_ceil(paged.tokens_per_page()))
            .collect();
        let table_len = pages.iter().sum::<usize>();
        let mut cache = Cache {
            tiers,
            bytes: vec![0; HEADS * table_len * page_bytes],
            // Pages of different heads interleave.
            table: (0..HEADS)
                .flat_map(|head| (0..table_len).map(move |page| (page * HEADS + head) as i32))
                .collect(),
            table_len,
            tokens,
            cached: vec![Vec::new(); HEADS],
        };
        for head in 0..HEADS {
            let mut row: Vec<i32> = cache.table[head * table_len..][..table_len].to_vec();
            for (paged, tokens) in cache.tiers.iter().zip(tokens) {
                for t in 0..tokens {
                    let (key, value) = (random.f32s(D, -1.0, 1.0), random.f32s(D, -1.0, 1.0));
                    let each = paged.tokens_per_page();
                    let page = &mut cache.bytes[row[t / each] as usize * page_bytes..][..page_bytes];
                    write_token(paged, page, (t % each) as u32, &key, &value, 0.0, t as i32)
                        .expect("the slot is in the page");
                }
                cache.cached[head]
                    .extend(read_tokens(paged, &cache.bytes, &row, tokens).expect("the pages are there"));
                row.reverse();
            }
        }
        cache
    }

    /// A launch, and the largest error of its output.
    fn launch(&self, code: &Compiled, random: &mut Generator) -> (Launch, f32) {
        let kernel = decode_attention::<Stock, Plain, PagedKv>::KERNEL;
        let heads = HEADS * GROUP;
        let (q, q32) = random.f16s(heads * D, -1.0, 1.0);
        // Queries of the step before, whose significance is added.
        let (asked, _) = random.f16s(heads * D, -1.0, 1.0);
        let [high, low] = self.tokens.map(|n| n as i32);
        let lengths = Lengths { high, low, frozen_high: 0, frozen_low: 0 };
        let state = ShortlistState::new(0, lengths).to_row();
        let length = high + low;
        let scale = 1.0 / (D as f32).sqrt();
        let args = DecodeAttentionArgs {
            q: given(&q).tensor([1, heads, D]).into(),
            query_positions: given(&[length - 1]).tensor([1]),
            scale,
            kv: PagedKvArgs {
                arena: given(&self.bytes).slice_mut(),
                slots: given(&[0]).tensor([1]),
                table: given(&self.table).tensor([1, HEADS, self.table_len]),
                lengths: given(&lengths.to_row().repeat(HEADS)).tensor([1, HEADS, Lengths::COLUMNS]),
            },
            out: PartialsArgs {
                splits: given(&[0; HEADS]).tensor_mut([1, HEADS]),
                lse: given(&vec![0.0; heads]).tensor_mut([1, heads, 1]),
                out: given(&vec![0.0; heads * D]).tensor_mut([1, heads, 1, D]),
            },
            pending: PendingArgs {
                q: given(&asked).tensor([1, heads, D]),
                lse: given(&vec![8.0; heads]).tensor([1, heads]),
                newest: given(&[high - 1; HEADS]).tensor([1, HEADS, 1]),
            },
            shortlist: LookingArgs {
                prompts: given(&[length / 2]).tensor([1]),
                finds: FindsArgs {
                    sig: given(&[0.0; HEADS * 3]).tensor_mut([1, HEADS, 3, 1]),
                    at: given(&[0; HEADS * 6]).tensor_mut([1, HEADS, 6, 1]),
                },
                state: given(&state.repeat(HEADS)).tensor_mut([1, HEADS, state.len()]),
            },
            codecs: (),
            hooks: (),
        };
        let launch = Launch::new(code, &kernel, [HEADS, 1, 1], args);
        launch.time();
        let out: Vec<f32> = launch.read("out.out");
        let mut worst = 0f32;
        for row in 0..heads {
            let cached = &self.cached[row / GROUP];
            let q = &q32[row * D..][..D];
            let logit = |t: &Token| t.key.iter().zip(q).map(|(a, b)| a * b).sum::<f32>() * scale;
            let logits: Vec<f32> = cached.iter().map(logit).collect();
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            let p: Vec<f32> = logits.iter().map(|x| (x - top).exp()).collect();
            let total: f32 = p.iter().sum();
            for d in 0..D {
                let want = p.iter().zip(cached).map(|(p, t)| p * t.value[d]).sum::<f32>() / total;
                let error = (want - out[row * D + d]).abs();
                assert!(error < 2e-3, "the output is wrong");
                worst = worst.max(error);
            }
        }
        (launch, worst)
    }
}

/// How many tokens of each tier a fifth of FP16's bytes holds.
fn fifth(tokens: usize, tiering: &Tiering, page_bytes: usize) -> [usize; 2] {
    let bytes = |format| {
        let paged = PagedFormat::new(format, D as u32, page_bytes as u32).expect("a page holds tokens");
        page_bytes / paged.tokens_per_page()
    };
    let mean: usize = tiering.formats().map(bytes).zip(HIGH_AND_LOW).map(|(bytes, part)| bytes * part).sum();
    HIGH_AND_LOW.map(|part| tokens * (4 * D) / 5 * part / mean)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|arg| arg == name);
    let class = has("v3").then(|| "x86-64-v3".to_owned());
    let options = HostOptions { class, ..HostOptions::default() };
    let asked: Option<u32> = arguments.iter().find_map(|arg| arg.strip_prefix("page=")?.parse().ok());
    let mut lengths: Vec<usize> = arguments.iter().filter_map(|arg| arg.parse().ok()).collect();
    if lengths.is_empty() {
        lengths = LENGTHS.to_vec();
    }
    let kernel = decode_attention::<Stock, Plain, PagedKv>::KERNEL;
    let rows = ROWS.map(|(name, more, two)| {
        let tiering: Tiering = if two { "K8V4/K4V2" } else { "K8V4" }.parse().expect("names of formats");
        let page_bytes = asked.unwrap_or_else(|| cache_page_bytes(&tiering.into(), D as u32).expect("a page holds tokens"));
        let settings =
            format!("tiering={tiering},head_dim={D},group={GROUP},split_pages=0,page_bytes={page_bytes}{more}");
        let start = Instant::now();
        let code = compiled(&kernel, &settings, &options);
        let took = start.elapsed().as_secs_f64() * 1e3;
        let artifact = &code.1;
        let start = Instant::now();
        HostKernel::load(artifact).unwrap_or_else(|e| panic!("{e}"));
        let loaded = start.elapsed().as_secs_f64() * 1e3;
        eprintln!(
            "{name}: pages of {page_bytes} bytes; spec to object {took:.1} ms, load {loaded:.2} ms, object {} bytes, scratch {} bytes, {:?}",
            artifact.object.len(),
            artifact.scratch_bytes,
            artifact.notes
        );
        if has("object") {
            let file = format!("decode_{}.o", name.trim().split([' ', ',', '/']).next_back().unwrap_or("x"));
            std::fs::write(&file, &artifact.object).unwrap_or_else(|e| panic!("writing {file}: {e}"));
        }
        (name, tiering, page_bytes as usize, code)
    });
    for tokens in lengths {
        let mut random = Generator::new(1);
        let mut caches: Vec<(bool, Cache)> = Vec::new();
        let mut launches = Vec::new();
        for ((_, tiering, page_bytes, code), (.., two)) in rows.iter().zip(ROWS) {
            if !caches.iter().any(|(of, _)| *of == two) {
                let kept = if two { fifth(tokens, tiering, *page_bytes) } else { [tokens, 0] };
                caches.push((two, Cache::new(tiering, *page_bytes, kept, &mut random)));
            }
            let (_, cache) = caches.iter().find(|(of, _)| *of == two).expect("it was just made");
            launches.push(cache.launch(code, &mut random));
        }
        let mut best = [f64::MAX; ROWS.len()];
        // In turn, so that all see the same machine; several times each, as caches hold what a launch has just read.
        for _ in 0..20 {
            for ((launch, _), best) in launches.iter().zip(&mut best) {
                *best = best.min(launch.best(8));
            }
        }
        for (((name, ..), (_, worst)), (best_ms, (.., two))) in
            rows.iter().zip(&launches).zip(best.into_iter().zip(ROWS))
        {
            if has("json") {
                let (_, cache) = caches.iter().find(|(of, _)| *of == two).expect("every row has a cache");
                let ([high, low], name) = (cache.tokens, name.trim());
                println!(
                    r#"{{"name": "{name}", "tokens": {tokens}, "high": {high}, "low": {low}, "best_ms": {best_ms:.4}}}"#
                );
                continue;
            }
            println!(
                "{tokens} tokens, {name}: {best_ms:.4} ms, {:.2} of the first, largest error {worst:.1e}",
                best_ms / best[0]
            );
        }
    }
}
