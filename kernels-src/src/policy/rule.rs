//! Which cached tokens a policy is asked about, and with what significance.

use leankv_dsl::lang::*;

use super::{Counting, Peaks};

/// The last position that a query at this position has behind its window of so many tokens, itself included: tokens up to there are judged, and their peaks rise.
#[track_caller]
pub fn last_behind<T: std::ops::Sub<i32, Output = T>>(query: T, window: i32) -> T {
    query - window
}

/// What stands above every policy: the recent window and attention sinks are always high, and a token is judged by the queries that
/// count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    window: i32,
    sinks: i32,
    counting: Counting,
    peaks: Peaks,
}

/// How far a sequence is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Tokens of the prompt.
    pub(crate) prompt: Scalar<i32>,
    /// Tokens of the sequence: the recent window ends here.
    pub(crate) tokens: Scalar<i32>,
    /// Queries at positions below this one have been added to significance.
    asked: Scalar<i32>,
}

impl Progress {
    /// A sequence of `tokens` tokens so far, whose prompt has `prompt`.
    #[track_caller]
    pub(crate) fn new(prompt: Scalar<i32>, tokens: Scalar<i32>) -> Self {
        Self { prompt, tokens, asked: Counting::asked_scalar(tokens, prompt) }
    }

    /// The same, for what a decode step decides: the token that it adds is of the recent window.
    #[track_caller]
    pub(crate) fn one_more(self) -> Self {
        Self { tokens: self.tokens + 1, ..self }
    }
}

/// Tokens, judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    /// Their significance: mean share of attention over the queries that counted, and what their peaks add.
    pub(crate) sig: Tile<f32, 1>,
    /// Their positions.
    pub(crate) positions: Tile<i32, 1>,
    /// Whether the policy decides about them; the others stay as they are.
    pub(crate) open: Tile<bool, 1>,
}

impl Rule {
    /// A window of `window` tokens, `sinks` sinks, queries counted as [`Counting::new`] says, and peaks that weigh so many thousandths.
    pub(crate) fn new(window: i32, sinks: i32, chunk: usize, window_q: usize, peaks: u32) -> Self {
        Self { window, sinks, counting: Counting::new(chunk, window_q), peaks: Peaks::new(peaks) }
    }

    /// Tokens of the recent window.
    pub(crate) fn window(&self) -> i32 {
        self.window
    }

    /// Judges tokens of these words of significance at these positions.
    #[track_caller]
    pub(crate) fn judge(&self, now: Progress, words: Tile<f32, 1>, positions: Tile<i32, 1>) -> Judged {
        let prompt = now.prompt.splat(positions.extents());
        let queries = self.counting.before_tile(now.asked, now.prompt);
        let counted = queries - self.counting.before_tile(positions, prompt);
        let old = positions.le(last_behind(now.tokens - 1, self.window)) & positions.ge(self.sinks);
        let (mass, peak) = self.peaks.parts_tile(words);
        let sig = self.peaks.score_tile(Counting::significance_tile(mass, counted), peak);
        Judged { sig, positions, open: old & counted.gt(0) }
    }
}
