//! A model whose keys have a bias or outliers, run through the cache, and the same in f64.

use std::f64::consts::FRAC_1_SQRT_2;
use std::sync::{Arc, OnceLock};

use half::f16;
use leankv_dsl::lang::attention::CodecChoice;
use leankv_kernels::reference::{PagedFormat, Token, read_tokens};
use leankv_model::variants::{Hadamard, KeyOffsetTables};
use leankv_model::{Rope, RopeConfig, RopePairs};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{CacheConfig, KvCache, RequestId, Thresholds};
use leankv_runtime::{Compiler, Device, DeviceBuffer, Sm};

pub(crate) const GROUP: usize = 2;
pub(crate) const D: usize = 64;
const BASE: f64 = 1e4;

/// What the tables are made from.
pub(crate) fn rope() -> Rope {
    Rope::new(&RopeConfig::plain(BASE), D, RopePairs::Halves, None)
}

/// Two layers of two KV heads, K8V4 over K4V2.
pub(crate) fn two_tiers() -> CacheConfig {
    CacheConfig {
        page_bytes: 2048,
        chunk: 16,
        window_q: 8,
        window: 6,
        ..CacheConfig::new([2, 2, GROUP, D], 1, 80, 60)
    }
}

/// As small as executors that check every access need it.
pub(crate) fn small() -> CacheConfig {
    CacheConfig { kv_heads: 1, window: 3, ..two_tiers() }
}

/// The devices that check every access.
pub(crate) fn checking_devices() -> [Device; 2] {
    [Device::reference(), Device::emulated(Sm::Sm80)]
}

/// What is done to keys.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Their bias is taken out.
    offset: bool,
    /// They are rotated.
    rotated: bool,
}

pub(crate) const STOCK: Kind = Kind { offset: false, rotated: false };
pub(crate) const ROTATED: Kind = Kind { offset: false, rotated: true };
pub(crate) const OFFSET: Kind = Kind { offset: true, rotated: false };
pub(crate) const BOTH: Kind = Kind { offset: true, rotated: true };

impl Kind {
    /// The codecs, and the tables of the offset if there is one.
    fn codecs(
        self,
        model: &Model,
        device: &Device,
        config: &CacheConfig,
    ) -> (CodecChoice, Option<Arc<KeyOffsetTables>>) {
        let mut codecs = CodecChoice::stock();
        if self.rotated {
            codecs = codecs.with("hadamard", Hadamard);
        }
        let (extents, biases) = ([config.kv_heads, D], model.biases(config));
        let tables = || KeyOffsetTables::new(device, biases, extents, &rope(), config.max_tokens).unwrap();
        let tables = self.offset.then(|| Arc::new(tables()));
        match &tables {
            Some(tables) => (codecs.with("offset", Arc::clone(tables)), Some(Arc::clone(tables))),
            None => (codecs, None),
        }
    }
}

/// What a model's keys are like.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    /// Size of the bias in a few elements.
    pub(crate) bias: f32,
    /// How much larger some elements are than the others.
    pub(crate) outliers: f32,
}

/// `len` reproducible numbers in `-1..1`.
fn random(seed: usize, len: usize) -> Vec<f32> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    };
    (0..len + 8).map(|_| next()).skip(8).collect()
}

/// Unnormalised butterflies in their textbook order, then the norm: every block of `x` times the Hadamard matrix.
fn rotate(x: &mut [f64]) {
    let mut span = 1;
    while span < x.len() {
        for block in x.chunks_exact_mut(2 * span) {
            let (a, b) = block.split_at_mut(span);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = ((*a + *b) * FRAC_1_SQRT_2, (*a - *b) * FRAC_1_SQRT_2);
            }
        }
        span *= 2;
    }
}

impl Model {
    /// The bias of a layer, `[kv_heads, D]`.
    fn biases(&self, config: &CacheConfig) -> Vec<Vec<f32>> {
        let layer = |layer: usize| {
            let small = random(70 + layer, config.kv_heads * D);
            let large = |i: usize| if i % 19 == 3 { self.bias } else { 0.01 * self.bias };
            small.iter().enumerate().map(|(i, x)| x.signum() * large(i) * (1.0 + 0.1 * x)).collect()
        };
        (0..config.layers).map(layer).collect()
    }

    /// Queries of a token `[query_heads, D]`.
    fn queries(&self, config: &CacheConfig, token: usize, layer: usize) -> Vec<f16> {
        let numbers = random(1000 + token * 10 + layer, config.query_heads() * D);
        numbers.iter().map(|x| f16::from_f32(3.0 * x)).collect()
    }

    fn values(&self, config: &CacheConfig, token: usize, layer: usize) -> Vec<f16> {
        let numbers = random(200_000 + token * 10 + layer, config.kv_heads * D);
        numbers.into_iter().map(f16::from_f32).collect()
    }

    /// Keys of a token after RoPE, `[kv_heads, D]`: the bias turned by its position exactly, and the rest.
    fn keys(&self, config: &CacheConfig, token: usize, layer: usize) -> Vec<f16> {
        let rest = random(400_000 + token * 10 + layer, config.kv_heads * D);
        let bias = &self.biases(config)[layer];
        let key = |i: usize| {
            let (head, i) = (i / D, i % D);
            let (half, bias) = (D / 2, &bias[head * D..][..D]);
            let angle = token as f64 * BASE.powf(-2.0 * (i % half) as f64 / D as f64);
            let (a, b) = (f64::from(bias[i % half]), f64::from(bias[half + i % half]));
            let turned =
                if i < half { angle.cos() * a - angle.sin() * b } else { angle.cos() * b + angle.sin() * a };
            let large = if i % 23 == 5 { self.outliers } else { 1.0 };
            f16::from_f64(turned + f64::from(large * rest[head * D + i]))
        };
        (0..config.kv_heads * D).map(key).collect()
    }

    /// A request whose prompt is in the cache, checked chunk by chunk.
    pub(crate) fn run(
        &self,
        kind: Kind,
        device: &Device,
        config: &CacheConfig,
        thresholds: &Thresholds,
        prompt: usize,
    ) -> Run {
        let compiler = Compiler::new(KernelCache::without_folder());
        let (codecs, tables) = kind.codecs(self, device, config);
        let mut cache = KvCache::new(&compiler, device, CacheConfig { codecs, ..config.clone() }).unwrap();
        let id = cache.admit(prompt, thresholds).unwrap();
        let mut run = Run { cache, id, prompt, model: *self, tables, rotated: kind.rotated };
        while run.cache.tokens(id).unwrap() < prompt {
            run.checked_chunk();
        }
        run
    }
}

/// A request in a cache.
pub(crate) struct Run {
    cache: KvCache,
    id: RequestId,
    prompt: usize,
    model: Model,
    tables: Option<Arc<KeyOffsetTables>>,
    rotated: bool,
}

/// A token as attention sees it.
#[derive(Clone)]
struct Seen {
    key: Vec<f64>,
    value: Vec<f64>,
}

/// Attention of one query in f64.
fn attend(q: &[f16], tokens: &[Seen]) -> Vec<f64> {
    let dot = |t: &Seen| q.iter().zip(&t.key).map(|(a, b)| a.to_f64() * b).sum::<f64>() / (D as f64).sqrt();
    let logits: Vec<f64> = tokens.iter().map(dot).collect();
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let element = |i: usize| powers.iter().zip(tokens).map(|(p, t)| p / sum * t.value[i]).sum();
    (0..D).map(element).collect()
}

fn floats(x: &[f16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

fn upload(device: &Device, rows: Vec<Vec<f16>>) -> DeviceBuffer<f16> {
    device.upload(&rows.concat()).unwrap()
}

impl Run {
    /// Tokens in the low tier.
    pub(crate) fn low(&self) -> usize {
        self.cache.stats(self.id).unwrap().heads.iter().map(|head| head.low).sum()
    }

    /// What a (layer, KV head) holds, with what the codec did to keys undone in f64; and how far keys are from what was given.
    fn held(&self, layer: usize, head: usize) -> (Vec<Seen>, f64) {
        let config = self.cache.config();
        let (state, arena) =
            (self.cache.dump().unwrap(), self.cache.manager().state().arena.to_vec().unwrap());
        let (slot, list) = (self.id.slot(), layer * config.kv_heads + head);
        let at = slot * state.shape.lists + list;
        let (mut seen, mut furthest) = (Vec::new(), 0.0f64);
        for (tier, format) in config.formats.formats().enumerate() {
            let paged = PagedFormat::new(format, D as u32, config.page_bytes as u32).unwrap();
            let held = state.held[at * 2 + tier] as usize;
            let pages: Vec<i32> =
                (0..held).map(|k| state.table[state.entry(slot, list, tier == 1, k)]).collect();
            let len = state.lengths[at * 4 + tier] as usize;
            for token in read_tokens(&paged, &arena, &pages, len).unwrap() {
                let Token { key, value, position, .. } = token;
                let mut key: Vec<f64> = key.into_iter().map(f64::from).collect();
                if self.rotated {
                    rotate(&mut key);
                }
                if let Some(tables) = &self.tables {
                    let offset = tables.offset(layer, head, position as usize);
                    key.iter_mut().zip(offset).for_each(|(key, offset)| *key += offset);
                }
                let given = self.model.keys(config, position as usize, layer);
                for (key, given) in key.iter().zip(&given[head * D..][..D]) {
                    // The low tier is coarser by what its 4 bits are coarser than 8.
                    let scale = if tier == 1 { 17.0 } else { 1.0 };
                    furthest = furthest.max((key - given.to_f64()).abs() / scale);
                }
                seen.push(Seen { key, value: value.into_iter().map(f64::from).collect() });
            }
        }
        (seen, furthest)
    }

    fn tensors(
        &self,
        positions: std::ops::Range<usize>,
        layer: usize,
        device: &Device,
    ) -> [DeviceBuffer<f16>; 3] {
        let (config, model) = (self.cache.config(), &self.model);
        let all = |of: &dyn Fn(usize) -> Vec<f16>| upload(device, positions.clone().map(of).collect());
        [
            all(&|token| model.queries(config, token, layer)),
            all(&|token| model.keys(config, token, layer)),
            all(&|token| model.values(config, token, layer)),
        ]
    }

    /// The next chunk, with every output against f64.
    fn checked_chunk(&mut self) {
        let (config, device) = (self.cache.config().clone(), self.cache.manager().state().device().clone());
        let before = self.cache.tokens(self.id).unwrap();
        let positions = before..(before + config.chunk).min(self.prompt);
        let lists = (0..config.layers).flat_map(|l| (0..config.kv_heads).map(move |h| (l, h)));
        let cached: Vec<Vec<Seen>> = lists.map(|(layer, head)| self.held(layer, head).0).collect();
        let tensors: Vec<_> =
            (0..config.layers).map(|layer| self.tensors(positions.clone(), layer, &device)).collect();
        let mut chunk = self.cache.prefill_chunk(self.id).unwrap();
        assert_eq!(chunk.positions(), positions);
        let mut outs = Vec::new();
        for [q, k, v] in &tensors {
            let view = chunk.layer(q, k, v).unwrap();
            let mut host = vec![0.0f32; view.len()];
            view.read_into(&mut host).unwrap();
            outs.push(host);
        }
        chunk.finish().unwrap();
        for (layer, out) in outs.iter().enumerate() {
            for head in 0..config.kv_heads {
                let mut seen = cached[layer * config.kv_heads + head].clone();
                for (query, token) in positions.clone().enumerate() {
                    let keys = self.model.keys(&config, token, layer);
                    let values = self.model.values(&config, token, layer);
                    let row = |x: &[f16]| floats(&x[head * D..][..D]);
                    seen.push(Seen { key: row(&keys), value: row(&values) });
                    let at = query * config.query_heads() + head * GROUP;
                    self.compare(&config, token, layer, head, &seen, &out[at * D..][..GROUP * D]);
                }
                self.near(layer, head);
            }
        }
    }

    /// The next step, with every output against f64.
    pub(crate) fn checked_step(&mut self) {
        let (config, device) = (self.cache.config().clone(), self.cache.manager().state().device().clone());
        let token = self.cache.tokens(self.id).unwrap();
        let tensors: Vec<_> =
            (0..config.layers).map(|layer| self.tensors(token..token + 1, layer, &device)).collect();
        let mut step = self.cache.decode_step(&[self.id]).unwrap();
        let mut outs = Vec::new();
        for [q, k, v] in &tensors {
            let view = step.layer(q, k, v).unwrap();
            let mut host = vec![0.0f32; view.len()];
            view.read_into(&mut host).unwrap();
            outs.push(host);
        }
        step.finish().unwrap();
        for (layer, out) in outs.iter().enumerate() {
            for head in 0..config.kv_heads {
                let seen = self.near(layer, head);
                self.compare(&config, token, layer, head, &seen, &out[head * GROUP * D..][..GROUP * D]);
            }
        }
        assert!(self.cache.audit().unwrap().is_empty());
    }

    /// What a (layer, KV head) holds, whose keys are near what was given.
    fn near(&self, layer: usize, head: usize) -> Vec<Seen> {
        let (seen, furthest) = self.held(layer, head);
        // Without outliers what is left of a key is within -1.1..1.1, and rotated within -4..4.
        let most = if self.rotated { 0.024 } else { 0.007 };
        assert!(furthest < most, "layer {layer}, head {head}: {furthest}");
        seen
    }

    fn compare(
        &self,
        config: &CacheConfig,
        token: usize,
        layer: usize,
        head: usize,
        seen: &[Seen],
        out: &[f32],
    ) {
        let queries = self.model.queries(config, token, layer);
        for (member, got) in out.chunks_exact(D).enumerate() {
            let q = &queries[(head * GROUP + member) * D..][..D];
            for (got, want) in got.iter().zip(attend(q, seen)) {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 3e-3, "position {token}, layer {layer}, head {head}: {got}, expected {want}");
            }
        }
    }
}

/// Relative error of decode attention over keys in `tiering` against f64 over the keys that were given: root mean squares over steps.
pub(crate) fn error_of(kind: Kind, model: &Model, tiering: &str) -> f64 {
    let config = CacheConfig { formats: tiering.parse().unwrap(), ..two_tiers() };
    let device = Device::host();
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    let compiler = COMPILER.get_or_init(|| Compiler::new(KernelCache::without_folder()));
    let (codecs, _) = kind.codecs(model, &device, &config);
    let config = CacheConfig { codecs, ..config };
    let mut cache = KvCache::new(compiler, &device, config.clone()).unwrap();
    let id = cache.admit(0, &Thresholds::new(0.0, 0.0)).unwrap();
    let (mut difference, mut whole) = (0.0, 0.0);
    let mut seen = vec![Vec::new(); config.lists()];
    for token in 0..40 {
        let mut step = cache.decode_step(&[id]).unwrap();
        for layer in 0..config.layers {
            let (queries, keys, values) = (
                model.queries(&config, token, layer),
                model.keys(&config, token, layer),
                model.values(&config, token, layer),
            );
            let [q, k, v] = [&queries, &keys, &values].map(|x| device.upload(x).unwrap());
            let view = step.layer(&q, &k, &v).unwrap();
            let mut out = vec![0.0f32; view.len()];
            view.read_into(&mut out).unwrap();
            for head in 0..config.kv_heads {
                let seen = &mut seen[layer * config.kv_heads + head];
                let row = |x: &[f16]| floats(&x[head * D..][..D]);
                seen.push(Seen { key: row(&keys), value: row(&values) });
                for member in 0..GROUP {
                    let at = (head * GROUP + member) * D;
                    for (got, want) in out[at..][..D].iter().zip(attend(&queries[at..][..D], seen)) {
                        difference += (f64::from(*got) - want).powi(2);
                        whole += want * want;
                    }
                }
            }
        }
        step.finish().unwrap();
    }
    (difference / whole).sqrt()
}
