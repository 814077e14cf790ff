//! Bit widths for a model: formats of its own for every layer, keys and values apart.
//!
//! 1. *Sensitivity*: the KL divergence from FP16 that each (layer, keys or values, width) adds by itself, with the real cache: many caches take a step together and
//!    share the weights.
//! 2. *Front*: the exact Pareto front of the sum of these losses against true bytes, scales, significance and positions included ([`front`]).
//! 3. *Parts*: points of the front as low tiers, measured with all layers together, for several parts of FP16, beside the default formats.
//! 4. *Held out*: the best of each part and the default formats, measured on texts that no choice was made on.
//!
//! Nothing is taken that was not measured, and where formats by layer do not beat the default ones on texts that no choice was made on, these are kept. Every measurement is a line of a journal, so that a run that
//! was cut off goes on from there.

mod front;
mod search;
mod sensitivity;
mod space;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use self::front::{FrontPoint, LayerOption, front};
pub use self::search::{Progress, speed, tune};
pub use self::sensitivity::Added;
pub use self::space::{Codes, Part, Space};
use crate::cache::{KvChoice, Limit};
use crate::eval::{Estimate, EvalError, JournalError};
use serde::{Deserialize, Serialize};

/// What is tuned, and on what.
#[derive(Clone, Debug)]
pub struct Tune {
    /// Of the model, to tell runs apart: its name and its file's length.
    pub model: String,
    /// What every chunk of a text starts with, if the model wants that.
    pub bos: Option<u32>,
    /// The texts that choices are made on, of several kinds if they can be had: what looks best on one kind alone may be bad for another.
    pub on: Vec<TuneText>,
    /// Other texts, or other parts of them, on which what was found is measured at the end.
    pub held: Vec<TuneText>,
    /// No context is longer.
    pub most_ctx: usize,
    /// What is chosen among.
    pub space: Space,
    /// Parts of FP16 that low tiers are chosen for: 8 for an eighth. Each above 1.
    pub parts: Vec<f32>,
    /// How much is measured.
    pub effort: Effort,
    /// Most that predictions may diverge from FP16's where no part is asked for, in nats a token.
    pub max_kl: f64,
    /// The second round of sensitivities is left out where the first one ends after this.
    pub time: Option<Duration>,
    /// Where every trial is kept as it comes.
    pub trials: Option<PathBuf>,
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuneText {
    /// Its name, to tell runs apart.
    pub name: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// Two widths of every side, short contexts.
    Quick,
    /// All widths, longer contexts, and a second round of sensitivities around what the first one found.
    Full,
}

/// When a trial was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// One side of one layer against the widest codes.
    Sensitivity,
    /// One side of one layer against a point of the front.
    Around,
    /// All layers, a part of FP16.
    Parts,
    /// On the text that no choice was made on.
    Held,
}

/// What a cache came to on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Scored tokens.
    pub tokens: usize,
    /// KL divergence from FP16's predictions, in nats a token. In files: mean and standard error.
    #[serde(with = "pair")]
    pub kl: Estimate,
    /// Perplexity over FP16's. In files: mean and standard error.
    #[serde(with = "pair")]
    pub over_fp16: Estimate,
    /// How many times fewer true bytes than FP16.
    pub compression: f64,
}

/// An estimate in files, `[mean, se]`, so that a person can read them.
mod pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::eval::Estimate;

    pub(super) fn serialize<S: Serializer>(estimate: &Estimate, to: S) -> Result<S::Ok, S::Error> {
        [estimate.mean, estimate.se].serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Estimate, D::Error> {
        <[f64; 2]>::deserialize(from).map(|[mean, se]| Estimate { mean, se })
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// When.
    pub stage: Stage,
    /// The cache.
    pub cache: KvChoice,
    /// What it came to.
    pub measured: Measured,
}

/// What was found for a part of FP16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The cache: formats by layer, or the default ones where none was found that beats them.
    pub cache: KvChoice,
    /// On the texts that choices were made on.
    pub on: Measured,
    /// On those that no choice was made on.
    pub held: Measured,
    /// The default formats, the same in all layers, for the same part of FP16.
    pub default: KvChoice,
    /// What they came to on the texts that no choice was made on.
    pub default_held: Measured,
}

/// What was found for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The texts that choices were made on.
    pub texts: Vec<String>,
    /// Those that none was made on.
    pub held: Vec<String>,
    /// How much was measured.
    pub effort: Effort,
    /// Most that the cache may diverge where no part is asked for.
    pub max_kl: f64,
    /// One for every part of FP16 that was tried, from the largest to the smallest.
    pub points: Vec<Point>,
}

/// All of a run.
#[derive(Clone, Debug)]
pub struct Found {
    /// To keep.
    pub tuned: Tuned,
    /// What every side of every layer adds by itself.
    pub added: Vec<Added>,
    /// Every measurement, in the order in which it was made.
    pub trials: Vec<Trial>,
    /// The time was over before all that the effort asks for was measured.
    pub cut_short: bool,
}

/// Why tuning failed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// Nothing to choose, or something that cannot be.
    #[error("{0}")]
    Space(String),
    /// A measurement.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Tuned {
    /// The cache for a part of FP16 (8 for an eighth), or without one the smallest whose KL divergence was at most [`max_kl`](Tuned::max_kl) on the texts that no choice was made
    /// on; the one nearest to FP16 where none is so near. None where no part was tried.
    ///
    /// For a part that was tried it is what was found, which may be the default formats. Between two parts for which formats by layer were found it is those of
    /// the nearer one; elsewhere the default formats.
    #[must_use]
    pub fn choice(&self, part: Option<f32>) -> Option<KvChoice> {
        let kl = |point: &&Point| point.held.kl.mean;
        let Some(part) = part else {
            let near = self.points.iter().filter(|point| kl(point) <= self.max_kl);
            let smallest = near.max_by(|a, b| a.held.compression.total_cmp(&b.held.compression));
            let point = smallest.or_else(|| self.points.iter().min_by(|a, b| kl(a).total_cmp(&kl(b))))?;
            return Some(point.cache.clone());
        };
        let by_part = |a: &&Point, b: &&Point| a.part().total_cmp(&b.part());
        let below = self.points.iter().filter(|point| point.part() <= part).max_by(by_part);
        let above = self.points.iter().filter(|point| point.part() >= part).min_by(by_part);
        let cache = match (below, above) {
            (Some(below), Some(above)) if below.is_by_layer() && above.is_by_layer() => {
                let nearer = if part / below.part() <= above.part() / part { below } else { above };
                &nearer.cache
            }
            _ => &self.points.first()?.default,
        };
        Some(KvChoice { limit: Limit::Part(part), ..cache.clone() })
    }
}

impl Point {
    /// The part of FP16 that it is for: 8 for an eighth.
    #[must_use]
    pub fn part(&self) -> f32 {
        match self.cache.limit {
            Limit::Part(part) => part,
            Limit::Calibrated | Limit::Thresholds(_) => 1.0,
        }
    }

    /// Whether it is formats by layer, and not the default ones.
    #[must_use]
    pub fn is_by_layer(&self) -> bool {
        self.cache != self.default
    }

    /// Whether it diverges less than the default formats on the texts that no choice was made on, by more than two standard errors.
    #[must_use]
    pub fn is_better(&self) -> bool {
        self.held.kl.mean + 2.0 * self.held.kl.se < self.default_held.kl.mean
    }
}
