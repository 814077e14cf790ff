//! A chunk of 256 prompt tokens over 2048 cached ones on one host thread: 32 query heads, 8 KV heads, head dims 64 and 128. Prints the time
//! of each kernel, tokens a second, and the largest error of attention against plain Rust.
//!
//! `cargo bench -p leankv-kernels --bench host_chunk [-- block=32 block_q=64]`.

use std::collections::BTreeMap;
use std::time::Instant;

use half::f16;
use leankv_dsl::codegen::host::{HostArg, HostKernel, HostOptions, compile};
use leankv_dsl::ir::Func;
use leankv_dsl::lang::Settings;
use leankv_dsl::pass::{self, Facts};
use leankv_kernels::reference::{ChunkArgs, PagedFormat, PagedKv, attend_chunk, write_token};

const HEADS: usize = 8;
const GROUP: usize = 4;
const CHUNK: usize = 256;
const CACHED: usize = 2048;
const PAGE_BYTES: usize = 6784;
/// Launches, of which the fastest counts.
const TURNS: usize = 7;

struct Lcg(u64);

impl Lcg {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn halves(&mut self, len: usize) -> Vec<f16> {
        (0..len).map(|_| f16::from_f32(self.unit())).collect()
    }
}

/// Arguments by parameter name.
#[derive(Default)]
struct Args(BTreeMap<String, HostArg>);

impl Args {
    fn view(&mut self, name: &str, at: impl Into<HostArg>, shape: &[usize]) {
        self.0.insert(name.to_owned(), at.into());
        for (i, &extent) in shape.iter().enumerate() {
            self.0.insert(format!("{name}.shape{i}"), HostArg::from(extent as i64));
            let stride: usize = shape[i + 1..].iter().product();
            self.0.insert(format!("{name}.stride{i}"), HostArg::from(stride as i64));
        }
    }

    fn put(&mut self, name: &str, value: impl Into<HostArg>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn of(&self, func: &Func) -> Vec<HostArg> {
        func.params.iter().map(|p| self.0[&p.name]).collect()
    }
}

/// Compiles a kernel; its function and code.
fn load(name: &str, settings: &[(&str, String)]) -> (Func, HostKernel) {
    let kernel = leankv_kernels::find(name).expect("the kernel is shipped");
    let settings: Settings = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let func = kernel.build(&settings).unwrap_or_else(|e| panic!("{e}"));
    let mut lowered = func.clone();
    pass::standard().run(&mut lowered, &mut Facts::new()).unwrap_or_else(|e| panic!("{e}"));
    let artifact = compile(&lowered, &HostOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let loaded = HostKernel::load(&artifact).unwrap_or_else(|e| panic!("{e}"));
    (func, loaded)
}

/// The shortest of several launches in milliseconds.
fn time(kernel: &(Func, HostKernel), args: &Args, grid: [u32; 3]) -> f64 {
    let values = args.of(&kernel.0);
    let mut best = f64::MAX;
    for _ in 0..TURNS {
        let start = Instant::now();
        // SAFETY: the arguments are the kernel's parameters in order, the views describe the buffers.
        unsafe { kernel.1.launch(grid, &values, 1) }.unwrap_or_else(|e| panic!("{e}"));
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    best
}

fn bench(tiering: &str, d: usize, block: usize, block_q: usize) {
    let (high_name, low_name) = tiering.split_once('/').unwrap_or((tiering, ""));
    let paged = |name: &str| {
        let format = name.parse().expect("this is a name of a format");
        PagedFormat::new(format, d as u32, PAGE_BYTES as u32).expect("a page of this size holds tokens")
    };
    let high = paged(high_name);
    let low = if low_name.is_empty() { None } else { Some(paged(low_name)) };
    let counts = if low.is_some() { [CACHED / 2, CACHED / 2] } else { [CACHED, 0] };
    let room = |paged: &PagedFormat, tokens: usize| (tokens + CHUNK).div_ceil(paged.tokens_per_page());
    let table_len = room(&high, counts[0]) + low.as_ref().map_or(0, |low| room(low, counts[1]));
    let table: Vec<i32> = (0..(HEADS * table_len) as i32).collect();
    let mut arena = vec![0u32; HEADS * table_len * PAGE_BYTES / 4];
    let mut lcg = Lcg(1);
    {
        let len = arena.len() * 4;
        // SAFETY: the words' own memory, seen as bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(arena.as_mut_ptr().cast::<u8>(), len) };
        for head in 0..HEADS {
            for (tier, count) in counts.into_iter().enumerate() {
                for t in 0..count {
                    let paged = if tier == 0 { &high } else { low.as_ref().expect("there is a low tier") };
                    let index = t / paged.tokens_per_page();
                    let entry = if tier == 0 { index } else { table_len - 1 - index };
                    let page = table[head * table_len + entry] as usize;
                    let (key, value): (Vec<f32>, Vec<f32>) = (0..d).map(|_| (lcg.unit(), lcg.unit())).unzip();
                    let slot = (t % paged.tokens_per_page()) as u32;
                    let page = &mut bytes[page * PAGE_BYTES..][..PAGE_BYTES];
                    write_token(paged, page, slot, &key, &value, 0.0, (2 * t + tier) as i32)
                        .expect("the slot is in the page");
                }
            }
        }
    }
    let lengths: Vec<i32> = [counts[0] as i32, counts[1] as i32, 0, 0].repeat(HEADS);
    let (slots, query_heads) = ([0i32], HEADS * GROUP);
    let (q, k, v) =
        (lcg.halves(CHUNK * query_heads * d), lcg.halves(CHUNK * HEADS * d), lcg.halves(CHUNK * HEADS * d));
    let (mut out, mut lse) = (vec![0f32; q.len()], vec![0f32; CHUNK * query_heads]);
    let mass = vec![0f32; HEADS * CHUNK];
    let dest: Vec<i32> = (0..HEADS).flat_map(|_| (0..CHUNK).map(|t| 2 * (counts[0] + t) as i32)).collect();
    let scale = 1.0 / (d as f32).sqrt();

    let mut args = Args::default();
    args.view("q", q.as_ptr(), &[CHUNK, query_heads, d]);
    for (name, x) in [("k", &k), ("v", &v), ("keys", &k), ("values", &v)] {
        args.view(name, x.as_ptr(), &[CHUNK, HEADS, d]);
    }
    args.put("before", CACHED as i32);
    args.put("scale", scale);
    args.put("window", 64i32);
    args.put("kv.arena", arena.as_mut_ptr());
    args.view("kv.slots", slots.as_ptr(), &[1]);
    args.view("kv.table", table.as_ptr(), &[1, HEADS, table_len]);
    args.view("kv.lengths", lengths.as_ptr(), &[1, HEADS, 4]);
    args.view("out", out.as_mut_ptr(), &[CHUNK, query_heads, d]);
    args.view("lse", lse.as_mut_ptr(), &[CHUNK, query_heads]);
    args.view("mass", mass.as_ptr(), &[HEADS, CHUNK]);
    args.view("dest", dest.as_ptr(), &[HEADS, CHUNK]);

    let common = [
        ("tiering", tiering.to_owned()),
        ("head_dim", d.to_string()),
        ("page_bytes", PAGE_BYTES.to_string()),
    ];
    let attention = [
        common.to_vec(),
        vec![("group", GROUP.to_string()), ("block", block.to_string()), ("block_q", block_q.to_string())],
    ]
    .concat();
    let attend = load("chunk_attention", &attention);
    let ms = time(&attend, &args, [CHUNK.div_ceil(block_q) as u32, HEADS as u32, 1]);
    // Two products of `d` multiply-adds for every (query head, key) pair.
    let pairs = query_heads * CHUNK * CACHED + query_heads * CHUNK * (CHUNK + 1) / 2;
    let giga = 4.0 * (pairs * d) as f64 / ms * 1e-6;
    println!(
        "{tiering} at head dim {d}: attention {ms:.1} ms, {:.0} tokens/s, {giga:.1} GFLOP/s (block {block}, block_q {block_q})",
        CHUNK as f64 / ms * 1e3
    );
    let floats = |x: &[f16]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
    let (q32, k32, v32) = (floats(&q), floats(&k), floats(&v));
    // Plain Rust is slow: the first tokens of the chunk, which see what they would see in any chunk.
    let some = 3;
    let kv = PagedKv {
        high: &high,
        low: low.as_ref(),
        arena: as_bytes(&arena),
        slots: &slots,
        page_table: &table,
        lengths: &lengths,
        table_len,
    };
    let expected = attend_chunk(
        &ChunkArgs {
            q: &q32[..some * query_heads * d],
            k: &k32[..some * HEADS * d],
            v: &v32[..some * HEADS * d],
            query_heads,
            kv_heads: HEADS,
            scale,
            window: 64,
        },
        &kv,
    )
    .expect("the arguments fit");
    let worst = out.iter().zip(&expected.out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-3, "the output is wrong by {worst}");
    let significance = load("cached_significance", &attention);
    let ms = time(&significance, &args, [4, HEADS as u32, 1]);
    let write = load("write_chunk", &[common.to_vec(), vec![("block", "16".to_owned())]].concat());
    let write_ms = time(&write, &args, [CHUNK.div_ceil(16) as u32, HEADS as u32, 1]);
    println!("    largest error {worst:.1e}; significance of 64 queries {ms:.1} ms, write {write_ms:.2} ms");
}

/// The words' own memory, as bytes.
fn as_bytes(words: &[u32]) -> &[u8] {
    // SAFETY: any memory of words is memory of bytes, four times as many.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 4) }
}

fn main() {
    let setting = |name: &str, default: usize| {
        let value = std::env::args().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        value.unwrap_or(default)
    };
    let (block, block_q) = (setting("block", 16), setting("block_q", 16));
    for d in [64, 128] {
        for tiering in ["fp16", "K8V4", "K8V4/K4V2"] {
            bench(tiering, d, block, block_q);
        }
    }
}
