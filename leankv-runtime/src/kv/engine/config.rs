//! What a cache is for.

use leankv_dsl::format::{Interleave, PageLayout, Tiering};
use leankv_kernels::policy::PolicySpec;

use super::Input;
use crate::kv::{CacheShape, KvError};

/// What a cache is for: a model's extents, formats, rules, and how much there is of everything.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    /// Layers of the model.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Query heads that share a KV head.
    pub group: usize,
    /// Elements of a vector.
    pub head_dim: usize,
    /// Element type of queries, keys and values as they come.
    pub input: Input,
    /// Formats of the tiers.
    pub tiering: Tiering,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Pages of the arena.
    pub pages: usize,
    /// Requests that it holds at once.
    pub slots: usize,
    /// Longest sequence.
    pub max_tokens: usize,
    /// Tokens of a chunk of a prompt.
    pub chunk: usize,
    /// How many of a chunk's last queries count towards significance.
    pub window_q: usize,
    /// Tokens of the recent window: always high.
    pub window: usize,
    /// Attention sinks: the first tokens of a sequence, always high.
    pub sinks: usize,
    /// Which tokens stay, in which tier.
    pub policy: PolicySpec,
    /// Parts into which a decode step cuts the pages of a KV head.
    pub splits: usize,
}

impl CacheConfig {
    /// The paper's rules for a model of these extents: K8V4 over K4V2 in the published page, a window of 64 tokens, one split; room for
    /// `slots` requests of `max_tokens` tokens in `pages` pages.
    pub fn new(
        [layers, kv_heads, group, head_dim]: [usize; 4],
        slots: usize,
        max_tokens: usize,
        pages: usize,
    ) -> CacheConfig {
        CacheConfig {
            layers,
            kv_heads,
            group,
            head_dim,
            input: Input::F16,
            tiering: "K8V4/K4V2".parse().expect("this is a tiering's name"),
            page_bytes: 6784,
            pages,
            slots,
            max_tokens,
            chunk: 512,
            window_q: 64,
            window: 64,
            sinks: 0,
            policy: PolicySpec::default(),
            splits: 1,
        }
    }

    /// (layer, KV head) pairs.
    pub fn lists(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Query heads of a layer.
    pub fn query_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// What logits are multiplied by: `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// The page layouts of the high and the low tier.
    ///
    /// # Errors
    /// [`KvError::Shape`] for formats that do not fit the page.
    pub fn layouts(&self) -> Result<(PageLayout, Option<PageLayout>), KvError> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let layout = |format| {
            let (d, bytes) = (number(self.head_dim), number(self.page_bytes));
            PageLayout::derive(format, d, bytes, Interleave::TokenMajor)
                .map_err(|error| KvError::Shape { why: error.to_string() })
        };
        Ok((layout(&self.tiering.high)?, self.tiering.low.as_ref().map(layout).transpose()?))
    }

    /// The extents of the cache's buffers. A row of the page table holds a whole sequence in the tier that packs fewer tokens, and one
    /// chunk more in both tiers.
    ///
    /// # Errors
    /// [`KvError::Shape`], with what to change.
    pub fn shape(&self) -> Result<CacheShape, KvError> {
        let (high, low) = self.layouts()?;
        let high = high.tokens_per_page() as usize;
        let low = low.map_or(high, |low| low.tokens_per_page() as usize);
        if self.max_tokens == 0 || self.chunk == 0 || self.group == 0 || self.splits == 0 || self.window == 0
        {
            return Err(KvError::Shape {
                why: "tokens, chunk, group, splits and window are at least 1".to_owned(),
            });
        }
        if i32::try_from(self.max_tokens.max(self.window).max(self.sinks).max(self.chunk)).is_err() {
            return Err(KvError::Shape { why: "positions have 31 bits".to_owned() });
        }
        let whole = self.max_tokens.div_ceil(high.min(low));
        let shape = CacheShape {
            slots: self.slots,
            layers: self.layers,
            kv_heads: self.kv_heads,
            table_len: whole + self.chunk.div_ceil(high) + self.chunk.div_ceil(low) + 4,
            pages: self.pages,
            page_bytes: self.page_bytes,
            tokens: [high, low],
        };
        shape.check()?;
        Ok(shape)
    }
}

/// Thresholds of a request: multiples of `1 / tokens`. More significant than `high` stays high, less than `low` is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// For every layer and KV head that is not named below.
    pub all: [f32; 2],
    /// For single layers, or KV heads of them: layer, KV head or all of the layer's, high and low. Later ones win.
    pub overrides: Vec<(usize, Option<usize>, [f32; 2])>,
    /// Bytes that the pages of the request may take at the end of a chunk of its prompt. The loosest thresholds that keep to it are then
    /// solved for, the same for all layers and KV heads, and take the place of those above.
    pub budget: Option<usize>,
}

impl Thresholds {
    /// One pair for all.
    pub fn new(high: f32, low: f32) -> Thresholds {
        Thresholds { all: [high, low], overrides: Vec::new(), budget: None }
    }

    /// Thresholds that are solved for, so that the pages of the request take at most `bytes` at the end of every chunk of its prompt.
    /// Before the first chunk ends everything is high.
    pub fn within(bytes: usize) -> Thresholds {
        Thresholds { budget: Some(bytes), ..Thresholds::new(0.0, 0.0) }
    }

    /// Another pair for a layer, or for one KV head of it.
    #[must_use]
    pub fn with(mut self, layer: usize, kv_head: Option<usize>, high: f32, low: f32) -> Thresholds {
        self.overrides.push((layer, kv_head, [high, low]));
        self
    }

    /// `[layers, kv_heads, 2]`.
    pub(super) fn expand(&self, config: &CacheConfig) -> Result<Vec<f32>, KvError> {
        let mut out = self.all.repeat(config.lists());
        for &(layer, kv_head, pair) in &self.overrides {
            let heads = match kv_head {
                Some(head) => head..head + 1,
                None => 0..config.kv_heads,
            };
            if layer >= config.layers {
                let (what, expected) = ("a layer of an override", config.layers);
                return Err(KvError::Length { what, expected, got: layer });
            }
            if heads.end > config.kv_heads {
                let (what, expected) = ("a KV head of an override", config.kv_heads);
                return Err(KvError::Length { what, expected, got: heads.start });
            }
            for head in heads {
                out[(layer * config.kv_heads + head) * 2..][..2].copy_from_slice(&pair);
            }
        }
        Ok(out)
    }
}
