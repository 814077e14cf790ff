//! What keeps tokens besides their mean share (peaks and priors), and the basis in which they are held.

use std::sync::Arc;

use leankv_kernels::policy::Peaks;
use leankv_runtime::Device;
use leankv_runtime::kv::{Basis, CacheConfig, KvCache, KvError, Means, RequestId, Thresholds};

use crate::common::{PLAIN, cache, checking_devices, chunk, config, held, random, row, sound, step, upload};

const WEIGHT: u32 = 200;

fn with_peaks() -> CacheConfig {
    CacheConfig { peaks: WEIGHT, ..config() }
}

/// A prompt of 40 tokens and 12 steps.
fn live(cache: &mut KvCache, thresholds: &Thresholds) -> (RequestId, Vec<Vec<f32>>) {
    let id = cache.admit(40, thresholds).unwrap();
    let mut out = Vec::new();
    while cache.tokens(id).unwrap() < 40 {
        out.extend(chunk(cache, id, 3).unwrap());
    }
    for _ in 0..12 {
        out.extend(step(cache, &[(id, 3)]).unwrap());
    }
    sound(cache);
    (id, out)
}

/// Positions that a list holds.
fn positions(cache: &KvCache, id: RequestId, list: usize) -> Vec<i32> {
    let mut all: Vec<i32> = held(cache, id, list).iter().flatten().map(|token| token.position).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_peak_is_the_largest_share_of_counted_queries_that_have_the_token_behind_their_window() {
    // Every query counts, and nothing is dropped.
    let config = CacheConfig { window_q: 16, ..with_peaks() };
    check_peaks(&Device::host(), &config);
    let small = CacheConfig { layers: 1, kv_heads: 1, slots: 1, pages: 8, ..config };
    checking_devices().iter().for_each(|device| check_peaks(device, &small));
}

fn check_peaks(device: &Device, config: &CacheConfig) {
    let mut cache = cache(device, config);
    let (id, _) = live(&mut cache, &Thresholds::new(0.0, 0.0));
    let (heads, d, group) = (config.kv_heads, config.head_dim, config.group);
    for list in 0..config.lists() {
        let (layer, head) = (list / heads, list % heads);
        let tokens = &held(&cache, id, list)[0];
        // Those of the last step wait for the next one.
        let mut most = vec![0.0f64; 52];
        for query in 0..51 {
            let q = row(config, 3, query, layer).q;
            for member in 0..group {
                let q = &q[(head * group + member) * d..][..d];
                let seen: Vec<_> = tokens.iter().filter(|t| t.position <= query as i32).collect();
                let logit = |key: &[f32]| {
                    key.iter().zip(q).map(|(k, q)| f64::from(*k) * f64::from(q.to_f32())).sum::<f64>() / 8.0
                };
                let exps: Vec<f64> = seen.iter().map(|t| logit(&t.key).exp()).collect();
                let sum: f64 = exps.iter().sum();
                let counts = |position: i32| position <= query as i32 - config.window as i32;
                for (token, exp) in seen.iter().zip(exps).filter(|(token, _)| counts(token.position)) {
                    let most = &mut most[token.position as usize];
                    *most = most.max(exp / sum);
                }
            }
        }
        for token in tokens.iter().filter(|token| token.position < 51) {
            let (_, peak) = Peaks::new(WEIGHT).parts(token.significance);
            let want = most[token.position as usize];
            // A code is a quarter of an octave; in its own chunk a key is met before it is coded.
            let off = if want == 0.0 { 1.0 + f64::from(peak) } else { f64::from(peak) / want };
            assert!((0.87..1.15).contains(&off), "list {list}, token {}: {peak}, {want}", token.position);
        }
    }
}

#[test]
fn a_prior_keeps_a_token_that_its_share_would_drop() {
    let thresholds = Thresholds::new(1.4, 1.2);
    let plain = with_peaks();
    let mut without = cache(&Device::host(), &plain);
    let (id, _) = live(&mut without, &thresholds);
    // The second list's tokens are said to be asked for again.
    let config = CacheConfig { priors: vec![0.0, 0.9, 0.0, 0.0], ..plain.clone() };
    let mut with = KvCache::with_kernels(
        &Device::host(),
        config.clone(),
        crate::common::kernels(&Device::host(), &plain),
    )
    .unwrap();
    let (id_with, _) = live(&mut with, &thresholds);
    assert!(positions(&without, id, 1).len() < 52, "some were dropped");
    assert_eq!(positions(&with, id_with, 1), (0..52).collect::<Vec<i32>>());
    assert_eq!(positions(&with, id_with, 0), positions(&without, id, 0), "others are as they were");

    // The same by a layer's own priors, which stand above those of the configuration.
    let mut given = cache(&Device::host(), &plain);
    let device = Device::host();
    let id = given.admit(40, &thresholds).unwrap();
    while given.tokens(id).unwrap() < 40 {
        let mut chunk = given.prefill_chunk(id).unwrap();
        for layer in 0..plain.layers {
            let of = chunk.positions();
            let rows: Vec<_> = of.clone().map(|token| PLAIN.row(&plain, 3, token, layer)).collect();
            let [q, k, v] = upload(&device, &rows);
            let priors = if layer == 0 { [0.0, 0.9] } else { [0.0; 2] }.repeat(of.len());
            let wrong = device.upload(&priors[1..]).unwrap();
            assert!(matches!(chunk.layer_with_priors(&q, &k, &v, Some(&wrong)), Err(KvError::Length { .. })));
            chunk.layer_with_priors(&q, &k, &v, Some(&device.upload(&priors).unwrap())).unwrap();
        }
        chunk.finish().unwrap();
    }
    assert_eq!(positions(&given, id, 1), (0..40).collect::<Vec<i32>>());
}

#[test]
fn what_peaks_and_means_cannot_be_is_said() {
    let means = |keys, values| Basis { rotated: true, means: Some(Arc::new(Means { keys, values })) };
    let n = 4 * 64;
    for (config, part) in [
        (CacheConfig { peaks: 1001, ..config() }, "at most 1000"),
        (CacheConfig { priors: vec![0.5; 4], ..config() }, "no peaks are kept"),
        (CacheConfig { priors: vec![0.5; 3], ..with_peaks() }, "3 priors where 4"),
        (CacheConfig { priors: vec![1.5; 4], ..with_peaks() }, "from 0 to 1"),
        (CacheConfig { priors: vec![f32::NAN; 4], ..with_peaks() }, "from 0 to 1"),
        (CacheConfig { basis: means(vec![0.0; n - 1], vec![0.0; n]), ..config() }, "255 numbers where 256"),
        (CacheConfig { basis: means(vec![0.0; n], vec![f32::INFINITY; n]), ..config() }, "no finite number"),
    ] {
        let error = config.shape().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

fn rotated_and_centred() -> Basis {
    let floats = |seed| random(seed, 4 * 64).iter().map(|x| x.to_f32()).collect();
    Basis { rotated: true, means: Some(Arc::new(Means { keys: floats(91), values: floats(92) })) }
}

/// In a basis of its own a cache gives what it gives without: to rounding, where nothing is coded in few bits.
#[test]
fn a_basis_changes_nothing_but_roundings() {
    let fp16 = CacheConfig { formats: "fp16".parse().unwrap(), ..config() };
    let devices = checking_devices();
    for (device, config) in
        [(&Device::host(), fp16.clone()), (&devices[1], CacheConfig { layers: 1, ..fp16 })]
    {
        let all = Thresholds::new(0.0, 0.0);
        let (_, plain) = live(&mut cache(device, &config), &all);
        let mut basis = rotated_and_centred();
        if let Some(means) = &mut basis.means {
            let of = |x: &[f32]| x[..config.lists() * 64].to_vec();
            *means = Arc::new(Means { keys: of(&means.keys), values: of(&means.values) });
        }
        let (_, inside) = live(&mut cache(device, &CacheConfig { basis, ..config.clone() }), &all);
        for (plain, inside) in plain.iter().flatten().zip(inside.iter().flatten()) {
            assert!((plain - inside).abs() < 6e-3, "{plain}, {inside}");
        }
    }
}

/// Keys with one large element, and a constant that all of a head share, lose much less of it in few bits.
#[test]
fn a_basis_keeps_outliers_and_means_out_of_the_codes() {
    let device = Device::host();
    let outlier = |_: usize, head: usize, _: usize, element: usize| match element {
        7 => 12.0,
        i => (i % 5) as f32 - 2.0 + head as f32,
    };
    let variant = crate::common::Variant { offset: outlier, ..PLAIN };
    let run = |config: &CacheConfig| {
        let mut cache = cache(&device, config);
        let id = cache.admit(32, &Thresholds::new(0.0, 0.0)).unwrap();
        while cache.tokens(id).unwrap() < 32 {
            crate::common::chunk_of(&mut cache, id, 5, &variant).unwrap();
        }
        (0..6)
            .flat_map(|_| crate::common::step_of(&mut cache, &[(id, 5)], &variant).unwrap())
            .collect::<Vec<_>>()
    };
    let tiering = |name: &str| CacheConfig { formats: name.parse().unwrap(), ..config() };
    let exact = run(&tiering("fp16"));
    let error = |config: &CacheConfig| {
        let got = run(config);
        let pairs = exact.iter().flatten().zip(got.iter().flatten());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let offsets = (0..4).flat_map(|list| (0..64).map(move |i| outlier(0, list % 2, 0, i)));
    let means = Means { keys: offsets.collect(), values: vec![0.0; 256] };
    let basis = Basis { rotated: true, means: Some(Arc::new(means)) };
    let plain = error(&tiering("K4V4"));
    let inside = error(&CacheConfig { basis, ..tiering("K4mV4m") });
    assert!(inside < plain / 2.0, "{inside} in the basis, {plain} without");
}

/// Forks, steps and prompts of caches with peaks and a basis on devices that check every access.
#[test]
fn peaks_and_basis_hold_on_devices_that_check_every_access() {
    let small =
        CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 2, pages: 12, ..with_peaks() };
    let floats = |seed| random(seed, 64).iter().map(|x| x.to_f32()).collect();
    let means = Some(Arc::new(Means { keys: floats(1), values: floats(2) }));
    let config = CacheConfig { basis: Basis { rotated: true, means }, priors: vec![0.25], ..small };
    for device in checking_devices() {
        let mut cache = cache(&device, &config);
        let id = cache.admit(20, &Thresholds::new(1.1, 0.8)).unwrap();
        while cache.tokens(id).unwrap() < 20 {
            chunk(&mut cache, id, 7).unwrap();
        }
        let fork = cache.fork(id).unwrap();
        for _ in 0..3 {
            step(&mut cache, &[(id, 7), (fork, 8)]).unwrap();
        }
        sound(&cache);
    }
}
