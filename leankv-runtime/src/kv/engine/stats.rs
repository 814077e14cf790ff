//! What requests hold.

use crate::kv::CacheShape;
use leankv_dsl::format::LayerFormats;
use leankv_dsl::lang::attention::{Lengths, PerTier};

/// One (layer, KV head) of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadStats {
    /// Tokens in the high tier.
    pub high: usize,
    /// Tokens in the low tier.
    pub low: usize,
    /// Tokens of the sequence that were dropped.
    pub pruned: usize,
    /// Pages held in both tiers, shared ones included.
    pub pages: usize,
    /// Places for tokens in those pages that hold none, in tokens of their tier.
    pub empty: usize,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestStats {
    /// Formats of its layers.
    pub formats: LayerFormats,
    /// Tokens of the sequence so far.
    pub tokens: usize,
    /// `[layers, kv_heads]`.
    pub heads: Vec<HeadStats>,
    /// Bytes of all its pages and of its rows of the page table: everything counted.
    pub bytes: usize,
    /// Bytes of all its pages: what budgets count.
    pub page_bytes: usize,
    /// Bytes of pages that its budget asks for. [`Budget::Part`](super::Budget::Part) does not keep to it in short sequences: see
    /// [`CacheConfig::keep_tokens`](super::CacheConfig::keep_tokens).
    pub asked_bytes: Option<usize>,
    /// Bytes that an FP16 cache without any bookkeeping would take.
    pub fp16_bytes: usize,
}

impl RequestStats {
    pub(super) fn new(
        shape: &CacheShape,
        (formats, page_tokens): (LayerFormats, &[[usize; 2]]),
        fp16_bytes: usize,
        tokens: usize,
        lengths: &[i32],
        held: &[i32],
    ) -> RequestStats {
        let heads: Vec<HeadStats> = (0..shape.lists())
            .map(|list| {
                let count = |n: i32| usize::try_from(n).unwrap_or(0);
                let (lengths, held) = (Lengths::get(lengths, list), PerTier::get(held, list));
                let (high, low) = (count(lengths.high), count(lengths.low));
                let pages = [held.high, held.low].map(count);
                let [in_high, in_low] = page_tokens[list];
                let room = pages[0] * in_high + pages[1] * in_low;
                HeadStats {
                    high,
                    low,
                    pruned: tokens.saturating_sub(high + low),
                    pages: pages.iter().sum(),
                    empty: room.saturating_sub(high + low),
                }
            })
            .collect();
        let pages: usize = heads.iter().map(|head| head.pages).sum();
        RequestStats {
            formats,
            tokens,
            bytes: pages * shape.page_bytes + shape.lists() * shape.table_len * size_of::<i32>(),
            page_bytes: pages * shape.page_bytes,
            asked_bytes: None,
            fp16_bytes,
            heads,
        }
    }

    /// Whether the pages take what was asked for, or less.
    pub fn keeps_budget(&self) -> bool {
        self.asked_bytes.is_none_or(|asked| self.page_bytes <= asked)
    }

    /// How many times fewer bytes than FP16.
    pub fn compression(&self) -> f64 {
        self.fp16_bytes as f64 / self.bytes.max(1) as f64
    }

    /// Share of the places for tokens that hold none.
    pub fn waste(&self) -> f64 {
        let empty: usize = self.heads.iter().map(|head| head.empty).sum();
        let kept: usize = self.heads.iter().map(|head| head.high + head.low).sum();
        empty as f64 / (empty + kept).max(1) as f64
    }
}
