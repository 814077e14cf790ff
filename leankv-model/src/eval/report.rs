//! What an evaluation found.

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use super::score::{Figures, Score};
use super::tasks::TaskScore;
use crate::cache::KvChoice;
use crate::finite::BeyondF16;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model.
    pub model: String,
    /// The text.
    pub text: String,
    /// Tokens of a chunk of text.
    pub ctx: usize,
    /// Tokens of a chunk of a prompt, where a prompt has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_chunk: Option<usize>,
    /// The [fingerprint](crate::statistics::Statistics::fingerprint) of what is known of the model's attention, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<String>,
    /// Layers of the model.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// One for each cache, FP16 first.
    pub configs: Vec<ConfigReport>,
}

/// One cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// What was asked for.
    pub choice: KvChoice,
    /// Means over the scored tokens; none where there are tasks alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Predictions, token by token.
    pub score: Score,
    /// Keys, values and queries that did not fit f16, in all chunks.
    pub beyond_f16: BeyondF16,
    /// Bytes, over samples along the scored tokens.
    pub memory: Memory,
    /// Tasks, where they were run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskScore>,
}
