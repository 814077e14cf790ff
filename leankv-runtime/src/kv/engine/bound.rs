//! What a request holds at most, known from counts alone: for a scheduler that decides before a step whom it has room for.

use leankv_dsl::format::{LayerFormats, Tiering};

use super::{Budget, CacheConfig, Thresholds};
use crate::kv::KvError;

impl CacheConfig {
    /// Pages that a request holds at most between calls, until the end of the step that brings its sequence to `tokens` tokens, those of its chunk that wait
    /// included; the first `prompt` of them come as its prompt, at most `piece` in one step. The most of a step that ends a chunk is in it, since the pages of the worst case are taken as the step begins.
    ///
    /// More tokens than [`CacheConfig::max_tokens`] count as so many. In the prompt it grows with `tokens`. After the prompt it is that of the decode steps alone, so that a scheduler can give back what the chunks needed.
    ///
    /// It does not hold for forks and their parents, whose shared tokens no budget can take away, and for requests that share a budget ([`Budget::Shared`]): theirs is as without
    /// one. As a budget is solved for again in a decode step, demotion takes pages before it gives others back; that moment is not in the number (see
    /// [`CacheConfig::defer_demotion`]).
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page, and what [`Thresholds::check`] says.
    pub fn pages_at_most(
        &self,
        formats: &LayerFormats,
        thresholds: &Thresholds,
        [prompt, piece]: [usize; 2],
        tokens: usize,
    ) -> Result<usize, KvError> {
        thresholds.check(self, formats)?;
        let [prompt, tokens] = [prompt, tokens].map(|n| n.min(self.max_tokens));
        let layers = Layers::of(self, formats)?;
        let stored = |tokens: usize| self.stored_at_most(&layers, formats, thresholds.budget, prompt, tokens);
        if tokens > prompt {
            return stored(tokens);
        }
        // Tokens of chunks that have ended; the others take no page.
        let chunk = self.chunk.max(1);
        let ended = if tokens == prompt { tokens } else { tokens / chunk * chunk };
        let most = (chunk - 1).saturating_add(piece);
        let mut pages = stored(ended)?;
        // Of steps that bring as much, the last one takes most.
        let first = ended.saturating_sub(most) / chunk * chunk;
        for before in (first..ended).step_by(chunk) {
            let new = (ended - before).min(most);
            let demotes = thresholds.budget != Budget::None;
            pages = pages.max(layers.while_written(stored(before)?, [before, new], demotes));
        }
        Ok(pages)
    }

    /// Pages of a request of which `tokens` tokens have been seen to.
    fn stored_at_most(
        &self,
        layers: &Layers,
        formats: &LayerFormats,
        budget: Budget,
        prompt: usize,
        tokens: usize,
    ) -> Result<usize, KvError> {
        let all = layers.sum(|tier| tier.most(tokens));
        let counted = tokens.max(prompt);
        let asked = match budget {
            Budget::None | Budget::Shared => return Ok(all),
            Budget::Bytes(bytes) => bytes,
            Budget::Part(part) => self.part_bytes(counted, part),
        };
        // What was solved for has room for so many steps, and a budget is at least what nothing takes away.
        let ahead = self.steps_between(formats, budget, tokens)?;
        let mut bytes = asked.max(self.always_bytes(formats, ahead)?);
        if matches!(budget, Budget::Part(_)) {
            bytes = bytes.max(self.demoted_bytes(formats, counted.min(self.keep_tokens), ahead)?);
        }
        Ok(all.min(bytes / self.page_bytes))
    }
}

/// The layers of a request by tiering.
struct Layers(Vec<Tier>);

/// The lists of all layers of one tiering.
struct Tier {
    /// (layer, KV head) pairs.
    lists: usize,
    /// Tokens of a high page, and of a low one if there is a low tier.
    high: usize,
    low: Option<usize>,
}

impl Tier {
    /// The most pages of one pair of lists that have so many tokens together.
    fn most(&self, tokens: usize) -> usize {
        match (self.low, tokens) {
            (None, _) => tokens.div_ceil(self.high),
            (Some(_), 0 | 1) => tokens,
            // Each list may end with a page that has one token.
            (Some(low), _) => (tokens - 2) / self.high.min(low) + 2,
        }
    }
}

impl Layers {
    fn of(config: &CacheConfig, formats: &LayerFormats) -> Result<Layers, KvError> {
        let of_tiering = |tiering: &Tiering| {
            let [high, low] = config.page_tokens(tiering)?;
            let layers = (0..config.layers).filter(|&layer| formats.of(layer) == tiering).count();
            Ok(Tier { lists: layers * config.kv_heads, high, low: tiering.low.map(|_| low) })
        };
        Ok(Layers(formats.tierings().iter().map(of_tiering).collect::<Result<_, KvError>>()?))
    }

    fn sum(&self, of_list: impl Fn(&Tier) -> usize) -> usize {
        self.0.iter().map(|tier| tier.lists * of_list(tier)).sum()
    }

    /// Pages while `new` tokens are written, beside `before` that take `stored` pages: room for all new ones in either tier, and with `demotes` for all in the low tier.
    fn while_written(&self, stored: usize, [before, new]: [usize; 2], demotes: bool) -> usize {
        // By counts alone.
        let either = self.sum(|tier| {
            let all = before + new;
            let high = all.div_ceil(tier.high);
            high + tier.low.map_or(0, |low| all.div_ceil(low))
        });
        // By what is stored: pages for what comes, and for what may move over, which fills the high pages that there are.
        let more = self.sum(|tier| {
            let moved = usize::from(demotes && before > 0);
            new.div_ceil(tier.high) + tier.low.map_or(0, |low| new.div_ceil(low) + moved)
        });
        let moves = |tier: &Tier| tier.low.map_or(0.0, |low| tier.high as f64 / low as f64);
        let moved = if demotes { self.0.iter().map(moves).fold(0.0, f64::max) } else { 0.0 };
        either.min(stored + more + (stored as f64 * moved).ceil() as usize)
    }
}
