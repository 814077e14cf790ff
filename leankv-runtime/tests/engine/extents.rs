//! Head dims, query groups, formats and input types through the whole engine: prompts in chunks and steps, every output, key and mass against f64.

use half::{bf16, f16};
use leankv_dsl::lang::FloatType;
use leankv_runtime::kv::{CacheConfig, InputElement, KvError, Thresholds};
use leankv_runtime::{BufferView, Device};

use crate::common::{PLAIN, Row, cache, checking_devices, config, held, row, thresholds, upload};
use crate::model::checked_step_of;
use crate::prompt::checked_chunk_of;

/// A prompt of `prompt` tokens and some steps, checked.
#[track_caller]
fn check(device: &Device, config: &CacheConfig, thresholds: &Thresholds, prompt: usize) {
    let mut cache = cache(device, config);
    let id = cache.admit(prompt, thresholds).unwrap();
    while cache.tokens(id).unwrap() < prompt {
        checked_chunk_of(&mut cache, config, id, 6, &PLAIN);
    }
    for _ in 0..6 {
        checked_step_of(&mut cache, config, id, prompt, 6, &PLAIN);
    }
    let heads = cache.stats(id).unwrap().heads;
    let sum = |of: fn(&leankv_runtime::kv::HeadStats) -> usize| heads.iter().map(of).sum::<usize>();
    let two = config.formats.has_low();
    assert!(sum(|h| h.high) > 0 && sum(if two { |h| h.low } else { |h| h.pruned }) > 0, "{heads:?}");
}

#[test]
fn head_dims_and_query_groups_attend_as_f64_does() {
    for head_dim in [64, 128, 256] {
        for group in [1, 4, 8] {
            let config = CacheConfig { head_dim, group, page_bytes: 4096, ..config() };
            // The more queries share a KV head, the more significant is every token.
            check(&Device::host(), &config, &Thresholds::new(50.0, 0.5), 40);
        }
    }
}

#[test]
fn head_dims_that_are_multiples_of_8_attend_as_f64_does_and_others_are_refused_in_a_sentence() {
    for head_dim in [8, 40, 104] {
        let config = CacheConfig { head_dim, page_bytes: 4096, ..config() };
        check(&Device::host(), &config, &Thresholds::new(50.0, 0.5), 40);
    }
    for head_dim in [0, 4, 60, 100, 520] {
        let error = CacheConfig { head_dim, page_bytes: 4096, ..config() }.shape().unwrap_err();
        let wanted =
            format!("head dim {head_dim} is not supported: it must be a multiple of 8 from 8 to 512");
        assert!(error.to_string().contains(&wanted), "{error}");
    }
}

#[test]
fn formats_of_one_and_two_tiers_and_one_two_and_four_groups_attend_as_f64_does() {
    // Every pair of the standard formats' widths, the groups, symmetric and unquantised sides, and metadata in bf16.
    for tiering in [
        "fp16",
        "bf16",
        "K8V8",
        "K8V4",
        "K4V4",
        "K4V8",
        "K8V8/K4V4",
        "K8V4/K4V2",
        "K8V4/K2V4",
        "fp16/K8V2",
        "K8V4g2/K4V2g4",
        "K8V4g4/K4V2g2",
        "K8V4g1.2/K4V2g2.4",
        "K8sV8s/K4sV4s",
        "K16V8/K8V4-bf16",
        "K6V5/K3V3",
    ] {
        let config =
            CacheConfig { formats: tiering.parse().unwrap(), page_bytes: 4096, pages: 60, ..config() };
        check(&Device::host(), &config, &thresholds(), 40);
    }
}

#[test]
fn other_extents_and_formats_hold_on_devices_that_check_every_access() {
    let small = CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 12, ..config() };
    let cases = [(128, 4, "K8V4g2/K4V2g4", 4096), (256, 1, "fp16/K8V4", 8192), (64, 8, "K8sV4/K3V2g4", 2048)];
    for device in checking_devices() {
        for (head_dim, group, tiering, page_bytes) in cases {
            let formats = tiering.parse().unwrap();
            let config = CacheConfig { head_dim, group, formats, page_bytes, ..small.clone() };
            check(&device, &config, &Thresholds::new(50.0, 0.5), 20);
        }
    }
}

/// A cache's outputs over a prompt and some steps, when its input is given as `E`: what `of` makes of the model's numbers.
fn outputs<E: InputElement>(device: &Device, config: &CacheConfig, of: fn(f16) -> E) -> Vec<f32> {
    let config = CacheConfig { input: E::INPUT, ..config.clone() };
    let mut cache = cache(device, &config);
    let id = cache.admit(20, &Thresholds::new(1.2, 0.7)).unwrap();
    let mut all = Vec::new();
    let mut keep = |view: BufferView<'_, f32>| {
        let mut host = vec![0.0; view.len()];
        view.read_into(&mut host).unwrap();
        all.extend(host);
    };
    let tensors = |tokens: std::ops::Range<usize>, layer: usize| {
        let rows: Vec<Row> = tokens.map(|token| row(&config, 2, token, layer)).collect();
        let all = |part: fn(&Row) -> &Vec<f16>| {
            let numbers: Vec<E> = rows.iter().flat_map(|row| part(row).iter().map(|&x| of(x))).collect();
            device.upload(&numbers).unwrap()
        };
        [all(|row| &row.q), all(|row| &row.k), all(|row| &row.v)]
    };
    while cache.tokens(id).unwrap() < 20 {
        let mut chunk = cache.prefill_chunk(id).unwrap();
        for layer in 0..config.layers {
            let [q, k, v] = tensors(chunk.positions(), layer);
            keep(chunk.layer(&q, &k, &v).unwrap());
        }
        chunk.finish().unwrap();
    }
    for token in 20..24 {
        let mut step = cache.decode_step(&[id]).unwrap();
        for layer in 0..config.layers {
            let [q, k, v] = tensors(token..token + 1, layer);
            keep(step.layer(&q, &k, &v).unwrap());
        }
        step.finish().unwrap();
    }
    all
}

#[test]
fn the_same_numbers_give_the_same_as_f16_bf16_and_f32() {
    let small = CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 12, ..config() };
    let [reference, emulated] = checking_devices();
    // Wider input spreads over a GPU's threads in another way, and sums are taken in another order.
    for (device, config, most) in
        [(Device::host(), config(), 0.0), (reference, small.clone(), 0.0), (emulated, small, 1e-5)]
    {
        let same = |what: &str, got: Vec<f32>, want: Vec<f32>| {
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= most, "{what} on {}: {got}, as f16 {want}", device.name());
            }
        };
        // f16 holds every number of bf16 in this range.
        let coarse = |x: f16| bf16::from_f32(x.to_f32());
        let want = outputs::<f16>(&device, &config, |x| f16::from_f32(bf16::from_f32(x.to_f32()).to_f32()));
        same("bf16", outputs::<bf16>(&device, &config, coarse), want);
        same("f32", outputs::<f32>(&device, &config, f16::to_f32), outputs::<f16>(&device, &config, |x| x));
    }
}

#[test]
fn keys_of_f32_are_coded_from_all_their_bits() {
    let config = CacheConfig { input: FloatType::F32, formats: "K8V8".parse().unwrap(), ..config() };
    let device = Device::host();
    let mut cache = cache(&device, &config);
    let id = cache.admit(16, &Thresholds::new(0.0, 0.0)).unwrap();
    // Steps of f16 are 2 from 2048 on.
    let key = |token: usize, i: usize| 2048.0 + ((token * 31 + i * 17) % 97) as f32 / 97.0;
    let tensors = |tokens: std::ops::Range<usize>| {
        let rows = |heads: usize, of: &dyn Fn(usize, usize) -> f32| {
            let row = heads * config.head_dim;
            let numbers: Vec<f32> = tokens
                .clone()
                .flat_map(|token| (0..row).map(move |i| (token, i)))
                .map(|(t, i)| of(t, i))
                .collect();
            device.upload(&numbers).unwrap()
        };
        [
            rows(config.query_heads(), &|_, _| 0.0),
            rows(config.kv_heads, &key),
            rows(config.kv_heads, &|_, _| 1.0),
        ]
    };
    let mut chunk = cache.prefill_chunk(id).unwrap();
    let [q, k, v] = tensors(0..16);
    for _ in 0..config.layers {
        chunk.layer(&q, &k, &v).unwrap();
    }
    chunk.finish().unwrap();
    let mut step = cache.decode_step(&[id]).unwrap();
    let [q, k, v] = tensors(16..17);
    for _ in 0..config.layers {
        step.layer(&q, &k, &v).unwrap();
    }
    step.finish().unwrap();
    for list in 0..config.lists() {
        let [high, _] = held(&cache, id, list);
        assert_eq!(high.len(), 17);
        for token in high {
            for (i, got) in token.key.iter().enumerate() {
                let want = key(token.position as usize, list % config.kv_heads * config.head_dim + i);
                assert!((got - want).abs() < 0.004, "{got}, given {want}");
            }
        }
    }
}

#[test]
fn input_of_another_type_than_the_cache_was_made_for_is_refused_and_the_step_goes_on() {
    let (config, device) = (config(), Device::host());
    let mut cache = cache(&device, &config);
    let id = cache.admit(0, &thresholds()).unwrap();
    let mut step = cache.decode_step(&[id]).unwrap();
    let [q, k, v] = upload(&device, &[row(&config, 1, 0, 0)]);
    let wide = [&q, &k, &v].map(|x| {
        let wide: Vec<f32> = x.to_vec().unwrap().into_iter().map(f16::to_f32).collect();
        device.upload(&wide).unwrap()
    });
    let error = step.layer(&wide[0], &wide[1], &wide[2]).map(drop).unwrap_err();
    assert!(matches!(error, KvError::Input { expected: FloatType::F16, got: FloatType::F32 }), "{error}");
    for _ in 0..config.layers {
        step.layer(&q, &k, &v).unwrap();
    }
    step.finish().unwrap();
}
