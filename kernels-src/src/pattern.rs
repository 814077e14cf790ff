//! Which cached tokens a query attends to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The head pattern: which tokens of the cache a query of this kernel attends to.
///
/// Positions are the tokens' true positions in the sequence, as stored in the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadPattern {
    /// Every token in the page lists, both tiers.
    #[default]
    Dense,
    /// Tokens at or before the query's position.
    Causal,
    /// Attention sinks (the first tokens of the sequence) and a recent window, at or before the query's
    /// position.
    SinkWindow {
        /// Tokens at positions `0..sinks` are always attended to.
        sinks: i32,
        /// Tokens at positions `query - window + 1 ..= query` are attended to.
        window: i32,
    },
}

impl HeadPattern {
    /// True where a query at `query` attends to a token at `position`.
    #[must_use]
    pub const fn attends(self, query: i32, position: i32) -> bool {
        match self {
            Self::Dense => true,
            Self::Causal => position <= query,
            Self::SinkWindow { sinks, window } => {
                position <= query && (position < sinks || position > query.saturating_sub(window))
            }
        }
    }
}

/// A name that is no head pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a head pattern: write dense, causal or sinkS-windowW, for example sink4-window1024")]
pub struct UnknownPattern(pub String);

impl fmt::Display for HeadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::Causal => f.write_str("causal"),
            Self::SinkWindow { sinks, window } => write!(f, "sink{sinks}-window{window}"),
        }
    }
}

impl FromStr for HeadPattern {
    type Err = UnknownPattern;

    fn from_str(text: &str) -> Result<Self, UnknownPattern> {
        let sink_window = || {
            let (sinks, window) = text.strip_prefix("sink")?.split_once("-window")?;
            let number = |text: &str| text.parse::<i32>().ok().filter(|n| *n >= 0);
            Some(Self::SinkWindow { sinks: number(sinks)?, window: number(window)? })
        };
        match text {
            "dense" => Ok(Self::Dense),
            "causal" => Ok(Self::Causal),
            _ => sink_window().ok_or_else(|| UnknownPattern(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HeadPattern;

    #[test]
    fn patterns_round_trip_through_their_names() {
        for pattern in
            [HeadPattern::Dense, HeadPattern::Causal, HeadPattern::SinkWindow { sinks: 4, window: 1024 }]
        {
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        for bad in ["", "sink", "sink4", "sink4-window", "sink-4-window9", "window9"] {
            assert!(bad.parse::<HeadPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sinks_and_window_are_counted_from_both_ends() {
        let pattern = HeadPattern::SinkWindow { sinks: 2, window: 3 };
        let attended: Vec<i32> = (0..12).filter(|&p| pattern.attends(8, p)).collect();
        assert_eq!(attended, [0, 1, 6, 7, 8]);
        let causal: Vec<i32> = (0..4).filter(|&p| HeadPattern::Causal.attends(1, p)).collect();
        assert_eq!(causal, [0, 1]);
    }
}
