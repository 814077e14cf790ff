//! A user's codecs and attention hooks in the whole engine: prompts in chunks, compaction, steps and demotion, with parameters of their own
//! in every layer.

use half::f16;
use leankv_dsl::format::{CodecMath, CodecShape, CodecSpec, PageLayout};
use leankv_dsl::lang::attention::{
    AttentionHooks, Codec, CodecChoice, CodecVariant, Encoded, HookChoice, HookVariant, Rows, Site, Tokens,
    stock,
};
use leankv_dsl::lang::launch::Tensor;
use leankv_dsl::lang::*;
use leankv_runtime::kv::{CacheConfig, KvCache, KvError, RequestId, Thresholds};
use leankv_runtime::{ArgumentError, Device, DeviceBuffer, LaunchError};

use crate::common::{
    D, PLAIN, Variant, cache, checking_devices, chunk_of, config, kernels, sound, step_of, thresholds,
};
use crate::model::checked_step_of;
use crate::prompt::checked_chunk_of;

/// Offsets that layer, position and KV head determine.
#[derive(Clone, Copy, KernelArg)]
struct Offsets {
    /// `[kv_heads, positions, head_dim]` of the layer.
    table: View<f32, 3>,
}

/// Keys without their offset; what is left is coded as the codec below does.
struct Offset {
    offsets: Offsets,
    inner: Box<dyn Codec>,
}

impl Offset {
    fn of(&self, tokens: Tokens, [rows, dim]: [usize; 2]) -> Tile<f32, 2> {
        self.offsets.table.tile((tokens.head, tokens.positions, 0), [1, rows, dim]).load().squeeze(0)
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
impl AttentionHooks for Offsets {
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

/// Tables of [`offset`], one a layer.
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

    fn of(&self, layer: usize) -> Tensor<'_, f32, 3> {
        self.layers[layer].tensor(self.extents)
    }
}

/// The codec of keys as a value.
#[derive(Debug)]
struct OffsetKeys(Tables);

impl CodecVariant for OffsetKeys {
    type Params = Offsets;

    fn keys(&self, offsets: Offsets, inner: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(Offset { offsets, inner })
    }

    fn given(&self, layer: usize) -> OffsetsArgs<'_> {
        OffsetsArgs { table: self.0.of(layer) }
    }
}

/// The hooks as a value.
#[derive(Debug)]
struct OffsetLogits(Tables);

impl HookVariant for OffsetLogits {
    type Params = Offsets;

    fn hooks(&self, offsets: Offsets) -> Box<dyn AttentionHooks> {
        Box::new(offsets)
    }

    fn given(&self, layer: usize) -> OffsetsArgs<'_> {
        OffsetsArgs { table: self.0.of(layer) }
    }
}

const OFFSET: Variant = Variant { offset, ..PLAIN };

/// The configuration with keys without their offset.
fn with_offset(device: &Device, config: &CacheConfig) -> CacheConfig {
    let keys = OffsetKeys(Tables::new(device, config));
    CacheConfig { codecs: CodecChoice::stock().with("offset", keys), ..config.clone() }
}

/// Tokens in the low tier, and dropped ones.
fn low_and_pruned(cache: &KvCache, id: RequestId) -> (usize, usize) {
    let stats = cache.stats(id).unwrap();
    stats.heads.iter().fold((0, 0), |(low, pruned), head| (low + head.low, pruned + head.pruned))
}

/// A prompt and some steps, with every output, key and significance checked.
fn checked(config: &CacheConfig, device: &Device, [prompt, steps]: [usize; 2], variant: &Variant) -> KvCache {
    let mut cache = cache(device, config);
    let small = config.slots == 1;
    let (sequence, thresholds) = if small { (9, Thresholds::new(1.2, 0.5)) } else { (3, thresholds()) };
    let id = cache.admit(prompt, &thresholds).unwrap();
    while cache.tokens(id).unwrap() < prompt {
        checked_chunk_of(&mut cache, config, id, sequence, variant);
    }
    for _ in 0..steps {
        checked_step_of(&mut cache, config, id, prompt, sequence, variant);
    }
    let (low, pruned) = low_and_pruned(&cache, id);
    assert!(low > 0 && (small || pruned > 0), "{low} low, {pruned} dropped");
    cache
}

#[test]
fn a_key_offset_of_each_layer_works_through_prompts_steps_and_demotion() {
    let device = Device::host();
    checked(&with_offset(&device, &config()), &device, [58, 12], &OFFSET);
}

#[test]
fn taking_an_offset_out_is_the_same_as_adding_it_to_the_logits_of_keys_without_it() {
    let (config, device) = (config(), Device::host());
    let mut with = cache(&device, &with_offset(&device, &config));
    let hooks = HookChoice::plain().with("offset", OffsetLogits(Tables::new(&device, &config)));
    let mut without = cache(&device, &CacheConfig { hooks, ..config });
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
    for device in checking_devices() {
        checked(&with_offset(&device, &small()), &device, [20, 3], &OFFSET);
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

/// A window for each layer.
#[derive(Debug)]
struct Windows(Vec<i32>);

impl HookVariant for Windows {
    type Params = Windowed;

    fn hooks(&self, windowed: Windowed) -> Box<dyn AttentionHooks> {
        Box::new(windowed)
    }

    fn given(&self, layer: usize) -> WindowedArgs<'_> {
        WindowedArgs { window: self.0[layer] }
    }
}

const WINDOWS: [i32; 2] = [5, 23];
const WINDOWED: Variant =
    Variant { logit: |layer, query, key, x| (query - key < WINDOWS[layer]).then_some(x), ..PLAIN };

fn windows() -> HookChoice {
    HookChoice::plain().with("window", Windows(WINDOWS.to_vec()))
}

#[test]
fn a_sliding_window_of_each_layer_works_through_prompts_and_steps() {
    // Each split adds the significance of its own pages.
    for split_pages in [None, Some(2)] {
        let config = CacheConfig { split_pages, hooks: windows(), ..config() };
        checked(&config, &Device::host(), [50, 10], &WINDOWED);
    }
}

#[test]
fn a_sliding_window_holds_on_devices_that_check_every_access() {
    for device in checking_devices() {
        checked(&CacheConfig { hooks: windows(), ..small() }, &device, [20, 3], &WINDOWED);
    }
}

#[test]
fn a_window_and_a_key_offset_work_together() {
    let both = Variant { offset, ..WINDOWED };
    let with_both = |device: &Device, config: CacheConfig| CacheConfig {
        hooks: windows(),
        ..with_offset(device, &config)
    };
    let host = Device::host();
    checked(&with_both(&host, config()), &host, [50, 10], &both);
    for device in checking_devices() {
        checked(&with_both(&device, small()), &device, [20, 3], &both);
    }
}

/// Every third key is not seen, and logits of others become `slope x - x distance / 64`.
#[derive(Clone, Copy, KernelArg)]
struct Sloped {
    slope: Scalar<f32>,
}

impl AttentionHooks for Sloped {
    fn logits(&self, logits: Tile<f32, 2>, site: &Site) -> Tile<f32, 2> {
        let distance = site.queries.expand_dims(1) - site.keys.expand_dims(0);
        logits * self.slope - distance.cast::<f32>() * (1.0 / 64.0)
    }

    fn mask(&self, site: &Site) -> Option<Tile<bool, 2>> {
        let distance = site.queries.expand_dims(1) - site.keys.expand_dims(0);
        Some((distance % 3).ne(1))
    }
}

/// A slope for each layer.
#[derive(Debug)]
struct Slopes([f32; 2]);

impl HookVariant for Slopes {
    type Params = Sloped;

    fn hooks(&self, sloped: Sloped) -> Box<dyn AttentionHooks> {
        Box::new(sloped)
    }

    fn given(&self, layer: usize) -> SlopedArgs<'_> {
        SlopedArgs { slope: self.0[layer] }
    }
}

const SLOPES: [f32; 2] = [0.5, 1.25];

fn sloped(slope: f32, query: i32, key: i32, logit: f64) -> Option<f64> {
    let distance = query - key;
    (distance % 3 != 1).then(|| logit * f64::from(slope) - f64::from(distance) / 64.0)
}

#[test]
fn hooks_stand_on_each_other_in_their_order_and_masks_agree() {
    // The second slope is of what the first one left: the other order would give other numbers.
    let stacked = Variant {
        logit: |layer, query, key, x| {
            let once = sloped(SLOPES[layer], query, key, x)?;
            let twice = sloped(SLOPES[1 - layer], query, key, once)?;
            (query - key < WINDOWS[layer]).then_some(twice)
        },
        ..PLAIN
    };
    let turned = [SLOPES[1], SLOPES[0]];
    let hooks = windows().with("first", Slopes(SLOPES)).with("second", Slopes(turned));
    assert_eq!(hooks.to_string(), "+window+first+second");
    checked(&CacheConfig { hooks: hooks.clone(), ..config() }, &Device::host(), [50, 10], &stacked);
    for device in checking_devices() {
        checked(&CacheConfig { hooks: hooks.clone(), ..small() }, &device, [20, 3], &stacked);
    }
}

#[test]
fn what_does_not_fit_the_parameters_of_any_layer_is_found_before_there_is_a_cache() {
    let (base, device) = (config(), Device::host());
    let mut tables = Tables::new(&device, &base);
    // A table of the last layer that is too short.
    tables.layers[1] = device.zeros(7).unwrap();
    let codecs = CodecChoice::stock().with("offset", OffsetKeys(tables));
    let config = CacheConfig { codecs, ..base.clone() };
    let refused = |config: &CacheConfig| {
        let kernels = kernels(&device, config);
        match KvCache::with_kernels(&device, config.clone(), kernels).unwrap_err() {
            KvError::Launch(LaunchError::Argument(error)) => error,
            other => panic!("{other}"),
        }
    };
    let error = refused(&config);
    assert!(matches!(error, ArgumentError::Short { len: 7, .. }), "{error}");
    assert!(error.to_string().contains("`codecs.offset.table`"), "{error}");
    // Tables on another device.
    let hooks = HookChoice::plain().with("offset", OffsetLogits(Tables::new(&Device::reference(), &base)));
    let error = refused(&CacheConfig { hooks, ..base });
    assert!(matches!(error, ArgumentError::Device { .. }), "{error}");
    assert!(error.to_string().contains("`hooks.offset.table`"), "{error}");
}

/// Five bits around the mean of a row, whose metadata are scale, zero and that mean.
struct AroundMean;

fn five_bits() -> CodecSpec {
    "affine5".parse().unwrap()
}

impl Codec for AroundMean {
    fn shape(&self) -> CodecShape {
        CodecShape { code_bits: 5, groups: 1, meta_words: 3 }
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        let [_, dim] = x.extents();
        let mean = (x.reduce_sum(1) * (1.0 / dim as f32)).cast::<f16>().expand_dims(1);
        let mut encoded = stock(&five_bits()).encode(x - mean.cast::<f32>(), tokens);
        encoded.meta.push(mean.bitcast());
        encoded
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        stock(&five_bits()).decode(rows) + rows.meta(2, leankv_dsl::format::HalfType::F16)
    }
}

impl CodecMath for AroundMean {
    fn shape(&self) -> CodecShape {
        Codec::shape(self)
    }

    fn encode_group(&self, x: &[f32], codes: &mut [u16], meta: &mut [u16]) {
        let mean = f16::from_f32(x.iter().sum::<f32>() / x.len() as f32);
        let x: Vec<f32> = x.iter().map(|x| x - mean.to_f32()).collect();
        five_bits().encode_group(&x, codes, &mut meta[..2]);
        meta[2] = mean.to_bits();
    }

    fn decode_group(&self, codes: &[u16], meta: &[u16], x: &mut [f32]) {
        five_bits().decode_group(codes, &meta[..2], x);
        x.iter_mut().for_each(|x| *x += f16::from_bits(meta[2]).to_f32());
    }
}

/// Keys around their mean, whatever is named.
#[derive(Debug)]
struct MeanKeys;

impl CodecVariant for MeanKeys {
    type Params = ();

    fn keys(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(AroundMean)
    }

    fn given(&self, _: usize) {}
}

#[test]
fn pages_follow_the_shape_of_a_user_s_codec_under_the_name_of_another() {
    let codecs = CodecChoice::stock().with("mean", MeanKeys);
    let mean = Variant { keys: Some(&AroundMean), ..PLAIN };
    let one = CacheConfig { formats: "K8V4".parse().unwrap(), codecs: codecs.clone(), ..config() };
    // 40 bytes of codes and 6 of metadata instead of 64 and 4: 21 tokens a page instead of 16.
    let layout = one.layouts().unwrap().0;
    let values = "affine4".parse::<CodecSpec>().unwrap().shape();
    assert_eq!(layout, PageLayout::from_shapes(Codec::shape(&AroundMean), values, 64, 2048).unwrap());
    assert_eq!((layout.keys().row_bytes, layout.key_meta().row_bytes), (40, 6));
    assert_eq!(one.page_tokens(one.formats.usual()).unwrap(), [21, 21]);
    let plain = CacheConfig { codecs: CodecChoice::stock(), ..one.clone() };
    assert_eq!(plain.page_tokens(plain.formats.usual()).unwrap(), [16, 16]);

    // What is kept lies in as many pages as the shape says.
    let mut kept = cache(&Device::host(), &one);
    let id = kept.admit(58, &Thresholds::new(0.0, 0.0)).unwrap();
    while kept.tokens(id).unwrap() < 58 {
        checked_chunk_of(&mut kept, &one, id, 3, &mean);
    }
    for _ in 0..12 {
        checked_step_of(&mut kept, &one, id, 58, 3, &mean);
    }
    let stats = kept.stats(id).unwrap();
    assert!(stats.heads.iter().all(|head| (head.high, head.pages) == (70, 4)), "{stats:?}");
    let table = one.shape().unwrap().table_len * 4;
    assert_eq!(stats.bytes, one.lists() * (4 * one.page_bytes + table));

    // With a low tier, a token is coded twice.
    let two = CacheConfig { codecs, ..config() };
    checked(&two, &Device::host(), [58, 12], &mean);
    for device in checking_devices() {
        checked(&CacheConfig { codecs: two.codecs.clone(), ..small() }, &device, [20, 3], &mean);
    }
}

#[test]
fn a_codec_around_one_of_another_shape_keeps_that_shape() {
    let device = Device::host();
    let base = with_offset(&device, &config());
    let keys = OffsetKeys(Tables::new(&device, &base));
    let codecs = CodecChoice::stock().with("mean", MeanKeys).with("offset", keys);
    assert_eq!(codecs.to_string(), "+mean+offset");
    let config = CacheConfig { codecs, ..base };
    assert_eq!(config.layouts().unwrap().0.key_shape(), Codec::shape(&AroundMean));
    checked(&config, &device, [58, 12], &Variant { keys: Some(&AroundMean), ..OFFSET });
}
