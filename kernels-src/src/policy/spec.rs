//! Policies by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{HeavyHitter, LeanKv, Paper, Policy, PolicyMath, Released, SinkWindow, Uniform};

/// A policy's name in a specialisation: `leankv`, `leankv-late20` (hysteresis of 20 per cent), `leankv-paper`, `leankv-released`,
/// `uniform`, `sink-window`, `heavy-hitter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PolicySpec {
    /// [`LeanKv`].
    LeanKv {
        /// [`LeanKv::late`].
        late: u8,
    },
    /// [`Paper`].
    Paper,
    /// [`Released`].
    Released,
    /// [`Uniform`].
    Uniform,
    /// [`SinkWindow`].
    SinkWindow,
    /// [`HeavyHitter`].
    HeavyHitter,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self::LeanKv { late: 0 }
    }
}

impl PolicySpec {
    /// All of them, ours without hysteresis.
    pub const ALL: [Self; 6] = [
        Self::LeanKv { late: 0 },
        Self::Paper,
        Self::Released,
        Self::Uniform,
        Self::SinkWindow,
        Self::HeavyHitter,
    ];

    /// The policy, for kernels.
    #[must_use]
    pub fn policy(self) -> Box<dyn Policy> {
        match self {
            Self::LeanKv { late } => Box::new(LeanKv { late }),
            Self::Paper => Box::new(Paper),
            Self::Released => Box::new(Released),
            Self::Uniform => Box::new(Uniform),
            Self::SinkWindow => Box::new(SinkWindow),
            Self::HeavyHitter => Box::new(HeavyHitter),
        }
    }

    /// The policy, in plain Rust.
    #[must_use]
    pub fn math(self) -> Box<dyn PolicyMath> {
        match self {
            Self::LeanKv { late } => Box::new(LeanKv { late }),
            Self::Paper => Box::new(Paper),
            Self::Released => Box::new(Released),
            Self::Uniform => Box::new(Uniform),
            Self::SinkWindow => Box::new(SinkWindow),
            Self::HeavyHitter => Box::new(HeavyHitter),
        }
    }
}

/// A name that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a policy: write leankv, leankv-lateN (N per cent, below 100), leankv-paper, leankv-released, uniform, \
     sink-window or heavy-hitter"
)]
pub struct UnknownPolicy(pub String);

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeanKv { late: 0 } => f.write_str("leankv"),
            Self::LeanKv { late } => write!(f, "leankv-late{late}"),
            Self::Paper => f.write_str("leankv-paper"),
            Self::Released => f.write_str("leankv-released"),
            Self::Uniform => f.write_str("uniform"),
            Self::SinkWindow => f.write_str("sink-window"),
            Self::HeavyHitter => f.write_str("heavy-hitter"),
        }
    }
}

impl FromStr for PolicySpec {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        if let Some(known) = Self::ALL.into_iter().find(|known| known.to_string() == text) {
            return Ok(known);
        }
        let late = text.strip_prefix("leankv-late").and_then(|n| n.parse::<u8>().ok());
        match late.filter(|late| (1..100).contains(late)) {
            Some(late) => Ok(Self::LeanKv { late }),
            None => Err(UnknownPolicy(text.to_owned())),
        }
    }
}

impl From<PolicySpec> for String {
    fn from(spec: PolicySpec) -> String {
        spec.to_string()
    }
}

impl TryFrom<String> for PolicySpec {
    type Error = UnknownPolicy;

    fn try_from(text: String) -> Result<Self, UnknownPolicy> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::PolicySpec;

    #[test]
    fn policies_round_trip_through_their_names() {
        for spec in PolicySpec::ALL.into_iter().chain([PolicySpec::LeanKv { late: 20 }]) {
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        for bad in ["", "LeanKV", "leankv-late", "leankv-late0", "leankv-late100", "leankv-late-3", "h2o"] {
            assert!(bad.parse::<PolicySpec>().is_err(), "{bad}");
        }
    }
}
