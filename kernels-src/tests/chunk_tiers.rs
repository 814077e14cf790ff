//! Tiers of a prompt's tokens against the reference, on every executor: classification of a chunk, compaction of what is cached, and the
//! significance that pages keep over a whole prompt.

mod common;

use common::cache::{Cache, SLOT, SLOTS};
use common::{Run, close, filled, halves, random};
use leankv_dsl::lang::attention::{Lengths, PagedKv, PerTier, Plain, Stock};
use leankv_dsl::lang::launch::Tensor;
use leankv_dsl::workload::given;
use leankv_kernels::chunk::{
    CachedSignificanceArgs, ChunkAttentionArgs, ChunkSignificanceArgs, ClassifyChunkArgs, RecompactArgs,
    WriteChunkArgs, cached_significance, chunk_attention, chunk_significance, classify_chunk, recompact,
    write_chunk,
};
use leankv_kernels::policy::{Counting, Peaks, PolicyMath, PolicySpec, StockPolicies};
use leankv_kernels::reference::{self, HeadLists, TierRule};
use proptest::prelude::*;

/// What a specialisation says about tiers.
#[derive(Clone, Copy)]
struct Knobs {
    policy: PolicySpec,
    window: i32,
    sinks: i32,
    chunk: usize,
    window_q: usize,
}

const KNOBS: Knobs =
    Knobs { policy: PolicySpec::LeanKv { late: 0 }, window: 8, sinks: 2, chunk: 32, window_q: 8 };

impl Knobs {
    fn settings(&self) -> String {
        let Knobs { policy, window, sinks, chunk, window_q } = self;
        format!("policy={policy},window={window},sinks={sinks},chunk={chunk},window_q={window_q}")
    }

    fn rule<'a>(&self, policy: &'a dyn PolicyMath, prompt: i32, tokens: i32, has_low: bool) -> TierRule<'a> {
        let counting = Counting::new(self.chunk, self.window_q);
        let (window, sinks, peaks) = (self.window, self.sinks, Peaks::NONE);
        TierRule { policy, window, sinks, counting, peaks, prompt, tokens, has_low }
    }
}

/// Thresholds of all slots, `[slots, .., 2]`; those of other slots are no numbers.
fn thresholds<const R: usize>(pair: [f32; 2], extents: [usize; R]) -> Tensor<'static, f32, R> {
    let lists = extents[1..R - 1].iter().product();
    let of = |slot| if slot == SLOT { pair } else { [f32::NAN; 2] }.repeat(lists);
    given(&(0..SLOTS).flat_map(of).collect::<Vec<f32>>()).tensor(extents)
}

fn check_classes(knobs: &Knobs, two_tiers: bool, n: usize, before: i32, prompt: i32, pair: [f32; 2]) {
    let heads = 3;
    // Around the mean of the counted queries, so that every tier occurs.
    let tokens = before + n as i32;
    let mass: Vec<f32> = random(5, heads * n).iter().map(|x| (x + 1.0) * 8.0 / tokens as f32).collect();
    let lengths: Vec<i32> = (0..SLOTS * heads * 4).map(|i| 3 * i as i32).collect();
    let mut expected = lengths[SLOT * heads * 4..].to_vec();
    let policy = knobs.policy.math();
    let rule = knobs.rule(&*policy, prompt, tokens, two_tiers);
    let dest = reference::classify_chunk(&rule, &pair.repeat(heads), &mass, before, &mut expected).unwrap();

    let settings = format!("{},two_tiers={two_tiers},block=16", knobs.settings());
    for slot in [SLOT as i32, -1] {
        let args = ClassifyChunkArgs {
            words: given(&mass).tensor([heads, n]),
            before,
            prompt,
            layer: 0,
            keys: given::<half::f16>(&[]).tensor([0, heads, 128]).into(),
            values: given::<half::f16>(&[]).tensor([0, heads, 128]).into(),
            slots: given(&[slot]).tensor([1]),
            thresholds: thresholds(pair, [SLOTS, heads, 2]),
            lengths: given(&lengths).tensor_mut([SLOTS, heads, 4]),
            dest: filled(77, [heads, n]),
            policies: (),
        };
        let kernel = classify_chunk::<StockPolicies>::KERNEL;
        let run = Run::new(&kernel, &settings, [heads, 1, 1], args).launch();
        let what = format!("{}, {n} tokens at {before} of {prompt}, {pair:?}", knobs.policy);
        if slot < 0 {
            assert_eq!(run.read::<i32>("dest"), vec![-1; heads * n], "{what}");
            assert_eq!(run.read::<i32>("lengths"), lengths, "{what}");
        } else {
            assert_eq!(run.read::<i32>("dest"), dest, "{what}");
            assert_eq!(run.read::<i32>("lengths")[SLOT * heads * 4..], expected, "{what}");
            assert_eq!(run.read::<i32>("lengths")[..SLOT * heads * 4], lengths[..SLOT * heads * 4], "{what}");
        }
    }
}

#[test]
fn chunks_are_classified_as_the_policies_say() {
    for policy in PolicySpec::ALL {
        for two_tiers in [true, false] {
            check_classes(&Knobs { policy, ..KNOBS }, two_tiers, 32, 32, 90, [1.1, 0.4]);
        }
    }
}

#[test]
fn classes_of_chunks_of_any_length_and_place() {
    for (n, before, prompt) in [(1, 0, 1), (1, 32, 33), (16, 0, 16), (26, 64, 90), (32, 0, 90), (33, 0, 33)] {
        check_classes(&KNOBS, true, n, before, prompt, [1.1, 0.4]);
    }
    // No window, no sinks: all pruned, all high, all low.
    let bare = Knobs { window: 0, sinks: 0, window_q: 64, ..KNOBS };
    for pair in [[1e9, 1e9], [0.0, 0.0], [1e9, 0.0]] {
        check_classes(&bare, true, 32, 0, 90, pair);
    }
}

struct Case {
    tiering: &'static str,
    d: usize,
    /// Tokens high and low of each list.
    lengths: [usize; 2],
    frozen: [i32; 2],
    /// Pages of the low list more than its tokens need.
    spare_low: usize,
    pair: [f32; 2],
    knobs: Knobs,
}

const CASE: Case = Case {
    tiering: "K8V4/K4V2",
    d: 64,
    lengths: [50, 40],
    frozen: [0, 0],
    spare_low: 2,
    pair: [1.1, 0.5],
    knobs: KNOBS,
};

fn check_compaction(case: &Case) {
    let (layers, kv_heads, table_len, prompt, tokens) = (2, 2, 12, 120, 96);
    let lists = layers * kv_heads;
    let two = case.tiering.contains('/');
    let page_bytes = 32 * case.d;
    let mut cache = Cache::new(case.tiering, case.d, page_bytes, lists, table_len);
    for list in 0..lists {
        // Positions of both tiers are mixed; the last ones are in the window.
        let order = random(60 + list as u64, tokens as usize);
        let mut positions: Vec<i32> = (0..tokens).collect();
        positions.sort_by(|a, b| order[*a as usize].total_cmp(&order[*b as usize]));
        let (high, rest) = positions.split_at(case.lengths[0] - list);
        let mut high = high.to_vec();
        high.sort_unstable();
        cache.append(list, false, high);
        if two {
            let mut low = rest[..case.lengths[1] - list].to_vec();
            low.sort_unstable();
            cache.append(list, true, low);
            let per_page = cache.paged(true).tokens_per_page();
            cache.reserve(
                list,
                true,
                (cache.length(list, true).div_ceil(per_page) + case.spare_low) * per_page,
            );
        }
        let at = (SLOT * lists + list) * 4 + 2;
        cache.lengths[at..][..2].copy_from_slice(&case.frozen);
    }
    let held = |cache: &Cache, list: usize, low: bool| -> usize {
        let row = &cache.rows()[list * table_len..][..table_len];
        let pages = |ids: &mut dyn Iterator<Item = &i32>| ids.take_while(|id| **id >= 0).count();
        if !low {
            pages(&mut row.iter())
        } else if two {
            pages(&mut row.iter().rev())
        } else {
            0
        }
    };
    let helds: Vec<i32> = [
        vec![1 << 20; SLOT * lists * 2],
        (0..lists).flat_map(|l| [held(&cache, l, false) as i32, held(&cache, l, true) as i32]).collect(),
    ]
    .concat();

    let (knobs, d) = (case.knobs.settings(), case.d);
    let settings = format!("{knobs},tiering={},head_dim={d},page_bytes={page_bytes},block=8", case.tiering);
    let args = RecompactArgs {
        tokens,
        prompt,
        layers: given(&(0..layers as i32).collect::<Vec<_>>()).tensor([layers]),
        thresholds: thresholds(case.pair, [SLOTS, layers, kv_heads, 2]),
        held: given(&helds).tensor([SLOTS, layers, kv_heads, 2]),
        kv: cache.layered(layers),
        codecs: (),
        policies: (),
    };
    let kernel = recompact::<Stock, StockPolicies>::KERNEL;
    let run = Run::new(&kernel, &settings, [kv_heads, layers, 1], args).launch();

    let policy = case.knobs.policy.math();
    let rule = case.knobs.rule(&*policy, prompt, tokens, two);
    let (mut arena, mut lengths) = (cache.arena.clone(), cache.lengths.clone());
    for list in 0..lists {
        let row = cache.rows()[list * table_len..][..table_len].to_vec();
        let reversed: Vec<i32> = row.iter().rev().copied().collect();
        let places =
            HeadLists { high: &cache.high, low: cache.low.as_ref(), high_ids: &row, low_ids: &reversed };
        let was = Lengths::get(&lengths, SLOT * lists + list);
        let [high, low] = case.pair;
        let (pair, held) = (PerTier { high, low }, held(&cache, list, true));
        let now = reference::recompact(&rule, pair, &places, &mut arena, was, held).unwrap();
        now.put(&mut lengths, SLOT * lists + list);
    }
    let what = format!("{} at {}, {:?}, frozen {:?}", case.tiering, case.d, case.pair, case.frozen);
    assert_eq!(run.read::<i32>("kv.lengths"), lengths, "{what}");
    let got = run.read::<u8>("kv.arena");
    let first = got.iter().zip(&arena).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what}: the arena differs");
}

#[test]
fn cached_tokens_are_compacted_in_every_tiering() {
    for tiering in ["fp16", "bf16", "K8V4", "K4V4", "K8V4/K4V2", "K8V4g1.2/K4V2g2.4"] {
        check_compaction(&Case { tiering, ..CASE });
    }
    check_compaction(&Case { d: 128, ..CASE });
    check_compaction(&Case { d: 256, ..CASE });
}

#[test]
fn demotion_stops_where_the_low_lists_pages_are_full() {
    for spare_low in [0, 1] {
        check_compaction(&Case { spare_low, pair: [1e9, 0.0], ..CASE });
    }
    // What is dropped from the low list makes room.
    check_compaction(&Case { spare_low: 0, pair: [1.4, 0.7], ..CASE });
}

#[test]
fn everything_stays_or_goes() {
    for pair in [[0.0, 0.0], [1e9, 1e9]] {
        check_compaction(&Case { pair, ..CASE });
        check_compaction(&Case { pair, tiering: "K8V4", ..CASE });
    }
    let bare = Knobs { window: 0, sinks: 0, window_q: 64, ..KNOBS };
    check_compaction(&Case { pair: [1e9, 1e9], knobs: bare, ..CASE });
    check_compaction(&Case { lengths: [4, 4], pair: [1e9, 1e9], knobs: bare, ..CASE });
}

#[test]
fn frozen_tokens_stay_where_they_are() {
    check_compaction(&Case { frozen: [19, 30], ..CASE });
    check_compaction(&Case { frozen: [47, 37], pair: [1e9, 1e9], ..CASE });
}

/// A whole prompt through the kernels, chunk by chunk; the significance in the pages against attention recomputed in `f64`.
fn check_prompt(tiering: &str, knobs: &Knobs, group: usize, prompt: usize, pair: [f32; 2], everywhere: bool) {
    const D: usize = 64;
    let (kv_heads, page_bytes, table_len) = (2, 2048, 24);
    let heads = kv_heads * group;
    let two = tiering.contains('/');
    let scale = 0.35f32;
    let (q, q32) = halves(&random(71, prompt * heads * D));
    let (k, k32) = halves(&random(72, prompt * kv_heads * D));
    let (v, _) = halves(&random(73, prompt * kv_heads * D));
    let mut cache = Cache::new(tiering, D, page_bytes, kv_heads, table_len);
    let mut exact = vec![vec![0.0f64; prompt]; kv_heads];

    let base = format!("tiering={tiering},head_dim={D},page_bytes={page_bytes}");
    let attention = format!("{base},group={group},block=16,block_q=8,splits=2");
    let launch = |run: Run| if everywhere { run.launch() } else { run.interpret() };
    for before in (0..prompt).step_by(knobs.chunk) {
        let n = knobs.chunk.min(prompt - before);
        let part = |heads: usize| before * heads * D..(before + n) * heads * D;
        let (q, k, v) = (&q[part(heads)], &k[part(kv_heads)], &v[part(kv_heads)]);
        for head in 0..kv_heads {
            cache.reserve(head, false, cache.length(head, false) + n);
            if two {
                cache.reserve(head, true, cache.length(head, true) + n);
            }
            // What the chunk's queries see: the cache as it is stored, and the chunk itself.
            let mut keys: Vec<(usize, Vec<f32>)> = Vec::new();
            for low in [false, true].into_iter().take(1 + usize::from(two)) {
                for token in cache.tokens(head, low) {
                    keys.push((token.position as usize, token.key));
                }
            }
            for t in before..before + n {
                keys.push((t, k32[(t * kv_heads + head) * D..][..D].to_vec()));
                if t + knobs.window_q < before + n {
                    continue;
                }
                let mut best = vec![0.0f64; keys.len()];
                for member in 0..group {
                    let q = &q32[(t * heads + head * group + member) * D..][..D];
                    let dot = |k: &[f32]| -> f64 {
                        q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                    };
                    let logits: Vec<f64> = keys.iter().map(|(_, k)| dot(k) * f64::from(scale)).collect();
                    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                    for (best, l) in best.iter_mut().zip(&logits) {
                        *best = best.max((l - max).exp() / sum);
                    }
                }
                for ((position, _), best) in keys.iter().zip(best) {
                    exact[head][*position] += best;
                }
            }
        }

        let at = before as i32;
        let q = || given(q).tensor([n, heads, D]).into();
        let [k, v] = [k, v].map(|x| move || given(x).tensor([n, kv_heads, D]).into());
        let args = ChunkAttentionArgs {
            q: q(),
            k: k(),
            v: v(),
            before: at,
            first_query: 0,
            scale,
            kv: cache.kv(),
            out: filled(f32::NAN, [n, heads, D]),
            lse: filled(f32::NAN, [n, heads]),
            codecs: (),
            hooks: (),
        };
        let (kernel, grid) = (chunk_attention::<Stock, Plain, PagedKv>::KERNEL, [n.div_ceil(8), kv_heads, 1]);
        let attend = launch(Run::new(&kernel, &attention, grid, args));
        let lse = || given(&attend.read("lse")).tensor([n, heads]);

        let args = ChunkSignificanceArgs {
            q: q(),
            k: k(),
            lse: lse(),
            before: at,
            first_query: 0,
            scale,
            window: knobs.window_q as i32,
            priors: given(&[]).tensor([0, kv_heads]),
            words: filled(f32::NAN, [kv_heads, n]),
            hooks: (),
        };
        let (kernel, grid) = (chunk_significance::<Plain>::KERNEL, [n.div_ceil(16), kv_heads, 1]);
        let own = launch(Run::new(&kernel, &attention, grid, args));
        let mass = || given(&own.read("words")).tensor([kv_heads, n]);

        let args = CachedSignificanceArgs {
            q: q(),
            lse: lse(),
            before: at,
            scale,
            window: knobs.window_q as i32,
            kv: cache.kv(),
            codecs: (),
            hooks: (),
        };
        let kernel = cached_significance::<Stock, Plain, PagedKv>::KERNEL;
        cache.arena = launch(Run::new(&kernel, &attention, [2, kv_heads, 1], args)).read("kv.arena");

        let args = ClassifyChunkArgs {
            words: mass(),
            before: at,
            prompt: prompt as i32,
            layer: 0,
            keys: given::<half::f16>(&[]).tensor([0, kv_heads, 128]).into(),
            values: given::<half::f16>(&[]).tensor([0, kv_heads, 128]).into(),
            slots: given(&[SLOT as i32]).tensor([1]),
            thresholds: thresholds(pair, [SLOTS, kv_heads, 2]),
            lengths: given(&cache.lengths).tensor_mut([SLOTS, kv_heads, 4]),
            dest: filled(0, [kv_heads, n]),
            policies: (),
        };
        let settings = format!("{},two_tiers={two}", knobs.settings());
        let kernel = classify_chunk::<StockPolicies>::KERNEL;
        let classify = launch(Run::new(&kernel, &settings, [kv_heads, 1, 1], args));
        cache.lengths = classify.read("lengths");

        let args = WriteChunkArgs {
            keys: k(),
            values: v(),
            words: mass(),
            dest: given(&classify.read("dest")).tensor([kv_heads, n]),
            before: at,
            kv: cache.kv(),
            codecs: (),
        };
        let (kernel, grid) = (write_chunk::<Stock>::KERNEL, [n.div_ceil(8), kv_heads, 1]);
        cache.arena = launch(Run::new(&kernel, &format!("{base},block=8"), grid, args)).read("kv.arena");

        let held: Vec<i32> = (0..SLOTS * kv_heads)
            .flat_map(|list| {
                let row = &cache.table[list * table_len..][..table_len];
                [0, row.iter().rev().take_while(|id| two && **id >= 0).count() as i32]
            })
            .collect();
        let args = RecompactArgs {
            tokens: (before + n) as i32,
            prompt: prompt as i32,
            layers: given(&[0]).tensor([1]),
            thresholds: thresholds(pair, [SLOTS, 1, kv_heads, 2]),
            held: given(&held).tensor([SLOTS, 1, kv_heads, 2]),
            kv: cache.layered(1),
            codecs: (),
            policies: (),
        };
        let settings = format!("{base},{}", knobs.settings());
        let kernel = recompact::<Stock, StockPolicies>::KERNEL;
        let compact = launch(Run::new(&kernel, &settings, [kv_heads, 1, 1], args));
        cache.arena = compact.read("kv.arena");
        cache.lengths = compact.read("kv.lengths");
    }

    // Every token that is left carries the attention that its own position received, and its own key.
    for (head, exact) in exact.iter().enumerate() {
        let mut seen = Vec::new();
        for low in [false, true].into_iter().take(1 + usize::from(two)) {
            for token in cache.tokens(head, low) {
                let (position, exact) = (token.position as usize, exact[token.position as usize]);
                let error = (f64::from(token.significance) - exact).abs();
                let bound = 1e-4 * exact + 1e-5;
                assert!(
                    error <= bound,
                    "head {head}, position {position}: {} is {exact}",
                    token.significance
                );
                let key = &k32[(position * kv_heads + head) * D..][..D];
                close(&format!("key at {position}"), &token.key, key, if low { 0.16 } else { 0.01 });
                seen.push(position);
            }
        }
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "head {head}: positions repeat: {seen:?}");
        let recent = prompt.saturating_sub(knobs.window.max(0) as usize)..prompt;
        assert!(recent.clone().all(|p| seen.contains(&p)), "head {head}: {recent:?} is not all there");
    }
}

#[test]
fn significance_follows_its_token_on_every_executor() {
    check_prompt("K8V4/K4V2", &KNOBS, 2, 75, [1.0, 0.8], true);
    check_prompt("K8V4", &Knobs { window_q: 64, ..KNOBS }, 1, 40, [1.0, 0.9], true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Prompts shorter than, equal to, and longer than one chunk.
    #[test]
    fn significance_in_pages_equals_attention_recomputed(
        prompt in prop_oneof![1usize..32, Just(32), 33usize..110],
        window_q in prop_oneof![Just(64usize), 1usize..32],
        window in 0i32..20,
        a_low in 0.2f32..1.0,
        more in 0.0f32..0.8,
        group in prop_oneof![Just(1usize), Just(2), Just(4)],
    ) {
        let knobs = Knobs { window, window_q, ..KNOBS };
        check_prompt("K8V4/K4V2", &knobs, group, prompt, [a_low + more, a_low], false);
    }
}
