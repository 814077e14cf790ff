//! Which cached tokens a query attends to.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::HeadPattern;

    #[test]
    fn sinks_and_window_are_counted_from_both_ends() {
        let pattern = HeadPattern::SinkWindow { sinks: 2, window: 3 };
        let attended: Vec<i32> = (0..12).filter(|&p| pattern.attends(8, p)).collect();
        assert_eq!(attended, [0, 1, 6, 7, 8]);
        let causal: Vec<i32> = (0..4).filter(|&p| HeadPattern::Causal.attends(1, p)).collect();
        assert_eq!(causal, [0, 1]);
    }
}
