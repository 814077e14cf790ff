//! A user's KV operand in the stock attention kernels: any codec and any hook, on every executor, with no edit anywhere else.

mod common;
#[path = "own/contiguous.rs"]
mod contiguous;

use common::{
    Run, close, filled, halves, no_finds, no_partials, no_shortlist, not_looking, nothing_pending, partials,
    random,
};
use contiguous::{Contiguous, ContiguousArgs};
use leankv_dsl::lang::attention::{Plain, Stock};
use leankv_dsl::lang::*;
use leankv_dsl::workload::given;
use leankv_kernels::chunk::{ChunkAttentionArgs, chunk_attention};
use leankv_kernels::decode::{DecodeAttentionArgs, MergeSplitsArgs, decode_attention, merge_splits};
use leankv_kernels::pending::PendingMutArgs;
use leankv_kernels::quantize::{DequantizeArgs, QuantizeArgs, dequantize, quantize};

const D: usize = 64;
const KV_HEADS: usize = 2;
const GROUP: usize = 4;
const CAPACITY: usize = 50;
/// Tokens of the slots; the last one has none.
const LENGTHS: [i32; 3] = [37, 50, 0];
/// Of the longest list, which has four blocks.
const SPLITS: usize = 2;

/// One side of the cache: codes and metadata of every row, and the values that they stand for.
struct Side {
    codes: Vec<u8>,
    meta: Vec<u16>,
    values: Vec<f32>,
}

fn side(codec: &str, words: usize, seed: u64) -> Side {
    let rows = LENGTHS.len() * KV_HEADS * CAPACITY;
    let bits: usize = codec.trim_start_matches(char::is_alphabetic).parse().expect("a codec's bits");
    let (settings, grid) = (format!("codec={codec},head_dim={D}"), [rows.div_ceil(16), 1, 1]);
    let args = QuantizeArgs {
        n: rows as i64,
        x: given(&random(seed, rows * D)).tensor([rows, D]),
        codes: given(&vec![0; rows * D * bits / 8]).slice_mut(),
        meta: given(&vec![0; rows * words]).slice_mut(),
        codecs: (),
    };
    let coded = Run::new(&quantize::<Stock>::KERNEL, &settings, grid, args).interpret();
    let (codes, meta) = (coded.read("codes"), coded.read("meta"));
    let args = DequantizeArgs {
        n: rows as i64,
        codes: given(&codes).slice(),
        meta: given(&meta).slice(),
        out: filled(0.0, [rows, D]),
        codecs: (),
    };
    let back = Run::new(&dequantize::<Stock>::KERNEL, &settings, grid, args).interpret();
    Side { codes, meta, values: back.read("out") }
}

fn kv(keys: &Side, values: &Side) -> ContiguousArgs<'static> {
    ContiguousArgs {
        keys: given(&keys.codes).slice(),
        key_meta: given(&keys.meta).slice(),
        values: given(&values.codes).slice(),
        value_meta: given(&values.meta).slice(),
        lengths: given(&LENGTHS).tensor([LENGTHS.len()]),
        kv_heads: KV_HEADS as i32,
        capacity: CAPACITY as i32,
    }
}

/// Attention in f32 of a query to `tokens`, pairs of key and value.
fn attend<'a>(q: &[f32], tokens: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> Vec<f32> {
    let tokens: Vec<_> = tokens.collect();
    let dot = |k: &[f32]| 0.125 * q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>();
    let logits: Vec<f32> = tokens.iter().map(|(k, _)| dot(k)).collect();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut out = vec![0f32; D];
    let sum: f32 = logits.iter().map(|l| (l - max).exp()).sum();
    for (logit, (_, v)) in logits.iter().zip(&tokens) {
        let weight = (logit - max).exp() / sum;
        out.iter_mut().zip(*v).for_each(|(out, v)| *out += weight * v);
    }
    out
}

/// The cached tokens of a (slot, KV head).
fn cached<'a>(
    keys: &'a Side,
    values: &'a Side,
    slot: usize,
    head: usize,
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let first = (slot * KV_HEADS + head) * CAPACITY * D;
    let tokens = LENGTHS[slot] as usize;
    keys.values[first..][..tokens * D].chunks(D).zip(values.values[first..].chunks(D))
}

const SETTINGS: &str = "tiering=K8V4,head_dim=64,group=4,block=16,split_pages=2";

#[test]
fn decode_attention_reads_a_cache_without_pages() {
    let (keys, values) = (side("affine8", 2, 1), side("affine4", 2, 2));
    let (requests, heads) = (LENGTHS.len(), KV_HEADS * GROUP);
    let (q, q32) = halves(&random(3, requests * heads * D));
    let parts = [requests, heads, SPLITS];
    let args = DecodeAttentionArgs {
        q: given(&q).tensor([requests, heads, D]).into(),
        query_positions: given(&LENGTHS).tensor([requests]),
        scale: 0.125,
        kv: kv(&keys, &values),
        out: no_partials(parts, KV_HEADS, D),
        pending: nothing_pending(heads, KV_HEADS, D),
        shortlist: not_looking(KV_HEADS),
        codecs: (),
        hooks: (),
    };
    let kernel = decode_attention::<Stock, Plain, Contiguous>::named("decode_contiguous");
    let decode = Run::new(&kernel, SETTINGS, [KV_HEADS, requests, SPLITS], args).launch();
    let args = MergeSplitsArgs {
        parts: partials(&decode, parts, KV_HEADS, D),
        q: given(&q).tensor([requests, heads, D]).into(),
        slots: given(&[]).tensor([0]),
        finds: no_finds(KV_HEADS),
        shortlist: no_shortlist(KV_HEADS),
        pending: PendingMutArgs { q: filled(half::f16::ZERO, [0, heads, D]), lse: filled(0.0, [0, heads]) },
        out: filled(f32::NAN, [requests, heads, D]),
        lse: filled(f32::NAN, [requests, heads]),
        hooks: (),
    };
    let merge = Run::new(&merge_splits::<Plain>::KERNEL, SETTINGS, [KV_HEADS, requests, 1], args).launch();

    let row = |row: usize| {
        let (slot, head) = (row / heads, row % heads / GROUP);
        attend(&q32[row * D..][..D], cached(&keys, &values, slot, head))
    };
    let expected: Vec<f32> = (0..requests * heads).flat_map(row).collect();
    close("attention", &merge.read::<f32>("out"), &expected, 2e-3);
}

#[test]
fn a_chunk_of_a_prompt_attends_to_a_cache_without_pages() {
    let (keys, values) = (side("affine8", 2, 4), side("affine4", 2, 5));
    let (n, heads, before) = (9, KV_HEADS * GROUP, LENGTHS[0]);
    let (q, q32) = halves(&random(6, n * heads * D));
    let (k, k32) = halves(&random(7, n * KV_HEADS * D));
    let (v, v32) = halves(&random(8, n * KV_HEADS * D));
    let args = ChunkAttentionArgs {
        q: given(&q).tensor([n, heads, D]).into(),
        k: given(&k).tensor([n, KV_HEADS, D]).into(),
        v: given(&v).tensor([n, KV_HEADS, D]).into(),
        before,
        first_query: 0,
        scale: 0.125,
        kv: kv(&keys, &values),
        out: filled(f32::NAN, [n, heads, D]),
        lse: filled(f32::NAN, [n, heads]),
        codecs: (),
        hooks: (),
    };
    let kernel = chunk_attention::<Stock, Plain, Contiguous>::named("chunk_contiguous");
    let chunk = Run::new(
        &kernel,
        "tiering=K8V4,head_dim=64,group=4,block=16,block_q=4",
        [n.div_ceil(4), KV_HEADS, 1],
        args,
    )
    .launch();

    let row = |row: usize| {
        let (query, head) = (row / heads, row % heads / GROUP);
        let own = |x: &'_ [f32], t: usize| x[(t * KV_HEADS + head) * D..][..D].to_vec();
        let own: Vec<_> = (0..=query).map(|t| (own(&k32, t), own(&v32, t))).collect();
        let own = own.iter().map(|(k, v)| (&k[..], &v[..]));
        attend(&q32[row * D..][..D], cached(&keys, &values, 0, head).chain(own))
    };
    let expected: Vec<f32> = (0..n * heads).flat_map(row).collect();
    close("attention", &chunk.read::<f32>("out"), &expected, 2e-3);
}

#[test]
fn significance_of_an_operand_that_keeps_none_is_an_error_of_the_specialisation() {
    let kernel = decode_attention::<Stock, Plain, Contiguous>::named("decode_contiguous");
    let settings = common::settings(&format!("{SETTINGS},significance=true"));
    let error = kernel.build(&settings).expect_err("it cannot be built").to_string();
    assert!(error.contains("this cache keeps none"), "{error}");
    assert!(error.contains("decode.rs"), "{error}");
}

#[test]
fn an_operand_is_less_than_a_hundred_lines_in_one_file() {
    let lines = include_str!("own/contiguous.rs").lines().count();
    assert!(lines < 100, "{lines} lines");
}
