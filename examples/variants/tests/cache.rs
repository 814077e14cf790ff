//! The variants in the whole cache: what it attends to, on every executor.

use half::f16;
use leankv_dsl::lang::attention::CodecChoice;
use leankv_kernels::policy::PolicyChoice;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{CacheConfig, KvCache, RequestId, Thresholds};
use leankv_runtime::{Compiler, Device, Sm};
use leankv_variants::{
    duo::Duo, fp8::Fp8, nf4::Nf4, outlier::Outlier, snapkv::SnapKv, value_norm::ValueNorm,
};

const D: usize = 32;
const PROMPT: usize = 38;

/// Two layers of two KV heads.
fn config(tiering: &str) -> CacheConfig {
    let extents = [2, 2, 2, D];
    let config = CacheConfig::new(extents, 1, 48, 64);
    let formats = tiering.parse().unwrap();
    CacheConfig { formats, page_bytes: 1024, chunk: 16, window_q: 4, window: 4, sinks: 2, ..config }
}

fn devices() -> [Device; 3] {
    [Device::host(), Device::reference(), Device::emulated(Sm::Sm80)]
}

/// `len` reproducible numbers around 0, a large one among them.
fn vectors(seed: usize, len: usize) -> Vec<f16> {
    let number = |i: usize| {
        let mix = (seed * 7919 + i * 104_729 + i * i * 31) % 2003;
        let size = if i % 37 == 5 { 4.0 } else { 1.0 };
        f16::from_f32((mix as f32 / 1001.0 - 1.0) * size)
    };
    (0..len).map(number).collect()
}

/// A prompt and a few steps; every output.
fn life(device: &Device, config: CacheConfig, thresholds: &Thresholds) -> (KvCache, RequestId, Vec<f32>) {
    let compiler = Compiler::new(KernelCache::without_folder());
    let (layers, heads) = (config.layers, config.kv_heads);
    let group = config.group;
    let mut cache = KvCache::new(&compiler, device, config).unwrap();
    let id = cache.admit(PROMPT, thresholds).unwrap();
    let mut outs = Vec::new();
    let mut read = |view: leankv_runtime::BufferView<'_, f32>| {
        let mut out = vec![0.0; view.len()];
        view.read_into(&mut out).unwrap();
        outs.extend(out);
    };
    let tensors = |at: usize, n: usize, layer: usize| {
        let seed = at * 10 + layer;
        [(0, heads * group), (1, heads), (2, heads)]
            .map(|(kind, rows)| device.upload(&vectors(3 * seed + kind, n * rows * D)).unwrap())
    };
    while cache.tokens(id).unwrap() < PROMPT {
        let mut chunk = cache.prefill_chunk(id).unwrap();
        let positions = chunk.positions();
        for layer in 0..layers {
            let [q, k, v] = tensors(positions.start, positions.len(), layer);
            read(chunk.layer(&q, &k, &v).unwrap());
        }
        chunk.finish().unwrap();
    }
    for step in 0..6 {
        let mut decode = cache.decode_step(&[id]).unwrap();
        for layer in 0..layers {
            let [q, k, v] = tensors(1000 + step, 1, layer);
            read(decode.layer(&q, &k, &v).unwrap());
        }
        decode.finish().unwrap();
    }
    assert!(cache.audit().unwrap().is_empty());
    (cache, id, outs)
}

/// Root mean square of the difference, over that of `b`.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let square = |x: f32| x * x;
    let difference: f32 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().map(|b| square(*b)).sum::<f32>()).sqrt()
}

const ALL: Thresholds =
    Thresholds { all: [0.0, 0.0], overrides: Vec::new(), budget: leankv_runtime::kv::Budget::None };

/// How far codecs are from FP16, which is the same on every executor; and bytes of a token's page.
fn error(tiering: &str, codecs: &dyn Fn(&Device) -> CodecChoice) -> f32 {
    let [host, others @ ..] = devices();
    let (_, _, exact) = life(&host, config("fp16"), &ALL);
    let of = |device: &Device| {
        let config = CacheConfig { codecs: codecs(device), ..config(tiering) };
        life(device, config, &ALL).2
    };
    let outs = of(&host);
    for device in &others {
        let there = of(device);
        assert!(apart(&there, &outs) < 2e-3, "{}: {}", device.name(), apart(&there, &outs));
    }
    apart(&outs, &exact)
}

#[test]
fn levels_of_a_normal_distribution_lose_about_what_even_ones_do() {
    let even = error("K4V4", &|_| CodecChoice::stock());
    let normal = error("K4V4", &|device| CodecChoice::stock().with("nf4", Nf4::new(device).unwrap()));
    assert!(normal < 1.5 * even && normal > 0.0, "{normal} against {even}");
}

#[test]
fn eight_bit_floats_lose_a_few_per_cent() {
    let floats = error("K8V8", &|_| CodecChoice::stock().with("fp8", Fp8));
    assert!(floats > 0.0 && floats < 0.08, "{floats}");
}

#[test]
fn an_outlier_apart_makes_four_bits_finer() {
    let plain = error("K4V4", &|_| CodecChoice::stock());
    let apart = error("K4V4", &|_| CodecChoice::stock().with("outlier", Outlier));
    assert!(apart < 0.8 * plain, "{apart} against {plain}");
}

#[test]
fn a_codec_of_another_shape_takes_the_bytes_that_it_says() {
    let plain = config("K4V4");
    let more = CacheConfig { codecs: CodecChoice::stock().with("outlier", Outlier), ..config("K4V4") };
    let tokens = |config: &CacheConfig| config.page_tokens(config.formats.usual()).unwrap()[0];
    // 4 bytes of metadata more for each of a key and a value.
    let bytes = |config: &CacheConfig| 1024 / tokens(config);
    assert!((7..=12).contains(&(bytes(&more) - bytes(&plain))), "{} and {}", bytes(&more), bytes(&plain));
}

#[test]
fn heads_that_stream_keep_sinks_and_window_and_the_others_everything() {
    for device in devices() {
        let keeps = vec![true, false, false, true];
        let duo = Duo::new(&device, keeps.clone(), [2, 2]).unwrap();
        let config = CacheConfig { policy: PolicyChoice::user("duo", duo), ..config("K8V4") };
        let (cache, id, _) = life(&device, config, &Thresholds::new(1.0, 0.0));
        let stats = cache.stats(id).unwrap();
        for (head, keeps) in stats.heads.iter().zip(keeps) {
            let expected = if keeps { PROMPT + 6 } else { 2 + 4 };
            assert_eq!(head.high + head.low, expected, "{}", device.name());
        }
    }
}

#[test]
fn pooling_keeps_the_neighbours_of_what_is_kept() {
    let thresholds = Thresholds::new(1.6, 1.1);
    let kept = |device: &Device, policy: PolicyChoice| {
        let (cache, id, _) = life(device, CacheConfig { policy, ..config("K8V4/K4V2") }, &thresholds);
        cache.stats(id).unwrap().heads.iter().map(|head| head.high + head.low).sum::<usize>()
    };
    let [host, others @ ..] = devices();
    let pooled = |device: &Device| kept(device, PolicyChoice::user("snapkv", SnapKv { reach: 3 }));
    let (alone, neighbours) = (kept(&host, PolicyChoice::default()), pooled(&host));
    assert!(neighbours > alone, "{neighbours} and {alone} tokens");
    for device in &others {
        assert_eq!(pooled(device), neighbours, "{}", device.name());
    }
}

#[test]
fn norms_of_values_decide_alike_on_every_executor() {
    let thresholds = Thresholds::new(1.6, 1.1);
    let kept = |device: &Device, policy: PolicyChoice| {
        let (cache, id, _) = life(device, CacheConfig { policy, ..config("K8V4/K4V2") }, &thresholds);
        cache.stats(id).unwrap().heads.iter().map(|head| [head.high, head.low]).collect::<Vec<_>>()
    };
    let [host, others @ ..] = devices();
    let weighted = |device: &Device| kept(device, PolicyChoice::user("value-norm", ValueNorm));
    let here = weighted(&host);
    assert_ne!(here, kept(&host, PolicyChoice::default()));
    for device in &others {
        assert_eq!(weighted(device), here, "{}", device.name());
    }
}
