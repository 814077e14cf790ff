//! More query heads a KV head than a tile of decode attention has, against plain Rust in f64.

use leankv_runtime::Device;
use leankv_runtime::kv::{CacheConfig, Thresholds};

use crate::common::{PLAIN, cache, checking_devices, config};
use crate::model::checked_step;
use crate::prompt::checked_chunk_of;

#[test]
fn prompts_and_steps_of_32_48_and_71_query_heads_a_kv_head() {
    for (group, split_pages) in [(32, None), (48, Some(1)), (71, None)] {
        let config = CacheConfig { kv_heads: 1, group, split_pages, ..config() };
        let mut cache = cache(&Device::host(), &config);
        let id = cache.admit(30, &Thresholds::new(50.0, 0.5)).unwrap();
        while cache.tokens(id).unwrap() < 30 {
            checked_chunk_of(&mut cache, &config, id, 3, &PLAIN);
        }
        for _ in 0..12 {
            checked_step(&mut cache, &config, id, 30, 3);
        }
        let stats = cache.stats(id).unwrap();
        assert!(stats.heads.iter().any(|head| head.low > 0), "{stats:?}");
    }
}

#[test]
fn wide_groups_hold_on_devices_that_check_every_access() {
    for device in checking_devices() {
        let config = CacheConfig {
            layers: 1,
            kv_heads: 2,
            group: 17,
            window: 3,
            sinks: 0,
            slots: 1,
            pages: 12,
            ..config()
        };
        let mut cache = cache(&device, &config);
        let id = cache.admit(9, &Thresholds::new(1.2, 0.5)).unwrap();
        checked_chunk_of(&mut cache, &config, id, 9, &PLAIN);
        for _ in 0..3 {
            checked_step(&mut cache, &config, id, 9, 9);
        }
    }
}
