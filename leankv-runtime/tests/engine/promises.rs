//! Isolation, batch invariance, forks.

use leankv_runtime::Device;
use leankv_runtime::kv::{KvCache, KvError, RequestId, Thresholds};

use crate::common::{cache, chunk, config, formats, held, of_request, pages, sound, step, thresholds};
use crate::model::checked_step;

/// Fills every byte of the arena that no token owns with what reads as NaN in every float type.
pub(crate) fn poison(cache: &mut KvCache) {
    let state = cache.dump().unwrap();
    let mut arena = cache.manager().state().arena.to_vec().unwrap();
    let bytes = cache.config().page_bytes;
    let mut mine = vec![false; arena.len()];
    for id in cache.requests() {
        let (slot, formats) = (id.slot(), formats(cache, id));
        for (list, formats) in formats.iter().enumerate() {
            for (tier, format) in formats.iter().enumerate() {
                let len = state.lengths[(slot * state.shape.lists + list) * 4 + tier] as usize;
                let (layout, pages) = (format.layout(), pages(&state, slot, list, tier));
                let per_page = layout.tokens_per_page() as usize;
                for token in 0..len {
                    let page = pages[token / per_page] as usize * bytes;
                    for segment in layout.segments() {
                        let at = page + segment.row((token % per_page) as u32) as usize;
                        mine[at..at + segment.row_bytes as usize].fill(true);
                    }
                }
            }
        }
    }
    for (byte, mine) in arena.iter_mut().zip(mine) {
        if !mine {
            *byte = 0xFF;
        }
    }
    cache.write_arena(&arena).unwrap();
}

#[test]
fn p3_bytes_that_no_request_owns_are_never_read() {
    let (config, device) = (config(), Device::host());
    let (mut clean, mut dirty) = (cache(&device, &config), cache(&device, &config));
    let both: Vec<[RequestId; 2]> =
        (0..3).map(|_| [&mut clean, &mut dirty].map(|c| c.admit(0, &thresholds()).unwrap())).collect();
    let batch = |which: usize, n: usize| -> Vec<(RequestId, u64)> {
        both.iter().take(n).enumerate().map(|(i, ids)| (ids[which], i as u64)).collect()
    };
    for turn in 0..45 {
        // Requests join one after another, so that their lengths differ.
        let n = 1 + turn / 10;
        let n = n.min(3);
        poison(&mut dirty);
        let want = step(&mut clean, &batch(0, n)).unwrap();
        let got = step(&mut dirty, &batch(1, n)).unwrap();
        for request in 0..n {
            assert_eq!(of_request(&got, request, n), of_request(&want, request, n), "step {turn}");
        }
        assert!(want.iter().flatten().all(|x| x.is_finite()));
    }
    sound(&dirty);
    let stats = dirty.stats(both[0][1]).unwrap();
    let (low, pruned): (usize, usize) =
        stats.heads.iter().fold((0, 0), |(l, p), head| (l + head.low, p + head.pruned));
    assert!(low > 0 && pruned > 0, "the test has seen every tier: {stats:?}");
}

#[test]
fn a_request_gets_the_same_bits_alone_and_in_any_batch_slot_and_page_order() {
    let (config, device) = (config(), Device::host());
    let mut alone = cache(&device, &config);
    let id = alone.admit(0, &thresholds()).unwrap();
    let want: Vec<_> = (0..40).map(|_| of_request(&step(&mut alone, &[(id, 7)]).unwrap(), 0, 1)).collect();

    let mut busy = cache(&device, &config);
    // Others come and go first, so that pages are taken out of order.
    let early: Vec<RequestId> = (0..3).map(|_| busy.admit(0, &thresholds()).unwrap()).collect();
    for _ in 0..20 {
        step(&mut busy, &[(early[2], 1), (early[0], 2), (early[1], 3)]).unwrap();
    }
    busy.free(&[early[0], early[2]]).unwrap();
    let id = [busy.admit(0, &thresholds()).unwrap(), busy.admit(0, &thresholds()).unwrap()][1];
    assert_eq!(id.slot(), 2);
    for (turn, want) in want.iter().enumerate() {
        let (batch, mine) = match turn % 3 {
            0 => (vec![(id, 7)], 0),
            1 => (vec![(early[1], 3), (id, 7)], 1),
            _ => (vec![(id, 7), (early[1], 3)], 0),
        };
        let got = step(&mut busy, &batch).unwrap();
        assert_eq!(of_request(&got, mine, batch.len()), *want, "step {turn}");
    }
    sound(&busy);
}

#[test]
fn p3_a_fork_goes_on_from_the_same_tokens_and_neither_sees_what_the_other_does_later() {
    let (config, device) = (config(), Device::host());
    let mut cache = cache(&device, &config);
    let parent = cache.admit(0, &thresholds()).unwrap();
    for _ in 0..50 {
        step(&mut cache, &[(parent, 5)]).unwrap();
    }
    let child = cache.fork(parent).unwrap();
    sound(&cache);
    assert_eq!(cache.tokens(child).unwrap(), 50);
    let lists = config.lists();
    let before: Vec<_> = (0..lists).map(|list| held(&cache, parent, list)).collect();
    for (list, before) in before.iter().enumerate() {
        assert_eq!(held(&cache, child, list), *before);
    }
    // Full pages are shared.
    let state = cache.dump().unwrap();
    assert!(state.refs.contains(&2));

    for _ in 0..30 {
        step(&mut cache, &[(child, 6)]).unwrap();
        sound(&cache);
    }
    for (list, before) in before.iter().enumerate() {
        assert_eq!(held(&cache, parent, list), *before, "the parent is as it was");
    }
    // The parent ends; the child keeps what it shared.
    let kept: Vec<_> = (0..lists).map(|list| held(&cache, child, list)).collect();
    cache.free(&[parent]).unwrap();
    sound(&cache);
    for (list, kept) in kept.iter().enumerate() {
        assert_eq!(held(&cache, child, list), *kept);
    }
    cache.free(&[child]).unwrap();
    assert_eq!(cache.dump().unwrap().cursors, {
        let [taken, _] = cache.dump().unwrap().cursors;
        [taken, taken + config.pages as i64]
    });
}

#[test]
fn p3_queries_that_wait_to_be_counted_go_with_a_fork_and_end_with_their_request() {
    let (config, device) = (config(), Device::host());
    let mut cache = cache(&device, &config);
    let parent = cache.admit(0, &thresholds()).unwrap();
    for _ in 0..50 {
        step(&mut cache, &[(parent, 5)]).unwrap();
    }
    let child = cache.fork(parent).unwrap();
    for id in [child, parent, child] {
        for _ in 0..3 {
            checked_step(&mut cache, &config, id, 0, 5);
        }
    }
    // Another request in the same slot: the queries that its steps add are its own.
    cache.free(&[child]).unwrap();
    let next = cache.admit(20, &thresholds()).unwrap();
    assert_eq!(next.slot(), child.slot());
    while cache.tokens(next).unwrap() < 20 {
        chunk(&mut cache, next, 7).unwrap();
    }
    for _ in 0..3 {
        checked_step(&mut cache, &config, next, 20, 7);
    }
}

#[test]
fn a_fork_attends_as_a_request_that_was_never_forked_while_nothing_is_demoted() {
    let (config, device) = (config(), Device::host());
    let (mut lone, mut forked) = (cache(&device, &config), cache(&device, &config));
    let all = Thresholds::new(0.0, 0.0);
    let (id, parent) = (lone.admit(0, &all).unwrap(), forked.admit(0, &all).unwrap());
    for _ in 0..35 {
        step(&mut lone, &[(id, 5)]).unwrap();
        step(&mut forked, &[(parent, 5)]).unwrap();
    }
    let children = [forked.fork(parent).unwrap(), forked.fork(parent).unwrap()];
    for turn in 0..20 {
        let want = of_request(&step(&mut lone, &[(id, 5)]).unwrap(), 0, 1);
        // Another sequence shares the prefix and goes its own way.
        let batch = [(children[0], 5), (parent, 5), (children[1], 8)];
        let got = step(&mut forked, &batch).unwrap();
        assert_eq!(of_request(&got, 0, 3), want, "step {turn}");
        assert_eq!(of_request(&got, 1, 3), want, "step {turn}");
        assert_ne!(of_request(&got, 2, 3), want, "step {turn}");
    }
    sound(&forked);
}

#[test]
fn p4_a_prefix_is_shared_by_its_handle_and_never_by_its_content() {
    let (config, device) = (config(), Device::host());
    let mut cache = cache(&device, &config);
    let ids = [cache.admit(0, &thresholds()).unwrap(), cache.admit(0, &thresholds()).unwrap()];
    for _ in 0..30 {
        step(&mut cache, &[(ids[0], 4), (ids[1], 4)]).unwrap();
    }
    // The same tokens twice, and no page in common.
    assert!(cache.dump().unwrap().refs.iter().all(|&refs| refs <= 1));
    cache.free(&[ids[0]]).unwrap();
    assert!(matches!(cache.fork(ids[0]), Err(KvError::NoRequest { .. })));
}
