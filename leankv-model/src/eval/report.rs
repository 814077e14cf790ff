//! What an evaluation found.

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use super::score::Score;
use super::tasks::TaskScore;
use crate::cache::KvChoice;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model.
    pub model: String,
    /// The text.
    pub text: String,
    /// Tokens of a chunk of text.
    pub ctx: usize,
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
    /// Predictions.
    pub score: Score,
    /// Bytes, over samples along the scored tokens.
    pub memory: Memory,
    /// Tasks, where they were run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskScore>,
}

impl Report {
    /// How much likelier FP16 finds the text: the difference of mean negative log-likelihoods, in nats a token.
    pub fn loss(&self, config: &ConfigReport) -> f64 {
        let fp16 = self.configs.first().map_or(0.0, |fp16| fp16.score.mean_nll());
        config.score.mean_nll() - fp16
    }
}
