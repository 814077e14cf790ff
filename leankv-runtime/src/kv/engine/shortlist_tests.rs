//! Plans from a shortlist are those of a cache that looks at every token itself.

use half::f16;
use leankv_dsl::workload::Generator;
use leankv_kernels::candidates::ShortlistState;
use leankv_kernels::policy::PolicySpec;

use super::*;
use crate::cache::KernelCache;

/// Two caches to which the same is done; the second one forgets its shortlists before every step.
struct Twins {
    caches: [KvCache; 2],
    /// Requests with the tokens of the prompt that are still to come.
    requests: Vec<(RequestId, usize)>,
    numbers: Generator,
    /// Lists planned from a shortlist; lists whose shortlist was for this position and does not hold any more; the other lists.
    listed: usize,
    stale: usize,
    looked: usize,
}

impl Twins {
    /// Does the same to both, and expects the same.
    fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        mut act: impl FnMut(&mut KvCache) -> Result<T, KvError>,
    ) -> Option<T> {
        let [listed, looking] = &mut self.caches;
        let [a, b] = [act(listed), act(looking)];
        match (&a, &b) {
            (Ok(a), Ok(b)) => assert!(a == b, "what they give differs"),
            (Err(KvError::Refused(a)), Err(KvError::Refused(b))) => assert_eq!(a, b),
            (Err(KvError::NoSlotFree { .. }), Err(KvError::NoSlotFree { .. })) => {}
            _ => panic!("{a:?} and {b:?}"),
        }
        assert_eq!(listed.dump().unwrap(), looking.dump().unwrap());
        let arena = |cache: &KvCache| cache.manager.state().arena.to_vec().unwrap();
        assert!(arena(listed) == arena(looking), "the arenas differ");
        a.ok()
    }

    /// The handle that the second cache has for a request of the first one.
    fn twin(cache: &KvCache, id: RequestId) -> RequestId {
        cache.slots[id.slot].as_ref().map_or(id, |request| request.id)
    }

    fn bits(view: crate::device::BufferView<'_, f32>) -> Result<Vec<u32>, KvError> {
        let mut host = vec![0.0; view.len()];
        view.read_into(&mut host)?;
        Ok(host.iter().map(|x: &f32| x.to_bits()).collect())
    }

    /// Takes every layer's tensors through `layer`.
    fn layers(
        device: &Device,
        tensors: &[[Vec<f16>; 3]],
        mut layer: impl FnMut([&DeviceBuffer<f16>; 3]) -> Result<Vec<u32>, KvError>,
    ) -> Result<Vec<Vec<u32>>, KvError> {
        let upload =
            |[q, k, v]: &[Vec<f16>; 3]| layer([&device.upload(q)?, &device.upload(k)?, &device.upload(v)?]);
        tensors.iter().map(upload).collect()
    }

    /// Tensors of `n` rows, for every layer.
    fn tensors(&mut self, n: usize) -> Vec<[Vec<f16>; 3]> {
        let config = self.caches[0].config.clone();
        let row = |heads: usize| n * heads * config.head_dim;
        let lens = [row(config.query_heads()), row(config.kv_heads), row(config.kv_heads)];
        (0..config.layers).map(|_| lens.map(|len| self.numbers.f16s(len, -2.0, 2.0).0)).collect()
    }

    fn admit(&mut self) {
        let prompt = [0, 16, 33, 45][self.numbers.below(4)];
        let thresholds = match self.numbers.below(4) {
            0 => Thresholds::new(1.5, 0.7),
            1 => Thresholds::new(3.0, 1.0),
            2 => Thresholds::new(8.0, 0.9),
            _ => Thresholds::within(8 * 2048),
        };
        let formats = self.caches[0].config.all_formats().nth(self.numbers.below(2)).cloned();
        let formats = formats.expect("there are two");
        if let Some(slot) = self.both(|cache| Ok(cache.admit_as(&formats, prompt, &thresholds)?.slot)) {
            let id = self.caches[0].slots[slot].as_ref().expect("it was admitted").id;
            let lists = self.caches[0].config.lists() * ShortlistState::COLUMNS;
            let state = self.caches[0].shortlist.state().unwrap();
            assert!(
                state[slot * lists..][..lists].iter().all(|&number| number == -1),
                "of an earlier request"
            );
            self.requests.push((id, prompt));
        }
    }

    /// What an earlier request found is not taken for a new one's.
    fn nothing_is_left_in(&self, slot: usize) {
        let numbers = self.caches[0].config.lists() * ShortlistState::COLUMNS;
        let state = self.caches[0].shortlist.state().unwrap();
        assert!(state[slot * numbers..][..numbers].iter().all(|&number| number == -1));
    }

    fn chunk(&mut self) {
        let waiting: Vec<usize> = (0..self.requests.len()).filter(|&i| self.requests[i].1 > 0).collect();
        if waiting.is_empty() {
            return;
        }
        let at = waiting[self.numbers.below(waiting.len())];
        let (id, left) = self.requests[at];
        let n = left.min(self.caches[0].config.chunk);
        let tensors = self.tensors(n);
        let done = self.both(|cache| {
            let device = cache.manager.state().device().clone();
            let mut chunk = cache.prefill_chunk(Self::twin(cache, id))?;
            let all = Self::layers(&device, &tensors, |[q, k, v]| Self::bits(chunk.layer(q, k, v)?))?;
            chunk.finish()?;
            Ok(all)
        });
        if done.is_some() {
            self.requests[at].1 -= n;
        }
    }

    /// Notes where the plans of a step come from.
    fn count(&mut self, batch: &[RequestId]) {
        let cache = &self.caches[0];
        let (lists, lengths) = (cache.config.lists(), cache.dump().unwrap().lengths);
        let state = cache.shortlist.state().unwrap();
        for id in batch {
            let tokens = cache.tokens(*id).unwrap() as i32;
            for list in id.slot * lists..(id.slot + 1) * lists {
                let of = &state[list * ShortlistState::COLUMNS..][..ShortlistState::COLUMNS];
                match (of[0] == tokens, of[1..] == lengths[list * 4..][..4]) {
                    (true, true) => self.listed += 1,
                    (true, false) => self.stale += 1,
                    _ => self.looked += 1,
                }
            }
        }
    }

    fn step(&mut self) {
        let most = self.caches[0].config.max_tokens;
        let room = |id: RequestId| self.caches[0].tokens(id).unwrap() < most;
        let ready = self.requests.iter().filter(|r| r.1 == 0 && room(r.0)).map(|r| r.0);
        let ready: Vec<RequestId> = ready.collect();
        let batch: Vec<RequestId> = ready.into_iter().filter(|_| self.numbers.below(4) > 0).collect();
        if batch.is_empty() {
            return;
        }
        self.count(&batch);
        for slot in 0..self.caches[1].slots.len() {
            self.caches[1].shortlist.clear(slot).unwrap();
        }
        let tensors = self.tensors(batch.len());
        self.both(|cache| {
            let device = cache.manager.state().device().clone();
            let batch: Vec<RequestId> = batch.iter().map(|&id| Self::twin(cache, id)).collect();
            let mut step = cache.decode_step(&batch)?;
            let all = Self::layers(&device, &tensors, |[q, k, v]| Self::bits(step.layer(q, k, v)?))?;
            step.finish()?;
            Ok(all)
        });
    }

    fn fork(&mut self) {
        let whole: Vec<(RequestId, usize)> = self.requests.clone();
        if whole.is_empty() {
            return;
        }
        let (id, left) = whole[self.numbers.below(whole.len())];
        if self.caches.iter().any(|cache| cache.free_slot().is_err()) {
            return;
        }
        if let Some(slot) = self.both(|cache| Ok(cache.fork(Self::twin(cache, id))?.slot)) {
            self.nothing_is_left_in(slot);
            let child = self.caches[0].slots[slot].as_ref().expect("it was forked").id;
            self.requests.push((child, left));
        }
    }

    /// Both arenas are written as they are: who restores a cache may have brought other bytes.
    fn restore(&mut self) {
        let bytes = self.caches[0].manager.state().arena.to_vec().unwrap();
        self.both(|cache| cache.write_arena(&bytes));
        (0..self.caches[0].slots.len()).for_each(|slot| self.nothing_is_left_in(slot));
    }

    fn free(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let at = self.numbers.below(self.requests.len());
        let (id, _) = self.requests.swap_remove(at);
        self.both(|cache| cache.free(&[Self::twin(cache, id)]));
    }
}

#[test]
fn a_plan_from_a_shortlist_is_the_plan_of_a_cache_that_looks_itself() {
    let device = Device::host();
    let compiler = Compiler::new(KernelCache::without_folder());
    let policies = [PolicySpec::default(), PolicySpec::Released, PolicySpec::HeavyHitter];
    let mut all_stale = 0;
    for (policy, split_pages) in policies.into_iter().zip([None, Some(1), Some(2)]) {
        let config = CacheConfig {
            page_bytes: 2048,
            chunk: 16,
            window_q: 8,
            window: 5,
            sinks: 1,
            policy: policy.into(),
            split_pages,
            solve_every: 4,
            more_formats: vec!["K8V4;1=K8V4/K4V2".parse().unwrap()],
            ..CacheConfig::new([2, 2, 2, 64], 6, 90, 110)
        };
        let kernels = EngineKernels::new(&compiler, &device, &config).unwrap();
        let (mut listed, mut stale, mut looked) = (0, 0, 0);
        for seed in 0..10 {
            let cache = || KvCache::with_kernels(&device, config.clone(), kernels.clone()).unwrap();
            let mut twins = Twins {
                caches: [cache(), cache()],
                requests: Vec::new(),
                numbers: Generator::new(seed * 7919 + split_pages.unwrap_or(0) as u64),
                listed: 0,
                stale: 0,
                looked: 0,
            };
            for _ in 0..120 {
                match twins.numbers.below(17) {
                    16 => twins.restore(),
                    0 | 1 => twins.admit(),
                    2..5 => twins.chunk(),
                    5 | 6 => twins.fork(),
                    7 => twins.free(),
                    _ => twins.step(),
                }
            }
            (listed, stale, looked) = (listed + twins.listed, stale + twins.stale, looked + twins.looked);
        }
        println!("{policy}: {listed} lists from a shortlist, {stale} stale, {looked} without");
        assert!(listed > 1000 && looked > 100, "{policy}: {listed}, {looked}");
        all_stale += stale;
    }
    assert!(all_stale > 60, "{all_stale}");
}
