//! A user's KV operand in the stock attention kernels: any codec and any hook, on every executor, with no edit anywhere else.

mod common;
#[path = "own/contiguous.rs"]
mod contiguous;

use common::{Run, close, halves, random};
use contiguous::Contiguous;
use half::f16;
use leankv_dsl::lang::attention::{Plain, Stock};
use leankv_dsl::lang::*;
use leankv_kernels::chunk::chunk_attention;
use leankv_kernels::decode::{decode_attention, merge_splits};
use leankv_kernels::find;

const D: usize = 64;
const KV_HEADS: usize = 2;
const GROUP: usize = 4;
const CAPACITY: usize = 50;
/// Tokens of the slots; the last one has none.
const LENGTHS: [i32; 3] = [37, 50, 0];
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
    let settings = [("codec", codec), ("head_dim", "64")];
    let grid = [rows.div_ceil(16), 1, 1];
    let mut quantize = Run::new(find("quantize").expect("it is shipped"), &settings);
    quantize.scalar("n", rows as i64).view("x", &random(seed, rows * D), &[rows, D]);
    quantize.buffer("codes", &vec![0u8; rows * D * bits / 8]).buffer("meta", &vec![0u16; rows * words]);
    quantize.interpret(grid);
    let (codes, meta) = (quantize.read::<u8>("codes"), quantize.read::<u16>("meta"));
    let mut back = Run::new(find("dequantize").expect("it is shipped"), &settings);
    back.scalar("n", rows as i64).buffer("codes", &codes).buffer("meta", &meta);
    back.view("out", &vec![0f32; rows * D], &[rows, D]);
    back.interpret(grid);
    Side { codes, meta, values: back.read("out") }
}

fn pass(run: &mut Run, keys: &Side, values: &Side) {
    run.buffer("kv.keys", &keys.codes).buffer("kv.key_meta", &keys.meta);
    run.buffer("kv.values", &values.codes).buffer("kv.value_meta", &values.meta);
    run.view("kv.lengths", &LENGTHS, &[LENGTHS.len()]);
    run.scalar("kv.kv_heads", KV_HEADS as i32).scalar("kv.capacity", CAPACITY as i32);
}

/// No pending queries: without significance nobody looks at them.
fn pending(run: &mut Run, heads: usize) {
    run.view::<f16>("pending.q", &[], &[0, heads, D]).view::<f32>("pending.lse", &[], &[0, heads]);
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

fn settings(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&[("tiering", "K8V4"), ("head_dim", "64"), ("group", "4"), ("block", "16")][..], extra].concat()
}

#[test]
fn decode_attention_reads_a_cache_without_pages() {
    let (keys, values) = (side("affine8", 2, 1), side("affine4", 2, 2));
    let (requests, heads) = (LENGTHS.len(), KV_HEADS * GROUP);
    let (q, q32) = halves(&random(3, requests * heads * D));
    let settings = settings(&[("splits", "2")]);
    let kernel = decode_attention::<Stock, Plain, Contiguous, f16>::named("decode_contiguous");
    let mut decode = Run::new(&kernel, &settings);
    decode.view("q", &q, &[requests, heads, D]).scalar("scale", 0.125f32);
    decode.view("query_positions", &LENGTHS, &[requests]);
    pass(&mut decode, &keys, &values);
    pending(&mut decode, heads);
    decode.view::<i32>("pending.newest", &[], &[0, KV_HEADS, 1]).no_shortlist(KV_HEADS);
    let parts = |run: &mut Run, prefix: &str, from: Option<&Run>| {
        let part = |name: &str, extents: &[usize]| match from {
            Some(run) => run.read::<f32>(&format!("out.{name}")),
            None => vec![f32::NAN; extents.iter().product()],
        };
        for (name, extents) in [
            ("max", vec![requests, heads, SPLITS]),
            ("sum", vec![requests, heads, SPLITS]),
            ("acc", vec![requests, heads, SPLITS, D]),
        ] {
            run.view(&format!("{prefix}.{name}"), &part(name, &extents), &extents);
        }
    };
    parts(&mut decode, "out", None);
    decode.launch([KV_HEADS, requests, SPLITS]);
    let mut merge = Run::new(&merge_splits::<Plain, f16>::named("merge_contiguous"), &settings);
    parts(&mut merge, "parts", Some(&decode));
    merge.view("q", &q, &[requests, heads, D]).view::<i32>("slots", &[], &[0]);
    pending(&mut merge, heads);
    merge.view("out", &vec![f32::NAN; q.len()], &[requests, heads, D]);
    merge.view("lse", &vec![f32::NAN; requests * heads], &[requests, heads]);
    merge.launch([KV_HEADS, requests, 1]);

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
    let kernel = chunk_attention::<Stock, Plain, Contiguous, f16>::named("chunk_contiguous");
    let mut chunk = Run::new(&kernel, &settings(&[("block_q", "4")]));
    chunk.view("q", &q, &[n, heads, D]).view("k", &k, &[n, KV_HEADS, D]).view("v", &v, &[n, KV_HEADS, D]);
    chunk.scalar("before", before).scalar("scale", 0.125f32);
    chunk.view("out", &vec![f32::NAN; q.len()], &[n, heads, D]);
    chunk.view("lse", &vec![f32::NAN; n * heads], &[n, heads]);
    pass(&mut chunk, &keys, &values);
    chunk.launch([n.div_ceil(4), KV_HEADS, 1]);

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
    let kernel = decode_attention::<Stock, Plain, Contiguous, f16>::named("decode_contiguous");
    let settings = settings(&[("significance", "true")]);
    let settings = settings.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let error = kernel.build(&settings).expect_err("it cannot be built").to_string();
    assert!(error.contains("this cache keeps none"), "{error}");
    assert!(error.contains("decode.rs"), "{error}");
}

#[test]
fn an_operand_is_less_than_a_hundred_lines_in_one_file() {
    let lines = include_str!("own/contiguous.rs").lines().count();
    assert!(lines < 100, "{lines} lines");
}
