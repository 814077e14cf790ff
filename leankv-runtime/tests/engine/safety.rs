//! What safe code cannot do: run kernels of another configuration, leave a buffer from a codec or hook, make a cache that cannot be.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use half::f16;
use leankv_dsl::format::{CodecShape, CodecSpec, HalfType};
use leankv_dsl::lang::attention::{
    AttentionHooks, Codec, CodecChoice, CodecVariant, Encoded, EncodedCodes, HookChoice, HookVariant, Plain,
    Rows, Site, Tokens, stock,
};
use leankv_dsl::lang::launch::Slice;
use leankv_dsl::lang::*;
use leankv_kernels::policy::{
    HIGH, HeadFacts, Policy, PolicyChoice, PolicySpec, PolicyVariant, StepAction, StepFacts, TokenFacts,
};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{
    CacheConfig, DeviceManager, EngineKernels, KvCache, KvError, ManagerKernels, PageManager, Thresholds,
};
use leankv_runtime::{Compiler, Device, DeviceBuffer};

use crate::common::{PLAIN, checking_devices, chunk_of, config, kernels, sound, step_of};

/// One change of a configuration.
type Change = fn(&mut CacheConfig);

#[test]
fn kernels_of_another_configuration_are_refused_by_the_names_of_what_differs() {
    let (device, base) = (Device::reference(), config());
    let built = kernels(&device, &base);
    let with = |change: Change| {
        let mut config = base.clone();
        change(&mut config);
        KvCache::with_kernels(&device, config, built.clone()).map(|_| ())
    };
    let depends: [(&str, Change); 11] = [
        ("group (2, not 3)", |c| c.group = 3),
        ("head_dim (64, not 32)", |c| c.head_dim = 32),
        ("input (f16, not f32)", |c| c.input = FloatType::F32),
        ("tierings (K8V4/K4V2, not K4V2)", |c| c.formats = "K4V2".parse().unwrap()),
        ("tierings (K8V4/K4V2, not K8V4/K4V2, fp16)", |c| c.more_formats = vec!["fp16".parse().unwrap()]),
        ("page_bytes (2048, not 4096)", |c| c.page_bytes = 4096),
        ("chunk (16, not 17)", |c| c.chunk = 17),
        ("window_q (8, not 9)", |c| c.window_q = 9),
        ("window (6, not 7)", |c| c.window = 7),
        ("sinks (1, not 2)", |c| c.sinks = 2),
        ("split_pages (the device's, not 2)", |c| c.split_pages = Some(2)),
    ];
    for (field, change) in depends {
        let error = with(change).unwrap_err();
        let KvError::OtherKernels { differ } = &error else { panic!("{field}: {error}") };
        assert_eq!(*differ, [field], "{error}");
        assert!(error.to_string().contains("build kernels with the configuration"), "{error}");
    }
    let other = PolicySpec::ALL.into_iter().map(PolicyChoice::from).find(|p| *p != base.policy).unwrap();
    let config = CacheConfig { policy: other, group: 3, ..base.clone() };
    let error = KvCache::with_kernels(&device, config, built.clone()).unwrap_err();
    let KvError::OtherKernels { differ } = &error else { panic!("{error}") };
    assert!(differ.len() == 2 && differ[1].starts_with("policy ("), "{error}");

    let independent: [Change; 7] = [
        |c| c.layers = 3,
        |c| c.kv_heads = 1,
        |c| c.pages = 40,
        |c| c.slots = 2,
        |c| c.max_tokens = 64,
        |c| c.solve_every = 3,
        |c| c.shared_budget = Some(1 << 16),
    ];
    for (number, change) in independent.into_iter().enumerate() {
        with(change).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    let error = KvCache::with_kernels(&Device::host(), base, built).unwrap_err();
    assert!(error.to_string().contains("device (reference interpreter, not host"), "{error}");
}

/// Says nothing about anything.
#[derive(Debug)]
struct Nothing;

impl CodecVariant for Nothing {
    type Params = ();

    fn given(&self, _: usize) {}
}

impl HookVariant for Nothing {
    type Params = ();

    fn hooks(&self, (): ()) -> Box<dyn AttentionHooks> {
        Box::new(Plain)
    }

    fn given(&self, _: usize) {}
}

impl PolicyVariant for Nothing {
    type Params = ();

    fn policy(&self, (): ()) -> Box<dyn Policy> {
        Box::new(Keeps)
    }

    fn given(&self) {}
}

#[test]
fn kernels_of_other_values_of_a_user_s_are_refused_though_they_have_one_name() {
    let device = Device::reference();
    let codecs = || CodecChoice::stock().with("mine", Nothing);
    let hooks = || HookChoice::plain().with("mine", Nothing);
    let policy = || PolicyChoice::user("mine", Nothing);
    let base = CacheConfig { codecs: codecs(), hooks: hooks(), policy: policy(), ..small() };
    let built = kernels(&device, &base);
    let with = |config: CacheConfig| KvCache::with_kernels(&device, config, built.clone()).map(|_| ());
    // Clones are the same values.
    with(base.clone()).unwrap();
    let refused = |config: CacheConfig, wanted: &str| {
        let error = with(config).unwrap_err();
        let KvError::OtherKernels { differ } = &error else { panic!("{error}") };
        assert_eq!(*differ, [wanted], "{error}");
    };
    let other = "another one of that name";
    refused(CacheConfig { codecs: codecs(), ..base.clone() }, &format!("codecs (+mine, not {other})"));
    refused(CacheConfig { hooks: hooks(), ..base.clone() }, &format!("hooks (+mine, not {other})"));
    refused(CacheConfig { policy: policy(), ..base.clone() }, &format!("policy (mine, not {other})"));
    let twice = base.codecs.clone().with("more", Nothing);
    refused(CacheConfig { codecs: twice, ..base.clone() }, "codecs (+mine, not +mine+more)");
    refused(CacheConfig { hooks: HookChoice::plain(), ..base.clone() }, "hooks (+mine, not none)");
    // SAFETY: it reads and writes nothing.
    let trusted = unsafe { base.codecs.clone().trusted() };
    refused(CacheConfig { codecs: trusted, ..base.clone() }, &format!("codecs (+mine, not {other})"));
    // The page that one shape asks for is that of the other.
    let liar = CodecChoice::stock().with("mine", Liar::<4>);
    refused(CacheConfig { codecs: liar, ..base }, &format!("codecs (+mine, not {other})"));
}

#[test]
fn a_page_manager_refuses_kernels_of_another_device_and_lengths_that_its_pages_have_no_room_for() {
    let device = Device::host();
    let shape = config().shape().unwrap();
    let compiler = Compiler::new(KernelCache::without_folder());
    let kernels = ManagerKernels::new(&compiler, &device, &shape).unwrap();
    let error = DeviceManager::with_kernels(&Device::reference(), shape, kernels.clone()).unwrap_err();
    assert!(matches!(error, KvError::OtherKernels { .. }), "{error}");

    let mut manager = DeviceManager::with_kernels(&device, shape, kernels).unwrap();
    let lists = shape.lists();
    manager.rebalance(&[0], &vec![2; lists * 2]).unwrap();
    let full = |high: usize| [high as i32, 0, 0, 0].repeat(lists);
    for wrong in [full(2 * shape.tokens[0] + 1), [3, 0, 4, 0].repeat(lists), [-1, 0, 0, 0].repeat(lists)] {
        assert!(matches!(manager.set_lengths(0, &wrong), Err(KvError::Shape { .. })));
    }
    assert!(matches!(manager.set_page_tokens(0, &vec![[1, 1]; lists]), Err(KvError::SlotInUse { slot: 0 })));
    assert!(matches!(manager.set_page_tokens(1, &[[1, 1]]), Err(KvError::Length { .. })));
    assert!(matches!(manager.set_page_tokens(1, &vec![[0, 1]; lists]), Err(KvError::Shape { .. })));
    manager.set_lengths(0, &full(2 * shape.tokens[0])).unwrap();
    // The pages go, the tokens are still counted: there is nothing to fork.
    manager.rebalance(&[0], &vec![1; lists * 2]).unwrap();
    assert!(matches!(manager.fork(&[(0, 1)]), Err(KvError::Shape { .. })));
}

/// Reads its tables at `at`, in every way that a view has, and adds what is there to the logits.
#[derive(Clone, Copy, KernelArg)]
pub(crate) struct Reader {
    line: View<f32, 1>,
    table: View<f32, 2>,
    at: Scalar<i64>,
}

impl AttentionHooks for Reader {
    fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
        let one = self.line.get([self.at]) + self.table.get([self.at, self.at]);
        let part = self.table.at(0, self.at);
        let row = part.get([lit(0i64)]) + part.tile(element(self.at), [4]).load().reduce_sum(0);
        // Products that wrap, numbers that are known not to be negative but for that, and places far away.
        let wide = element(program_id(0) * 2_000_000_000 + self.at.cast::<i32>());
        let tile = self.line.tile(self.at, [8]).load().reduce_sum(0)
            + self.line.tile(wide, [8]).load().reduce_sum(0)
            + self.line.tile(iota_of::<i64>(8) + self.at, [8]).load().reduce_sum(0)
            + self.table.tile((element(self.at), 0), [2, 2]).load().ravel().reduce_sum(0);
        logits + (one + row + tile)
    }
}

/// The tables, and where they are read.
#[derive(Debug)]
struct Reads {
    numbers: DeviceBuffer<f32>,
    at: Arc<AtomicI64>,
}

impl HookVariant for Reads {
    type Params = Reader;

    fn hooks(&self, reader: Reader) -> Box<dyn AttentionHooks> {
        Box::new(reader)
    }

    fn given(&self, _: usize) -> ReaderArgs<'_> {
        let at = self.at.load(Ordering::Relaxed);
        ReaderArgs { line: self.numbers.tensor([3]), table: self.numbers.tensor([1, 3]), at }
    }
}

pub(crate) fn small() -> CacheConfig {
    CacheConfig { layers: 1, kv_heads: 1, window: 3, sinks: 0, slots: 1, pages: 16, ..config() }
}

#[test]
fn a_hook_finds_zero_outside_of_its_views_wherever_it_looks() {
    let config = small();
    let outputs = |cache: &mut KvCache| {
        let id = cache.admit(5, &Thresholds::new(0.0, 0.0)).unwrap();
        let mut out = chunk_of(cache, id, 1, &PLAIN).unwrap();
        out.extend(step_of(cache, &[(id, 1)], &PLAIN).unwrap());
        out
    };
    let [reference, emulated] = checking_devices();
    for (device, most) in [(Device::host(), 7), (reference, 3), (emulated, 3)] {
        let plain = outputs(&mut crate::common::cache(&device, &config));
        let (numbers, at) = (device.upload(&[7.0f32; 3]).unwrap(), Arc::new(AtomicI64::new(0)));
        let hooks = HookChoice::plain().with("reader", Reads { numbers, at: Arc::clone(&at) });
        let config = CacheConfig { hooks, ..config.clone() };
        // The checking devices fail a launch that leaves a buffer; the host would read what lies there, or stop the process.
        for place in [3, i64::MAX, i64::MIN, -9, 1 << 20, 1 << 40, -(1 << 40)].into_iter().take(most) {
            at.store(place, Ordering::Relaxed);
            let mut cache = crate::common::cache(&device, &config);
            let got = outputs(&mut cache);
            // A wrapped place may lie inside, where 7 is added to every logit: that changes no probability.
            for (got, want) in got.iter().flatten().zip(plain.iter().flatten()) {
                assert!((got - want).abs() < 1e-3, "{place} on {}: {got}, expected {want}", device.name());
            }
            sound(&cache);
        }
    }
}

/// A parameter that nothing keeps within its buffer.
#[derive(Clone, Copy, KernelArg)]
struct Raw {
    data: Ptr<f32>,
}

impl AttentionHooks for Raw {
    fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
        logits + self.data.get(1 << 20)
    }
}

#[derive(Clone, Copy, KernelArg)]
#[expect(dead_code, reason = "it is refused for being there")]
struct Writes {
    data: ViewMut<f32, 1>,
}

impl AttentionHooks for Writes {}

#[derive(Clone, Copy, KernelArg)]
struct Address {
    data: View<f32, 1>,
}

impl AttentionHooks for Address {
    fn logits(&self, logits: Tile<f32, 2>, _: &Site) -> Tile<f32, 2> {
        logits + self.data.ptr().get(1 << 20)
    }
}

#[derive(Clone, Copy, KernelArg)]
struct Assembly {}

impl AttentionHooks for Assembly {
    fn output(&self, out: Tile<f32, 2>) -> Tile<f32, 2> {
        InlinePtx::new("ld.global.f32 $0, [0];", "=f,f").apply(out, |x| x)
    }
}

/// Extents of a view, as numbers.
#[derive(Clone, Copy, KernelArg)]
#[expect(dead_code, reason = "it is refused for being there")]
struct Extents {
    data: View<f32, 1>,
    shape0: Scalar<i64>,
}

impl AttentionHooks for Extents {}

/// Hooks that are never launched.
pub(crate) struct Unlaunched<H>(pub(crate) PhantomData<fn() -> H>);

impl<H> std::fmt::Debug for Unlaunched<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unlaunched")
    }
}

impl<H: AttentionHooks + KernelArg + 'static> HookVariant for Unlaunched<H> {
    type Params = H;

    fn hooks(&self, hooks: H) -> Box<dyn AttentionHooks> {
        Box::new(hooks)
    }

    fn given(&self, _: usize) -> H::Given<'_> {
        panic!("its kernels are not launched")
    }
}

/// Says more of its rows than they have, or less.
#[derive(Clone, Copy, Debug)]
struct Liar<const WHAT: usize>;

impl<const WHAT: usize> CodecVariant for Liar<WHAT> {
    type Params = ();

    fn keys(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(*self)
    }

    fn values(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(*self)
    }

    fn given(&self, _: usize) {}
}

impl<const WHAT: usize> Codec for Liar<WHAT> {
    fn shape(&self) -> CodecShape {
        four_bits().shape()
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        let mut encoded = stock(&four_bits()).encode(x, tokens);
        match WHAT {
            0 => encoded.meta.push(encoded.meta[0]),
            1 => encoded.codes = EncodedCodes::Words(x.cast::<f16>().bitcast()),
            _ => {}
        }
        encoded
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        match WHAT {
            2 => rows.raw::<f32>(),
            3 => rows.codes().cast::<f32>() * rows.meta(2, HalfType::F16),
            _ => stock(&four_bits()).decode(rows),
        }
    }
}

/// A codec of another width each time that it is asked.
#[derive(Debug, Default)]
struct Fickle {
    asked: Arc<AtomicU32>,
}

struct FickleCodec(Arc<AtomicU32>);

impl CodecVariant for Fickle {
    type Params = ();

    fn keys(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(FickleCodec(Arc::clone(&self.asked)))
    }

    fn given(&self, _: usize) {}
}

impl Codec for FickleCodec {
    fn shape(&self) -> CodecShape {
        let asked = self.0.fetch_add(1, Ordering::Relaxed);
        CodecShape { code_bits: 4 - asked.min(3), ..four_bits().shape() }
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        stock(&four_bits()).encode(x, tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        stock(&four_bits()).decode(rows)
    }
}

/// Keeps everything as it is.
pub(crate) struct Keeps;

impl Policy for Keeps {
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, _: &HeadFacts) -> Tile<i32, 1> {
        Tile::full(tokens.sig.extents(), HIGH)
    }

    fn step(&self, _: &StepFacts) -> StepAction {
        StepAction { victim: lit(0), demote: lit(false), evict_low: lit(false) }
    }
}

fn four_bits() -> CodecSpec {
    "affine4".parse().unwrap()
}

/// Why kernels with such a change of the configuration are refused.
pub(crate) fn refusal(change: impl FnOnce(&mut CacheConfig)) -> String {
    let compiler = Compiler::new(KernelCache::without_folder());
    let mut config = CacheConfig { formats: "K4V4".parse().unwrap(), ..small() };
    change(&mut config);
    match EngineKernels::new(&compiler, &Device::reference(), &config) {
        Err(KvError::Compile(error)) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was refused"),
    }
}

#[test]
fn codecs_hooks_and_policies_that_could_leave_their_buffers_are_refused() {
    fn hooks<H: AttentionHooks + KernelArg + 'static>() -> String {
        refusal(|c| c.hooks = HookChoice::plain().with("mine", Unlaunched::<H>(PhantomData)))
    }
    fn codecs(codecs: impl CodecVariant) -> String {
        refusal(|c| c.codecs = CodecChoice::stock().with("mine", codecs))
    }
    let policy = refusal(|c| c.policy = PolicyChoice::user("mine", Pointed));
    for (found, wanted) in [
        (hooks::<Raw>(), "`hooks.mine.data` is a raw pointer"),
        (hooks::<Writes>(), "`hooks.mine.data` is memory to write"),
        (hooks::<Address>(), "the address of a view"),
        (hooks::<Assembly>(), "inline PTX in a codec or hook"),
        (hooks::<Extents>(), "a number called `shape0`, as the shapes of views are"),
        (policy, "`policies.mine` is a raw pointer"),
        (codecs(Liar::<0>), "a codec gives codes and 3 metadata word(s), and its shape says codes and 2"),
        (codecs(Liar::<1>), "a codec gives 16-bit words"),
        (codecs(Liar::<2>), "elements of 4 bits as `f32`"),
        (codecs(Liar::<3>), "metadata word 2 of rows that have 2 each"),
    ] {
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
    // Who vouches for a raw pointer may take it.
    let compiler = Compiler::new(KernelCache::without_folder());
    // SAFETY: the kernels are not launched.
    let hooks = unsafe { HookChoice::plain().with("mine", Unlaunched::<Raw>(PhantomData)).trusted() };
    EngineKernels::new(&compiler, &Device::reference(), &CacheConfig { hooks, ..small() }).unwrap();
}

#[test]
fn what_is_added_to_a_trusted_choice_is_not_trusted() {
    // SAFETY: there is nothing in it.
    let hooks = unsafe { HookChoice::plain().trusted() };
    let found = refusal(|c| c.hooks = hooks.with("mine", Unlaunched::<Raw>(PhantomData)));
    assert!(found.contains("`hooks.mine.data` is a raw pointer"), "{found}");
    // SAFETY: as above.
    let codecs = unsafe { CodecChoice::stock().trusted() };
    let found = refusal(|c| c.codecs = codecs.with("mine", PointedCodec));
    assert!(found.contains("`codecs.mine` is a raw pointer"), "{found}");
}

/// A codec that takes a raw pointer.
#[derive(Debug)]
struct PointedCodec;

impl CodecVariant for PointedCodec {
    type Params = Ptr<f32>;

    fn given(&self, _: usize) -> Slice<'_, f32> {
        panic!("its kernels are not launched")
    }
}

#[test]
fn two_values_of_one_name_are_refused_where_they_have_parameters() {
    let device = Device::reference();
    let reads = || Reads { numbers: device.zeros(3).unwrap(), at: Arc::default() };
    let twice = HookChoice::plain().with("reader", reads()).with("reader", reads());
    let found = refusal(|c| c.hooks = twice);
    assert!(found.contains("two parameters are named `hooks.reader.line`"), "{found}");
}

/// A policy that takes a raw pointer.
#[derive(Debug)]
struct Pointed;

impl PolicyVariant for Pointed {
    type Params = Ptr<f32>;

    fn policy(&self, _: Ptr<f32>) -> Box<dyn Policy> {
        Box::new(Keeps)
    }

    fn given(&self) -> Slice<'_, f32> {
        panic!("its kernels are not launched")
    }
}

#[test]
fn a_codec_has_the_shape_that_it_said_first() {
    for device in checking_devices() {
        let codecs = CodecChoice::stock().with("fickle", Fickle::default());
        let config = CacheConfig { codecs, formats: "K4V4".parse().unwrap(), ..small() };
        let mut cache = crate::common::cache(&device, &config);
        assert_eq!(config.layouts().unwrap().0.key_shape(), four_bits().shape());
        let id = cache.admit(5, &Thresholds::new(0.0, 0.0)).unwrap();
        chunk_of(&mut cache, id, 1, &PLAIN).unwrap();
        step_of(&mut cache, &[(id, 1)], &PLAIN).unwrap();
        sound(&cache);
    }
}

/// A codec that says this of itself.
#[derive(Clone, Copy, Debug)]
struct Shaped(CodecShape);

impl CodecVariant for Shaped {
    type Params = ();

    fn keys(&self, (): (), _: Box<dyn Codec>) -> Box<dyn Codec> {
        Box::new(*self)
    }

    fn given(&self, _: usize) {}
}

impl Codec for Shaped {
    fn shape(&self) -> CodecShape {
        self.0
    }

    fn encode(&self, x: Tile<f32, 2>, tokens: Tokens) -> Encoded {
        stock(&four_bits()).encode(x, tokens)
    }

    fn decode(&self, rows: &Rows) -> Tile<f32, 2> {
        stock(&four_bits()).decode(rows)
    }
}

#[test]
fn shapes_that_no_page_can_have_are_refused_before_anything_is_compiled() {
    let compiler = Compiler::new(KernelCache::without_folder());
    let some = four_bits().shape();
    for shape in [
        CodecShape { code_bits: 0, ..some },
        CodecShape { code_bits: 9, ..some },
        CodecShape { code_bits: u32::MAX, ..some },
        CodecShape { groups: 0, ..some },
        CodecShape { groups: 3, ..some },
        CodecShape { groups: u32::MAX, ..some },
        CodecShape { meta_words: 65, ..some },
        CodecShape { meta_words: u32::MAX, ..some },
    ] {
        let codecs = CodecChoice::stock().with("shaped", Shaped(shape));
        let error = KvCache::new(&compiler, &Device::host(), CacheConfig { codecs, ..small() }).unwrap_err();
        assert!(matches!(error, KvError::Shape { .. }), "{shape:?}: {error}");
    }
    assert_eq!(compiler.cache().stats().built, 0);
}

#[test]
fn absurd_sizes_are_errors_before_anything_is_compiled_or_allocated() {
    let absurd: [(&str, Change); 16] = [
        ("bytes", |c| c.pages = i32::MAX as usize),
        ("page numbers have 31 bits", |c| c.pages = usize::MAX),
        ("split_pages", |c| c.split_pages = Some(0)),
        ("31 bits", |c| c.split_pages = Some(1 << 31)),
        ("splits of 1 pages", |c| (c.split_pages, c.max_tokens, c.pages) = (Some(1), 1 << 22, 1 << 20)),
        ("bytes", |c| {
            (c.slots, c.kv_heads, c.max_tokens, c.pages) = (65_535, 64, 1 << 19, 1 << 16);
            c.split_pages = Some(1);
        }),
        ("slots", |c| c.slots = usize::MAX),
        ("layers", |c| c.layers = 1 << 40),
        ("KV heads", |c| c.kv_heads = usize::MAX / 2),
        ("query heads", |c| c.group = usize::MAX / 2),
        ("head dim", |c| c.head_dim = usize::MAX / 8),
        ("page", |c| c.page_bytes = usize::MAX / 16 * 16),
        ("31 bits", |c| c.max_tokens = 1 << 40),
        ("table", |c| c.max_tokens = i32::MAX as usize),
        ("bytes", |c| (c.chunk, c.kv_heads, c.group) = (1 << 22, 60_000, 256)),
        ("31 bits", |c| c.window = usize::MAX),
    ];
    let compiler = Compiler::new(KernelCache::without_folder());
    for (number, (wanted, change)) in absurd.into_iter().enumerate() {
        let mut config = small();
        change(&mut config);
        let error = KvCache::new(&compiler, &Device::host(), config).unwrap_err();
        let KvError::Shape { why } = &error else { panic!("{number}: {error}") };
        assert!(why.contains(wanted), "{number}: {why}");
    }
    assert_eq!(compiler.cache().stats().built, 0);
    let mut config = small();
    config.pages = i32::MAX as usize;
    let error = KvCache::new(&compiler, &Device::host(), config).unwrap_err().to_string();
    assert!(error.contains(&(i32::MAX as u128 * 2048).to_string()), "the bytes that pages take: {error}");
}
