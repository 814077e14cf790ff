//! What safe code cannot do: run kernels of another configuration, leave a buffer from a codec or hook, make a cache that cannot be.

use std::sync::Arc;

use half::f16;
use leankv_dsl::format::{CodecShape, CodecSpec, HalfType};
use leankv_dsl::lang::attention::{
    AttentionHooks, Codec, Codecs, Encoded, EncodedCodes, Of, Plain, Rows, Site, Stock, Tokens, stock,
};
use leankv_dsl::lang::*;
use leankv_kernels::policy::PolicySpec;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{
    Bindings, Binds, CacheConfig, DeviceManager, EngineKernels, Input, KvCache, KvError, ManagerKernels,
    PageManager, Thresholds,
};
use leankv_runtime::{ArgumentError, Compiler, Device, DeviceBuffer, Kernel, Launch, LaunchError};

use crate::common::{PLAIN, checking_devices, chunk_of, config, kernels, sound, step_of};

/// One change of a configuration.
type Change = fn(&mut CacheConfig);

#[test]
fn kernels_of_another_configuration_are_refused_by_the_names_of_what_differs() {
    let (device, base) = (Device::reference(), config());
    let built = kernels::<Stock, Plain>(&device, &base);
    let with = |change: Change| {
        let mut config = base.clone();
        change(&mut config);
        KvCache::with_kernels(&device, config, built.clone()).map(|_| ())
    };
    let depends: [(&str, Change); 11] = [
        ("group (2, not 3)", |c| c.group = 3),
        ("head_dim (64, not 32)", |c| c.head_dim = 32),
        ("input (f16, not f32)", |c| c.input = Input::F32),
        ("tierings (K8V4/K4V2, not K4V2)", |c| c.tiering = "K4V2".parse().unwrap()),
        ("tierings (K8V4/K4V2, not K8V4/K4V2, fp16)", |c| c.more_tierings = vec!["fp16".parse().unwrap()]),
        ("page_bytes (2048, not 4096)", |c| c.page_bytes = 4096),
        ("chunk (16, not 17)", |c| c.chunk = 17),
        ("window_q (8, not 9)", |c| c.window_q = 9),
        ("window (6, not 7)", |c| c.window = 7),
        ("sinks (1, not 2)", |c| c.sinks = 2),
        ("splits (1, not 2)", |c| c.splits = 2),
    ];
    for (field, change) in depends {
        let error = with(change).unwrap_err();
        let KvError::OtherKernels { differ } = &error else { panic!("{field}: {error}") };
        assert_eq!(*differ, [field], "{error}");
        assert!(error.to_string().contains("build kernels with the configuration"), "{error}");
    }
    let other = PolicySpec::ALL.into_iter().find(|policy| *policy != base.policy).unwrap();
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
    assert!(matches!(manager.set_page_tokens(0, [1, 1]), Err(KvError::SlotInUse { slot: 0 })));
    manager.set_lengths(0, &full(2 * shape.tokens[0])).unwrap();
    // The pages go, the tokens are still counted: there is nothing to fork.
    manager.rebalance(&[0], &vec![1; lists * 2]).unwrap();
    assert!(matches!(manager.fork(&[(0, 1)]), Err(KvError::Shape { .. })));
}

/// Reads its tables at `at`, in every way that a view has, and adds what is there to the logits.
#[derive(Clone, Copy, KernelArg)]
struct Reader {
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

#[derive(Debug)]
struct Reads {
    numbers: DeviceBuffer<f32>,
    at: i64,
}

impl Bindings for Reads {
    fn bind<'a>(&'a self, launch: Launch<'a>, _: usize, binds: Binds) -> Launch<'a> {
        if !binds.hooks {
            return launch;
        }
        let launch =
            launch.view("hooks.line", &self.numbers, &[3]).view("hooks.table", &self.numbers, &[1, 3]);
        launch.scalar("hooks.at", self.at)
    }
}

fn small() -> CacheConfig {
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
        let kernels = kernels::<Stock, Reader>(&device, &config);
        // The checking devices fail a launch that leaves a buffer; the host would read what lies there, or stop the process.
        for at in [3, i64::MAX, i64::MIN, -9, 1 << 20, 1 << 40, -(1 << 40)].into_iter().take(most) {
            let numbers = device.upload(&[7.0f32; 3]).unwrap();
            let bindings = Arc::new(Reads { numbers, at });
            let mut cache =
                KvCache::with_bindings(&device, config.clone(), kernels.clone(), Some(bindings)).unwrap();
            let got = outputs(&mut cache);
            // A wrapped place may lie inside, where 7 is added to every logit: that changes no probability.
            for (got, want) in got.iter().flatten().zip(plain.iter().flatten()) {
                assert!((got - want).abs() < 1e-3, "{at} on {}: {got}, expected {want}", device.name());
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

/// Says more of its rows than they have, or less.
#[derive(Clone, Copy, KernelArg)]
struct Liar<const WHAT: usize> {}

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

fn four_bits() -> CodecSpec {
    "affine4".parse().unwrap()
}

fn refusal<C, H>() -> String
where
    C: Codecs + KernelArg + 'static,
    H: AttentionHooks + KernelArg + 'static,
{
    let compiler = Compiler::new(KernelCache::without_folder());
    let config = CacheConfig { tiering: "K4V4".parse().unwrap(), ..small() };
    match EngineKernels::of::<C, H>(&compiler, &Device::reference(), &config) {
        Err(KvError::Compile(error)) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was refused"),
    }
}

#[test]
fn codecs_and_hooks_that_could_leave_their_buffers_are_refused() {
    type Lies<const WHAT: usize> = Of<Liar<WHAT>, Liar<WHAT>>;
    for (found, wanted) in [
        (refusal::<Stock, Raw>(), "`hooks.data` is a raw pointer"),
        (refusal::<Stock, Writes>(), "`hooks.data` is memory to write"),
        (refusal::<Stock, Address>(), "the address of a view"),
        (refusal::<Stock, Assembly>(), "inline PTX in a codec or hook"),
        (
            refusal::<Lies<0>, Plain>(),
            "a codec gives codes and 3 metadata word(s), and its shape says codes and 2",
        ),
        (refusal::<Lies<1>, Plain>(), "a codec gives 16-bit words"),
        (refusal::<Lies<2>, Plain>(), "elements of 4 bits as `f32`"),
        (refusal::<Lies<3>, Plain>(), "metadata word 2 of rows that have 2 each"),
    ] {
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
    // Who vouches for a raw pointer may take it.
    let compiler = Compiler::new(KernelCache::without_folder());
    // SAFETY: the kernels are not launched.
    let built = unsafe { EngineKernels::of_trusted::<Stock, Raw>(&compiler, &Device::reference(), &small()) };
    built.unwrap();
}

/// A user's kernel that could write anywhere.
#[kernel]
fn anywhere(at: Scalar<i64>, to: PtrMut<f32>) {
    to.set(at, 1.0);
}

/// Gives a launch of its own back.
#[derive(Debug)]
struct Exchanging(Kernel);

impl Bindings for Exchanging {
    fn bind<'a>(&'a self, launch: Launch<'a>, _: usize, binds: Binds) -> Launch<'a> {
        if binds.hooks { self.0.launch(1) } else { launch }
    }
}

/// Gives the extents of a view without its buffer.
#[derive(Debug)]
struct Extents(DeviceBuffer<f32>);

impl Bindings for Extents {
    fn bind<'a>(&'a self, launch: Launch<'a>, _: usize, binds: Binds) -> Launch<'a> {
        if !binds.hooks {
            return launch;
        }
        launch.buffer("hooks.line", &self.0).scalar("hooks.line.shape0", 1i64 << 40)
    }
}

#[test]
fn bindings_add_to_the_launch_that_they_are_given_and_extents_come_with_their_buffers() {
    let (config, device) = (small(), Device::reference());
    let compiler = Compiler::new(KernelCache::without_folder());
    let refused = |kernels: &EngineKernels, bindings: Arc<dyn Bindings>| match KvCache::with_bindings(
        &device,
        config.clone(),
        kernels.clone(),
        Some(bindings),
    ) {
        Err(KvError::Launch(LaunchError::Argument(error))) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was refused"),
    };
    let own = compiler.kernel(&device, &anywhere::build(&AnywhereSpec {}).unwrap()).unwrap();
    let error = refused(&kernels::<Stock, Plain>(&device, &config), Arc::new(Exchanging(own)));
    assert!(matches!(&error, ArgumentError::Exchanged { got, .. } if got == "anywhere"), "{error}");
    let line = device.zeros(3).unwrap();
    let error = refused(&kernels::<Stock, Reader>(&device, &config), Arc::new(Extents(line)));
    assert!(matches!(&error, ArgumentError::PartOfView { view, .. } if view == "hooks.line"), "{error}");
}

#[test]
fn absurd_sizes_are_errors_before_anything_is_compiled_or_allocated() {
    let absurd: [(&str, Change); 14] = [
        ("bytes", |c| c.pages = i32::MAX as usize),
        ("page numbers have 31 bits", |c| c.pages = usize::MAX),
        ("splits", |c| c.splits = 65_536),
        ("bytes", |c| (c.slots, c.kv_heads, c.max_tokens, c.splits) = (65_535, 64, 1 << 19, 256)),
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
