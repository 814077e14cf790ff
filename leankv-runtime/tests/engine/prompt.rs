//! Prompts in chunks, against plain Rust in f64.

use leankv_kernels::reference::Token;
use leankv_runtime::Device;
use leankv_runtime::kv::{CacheConfig, KvCache, KvError, Refused, RequestId, Thresholds};

use crate::common::{
    PLAIN, Variant, cache, checking_devices, chunk, chunk_of, config, of_request, row, sound, step,
    thresholds, upload,
};
use crate::model::{attend, checked_step, weights};
use crate::promises::poison;

/// One chunk, checked in every (layer, KV head): what it attends to, what is kept of it and of what was there, and significance.
fn checked_chunk(cache: &mut KvCache, config: &CacheConfig, id: RequestId, sequence: u64) {
    checked_chunk_of(cache, config, id, sequence, &PLAIN);
}

/// As [`checked_chunk`], of a variant.
pub(crate) fn checked_chunk_of(
    cache: &mut KvCache,
    config: &CacheConfig,
    id: RequestId,
    sequence: u64,
    variant: &Variant,
) {
    let (d, group) = (config.head_dim, config.group);
    let before = cache.tokens(id).unwrap();
    let cached: Vec<[Vec<Token>; 2]> =
        (0..config.lists()).map(|list| variant.held(cache, id, list)).collect();
    let out = chunk_of(cache, id, sequence, variant).unwrap();
    sound(cache);
    let tokens = cache.tokens(id).unwrap();
    let n = tokens - before;
    for (list, cached) in cached.iter().enumerate() {
        let (layer, head) = (list / config.kv_heads, list % config.kv_heads);
        // The chunk's own keys and values are attended to as they come.
        let own: Vec<Token> = (before..tokens)
            .map(|position| {
                let row = variant.row(config, sequence, position, layer);
                let floats = |x: &[half::f16]| x[head * d..][..d].iter().map(|x| x.to_f32()).collect();
                let (key, value) = (floats(&row.k), floats(&row.v));
                Token { key, value, significance: 0.0, position: position as i32 }
            })
            .collect();
        let all: Vec<&Token> = cached.iter().flatten().chain(&own).collect();
        let old = all.len() - n;
        let mut mass: Vec<f64> = all.iter().map(|t| f64::from(t.significance)).collect();
        for query in 0..n {
            let what = format!("position {}, layer {layer}, head {head}", before + query);
            let q = variant.row(config, sequence, before + query, layer).q;
            let logit = |t: &Token, x: f64| (variant.logit)(layer, (before + query) as i32, t.position, x);
            let (want, best) = attend(d, &q[head * group * d..][..group * d], &all[..old + query + 1], logit);
            let got = &out[layer][(query * config.query_heads() + head * group) * d..][..group * d];
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < weights(config), "{what}: {got}, expected {want}");
            }
            if query + config.window_q >= n {
                mass.iter_mut().zip(&best).for_each(|(mass, best)| *mass += best);
            }
        }
        let after = variant.held(cache, id, list);
        for token in after.iter().flatten() {
            let place =
                all.iter().position(|t| t.position == token.position).expect("nothing comes from nowhere");
            let (got, want) = (f64::from(token.significance), mass[place]);
            assert!(
                (got - want).abs() < 2e-3,
                "token {} of list {list}: {got}, expected {want}",
                token.position
            );
        }
        let first = tokens.saturating_sub(config.window);
        for kept in (0..config.sinks.min(tokens)).chain(first..tokens) {
            assert!(after[0].iter().any(|t| t.position == kept as i32), "list {list}: {kept} is not high");
        }
    }
}

#[test]
fn significance_equals_f64_for_prompts_shorter_and_longer_than_a_chunk_and_decode_goes_on_from_there() {
    let config = config();
    // Shorter than what counts, one chunk, one token more, several.
    for prompt in [5, 16, 17, 58] {
        let mut cache = cache(&Device::host(), &config);
        let id = cache.admit(prompt, &thresholds()).unwrap();
        while cache.tokens(id).unwrap() < prompt {
            checked_chunk(&mut cache, &config, id, 3);
        }
        assert!(matches!(cache.prefill_chunk(id), Err(KvError::PromptDone { .. })));
        for _ in 0..12 {
            checked_step(&mut cache, &config, id, prompt, 3);
        }
        let stats = cache.stats(id).unwrap();
        assert_eq!(stats.tokens, prompt + 12);
        if prompt > 50 {
            let low: usize = stats.heads.iter().map(|h| h.low).sum();
            let pruned: usize = stats.heads.iter().map(|h| h.pruned).sum();
            assert!(low > 0 && pruned > 0, "{stats:?}");
        }
        // Pages that a chunk reserved and did not need went back.
        assert!(stats.waste() < 0.7, "{stats:?}");
    }
}

#[test]
fn prompts_hold_on_devices_that_check_every_access() {
    let small = CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 8, ..config() };
    for device in checking_devices() {
        let mut cache = cache(&device, &small);
        let id = cache.admit(20, &Thresholds::new(1.2, 0.5)).unwrap();
        checked_chunk(&mut cache, &small, id, 9);
        checked_chunk(&mut cache, &small, id, 9);
        for _ in 0..3 {
            checked_step(&mut cache, &small, id, 20, 9);
        }
    }
}

#[test]
fn p3_prompts_get_the_same_bits_beside_others_and_with_poison_in_what_nobody_owns() {
    let (config, device) = (config(), Device::host());
    let mut alone = cache(&device, &config);
    let mine = alone.admit(40, &thresholds()).unwrap();
    let mut busy = cache(&device, &config);
    let other = busy.admit(0, &thresholds()).unwrap();
    for _ in 0..25 {
        step(&mut busy, &[(other, 1)]).unwrap();
    }
    let id = busy.admit(40, &thresholds()).unwrap();
    for _ in 0..3 {
        poison(&mut busy);
        let want = chunk(&mut alone, mine, 7).unwrap();
        assert_eq!(of_request(&chunk(&mut busy, id, 7).unwrap(), 0, 1), of_request(&want, 0, 1));
        // Others take steps between the chunks.
        step(&mut busy, &[(other, 1)]).unwrap();
    }
    for _ in 0..10 {
        poison(&mut busy);
        let want = of_request(&step(&mut alone, &[(mine, 7)]).unwrap(), 0, 1);
        let got = step(&mut busy, &[(other, 1), (id, 7)]).unwrap();
        assert_eq!(of_request(&got, 1, 2), want);
    }
    sound(&busy);
}

#[test]
fn p5_p7_a_chunk_without_pages_touches_nothing_and_one_that_is_left_can_be_freed() {
    let device = Device::host();
    let small = CacheConfig { pages: 9, ..config() };
    let mut cache = cache(&device, &small);
    let id = cache.admit(32, &thresholds()).unwrap();
    assert!(matches!(step(&mut cache, &[(id, 1)]), Err(KvError::PromptPending { left: 32, .. })));
    chunk(&mut cache, id, 1).unwrap();
    let before = (cache.dump().unwrap(), cache.manager().state().arena.to_vec().unwrap());
    // The second chunk might need two pages of either tier for each of four lists.
    let error = chunk(&mut cache, id, 1).unwrap_err();
    assert!(matches!(error, KvError::Refused(Refused::OutOfPages(_))), "{error}");
    assert_eq!(cache.dump().unwrap(), before.0);
    assert!(cache.manager().state().arena.to_vec().unwrap() == before.1, "no byte changed");
    assert!(matches!(cache.admit(121, &thresholds()), Err(KvError::Length { .. })));
    cache.free(&[id]).unwrap();

    let id = cache.admit(16, &thresholds()).unwrap();
    {
        let mut left = cache.prefill_chunk(id).unwrap();
        let rows: Vec<_> = left.positions().map(|token| row(&small, 1, token, 0)).collect();
        let [q, k, v] = upload(&device, &rows);
        left.layer(&q, &k, &v).unwrap();
    }
    assert!(matches!(cache.prefill_chunk(id), Err(KvError::Torn { .. })));
    cache.free(&[id]).unwrap();
    sound(&cache);
    let [taken, given] = cache.dump().unwrap().cursors;
    assert_eq!(given - taken, 9, "every page comes back");
}

#[test]
fn a_byte_budget_is_kept_at_the_end_of_a_prompt() {
    let (config, device) = (config(), Device::host());
    let free = {
        let mut cache = cache(&device, &config);
        let id = cache.admit(112, &Thresholds::new(0.0, 0.0)).unwrap();
        while cache.tokens(id).unwrap() < 112 {
            chunk(&mut cache, id, 2).unwrap();
        }
        let stats = cache.stats(id).unwrap();
        assert!(stats.heads.iter().all(|h| h.high == 112), "thresholds of 0 keep all high");
        stats.heads.iter().map(|h| h.pages).sum::<usize>()
    };
    let mut last = usize::MAX;
    for pages in [free, 20, 12, 8] {
        let mut cache = cache(&device, &config);
        let id = cache.admit(112, &Thresholds::within(pages * config.page_bytes)).unwrap();
        while cache.tokens(id).unwrap() < 112 {
            chunk(&mut cache, id, 2).unwrap();
        }
        sound(&cache);
        let stats = cache.stats(id).unwrap();
        let taken: usize = stats.heads.iter().map(|h| h.pages).sum();
        let kept: usize = stats.heads.iter().map(|h| h.high + h.low).sum();
        assert!(taken <= pages, "{taken} pages of {pages}: {stats:?}");
        assert!(kept <= last, "less room, fewer tokens");
        last = kept;
    }
}

#[test]
fn a_layer_and_a_head_of_it_have_thresholds_of_their_own() {
    let (config, tokens) = (config(), 28);
    // Everything is kept, but in layer 1, where the first head demotes what it may and the second drops it.
    let thresholds = Thresholds::new(0.0, 0.0).with(1, None, 100.0, 0.0).with(1, Some(1), 100.0, 100.0);
    let [reference, emulated] = checking_devices();
    for device in [Device::host(), reference, emulated] {
        let mut cache = cache(&device, &config);
        let id = cache.admit(24, &thresholds).unwrap();
        let counts = |cache: &KvCache| -> Vec<[usize; 3]> {
            cache.stats(id).unwrap().heads.iter().map(|head| [head.high, head.low, head.pruned]).collect()
        };
        let always = config.window + config.sinks;
        let of = |tokens: usize| {
            let open = tokens - always;
            [[tokens, 0, 0], [tokens, 0, 0], [always, open, 0], [always, 0, open]]
        };
        chunk(&mut cache, id, 5).unwrap();
        chunk(&mut cache, id, 5).unwrap();
        assert_eq!(counts(&cache), of(24), "after the prompt");
        while cache.tokens(id).unwrap() < tokens {
            step(&mut cache, &[(id, 5)]).unwrap();
            assert_eq!(counts(&cache), of(cache.tokens(id).unwrap()), "a step moves one token in each head");
        }
        sound(&cache);
    }
}
