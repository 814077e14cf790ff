//! What serving took.

use std::time::Duration;

use serde::Serialize;

use super::Completion;
use crate::finite::BeyondF16;

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The model without attention: matrix products, norms, activations, logits.
    pub model: Duration,
    /// Attention and the cache's writes: quantising, inserting, significance.
    pub attention: Duration,
    /// Admission, plans of steps, taking and giving pages, compaction of prompts.
    pub pages: Duration,
    /// Choosing tokens.
    pub sampling: Duration,
    /// All of it, with what is none of these.
    pub wall: Duration,
}

impl Times {
    /// Shares of the wall time: model, attention, pages, sampling and the rest.
    pub fn shares(&self) -> [f64; 4] {
        let of = |part: Duration| part.as_secs_f64() / self.wall.as_secs_f64().max(f64::MIN_POSITIVE);
        let [model, attention, pages] = [of(self.model), of(self.attention), of(self.pages)];
        [model, attention, pages, (1.0 - model - attention - pages).max(0.0)]
    }
}

/// Seconds that 50, 90 and 99 % of the requests stay within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// 50 %.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
}

impl Latencies {
    /// Of these, by nearest rank; zeros of none.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Latencies {
        let mut seconds: Vec<f64> = times.into_iter().map(|t| t.as_secs_f64()).collect();
        seconds.sort_unstable_by(f64::total_cmp);
        let rank = |percent: usize| {
            let at = (seconds.len() * percent).div_ceil(100).saturating_sub(1);
            seconds.get(at).copied().unwrap_or(0.0)
        };
        Latencies { p50: rank(50), p90: rank(90), p99: rank(99) }
    }
}

/// Counts of a scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Decode steps.
    pub(super) steps: usize,
    /// Their rows.
    pub(super) rows: usize,
    /// Most rows of a step.
    pub(super) peak_batch: usize,
    /// Requests given up.
    pub(super) preemptions: usize,
    /// Tokens of prompts and outputs that were computed before.
    pub(super) recomputed: usize,
    /// Most pages held after a step.
    pub(super) peak_pages: usize,
}

/// What serving some requests took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Requests that got all their tokens.
    pub completed: usize,
    /// Requests that turned out not to fit, or not to be finite.
    pub failed: usize,
    /// What did not fit f16, in all requests that are done.
    pub beyond_f16: BeyondF16,
    /// Tokens of the prompts of completed requests.
    pub prompt_tokens: usize,
    /// Tokens that they generated.
    pub generated_tokens: usize,
    /// Tokens that were computed more than once, since their requests had been given up.
    pub recomputed_tokens: usize,
    /// How often a request was given up.
    pub preemptions: usize,
    /// Decode steps.
    pub steps: usize,
    /// Requests of a decode step, in the mean.
    pub mean_batch: f64,
    /// Most requests of a decode step.
    pub peak_batch: usize,
    /// Bytes of all pages.
    pub arena_bytes: usize,
    /// Most bytes of pages that were held after a step.
    pub peak_bytes: usize,
    /// Bytes of the page table, which lies beside the pages.
    pub table_bytes: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// Generated tokens a second.
    pub tokens_per_second: f64,
    /// Tokens a second, prompts and generated ones.
    pub all_tokens_per_second: f64,
    /// From submission to the end.
    pub latency: Latencies,
    /// From submission to the first token.
    pub first_token: Latencies,
    /// Share of the time in the model without attention: matrix products above all.
    pub model_share: f64,
    /// Share of the time in attention and the cache's writes.
    pub attention_share: f64,
    /// Share of the time in admission, plans and pages.
    pub pages_share: f64,
    /// Share of the time in sampling and everything else.
    pub other_share: f64,
}

impl Report {
    pub(super) fn new(
        counts: &Counts,
        times: &Times,
        done: &[Completion],
        [arena_bytes, table_bytes, page_bytes]: [usize; 3],
    ) -> Report {
        let completed: Vec<&Completion> = done.iter().filter(|c| c.failed.is_none()).collect();
        let prompt_tokens: usize = completed.iter().map(|c| c.prompt).sum();
        let generated_tokens: usize = completed.iter().map(|c| c.tokens.len()).sum();
        let mut beyond_f16 = BeyondF16::default();
        done.iter().for_each(|c| beyond_f16 += c.beyond_f16);
        let seconds = times.wall.as_secs_f64();
        let rate = |tokens: usize| tokens as f64 / seconds.max(f64::MIN_POSITIVE);
        let [model_share, attention_share, pages_share, other_share] = times.shares();
        Report {
            completed: completed.len(),
            failed: done.len() - completed.len(),
            beyond_f16,
            prompt_tokens,
            generated_tokens,
            recomputed_tokens: counts.recomputed,
            preemptions: counts.preemptions,
            steps: counts.steps,
            mean_batch: counts.rows as f64 / counts.steps.max(1) as f64,
            peak_batch: counts.peak_batch,
            arena_bytes,
            peak_bytes: counts.peak_pages * page_bytes,
            table_bytes,
            seconds,
            tokens_per_second: rate(generated_tokens),
            all_tokens_per_second: rate(prompt_tokens + generated_tokens),
            latency: Latencies::of(completed.iter().map(|c| c.latency)),
            first_token: Latencies::of(completed.iter().filter_map(|c| c.first_token)),
            model_share,
            attention_share,
            pages_share,
            other_share,
        }
    }
}
