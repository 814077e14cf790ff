use super::*;
use crate::reference::testing::{attend_f64, close, random};
use crate::reference::{Token, write_chunk};
use proptest::prelude::*;

const PAGE: usize = 4096;
const TABLE: usize = 12;

struct Cache {
    high: PagedFormat,
    low: PagedFormat,
    arena: Vec<u8>,
    table: Vec<i32>,
    lengths: Vec<i32>,
    slots: Vec<i32>,
    kv_heads: usize,
}

impl Cache {
    /// Every (request, head) gets its own lengths; page ids run backwards through the arena.
    fn new(tiers: (&str, &str), d: u32, kv_heads: usize, lengths: &[[usize; 2]]) -> Self {
        let paged = |name: &str| PagedFormat::new(name.parse().unwrap(), d, PAGE as u32).unwrap();
        let (high, low) = (paged(tiers.0), paged(tiers.1));
        let mut cache = Self {
            high,
            low,
            arena: vec![0xFF; lengths.len() * TABLE * PAGE],
            table: (0..(lengths.len() * TABLE) as i32).rev().collect(),
            lengths: lengths.iter().flat_map(|&[h, l]| [h as i32, l as i32, 0, 0]).collect(),
            slots: (0..(lengths.len() / kv_heads) as i32).collect(),
            kv_heads,
        };
        for (head, &[n_high, n_low]) in lengths.iter().enumerate() {
            let (n, ids) = (n_high + n_low, cache.table[head * TABLE..][..TABLE].to_vec());
            let vectors = |seed: usize| random(seed as u64, n * d as usize);
            let (k, v) = (vectors(2 * head), vectors(2 * head + 1));
            let dest = (0..n_high).map(|t| 2 * t).chain((0..n_low).map(|t| 2 * t + 1));
            let dest: Vec<i32> = dest.map(|to| to as i32).collect();
            let (high, low, mass) = (&cache.high, Some(&cache.low), vec![0.0; n]);
            write_chunk(high, low, &mut cache.arena, &ids, &k, &v, &mass, &dest, 0, 1).unwrap();
        }
        cache
    }

    fn view(&self) -> PagedKv<'_> {
        PagedKv {
            high: &self.high,
            low: Some(&self.low),
            arena: &self.arena,
            slots: &self.slots,
            page_table: &self.table,
            lengths: &self.lengths,
            table_len: TABLE,
        }
    }

    fn tokens(&self, head: usize) -> Vec<Token> {
        split_tokens(&self.view(), head, ALL_PAGES).unwrap().remove(0)
    }

    fn args<'a>(&self, q: &'a [f32], positions: &'a [i32], group: usize) -> DecodeArgs<'a> {
        DecodeArgs {
            q,
            query_positions: positions,
            query_heads: self.kv_heads * group,
            kv_heads: self.kv_heads,
            scale: 0.4,
            pattern: HeadPattern::Dense,
        }
    }
}

fn check(cache: &Cache, args: &DecodeArgs<'_>, split_pages: usize) {
    let d = cache.high.head_dim();
    let group = args.query_heads / args.kv_heads;
    let partials = decode_partials(args, &cache.view(), split_pages).unwrap();
    let got = merge_partials(args, &partials).unwrap();
    let significance = received(args, &cache.view(), &got.lse).unwrap();
    assert_eq!(significance.len(), cache.lengths.len() / 4);
    for (head, significance) in significance.iter().enumerate() {
        let tokens = cache.tokens(head);
        let query = args.query_positions[head / args.kv_heads];
        let kept: Vec<usize> =
            (0..tokens.len()).filter(|&t| args.pattern.attends(query, tokens[t].position)).collect();
        let keys: Vec<&[f32]> = kept.iter().map(|&t| tokens[t].key.as_slice()).collect();
        let values: Vec<&[f32]> = kept.iter().map(|&t| tokens[t].value.as_slice()).collect();
        let mut best = vec![0.0f64; tokens.len()];
        for member in 0..group {
            let row = head * group + member;
            let (out, p) = attend_f64(&args.q[row * d..][..d], &keys, &values, args.scale);
            for (i, exact) in out.iter().enumerate() {
                close(*exact, got.out[row * d + i], 2e-5);
            }
            kept.iter().zip(p).for_each(|(&t, p)| best[t] = best[t].max(p));
        }
        assert_eq!(significance.len(), tokens.len());
        for (exact, got) in best.iter().zip(significance) {
            close(*exact, *got, 1e-5);
        }
    }
}

#[test]
fn two_tiers_and_uneven_heads_match_direct_f64_attention() {
    let lengths = [[70, 100], [1, 0], [0, 33], [129, 3]];
    let cache = Cache::new(("K8V4", "K4V2"), 64, 2, &lengths);
    for group in [1, 4, 7] {
        let q = random(99, 2 * 2 * group * 64);
        let positions = [200, 200];
        let args = cache.args(&q, &positions, group);
        for split_pages in [ALL_PAGES, 1, 2, 5] {
            check(&cache, &args, split_pages);
        }
    }
}

#[test]
fn patterns_mask_by_true_position_in_both_tiers() {
    let cache = Cache::new(("fp16", "K4V4"), 80, 1, &[[40, 60]]);
    let q = random(5, 3 * 80);
    let args = cache.args(&q, &[70], 3);
    for pattern in [HeadPattern::Causal, HeadPattern::SinkWindow { sinks: 4, window: 20 }] {
        check(&cache, &DecodeArgs { pattern, ..args }, 3);
    }
}

#[test]
fn nothing_to_attend_to_gives_zeros() {
    let cache = Cache::new(("K8V4", "K4V2"), 64, 1, &[[0, 0]]);
    let q = random(1, 2 * 64);
    let args = cache.args(&q, &[0], 2);
    let got = decode_attention(&args, &cache.view()).unwrap();
    assert_eq!(got.out, [0.0; 128]);
    assert_eq!(got.lse, [f32::NEG_INFINITY; 2]);
    assert_eq!(received(&args, &cache.view(), &got.lse).unwrap(), [Vec::<f32>::new()]);

    // Tokens exist, but all lie after the query.
    let cache = Cache::new(("K8V4", "K4V2"), 64, 1, &[[5, 5]]);
    let args = DecodeArgs { pattern: HeadPattern::Causal, ..cache.args(&q, &[-1], 2) };
    let got = decode_attention(&args, &cache.view()).unwrap();
    assert_eq!(got.out, [0.0; 128]);
    assert_eq!(received(&args, &cache.view(), &got.lse).unwrap(), [[0.0; 10]]);
}

#[test]
fn one_token_gives_its_value() {
    let cache = Cache::new(("K8V8", "K4V2"), 64, 1, &[[1, 0]]);
    let q = random(1, 64);
    let args = cache.args(&q, &[0], 1);
    let got = decode_attention(&args, &cache.view()).unwrap();
    assert_eq!(got.out, cache.tokens(0)[0].value);
    assert_eq!(received(&args, &cache.view(), &got.lse).unwrap(), [[1.0]]);
    assert_eq!(received(&args, &cache.view(), &[f32::INFINITY]).unwrap(), [[0.0]]);
}

#[test]
fn significance_accumulates_in_the_pages() {
    let mut cache = Cache::new(("K8V4", "K4V2"), 64, 1, &[[70, 20]]);
    let q = random(1, 64);
    let args = cache.args(&q, &[0], 1);
    let lse = decode_attention(&args, &cache.view()).unwrap().lse;
    let step = received(&args, &cache.view(), &lse).unwrap().remove(0);
    let shares: Vec<Share> =
        (0..90).map(|t| if t < 70 { Share::once(step[t]) } else { Share::default() }).collect();
    for _ in 0..2 {
        let mut arena = cache.arena.clone();
        add_shares(&cache.view(), 0, Peaks::NONE, &shares, &mut arena).unwrap();
        cache.arena = arena;
    }
    let tokens = cache.tokens(0);
    for (token, step) in tokens[..70].iter().zip(&step) {
        assert_eq!(token.significance, 2.0 * step);
    }
    assert!(tokens[70..].iter().all(|t| t.significance == 0.0));
}

#[test]
fn pending_queries_add_to_what_is_neither_frozen_nor_newer() {
    let mut cache = Cache::new(("K8V4", "K4V2"), 64, 1, &[[70, 20], [5, 5]]);
    cache.lengths[2..4].copy_from_slice(&[3, 2]);
    // The second request is left out.
    cache.slots = vec![0, -1];
    let (q, old) = (random(1, 2 * 64), random(2, 2 * 64));
    let args = DecodeArgs { pattern: HeadPattern::Causal, ..cache.args(&q, &[90, 3], 1) };
    let before = DecodeArgs { q: &old, query_positions: &[89, 2], ..args };
    let lse = decode_attention(&before, &cache.view()).unwrap().lse;
    let step = received(&before, &cache.view(), &lse).unwrap().remove(0);
    let pending = PendingQueries { q: &old, lse: &lse, newest: &[69, -1] };
    let mut arena = cache.arena.clone();
    add_pending(&args, &pending, (Peaks::NONE, 0), &cache.view(), &mut arena).unwrap();
    let after = Cache { arena, ..cache };
    for (t, (token, step)) in after.tokens(0).iter().zip(step).enumerate() {
        let none = t < 3 || t == 69 || (70..72).contains(&t);
        assert_eq!(token.significance, if none { 0.0 } else { step }, "token {t}");
        assert!(none || step > 0.0);
    }
    assert!(after.tokens(1).iter().all(|t| t.significance == 0.0));
}

#[test]
fn bad_arguments_are_errors() {
    let cache = Cache::new(("K8V4", "K4V2"), 64, 1, &[[3, 0]]);
    let q = random(1, 3 * 64);
    let args = cache.args(&q, &[0], 3);
    let run = |args: &DecodeArgs<'_>, kv: &PagedKv<'_>| decode_attention(args, kv).unwrap_err();
    assert!(matches!(run(&DecodeArgs { q: &q[1..], ..args }, &cache.view()), ReferenceError::Shape { .. }));
    let uneven = DecodeArgs { kv_heads: 2, ..args };
    assert!(matches!(run(&uneven, &cache.view()), ReferenceError::HeadGroups { .. }));
    let negative = PagedKv { lengths: &[-1, 0, 0, 0], ..cache.view() };
    assert!(matches!(run(&args, &negative), ReferenceError::LengthBeyondPages { len: -1, .. }));
    let long = PagedKv { lengths: &[i32::MAX, 0, 0, 0], ..cache.view() };
    assert!(matches!(run(&args, &long), ReferenceError::LengthBeyondPages { .. }));
    let no_low = PagedKv { low: None, lengths: &[3, 1, 0, 0], ..cache.view() };
    assert!(matches!(run(&args, &no_low), ReferenceError::LengthBeyondPages { room: 0, .. }));
    let whole_table = [(TABLE * cache.high.tokens_per_page()) as i32, 1, 0, 0];
    let crossing = PagedKv { lengths: &whole_table, ..cache.view() };
    assert!(matches!(run(&args, &crossing), ReferenceError::LengthBeyondPages { len: 1, room: 0 }));
    let elsewhere = PagedKv { slots: &[1], ..cache.view() };
    assert_eq!(run(&args, &elsewhere), ReferenceError::SlotOutOfRange { slot: 1, slots: 1 });
    let stale = PagedKv { page_table: &[77; TABLE], ..cache.view() };
    assert!(matches!(run(&args, &stale), ReferenceError::PageOutOfArena { page: 77, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn how_many_pages_a_split_has_does_not_matter(
        high in 0usize..90, low in 0usize..90, split_pages in 0usize..5, group in 1usize..9,
    ) {
        let cache = Cache::new(("K8V4", "K4V2g2.4"), 64, 1, &[[high, low]]);
        let q = random(3, group * 64);
        check(&cache, &cache.args(&q, &[500], group), split_pages);
    }
}
