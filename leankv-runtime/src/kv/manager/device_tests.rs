//! Launches that fail, at each of them.

use std::sync::OnceLock;

use super::*;
use crate::cache::KernelCache;
use crate::kv::State;
use crate::{Compiler, Device};

const SHAPE: CacheShape =
    CacheShape { slots: 3, layers: 1, kv_heads: 2, table_len: 8, pages: 20, page_bytes: 64, tokens: [2, 4] };

fn manager() -> DeviceManager {
    static KERNELS: OnceLock<ManagerKernels> = OnceLock::new();
    let device = Device::host();
    let kernels = KERNELS.get_or_init(|| {
        ManagerKernels::new(&Compiler::new(KernelCache::without_folder()), &device, &SHAPE).unwrap()
    });
    DeviceManager::with_kernels(&device, SHAPE, kernels.clone()).unwrap()
}

#[test]
fn p7_a_launch_that_fails_poisons_the_manager_and_nothing_is_touched_after_it() {
    let mut failures = 0;
    for succeed in 0.. {
        let mut manager = manager();
        manager.rebalance(&[0], &[2, 1, 1, 0]).unwrap();
        manager.set_lengths(0, &[3, 4, 0, 0, 1, 0, 0, 0]).unwrap();
        manager.launches_left = Some(succeed);
        let done = manager.fork(&[(0, 1)]).and_then(|_| manager.free(&[0]));
        let Err(error) = done else {
            assert_eq!(manager.audit().unwrap(), []);
            break;
        };
        failures += 1;
        assert!(matches!(error, KvError::Launch(_)), "{error}");
        let before = manager.snapshot().unwrap();
        let again = [
            manager.rebalance(&[2], &[1; 4]).unwrap_err(),
            manager.fork(&[(0, 2)]).unwrap_err(),
            manager.free(&[0]).unwrap_err(),
        ];
        for error in again {
            assert!(matches!(error, KvError::Poisoned { .. }), "{error}");
            assert!(error.to_string().contains("a test lets this launch fail"), "{error}");
        }
        assert_eq!(manager.snapshot().unwrap(), before);
        if succeed == 0 {
            // The first launch only plans, so all is as it was.
            assert_eq!(manager.audit().unwrap(), []);
        }
    }
    assert_eq!(failures, 9);
}

#[test]
fn a_rebalance_is_three_launches_for_any_number_of_requests() {
    for slots in [&[0][..], &[2, 0], &[0, 1, 2]] {
        let mut manager = manager();
        manager.launches_left = Some(6);
        let targets = [1, 2, 0, 1].repeat(slots.len());
        assert!(manager.rebalance(slots, &targets).unwrap().iter().all(Result::is_ok));
        assert_eq!(manager.launches_left, Some(3), "{slots:?}");
        manager.free(slots).unwrap();
        assert_eq!(manager.launches_left, Some(0), "{slots:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let mut manager = manager();
    manager.rebalance(&[0], &[1; 4]).unwrap();
    let before = manager.snapshot().unwrap();
    manager.launches_left = Some(0);
    let errors = [
        manager.rebalance(&[3], &[1; 4]).unwrap_err(),
        manager.rebalance(&[1, 1], &[1; 8]).unwrap_err(),
        manager.rebalance(&[1], &[1; 5]).unwrap_err(),
        manager.fork(&[(0, 0)]).unwrap_err(),
        manager.fork(&[(1, 0)]).unwrap_err(),
        manager.fork(&[(0, 1), (0, 1)]).unwrap_err(),
        manager.fork(&[(5, 1)]).unwrap_err(),
        manager.set_lengths(0, &[0; 3]).unwrap_err(),
    ];
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "slot 3 does not exist; there are 3, numbered from 0",
        "slot 1 is named twice in one call",
        "targets [slots, layers, kv_heads, 2]: 4 numbers are needed, not 5",
        "slot 0 is named twice in one call",
        "slot 0 holds pages of another request; free it first",
        "slot 1 is named twice in one call",
        "slot 5 does not exist; there are 3, numbered from 0",
        "lengths [layers, kv_heads, 4]: 8 numbers are needed, not 3",
    ];
    assert_eq!(texts, expected);
    assert!(manager.rebalance(&[], &[]).unwrap().is_empty());
    assert_eq!((manager.snapshot().unwrap(), manager.poisoned()), (before, None));
}

#[test]
fn shapes_that_cannot_be_are_refused_with_what_is_possible() {
    let refused = |shape: CacheShape| State::new(&Device::host(), shape).unwrap_err().to_string();
    assert!(refused(CacheShape { layers: 0, ..SHAPE }).contains("at least 1"));
    assert!(refused(CacheShape { tokens: [0, 1], ..SHAPE }).contains("at least 1"));
    assert!(refused(CacheShape { slots: 70_000, ..SHAPE }).contains("65535"));
    assert!(refused(CacheShape { table_len: 2 << 20, ..SHAPE }).contains("1048576"));
    assert!(refused(CacheShape { layers: 1 << 40, kv_heads: 1 << 40, ..SHAPE }).contains("2^20"));
    assert!(refused(CacheShape { pages: 1 << 31, ..SHAPE }).contains("31 bits"));
    assert!(refused(CacheShape { page_bytes: 100, ..SHAPE }).contains("multiple of 16"));
}
