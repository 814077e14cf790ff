//! A chunk of a prompt against its reference, on every executor: attention, significance, and the write of both tiers.

mod common;

use common::cache::Cache;
use common::{Run, close, filled, halves, random, spec};
use half::{bf16, f16};
use leankv_dsl::lang::attention::{
    AttentionHooks, ChosenHooks, ForLayer, HookChoice, HookVariant, PagedKv, Plain, Site, Stock,
};
use leankv_dsl::lang::launch::FloatTensor;
use leankv_dsl::lang::*;
use leankv_dsl::workload::{Item, given};
use leankv_kernels::chunk::{
    CachedSignificanceArgs, ChunkAttentionArgs, ChunkSignificanceArgs, ChunkSpec, WriteChunkArgs,
    cached_significance, chunk_attention, chunk_significance, write_chunk,
};
use leankv_kernels::reference::{self, ChunkArgs, attend_chunk};

const KV_HEADS: usize = 2;

/// Every kind of tiering that the published system has, and unquantised ones.
const TIERINGS: [&str; 8] =
    ["fp16", "bf16", "K8V8", "K8V4", "K4V4", "K8V2", "K8V4/K4V2", "K8V4g1.2/K4V2g2.4"];

struct Shape {
    d: usize,
    group: usize,
    block: usize,
    block_q: usize,
}

impl Shape {
    fn settings(&self, tiering: &str, page: usize) -> String {
        let Shape { d, group, block, block_q } = self;
        format!(
            "tiering={tiering},head_dim={d},page_bytes={page},group={group},block={block},block_q={block_q},splits=3"
        )
    }
}

/// Halves as a kernel's input.
fn input<const R: usize>(x: &[f16], extents: [usize; R]) -> FloatTensor<'static, R> {
    given(x).tensor(extents).into()
}

/// Attention of a chunk to a cache and to itself.
fn attend<H: AttentionHooks + KernelArg + 'static>(
    (shape, settings): (&Shape, &str),
    cache: &Cache,
    [q, k, v]: [&[f16]; 3],
    (before, scale): (i32, f32),
    (choices, hooks): (&Choices, H::Given<'_>),
) -> Run {
    let (n, heads) = (k.len() / (KV_HEADS * shape.d), KV_HEADS * shape.group);
    let args = ChunkAttentionArgs {
        q: input(q, [n, heads, shape.d]),
        k: input(k, [n, KV_HEADS, shape.d]),
        v: input(v, [n, KV_HEADS, shape.d]),
        before,
        first_query: 0,
        scale,
        kv: cache.kv(),
        out: filled(f32::NAN, [n, heads, shape.d]),
        lse: filled(f32::NAN, [n, heads]),
        codecs: (),
        hooks,
    };
    let kernel = chunk_attention::<Stock, H, PagedKv>::KERNEL;
    let grid = [n.div_ceil(shape.block_q), KV_HEADS, 1];
    Run::with(&kernel, &spec(&kernel, settings), choices, grid, args).launch()
}

/// Attention and significance of a chunk of `n` tokens after `lengths[head]` cached ones; `frozen` of each list are shared.
fn check(
    tiering: &str,
    shape: &Shape,
    lengths: [[usize; 2]; KV_HEADS],
    n: usize,
    window: usize,
    frozen: i32,
) {
    let page = 32 * shape.d;
    let mut cache = Cache::new(tiering, shape.d, page, KV_HEADS, 12);
    let before = 150;
    for (head, &[high, low]) in lengths.iter().enumerate() {
        // Positions of both tiers alternate, as they do in a real cache.
        cache.append(head, false, (0..high as i32).map(|t| 2 * t));
        if tiering.contains('/') {
            cache.append(head, true, (0..low as i32).map(|t| 2 * t + 1));
        }
        let at = cache.lengths.len() - (KV_HEADS - head) * 4;
        for tier in 0..2 {
            cache.lengths[at + 2 + tier] = frozen.min(cache.lengths[at + tier]);
        }
    }
    let heads = KV_HEADS * shape.group;
    let (q, q32) = halves(&random(31, n * heads * shape.d));
    let (k, k32) = halves(&random(32, n * KV_HEADS * shape.d));
    let (v, v32) = halves(&random(33, n * KV_HEADS * shape.d));
    let scale = 1.0 / (shape.d as f32).sqrt();
    let (query_heads, kv_heads, recent) = (heads, KV_HEADS, 64);
    let args = ChunkArgs { q: &q32, k: &k32, v: &v32, query_heads, kv_heads, scale, window, before, recent };
    let expected = attend_chunk(&args, &cache.view()).unwrap();

    let settings = shape.settings(tiering, page);
    let what =
        format!("{tiering}, head dim {}, group {}, {n} tokens after {lengths:?}", shape.d, shape.group);
    let (numbers, plain) = ([&q[..], &k, &v], (&Choices::new(), ()));
    let attention = attend::<Plain>((shape, &settings), &cache, numbers, (before, scale), plain);
    close(&format!("output of {what}"), &attention.read::<f32>("out"), &expected.out, 2e-3);
    let lse = attention.read::<f32>("lse");
    close(&format!("lse of {what}"), &lse, &expected.lse, 1e-3);

    let args = CachedSignificanceArgs {
        q: input(&q, [n, heads, shape.d]),
        lse: given(&lse).tensor([n, heads]),
        before,
        scale,
        window: window as i32,
        kv: cache.kv(),
        codecs: (),
        hooks: (),
    };
    let kernel = cached_significance::<Stock, Plain, PagedKv>::KERNEL;
    let cached = Run::new(&kernel, &settings, [3, KV_HEADS, 1], args).launch();
    let mut after = cache.clone();
    for (head, step) in expected.cached.iter().enumerate() {
        after.add(head, &step.iter().map(|share| share.sum).collect::<Vec<_>>());
    }
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
    };
    let (was, got, expect) =
        (words(&cache.arena), words(&cached.read::<u8>("kv.arena")), words(&after.arena));
    for (i, ((was, got), expect)) in was.iter().zip(&got).zip(&expect).enumerate() {
        let difference = (f32::from_bits(*got) - f32::from_bits(*expect)).abs();
        let fine = got == expect || (was != expect && difference < 3e-4);
        assert!(fine, "{what}: word {i} of the arena is {got:#x}, was {was:#x}, expected {expect:#x}");
    }

    let args = ChunkSignificanceArgs {
        q: input(&q, [n, heads, shape.d]),
        k: input(&k, [n, KV_HEADS, shape.d]),
        lse: given(&lse).tensor([n, heads]),
        before,
        first_query: 0,
        scale,
        window: window as i32,
        priors: given(&[]).tensor([0, KV_HEADS]),
        words: filled(f32::NAN, [KV_HEADS, n]),
        hooks: (),
    };
    let grid = [n.div_ceil(shape.block), KV_HEADS, 1];
    let own = Run::new(&chunk_significance::<Plain>::KERNEL, &settings, grid, args).launch();
    let mass: Vec<f32> = expected.own.iter().map(|share| share.sum).collect();
    close(&format!("mass of {what}"), &own.read::<f32>("words"), &mass, 3e-4);
}

#[test]
fn chunks_attend_to_every_kind_of_cache() {
    let shape = Shape { d: 64, group: 2, block: 16, block_q: 8 };
    for tiering in TIERINGS {
        check(tiering, &shape, [[21, 30], [9, 0]], 11, 6, 0);
    }
}

#[test]
fn head_dims_and_query_groups() {
    let two = "K8V4/K4V2";
    check(two, &Shape { d: 128, group: 4, block: 16, block_q: 4 }, [[13, 20], [0, 7]], 9, 64, 0);
    check(two, &Shape { d: 256, group: 1, block: 8, block_q: 16 }, [[9, 10], [3, 0]], 17, 5, 0);
    check(two, &Shape { d: 64, group: 7, block: 16, block_q: 2 }, [[13, 20], [0, 7]], 5, 64, 0);
    check("fp16", &Shape { d: 256, group: 2, block: 8, block_q: 8 }, [[9, 0], [1, 0]], 8, 3, 0);
}

/// As many chunk tokens a tile as the engine takes for these groups.
#[test]
fn query_groups_of_more_heads_than_a_decode_tile_has() {
    for group in [32, 48, 71] {
        let shape = Shape { d: 64, group, block: 16, block_q: ChunkSpec::block_q_of(group) };
        check("K8V4/K4V2", &shape, [[13, 20], [0, 7]], 5, 3, 0);
    }
}

#[test]
fn empty_caches_and_chunks_of_one_token() {
    let shape = Shape { d: 64, group: 2, block: 16, block_q: 8 };
    for n in [1, 8, 20] {
        check("K8V4/K4V2", &shape, [[0, 0], [0, 0]], n, 64, 0);
    }
    check("K8V4/K4V2", &shape, [[33, 4], [1, 1]], 1, 64, 0);
    check("K8V4/K4V2", &shape, [[0, 40], [0, 1]], 1, 1, 0);
}

#[test]
fn frozen_tokens_are_attended_to_and_left_as_they_are() {
    let shape = Shape { d: 64, group: 2, block: 16, block_q: 8 };
    check("K8V4/K4V2", &shape, [[21, 30], [9, 2]], 5, 64, 9);
}

/// What NaN in keys and values does: it reaches the queries that attend to it, and no query of an earlier tile or another KV head.
#[test]
fn what_is_no_number_stays_where_it_was_seen() {
    let shape = Shape { d: 64, group: 2, block: 16, block_q: 8 };
    let (n, heads, at) = (70, KV_HEADS * shape.group, 60);
    let cache = Cache::new("fp16", shape.d, 2048, KV_HEADS, 1);
    let (q, _) = halves(&random(61, n * heads * shape.d));
    let (mut k, _) = halves(&random(62, n * KV_HEADS * shape.d));
    let (mut v, _) = halves(&random(63, n * KV_HEADS * shape.d));
    let settings = shape.settings("fp16", 2048);
    let attend = |k: &[f16], v: &[f16]| {
        let plain = (&Choices::new(), ());
        attend::<Plain>((&shape, &settings), &cache, [&q, k, v], (0, 0.125), plain).read::<f32>("out")
    };
    let clean = attend(&k, &v);
    // Element 0 of KV head 0's key, then of its value.
    let keep = std::mem::replace(&mut k[at * KV_HEADS * shape.d], f16::NAN);
    let of_key = attend(&k, &v);
    k[at * KV_HEADS * shape.d] = keep;
    v[at * KV_HEADS * shape.d] = f16::NAN;
    let of_value = attend(&k, &v);
    for (row, what) in (0..n * heads).map(|row| (row, format!("query {}, head {}", row / heads, row % heads)))
    {
        let (query, mine) = (row / heads, row % heads < shape.group);
        let row = row * shape.d..(row + 1) * shape.d;
        // A masked logit is replaced, so a key reaches nobody who may not see it.
        if mine && query >= at {
            assert!(of_key[row.clone()].iter().all(|x| x.is_nan()), "{what}");
            assert!(of_value[row.start].is_nan(), "{what}");
        } else {
            assert_eq!(of_key[row.clone()], clean[row.clone()], "{what}");
        }
        // A masked value weighs nothing, but nothing times NaN is NaN within a tile.
        if !mine || query < at / shape.block * shape.block {
            assert_eq!(of_value[row.start], clean[row.start], "{what}");
        }
        assert_eq!(of_value[row.start + 1..row.end], clean[row.start + 1..row.end], "{what}");
    }
}

/// Where each token of a chunk goes: a mixture of both tiers and pruned tokens, everything in one tier, or nothing at all.
fn destinations(cache: &Cache, n: usize, tier: impl Fn(usize) -> i32) -> Vec<i32> {
    let mut dest = Vec::new();
    for head in 0..KV_HEADS {
        let mut next = [cache.length(head, true) as i32, cache.length(head, false) as i32];
        for t in 0..n {
            match tier(t + head) {
                0 => dest.push(-1),
                tier => {
                    let low = i32::from(tier == 1);
                    dest.push(2 * next[1 - low as usize] + low);
                    next[1 - low as usize] += 1;
                }
            }
        }
    }
    dest
}

/// A kernel's input, and its exact values.
type Cast = fn(&[f32], [usize; 3]) -> (FloatTensor<'static, 3>, Vec<f32>);

fn cast<E: Float + Item + Into<f32>>(x: &[f32], extents: [usize; 3]) -> (FloatTensor<'static, 3>, Vec<f32>) {
    let x: Vec<E> = x.iter().map(|&x| E::of(x.into())).collect();
    (given(&x).tensor(extents).into(), x.into_iter().map(Into::into).collect())
}

/// Writes a chunk and compares every byte of the arena.
fn check_write(tiering: &str, kind: &str, d: usize, n: usize, tier: impl Fn(usize) -> i32) {
    let page = 32 * d;
    let two = tiering.contains('/');
    let tier = |t: usize| match tier(t) {
        1 if !two => 2,
        tier => tier,
    };
    let mut cache = Cache::new(tiering, d, page, KV_HEADS, 9);
    for head in 0..KV_HEADS {
        cache.append(head, false, (0..5 + head as i32).map(|t| 2 * t));
        if two && head == 0 {
            cache.append(head, true, (0..3).map(|t| 2 * t + 1));
        }
    }
    let dest = destinations(&cache, n, tier);
    for head in 0..KV_HEADS {
        for to in dest[head * n..][..n].iter().filter(|to| **to >= 0) {
            cache.reserve(head, to % 2 == 1, *to as usize / 2 + 1);
        }
    }
    let len = n * KV_HEADS * d;
    let [keys, values] = [41, 42].map(|seed| match kind {
        "special" => spoiled(&random(seed, len)),
        _ => random(seed, len),
    });
    let mass = random(43, KV_HEADS * n);
    let before = 100;
    let (cast, kind): (Cast, _) = match kind {
        "bf16" => (cast::<bf16>, kind),
        "f32" => (cast::<f32>, kind),
        _ => (cast::<f16>, "f16"),
    };
    let extents = [n, KV_HEADS, d];
    let ((keys_in, keys), (values_in, values)) = (cast(&keys, extents), cast(&values, extents));
    let args = WriteChunkArgs {
        keys: keys_in,
        values: values_in,
        words: given(&mass).tensor([KV_HEADS, n]),
        dest: given(&dest).tensor([KV_HEADS, n]),
        before,
        kv: cache.kv(),
        codecs: (),
    };
    let settings = format!("tiering={tiering},head_dim={d},page_bytes={page},input={kind},block=8");
    let run = Run::new(&write_chunk::<Stock>::KERNEL, &settings, [n.div_ceil(8), KV_HEADS, 1], args).launch();
    let (rows, mut expected) = (cache.rows().to_vec(), cache.arena.clone());
    reference::write_chunk(
        &cache.high,
        cache.low.as_ref(),
        &mut expected,
        &rows,
        &keys,
        &values,
        &mass,
        &dest,
        before,
        KV_HEADS,
    )
    .unwrap();
    let got = run.read::<u8>("kv.arena");
    let first = got.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(first, None, "pages of {tiering} at head dim {d}, {n} tokens of {kind}");
}

#[test]
fn chunks_are_written_in_every_format() {
    for tiering in TIERINGS {
        check_write(tiering, "f16", 64, 19, |t| [2, 1, 0, 1, 2, 2, 1][t % 7]);
    }
}

#[test]
fn chunks_of_every_input_type_and_head_dim() {
    for kind in ["f16", "bf16", "f32"] {
        for d in [64, 128, 256] {
            check_write("K8V4/K4V2", kind, d, 9, |t| [2, 1, 0][t % 3]);
        }
    }
    check_write("K8V4g1.2/K4V2g2.4", "bf16", 128, 9, |t| [2, 1, 0][t % 3]);
}

#[test]
fn chunks_are_written_in_odd_widths_and_groups() {
    for (tiering, d) in [("K3V5", 80), ("K8sV2", 96), ("K8V4-bf16", 128), ("K4V2g2.4", 64)] {
        check_write(tiering, "f16", d, 19, |t| [2, 0][t % 2]);
    }
}

/// Numbers among which stand NaNs and infinities of both signs, vectors of nothing but NaN included.
fn spoiled(x: &[f32]) -> Vec<f32> {
    let special = |i: usize, x: f32| match i {
        _ if i < 128 || i % 17 == 3 => f32::NAN,
        _ if i % 23 == 5 => f32::INFINITY,
        _ if i % 29 == 7 => f32::NEG_INFINITY,
        _ => x,
    };
    x.iter().enumerate().map(|(i, &x)| special(i, x)).collect()
}

#[test]
fn not_numbers_and_infinities_are_stored_as_the_formats_say() {
    for (tiering, d) in [("fp16", 64), ("K8V4/K4V2", 64), ("K4V2g2.4", 64), ("K3V5", 80), ("K8sV2", 96)] {
        check_write(tiering, "special", d, 7, |t| 1 + (t % 2) as i32);
    }
}

#[test]
fn all_high_all_low_all_pruned_and_one_token() {
    for n in [1, 8, 20] {
        for tier in 0..3 {
            check_write("K8V4/K4V2", "f16", 64, n, |_| tier);
        }
    }
}

#[test]
fn a_chunk_fills_pages_exactly_and_lists_meet_in_the_middle_of_the_table() {
    // Head dim 64, pages of 2048 bytes: the table's 9 entries are all taken, the last high one next to the last low one.
    let cache = Cache::new("K8V4/K4V2", 64, 2048, KV_HEADS, 9);
    let (high, low) = (cache.paged(false).tokens_per_page(), cache.paged(true).tokens_per_page());
    // Head 0 has 5 high and 3 low tokens: 4 high pages and 5 low pages, all full.
    let (more_high, more_low) = (4 * high - 5, 5 * low - 3);
    let n = more_high + more_low;
    check_write("K8V4/K4V2", "f16", 64, n, |t| if t < more_high { 2 } else { 1 });
    // High tokens that fill exactly one page.
    check_write("K8V4", "f16", 64, high - 5, |_| 2);
}

/// A window that slides with each query, and a slope that depends on the query head.
#[derive(Debug)]
struct Sliding {
    window: i32,
}

/// The same with its kernel parameter.
#[derive(Clone, Copy, KernelArg)]
struct SlidingHooks {
    window: Scalar<i32>,
}

impl HookVariant for Sliding {
    type Params = SlidingHooks;

    fn hooks(&self, params: SlidingHooks) -> Box<dyn AttentionHooks> {
        Box::new(params)
    }

    fn given(&self, _layer: usize) -> SlidingHooksArgs<'_> {
        SlidingHooksArgs { window: self.window }
    }
}

/// The slope of a query head of its group.
fn slope(member: f32) -> f32 {
    0.02 * (member + 1.0)
}

impl AttentionHooks for SlidingHooks {
    fn logits(&self, logits: Tile<f32, 2>, site: &Site) -> Tile<f32, 2> {
        let slopes = (site.members.cast::<f32>() + 1.0) * 0.02;
        let distance = (site.queries.expand_dims(1) - site.keys.expand_dims(0)).cast::<f32>();
        logits - slopes.expand_dims(1) * distance
    }

    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        Some((site.queries.expand_dims(1) - site.keys.expand_dims(0)).lt(self.window))
    }
}

#[test]
fn hooks_see_the_position_and_head_of_every_query() {
    let shape = Shape { d: 64, group: 2, block: 16, block_q: 8 };
    let (n, before, window) = (11, 30, 14);
    let mut cache = Cache::new("K8V4", shape.d, 2048, KV_HEADS, 12);
    for head in 0..KV_HEADS {
        cache.append(head, false, 0..before);
    }
    let heads = KV_HEADS * shape.group;
    let (q, q32) = halves(&random(51, n * heads * shape.d));
    let (k, k32) = halves(&random(52, n * KV_HEADS * shape.d));
    let (v, v32) = halves(&random(53, n * KV_HEADS * shape.d));
    let (mut out, mut mass) = (vec![0f32; q.len()], vec![0f32; KV_HEADS * n]);
    for head in 0..KV_HEADS {
        let mut tokens: Vec<(Vec<f32>, Vec<f32>)> =
            cache.tokens(head, false).into_iter().map(|t| (t.key, t.value)).collect();
        for i in 0..n {
            let own = (i * KV_HEADS + head) * shape.d;
            tokens.push((k32[own..][..shape.d].to_vec(), v32[own..][..shape.d].to_vec()));
            let first = tokens.len() - window as usize;
            let mut best = vec![0f32; tokens.len()];
            for member in 0..shape.group {
                let at = (i * heads + head * shape.group + member) * shape.d;
                let logits: Vec<f32> = tokens[first..]
                    .iter()
                    .enumerate()
                    .map(|(t, (key, _))| {
                        let dot: f32 = q32[at..][..shape.d].iter().zip(key).map(|(a, b)| a * b).sum();
                        dot * 0.125 - slope(member as f32) * (window - 1 - t as i32) as f32
                    })
                    .collect();
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                let sum: f32 = logits.iter().map(|l| (l - max).exp()).sum();
                for (t, l) in logits.iter().enumerate() {
                    let p = (l - max).exp() / sum;
                    best[first + t] = best[first + t].max(p);
                    let out = &mut out[at..][..shape.d];
                    out.iter_mut().zip(&tokens[first + t].1).for_each(|(out, v)| *out += p * v);
                }
            }
            for (t, p) in best[before as usize..].iter().enumerate() {
                mass[head * n + t] += p;
            }
        }
    }

    let settings = shape.settings("K8V4", 2048);
    let choice = HookChoice::plain().with("sliding", Sliding { window });
    let choices = Choices::new().with(choice.clone());
    let (numbers, hooks) = ([&q[..], &k, &v], ForLayer { choice: &choice, layer: 0 });
    let attention =
        attend::<ChosenHooks>((&shape, &settings), &cache, numbers, (before, 0.125), (&choices, hooks));
    close("sliding attention", &attention.read::<f32>("out"), &out, 2e-3);

    let args = ChunkSignificanceArgs {
        q: input(&q, [n, heads, shape.d]),
        k: input(&k, [n, KV_HEADS, shape.d]),
        lse: given(&attention.read("lse")).tensor([n, heads]),
        before,
        first_query: 0,
        scale: 0.125,
        window: 64,
        priors: given(&[]).tensor([0, KV_HEADS]),
        words: filled(f32::NAN, [KV_HEADS, n]),
        hooks,
    };
    let (kernel, grid) = (chunk_significance::<ChosenHooks>::KERNEL, [n.div_ceil(shape.block), KV_HEADS, 1]);
    let own = Run::with(&kernel, &spec(&kernel, &settings), &choices, grid, args).launch();
    close("mass of sliding attention", &own.read::<f32>("words"), &mass, 3e-4);
}
