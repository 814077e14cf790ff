//! Chunks and steps: what they give is what the request gets alone, and what they take is what they may.

use leankv_runtime::kv::{Budget, OutOfPages, PageManager, RequestId};
use proptest::sample::Index;

use super::config;
use super::picture::Picture;
use super::seen::{Seen, note, note_if};
use super::world::{Living, World, shortage};
use crate::common::{chunk, of_request, row, step, upload};

/// Who is given up when pages are short: the ones at these places among those that run, one after another.
pub(super) type Victims = [Index];

impl World {
    /// A chunk of a prompt, left after `stop` of its layers.
    pub(super) fn chunk(&mut self, who: usize, stop: Option<usize>) {
        let Living { id, sequence, .. } = self.living[who];
        let before = Picture::of(&self.cache);
        let shape = *self.cache.manager().shape();
        let request = self.living[who].clone();
        // The rest of one that has begun.
        let waiting = self.waiting(who);
        let rest = (self.living[who].prompt - self.tokens(who)).min(self.cache.config().chunk - waiting);
        let n = waiting + rest;
        self.reaches(who, rest);
        // What is reserved: all of the chunk high, or all of it low, and with a budget all that is there.
        let reserved = |list: usize, tier: usize, tokens: [usize; 2]| {
            let there = tier == 0 || self.tiering(&request, list).low.is_some();
            let demoted = if tier == 1 && request.budget != Budget::None { tokens[0] } else { 0 };
            let all = tokens[tier] + demoted + n;
            if there { all.div_ceil(self.page_tokens(&request, list)[tier]) } else { 0 }
        };
        let mut need = 0;
        for list in 0..shape.lists() {
            let (tokens, pages) = before.counts(id.slot(), list);
            need += (0..2).map(|t| reserved(list, t, tokens).saturating_sub(pages[t])).sum::<usize>();
        }
        let mut begun = match self.cache.prefill_chunk(id) {
            Ok(begun) => begun,
            Err(error) => {
                let out = shortage(&error).unwrap_or_else(|| panic!("{error}"));
                assert_eq!(out.need, need, "the worst case is what is asked for");
                assert!(need > before.free(), "P6: {need} pages were refused of {}", before.free());
                assert!(Picture::of(&self.cache).same_tokens(&before), "P5: no token was touched");
                return note(Seen::NoChunk);
            }
        };
        assert!(need <= before.free(), "{need} pages cannot come of {}", before.free());
        let (config, device) = (config(), self.device.clone());
        let mut out = Vec::new();
        for layer in 0..stop.unwrap_or(config.layers) {
            let rows: Vec<_> = begun.positions().map(|token| row(&config, sequence, token, layer)).collect();
            let [q, k, v] = upload(&device, &rows);
            let view = begun.layer(&q, &k, &v).unwrap();
            let mut host = vec![0.0; view.len()];
            view.read_into(&mut host).unwrap();
            out.push(host);
        }
        if let Some(layers) = stop {
            return self.left(&[who], layers);
        }
        begun.finish().unwrap();
        self.came(who, of_request(&out, 0, 1));
        self.chunk_ended(who);
        note(Seen::Chunk);
    }

    /// A request's tokens have given this.
    pub(super) fn came(&mut self, who: usize, out: Vec<Vec<u32>>) {
        let waiting = &mut self.living[who].waiting;
        waiting.resize(out.len(), Vec::new());
        waiting.iter_mut().zip(out).for_each(|(layer, more)| layer.extend(more));
    }

    /// A chunk of a request's prompt has ended: alone it comes as a whole.
    pub(super) fn chunk_ended(&mut self, who: usize) {
        let Living { id, family, alone, sequence, .. } = self.living[who];
        let (request, shape) = (self.living[who].clone(), *self.cache.manager().shape());
        let out = std::mem::take(&mut self.living[who].waiting);
        let want = chunk(&mut self.alone[family], alone, sequence).unwrap();
        assert_eq!(out, of_request(&want, 0, 1), "P3: {id}");
        let after = Picture::of(&self.cache);
        for list in 0..shape.lists() {
            let (tokens, pages) = after.counts(id.slot(), list);
            let page_tokens = self.page_tokens(&request, list);
            let needed = [0, 1].map(|t| tokens[t].div_ceil(page_tokens[t]));
            assert_eq!(pages, needed, "{id}, list {list}: what was reserved and is not needed went back");
        }
        self.living[who].solved = self.tokens(who);
        self.check_budget(&self.living[who], &after);
    }

    /// A decode step, left after `stop` of its layers. Gives whether it was taken to its end.
    pub(super) fn step(&mut self, batch: &[usize], stop: Option<usize>, victims: Option<&Victims>) -> bool {
        let before = Picture::of(&self.cache);
        let mut named: Vec<Living> = batch.iter().map(|&who| self.living[who].clone()).collect();
        let ids: Vec<RequestId> = named.iter().map(|request| request.id).collect();
        let due: Vec<RequestId> =
            named.iter().filter(|request| self.is_due(request)).map(|request| request.id).collect();
        for &who in batch {
            self.reaches(who, 1);
        }
        let mut given_up = Vec::new();
        let begun = match victims {
            None => self.cache.decode_step(&ids),
            Some(victims) => {
                let mut victims = victims.iter();
                self.cache.decode_step_or_preempt(&ids, &mut |out: OutOfPages, running| {
                    assert!(out.need > 0 && !running.is_empty());
                    let victim = *victims.next()?.get(running);
                    given_up.push(victim);
                    Some(victim)
                })
            }
        };
        named.retain(|request| !given_up.contains(&request.id));
        let (config, device) = (config(), self.device.clone());
        let outcome = begun.and_then(|mut begun| {
            let runs: Vec<RequestId> = named.iter().map(|request| request.id).collect();
            assert_eq!(begun.requests(), runs, "who was not given up takes the step");
            let mut out = Vec::new();
            for layer in 0..stop.unwrap_or(config.layers) {
                let row = |r: &Living| row(&config, r.sequence, before.tokens(r.id), layer);
                let [q, k, v] = upload(&device, &named.iter().map(row).collect::<Vec<_>>());
                let view = begun.layer(&q, &k, &v)?;
                let mut host = vec![0.0; view.len()];
                view.read_into(&mut host)?;
                out.push(host);
            }
            if stop.is_none() {
                begun.finish()?;
            }
            Ok(out)
        });
        for &id in &given_up {
            note(Seen::Preemption);
            self.bury(id);
        }
        let out = match outcome {
            Ok(out) => out,
            Err(error) => {
                let short = shortage(&error).unwrap_or_else(|| panic!("{error}"));
                self.doubt(&due);
                self.short_step(&ids, &before, short, given_up.is_empty() && due.is_empty());
                return false;
            }
        };
        named.iter().for_each(|request| {
            let who = self.place(request.id);
            self.living[who].unsure = false;
        });
        if let Some(layers) = stop {
            self.doubt(&due);
            let left: Vec<usize> = named.iter().map(|request| self.place(request.id)).collect();
            self.left(&left, layers);
            return false;
        }
        for (i, request) in named.iter().enumerate() {
            let solved = due.contains(&request.id);
            self.token_came(self.place(request.id), of_request(&out, i, named.len()), solved, &before);
        }
        note(Seen::Step);
        note_if(named.iter().any(|request| request.formats != named[0].formats), Seen::Mixed);
        true
    }

    /// A request has taken a decode step, which has given this. It was `solved` for in it, or takes at most a page a list.
    pub(super) fn token_came(&mut self, who: usize, out: Vec<Vec<u32>>, solved: bool, before: &Picture) {
        let Living { id, family, alone, sequence, .. } = self.living[who];
        let want = step(&mut self.alone[family], &[(alone, sequence)]).unwrap();
        assert_eq!(out, of_request(&want, 0, 1), "P3: {id}");
        let after = Picture::of(&self.cache);
        if solved {
            self.living[who].solved = before.tokens(id);
        }
        if self.living[who].solved > 0 {
            self.check_budget(&self.living[who], &after);
        }
        for list in (0..config().lists()).filter(|_| !solved) {
            let [(_, old), (_, new)] = [before, &after].map(|p| p.counts(id.slot(), list));
            let grown = (0..2).map(|t| new[t].saturating_sub(old[t])).sum::<usize>();
            assert!(grown <= 1, "{id}, list {list}: {old:?} pages became {new:?} in one step");
        }
    }

    /// These might have been reclassified, or not.
    pub(super) fn doubt(&mut self, due: &[RequestId]) {
        self.living.iter_mut().filter(|request| due.contains(&request.id)).for_each(|r| r.unsure = true);
    }

    /// A step that found too few pages: only lists whose pages are full can have lacked one.
    fn short_step(&self, ids: &[RequestId], before: &Picture, out: OutOfPages, as_before: bool) {
        let shape = self.cache.manager().shape();
        let after = Picture::of(&self.cache);
        assert_eq!(out.free, after.free(), "what is said to be free is free");
        note(Seen::NoStep);
        // Where somebody was given up, or a budget was due, pages and tokens have gone.
        if !as_before {
            return;
        }
        assert!(after.same_tokens(before), "P5: no token was touched");
        let mut full = 0;
        for (id, list) in ids.iter().flat_map(|id| (0..shape.lists()).map(move |list| (id, list))) {
            let (tokens, pages) = before.counts(id.slot(), list);
            let page_tokens = self.page_tokens(&self.living[self.place(*id)], list);
            full += usize::from((0..2).any(|t| tokens[t] == pages[t] * page_tokens[t]));
        }
        assert!(full > before.free(), "P6: at most {full} pages can be lacking, of {}", before.free());
        assert!((1..=full).contains(&out.need), "{} pages for {full} full lists", out.need);
    }
}
