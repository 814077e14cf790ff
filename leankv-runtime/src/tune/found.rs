//! What a tuner found.

use std::collections::BTreeMap;
use std::fmt;

use leankv_dsl::lang::Settings;
use serde::Serialize;

use super::race::Ratio;

/// One candidate and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The values of the fields that are tuned.
    pub set: Settings,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// It is right and was timed, or its time modelled.
    Timed {
        /// A launch, in microseconds: of the first candidate the median of its measurements, of others by their ratios to it.
        microseconds: f64,
        /// Its time over that of the best candidate until then, in pairs; 1 for the first one.
        beside_best: Ratio,
        /// Whether it became the best one.
        best: bool,
    },
    /// Its code and grid are those of a candidate before it.
    SameCode {
        /// That one.
        like: Settings,
    },
    /// It cannot be built, faults, does not end, or leaves something wrong.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a tuner found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found<S> {
    /// The kernel.
    pub kernel: String,
    /// The device, as tables name it.
    pub device: String,
    /// Whether times are modelled, not measured.
    pub modelled: bool,
    /// The fastest specialisation; the one that was given, where none is faster beyond the noise.
    pub best: S,
    /// Its values of the fields that are tuned.
    pub set: Settings,
    /// The values of the others.
    pub given: Settings,
    /// The time of the given specialisation over that of the best one, in a race of their own.
    pub gain: Ratio,
    /// Every candidate that was looked at, in order; the first one is the given specialisation.
    pub trials: Vec<Trial>,
    /// Points of the space, valid ones or not.
    pub candidates: usize,
    /// Whether the time was over before the search.
    pub cut_short: bool,
    /// Sizes of the workload, as the caller names them.
    pub sizes: BTreeMap<String, usize>,
    /// Of the best specialisation's tile IR.
    pub(super) fingerprint: String,
}

impl<S> Found<S> {
    /// Candidates that were timed.
    #[must_use]
    pub fn timed(&self) -> usize {
        self.trials.iter().filter(|trial| matches!(trial.outcome, Outcome::Timed { .. })).count()
    }
}

impl<S> fmt::Display for Found<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.modelled { "modelled" } else { "measured" };
        write!(
            f,
            "{} on {}: {} of {} candidates {what}; ",
            self.kernel,
            self.device,
            self.timed(),
            self.candidates
        )?;
        let Ratio { median, low, high } = self.gain;
        if low > 1.0 {
            write!(f, "{} is {median:.3} x as fast", written(&self.set))?;
            if self.modelled { Ok(()) } else { write!(f, " ({low:.3} to {high:.3})") }
        } else {
            write!(f, "none is faster than {}", written(&self.set))
        }
    }
}

/// Settings as `--set` takes them: `name=value,name=value`.
pub fn written(settings: &Settings) -> String {
    settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}
