//! Small caches, and states compared whatever numbers their pages have.

use std::sync::{Mutex, OnceLock};

use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{CacheShape, DeviceManager, ManagerKernels, PageManager, PageState};
use leankv_runtime::{Compiler, Device, Sm};

pub(crate) const TOKENS: [usize; 2] = [3, 5];

/// Two layers of two KV heads.
pub(crate) const SHAPE: CacheShape =
    CacheShape { slots: 5, layers: 2, kv_heads: 2, table_len: 8, pages: 60, page_bytes: 64, tokens: TOKENS };

/// A manager on a device, whose kernels are compiled once a process.
pub(crate) fn device_manager(device: &Device, shape: CacheShape) -> DeviceManager {
    static KERNELS: OnceLock<Mutex<Vec<(String, usize, ManagerKernels)>>> = OnceLock::new();
    let mut kernels = KERNELS.get_or_init(Mutex::default).lock().unwrap();
    let key = (device.name(), shape.lists());
    let found = kernels.iter().find(|(name, lists, _)| (name, *lists) == (&key.0, key.1));
    let mine = match found {
        Some((_, _, kernels)) => kernels.clone(),
        None => {
            let compiler = Compiler::new(KernelCache::without_folder());
            let new = ManagerKernels::new(&compiler, device, &shape).unwrap();
            kernels.push((key.0, key.1, new.clone()));
            new
        }
    };
    DeviceManager::with_kernels(device, shape, mine).unwrap()
}

/// The devices that check what they run.
pub(crate) fn checking_devices() -> [Device; 2] {
    [Device::reference(), Device::emulated(Sm::Sm80)]
}

/// The state with pages numbered in the order in which they stand in the table, and without what order alone decides: which free page
/// lies where in the ring. Programs that drop the last two references to a page at the same time may release it in either order.
pub(crate) fn canonical(state: &PageState) -> PageState {
    let mut state = state.clone();
    let mut names = vec![None; state.shape.pages];
    let mut next = 0;
    for entry in state.table.iter_mut().filter(|entry| **entry >= 0) {
        *entry = *names[*entry as usize].get_or_insert_with(|| {
            next += 1;
            next - 1
        });
    }
    let mut refs = vec![0; state.shape.pages];
    for (page, name) in names.iter().enumerate() {
        if let Some(name) = name {
            refs[*name as usize] = state.refs[page];
        }
    }
    state.refs = refs;
    // How often pages were taken in all.
    state.generation = vec![state.generation.iter().sum()];
    state.ring.clear();
    state
}

/// The manager counts to what it should.
#[track_caller]
pub(crate) fn sound(manager: &dyn PageManager) {
    let findings = manager.audit().unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

/// Full lists for what a slot holds: `short` tokens fewer than its pages hold, where they hold as many.
pub(crate) fn fill(manager: &mut dyn PageManager, slot: usize, short: usize) {
    let state = manager.snapshot().unwrap();
    let lists = state.shape.lists;
    let tokens = manager.shape().tokens;
    let mut lengths = state.lengths[slot * lists * 4..][..lists * 4].to_vec();
    for (list, lengths) in lengths.chunks_exact_mut(4).enumerate() {
        for tier in 0..2 {
            let held = state.held[(slot * lists + list) * 2 + tier] as usize;
            // Another number for every list, and never less than what is frozen.
            let short = (short + 3 * list + tier) % tokens[tier];
            let full = (held * tokens[tier]) as i32;
            lengths[tier] = (full - short as i32).max(lengths[tier + 2]);
            lengths[tier] = lengths[tier].min(full);
        }
    }
    manager.set_lengths(slot, &lengths).unwrap();
}
