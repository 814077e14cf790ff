//! What cannot be seen or done from outside.

use leankv_dsl::format::Tiering;

use super::*;
use crate::cache::KernelCache;
use crate::kv::Side;

#[test]
fn pages_of_a_slot_without_a_request_are_a_finding() {
    let compiler = Compiler::new(KernelCache::without_folder());
    // The reference device compiles nothing.
    let config = CacheConfig { page_bytes: 2048, ..CacheConfig::new([1, 2, 2, 64], 3, 64, 20) };
    assert!(matches!(config.tiering, Tiering { low: Some(_), .. }));
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
