//! Byte budgets: at the end of a prompt, while a sequence grows, and shared by requests.

use half::f16;
use leankv_dsl::format::LayerFormats;
use leankv_runtime::Device;
use leankv_runtime::kv::{Budget, CacheConfig, KvCache, KvError, RequestId, Thresholds};

use crate::common::{cache, checking_devices, chunk, config, row, sound, step, upload};

/// Pages of a request.
fn pages(cache: &KvCache, id: RequestId) -> usize {
    cache.stats(id).unwrap().heads.iter().map(|head| head.pages).sum()
}

fn prompt(cache: &mut KvCache, id: RequestId, tokens: usize, sequence: u64) {
    while cache.tokens(id).unwrap() < tokens {
        chunk(cache, id, sequence).unwrap();
    }
}

/// The loose configuration: sequences of 400 tokens.
fn long() -> CacheConfig {
    CacheConfig { max_tokens: 400, pages: 400, solve_every: 8, keep_tokens: 0, ..config() }
}

#[test]
fn a_budget_of_bytes_is_kept_while_the_sequence_grows() {
    let config = long();
    let mut cache = cache(&Device::host(), &config);
    // 48 tokens in 4 lists take 12 pages; so do 16 times as many.
    let most = 12;
    let id = cache.admit(48, &Thresholds::within(most * config.page_bytes)).unwrap();
    prompt(&mut cache, id, 48, 3);
    let mut worst = 0;
    while cache.tokens(id).unwrap() < 400 {
        step(&mut cache, &[(id, 3)]).unwrap();
        worst = worst.max(pages(&cache, id));
    }
    sound(&cache);
    let stats = cache.stats(id).unwrap();
    assert!(worst <= most, "{worst} pages of {most}: {stats:?}");
    assert!(pages(&cache, id) * 2 > most, "what may be used is used: {stats:?}");
}

#[test]
fn thresholds_that_were_solved_for_once_would_exceed_it() {
    let config = long();
    let mut cache = cache(&Device::host(), &config);
    let most = 12;
    let solved = cache.admit(48, &Thresholds::within(most * config.page_bytes)).unwrap();
    prompt(&mut cache, solved, 48, 3);
    let all = cache.dump().unwrap().thresholds;
    let [high, low] = [0, 1].map(|i| all[solved.slot() * config.lists() * 2 + i]);
    assert!(pages(&cache, solved) <= most);
    cache.free(&[solved]).unwrap();

    let fixed = cache.admit(48, &Thresholds::new(high, low)).unwrap();
    prompt(&mut cache, fixed, 48, 3);
    while cache.tokens(fixed).unwrap() < 400 {
        step(&mut cache, &[(fixed, 3)]).unwrap();
    }
    assert!(pages(&cache, fixed) > most, "{} pages by {high} and {low}", pages(&cache, fixed));
}

#[test]
fn a_part_of_fp16_grows_with_the_sequence() {
    let config = long();
    for part in [3.0, 5.0] {
        let mut cache = cache(&Device::host(), &config);
        let id = cache.admit(160, &Thresholds::solved(Budget::Part(part))).unwrap();
        prompt(&mut cache, id, 160, 4);
        while cache.tokens(id).unwrap() < 400 {
            step(&mut cache, &[(id, 4)]).unwrap();
            let most = config.fp16_bytes(cache.tokens(id).unwrap()) as f64 / f64::from(part);
            let taken = (pages(&cache, id) * config.page_bytes) as f64;
            assert!(taken <= most, "{taken} bytes of {most} at {}", cache.tokens(id).unwrap());
        }
        let most = config.fp16_bytes(400) as f64 / f64::from(part);
        assert!((pages(&cache, id) * config.page_bytes) as f64 > 0.6 * most, "what may be used is used");
    }
}

#[test]
fn requests_of_several_formats_share_a_budget_and_have_one_high_threshold() {
    let fewer: LayerFormats = "K8V4".parse().unwrap();
    let config = long();
    let bytes = |pages: usize| Some(pages * config.page_bytes);
    let shared =
        CacheConfig { more_formats: vec![fewer.clone()], shared_budget: bytes(44), ..config.clone() };
    let mut cache = cache(&Device::host(), &shared);
    let solved = Thresholds::solved(Budget::Shared);
    let ids = [
        cache.admit(64, &solved).unwrap(),
        cache.admit_as(&fewer, 48, &solved).unwrap(),
        cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap(),
        cache.admit(80, &solved).unwrap(),
    ];
    for (id, tokens, sequence) in [(ids[0], 64, 1), (ids[1], 48, 2), (ids[3], 80, 3)] {
        prompt(&mut cache, id, tokens, sequence);
    }
    let together = |cache: &KvCache| pages(cache, ids[0]) + pages(cache, ids[1]) + pages(cache, ids[3]);
    let batch = [(ids[0], 1), (ids[2], 9), (ids[1], 2), (ids[3], 3)];
    let high = |cache: &KvCache, id: RequestId| {
        cache.dump().unwrap().thresholds[id.slot() * config.lists() * 2..][..config.lists() * 2].to_vec()
    };
    // The first ones were solved for when the others were not there yet; they come down as they go.
    let mut strict = 0;
    for turn in 0..150 {
        step(&mut cache, &batch).unwrap();
        strict += usize::from(high(&cache, ids[0])[0] > 0.0);
        assert!(turn < 40 || together(&cache) <= 44, "{} pages at {turn}", together(&cache));
    }
    sound(&cache);
    assert!(together(&cache) > 30, "what may be used is used");
    let [first, second, fixed, third] = [0, 1, 2, 3].map(|i| high(&cache, ids[i]));
    let of_high = |pairs: &[f32]| pairs.iter().copied().step_by(2).collect::<Vec<f32>>();
    assert_eq!(of_high(&first), of_high(&third));
    assert!(of_high(&first).windows(2).all(|two| two[0] == two[1]), "{first:?}");
    assert!(strict > 50, "thresholds were needed in {strict} steps");
    assert_eq!(of_high(&second), of_high(&first));
    assert!(second.chunks(2).all(|pair| pair[1] <= pair[0]), "pages are filled: {second:?}");
    assert_eq!(fixed, vec![0.0; config.lists() * 2], "who has thresholds keeps them");

    // The arena is wanted for something else.
    cache.set_shared_budget(bytes(32));
    for _ in 0..60 {
        step(&mut cache, &batch).unwrap();
    }
    assert!(together(&cache) <= 32, "{}", together(&cache));
    sound(&cache);
}

#[test]
fn budgets_hold_on_devices_that_check_every_access() {
    let small = CacheConfig {
        layers: 1,
        kv_heads: 1,
        window: 3,
        sinks: 0,
        slots: 2,
        pages: 12,
        solve_every: 3,
        ..config()
    };
    for device in checking_devices() {
        let mut cache = cache(&device, &small);
        let ids = [
            cache.admit(20, &Thresholds::within(3 * small.page_bytes)).unwrap(),
            cache.admit(0, &Thresholds::solved(Budget::Shared)).unwrap(),
        ];
        prompt(&mut cache, ids[0], 20, 5);
        for _ in 0..7 {
            step(&mut cache, &[(ids[0], 5), (ids[1], 6)]).unwrap();
        }
        sound(&cache);
        assert!(pages(&cache, ids[0]) <= 3);
    }
}

#[test]
fn a_budget_of_bytes_holds_whatever_queries_and_keys_are() {
    let config = long();
    for bad in [f16::INFINITY, f16::NAN] {
        let mut cache = cache(&Device::host(), &config);
        let bytes = 12 * config.page_bytes;
        let id = cache.admit(160, &Thresholds::within(bytes)).unwrap();
        while cache.tokens(id).unwrap() < 160 {
            let mut chunk = cache.prefill_chunk(id).unwrap();
            let positions = chunk.positions();
            for layer in 0..config.layers {
                let mut rows: Vec<_> = positions.clone().map(|at| row(&config, 7, at, layer)).collect();
                for row in &mut rows {
                    for x in [&mut row.q, &mut row.k] {
                        x.iter_mut().step_by(3).for_each(|x| *x = bad);
                    }
                }
                let [q, k, v] = upload(&Device::host(), &rows);
                chunk.layer(&q, &k, &v).unwrap();
            }
            chunk.finish().unwrap();
            let taken = cache.stats(id).unwrap().page_bytes;
            assert!(taken <= bytes, "{bad}: {taken} bytes of {bytes}");
        }
        sound(&cache);
    }
}

#[test]
fn a_budget_of_bytes_that_cannot_be_kept_is_refused_and_the_least_is_kept() {
    let config = long();
    let mut cache = cache(&Device::host(), &config);
    let least = config.least_bytes(&config.formats).unwrap();
    let error = cache.admit(60, &Thresholds::within(least - 1)).unwrap_err();
    assert!(
        matches!(error, KvError::OverBudget { need, bytes } if need == least && bytes == least - 1),
        "{error}"
    );
    let id = cache.admit(60, &Thresholds::within(least)).unwrap();
    prompt(&mut cache, id, 60, 5);
    while cache.tokens(id).unwrap() < 200 {
        step(&mut cache, &[(id, 5)]).unwrap();
        let taken = cache.stats(id).unwrap().page_bytes;
        assert!(taken <= least, "{taken} bytes of {least} at {}", cache.tokens(id).unwrap());
    }
    sound(&cache);
}

#[test]
fn a_part_of_fp16_drops_nothing_of_short_sequences_and_is_kept_by_long_ones() {
    let config = CacheConfig { keep_tokens: 64, ..long() };
    let mut cache = cache(&Device::host(), &config);
    let id = cache.admit(40, &Thresholds::solved(Budget::Part(5.0))).unwrap();
    prompt(&mut cache, id, 40, 6);
    while cache.tokens(id).unwrap() < 64 {
        let stats = cache.stats(id).unwrap();
        assert!(stats.heads.iter().all(|head| head.pruned == 0 && head.low > 0), "{stats:?}");
        assert!(!stats.keeps_budget(), "there is more than was asked for, and it says so: {stats:?}");
        step(&mut cache, &[(id, 6)]).unwrap();
    }
    while cache.tokens(id).unwrap() < 400 {
        step(&mut cache, &[(id, 6)]).unwrap();
    }
    let stats = cache.stats(id).unwrap();
    assert!(stats.keeps_budget() && stats.heads.iter().any(|head| head.pruned > 0), "{stats:?}");
    assert_eq!(stats.asked_bytes, Some(config.fp16_bytes(400) / 5));
}
