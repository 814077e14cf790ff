//! The LeanKV cache: three requests in one batch, one held to thresholds, one to a byte budget, and one in another format.
//!
//! Keys and values are made up here, with a few keys that every query likes; in a server they come from the model, layer by layer.

use std::error::Error;

use half::f16;
use leankv_dsl::format::LayerFormats;
use leankv_examples::numbers;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{Budget, CacheConfig, KvCache, RequestStats, Thresholds};
use leankv_runtime::{Compiler, Device};

const LAYERS: usize = 2;
const KV_HEADS: usize = 2;
const GROUP: usize = 4;
const HEAD_DIM: usize = 64;
const PROMPT: usize = 1400;
const STEPS: usize = 20;

/// What a model's layer would give for `tokens` tokens from position `first` on: queries, keys or values of `heads` heads.
fn projected(seed: u64, first: usize, tokens: usize, heads: usize) -> Vec<f16> {
    let mut x = numbers(seed + first as u64, tokens * heads * HEAD_DIM);
    for (token, row) in x.chunks_exact_mut(heads * HEAD_DIM).enumerate() {
        // Every 50th token's key points where all queries look.
        let liked = seed.is_multiple_of(3) || (seed % 3 == 1 && (first + token).is_multiple_of(50));
        row.iter_mut().for_each(|x| *x += if liked { 0.8 } else { 0.0 });
    }
    x.into_iter().map(f16::from_f32).collect()
}

fn run(device: &Device) -> Result<Vec<RequestStats>, Box<dyn Error>> {
    let mut config = CacheConfig::new([LAYERS, KV_HEADS, GROUP, HEAD_DIM], 3, 2048, 700);
    config.page_bytes = 1920;
    let plain: LayerFormats = "K8V8".parse()?;
    config.more_formats = vec![plain.clone()];
    let mut cache = KvCache::new(&Compiler::new(KernelCache::user()), device, config)?;

    let by_thresholds = cache.admit(PROMPT, &Thresholds::new(3.0, 0.5))?;
    let by_budget = cache.admit(PROMPT, &Thresholds::solved(Budget::Part(8.0)))?;
    let by_format = cache.admit_as(&plain, PROMPT, &Thresholds::new(0.0, 0.0))?;
    let upload = |seed, first, tokens, heads| device.upload(&projected(seed, first, tokens, heads));

    let batch = [by_thresholds, by_budget, by_format];
    for request in batch {
        while cache.tokens(request)? < PROMPT {
            let mut chunk = cache.prefill_chunk(request)?;
            let (first, tokens) = (chunk.positions().start, chunk.positions().len());
            for layer in 0..LAYERS as u64 {
                let q = upload(30 * layer, first, tokens, KV_HEADS * GROUP)?;
                let k = upload(30 * layer + 1, first, tokens, KV_HEADS)?;
                let v = upload(30 * layer + 2, first, tokens, KV_HEADS)?;
                let _output = chunk.layer(&q, &k, &v)?;
            }
            chunk.finish()?;
        }
    }
    for at in PROMPT..PROMPT + STEPS {
        let mut step = cache.decode_step(&batch)?;
        for layer in 0..LAYERS as u64 {
            let q = upload(30 * layer, at, batch.len(), KV_HEADS * GROUP)?;
            let k = upload(30 * layer + 1, at, batch.len(), KV_HEADS)?;
            let v = upload(30 * layer + 2, at, batch.len(), KV_HEADS)?;
            let _output = step.layer(&q, &k, &v)?;
        }
        step.finish()?;
    }
    let stats = batch.into_iter().map(|request| cache.stats(request)).collect::<Result<_, _>>()?;
    cache.free(&batch)?;
    assert!(cache.audit()?.is_empty(), "every page came back");
    Ok(stats)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (name, stats) in
        ["thresholds 3, 0.5", "budget 1/8", "all in K8V8"].into_iter().zip(run(&Device::host())?)
    {
        println!("{name}: {} bytes, {:.1} times less than FP16", stats.bytes, stats.compression());
        for (at, head) in stats.heads.iter().enumerate() {
            let (layer, kv_head) = (at / KV_HEADS, at % KV_HEADS);
            println!(
                "  layer {layer}, KV head {kv_head}: {} high, {} low, {} pruned",
                head.high, head.low, head.pruned
            );
        }
    }
    Ok(())
}

#[test]
fn requests_keep_to_what_they_were_told() {
    let stats = run(&Device::host()).unwrap();
    for stats in &stats[..2] {
        assert_eq!(stats.tokens, PROMPT + STEPS);
        for head in &stats.heads {
            assert_eq!(head.high + head.low + head.pruned, stats.tokens);
            assert!(head.high >= 64, "the recent window is high: {head:?}");
        }
    }
    assert!(stats[0].heads.iter().any(|head| head.pruned > 0 && head.low > 0), "{stats:?}");
    assert!(stats[1].compression() > 7.5, "{}", stats[1].compression());
    assert!(stats[2].heads.iter().all(|head| head.high == PROMPT + STEPS), "{:?}", stats[2]);
}
