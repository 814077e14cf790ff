//! What a request may hold: thresholds, or a budget that solves for them.

use leankv_dsl::format::LayerFormats;
use leankv_kernels::policy::PolicySpec;

use super::CacheConfig;
use crate::kv::KvError;

/// Thresholds of a request: multiples of `1 / tokens`. More significant than `high` stays high, less than `low` is dropped.
///
/// A threshold is a finite number of at least 0. 0 is the loosest: nothing falls below it. `tokens` or more is the strictest: everything does, since a
/// significance is at most 1. `low` is at most `high`, but for [`PolicySpec::HeavyHitter`], whose `high` is the number of tokens to keep; one below
/// sinks and window keeps just those. [`KvCache::admit`](super::KvCache::admit) refuses the rest: see [`Thresholds::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// For every layer and KV head that is not named below.
    pub all: [f32; 2],
    /// For single layers, or KV heads of them: layer, KV head or all of the layer's, high and low. Later ones win.
    pub overrides: Vec<(usize, Option<usize>, [f32; 2])>,
    /// What the request's pages may take. The loosest thresholds that keep to it are solved for at the end of every chunk of the prompt and, as
    /// the sequence grows, after every [`CacheConfig::solve_every`] steps; one rung of a ladder holds for all layers and KV heads, and the thresholds of a layer stand to it as its formats say
    /// ([`CacheConfig::lift_of`], [`CacheConfig::gap_of`]). They take the place of those above.
    pub budget: Budget,
}

/// What the pages of a request may take, at the end of every chunk of its prompt and after every step. They are counted in whole pages, with room
/// for the steps until thresholds are solved for again. While a chunk of a prompt is under way its pages come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Budget {
    /// Anything: thresholds are given.
    #[default]
    None,
    /// So many bytes, and never more; fewer than [`CacheConfig::least_bytes`] are refused when the request is admitted. Of a request that was forked,
    /// and of its forks, what is frozen may come on top: it lies in pages that they share.
    Bytes(usize),
    /// The bytes of the sequence in FP16 over this number, and of the whole prompt while that is still coming; but what
    /// [`CacheConfig::keep_tokens`] tokens take, or all tokens of a shorter sequence, is there in any case. It is finite and above 0. What came of it is in
    /// [`RequestStats::asked_bytes`](super::RequestStats::asked_bytes).
    Part(f32),
    /// A share of [`CacheConfig::shared_budget`], which is not 0. Requests with this budget have the same rung of the ladder: the same high threshold, in layers of their usual
    /// formats.
    Shared,
}

impl Thresholds {
    /// One pair for all.
    pub fn new(high: f32, low: f32) -> Thresholds {
        Thresholds { all: [high, low], overrides: Vec::new(), budget: Budget::None }
    }

    /// Thresholds that are solved for, so that the pages of the request take at most `bytes`.
    pub fn within(bytes: usize) -> Thresholds {
        Thresholds::solved(Budget::Bytes(bytes))
    }

    /// Thresholds that are solved for. Before the first chunk ends everything is high.
    pub fn solved(budget: Budget) -> Thresholds {
        Thresholds { budget, ..Thresholds::new(0.0, 0.0) }
    }

    /// Another pair for a layer, or for one KV head of it.
    #[must_use]
    pub fn with(mut self, layer: usize, kv_head: Option<usize>, high: f32, low: f32) -> Thresholds {
        self.overrides.push((layer, kv_head, [high, low]));
        self
    }

    /// Whether a request in these formats can have them.
    ///
    /// # Errors
    /// [`KvError::Threshold`] for a threshold that is negative, infinite or no number, and for a low one above the high one of its pair where that
    /// has no meaning; [`KvError::NoHead`] for an override of a layer or a KV head that does not exist; [`KvError::Budget`] for a budget that
    /// is no number above 0.
    pub fn check(&self, config: &CacheConfig, formats: &LayerFormats) -> Result<(), KvError> {
        // Policies with one cut, or a count, read each number by itself.
        let ordered = formats.has_low() && config.policy.stock() != Some(PolicySpec::HeavyHitter);
        let pairs = std::iter::once(&self.all).chain(self.overrides.iter().map(|(_, _, pair)| pair));
        for &[high, low] in pairs {
            let number = |x: f32| x.is_finite() && x >= 0.0;
            let why = match (number(high) && number(low), ordered && low > high) {
                (false, _) => "a threshold is a finite number of at least 0",
                (true, true) => "the low threshold is above the high one",
                (true, false) => continue,
            };
            return Err(KvError::Threshold { high, low, why });
        }
        let (layers, kv_heads) = (config.layers, config.kv_heads);
        for &(layer, kv_head, _) in &self.overrides {
            if layer >= layers || kv_head.is_some_and(|head| head >= kv_heads) {
                return Err(KvError::NoHead { layer, kv_head, layers, kv_heads });
            }
        }
        let why = match self.budget {
            Budget::Part(part) if !(part.is_finite() && part > 0.0) => {
                format!("FP16 over {part}, and a part is of a finite number above 0")
            }
            Budget::Bytes(0) => "0 bytes".to_owned(),
            Budget::Shared if config.shared_budget == Some(0) => "a share of 0 bytes".to_owned(),
            Budget::None | Budget::Bytes(_) | Budget::Part(_) | Budget::Shared => return Ok(()),
        };
        Err(KvError::Budget { why })
    }

    /// `[layers, kv_heads, 2]`, of thresholds that were checked.
    pub(super) fn expand(&self, config: &CacheConfig) -> Vec<f32> {
        let mut out = self.all.repeat(config.lists());
        for &(layer, kv_head, pair) in &self.overrides {
            let heads = match kv_head {
                Some(head) => head..head + 1,
                None => 0..config.kv_heads,
            };
            for head in heads {
                out[(layer * config.kv_heads + head) * 2..][..2].copy_from_slice(&pair);
            }
        }
        out
    }
}
