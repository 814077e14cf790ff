//! Requests of several formats in one arena and one batch.

use leankv_dsl::format::LayerFormats;
use leankv_runtime::Device;
use leankv_runtime::kv::{CacheConfig, EngineKernels, KvCache, KvError, Refused, RequestId, Thresholds};

use crate::common::{cache, checking_devices, chunk, config, held, of_request, sound, step, thresholds};
use crate::promises::poison;

/// In the last one the layers differ, in one tier and two.
const NAMES: [&str; 5] = ["K8V4/K4V2", "fp16", "K4V4", "K8V8/K4V4g2", "K8V4/K4V2;1=fp16"];

fn all_formats() -> [LayerFormats; 5] {
    NAMES.map(|name| name.parse().unwrap())
}

/// Small pages, and all the formats.
fn mixed() -> CacheConfig {
    let [formats, more @ ..] = all_formats();
    CacheConfig { page_bytes: 4096, formats, more_formats: more.to_vec(), slots: 5, pages: 120, ..config() }
}

/// A cache for requests of the same formats alone.
fn alone(device: &Device, formats: LayerFormats) -> KvCache {
    cache(device, &CacheConfig { formats, more_formats: Vec::new(), ..mixed() })
}

#[test]
fn p3_requests_of_several_formats_in_one_batch_get_the_bits_they_get_alone() {
    let (device, prompt) = (Device::host(), 20);
    let mut shared = cache(&device, &mixed());
    let mut lone: Vec<(KvCache, RequestId)> = all_formats()
        .into_iter()
        .map(|formats| {
            let mut cache = alone(&device, formats);
            let id = cache.admit(prompt, &thresholds()).unwrap();
            (cache, id)
        })
        .collect();
    let ids: Vec<RequestId> = all_formats()
        .iter()
        .map(|formats| shared.admit_as(formats, prompt, &thresholds()).unwrap())
        .collect();
    for _ in 0..2 {
        for (i, (id, (cache, lone))) in ids.iter().zip(&mut lone).enumerate() {
            poison(&mut shared);
            let want = chunk(cache, *lone, i as u64).unwrap();
            assert_eq!(
                of_request(&chunk(&mut shared, *id, i as u64).unwrap(), 0, 1),
                of_request(&want, 0, 1)
            );
        }
    }
    // Side by side, apart, alone.
    let orders: [&[usize]; 4] = [&[0, 1, 2, 3, 4], &[4, 3, 1, 0, 2], &[2], &[1, 4, 3]];
    for turn in 0..40 {
        let order = orders[turn % orders.len()];
        let batch: Vec<(RequestId, u64)> = order.iter().map(|&i| (ids[i], i as u64)).collect();
        poison(&mut shared);
        let got = step(&mut shared, &batch).unwrap();
        for (row, &i) in order.iter().enumerate() {
            let (cache, id) = &mut lone[i];
            let want = step(cache, &[(*id, i as u64)]).unwrap();
            assert_eq!(of_request(&got, row, order.len()), of_request(&want, 0, 1), "{}, {turn}", NAMES[i]);
        }
    }
    sound(&shared);
    let mut bytes = Vec::new();
    for (i, (cache, id)) in lone.iter().enumerate() {
        let stats = shared.stats(ids[i]).unwrap();
        assert_eq!(stats.formats, all_formats()[i]);
        assert_eq!(stats.heads, cache.stats(*id).unwrap().heads);
        for list in 0..mixed().lists() {
            assert_eq!(held(&shared, ids[i], list), held(cache, *id, list));
        }
        bytes.push(stats.heads.iter().map(|head| head.pages).sum::<usize>());
    }
    assert!(bytes[1] > bytes[0] && bytes[1] > bytes[2], "formats differ in pages: {bytes:?}");
}

#[test]
fn a_fork_has_its_parents_formats() {
    let device = Device::host();
    let mut cache = cache(&device, &mixed());
    let parent = cache.admit_as(&all_formats()[3], 0, &thresholds()).unwrap();
    let other = cache.admit(0, &thresholds()).unwrap();
    for _ in 0..40 {
        step(&mut cache, &[(other, 1), (parent, 2)]).unwrap();
    }
    let child = cache.fork(parent).unwrap();
    sound(&cache);
    assert_eq!(cache.stats(child).unwrap().formats, all_formats()[3]);
    for list in 0..mixed().lists() {
        assert_eq!(held(&cache, child, list), held(&cache, parent, list));
    }
    for _ in 0..20 {
        step(&mut cache, &[(child, 3), (other, 1), (parent, 2)]).unwrap();
        sound(&cache);
    }
    // The next request in a slot has its own formats.
    cache.free(&[child]).unwrap();
    let next = cache.admit_as(&all_formats()[1], 0, &thresholds()).unwrap();
    assert_eq!(next.slot(), child.slot());
    for _ in 0..20 {
        step(&mut cache, &[(next, 4), (parent, 2)]).unwrap();
    }
    sound(&cache);
    assert!(held(&cache, next, 0)[1].is_empty());
}

#[test]
fn p5_pages_that_one_format_lacks_are_given_back_by_another() {
    let device = Device::host();
    let small = CacheConfig { pages: 16, ..mixed() };
    let mut cache = cache(&device, &small);
    let keep = Thresholds::new(0.0, 0.0);
    // 16 tokens a page in FP16, 48 in K4V4: after 16 steps one of them needs four pages more.
    let ids = [cache.admit_as(&all_formats()[1], 0, &keep), cache.admit_as(&all_formats()[2], 0, &keep)];
    let [wide, narrow] = ids.map(Result::unwrap);
    let error = loop {
        match step(&mut cache, &[(narrow, 1), (wide, 2)]) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let KvError::Refused(Refused::OutOfPages(out)) = error else { panic!("{error}") };
    assert_eq!(out.need, 4);
    assert_eq!(cache.tokens(wide).unwrap() % 15, 0, "a page is full");
    sound(&cache);
    cache.free(&[narrow]).unwrap();
    step(&mut cache, &[(wide, 2)]).unwrap();
    sound(&cache);
}

#[test]
fn formats_that_a_cache_was_not_made_for_are_errors() {
    let device = Device::host();
    let mut cache = cache(&device, &mixed());
    let error = cache.admit_as(&"K8V2".parse().unwrap(), 0, &thresholds()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no kernels for requests in K8V2; the cache was made for K8V4/K4V2, fp16, K4V4, K8V8/K4V4g2, K8V4/K4V2;1=fp16: add it to \
         `CacheConfig::more_formats`"
    );
    assert_eq!(cache.requests(), []);

    let compiler = leankv_runtime::Compiler::new(leankv_runtime::cache::KernelCache::without_folder());
    let one = CacheConfig { more_formats: Vec::new(), ..mixed() };
    let kernels = EngineKernels::new(&compiler, &Device::reference(), &one).unwrap();
    let error = KvCache::with_kernels(&Device::reference(), mixed(), kernels).unwrap_err();
    let differ = "tierings (K8V4/K4V2, not K8V4/K4V2, fp16, K4V4, K8V8/K4V4g2)";
    assert!(error.to_string().contains(differ), "{error}");
    // One token of K16V16 at this head dim does not fit the page.
    let wide = CacheConfig { page_bytes: 256, formats: "K4V4".parse().unwrap(), ..mixed() };
    assert!(matches!(wide.shape(), Err(KvError::Shape { .. })));
}

#[test]
fn several_formats_hold_on_devices_that_check_every_access() {
    let [formats, fp16, ..] = all_formats();
    let small = CacheConfig {
        layers: 1,
        kv_heads: 1,
        window: 3,
        sinks: 0,
        slots: 2,
        pages: 12,
        formats,
        more_formats: vec![fp16.clone()],
        ..mixed()
    };
    for device in checking_devices() {
        let mut cache = cache(&device, &small);
        let few = Thresholds::new(50.0, 0.0);
        let ids = [cache.admit(18, &few), cache.admit_as(&fp16, 0, &few)];
        let ids = ids.map(Result::unwrap);
        chunk(&mut cache, ids[0], 1).unwrap();
        chunk(&mut cache, ids[0], 1).unwrap();
        for _ in 0..4 {
            step(&mut cache, &[(ids[1], 2), (ids[0], 1)]).unwrap();
        }
        sound(&cache);
        let stats = ids.map(|id| cache.stats(id).unwrap());
        assert!(stats[0].heads[0].low > 10 && stats[1].heads[0].low == 0, "{stats:?}");
    }
}
