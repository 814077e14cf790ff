//! A chunk of 256 prompt tokens over 2048 cached ones on one host thread: 32 query heads, 8 KV heads, head dims 64 and 128. Prints the time
//! of each kernel, tokens a second, and the largest error of attention against plain Rust.
//!
//! `cargo bench -p leankv-kernels --bench host_chunk [-- block=32 block_q=64]`.

mod host;

use half::f16;
use host::{Launch, compiled};
use leankv_dsl::codegen::host::HostOptions;
use leankv_dsl::lang::attention::{Lengths, PagedKv, PagedKvArgs, Plain, Stock};
use leankv_dsl::workload::{Generator, given};
use leankv_kernels::chunk::{
    CachedSignificanceArgs, ChunkAttentionArgs, WriteChunkArgs, cached_significance, chunk_attention,
    write_chunk,
};
use leankv_kernels::reference::{self, ChunkArgs, PagedFormat, attend_chunk, write_token};

const HEADS: usize = 8;
const GROUP: usize = 4;
const CHUNK: usize = 256;
const CACHED: usize = 2048;
const PAGE_BYTES: usize = 6784;
/// Launches, of which the fastest counts.
const TURNS: usize = 7;

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
    let mut arena = vec![0u8; HEADS * table_len * PAGE_BYTES];
    let mut random = Generator::new(1);
    for head in 0..HEADS {
        for (tier, count) in counts.into_iter().enumerate() {
            for t in 0..count {
                let paged = if tier == 0 { &high } else { low.as_ref().expect("there is a low tier") };
                let index = t / paged.tokens_per_page();
                let entry = if tier == 0 { index } else { table_len - 1 - index };
                let page = table[head * table_len + entry] as usize;
                let (key, value) = (random.f32s(d, -1.0, 1.0), random.f32s(d, -1.0, 1.0));
                let slot = (t % paged.tokens_per_page()) as u32;
                let page = &mut arena[page * PAGE_BYTES..][..PAGE_BYTES];
                write_token(paged, page, slot, &key, &value, 0.0, (2 * t + tier) as i32)
                    .expect("the slot is in the page");
            }
        }
    }
    let lengths: Vec<i32> = [counts[0] as i32, counts[1] as i32, 0, 0].repeat(HEADS);
    let query_heads = HEADS * GROUP;
    let [(q, q32), (k, k32), (v, v32)] =
        [query_heads, HEADS, HEADS].map(|heads| random.f16s(CHUNK * heads * d, -1.0, 1.0));
    let dest: Vec<i32> = (0..HEADS).flat_map(|_| (0..CHUNK).map(|t| 2 * (counts[0] + t) as i32)).collect();
    let scale = 1.0 / (d as f32).sqrt();
    let input = |x: &[f16], heads: usize| given(x).tensor([CHUNK, heads, d]).into();
    let kv = || PagedKvArgs {
        arena: given(&arena).slice_mut(),
        slots: given(&[0]).tensor([1]),
        table: given(&table).tensor([1, HEADS, table_len]),
        lengths: given(&lengths).tensor([1, HEADS, Lengths::COLUMNS]),
    };
    let args = ChunkAttentionArgs {
        q: input(&q, query_heads),
        k: input(&k, HEADS),
        v: input(&v, HEADS),
        before: CACHED as i32,
        first_query: 0,
        scale,
        kv: kv(),
        out: given(&vec![0.0; q.len()]).tensor_mut([CHUNK, query_heads, d]),
        lse: given(&vec![0.0; CHUNK * query_heads]).tensor_mut([CHUNK, query_heads]),
        codecs: (),
        hooks: (),
    };
    let (pages, options) =
        (format!("tiering={tiering},head_dim={d},page_bytes={PAGE_BYTES}"), HostOptions::default());
    let settings = format!("{pages},group={GROUP},block={block},block_q={block_q}");
    let kernel = chunk_attention::<Stock, Plain, PagedKv>::KERNEL;
    let code = compiled(&kernel, &settings, &options);
    let attend = Launch::new(&code, &kernel, [CHUNK.div_ceil(block_q), HEADS, 1], args);
    let ms = attend.best(TURNS);
    // Two products of `d` multiply-adds for every (query head, key) pair.
    let pairs = query_heads * CHUNK * CACHED + query_heads * CHUNK * (CHUNK + 1) / 2;
    let giga = 4.0 * (pairs * d) as f64 / ms * 1e-6;
    println!(
        "{tiering} at head dim {d}: attention {ms:.1} ms, {:.0} tokens/s, {giga:.1} GFLOP/s (block {block}, block_q {block_q})",
        CHUNK as f64 / ms * 1e3
    );
    // Plain Rust is slow: the first tokens of the chunk, which see what they would see in any chunk.
    let some = 3;
    let cache = reference::PagedKv {
        high: &high,
        low: low.as_ref(),
        arena: &arena,
        slots: &[0],
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
            before: CACHED as i32,
            recent: 64,
        },
        &cache,
    )
    .expect("the arguments fit");
    let worst =
        attend.read::<f32>("out").iter().zip(&expected.out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-3, "the output is wrong by {worst}");
    let args = CachedSignificanceArgs {
        q: input(&q, query_heads),
        lse: given(&attend.read("lse")).tensor([CHUNK, query_heads]),
        before: CACHED as i32,
        scale,
        window: 64,
        kv: kv(),
        codecs: (),
        hooks: (),
    };
    let kernel = cached_significance::<Stock, Plain, PagedKv>::KERNEL;
    let code = compiled(&kernel, &settings, &options);
    let ms = Launch::new(&code, &kernel, [4, HEADS, 1], args).best(TURNS);
    let args = WriteChunkArgs {
        keys: input(&k, HEADS),
        values: input(&v, HEADS),
        words: given(&[0.0; HEADS * CHUNK]).tensor([HEADS, CHUNK]),
        dest: given(&dest).tensor([HEADS, CHUNK]),
        before: CACHED as i32,
        kv: kv(),
        codecs: (),
    };
    let kernel = write_chunk::<Stock>::KERNEL;
    let code = compiled(&kernel, &format!("{pages},block=16"), &options);
    let write_ms = Launch::new(&code, &kernel, [CHUNK.div_ceil(16), HEADS, 1], args).best(TURNS);
    println!("    largest error {worst:.1e}; significance of 64 queries {ms:.1} ms, write {write_ms:.2} ms");
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
