//! A user's codecs and attention hooks in the whole engine: prompts in chunks, compaction, steps and demotion, with parameters of their own
//! in every layer.

use std::sync::Arc;

use half::f16;
use leankv_dsl::format::{CodecShape, CodecSpec};
use leankv_dsl::lang::attention::{
    Affine, AttentionHooks, Codec, Codecs, Encoded, Of, Plain, Rows, Site, Stock, Tokens, stock,
};
use leankv_dsl::lang::*;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{
    Bindings, Binds, CacheConfig, EngineKernels, KvCache, KvError, RequestId, Thresholds,
};
use leankv_runtime::{ArgumentError, Compiler, Device, DeviceBuffer, Launch, LaunchError};

use crate::common::{
    D, PLAIN, Variant, checking_devices, chunk_of, config, kernels, sound, step_of, thresholds,
};
use crate::model::checked_step_of;
use crate::prompt::checked_chunk_of;

/// Keys without an offset that layer, position and KV head determine; what is left is coded as the tier's format says.
#[derive(Clone, Copy, KernelArg)]
struct OffsetKeys {
    /// `[kv_heads, positions, head_dim]` of the layer.
    table: View<f32, 3>,
}

struct Offset {
    table: View<f32, 3>,
    inner: Box<dyn Codec>,
}

impl Codecs for OffsetKeys {
    fn keys(&self, named: &CodecSpec) -> Box<dyn Codec> {
        Box::new(Offset { table: self.table, inner: stock(named) })
    }

    fn values(&self, named: &CodecSpec) -> Box<dyn Codec> {
        stock(named)
    }
}

impl Offset {
    fn of(&self, tokens: Tokens, [rows, dim]: [usize; 2]) -> Tile<f32, 2> {
        self.table.tile((tokens.head, tokens.positions, 0), [1, rows, dim]).load().squeeze(0)
    }
}

impl Codec for Offset {
    fn shape(&self) -> CodecShape {
        self.inner.shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        self.inner.encode(x - self.of(tokens, x.extents()), tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        self.inner.decode(rows) + self.of(rows.tokens(), [rows.count(), rows.head_dim()])
    }

    fn logits(&self, q: Tile<f16, 2>, rows: &Rows) -> Tile<f32, 2> {
        let offset = self.of(rows.tokens(), [rows.count(), rows.head_dim()]);
        q.cast::<f32>().dot(offset.t(), self.inner.logits(q, rows))
    }
}

/// Adds `q . offset` to key logits: what the codec does, for keys that come without their offset.
#[derive(Clone, Copy, KernelArg)]
struct OffsetLogits {
    table: View<f32, 3>,
}

impl AttentionHooks for OffsetLogits {
    fn key_logits(&self, logits: Tile<f32, 2>, q: Tile<f16, 2>, site: &Site) -> Tile<f32, 2> {
        let [_, rows] = logits.extents();
        let offset = self.table.tile((site.head, site.keys, 0), [1, rows, D]).load().squeeze(0);
        q.cast::<f32>().dot(offset.t(), logits)
    }
}

/// The offsets: multiples of 1/64, so that keys of f16 with and without them are exact to 2^-10, and such that 4 bits cannot code them.
fn offset(layer: usize, head: usize, position: usize, element: usize) -> f32 {
    let mix = layer * 7919 + head * 104_729 + position * 31 + element * element * 13;
    (mix % 257) as f32 / 64.0 - 2.0
}

/// Tables of [`offset`], one a layer, as codecs' and as hooks' parameters.
#[derive(Debug)]
struct Tables {
    layers: Vec<DeviceBuffer<f32>>,
    extents: [usize; 3],
}

impl Tables {
    fn new(device: &Device, config: &CacheConfig) -> Tables {
        let extents = [config.kv_heads, config.max_tokens, D];
        let table = |layer| {
            let of = |i: usize| offset(layer, i / (extents[1] * D), i / D % extents[1], i % D);
            let table: Vec<f32> = (0..extents.iter().product()).map(of).collect();
            device.upload(&table).unwrap()
        };
        Tables { layers: (0..config.layers).map(table).collect(), extents }
    }
}

/// Tables for the codec of keys.
#[derive(Debug)]
struct ForCodec(Tables);

impl Bindings for ForCodec {
    fn bind<'a>(&'a self, launch: Launch<'a>, layer: usize, binds: Binds) -> Launch<'a> {
        match binds.codecs {
            true => launch.view("codecs.table", &self.0.layers[layer], &self.0.extents),
            false => launch,
        }
    }
}

/// Tables for the hooks.
#[derive(Debug)]
struct ForHooks(Tables);

impl Bindings for ForHooks {
    fn bind<'a>(&'a self, launch: Launch<'a>, layer: usize, binds: Binds) -> Launch<'a> {
        match binds.hooks {
            true => launch.view("hooks.table", &self.0.layers[layer], &self.0.extents),
            false => launch,
        }
    }
}

const OFFSET: Variant = Variant { offset, ..PLAIN };

fn offset_cache(device: &Device, config: &CacheConfig) -> KvCache {
    let kernels = kernels::<OffsetKeys, Plain>(device, config);
    let tables = ForCodec(Tables::new(device, config));
    KvCache::with_bindings(device, config.clone(), kernels, Some(Arc::new(tables))).unwrap()
}

/// Tokens in the low tier, and dropped ones.
fn low_and_pruned(cache: &KvCache, id: RequestId) -> (usize, usize) {
    let stats = cache.stats(id).unwrap();
    stats.heads.iter().fold((0, 0), |(low, pruned), head| (low + head.low, pruned + head.pruned))
}

#[test]
fn a_key_offset_of_each_layer_works_through_prompts_steps_and_demotion() {
    let config = config();
    let mut cache = offset_cache(&Device::host(), &config);
    let id = cache.admit(58, &thresholds()).unwrap();
    while cache.tokens(id).unwrap() < 58 {
        checked_chunk_of(&mut cache, &config, id, 3, &OFFSET);
    }
    for _ in 0..12 {
        checked_step_of(&mut cache, &config, id, 58, 3, &OFFSET);
    }
    let (low, pruned) = low_and_pruned(&cache, id);
    assert!(low > 0 && pruned > 0, "{low} low, {pruned} dropped");
}

#[test]
fn taking_an_offset_out_is_the_same_as_adding_it_to_the_logits_of_keys_without_it() {
    let (config, device) = (config(), Device::host());
    let mut with = offset_cache(&device, &config);
    let kernels = kernels::<Stock, OffsetLogits>(&device, &config);
    let tables = ForHooks(Tables::new(&device, &config));
    let mut without =
        KvCache::with_bindings(&device, config.clone(), kernels, Some(Arc::new(tables))).unwrap();
    // Everything stays high, so that no decision hangs on the last bit.
    let all = Thresholds::new(0.0, 0.0);
    let ids = [&mut with, &mut without].map(|cache| cache.admit(40, &all).unwrap());
    // Keys with the offset are rounded to f16 once more.
    let close = |a: Vec<Vec<f32>>, b: Vec<Vec<f32>>| {
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            assert!((a - b).abs() < 2e-2, "{a} and {b}");
        }
    };
    while with.tokens(ids[0]).unwrap() < 40 {
        close(
            chunk_of(&mut with, ids[0], 5, &OFFSET).unwrap(),
            chunk_of(&mut without, ids[1], 5, &PLAIN).unwrap(),
        );
    }
    for _ in 0..10 {
        close(
            step_of(&mut with, &[(ids[0], 5)], &OFFSET).unwrap(),
            step_of(&mut without, &[(ids[1], 5)], &PLAIN).unwrap(),
        );
    }
    sound(&with);
    sound(&without);
}

/// One layer of one KV head is not enough to see a table of another layer.
fn small() -> CacheConfig {
    CacheConfig { layers: 2, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 16, ..config() }
}

#[test]
fn a_key_offset_holds_on_devices_that_check_every_access() {
    let small = small();
    for device in checking_devices() {
        let mut cache = offset_cache(&device, &small);
        let id = cache.admit(20, &Thresholds::new(1.2, 0.5)).unwrap();
        for _ in 0..2 {
            checked_chunk_of(&mut cache, &small, id, 9, &OFFSET);
        }
        for _ in 0..3 {
            checked_step_of(&mut cache, &small, id, 20, 9, &OFFSET);
        }
        assert!(low_and_pruned(&cache, id).0 > 0);
    }
}

/// A query sees the last `window` tokens, itself included.
#[derive(Clone, Copy, KernelArg)]
struct Windowed {
    window: Scalar<i32>,
}

impl AttentionHooks for Windowed {
    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        let distance = site.queries.expand_dims(1) - site.keys.expand_dims(0);
        Some(distance.lt(self.window))
    }
}

#[derive(Debug)]
struct Windows(Vec<i32>);

impl Bindings for Windows {
    fn bind<'a>(&'a self, launch: Launch<'a>, layer: usize, binds: Binds) -> Launch<'a> {
        match binds.hooks {
            true => launch.scalar("hooks.window", self.0[layer]),
            false => launch,
        }
    }
}

const WINDOWS: [i32; 2] = [5, 23];
const WINDOWED: Variant = Variant { sees: |layer, query, key| query - key < WINDOWS[layer], ..PLAIN };

fn windowed_cache(device: &Device, config: &CacheConfig) -> KvCache {
    let kernels = kernels::<Stock, Windowed>(device, config);
    let windows = Windows(WINDOWS.to_vec());
    KvCache::with_bindings(device, config.clone(), kernels, Some(Arc::new(windows))).unwrap()
}

#[test]
fn a_sliding_window_of_each_layer_works_through_prompts_and_steps() {
    // Each split adds the significance of its own pages.
    for splits in [1, 2] {
        let config = CacheConfig { splits, ..config() };
        let mut cache = windowed_cache(&Device::host(), &config);
        let id = cache.admit(50, &thresholds()).unwrap();
        while cache.tokens(id).unwrap() < 50 {
            checked_chunk_of(&mut cache, &config, id, 4, &WINDOWED);
        }
        for _ in 0..10 {
            checked_step_of(&mut cache, &config, id, 50, 4, &WINDOWED);
        }
    }
}

#[test]
fn a_sliding_window_holds_on_devices_that_check_every_access() {
    let small = small();
    for device in checking_devices() {
        let mut cache = windowed_cache(&device, &small);
        let id = cache.admit(20, &Thresholds::new(1.2, 0.5)).unwrap();
        for _ in 0..2 {
            checked_chunk_of(&mut cache, &small, id, 9, &WINDOWED);
        }
        for _ in 0..3 {
            checked_step_of(&mut cache, &small, id, 20, 9, &WINDOWED);
        }
    }
}

#[test]
fn parameters_that_are_missing_unknown_or_wrong_are_found_before_there_is_a_cache() {
    let (config, device) = (config(), Device::host());
    let refused = |kernels: &EngineKernels, bindings: Option<Arc<dyn Bindings>>| match KvCache::with_bindings(
        &device,
        config.clone(),
        kernels.clone(),
        bindings,
    )
    .unwrap_err()
    {
        KvError::Launch(LaunchError::Argument(error)) => error,
        other => panic!("{other}"),
    };
    let offset = kernels::<OffsetKeys, Plain>(&device, &config);
    let error = refused(&offset, None);
    assert!(matches!(&error, ArgumentError::Missing { names, .. } if names[0] == "codecs.table"), "{error}");
    // A table of the last layer that is too short.
    let mut tables = Tables::new(&device, &config);
    tables.layers[1] = device.zeros(7).unwrap();
    let error = refused(&offset, Some(Arc::new(ForCodec(tables))));
    assert!(matches!(error, ArgumentError::Short { len: 7, .. }), "{error}");

    let windowed = kernels::<Stock, Windowed>(&device, &config);
    let error = refused(&windowed, Some(Arc::new(ForHooks(Tables::new(&device, &config)))));
    assert!(matches!(&error, ArgumentError::Unknown { name, .. } if name == "hooks.table"), "{error}");
    let plain = kernels::<Stock, Plain>(&device, &config);
    let error = refused(&plain, Some(Arc::new(Windows(WINDOWS.to_vec()))));
    assert!(matches!(error, ArgumentError::Unknown { .. }), "{error}");
}

/// Keys of 4 bits, whatever is named.
#[derive(Clone, Copy, KernelArg)]
struct FourBits {}

impl Codec for FourBits {
    fn shape(&self) -> CodecShape {
        four_bits().shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        four_bits().encode(x, tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        four_bits().decode(rows)
    }
}

fn four_bits() -> Affine {
    Affine { bits: 4.try_into().unwrap(), groups: Default::default(), meta: Default::default() }
}

#[test]
fn a_codec_of_another_shape_than_the_format_is_refused() {
    let compiler = Compiler::new(KernelCache::without_folder());
    let make = |tiering: &str| {
        let config = CacheConfig { tiering: tiering.parse().unwrap(), ..config() };
        EngineKernels::of::<Of<FourBits, FourBits>, Plain>(&compiler, &Device::reference(), &config)
    };
    let error = make("K4V4/K4V2").unwrap_err();
    let KvError::Shape { why } = &error else { panic!("{error}") };
    assert!(why.contains("values of K4V2") && why.contains("4 bits"), "{why}");
    make("K4V4").unwrap();
}
