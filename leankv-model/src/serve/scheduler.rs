//! Who runs, who waits, and who is given up.

use std::collections::VecDeque;
use std::time::Instant;

use leankv_runtime::Device;
use leankv_runtime::kv::{KvCache, KvError, OutOfPages, PageManager, Refused, RequestId};

use super::job::{Job, Running};
use super::report::Counts;
use super::timed::Timed;
use super::{Completion, Failed, Report, Request, ServeError, Times, TooLarge};
use crate::Model;
use crate::cache::{KvChoice, PromptAttend, StepAttend, thresholds};
use crate::error::ModelError;
use crate::finite::{BeyondF16, Hidden, NonFinite};
use crate::sample::{Sampler, Sampling};
use crate::statistics::Priors;

/// How requests are served.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeOptions {
    /// How tokens are chosen. Each request draws from a stream of its own.
    pub sampling: Sampling,
    /// Tokens that end a request early and are no part of its output.
    pub stop: Vec<u32>,
    /// A request is admitted while others run only if this many pages for each list of each of them stay free, so that it is not given up
    /// again at once.
    pub headroom: usize,
}

impl Default for ServeOptions {
    /// Greedy, without early ends, one page of headroom.
    fn default() -> ServeOptions {
        ServeOptions { sampling: Sampling::GREEDY, stop: Vec::new(), headroom: 1 }
    }
}

/// Serves requests over one cache.
///
/// Requests run in the order in which they were submitted: those that run are older than those that wait. At most one of them, the newest, is
/// in its prompt.
#[derive(Debug)]
pub struct Scheduler<'m> {
    model: &'m Model,
    device: Device,
    cache: KvCache,
    choice: KvChoice,
    options: ServeOptions,
    waiting: VecDeque<Job>,
    /// Oldest first.
    running: Vec<Running>,
    done: Vec<Completion>,
    submitted: usize,
    counts: Counts,
    times: Times,
}

impl<'m> Scheduler<'m> {
    /// Serves over `cache`, which was opened for this choice and holds no requests.
    pub fn new(
        model: &'m Model,
        device: &Device,
        cache: KvCache,
        choice: &KvChoice,
        options: ServeOptions,
    ) -> Scheduler<'m> {
        Scheduler {
            model,
            device: device.clone(),
            cache,
            choice: choice.clone(),
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            done: Vec::new(),
            submitted: 0,
            counts: Counts::default(),
            times: Times::default(),
        }
    }

    /// Puts a request at the end of the queue. Gives its number: requests are counted from 0.
    ///
    /// # Errors
    /// [`ServeError::Empty`], [`ServeError::TooLong`], and [`ServeError::TooLarge`] where the formats alone say that the cache can never hold
    /// it. What thresholds leave of a request is known when it runs, so there it can still fail by itself: see [`Completion::failed`].
    /// [`ModelError::Token`] and [`ModelError::Sampling`] for what the model and [`ServeOptions::sampling`] cannot be.
    pub fn submit(&mut self, request: Request) -> Result<usize, ServeError> {
        let (prompt, output, tokens) = (request.prompt.len(), request.output, request.tokens());
        if prompt == 0 || output == 0 {
            return Err(ServeError::Empty { prompt, output });
        }
        let most = self.cache.config().max_tokens.min(self.model.config().context);
        if tokens > most {
            return Err(ServeError::TooLong { tokens, most });
        }
        let vocab = self.model.config().vocab;
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(ModelError::Token { token, vocab }.into());
        }
        if self.choice.reconstruct {
            Priors::check(self.model, prompt)?;
        }
        let need = self.pages_at_least(&request);
        if need > self.cache.manager().shape().pages {
            return Err(self.too_large(tokens, need).into());
        }
        let number = self.submitted;
        let sampler = Sampler::new(self.options.sampling, number as u64).map_err(ModelError::from)?;
        self.submitted += 1;
        self.waiting.push_back(Job {
            number,
            request,
            generated: Vec::new(),
            sampler,
            submitted: Instant::now(),
            first_token: None,
            preemptions: 0,
            priors: None,
            beyond_f16: BeyondF16::default(),
        });
        Ok(number)
    }

    /// Admits a request if there is room, takes in a chunk of a prompt, and does one decode step of all whose prompts are there. Gives whether
    /// there is more to do.
    ///
    /// # Errors
    /// What model and cache say, after which nothing can go on. A shortage of pages is none: it is dealt with; nor is a request whose
    /// numbers are not finite, which ends alone.
    pub fn tick(&mut self) -> Result<bool, ServeError> {
        let start = Instant::now();
        self.admit()?;
        self.prompt()?;
        self.decode()?;
        self.times.wall += start.elapsed();
        Ok(!self.idle())
    }

    /// Serves all that is queued.
    ///
    /// # Errors
    /// As [`Scheduler::tick`].
    pub fn run(&mut self) -> Result<(), ServeError> {
        while self.tick()? {}
        Ok(())
    }

    /// Whether every request that was submitted is done.
    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Requests that are done, in the order in which they ended.
    pub fn completions(&self) -> &[Completion] {
        &self.done
    }

    /// Tokens that were generated so far.
    pub fn generated(&self) -> usize {
        let ended: usize = self.done.iter().map(|done| done.tokens.len()).sum();
        let running = self.running.iter().map(|running| &running.job);
        ended + running.chain(&self.waiting).map(|job| job.generated.len()).sum::<usize>()
    }

    /// What it took so far.
    pub fn report(&self) -> Report {
        let shape = self.cache.manager().shape();
        let table = shape.slots * shape.lists() * shape.table_len * size_of::<i32>();
        let bytes = [shape.arena_bytes(), table, shape.page_bytes];
        Report::new(&self.counts, &self.times, &self.done, bytes)
    }

    /// Where the time went so far.
    pub fn times(&self) -> Times {
        self.times
    }

    /// The cache, to look at.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Pages that a request surely needs at some time: where every token stays in one format those of all of them, else those that a chunk
    /// takes for its worst case.
    fn pages_at_least(&self, request: &Request) -> usize {
        if self.choice.is_uniform() {
            self.pages_of([request.cached(), 0])
        } else {
            self.chunk_pages(request.prompt.len().min(self.cache.config().chunk))
        }
    }

    /// Pages that the prompt needs before the first decode step, as far as they are known.
    fn pages_of_prompt(&self, prompt: usize) -> usize {
        if self.choice.is_uniform() {
            self.pages_of([prompt, 0])
        } else {
            self.chunk_pages(prompt.min(self.cache.config().chunk))
        }
    }

    /// Pages for the worst case of a chunk: all high, or all low.
    fn chunk_pages(&self, tokens: usize) -> usize {
        self.pages_of([tokens; 2])
    }

    /// Pages of a request each of whose high and low lists has so many tokens.
    fn pages_of(&self, tokens: [usize; 2]) -> usize {
        let config = self.cache.config();
        // Formats of a cache that there is fit its pages.
        config.pages_of(&config.formats, tokens).unwrap_or_default()
    }

    fn too_large(&self, tokens: usize, pages: usize) -> TooLarge {
        let shape = self.cache.manager().shape();
        TooLarge { tokens, need: pages * shape.page_bytes, have: shape.arena_bytes() }
    }

    /// Admits the oldest waiting request, if no other is in its prompt and there is room.
    fn admit(&mut self) -> Result<(), ServeError> {
        let Some(job) = self.waiting.front() else { return Ok(()) };
        let slots = self.cache.config().slots;
        if self.running.len() == slots || self.running.iter().any(|running| !running.decodes()) {
            return Ok(());
        }
        let start = Instant::now();
        let prompt = job.request.prompt.len();
        let lists = self.cache.manager().shape().lists();
        let headroom = self.options.headroom * lists * self.running.len();
        if !self.running.is_empty()
            && self.cache.manager().free_pages()? < self.pages_of_prompt(prompt) + headroom
        {
            self.times.pages += start.elapsed();
            return Ok(());
        }
        let admitted = self.cache.admit(prompt, &thresholds(&self.choice));
        self.times.pages += start.elapsed();
        match admitted {
            Ok(id) => {
                let job = self.waiting.pop_front().expect("internal error: it is still in front");
                self.running.push(Running::new(job, id));
                Ok(())
            }
            // All pages are free when nothing runs, and `submit` saw that they are enough for that.
            Err(KvError::Refused(Refused::OutOfPages(_))) if !self.running.is_empty() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in the next chunk of the prompt that is under way. Without room it waits for the others, unless there are none.
    fn prompt(&mut self) -> Result<(), ServeError> {
        let Scheduler { model, device, cache, choice, running, counts, times, .. } = self;
        let alone = running.len() == 1;
        let Some(newest) = running.last_mut().filter(|newest| !newest.decodes()) else { return Ok(()) };
        let start = Instant::now();
        let Job { request, priors, .. } = &mut newest.job;
        if choice.reconstruct && priors.is_none() {
            let measured = Priors::measure(model, &request.prompt);
            times.model += start.elapsed();
            match measured {
                Ok(measured) => *priors = Some(measured),
                Err(ModelError::NonFinite(error)) => {
                    let at = running.len() - 1;
                    return self.end(vec![(at, Some(error.into()))]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let start = Instant::now();
        let chunk = match cache.prefill_chunk(newest.id) {
            Ok(chunk) => chunk,
            Err(KvError::Refused(Refused::OutOfPages(out))) => {
                times.pages += start.elapsed();
                return if alone { self.give_up(out) } else { Ok(()) };
            }
            Err(error) => return Err(error.into()),
        };
        times.pages += start.elapsed();

        let of = chunk.positions();
        let positions: Vec<u32> = of.clone().map(|p| p as u32).collect();
        let attend = PromptAttend::new(device, model.config(), chunk).with_priors(newest.job.priors.as_ref());
        let tokens = &newest.job.request.prompt[of.clone()];
        let hidden = forward(model, times, tokens, &positions, Timed::new(attend), PromptAttend::finish)?;
        newest.prompted = of.end;
        newest.job.beyond_f16 += hidden.beyond_all();
        if newest.job.preemptions > 0 {
            counts.recomputed += of.len();
        }
        counts.peak_pages = counts.peak_pages.max(held(cache)?);

        let ready = newest.decodes() && newest.caught_up();
        let at = running.len() - 1;
        let ended = match hidden.check(0..of.len()) {
            Err(error) => vec![(at, Some(error.into()))],
            Ok(()) if ready => {
                let last = hidden.len() - model.config().dim;
                self.choose(vec![(at, hidden[last..].to_vec())])?
            }
            Ok(()) => Vec::new(),
        };
        self.end(ended)
    }

    /// One decode step of all requests whose prompts are there.
    fn decode(&mut self) -> Result<(), ServeError> {
        let batch: Vec<RequestId> = self.running.iter().filter(|r| r.decodes()).map(|r| r.id).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let Scheduler { model, device, cache, running, counts, times, .. } = self;
        let start = Instant::now();
        let mut victims = 0;
        let mut newest = |_: OutOfPages, _: &[RequestId]| {
            // The oldest is never given up for another one.
            let left = running.len() - victims;
            (left > 1).then(|| {
                victims += 1;
                running[left - 1].id
            })
        };
        let step = match cache.decode_step_or_preempt(&batch, &mut newest) {
            Ok(step) => step,
            Err(KvError::Refused(Refused::OutOfPages(out))) => {
                times.pages += start.elapsed();
                self.requeue(victims);
                return self.give_up(out);
            }
            Err(error) => return Err(error.into()),
        };
        times.pages += start.elapsed();

        let rows = step.requests().len();
        let (tokens, positions): (Vec<u32>, Vec<u32>) = running[..rows].iter().map(Running::next).unzip();
        let attend = Timed::new(StepAttend::new(device, model.config(), [step]));
        let hidden = forward(model, times, &tokens, &positions, attend, StepAttend::finish)?;
        counts.steps += 1;
        counts.rows += rows;
        counts.peak_batch = counts.peak_batch.max(rows);
        counts.peak_pages = counts.peak_pages.max(held(cache)?);
        let (mut chosen, mut broken) = (Vec::new(), Vec::new());
        let states = hidden.chunks_exact(model.config().dim);
        for (at, (running, state)) in running.iter_mut().zip(states).enumerate() {
            running.fed += 1;
            running.job.beyond_f16 += hidden.beyond(at..at + 1);
            if let Err(error) = hidden.check(at..at + 1) {
                broken.push((at, Some(error.into())));
            } else if running.caught_up() {
                chosen.push((at, state.to_vec()));
            } else {
                counts.recomputed += 1;
            }
        }
        self.requeue(victims);
        let mut ended = self.choose(chosen)?;
        ended.extend(broken);
        self.end(ended)
    }

    /// Chooses the next tokens of running requests from their hidden states. Gives those that end with it, each with what made it fail.
    fn choose(&mut self, mut rows: Vec<(usize, Vec<f32>)>) -> Result<Vec<Ended>, ServeError> {
        let mut ended = Vec::new();
        let start = Instant::now();
        let logits = loop {
            if rows.is_empty() {
                return Ok(ended);
            }
            let hidden: Vec<f32> = rows.iter().flat_map(|(_, hidden)| hidden).copied().collect();
            match self.model.logits(&hidden) {
                Ok(logits) => break logits,
                // The others' logits are theirs alone, so they are asked for again.
                Err(ModelError::NonFinite(error)) => {
                    let at = rows.remove(error.row).0;
                    ended.push((at, Some(self.placed(at, error))));
                }
                Err(error) => return Err(error.into()),
            }
        };
        self.times.model += start.elapsed();

        let start = Instant::now();
        for ((at, _), logits) in rows.iter().zip(logits.chunks_exact(self.model.config().vocab)) {
            match self.running[*at].job.take(logits, &self.options.stop) {
                Ok(false) => {}
                Ok(true) => ended.push((*at, None)),
                Err(error) => ended.push((*at, Some(self.placed(*at, error)))),
            }
        }
        self.times.sampling += start.elapsed();
        Ok(ended)
    }

    /// A failure of a running request's logits, with the position of the token that they follow.
    fn placed(&self, at: usize, error: NonFinite) -> Failed {
        let running = &self.running[at];
        let position = u32::try_from(running.prompted + running.fed).ok().and_then(|n| n.checked_sub(1));
        NonFinite { position, ..error }.into()
    }

    /// Ends running requests, and gives their pages back.
    fn end(&mut self, mut ended: Vec<Ended>) -> Result<(), ServeError> {
        if ended.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        ended.sort_by_key(|&(at, _)| at);
        let ids: Vec<RequestId> = ended.iter().map(|&(at, _)| self.running[at].id).collect();
        self.cache.free(&ids)?;
        for (at, failed) in ended.into_iter().rev() {
            let running = self.running.remove(at);
            self.done.push(running.job.complete(failed));
        }
        self.times.pages += start.elapsed();
        Ok(())
    }

    /// Puts the newest requests, which the cache has freed, back to the front of the queue.
    fn requeue(&mut self, victims: usize) {
        self.counts.preemptions += victims;
        for mut running in self.running.drain(self.running.len() - victims..).rev() {
            running.job.preemptions += 1;
            running.job.beyond_f16 = BeyondF16::default();
            self.waiting.push_front(running.job);
        }
    }

    /// Ends the only request that runs, which lacks pages though it has all of them.
    fn give_up(&mut self, out: OutOfPages) -> Result<(), ServeError> {
        let running = self.running.pop().expect("internal error: one request runs");
        assert!(self.running.is_empty(), "internal error: others could have been given up");
        let need = self.cache.manager().shape().pages - out.free + out.need;
        let failed = self.too_large(running.job.request.tokens(), need);
        self.cache.free(&[running.id])?;
        self.done.push(running.job.complete(Some(failed.into())));
        Ok(())
    }
}

/// A running request that ends, by its place, and what made it fail if it did.
type Ended = (usize, Option<Failed>);

/// Runs the model over rows and ends what they attended through, with the time of each part.
fn forward<A: crate::Attend>(
    model: &Model,
    times: &mut Times,
    tokens: &[u32],
    positions: &[u32],
    mut attend: Timed<A>,
    finish: impl FnOnce(A) -> Result<(), ModelError>,
) -> Result<Hidden, ModelError> {
    let start = Instant::now();
    let hidden = model.forward_rows(tokens, positions, &mut attend)?;
    times.model += start.elapsed().saturating_sub(attend.spent);
    times.attention += attend.spent;
    let start = Instant::now();
    finish(attend.inner)?;
    times.pages += start.elapsed();
    Ok(hidden)
}

/// Pages that lists hold.
fn held(cache: &KvCache) -> Result<usize, KvError> {
    Ok(cache.manager().shape().pages - cache.manager().free_pages()?)
}
