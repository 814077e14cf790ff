//! Every step against plain Rust in f64: what is attended to, what is kept, and its significance.

use half::f16;
use leankv_dsl::format::{CodecSpec, HalfType, KvFormat};
use leankv_kernels::reference::Token;
use leankv_runtime::Device;
use leankv_runtime::kv::{CacheConfig, KvCache, RequestId, Thresholds};

use crate::common::{D, PLAIN, Variant, cache, checking_devices, config, frozen, sound, step_of, thresholds};

/// Attention of the query group over the tokens it sees in f64: outputs `[group, d]`, and each token's probability, maximised over the group.
pub(crate) fn attend(
    d: usize,
    q: &[f16],
    tokens: &[&Token],
    logit: impl Fn(&Token, f64) -> Option<f64>,
) -> (Vec<f64>, Vec<f64>) {
    let (logits, lse) = logits(d, q, tokens, &logit);
    let mut out = Vec::new();
    for (logits, lse) in logits.iter().zip(&lse) {
        let element = |i: usize| {
            let parts = logits.iter().zip(tokens).map(|(l, t)| (l - lse).exp() * f64::from(t.value[i]));
            parts.sum::<f64>()
        };
        out.extend((0..d).map(element));
    }
    (out, received(&logits, &lse))
}

/// Of each query of a group: its logits, minus infinity for tokens that it does not see, and the logarithm of their sum of exponentials.
fn logits(
    d: usize,
    q: &[f16],
    tokens: &[&Token],
    logit: &impl Fn(&Token, f64) -> Option<f64>,
) -> (Vec<Vec<f64>>, Vec<f64>) {
    let scale = 1.0 / (d as f64).sqrt();
    let of_query = |q: &[f16]| -> Vec<f64> {
        let dot = |t: &&Token| {
            let products = q.iter().zip(&t.key).map(|(a, b)| a.to_f64() * f64::from(*b));
            logit(t, products.sum::<f64>() * scale).unwrap_or(f64::NEG_INFINITY)
        };
        tokens.iter().map(dot).collect()
    };
    let logits: Vec<Vec<f64>> = q.chunks_exact(d).map(of_query).collect();
    let lse = |logits: &Vec<f64>| {
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln()
    };
    let sums = logits.iter().map(lse).collect();
    (logits, sums)
}

/// `exp(logit - lse)` of every token, maximised over the query group.
fn received(logits: &[Vec<f64>], lse: &[f64]) -> Vec<f64> {
    let tokens = logits.first().map_or(0, Vec::len);
    let share = |token: usize| logits.iter().zip(lse).map(move |(l, lse)| (l[token] - lse).exp());
    (0..tokens).map(|token| share(token).fold(0.0, f64::max)).collect()
}

/// How far a key within `-1.1..1.1` may be from what was given: half a step for each time it was coded, with its rounded constants.
fn precision(config: &CacheConfig, variant: &Variant, low: bool) -> f32 {
    let bits = variant.keys.map(|keys| keys.shape().code_bits);
    let step = |max_code: f32| 1.1 / max_code + 0.0017;
    let of = |format: KvFormat| match format.key {
        _ if bits.is_some() => step(bits.map_or(1.0, |bits| ((1 << bits) - 1) as f32)),
        CodecSpec::None { dtype: HalfType::F16 } => 0.001,
        CodecSpec::None { dtype: HalfType::Bf16 } => 0.005,
        CodecSpec::Affine { bits, .. } | CodecSpec::Symmetric { bits, .. } => {
            step(f32::from(bits.max_code()))
        }
    };
    let tiering = config.formats.usual();
    of(tiering.high) + tiering.low.filter(|_| low).map_or(0.0, of)
}

/// How far outputs may be from those of f64: weights are rounded to f16 before they meet values, or to bf16 where values are.
pub(crate) fn weights(config: &CacheConfig) -> f64 {
    let coarse = config.formats.formats().any(|format| format.value == CodecSpec::BF16);
    if coarse { 8e-3 } else { 2e-3 }
}

/// One step of one request whose prompt has `prompt` tokens, checked in every (layer, KV head).
pub(crate) fn checked_step(
    cache: &mut KvCache,
    config: &CacheConfig,
    id: RequestId,
    prompt: usize,
    sequence: u64,
) {
    checked_step_of(cache, config, id, prompt, sequence, &PLAIN);
}

/// As [`checked_step`], of a variant.
pub(crate) fn checked_step_of(
    cache: &mut KvCache,
    config: &CacheConfig,
    id: RequestId,
    prompt: usize,
    sequence: u64,
    variant: &Variant,
) {
    let (d, group) = (config.head_dim, config.group);
    let position = cache.tokens(id).unwrap();
    let before: Vec<[Vec<Token>; 2]> =
        (0..config.lists()).map(|list| variant.held(cache, id, list)).collect();
    let out = step_of(cache, &[(id, sequence)], variant).unwrap();
    sound(cache);
    for (list, before) in before.iter().enumerate() {
        let (layer, head) = (list / config.kv_heads, list % config.kv_heads);
        let what = format!("position {position}, layer {layer}, head {head}");
        let after = variant.held(cache, id, list);
        let all: Vec<&Token> = after.iter().flatten().collect();
        let old = |position: i32| before.iter().flatten().find(|t| t.position == position);

        // The new token is there, nothing came from nowhere, the window and the sinks are high.
        let mut positions: Vec<i32> = all.iter().map(|t| t.position).collect();
        positions.sort_unstable();
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{what}: {positions:?}");
        assert_eq!(positions.last(), Some(&(position as i32)), "{what}");
        let first = (position + 1).saturating_sub(config.window);
        let always = (0..config.sinks.min(position + 1)).chain(first..=position);
        for kept in always {
            assert!(after[0].iter().any(|t| t.position == kept as i32), "{what}: {kept} is not high");
        }
        assert!(before.iter().flatten().count() <= all.len() + 1, "{what}: a step drops two tokens at most");

        // Attention over what is stored.
        let q = variant.row(config, sequence, position, layer).q;
        let logit = |t: &Token, x: f64| (variant.logit)(layer, position as i32, t.position, x);
        let (want, _) = attend(d, &q[head * group * d..][..group * d], &all, logit);
        let got = &out[layer][head * group * d..][..group * d];
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < weights(config), "{what}: {got}, expected {want}");
        }
        // Significance: what was there, and the share of the last step's queries among the tokens that they attended to, by the keys as they
        // are stored now. Frozen tokens and the new one get none of it. Keys are what was given, within the format's precision.
        let shares = (position > prompt).then(|| {
            let q = variant.row(config, sequence, position - 1, layer).q;
            let q = &q[head * group * d..][..group * d];
            let logit = |t: &Token, x: f64| (variant.logit)(layer, position as i32 - 1, t.position, x);
            let then: Vec<&Token> = before.iter().flatten().collect();
            received(&logits(d, q, &all, &logit).0, &logits(d, q, &then, &logit).1)
        });
        let frozen = frozen(cache, id, list);
        for (number, token) in all.iter().enumerate() {
            let old = old(token.position).map(|t| f64::from(t.significance));
            let (low, index) = match number.checked_sub(after[0].len()) {
                Some(index) => (true, index),
                None => (false, number),
            };
            let share = shares.as_ref().filter(|_| index >= frozen[usize::from(low)]);
            let mass = old.map_or(0.0, |mass| mass + share.map_or(0.0, |shares| shares[number]));
            let got = f64::from(token.significance);
            assert!((got - mass).abs() < 1e-3, "{what}, token {}: {got}, expected {mass}", token.position);
            let given = variant.row(config, sequence, token.position as usize, layer);
            let given = &given.k[head * d..][..d];
            let most = precision(config, variant, low);
            for (got, given) in token.key.iter().zip(given) {
                assert!((got - given.to_f32()).abs() < most, "{what}, token {}", token.position);
            }
        }
    }
}

#[test]
fn every_step_attends_to_what_is_kept_and_adds_its_significance() {
    let config = config();
    let mut cache = cache(&Device::host(), &config);
    let id = cache.admit(0, &thresholds()).unwrap();
    for _ in 0..60 {
        checked_step(&mut cache, &config, id, 0, 3);
    }
    let stats = cache.stats(id).unwrap();
    let count = |of: fn(&leankv_runtime::kv::HeadStats) -> usize| stats.heads.iter().map(of).sum::<usize>();
    let (high, low, pruned) = (count(|h| h.high), count(|h| h.low), count(|h| h.pruned));
    assert_eq!(high + low + pruned, 60 * config.lists());
    assert!(high > 0 && low > 0 && pruned > 0, "{stats:?}");
    assert!(stats.heads.iter().any(|h| h.low != stats.heads[0].low), "heads differ: {stats:?}");
    let pages: usize = stats.heads.iter().map(|h| h.pages).sum();
    assert_eq!(stats.bytes, pages * 2048 + config.lists() * config.shape().unwrap().table_len * 4);
    assert_eq!(stats.fp16_bytes, 60 * config.lists() * D * 4);
}

#[test]
fn steps_hold_on_devices_that_check_every_access() {
    // One layer, one KV head; enough tokens for a demotion.
    let small = CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 6, ..config() };
    for device in checking_devices() {
        let mut cache = cache(&device, &small);
        let id = cache.admit(0, &Thresholds::new(50.0, 0.0)).unwrap();
        for _ in 0..8 {
            checked_step(&mut cache, &small, id, 0, 9);
        }
        let stats = cache.stats(id).unwrap();
        assert_eq!((stats.heads[0].high, stats.heads[0].low), (3, 5), "{stats:?}");
    }
}
