//! Shortage, preemption, abort, misuse.

use leankv_kernels::policy::PolicySpec;
use leankv_runtime::kv::{Budget, CacheConfig, KvCache, KvError, Refused, RequestId, Thresholds};
use leankv_runtime::{Device, DeviceError};

use crate::common::{cache, chunk, config, of_request, row, sound, step, thresholds, upload};

/// All tokens stay high.
fn keep_all() -> Thresholds {
    Thresholds::new(0.0, 0.0)
}

#[test]
fn p5_a_step_without_pages_touches_no_token_and_succeeds_when_others_were_freed() {
    let device = Device::host();
    let wide = config();
    // Two requests of 4 lists: 16 tokens each take 8 pages; the 17th needs 8 more.
    let small = CacheConfig { pages: 12, ..config() };
    let (mut alone, mut cache) = (cache(&device, &wide), cache(&device, &small));
    let mine = alone.admit(0, &keep_all()).unwrap();
    let ids = [cache.admit(0, &keep_all()).unwrap(), cache.admit(0, &keep_all()).unwrap()];
    for _ in 0..16 {
        step(&mut alone, &[(mine, 1)]).unwrap();
        step(&mut cache, &[(ids[0], 1), (ids[1], 2)]).unwrap();
    }
    let (lengths, arena) = (cache.dump().unwrap().lengths, cache.manager().state().arena.to_vec().unwrap());
    let error = step(&mut cache, &[(ids[0], 1), (ids[1], 2)]).unwrap_err();
    let KvError::Refused(Refused::OutOfPages(out)) = error else { panic!("{error}") };
    assert_eq!(out.need, 4);
    assert_eq!(cache.dump().unwrap().lengths, lengths);
    assert!(cache.manager().state().arena.to_vec().unwrap() == arena, "no byte changed");
    assert_eq!(cache.tokens(ids[0]).unwrap(), 16);
    sound(&cache);

    cache.free(&[ids[1]]).unwrap();
    let want = step(&mut alone, &[(mine, 1)]).unwrap();
    let got = step(&mut cache, &[(ids[0], 1)]).unwrap();
    assert_eq!(of_request(&got, 0, 1), of_request(&want, 0, 1));
    sound(&cache);
}

#[test]
fn a_hook_names_who_is_given_up_when_pages_are_short() {
    let small = CacheConfig { pages: 12, ..config() };
    let mut cache = cache(&Device::host(), &small);
    let ids = [cache.admit(0, &keep_all()).unwrap(), cache.admit(0, &keep_all()).unwrap()];
    for _ in 0..16 {
        step(&mut cache, &[(ids[0], 1), (ids[1], 2)]).unwrap();
    }
    // Nobody is named: the shortage stands.
    let refused = cache.decode_step_or_preempt(&ids, &mut |_, _| None).map(|_| ()).unwrap_err();
    assert!(matches!(refused, KvError::Refused(Refused::OutOfPages(_))), "{refused}");
    // The newest one goes, the oldest one goes on.
    let step = cache
        .decode_step_or_preempt(&ids, &mut |_, running| running.iter().max_by_key(|id| id.slot()).copied());
    assert_eq!(step.unwrap().requests(), [ids[0]]);
    assert_eq!(cache.requests(), [ids[0]]);
    assert_eq!(cache.tokens(ids[0]).unwrap(), 16);
    sound(&cache);
}

#[test]
fn p7_a_step_may_be_left_after_any_layer_and_the_request_can_be_freed() {
    let (config, device) = (config(), Device::host());
    for layers in 0..=config.layers {
        let mut cache = cache(&device, &config);
        let ids = [cache.admit(0, &thresholds()).unwrap(), cache.admit(0, &thresholds()).unwrap()];
        for _ in 0..20 {
            step(&mut cache, &[(ids[0], 1), (ids[1], 2)]).unwrap();
        }
        {
            let mut left = cache.decode_step(&[ids[1]]).unwrap();
            for layer in 0..layers {
                let [q, k, v] = upload(&device, &[row(&config, 2, 20, layer)]);
                left.layer(&q, &k, &v).unwrap();
            }
        }
        sound(&cache);
        let again = step(&mut cache, &[(ids[1], 2)]);
        if layers == 0 {
            again.unwrap();
        } else {
            let error = again.unwrap_err();
            assert!(matches!(error, KvError::Torn { .. }), "{error}");
            assert!(matches!(cache.fork(ids[1]), Err(KvError::Torn { .. })));
        }
        // The other one goes on.
        step(&mut cache, &[(ids[0], 1)]).unwrap();
        cache.free(&ids).unwrap();
        sound(&cache);
        let state = cache.dump().unwrap();
        assert_eq!(state.cursors[1] - state.cursors[0], config.pages as i64, "every page comes back");
        assert!(state.lengths.iter().all(|&length| length == 0));
    }
}

#[test]
fn thresholds_and_budgets_that_mean_nothing_are_refused() {
    let config = config();
    let mut cache = cache(&Device::host(), &config);
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for [high, low] in [[nan, 0.0], [1.0, nan], [inf, 0.0], [1.0, -0.5], [-1.0, -1.0], [0.5, 1.0]] {
        for bad in [Thresholds::new(high, low), keep_all().with(1, Some(1), high, low)] {
            let error = cache.admit(0, &bad).unwrap_err();
            assert!(matches!(error, KvError::Threshold { .. }), "{high} {low}: {error}");
            assert!(error.to_string().contains("such as 1 and 0.02"), "{error}");
        }
    }
    for budget in [0.0, -0.0, -2.0, nan, inf].map(Budget::Part).into_iter().chain([Budget::Bytes(0)]) {
        let error = cache.admit(0, &Thresholds::solved(budget)).unwrap_err();
        assert!(matches!(error, KvError::Budget { .. }), "{budget:?}: {error}");
    }
    // None of them took a slot, and what is at the edge of meaning is taken.
    for edge in [Thresholds::new(1e6, 1e6), keep_all(), Thresholds::solved(Budget::Part(0.5))] {
        cache.admit(0, &edge).unwrap();
    }

    let check = |thresholds: Thresholds, config: &CacheConfig| thresholds.check(config, &config.formats);
    let nothing = CacheConfig { shared_budget: Some(0), ..config.clone() };
    let error = check(Thresholds::solved(Budget::Shared), &nothing).unwrap_err();
    assert!(matches!(error, KvError::Budget { .. }), "{error}");
    // With one tier the high threshold is not read, and for heavy hitters it is a number of tokens.
    let one = CacheConfig { formats: "K8V4".parse().unwrap(), ..config.clone() };
    check(Thresholds::new(0.0, 0.7), &one).unwrap();
    check(Thresholds::new(0.0, 0.7), &CacheConfig { policy: PolicySpec::HeavyHitter.into(), ..config })
        .unwrap();
}

#[test]
fn handles_of_requests_that_ended_and_other_misuse_are_errors() {
    let mut config = config();
    config.max_tokens = 20;
    let device = Device::host();
    let mut cache = cache(&device, &config);
    let ids: Vec<RequestId> = (0..4).map(|_| cache.admit(0, &thresholds()).unwrap()).collect();
    let text = |error: KvError| error.to_string();
    assert_eq!(text(cache.admit(0, &thresholds()).unwrap_err()), "all 4 slots hold requests; free one first");
    assert_eq!(text(cache.fork(ids[0]).unwrap_err()), "all 4 slots hold requests; free one first");
    cache.free(&[ids[2]]).unwrap();
    let gone = text(cache.free(&[ids[2]]).unwrap_err());
    assert_eq!(gone, "request 3 (slot 2) is not here any more");
    let [layer, head] = [(2, None), (1, Some(2))].map(|(layer, head)| {
        text(cache.admit(0, &Thresholds::new(1.0, 0.0).with(layer, head, 1.0, 1.0)).unwrap_err())
    });
    let there_are = "and there are 2 layers of 2 KV heads, both numbered from 0";
    assert_eq!(layer, format!("thresholds are given for layer 2, {there_are}"));
    assert_eq!(head, format!("thresholds are given for KV head 2 of layer 1, {there_are}"));
    let next = cache.admit(0, &thresholds()).unwrap();
    assert_eq!(next.slot(), 2);
    assert!(matches!(cache.tokens(ids[2]), Err(KvError::NoRequest { .. })));
    assert!(matches!(cache.stats(ids[2]), Err(KvError::NoRequest { .. })));
    assert!(matches!(step(&mut cache, &[(ids[2], 0)]), Err(KvError::NoRequest { .. })));
    assert!(matches!(step(&mut cache, &[(next, 0), (next, 0)]), Err(KvError::SlotTwice { slot: 2 })));
    assert!(matches!(cache.free(&[next, next]), Err(KvError::SlotTwice { slot: 2 })));
    assert!(step(&mut cache, &[]).unwrap().iter().all(Vec::is_empty));

    let mut open = cache.decode_step(&[next]).unwrap();
    let [q, k, v] = upload(&device, &[row(&config, 0, 0, 0)]);
    assert!(matches!(open.layer(&k, &k, &v), Err(KvError::Length { .. })));
    open.layer(&q, &k, &v).unwrap();
    open.layer(&q, &k, &v).unwrap();
    assert!(matches!(open.layer(&q, &k, &v), Err(KvError::Length { .. })));
    open.finish().unwrap();
    for _ in 1..20 {
        step(&mut cache, &[(next, 0)]).unwrap();
    }
    let full = text(step(&mut cache, &[(next, 0)]).unwrap_err());
    assert!(full.ends_with("has 20 tokens, which is all that the cache was made for"), "{full}");
    sound(&cache);
}

#[test]
fn handles_of_another_cache_are_errors_also_where_slot_and_number_are_the_same() {
    let (config, device) = (config(), Device::host());
    let (mut mine, mut theirs) = (cache(&device, &config), cache(&device, &config));
    let id = mine.admit(16, &thresholds()).unwrap();
    let other = theirs.admit(16, &thresholds()).unwrap();
    assert_eq!((id.to_string(), id.slot()), (other.to_string(), other.slot()));
    assert_ne!(id, other);
    let gone = |result: Result<(), KvError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, KvError::NoRequest { id } if id == other), "{error}");
    };
    gone(mine.tokens(other).map(|_| ()));
    gone(mine.stats(other).map(|_| ()));
    gone(mine.prefill_chunk(other).map(|_| ()));
    chunk(&mut mine, id, 1).unwrap();
    gone(mine.decode_step(&[id, other]).map(|_| ()));
    gone(mine.fork(other).map(|_| ()));
    gone(mine.free(&[id, other]));
    assert_eq!(mine.requests(), [id]);
    step(&mut mine, &[(id, 1)]).unwrap();
    sound(&mine);
}

#[test]
fn a_buffer_of_another_device_is_refused_and_the_same_step_goes_on() {
    let (config, device) = (config(), Device::host());
    let (mut want, mut cache) = (cache(&device, &config), cache(&device, &config));
    let wanted = want.admit(16, &thresholds()).unwrap();
    let id = cache.admit(16, &thresholds()).unwrap();
    let elsewhere = Device::reference();
    let refused = |result: Result<(), KvError>, which: &str| {
        let error = result.unwrap_err();
        let what = match error {
            KvError::Device(DeviceError::WrongDevice { what }) => what,
            other => panic!("{other}"),
        };
        assert!(what.starts_with(which), "{what}");
    };

    chunk(&mut want, wanted, 1).unwrap();
    let mut prompt = cache.prefill_chunk(id).unwrap();
    for layer in 0..config.layers {
        let rows: Vec<_> = prompt.positions().map(|token| row(&config, 1, token, layer)).collect();
        let ([q, k, v], [q2, k2, v2]) = (upload(&device, &rows), upload(&elsewhere, &rows));
        refused(prompt.layer(&q2, &k, &v).map(|_| ()), "q [rows");
        refused(prompt.layer(&q, &k2, &v).map(|_| ()), "k [rows");
        refused(prompt.layer(&q, &k, &v2).map(|_| ()), "v [rows");
        prompt.layer(&q, &k, &v).unwrap();
    }
    prompt.finish().unwrap();

    let wanted = step(&mut want, &[(wanted, 1)]).unwrap();
    let mut got = Vec::new();
    let mut open = cache.decode_step(&[id]).unwrap();
    for layer in 0..config.layers {
        let rows = [row(&config, 1, 16, layer)];
        let ([q, k, v], [q2, k2, v2]) = (upload(&device, &rows), upload(&elsewhere, &rows));
        refused(open.layer(&q2, &k, &v).map(|_| ()), "q [rows");
        refused(open.layer(&q, &k2, &v).map(|_| ()), "k [rows");
        refused(open.layer(&q, &k, &v2).map(|_| ()), "v [rows");
        let view = open.layer(&q, &k, &v).unwrap();
        let mut host = vec![0.0; view.len()];
        view.read_into(&mut host).unwrap();
        got.push(host);
    }
    open.finish().unwrap();
    assert_eq!(of_request(&got, 0, 1), of_request(&wanted, 0, 1));
    assert_eq!(cache.poisoned(), None);
    sound(&cache);
}

#[test]
fn a_step_whose_first_layer_was_refused_can_be_left_and_begun_again() {
    let (config, device) = (config(), Device::host());
    let mut cache = cache(&device, &config);
    let id = cache.admit(0, &thresholds()).unwrap();
    {
        let mut left = cache.decode_step(&[id]).unwrap();
        let [q, k, v] = upload(&Device::reference(), &[row(&config, 1, 0, 0)]);
        assert!(left.layer(&q, &k, &v).is_err());
    }
    step(&mut cache, &[(id, 1)]).unwrap();
}

#[test]
fn p7_failing_the_nth_page_for_every_n_leaves_every_operation_to_be_tried_again() {
    let device = Device::host();
    let refused =
        |error: KvError| assert!(matches!(error, KvError::Refused(Refused::OutOfPages(_))), "{error}");
    let mut refusals = 0;
    for pages in 1.. {
        let few = CacheConfig { pages, ..config() };
        let mut cache = cache(&device, &few);
        // Tokens and their bytes; pages may have been granted to others of a batch.
        let tokens = |cache: &KvCache| {
            sound(cache);
            (cache.dump().unwrap().lengths, cache.manager().state().arena.to_vec().unwrap())
        };
        let mut fine = true;
        let mut note = |cache: &KvCache, before: &(Vec<i32>, Vec<u8>), result: Result<(), KvError>| {
            let ok = result.is_ok();
            if let Err(error) = result {
                refused(error);
                assert!(tokens(cache) == *before, "{pages} pages: no token was touched");
                fine = false;
            }
            sound(cache);
            ok
        };
        let mut admit = |cache: &mut KvCache, prompt: usize, thresholds: &Thresholds| {
            let before = tokens(cache);
            let mut id = None;
            let result = cache.admit(prompt, thresholds).map(|new| id = Some(new));
            note(cache, &before, result);
            id
        };
        let ids = [admit(&mut cache, 24, &thresholds()), admit(&mut cache, 0, &keep_all())];
        for (id, sequence) in ids.iter().zip(1..) {
            let Some(id) = *id else { continue };
            while cache.tokens(id).unwrap() < if sequence == 1 { 24 } else { 0 } {
                let before = tokens(&cache);
                let result = chunk(&mut cache, id, sequence).map(drop);
                if !note(&cache, &before, result) {
                    break;
                }
            }
        }
        let here = |cache: &KvCache| -> Vec<(RequestId, u64)> {
            let ids = ids.iter().zip(1..).filter_map(|(id, sequence)| Some(((*id)?, sequence)));
            ids.filter(|(id, s)| cache.tokens(*id).unwrap() >= if *s == 1 { 24 } else { 0 }).collect()
        };
        for _ in 0..20 {
            let (batch, before) = (here(&cache), tokens(&cache));
            let result = step(&mut cache, &batch).map(drop);
            note(&cache, &before, result);
        }
        if let Some((parent, _)) = here(&cache).first().copied() {
            let before = tokens(&cache);
            let mut child = None;
            let result = cache.fork(parent).map(|id| child = Some(id));
            note(&cache, &before, result);
            if let Some(child) = child {
                for _ in 0..8 {
                    let before = tokens(&cache);
                    let result = step(&mut cache, &[(child, 9), (parent, 1)]).map(drop);
                    note(&cache, &before, result);
                }
            }
        }
        let all = cache.requests();
        cache.free(&all).unwrap();
        sound(&cache);
        let [taken, given] = cache.dump().unwrap().cursors;
        assert_eq!(given - taken, pages as i64, "every page comes back");
        if fine {
            break;
        }
        refusals += 1;
    }
    assert!(refusals > 15, "{refusals}");
}

#[test]
fn a_step_can_be_replayed_only_of_the_last_batch_and_while_pages_do_not_run_low() {
    let device = Device::host();
    let small = CacheConfig { pages: 8, max_tokens: 18, ..config() };
    let mut cache = cache(&device, &small);
    let ids = [cache.admit(0, &keep_all()).unwrap(), cache.admit(0, &keep_all()).unwrap()];
    assert!(matches!(cache.replay_step(&ids), Err(KvError::NotReplayable)));
    step(&mut cache, &[(ids[0], 1)]).unwrap();
    assert!(matches!(cache.replay_step(&ids), Err(KvError::NotReplayable)));
    // Four pages are free, and a step of four lists may take as many.
    cache.replay_step(&ids[..1]).unwrap();
    assert_eq!(cache.tokens(ids[0]).unwrap(), 2);
    step(&mut cache, &[(ids[1], 2)]).unwrap();
    let refused = cache.replay_step(&ids[1..]).unwrap_err();
    assert!(matches!(refused, KvError::Refused(Refused::OutOfPages(out)) if out.free == 0), "{refused}");
    assert_eq!(cache.tokens(ids[1]).unwrap(), 1, "nothing changed");
    cache.free(&ids).unwrap();
    assert!(matches!(cache.replay_step(&ids[1..]), Err(KvError::NoRequest { .. })));
}
