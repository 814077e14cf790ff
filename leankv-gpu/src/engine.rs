//! The whole cache: random steps, each beside plain Rust in f64 as the engine's tests have it; and a step that is captured as a graph and replayed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::f16;
use leankv_dsl::workload::Generator;
use leankv_runtime::kv::{CacheConfig, EngineKernels, KvCache, KvError, RequestId, Thresholds};
use leankv_runtime::{Compiler, Device, DeviceBuffer};
use serde::Serialize;

use crate::common::{chunk, config, row, sound, step, thresholds, upload};
use crate::model::checked_step;
use crate::sizes::Sizes;
use crate::{Failure, common};

/// What was done to the cache.
#[derive(Default, Serialize)]
pub(crate) struct Lived {
    /// Steps of one request in which all that is attended to, kept and counted was compared.
    pub(crate) checked_steps: usize,
    /// Steps of several requests at once.
    pub(crate) batched_steps: usize,
    pub(crate) requests: usize,
    pub(crate) chunks: usize,
    pub(crate) forks: usize,
    /// Steps that were a graph, each compared byte by byte with one that was launched.
    pub(crate) replayed_steps: usize,
    /// What is wrong; nothing if all is right.
    pub(crate) wrong: Vec<String>,
}

/// The engine's tests' model, with pages for all.
fn roomy() -> CacheConfig {
    CacheConfig { pages: 400, ..config() }
}

/// The cache's kernels.
pub(crate) fn kernels(device: &Device, compiler: &Compiler) -> Result<EngineKernels, Failure> {
    Ok(EngineKernels::new(compiler, device, &roomy())?)
}

/// Does all of it. A mistake ends the part that it is in.
pub(crate) fn run(device: &Device, compiler: &Compiler, sizes: &Sizes) -> Lived {
    let mut done = Lived::default();
    for part in [live, replay] {
        // The tests' model panics where something differs.
        let result =
            catch_unwind(AssertUnwindSafe(|| part(device, &kernels(device, compiler)?, sizes, &mut done)));
        let wrong = match result {
            Ok(result) => result.err().map(|error| error.to_string()),
            Err(payload) => {
                let text = payload.downcast_ref::<String>().cloned();
                let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Some(text.unwrap_or_else(|| "no message".to_owned()))
            }
        };
        done.wrong.extend(wrong);
    }
    done
}

/// A request that is here: what it is fed, and the length of its prompt.
struct Request {
    id: RequestId,
    sequence: u64,
    prompt: usize,
}

/// Random lives of requests beside each other.
fn live(device: &Device, kernels: &EngineKernels, sizes: &Sizes, done: &mut Lived) -> Result<(), Failure> {
    let config = roomy();
    let mut cache = KvCache::with_kernels(device, config.clone(), kernels.clone())?;
    let mut random = Generator::new(7);
    let mut here: Vec<Request> = Vec::new();
    while done.checked_steps < sizes.steps {
        let full = |request: &Request| cache.tokens(request.id).unwrap_or(0) + 1 >= config.max_tokens;
        if let Some(at) = here.iter().position(full) {
            cache.free(&[here.swap_remove(at).id])?;
            sound(&cache);
        }
        match random.below(12) {
            0 if here.len() < config.slots => {
                let prompt = random.below(3) * 20;
                let id = cache.admit(prompt, &thresholds())?;
                let sequence = done.requests as u64;
                for _ in 0..prompt.div_ceil(config.chunk) {
                    chunk(&mut cache, id, sequence)?;
                    done.chunks += 1;
                    sound(&cache);
                }
                here.push(Request { id, sequence, prompt });
                done.requests += 1;
            }
            1 if !here.is_empty() && here.len() < config.slots => {
                let Request { id, sequence, prompt } = here[random.below(here.len())];
                here.push(Request { id: cache.fork(id)?, sequence, prompt });
                done.forks += 1;
                sound(&cache);
            }
            2 if here.len() > 1 => {
                cache.free(&[here.swap_remove(random.below(here.len())).id])?;
                sound(&cache);
            }
            3..6 if !here.is_empty() => {
                let batch: Vec<_> = here.iter().map(|request| (request.id, request.sequence)).collect();
                step(&mut cache, &batch)?;
                done.batched_steps += 1;
                sound(&cache);
            }
            _ if !here.is_empty() => {
                let Request { id, sequence, prompt } = here[random.below(here.len())];
                checked_step(&mut cache, &config, id, prompt, sequence);
                done.checked_steps += 1;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A decode step of two requests, captured once and replayed, beside a cache that takes the same steps launch by launch.
fn replay(device: &Device, kernels: &EngineKernels, sizes: &Sizes, done: &mut Lived) -> Result<(), Failure> {
    let config = roomy();
    let cache = || KvCache::with_kernels(device, config.clone(), kernels.clone());
    let (mut captured, mut plain) = (cache()?, cache()?);
    let admit = |cache: &mut KvCache| -> Result<[RequestId; 2], KvError> {
        let thresholds = Thresholds::new(50.0, 0.0);
        Ok([cache.admit(0, &thresholds)?, cache.admit(0, &thresholds)?])
    };
    let (ids, others) = (admit(&mut captured)?, admit(&mut plain)?);
    let rows = |token: usize| [1, 2].map(|sequence| row(&config, sequence, token, 0));
    let mut given = upload(device, &rows(0));
    let take =
        |cache: &mut KvCache, ids: &[RequestId], [q, k, v]: &[DeviceBuffer<f16>; 3]| -> Result<(), KvError> {
            let mut step = cache.decode_step(ids)?;
            for _ in 0..config.layers {
                step.layer(q, k, v)?;
            }
            step.finish()
        };
    let stream = device.default_stream();
    let mut graph = None;
    for token in 0..sizes.replays + 3 {
        for (buffer, rows) in given.iter_mut().zip(columns(&rows(token))) {
            buffer.write(&rows)?;
        }
        match (&graph, token) {
            // The first ones make the host's book of the batch, with copies that no capture allows.
            (None, 0..2) => take(&mut captured, &ids, &given)?,
            (None, _) => {
                stream.begin_capture()?;
                let taken = take(&mut captured, &ids, &given);
                let made = stream.end_capture();
                taken?;
                let made = made?;
                // SAFETY: cache and buffers are there.
                unsafe { made.launch() }?;
                graph = Some(made);
            }
            (Some(graph), _) => {
                captured.replay_step(&ids)?;
                // SAFETY: as above.
                unsafe { graph.launch() }?;
                done.replayed_steps += 1;
            }
        }
        take(&mut plain, &others, &given)?;
        assert_eq!(
            captured.dump()?,
            plain.dump()?,
            "step {token}, a graph from step 2 on: tables and lengths"
        );
        let arenas = [&captured, &plain].map(|cache| cache.manager().state().arena.to_vec());
        let [a, b] = arenas;
        assert!(a? == b?, "step {token}, a graph from step 2 on: bytes of pages");
    }
    Ok(())
}

/// Queries, keys and values of rows, each one after another.
fn columns(rows: &[common::Row]) -> [Vec<f16>; 3] {
    let all =
        |of: fn(&common::Row) -> &Vec<f16>| rows.iter().flat_map(|row| of(row).iter().copied()).collect();
    [all(|row| &row.q), all(|row| &row.k), all(|row| &row.v)]
}
