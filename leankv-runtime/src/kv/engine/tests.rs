//! What cannot be seen or done from outside.

use half::f16;

use leankv_dsl::lang::Settings;

use super::batch::Run;
use super::*;
use crate::cache::KernelCache;
use crate::kv::Side;
use crate::tune::TunedTable;
use crate::tune::tests::as_found;

#[test]
fn pages_of_a_slot_without_a_request_are_a_finding() {
    let compiler = Compiler::new(KernelCache::without_folder());
    // The reference device compiles nothing.
    let config = CacheConfig { page_bytes: 2048, ..CacheConfig::new([1, 2, 2, 64], 3, 64, 20) };
    assert!(config.formats.has_low());
    let mut cache = KvCache::new(&compiler, &Device::reference(), config).unwrap();
    let id = cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap();
    cache.manager.rebalance(&[id.slot()], &[1, 0, 2, 1]).unwrap();
    assert_eq!(cache.audit().unwrap(), []);

    cache.manager.rebalance(&[2], &[0, 3, 1, 0]).unwrap();
    let found = cache.audit().unwrap();
    assert_eq!(
        found,
        [
            Finding::NoOwner { slot: 2, list: 0, side: Side::Low, pages: 3 },
            Finding::NoOwner { slot: 2, list: 1, side: Side::High, pages: 1 },
        ]
    );
    assert_eq!(found[0].to_string(), "slot 2, pair 0: 3 low pages are held, and the slot has no request");
    cache.manager.free(&[2]).unwrap();
    assert_eq!(cache.audit().unwrap(), []);

    // A request that ended without giving its pages back.
    cache.slots[id.slot()] = None;
    assert_eq!(cache.audit().unwrap().len(), 3);
}

/// Queries, keys and values of `n` rows.
fn tensors(cache: &KvCache, n: usize) -> Result<[DeviceBuffer<f16>; 3], KvError> {
    let (config, device) = (&cache.config, cache.manager.state().device());
    let rows = |heads: usize| {
        let len = n * heads * config.head_dim;
        device
            .upload(&(0..len).map(|i| f16::from_f32((i * 37 % 101) as f32 / 50.0 - 1.0)).collect::<Vec<_>>())
    };
    Ok([rows(config.query_heads())?, rows(config.kv_heads)?, rows(config.kv_heads)?])
}

fn take_step(cache: &mut KvCache, batch: &[RequestId]) -> Result<(), KvError> {
    let [q, k, v] = tensors(cache, batch.len())?;
    let mut step = cache.decode_step(batch)?;
    step.layer(&q, &k, &v)?;
    step.finish()
}

fn story_config() -> CacheConfig {
    CacheConfig {
        page_bytes: 2048,
        chunk: 16,
        window_q: 8,
        // The second request's budget is solved for again on the way.
        solve_every: 2,
        ..CacheConfig::new([1, 2, 2, 64], 3, 64, 12)
    }
}

/// What a server might do, until the first thing that does not work.
fn story(cache: &mut KvCache, first: RequestId) -> Result<(), KvError> {
    let second = cache.admit(20, &Thresholds::within(10 * 2048))?;
    for n in [16, 4] {
        let [q, k, v] = tensors(cache, n)?;
        let mut chunk = cache.prefill_chunk(second)?;
        chunk.layer(&q, &k, &v)?;
        chunk.finish()?;
    }
    for _ in 0..3 {
        take_step(cache, &[first, second])?;
    }
    let child = cache.fork(first)?;
    take_step(cache, &[child, second])?;
    cache.free(&[first, child])
}

#[test]
fn a_cache_with_tuned_blocks_leaves_the_same_tokens_in_the_same_pages() {
    let device = Device::host();
    let config = story_config();
    let told = |compiler: Compiler| {
        let mut cache = KvCache::new(&compiler, &device, config.clone()).unwrap();
        let first = cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap();
        for _ in 0..5 {
            take_step(&mut cache, &[first]).unwrap();
        }
        story(&mut cache, first).unwrap();
        cache
    };
    let plain = told(Compiler::new(KernelCache::without_folder()));

    // As if the last of the values that a kernel is not usually given had been the fastest one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.json");
    let mut changed = 0;
    for (name, settings) in plain.kernels().specialisations() {
        let kernel = leankv_kernels::find(&name).unwrap();
        let tuned = kernel.fields().into_iter().filter(|field| !field.tune.is_empty());
        let other = |field: &leankv_dsl::lang::SpecField| {
            let other = field.tune.iter().rev().find(|value| **value != settings[field.name]);
            other.cloned().unwrap()
        };
        let set: Settings = tuned.map(|field| (field.name.to_owned(), other(&field))).collect();
        changed += set.len();
        TunedTable::keep(&path, &as_found(kernel, &settings, set)).unwrap();
    }
    assert!(changed > 13, "{changed}");
    let tuned =
        told(Compiler::new(KernelCache::without_folder()).with_tuned(TunedTable::read(&path).unwrap()));
    for ((name, plain), (_, tuned)) in
        plain.kernels().specialisations().iter().zip(tuned.kernels().specialisations())
    {
        assert_ne!(*plain, tuned, "{name}");
    }
    assert_eq!(tuned.audit().unwrap(), []);
    let [plain, tuned] = [&plain, &tuned].map(|cache| cache.dump().unwrap());
    assert_eq!((plain.lengths, plain.table), (tuned.lengths, tuned.table));
}

#[test]
fn p7_a_device_lost_at_any_launch_or_copy_leaves_a_cache_that_says_so_or_adds_up() {
    let device = Device::host();
    let config = story_config();
    let kernels =
        EngineKernels::new(&Compiler::new(KernelCache::without_folder()), &device, &config).unwrap();
    let (mut said, mut sound) = (0, 0);
    for uses in 0.. {
        let mut cache = KvCache::with_kernels(&device, config.clone(), kernels.clone()).unwrap();
        let first = cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap();
        for _ in 0..5 {
            take_step(&mut cache, &[first]).unwrap();
        }
        crate::faults::lose_after(Some(uses));
        let done = story(&mut cache, first);
        crate::faults::lose_after(None);
        let Err(error) = done else {
            assert_eq!(cache.audit().unwrap(), []);
            break;
        };
        assert!(error.to_string().contains("a test lost the device"), "after {uses}: {error}");
        if cache.poisoned().is_some() {
            said += 1;
            let dead = |result: Result<(), KvError>| {
                let error = result.unwrap_err();
                assert!(matches!(error, KvError::Poisoned { .. }), "after {uses}: {error}");
            };
            dead(cache.admit(0, &Thresholds::new(0.0, 0.0)).map(drop));
            dead(take_step(&mut cache, &[first]));
            dead(cache.prefill_chunk(first).map(drop));
            dead(cache.fork(first).map(drop));
            dead(cache.free(&[first]));
            continue;
        }
        sound += 1;
        assert_eq!(cache.audit().unwrap(), [], "after {uses}");
        let all = cache.requests();
        cache.free(&all).unwrap();
        assert_eq!(cache.audit().unwrap(), [], "after {uses}");
        assert_eq!(cache.manager.free_pages().unwrap(), config.pages, "after {uses}");
        let next = cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap();
        take_step(&mut cache, &[next]).unwrap();
        assert_eq!(cache.audit().unwrap(), [], "after {uses}");
    }
    assert!(said > 20 && sound > 20, "{said} times it said so, {sound} times it added up");
}

#[test]
fn a_shortage_is_seen_also_after_an_answer_that_did_not_come() {
    let device = Device::host();
    // After 16 tokens of two requests of two lists three pages are free, and each request needs two.
    let config = CacheConfig { page_bytes: 2048, ..CacheConfig::new([1, 2, 2, 64], 2, 64, 7) };
    let kernels =
        EngineKernels::new(&Compiler::new(KernelCache::without_folder()), &device, &config).unwrap();
    let mut refusals = 0;
    for uses in 0.. {
        let mut cache = KvCache::with_kernels(&device, config.clone(), kernels.clone()).unwrap();
        let ids = [0; 2].map(|_| cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap());
        for _ in 0..16 {
            take_step(&mut cache, &ids).unwrap();
        }
        crate::faults::lose_after(Some(uses));
        let lost = take_step(&mut cache, &ids);
        crate::faults::lose_after(None);
        if cache.poisoned().is_some() {
            continue;
        }
        let whole = matches!(lost, Err(KvError::Refused(_)));
        assert!(whole || matches!(lost, Err(KvError::Device(_))), "after {uses}: {lost:?}");
        match take_step(&mut cache, &[ids[1]]) {
            Err(KvError::Refused(Refused::OutOfPages(_))) => refusals += 1,
            other => assert!(other.is_ok() || cache.poisoned().is_some(), "after {uses}: {other:?}"),
        }
        assert_eq!(cache.audit().unwrap(), [], "after {uses}");
        if whole {
            break;
        }
    }
    assert!(refusals > 1, "{refusals}");
}

#[test]
fn a_launch_has_programs_for_its_longest_list_and_a_captured_one_for_any() {
    let config =
        CacheConfig { page_bytes: 2048, split_pages: Some(1), ..CacheConfig::new([1, 2, 2, 64], 2, 400, 80) };
    let compiler = Compiler::new(KernelCache::without_folder());
    let mut cache = KvCache::new(&compiler, &Device::host(), config).unwrap();
    let ids = [0, 1].map(|_| cache.admit(0, &Thresholds::new(4.0, 0.5)).unwrap());
    let mut launched = Vec::new();
    for turn in 0..120 {
        // The second request is shorter.
        let batch = if turn % 3 == 0 { &ids[..] } else { &ids[..1] };
        take_step(&mut cache, batch).unwrap();
        // The positions are those of the next step by now.
        let run = Run::of(batch.iter().map(|_| 0).zip(0..)).remove(0);
        let [splits, captured] = [false, true].map(|captured| cache.splits(&run, 0, captured));
        let [high, low] = cache.config.page_tokens(cache.config.formats.usual()).unwrap();
        let lengths = cache.dump().unwrap().lengths;
        let pages = |l: &[i32]| (l[0] as usize).div_ceil(high) + (l[1] as usize).div_ceil(low);
        let longest = lengths.chunks(Lengths::COLUMNS).map(pages).max().unwrap();
        assert!(longest <= splits && splits <= captured, "{longest}, {splits}, {captured}");
        assert_eq!(cache.scratch.parts.lse.len(), 2 * 4 * captured);
        launched.push(splits);
    }
    assert!(launched.is_sorted() && launched[0] < launched[119], "{launched:?}");
}

/// Overwrites what chunks and steps leave in their buffers: floats with what is no number, integers with `word`.
fn scribble(cache: &mut KvCache, word: i32) -> Result<(), KvError> {
    let Scratch { slots, positions, prompts, batch, plan, target, parts, lse } = &mut cache.scratch;
    let Parts { splits, lse: part_lse, out: part_out, sig, at, .. } = parts;
    // These three are inputs; what they hold is not known any more.
    *batch = None;
    let chunk = &mut cache.chunk;
    for buffer in [slots, positions, prompts, plan, target, splits, at] {
        buffer.write(&vec![word; buffer.len()])?;
    }
    let CompactScratch {
        slots,
        moving,
        tokens,
        prompts,
        ahead,
        stands,
        tally,
        prices,
        groups,
        budgets,
        pages,
        rungs,
        targets,
    } = &mut cache.compact;
    for buffer in [slots, moving, tokens, prompts, ahead, stands, tally, groups, pages, rungs, targets] {
        buffer.write(&vec![word; buffer.len()])?;
    }
    for buffer in [prices, budgets] {
        buffer.write(&vec![i64::from(word); buffer.len()])?;
    }
    chunk.dest.write(&vec![word; chunk.dest.len()])?;
    let floats = [part_lse, part_out, sig, lse, &mut chunk.lse, &mut chunk.words];
    for buffer in floats.into_iter().chain(cache.outputs.all()) {
        buffer.write(&vec![f32::NAN; buffer.len()])?;
    }
    cache.manager.scribble(word)
}

/// Outputs of chunks and steps of requests that come, fork and go, as bits. Before each of them, and between the layers of steps, `scribble` may do
/// what it likes to buffers.
fn outputs(
    cache: &mut KvCache,
    scribble: impl Fn(&mut KvCache) -> Result<(), KvError>,
) -> Result<Vec<u32>, KvError> {
    let (layers, mut all) = (cache.config.layers, Vec::new());
    let mut take = |view: crate::device::BufferView<'_, f32>| {
        let mut host = vec![0.0; view.len()];
        view.read_into(&mut host)?;
        all.extend(host.iter().map(|x| x.to_bits()));
        Ok::<_, KvError>(())
    };
    let mut ids =
        vec![cache.admit(20, &Thresholds::within(10 * 2048))?, cache.admit(36, &Thresholds::new(1.1, 0.8))?];
    for (id, tokens) in [(ids[0], 16), (ids[1], 16), (ids[0], 4), (ids[1], 16), (ids[1], 4)] {
        let [q, k, v] = tensors(cache, tokens)?;
        scribble(cache)?;
        let mut chunk = cache.prefill_chunk(id)?;
        for _ in 0..layers {
            take(chunk.layer(&q, &k, &v)?)?;
        }
        chunk.finish()?;
    }
    for turn in 0..24 {
        if turn == 8 {
            scribble(cache)?;
            ids.insert(1, cache.fork(ids[1])?);
        }
        if turn == 16 {
            scribble(cache)?;
            cache.free(&[ids.remove(0)])?;
        }
        let [q, k, v] = tensors(cache, ids.len())?;
        scribble(cache)?;
        let mut step = cache.open_decodes(&ids)?;
        for _ in 0..layers {
            let input = LayerInput { q: (&q).into(), k: (&k).into(), v: (&v).into(), priors: None };
            cache.step_through(&mut step, &input)?;
            take(cache.kept(ids.len())?)?;
            // The plan, and where it is carried out, live for the step; the rest is each layer's.
            let Scratch { target, parts, lse, .. } = &mut cache.scratch;
            let Parts { splits, lse: part_lse, out: part_out, sig, at, .. } = parts;
            for buffer in [part_lse, part_out, sig, lse].into_iter().chain(cache.outputs.all()) {
                buffer.write(&vec![f32::NAN; buffer.len()])?;
            }
            for buffer in [target, splits, at] {
                buffer.write(&vec![-1; buffer.len()])?;
            }
        }
        cache.close_step(&step)?;
    }
    Ok(all)
}

#[test]
fn p3_what_earlier_launches_left_in_scratch_buffers_is_never_read() {
    let device = Device::host();
    for split_pages in [None, Some(2)] {
        let config = CacheConfig {
            page_bytes: 2048,
            chunk: 16,
            window_q: 8,
            window: 6,
            split_pages,
            ..CacheConfig::new([2, 2, 2, 64], 3, 90, 80)
        };
        let kernels =
            EngineKernels::new(&Compiler::new(KernelCache::without_folder()), &device, &config).unwrap();
        let run = |word: Option<i32>| {
            let mut cache = KvCache::with_kernels(&device, config.clone(), kernels.clone()).unwrap();
            let out = outputs(&mut cache, |cache| word.map_or(Ok(()), |word| scribble(cache, word))).unwrap();
            assert_eq!(cache.audit().unwrap(), []);
            (out, cache.dump().unwrap().lengths)
        };
        let want = run(None);
        assert!(want.0.iter().all(|&bits| f32::from_bits(bits).is_finite()));
        let dropped = want.1.chunks_exact(4).any(|l| l[1] > 0);
        assert!(dropped, "both tiers are in use: {:?}", want.1);
        for word in [-1, 3, i32::MAX, f32::NAN.to_bits() as i32] {
            assert!(run(Some(word)) == want, "{word:#x} was read, with {split_pages:?} pages a split");
        }
    }
}
