//! What caches hold: true bytes, and what counting codes alone would give.

use leankv_dsl::format::{PageLayout, Tiering};
use leankv_runtime::kv::{CacheConfig, RequestStats};
use serde::{Deserialize, Serialize};

/// Sums over samples of requests; two of them add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes of whole pages and of rows of the page table.
    pub bytes: f64,
    /// Bytes that FP16 takes without any bookkeeping.
    pub fp16_bytes: f64,
    /// Bytes of codes alone, as published figures count.
    pub payload_bytes: f64,
    /// Tokens of sequences, one for every layer and KV head.
    pub tokens: f64,
    /// `[layers, kv_heads]`.
    pub heads: Vec<HeadMemory>,
}

/// Sums of one (layer, KV head).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeadMemory {
    /// Tokens in the high tier.
    pub high: f64,
    /// Tokens in the low tier.
    pub low: f64,
    /// Dropped tokens.
    pub pruned: f64,
    /// Bytes of pages.
    pub bytes: f64,
}

/// Bytes of a token's codes in the high and in the low tier of a layer. They are whole bits, so that sums are exact: in any order, and after a
/// journal's decimal digits.
fn payload_bytes(config: &CacheConfig, tiering: &Tiering) -> [f64; 2] {
    let bytes = |layout: PageLayout| layout.account().payload_bytes_per_token();
    // A cache that was opened has layouts.
    let fp16 = (4 * config.head_dim) as f64;
    config.layouts_of(tiering).map_or([fp16; 2], |(high, low)| [bytes(high), low.map_or(0.0, bytes)])
}

impl Memory {
    /// One request as it is now.
    pub fn of(stats: &RequestStats, config: &CacheConfig) -> Memory {
        let of_layer = |layer| payload_bytes(config, stats.formats.of(layer));
        let in_layers: Vec<[f64; 2]> = (0..config.layers).map(of_layer).collect();
        let payload = |(list, h): (usize, &HeadMemory)| {
            let [in_high, in_low] = in_layers[list / config.kv_heads];
            h.high * in_high + h.low * in_low
        };
        let head = |h: &leankv_runtime::kv::HeadStats| HeadMemory {
            high: h.high as f64,
            low: h.low as f64,
            pruned: h.pruned as f64,
            bytes: (h.pages * config.page_bytes) as f64,
        };
        let heads: Vec<HeadMemory> = stats.heads.iter().map(head).collect();
        Memory {
            bytes: stats.bytes as f64,
            fp16_bytes: stats.fp16_bytes as f64,
            payload_bytes: heads.iter().enumerate().map(payload).sum(),
            tokens: (stats.tokens * heads.len()) as f64,
            heads,
        }
    }

    /// Both.
    pub fn add(&mut self, other: &Memory) {
        self.bytes += other.bytes;
        self.fp16_bytes += other.fp16_bytes;
        self.payload_bytes += other.payload_bytes;
        self.tokens += other.tokens;
        self.heads.resize(other.heads.len().max(self.heads.len()), HeadMemory::default());
        for (mine, other) in self.heads.iter_mut().zip(&other.heads) {
            mine.high += other.high;
            mine.low += other.low;
            mine.pruned += other.pruned;
            mine.bytes += other.bytes;
        }
    }

    /// How many times fewer bytes than FP16.
    pub fn compression(&self) -> f64 {
        self.fp16_bytes / self.bytes.max(1.0)
    }

    /// The same, counting codes alone.
    pub fn payload_compression(&self) -> f64 {
        self.fp16_bytes / self.payload_bytes.max(1.0)
    }

    /// True bytes of one token of one KV head.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes / self.tokens.max(1.0)
    }

    /// Shares of tokens that are high, low and dropped.
    pub fn shares(&self) -> [f64; 3] {
        let sum = |of: fn(&HeadMemory) -> f64| self.heads.iter().map(of).sum::<f64>();
        [sum(|h| h.high), sum(|h| h.low), sum(|h| h.pruned)].map(|n| n / self.tokens.max(1.0))
    }

    /// Every (layer, KV head)'s pages as a part of FP16.
    pub fn head_parts(&self) -> Vec<f64> {
        let fp16 = self.fp16_bytes / self.heads.len().max(1) as f64;
        self.heads.iter().map(|h| h.bytes / fp16.max(1.0)).collect()
    }
}
