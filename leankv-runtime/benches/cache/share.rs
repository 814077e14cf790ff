//! How much of a chunk of a prompt, and of a decode step, is the page manager's: 32 layers, 8 KV heads of 128 in groups of 4, K8V4/K4V2, 16 requests of
//! different lengths, each within a third of its FP16 bytes.
//!
//! A chunk or step is timed whole, and after it the same rebalances on a twin of the manager, whose lists are as long. The processor's caches are emptied
//! before these, since attention leaves little of the manager's data in them.

use std::hint::black_box;
use std::time::Instant;

use half::f16;
use leankv_dsl::workload::Generator;
use leankv_runtime::kv::{
    CacheConfig, CacheShape, DeviceManager, EngineKernels, HeadStats, KvCache, PageManager, RequestId,
    Thresholds,
};
use leankv_runtime::{Compiler, Device, DeviceBuffer};

use crate::common::{Outcome, Row, median, row};

const LAYERS: usize = 32;
const KV_HEADS: usize = 8;
const GROUP: usize = 4;
const D: usize = 128;
const REQUESTS: usize = 16;
const CHUNK: usize = 512;
/// Steps that are timed, and tokens of the longest sequence then.
const STEPS: usize = 40;
const MOST: usize = 2 * CHUNK + STEPS;

/// Tokens of a request's prompt, which is two chunks.
fn prompt(request: usize) -> usize {
    720 + 20 * request
}

/// Queries, keys and values of `rows` rows.
struct Tensors([DeviceBuffer<f16>; 3]);

/// As many as no step or layer meets twice in a row.
fn tensors(device: &Device, rows: usize, count: usize) -> Outcome<Vec<Tensors>> {
    let mut random = Generator::new(3);
    let mut one = || -> Outcome<Tensors> {
        // Attention that is far from even.
        let (q, _) = random.f16s(rows * KV_HEADS * GROUP * D, -6.0, 6.0);
        let [k, v] = [0, 1].map(|_| random.f16s(rows * KV_HEADS * D, -1.0, 1.0).0);
        Ok(Tensors([device.upload(&q)?, device.upload(&k)?, device.upload(&v)?]))
    };
    (0..count).map(|_| one()).collect()
}

/// A manager without pages to write to, for lists as a cache's.
struct Twin {
    manager: DeviceManager,
    slots: DeviceBuffer<i32>,
    targets: DeviceBuffer<i32>,
    evict: Vec<u64>,
}

impl Twin {
    fn new(compiler: &Compiler, device: &Device, shape: &CacheShape) -> Outcome<Twin> {
        let shape = CacheShape { page_bytes: 16, ..*shape };
        let slots: Vec<i32> = (0..shape.slots as i32).collect();
        Ok(Twin {
            manager: DeviceManager::new(compiler, device, shape)?,
            slots: device.upload(&slots)?,
            targets: device.zeros(shape.slots * shape.lists() * 2)?,
            evict: vec![0; 16 << 20],
        })
    }

    fn evict(&mut self) {
        for line in self.evict.iter_mut().step_by(8) {
            *line = line.wrapping_add(1);
        }
        black_box(&self.evict);
    }

    /// Microseconds of a step's rebalance to `held` pages.
    fn queue(&mut self, held: &[i32]) -> Outcome<f64> {
        self.targets.write(held)?;
        self.evict();
        let start = Instant::now();
        // SAFETY: the slots are 0 up to their number.
        unsafe { self.manager.queue(self.slots.as_view(), self.targets.as_view()) }?;
        Ok(micros(start))
    }

    /// Microseconds of one request's rebalance that the host waits for.
    fn rebalance(&mut self, slot: usize, pages: &[i32]) -> Outcome<f64> {
        self.evict();
        let start = Instant::now();
        let answers = self.manager.rebalance(&[slot], pages)?;
        let time = micros(start);
        answers.into_iter().collect::<Result<(), _>>()?;
        Ok(time)
    }
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// What was timed, in microseconds.
#[derive(Default)]
struct Times {
    whole: Vec<f64>,
    /// Until the first layer.
    begun: Vec<f64>,
    /// The manager alone.
    managed: Vec<f64>,
}

pub(crate) fn section(compiler: &Compiler, rows: &mut Vec<Row>) -> Outcome<()> {
    let device = Device::host();
    let mut config = CacheConfig::new([LAYERS, KV_HEADS, GROUP, D], REQUESTS, MOST, 1);
    config.chunk = CHUNK;
    // All of it high, and what one chunk reserves beside that.
    let pages = |tokens: usize, per_page: usize| config.lists() * tokens.div_ceil(per_page);
    let [high, low] = config.shape()?.tokens;
    config.pages = REQUESTS * pages(MOST, high) + pages(CHUNK, low);
    let kernels = EngineKernels::new(compiler, &device, &config)?;
    let mut cache = KvCache::with_kernels(&device, config, kernels)?;
    let mut twin = Twin::new(compiler, &device, cache.manager().shape())?;

    let mut ids = Vec::new();
    let chunks = prompts(&mut cache, &mut twin, &mut ids)?;
    let steps = decode(&mut cache, &mut twin, &ids)?;
    if !cache.audit()?.is_empty() || !twin.manager.audit()?.is_empty() {
        return Err("pages do not add up".into());
    }
    // Chunks differ in length, so means are compared; steps do not.
    let mean = |times: Vec<f64>| times.iter().sum::<f64>() / times.len() as f64;
    for (what, name, times, middle, bar, most) in [
        ("decode step", "planning and manager", steps, &median as &dyn Fn(Vec<f64>) -> f64, "< 0.9 %", 0.9),
        ("chunk of a prompt", "all until the first layer", chunks, &mean, "< 0.2 %", 0.2),
    ] {
        let [whole, begun, managed] = [times.whole, times.begun, times.managed].map(middle);
        let percent = |part: f64| 100.0 * part / whole;
        println!(
            "{what}: {:.1} ms; manager {managed:.0} us, {:.4} %; {name} {begun:.0} us, {:.3} %",
            whole / 1e3,
            percent(managed),
            percent(begun),
        );
        for (part, who) in [(managed, "page manager's share".to_owned()), (begun, format!("share of {name}"))]
        {
            let measured = format!("{:.4} %", percent(part));
            let what = format!("{who}: share of a {what} (attention alone)");
            rows.push(row(what, bar, measured, percent(part) < most));
        }
    }
    Ok(())
}

/// Admits the requests and takes their prompts in.
fn prompts(cache: &mut KvCache, twin: &mut Twin, ids: &mut Vec<RequestId>) -> Outcome<Times> {
    let (device, shape) = (Device::host(), *cache.manager().shape());
    let full = tensors(&device, CHUNK, 3)?;
    let mut times = Times::default();
    for request in 0..REQUESTS {
        let tokens = prompt(request);
        // FP16 takes four bytes for an element of a key and of a value.
        let budget = tokens * shape.lists() * D * 4 / 3;
        let id = cache.admit(tokens, &Thresholds::within(budget))?;
        ids.push(id);
        let rest = tensors(&device, tokens - CHUNK, 3)?;
        for inputs in [&full, &rest] {
            let lists = shape.lists();
            let lengths = cache.dump()?.lengths[id.slot() * lists * 4..][..lists * 4].to_vec();
            let start = Instant::now();
            let mut chunk = cache.prefill_chunk(id)?;
            times.begun.push(micros(start));
            let more = chunk.positions().len();
            for layer in 0..LAYERS {
                let Tensors([q, k, v]) = &inputs[layer % inputs.len()];
                chunk.layer(q, k, v)?;
            }
            chunk.finish()?;
            times.whole.push(micros(start));

            // Room for all of the chunk in either tier, then what it needs.
            let room = |l: &[i32]| [0, 1].map(|t| (l[t] as usize + more).div_ceil(shape.tokens[t]) as i32);
            let reserved: Vec<i32> = lengths.chunks_exact(4).flat_map(room).collect();
            let held = cache.dump()?.held[id.slot() * lists * 2..][..lists * 2].to_vec();
            times.managed.push(twin.rebalance(id.slot(), &reserved)? + twin.rebalance(id.slot(), &held)?);
        }
    }
    Ok(times)
}

/// Some steps of all requests.
fn decode(cache: &mut KvCache, twin: &mut Twin, ids: &[RequestId]) -> Outcome<Times> {
    let inputs = tensors(&Device::host(), REQUESTS, 61)?;
    let (mut times, mut changed) = (Times::default(), 0);
    let mut before = cache.dump()?.held;
    for turn in 0..STEPS {
        let start = Instant::now();
        let mut step = cache.decode_step(ids)?;
        times.begun.push(micros(start));
        for layer in 0..LAYERS {
            let Tensors([q, k, v]) = &inputs[(turn * LAYERS + layer) % inputs.len()];
            step.layer(q, k, v)?;
        }
        step.finish()?;
        times.whole.push(micros(start));
        let held = cache.dump()?.held;
        times.managed.push(twin.queue(&held)?);
        changed += held.iter().zip(&before).filter(|(new, old)| new != old).count();
        before = held;
    }
    let stats: Vec<_> = ids.iter().map(|&id| cache.stats(id)).collect::<Result<_, _>>()?;
    let heads: Vec<&HeadStats> = stats.iter().flat_map(|stats| &stats.heads).collect();
    let mean = |of: fn(&HeadStats) -> usize| {
        heads.iter().map(|head| of(head)).sum::<usize>() as f64 / heads.len() as f64
    };
    println!(
        "{REQUESTS} requests; a list holds {:.0} high and {:.0} low tokens of {:.0}, in {:.1} pages; {:.0} lists a step get or give a page",
        mean(|head| head.high),
        mean(|head| head.low),
        mean(|head| head.high + head.low + head.pruned),
        mean(|head| head.pages),
        changed as f64 / STEPS as f64,
    );
    Ok(times)
}
