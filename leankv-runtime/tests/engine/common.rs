//! A small model's queries, keys and values, and what a cache holds.

use std::sync::{Mutex, OnceLock};

use half::f16;
use leankv_dsl::format::{CodecMath, PageLayout, SegmentKind, decode_row};
use leankv_kernels::reference::{PagedFormat, Token, read_tokens};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{CacheConfig, EngineKernels, KvCache, KvError, PageState, RequestId, Thresholds};
use leankv_runtime::{Compiler, Device, DeviceBuffer, Sm};

pub(crate) const GROUP: usize = 2;
pub(crate) const D: usize = 64;

/// Two layers of two KV heads; 16 high tokens a page.
pub(crate) fn config() -> CacheConfig {
    CacheConfig {
        page_bytes: 2048,
        chunk: 16,
        window_q: 8,
        window: 6,
        sinks: 1,
        keep_tokens: 20,
        ..CacheConfig::new([2, 2, GROUP, D], 4, 120, 90)
    }
}

/// Thresholds with which tokens of random attention are kept high, demoted and dropped.
pub(crate) fn thresholds() -> Thresholds {
    Thresholds::new(1.1, 0.85).with(1, Some(0), 1.4, 0.6)
}

/// A cache whose kernels are compiled once a process.
pub(crate) fn cache(device: &Device, config: &CacheConfig) -> KvCache {
    let kernels = kernels(device, config);
    KvCache::with_kernels(device, config.clone(), kernels).unwrap()
}

/// Kernels that are compiled once a process for the same values of a user's.
pub(crate) fn kernels(device: &Device, config: &CacheConfig) -> EngineKernels {
    type Known = Vec<(Device, CacheConfig, EngineKernels)>;
    static KERNELS: OnceLock<Mutex<Known>> = OnceLock::new();
    let mut known = KERNELS.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    // Of the configuration, what the kernels are made for.
    let kinds = CacheConfig { pages: 1, slots: 1, max_tokens: 1, ..config.clone() };
    match known.iter().find(|(on, of, _)| on.same_as(device) && *of == kinds) {
        Some((_, _, kernels)) => kernels.clone(),
        None => {
            let compiler = Compiler::new(KernelCache::without_folder());
            let new = EngineKernels::new(&compiler, device, config).unwrap();
            known.push((device.clone(), kinds, new.clone()));
            new
        }
    }
}

/// The devices that check every access. Kernels belong to one emulated device, so it is the same one for all tests.
pub(crate) fn checking_devices() -> [Device; 2] {
    static EMULATED: OnceLock<Device> = OnceLock::new();
    [Device::reference(), EMULATED.get_or_init(|| Device::emulated(Sm::Sm80)).clone()]
}

/// `len` reproducible numbers in `-1..1`, as f16.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f16> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f16::from_f32(((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0)
    };
    (0..len + 8).map(|_| next()).skip(8).collect()
}

/// What the model feeds one token of a sequence in one layer: queries `[query_heads, D]`, keys and values `[kv_heads, D]`.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) q: Vec<f16>,
    pub(crate) k: Vec<f16>,
    pub(crate) v: Vec<f16>,
}

/// What a model's keys and its attention have beyond the plain ones.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    /// What is added to an element of a key: by layer, KV head, position, element.
    pub(crate) offset: fn(usize, usize, usize, usize) -> f32,
    /// The logit of a query and a key before it, if it sees the key: by layer, positions of query and key, and the plain logit.
    pub(crate) logit: fn(usize, i32, i32, f64) -> Option<f64>,
    /// How keys are coded, where that is not what a format names.
    pub(crate) keys: Option<&'static (dyn CodecMath + Sync)>,
}

/// Nothing.
pub(crate) const PLAIN: Variant =
    Variant { offset: |_, _, _, _| 0.0, logit: |_, _, _, logit| Some(logit), keys: None };

impl Variant {
    /// As [`row`], with the keys' offsets.
    pub(crate) fn row(&self, config: &CacheConfig, sequence: u64, token: usize, layer: usize) -> Row {
        let mut row = row(config, sequence, token, layer);
        for (i, k) in row.k.iter_mut().enumerate() {
            let (head, element) = (i / config.head_dim, i % config.head_dim);
            *k = f16::from_f32(k.to_f32() + (self.offset)(layer, head, token, element));
        }
        row
    }

    /// Puts the offset back into keys that are stored without it.
    pub(crate) fn held(&self, cache: &KvCache, id: RequestId, list: usize) -> [Vec<Token>; 2] {
        let heads = cache.config().kv_heads;
        let mut held = match self.keys {
            Some(keys) => held_as(cache, id, list, keys),
            None => held(cache, id, list),
        };
        for token in held.iter_mut().flatten() {
            for (i, x) in token.key.iter_mut().enumerate() {
                *x += (self.offset)(list / heads, list % heads, token.position as usize, i);
            }
        }
        held
    }
}

pub(crate) fn row(config: &CacheConfig, sequence: u64, token: usize, layer: usize) -> Row {
    let seed = (sequence * 1000 + token as u64) * 100 + layer as u64 * 10;
    let sharp = random(seed + 1, config.query_heads() * config.head_dim);
    Row {
        // Attention that is far from even.
        q: sharp.iter().map(|x| f16::from_f32(x.to_f32() * 6.0)).collect(),
        k: random(seed + 2, config.kv_heads * config.head_dim),
        v: random(seed + 3, config.kv_heads * config.head_dim),
    }
}

/// A step for these requests, of these sequences: outputs `[layers][requests, query_heads, D]`.
pub(crate) fn step(cache: &mut KvCache, batch: &[(RequestId, u64)]) -> Result<Vec<Vec<f32>>, KvError> {
    step_of(cache, batch, &PLAIN)
}

/// As [`step`], of a variant.
pub(crate) fn step_of(
    cache: &mut KvCache,
    batch: &[(RequestId, u64)],
    variant: &Variant,
) -> Result<Vec<Vec<f32>>, KvError> {
    let (config, device) = (cache.config().clone(), cache.manager().state().device().clone());
    let ids: Vec<RequestId> = batch.iter().map(|b| b.0).collect();
    let tokens: Vec<usize> = ids.iter().map(|&id| cache.tokens(id)).collect::<Result<_, _>>()?;
    let mut step = cache.decode_step(&ids)?;
    let mut out = Vec::new();
    for layer in 0..config.layers {
        let rows: Vec<Row> =
            batch.iter().zip(&tokens).map(|(b, &token)| variant.row(&config, b.1, token, layer)).collect();
        let [q, k, v] = upload(&device, &rows);
        let view = step.layer(&q, &k, &v)?;
        let mut host = vec![0.0; view.len()];
        view.read_into(&mut host)?;
        out.push(host);
    }
    step.finish()?;
    Ok(out)
}

/// The next chunk of a request's prompt: outputs `[layers][tokens, query_heads, D]`.
pub(crate) fn chunk(cache: &mut KvCache, id: RequestId, sequence: u64) -> Result<Vec<Vec<f32>>, KvError> {
    chunk_of(cache, id, sequence, &PLAIN)
}

/// As [`chunk`], of a variant.
pub(crate) fn chunk_of(
    cache: &mut KvCache,
    id: RequestId,
    sequence: u64,
    variant: &Variant,
) -> Result<Vec<Vec<f32>>, KvError> {
    let (config, device) = (cache.config().clone(), cache.manager().state().device().clone());
    let mut chunk = cache.prefill_chunk(id)?;
    let mut out = Vec::new();
    for layer in 0..config.layers {
        let rows: Vec<Row> =
            chunk.positions().map(|token| variant.row(&config, sequence, token, layer)).collect();
        let [q, k, v] = upload(&device, &rows);
        let view = chunk.layer(&q, &k, &v)?;
        let mut host = vec![0.0; view.len()];
        view.read_into(&mut host)?;
        out.push(host);
    }
    chunk.finish()?;
    Ok(out)
}

pub(crate) fn upload(device: &Device, rows: &[Row]) -> [DeviceBuffer<f16>; 3] {
    let all = |of: fn(&Row) -> &Vec<f16>| {
        let joined: Vec<f16> = rows.iter().flat_map(|row| of(row).iter().copied()).collect();
        device.upload(&joined).unwrap()
    };
    [all(|r| &r.q), all(|r| &r.k), all(|r| &r.v)]
}

/// The rows of one request of a batch.
pub(crate) fn of_request(out: &[Vec<f32>], request: usize, requests: usize) -> Vec<Vec<u32>> {
    let bits = |layer: &Vec<f32>| {
        let each = layer.len() / requests;
        layer[request * each..][..each].iter().map(|x| x.to_bits()).collect()
    };
    out.iter().map(bits).collect()
}

/// The two tiers' formats of each list of a request, in pages.
pub(crate) fn formats(cache: &KvCache, id: RequestId) -> Vec<[PagedFormat; 2]> {
    let (config, formats) = (cache.config(), cache.stats(id).unwrap().formats);
    let format = |format| PagedFormat::new(format, config.head_dim as u32, config.page_bytes as u32).unwrap();
    let of_list = |list: usize| {
        let tiering = formats.of(list / config.kv_heads);
        [format(tiering.high), format(tiering.low.unwrap_or(tiering.high))]
    };
    (0..config.lists()).map(of_list).collect()
}

/// What one (layer, KV head) of a request holds: high tokens, low tokens.
pub(crate) fn held(cache: &KvCache, id: RequestId, list: usize) -> [Vec<Token>; 2] {
    let (state, arena) = (cache.dump().unwrap(), cache.manager().state().arena.to_vec().unwrap());
    let formats = &formats(cache, id)[list];
    [0, 1].map(|tier| {
        let pages = pages(&state, id.slot(), list, tier);
        let len = state.lengths[(id.slot() * state.shape.lists + list) * 4 + tier] as usize;
        read_tokens(&formats[tier], &arena, &pages, len).unwrap()
    })
}

/// As [`held`], of keys that are coded in another way than the formats say.
fn held_as(cache: &KvCache, id: RequestId, list: usize, keys: &dyn CodecMath) -> [Vec<Token>; 2] {
    let (state, arena) = (cache.dump().unwrap(), cache.manager().state().arena.to_vec().unwrap());
    let config = cache.config();
    let tiering = *cache.stats(id).unwrap().formats.of(list / config.kv_heads);
    let (d, page_bytes) = (config.head_dim, config.page_bytes);
    [(0, tiering.high), (1, tiering.low.unwrap_or(tiering.high))].map(|(tier, format)| {
        let layout =
            PageLayout::from_shapes(keys.shape(), format.value.shape(), d as u32, page_bytes as u32).unwrap();
        let pages = pages(&state, id.slot(), list, tier);
        let len = state.lengths[(id.slot() * state.shape.lists + list) * 4 + tier] as usize;
        let token = |number: usize| {
            let each = layout.tokens_per_page() as usize;
            let page = &arena[pages[number / each] as usize * page_bytes..][..page_bytes];
            let row = |kind: SegmentKind| {
                let segment = layout.segment(kind);
                &page[segment.row((number % each) as u32) as usize..][..segment.row_bytes as usize]
            };
            let vector = |codec: &dyn CodecMath, codes: SegmentKind, meta: SegmentKind| {
                let words: Vec<u16> =
                    row(meta).chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]])).collect();
                let mut x = vec![0.0; d];
                decode_row(codec, row(codes), &words, &mut x).unwrap();
                x
            };
            let four = |kind: SegmentKind| <[u8; 4]>::try_from(row(kind)).unwrap();
            Token {
                key: vector(keys, SegmentKind::Keys, SegmentKind::KeyMeta),
                value: vector(&format.value, SegmentKind::Values, SegmentKind::ValueMeta),
                significance: f32::from_le_bytes(four(SegmentKind::Significance)),
                position: i32::from_le_bytes(four(SegmentKind::Positions)),
            }
        };
        (0..len).map(token).collect()
    })
}

/// How many tokens of a list are frozen: high ones, low ones.
pub(crate) fn frozen(cache: &KvCache, id: RequestId, list: usize) -> [usize; 2] {
    let state = cache.dump().unwrap();
    [2, 3].map(|column| state.lengths[(id.slot() * state.shape.lists + list) * 4 + column] as usize)
}

/// The pages of a list.
pub(crate) fn pages(state: &PageState, slot: usize, list: usize, tier: usize) -> Vec<i32> {
    let held = state.held[(slot * state.shape.lists + list) * 2 + tier] as usize;
    (0..held).map(|k| state.table[state.entry(slot, list, tier == 1, k)]).collect()
}

/// The cache counts to what it should.
#[track_caller]
pub(crate) fn sound(cache: &KvCache) {
    let findings = cache.audit().unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}
