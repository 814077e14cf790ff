//! Which queries count towards significance.

use leankv_dsl::lang::*;

/// Which queries of a sequence count: in every chunk of the prompt the last `window_q`, then every decode query.
///
/// A prompt comes in chunks of `chunk` tokens, the last one may be shorter. A token's significance is the sum over counted queries
/// at or after it, divided by their number: `before(asked) - before(position)`, where queries at positions below [`asked`](Counting::asked)
/// have been added to the sum. A chunk's queries are added with the chunk, a decode query by the step after its own.
///
/// [`before`](Counting::before) and [`before_tile`](Counting::before_tile) are one function in two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    chunk: i32,
    window_q: i32,
}

impl Counting {
    /// Chunks of `chunk` tokens, in each of which the last `window_q` queries count. A chunk has at least one token.
    #[must_use]
    pub fn new(chunk: usize, window_q: usize) -> Self {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let chunk = number(chunk).max(1);
        Self { chunk, window_q: number(window_q).min(chunk) }
    }

    /// The number of counted queries at positions below `x`, in a sequence whose prompt has `prompt` tokens. Neither is negative.
    #[must_use]
    pub fn before(self, x: i32, prompt: i32) -> i32 {
        let in_prompt = x.min(prompt);
        let chunks = in_prompt / self.chunk;
        let first = chunks * self.chunk;
        let uncounted = ((prompt - first).min(self.chunk) - self.window_q).max(0);
        chunks * self.window_q + (in_prompt - first - uncounted).max(0) + (x - in_prompt)
    }

    /// The significance of a token that has accumulated `mass` over `counted` queries: the mean; 0 where that is infinite or no number, so that
    /// what cannot be judged is given up first, and a budget is kept whatever queries and keys hold.
    #[must_use]
    pub fn significance(mass: f32, counted: i32) -> f32 {
        let sig = mass / counted.max(1) as f32;
        if sig < f32::INFINITY { sig } else { 0.0 }
    }

    /// As [`significance`](Counting::significance), in a kernel.
    #[track_caller]
    pub fn significance_tile<const R: usize>(mass: Tile<f32, R>, counted: Tile<i32, R>) -> Tile<f32, R> {
        let sig = mass / counted.max(1).cast::<f32>();
        sig.lt(f32::INFINITY).select(sig, 0.0)
    }

    /// Below which position the queries of a sequence of `tokens` tokens have been added to significance: all of them, but for that of
    /// the last decode step, which the next step adds.
    #[must_use]
    pub fn asked(tokens: i32, prompt: i32) -> i32 {
        tokens.min(prompt.max(tokens - 1))
    }

    /// As [`asked`](Counting::asked), in a kernel.
    #[track_caller]
    pub fn asked_scalar(tokens: Scalar<i32>, prompt: Scalar<i32>) -> Scalar<i32> {
        tokens.min(prompt.max(tokens - 1))
    }

    /// As [`before`](Counting::before), in a kernel.
    #[track_caller]
    pub fn before_tile<const R: usize>(self, x: Tile<i32, R>, prompt: Tile<i32, R>) -> Tile<i32, R> {
        let in_prompt = x.min(prompt);
        let chunks = in_prompt / self.chunk;
        let first = chunks * self.chunk;
        let uncounted = ((prompt - first).min(self.chunk) - self.window_q).max(0);
        chunks * self.window_q + (in_prompt - first - uncounted).max(0) + (x - in_prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::Counting;
    use proptest::prelude::*;

    /// Whether the query at `position` counts, from the definition.
    fn counts(position: i32, prompt: i32, chunk: i32, window_q: i32) -> bool {
        if position >= prompt {
            return true;
        }
        let end = ((position / chunk + 1) * chunk).min(prompt);
        position >= end - window_q
    }

    proptest! {
        #[test]
        fn it_is_the_number_of_counted_queries(
            chunk in 1i32..40, window_q in 0i32..50, prompt in 0i32..130, more in 0i32..20,
        ) {
            let rule = Counting::new(chunk as usize, window_q as usize);
            let mut sum = 0;
            for x in 0..=prompt + more {
                prop_assert_eq!(rule.before(x, prompt), sum);
                sum += i32::from(counts(x, prompt, chunk, window_q));
            }
        }
    }

    #[test]
    fn the_last_decode_query_waits_for_the_next_step() {
        let asked = [0, 1, 5, 6, 7, 8].map(|tokens| Counting::asked(tokens, 6));
        assert_eq!(asked, [0, 1, 5, 6, 6, 7]);
        assert_eq!([0, 1, 2].map(|tokens| Counting::asked(tokens, 0)), [0, 0, 1]);
    }

    #[test]
    fn a_prompt_of_one_chunk_counts_its_last_queries() {
        let rule = Counting::new(512, 64);
        assert_eq!(rule.before(200, 200), 64);
        assert_eq!(rule.before(136, 200), 0);
        assert_eq!(rule.before(137, 200), 1);
        assert_eq!(rule.before(203, 200), 67);
        assert_eq!(rule.before(1024, 1024), 128);
    }
}
