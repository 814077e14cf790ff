//! Decode attention over a paged, two-tier cache.
//!
//! One program serves the whole query group of one KV head and one split of its pages, so each key and value is read and decoded
//! once. A second kernel merges the splits in order. With FP16 as the only format this is the paged baseline.

use leankv_dsl::format::{KvFormat, Tiering};
use leankv_dsl::lang::attention::{
    AttentionHooks, Codecs, KvBlock, KvOperand, OnlineSoftmax, Site, Tiers, Work,
};
use leankv_dsl::lang::*;

use crate::pattern::HeadPattern;

/// Tierings whose kernels are tested at every declared specialisation.
fn tierings() -> Vec<Tiering> {
    let single = |format: KvFormat| Tiering { high: format, low: None };
    let mut all: Vec<Tiering> = KvFormat::standard().into_iter().map(single).collect();
    let two = |high: &str, low: &str| {
        let parse = |name: &str| name.parse().expect("these are names of formats");
        Tiering { high: parse(high), low: Some(parse(low)) }
    };
    all.extend([two("K8V4", "K4V2"), two("K8V4g1.2", "K4V2g2.4")]);
    all
}

/// Specialisation of [`decode_attention`](fn@decode_attention).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
#[spec(valid = |s| s.group >= 1 && s.group <= 16 && s.splits >= 1)]
pub struct DecodeSpec {
    /// Formats of the tiers, such as `K8V4/K4V2`.
    #[spec(default = tierings()[8], values = tierings())]
    pub tiering: Tiering,
    /// Elements of a vector.
    #[spec(default = 128, values = [128])]
    pub head_dim: usize,
    /// Query heads that share a KV head.
    #[spec(default = 4, values = [1, 4, 8])]
    pub group: usize,
    /// Bytes of a page.
    #[spec(default = 6784)]
    pub page_bytes: usize,
    /// Tokens of a block: one turn of the loop.
    #[spec(default = 32)]
    pub block: usize,
    /// Parts into which the pages of a work item are cut.
    #[spec(default = 1, values = [1, 4])]
    pub splits: usize,
    /// Which tokens are attended to.
    #[spec(default = HeadPattern::Dense)]
    pub pattern: HeadPattern,
    /// Whether the step's significance is added to the tokens: by decode attention itself when there is one split, else by
    /// [`merge_splits`](fn@merge_splits). Logits are kept for that.
    #[spec(default = false)]
    pub significance: bool,
    /// Depth of the software pipeline.
    #[spec(default = 2)]
    pub stages: usize,
}

impl DecodeSpec {
    #[track_caller]
    fn tiers(&self, codecs: &dyn Codecs) -> Option<Tiers> {
        Tiers::new(codecs, &self.tiering, self.head_dim, self.page_bytes, self.block)
    }
}

/// Which tokens a pattern attends to.
#[track_caller]
fn attends(pattern: HeadPattern, position: Scalar<i32>, keys: Tile<i32, 1>) -> Option<Tile<bool, 1>> {
    match pattern {
        HeadPattern::Dense => None,
        HeadPattern::Causal => Some(keys.le(position)),
        HeadPattern::SinkWindow { sinks, window } => {
            // Positions are not negative, so the difference does not wrap.
            let recent = (position - keys).lt(window);
            Some(keys.le(position) & (keys.lt(sinks) | recent))
        }
    }
}

/// What decode attention leaves for the merge: one part per split.
#[derive(Clone, Copy, Debug, KernelArg)]
pub struct Partials {
    /// Largest logits, `[requests, query_heads, splits]`; minus infinity for an empty split.
    max: ViewMut<f32, 3>,
    /// Sums of `exp(logit - max)`, `[requests, query_heads, splits]`.
    sum: ViewMut<f32, 3>,
    /// Sums of `exp(logit - max) * value`, `[requests, query_heads, splits, head_dim]`.
    #[arg(align = 16)]
    acc: ViewMut<f32, 4>,
    /// Scaled and masked logits, `[requests, query_heads, tokens]`: high tier's tokens first; written with `significance` only, else of extent 0.
    logits: ViewMut<f32, 3>,
}

/// Attention of one query token of each request over the cache, one split of it.
///
/// * Shapes: `q` is `[requests, query_heads, head_dim]` after RoPE, query heads of a KV head next to each other; `query_positions` is
///   `[requests]`; `scale` multiplies the logits; `kv` and `out` as their types say.
/// * Grid: `[kv_heads, requests, splits]`.
/// * Values: a request without any token gives minus infinity and zeros. Logits and sums are f32; weights are rounded to f16 before they meet
///   values, and queries of another type before they meet keys.
/// * Significance of a token is its probability, maximised over the query group (LeanKV, significance in the decode phase). With one
///   split and `significance` it is added here, except to frozen tokens.
/// * Errors: formats that do not fit the page are refused at specialisation.
/// * Source: LeanKV, attention over differentiated pages; online softmax of flash attention; split-KV of flash decoding.
#[kernel]
pub fn decode_attention<C: Codecs, H: AttentionHooks, K: KvOperand, E: Float>(
    #[comptime] spec: DecodeSpec,
    #[arg(align = 16)] q: View<E, 3>,
    query_positions: View<i32, 1>,
    scale: Scalar<f32>,
    kv: K,
    out: Partials,
    codecs: C,
    hooks: H,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (head, request) = (program_id(0), program_id(1));
    let at = Work { head, slot: kv.slot(request), split: program_id(2), splits: spec.splits };
    let position = query_positions.get([request]);
    let q = q.tile((request, head, 0), [1, spec.group, spec.head_dim]).load().squeeze(0);
    let q = hooks.query(q.cast());

    let mut online = OnlineSoftmax::new(spec.group, spec.head_dim);
    for tier in tiers.iter() {
        let first = if comptime(tier.is_low()) { kv.length(at, false) } else { lit(0) };
        for block in kv.blocks(at, tier, spec.stages) {
            let (queries, members) = (position.splat([spec.group]), iota(spec.group));
            let site = Site { request, head, queries, members, keys: block.positions() };
            let valid = block.valid();
            let seen = attends(spec.pattern, position, site.keys).map_or(valid, |seen| seen & valid);
            let seen = seen.expand_dims(0);
            let seen = hooks.mask(&site).map_or(seen, |mask| mask & seen);
            let logits = hooks.key_logits(block.logits(q), q, &site) * scale;
            let logits = hooks.logits(logits, &site);
            let logits = seen.broadcast(logits.extents()).select(logits, f32::NEG_INFINITY);
            if spec.significance {
                let token = element(first + block.first_token());
                let place = out.logits.tile((request, head, token), [1, spec.group, spec.block]);
                let mask = block.valid().expand_dims(0).expand_dims(0).broadcast([1, spec.group, spec.block]);
                place.store_masked(logits.expand_dims(0), mask);
            }
            let weights = online.step(logits, &hooks);
            online.acc = block.accumulate(weights, online.acc);
        }
    }

    if spec.significance && spec.splits == 1 {
        add_significance(&spec, &tiers, &kv, at, request, out.logits, online.lse());
    }
    let place = (request, head, at.split);
    out.max.tile(place, [1, spec.group, 1]).store(online.max.reshape([1, spec.group, 1]));
    out.sum.tile(place, [1, spec.group, 1]).store(online.sum.reshape([1, spec.group, 1]));
    let place = (request, head, at.split, 0);
    let extents = [1, spec.group, 1, spec.head_dim];
    out.acc.tile(place, extents).store(online.acc.reshape(extents));
}

/// Adds the significance of a step to every token of a (request, KV head), from the logits kept in `logits: [requests, query_heads,
/// tokens]` and the logarithm `lse: [group]` of their sums of exponentials.
#[device]
fn add_significance<K: KvOperand>(
    spec: &DecodeSpec,
    tiers: &Tiers,
    kv: &K,
    at: Work,
    request: Scalar<i32>,
    logits: ViewMut<f32, 3>,
    lse: Tile<f32, 1>,
) {
    // Where nothing was attended to, every logit is minus infinity and gives 0.
    let base = lse.gt(f32::NEG_INFINITY).select(lse, 0.0).expand_dims(1);
    for tier in tiers.iter() {
        let first = if comptime(tier.is_low()) { kv.length(at, false) } else { lit(0) };
        let frozen = kv.frozen(at, tier.is_low());
        for block in kv.blocks(at, tier, 1) {
            let token = element(first + block.first_token());
            let logits = logits.tile((request, at.head, token), [1, spec.group, spec.block]);
            let logits = logits.load_or(f32::NEG_INFINITY).squeeze(0);
            block.add_significance((logits - base).exp().reduce_max(0), frozen);
        }
    }
}

/// Merges the splits of [`decode_attention`](fn@decode_attention) in split order, and with more than one adds the step's significance to
/// the pages.
///
/// * Shapes: `parts` as decode attention left it, `out` is `[requests, query_heads, head_dim]`, `lse` is `[requests, query_heads]`.
/// * Grid: `[kv_heads, requests]`.
/// * Values: zeros and minus infinity where no token was attended to. The result does not depend on the order in which programs run, and on
///   the number of splits only by rounding.
/// * Significance as in [`decode_attention`](fn@decode_attention).
#[kernel]
pub fn merge_splits<C: Codecs, H: AttentionHooks, K: KvOperand>(
    #[comptime] spec: DecodeSpec,
    parts: Partials,
    kv: K,
    #[arg(align = 16)] out: ViewMut<f32, 3>,
    lse: ViewMut<f32, 2>,
    codecs: C,
    hooks: H,
) {
    let Some(tiers) = spec.tiers(&codecs) else { return };
    let (head, request) = (program_id(0), program_id(1));
    let mut merged = OnlineSoftmax::new(spec.group, spec.head_dim);
    for split in range(0, spec.splits as i32) {
        let place = (request, head, split);
        let max = parts.max.tile(place, [1, spec.group, 1]).load().reshape([spec.group]);
        let sum = parts.sum.tile(place, [1, spec.group, 1]).load().reshape([spec.group]);
        let acc = parts.acc.tile((request, head, split, 0), [1, spec.group, 1, spec.head_dim]).load();
        merged = merged.merge(OnlineSoftmax { max, sum, acc: acc.reshape([spec.group, spec.head_dim]) });
    }
    let total = merged.lse();
    out.tile((request, head, 0), [1, spec.group, spec.head_dim])
        .store(hooks.output(merged.output()).expand_dims(0));
    lse.tile((request, head), [1, spec.group]).store(total.expand_dims(0));

    if spec.significance && spec.splits > 1 {
        let at = Work { head, slot: kv.slot(request), split: lit(0), splits: 1 };
        add_significance(&spec, &tiers, &kv, at, request, parts.logits, total);
    }
}
