//! A small cache, and every family of requests a second time in a cache of its own.

use leankv_dsl::format::{LayerFormats, Tiering};
use leankv_runtime::Device;
use leankv_runtime::kv::{
    Budget, CacheConfig, KvCache, KvError, OutOfPages, PageManager, Refused, RequestId, Thresholds,
};

use super::config;
use super::picture::{Picture, bytes};
use super::seen::{Seen, note, note_if};
use crate::common::{cache, formats, sound};
use crate::promises::poison;

/// A request, and where it lives alone: whole batches of one, and more pages than it can need.
#[derive(Clone, Debug)]
pub(super) struct Living {
    pub(super) id: RequestId,
    /// Which of the caches, and its handle there.
    pub(super) family: usize,
    pub(super) alone: RequestId,
    /// Names the tokens that the model feeds it from here on.
    pub(super) sequence: u64,
    pub(super) prompt: usize,
    pub(super) formats: LayerFormats,
    pub(super) thresholds: Thresholds,
    pub(super) budget: Budget,
    /// Tokens when its budget was last solved for.
    pub(super) solved: usize,
    /// A step was refused or left when its budget was due, so what the budget drops may have gone already, as it goes with the next step
    /// where the request is alone.
    pub(super) unsure: bool,
    /// It was left in the middle of something.
    pub(super) torn: bool,
    /// What the pieces of a chunk that has not ended have given, `[layers][tokens, query_heads, D]` as bits; alone the chunk comes as a whole.
    pub(super) waiting: Vec<Vec<u32>>,
    /// Tokens that it has, or would have if a step had not been refused or left.
    pub(super) reached: usize,
    forks: usize,
    /// It was forked, or is a fork: what it holds has no bound.
    forked: bool,
}

/// The cache under test and what it must be equal to.
pub(super) struct World {
    pub(super) cache: KvCache,
    pub(super) living: Vec<Living>,
    pub(super) ended: Vec<RequestId>,
    pub(super) alone: Vec<KvCache>,
    pub(super) device: Device,
    sequences: u64,
}

impl World {
    pub(super) fn new(device: Device, pages: usize) -> World {
        let cache = cache(&device, &CacheConfig { pages, ..config() });
        World { cache, living: Vec::new(), ended: Vec::new(), alone: Vec::new(), device, sequences: 0 }
    }

    pub(super) fn place(&self, id: RequestId) -> usize {
        self.living.iter().position(|request| request.id == id).expect("it lives")
    }

    pub(super) fn tokens(&self, who: usize) -> usize {
        self.cache.tokens(self.living[who].id).unwrap()
    }

    /// Whether its next step is a decode step, or a chunk.
    pub(super) fn decodes(&self, who: usize) -> bool {
        let request = &self.living[who];
        let tokens = self.tokens(who);
        !request.torn && tokens >= request.prompt && tokens < self.cache.config().max_tokens
    }

    pub(super) fn prefills(&self, who: usize) -> bool {
        !self.living[who].torn && self.tokens(who) < self.living[who].prompt
    }

    /// Tokens of a request's chunk that wait for its end.
    pub(super) fn waiting(&self, who: usize) -> usize {
        let config = self.cache.config();
        self.living[who]
            .waiting
            .first()
            .map_or(0, |layer| layer.len() / (config.query_heads() * config.head_dim))
    }

    /// A request is to have so many tokens more. What it takes for them it may keep if it does not come to that.
    pub(super) fn reaches(&mut self, who: usize, more: usize) {
        let tokens = self.tokens(who) + more;
        let reached = &mut self.living[who].reached;
        *reached = tokens.max(*reached);
    }

    /// What a call that is refused must leave as it was.
    #[track_caller]
    pub(super) fn refused<T>(
        &mut self,
        call: impl FnOnce(&mut KvCache) -> Result<T, KvError>,
        expected: impl FnOnce(&KvError) -> bool,
    ) {
        let before = Picture::of(&self.cache);
        match call(&mut self.cache) {
            Ok(_) => panic!("it was not refused"),
            Err(error) => assert!(expected(&error), "{error}"),
        }
        assert!(Picture::of(&self.cache) == before, "what is refused changes nothing");
        note(Seen::Refusal);
    }

    pub(super) fn admit(&mut self, formats: &LayerFormats, prompt: usize, thresholds: &Thresholds) {
        if matches!(thresholds.budget, Budget::Bytes(bytes) if bytes < self.cache.config().least_bytes(formats).unwrap())
        {
            let bound = |error: &KvError| matches!(error, KvError::OverBudget { .. });
            return self.refused(|cache| cache.admit_as(formats, prompt, thresholds), bound);
        }
        let before = Picture::of(&self.cache);
        let slots = self.cache.config().slots;
        if before.free() < self.first_pages(formats, prompt) && self.living.len() < slots {
            let short = |error: &KvError| shortage(error).is_some();
            self.refused(|cache| cache.admit_as(formats, prompt, thresholds), short);
            return note(Seen::NoAdmission);
        }
        if self.living.len() == slots {
            let full = |error: &KvError| matches!(error, KvError::NoSlotFree { .. });
            return self.refused(|cache| cache.admit_as(formats, prompt, thresholds), full);
        }
        let id = self.cache.admit_as(formats, prompt, thresholds).expect("there are a slot and pages enough");
        let config = self.cache.config();
        let shape = config.shape().unwrap();
        let ample = config.slots * shape.lists() * shape.table_len;
        let mut alone = cache(&self.device, &CacheConfig { pages: ample, ..config.clone() });
        let its = alone.admit_as(formats, prompt, thresholds).unwrap();
        self.alone.push(alone);
        let family = self.alone.len() - 1;
        let sequence = self.next_sequence();
        self.living.push(Living {
            id,
            family,
            alone: its,
            sequence,
            prompt,
            formats: formats.clone(),
            thresholds: thresholds.clone(),
            budget: thresholds.budget,
            solved: 0,
            unsure: false,
            torn: false,
            waiting: Vec::new(),
            reached: 0,
            forks: 0,
            forked: false,
        });
    }

    /// Pages without which a request is not taken in.
    fn first_pages(&self, formats: &LayerFormats, prompt: usize) -> usize {
        let config = self.cache.config();
        let first = prompt.min(config.chunk);
        let of_layer = |layer: usize| {
            let [in_high, in_low] = config.page_tokens(formats.of(layer)).unwrap();
            let two = formats.of(layer).low.is_some();
            let low = if prompt > 0 && two { first.div_ceil(in_low) } else { 0 };
            (first.max(1).div_ceil(in_high) + low) * config.kv_heads
        };
        (0..config.layers).map(of_layer).sum()
    }

    /// The tiering of a list of a request.
    pub(super) fn tiering<'r>(&self, request: &'r Living, list: usize) -> &'r Tiering {
        request.formats.of(list / self.cache.config().kv_heads)
    }

    /// Tokens of a high and of a low page of a list of a request.
    pub(super) fn page_tokens(&self, request: &Living, list: usize) -> [usize; 2] {
        self.cache.config().page_tokens(self.tiering(request, list)).unwrap()
    }

    /// Whether a budget is solved for before the next step.
    pub(super) fn is_due(&self, request: &Living) -> bool {
        let tokens = self.cache.tokens(request.id).unwrap();
        request.budget != Budget::None && tokens >= request.solved + self.steps_between(request)
    }

    /// Steps until it is solved for again.
    fn steps_between(&self, request: &Living) -> usize {
        self.cache.config().steps_between(&request.formats, request.budget, request.solved).unwrap()
    }

    /// What was solved for when a request had so many tokens holds: its pages fit its budget, or nothing stricter can be.
    pub(super) fn check_budget(&self, request: &Living, now: &Picture) {
        let config = self.cache.config();
        let most = match request.budget {
            Budget::None | Budget::Shared => return,
            Budget::Bytes(bytes) => bytes,
            Budget::Part(part) => {
                let tokens = request.solved.max(request.prompt);
                let (tokens_kept, ahead) = (tokens.min(config.keep_tokens), self.steps_between(request));
                let floor = config.demoted_bytes(&request.formats, tokens_kept, ahead).unwrap();
                ((config.fp16_bytes(tokens) as f64 / f64::from(part)) as usize).max(floor)
            }
        };
        let pages = (0..config.lists()).map(|list| now.counts(request.id.slot(), list).1);
        let bytes = pages.map(|[high, low]| high + low).sum::<usize>() * config.page_bytes;
        let strictest = now.is_strictest(request.id.slot());
        assert!(bytes <= most || strictest, "{} takes {bytes} bytes of {most}", request.id);
        note_if(!strictest, Seen::Budget);
    }

    /// Requests were left after some layers: they can only be freed, unless there was none.
    pub(super) fn left(&mut self, requests: &[usize], layers: usize) {
        if layers == 0 {
            return;
        }
        for &who in requests {
            self.living[who].torn = true;
            note(Seen::Torn);
            self.refuse_torn(who);
        }
    }

    pub(super) fn refuse_torn(&mut self, who: usize) {
        let id = self.living[who].id;
        let torn = |error: &KvError| matches!(error, KvError::Torn { id: named } if *named == id);
        self.refused(|cache| cache.decode_step(&[id]).map(drop), torn);
        self.refused(|cache| cache.decode_step_or_preempt(&[id], &mut |_, _| None).map(drop), torn);
        self.refused(|cache| cache.replay_step(&[id]), torn);
        self.refused(|cache| cache.prefill_chunk(id).map(drop), torn);
        self.refused(|cache| cache.fork(id), torn);
    }

    pub(super) fn fork(&mut self, who: usize) {
        let parent = self.living[who].clone();
        if self.waiting(who) > 0 {
            let pending = |error: &KvError| matches!(error, KvError::PromptPending { .. });
            return self.refused(|cache| cache.fork(parent.id), pending);
        }
        if self.living.len() == self.cache.config().slots {
            let full = |error: &KvError| matches!(error, KvError::NoSlotFree { .. });
            return self.refused(|cache| cache.fork(parent.id), full);
        }
        let before = Picture::of(&self.cache);
        let shape = *self.cache.manager().shape();
        // Pages that are partly filled are copied.
        let partly = |list: usize| {
            let (tokens, _) = before.counts(parent.id.slot(), list);
            let page_tokens = self.page_tokens(&parent, list);
            (0..2).filter(|&t| !tokens[t].is_multiple_of(page_tokens[t])).count()
        };
        let need: usize = (0..shape.lists()).map(partly).sum();
        if need > before.free() {
            let short = |error: &KvError| shortage(error).is_some_and(|out| out.need == need);
            self.refused(|cache| cache.fork(parent.id), short);
            return note(Seen::NoFork);
        }
        let id = self.cache.fork(parent.id).expect("there are a slot and pages enough");
        let alone = self.alone[parent.family].fork(parent.alone).unwrap();
        let after = Picture::of(&self.cache);
        let formats = formats(&self.cache, id);
        assert!(after.bytes(&formats, id.slot()) == before.bytes(&formats, parent.id.slot()), "P3: {id}");
        assert!(after.bytes(&formats, parent.id.slot()) == before.bytes(&formats, parent.id.slot()));
        assert_eq!(after.thresholds(id.slot()), before.thresholds(parent.id.slot()), "{id}");
        let sequence = self.next_sequence();
        let forks = parent.forks + 1;
        note(if forks > 1 { Seen::ForkOfFork } else { Seen::Fork });
        self.living[who].forked = true;
        self.living.push(Living { id, alone, sequence, forks, forked: true, ..parent });
    }

    /// Requests end, all at once.
    pub(super) fn free(&mut self, requests: &[usize]) {
        let ids: Vec<RequestId> = requests.iter().map(|&who| self.living[who].id).collect();
        requests.iter().for_each(|&who| self.compare(who));
        let before = Picture::of(&self.cache);
        self.cache.free(&ids).unwrap();
        assert!(Picture::of(&self.cache).free() >= before.free());
        ids.into_iter().for_each(|id| self.bury(id));
    }

    /// What is known of a request that has ended.
    pub(super) fn bury(&mut self, id: RequestId) {
        let who = self.place(id);
        let Living { family, alone, .. } = self.living.remove(who);
        self.alone[family].free(&[alone]).unwrap();
        self.ended.push(id);
    }

    /// Every byte of a request's tokens is that of its life alone.
    fn compare(&self, who: usize) {
        let Living { id, family, alone, torn, unsure, .. } = self.living[who];
        if torn || unsure {
            return;
        }
        let ended = self.cache.tokens(id).unwrap() - self.waiting(who);
        assert_eq!(ended, self.alone[family].tokens(alone).unwrap());
        assert!(bytes(&self.cache, id) == bytes(&self.alone[family], alone), "P3: {id} holds something else");
    }

    pub(super) fn poison(&mut self) {
        poison(&mut self.cache);
    }

    /// What holds after every operation.
    pub(super) fn check(&self) {
        sound(&self.cache);
        assert_eq!(self.cache.poisoned(), None);
        let (now, config) = (Picture::of(&self.cache), self.cache.config());
        assert_eq!(now.free() + now.taken(), config.pages, "P1: every page is free or held");
        for request in self.living.iter().filter(|request| !request.torn) {
            let formats = formats(&self.cache, request.id);
            let (id, stats) = (request.id, self.cache.stats(request.id).unwrap());
            let tokens = stats.tokens;
            if !request.forked {
                let Living { thresholds, prompt, reached, .. } = request;
                let (reached, piece) = (self.cache.tokens(id).unwrap().max(*reached), config.chunk);
                let most =
                    config.pages_at_most(&request.formats, thresholds, [*prompt, piece], reached).unwrap();
                let pages: usize = stats.heads.iter().map(|head| head.pages).sum();
                assert!(pages <= most, "P11: {id} holds {pages} pages, {most} at most with {reached} tokens");
                note_if(pages == most, Seen::Bound);
            }
            for (list, head) in stats.heads.iter().enumerate() {
                let what = format!("{id}, list {list}");
                assert_eq!(now.counts(id.slot(), list).0, [head.high, head.low], "{what}");
                assert_eq!(head.high + head.low + head.pruned, tokens, "{what}");
                assert!(self.tiering(request, list).low.is_some() || head.low == 0, "{what}");
                let [high, low] = [0, 1].map(|t| now.positions(&formats[list][t], id.slot(), list, t));
                let mut all = [&high[..], &low[..]].concat();
                all.sort_unstable();
                let rising = all.windows(2).all(|pair| pair[0] < pair[1]);
                let inside = all.iter().all(|&position| (0..tokens as i32).contains(&position));
                assert!(rising && inside, "{what}: {all:?} of {tokens}");
                let first = tokens.saturating_sub(config.window);
                for kept in (0..config.sinks.min(tokens)).chain(first..tokens) {
                    assert!(high.contains(&(kept as i32)), "{what}: {kept} is not high");
                }
                note_if(head.low > 0, Seen::Low);
                note_if(head.pruned > 0, Seen::Pruned);
            }
        }
    }

    /// Everything ends.
    pub(super) fn finish(mut self) {
        self.free(&(0..self.living.len()).collect::<Vec<_>>());
        self.check();
        for cache in self.alone.iter().chain([&self.cache]) {
            sound(cache);
            let last = Picture::of(cache);
            assert_eq!(last.free(), cache.config().pages, "P1: every page comes back");
            assert!(last.is_empty(), "nothing is left");
        }
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequences += 1;
        self.sequences
    }
}

pub(super) fn shortage(error: &KvError) -> Option<OutOfPages> {
    match error {
        KvError::Refused(Refused::OutOfPages(out)) => Some(*out),
        _ => None,
    }
}
