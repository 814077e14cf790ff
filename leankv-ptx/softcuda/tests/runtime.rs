//! The runtime's GPU path, from a kernel through cudarc and the driver interface to results: on a real GPU where there
//! is one, on this library otherwise.

mod common;
#[path = "../../../leankv-runtime/tests/scaling/mod.rs"]
mod scaling;

use common::Case;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use leankv_dsl::lang::*;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::device::Kind;
use leankv_runtime::kv::{CacheConfig, EngineKernels, KvCache, KvError, RequestId, RequestStats, Thresholds};
use leankv_runtime::{Compiler, Device, DeviceBuffer, DeviceError, KernelOf};
use scaling::{ScaleSpec, scale, scaled};

const ONE: (&str, &str) = ("SOFTCUDA_DEVICES", "1");
const DEFERRED: (&str, &str) = ("SOFTCUDA_ORDER", "deferred");
const FAIL: (&str, &str) = ("SOFTCUDA_ON_FINDING", "fail");

static CASES: &[Case] = &[
    Case { name: "a_kernel_from_source_to_results", vars: &[ONE, FAIL], run: compile_and_launch },
    Case {
        name: "a_kernel_on_an_a100",
        vars: &[ONE, FAIL, ("SOFTCUDA_ARCH", "sm_80")],
        run: compile_and_launch,
    },
    Case { name: "a_kernel_deferred", vars: &[ONE, FAIL, DEFERRED], run: compile_and_launch },
    Case { name: "a_reduction_through_shared_memory", vars: &[ONE, FAIL], run: reduction },
    Case { name: "buffers_in_parts", vars: &[ONE], run: buffers },
    Case { name: "streams_and_events", vars: &[ONE, FAIL], run: streams },
    Case { name: "streams_and_events_deferred", vars: &[ONE, FAIL, DEFERRED], run: streams },
    Case { name: "a_caller_s_own_stream", vars: &[ONE, FAIL, DEFERRED], run: foreign_stream },
    Case { name: "a_decode_step_is_a_graph", vars: &[ONE, FAIL], run: decode_step_as_graph },
    Case {
        name: "a_decode_step_is_a_graph_deferred",
        vars: &[ONE, FAIL, DEFERRED],
        run: decode_step_as_graph,
    },
    Case {
        name: "a_decode_step_of_a_mixed_batch_is_a_graph",
        vars: &[ONE, FAIL, DEFERRED],
        run: decode_step_of_a_mixed_batch_as_graph,
    },
    Case { name: "typed_errors", vars: &[ONE], run: errors },
];

/// Cases that break their context on purpose, or look at the emulator's own behaviour.
static EMULATED_ONLY: &[Case] = &[
    Case { name: "no_device_is_a_typed_error", vars: &[], run: no_device },
    Case { name: "an_overrun_poisons_the_device", vars: &[ONE], run: overrun },
];

/// Whether a driver with a device is there, this library aside.
fn has_real_device() -> bool {
    Device::cuda_count().is_ok_and(|count| count > 0)
}

fn main() -> std::process::ExitCode {
    let child = std::env::var_os(common::CASE).is_some();
    if !child && has_real_device() {
        return common::main(&[CASES], true);
    }
    common::main(&[CASES, EMULATED_ONLY], false)
}

/// `out[program] = max(x[program, ..])` over rows of 512.
#[kernel]
fn row_max(#[arg(align = 16)] x: Ptr<f32>, out: PtrMut<f32>) {
    let row = x.load(program_id(0) * 512 + iota(512));
    out.set(program_id(0), row.reduce_max(0));
}

fn load<K: TypedKernel>(device: &Device, kernel: &K, spec: &K::Spec) -> KernelOf<K> {
    Compiler::new(KernelCache::without_folder()).load(device, kernel, spec).expect("the kernel compiles")
}

fn gpu() -> Device {
    let device = Device::cuda(0).expect("there is a device");
    assert_eq!(device.kind(), Kind::Cuda);
    device
}

fn compile_and_launch() {
    const N: usize = 1000;
    let device = gpu();
    let kernel = load(&device, &scale::KERNEL, &ScaleSpec {});
    let x: Vec<f32> = (0..N).map(|i| i as f32 - 500.0).collect();
    let input = device.upload(&x).unwrap();
    // One element more than is written, to see that the mask holds.
    let mut out = device.upload(&vec![7.0f32; N + 1]).unwrap();
    let launch = scaled(&kernel, N.div_ceil(64) as u32, &input, &mut out, N as i32, 0.5);
    // SAFETY: the mask keeps every access below `n`, which is the buffers' length.
    unsafe { launch.run() }.unwrap();
    let out = out.to_vec().unwrap();
    assert!(out[..N].iter().zip(&x).all(|(out, x)| *out == x * 0.5));
    assert_eq!(out[N], 7.0);
}

fn reduction() {
    let device = gpu();
    let kernel = load(&device, &row_max::KERNEL, &RowMaxSpec {});
    let x: Vec<f32> = (0..4 * 512).map(|i| ((i * 37) % 1009) as f32).collect();
    let input = device.upload(&x).unwrap();
    let mut out = device.zeros::<f32>(4).unwrap();
    let launch = kernel.launch(4, RowMaxArgs { x: (&input).into(), out: (&mut out).into() });
    // SAFETY: four rows of 512, four results.
    unsafe { launch.run() }.unwrap();
    let expected: Vec<f32> = x.chunks(512).map(|row| row.iter().copied().fold(f32::MIN, f32::max)).collect();
    assert_eq!(out.to_vec().unwrap(), expected);
}

fn buffers() {
    let device = gpu();
    let mut buffer = device.upload(&[1i32, 2, 3, 4]).unwrap();
    buffer.write_at(2, &[30, 40]).unwrap();
    assert_eq!(buffer.to_vec().unwrap(), [1, 2, 30, 40]);
    let mut part = [0; 2];
    buffer.slice(1..=2).unwrap().read_into(&mut part).unwrap();
    assert_eq!(part, [2, 30]);
    buffer.copy_within(2..4, 0).unwrap();
    assert_eq!(buffer.to_vec().unwrap(), [30, 40, 30, 40]);
    assert!(device.upload::<u8>(&[]).unwrap().to_vec().unwrap().is_empty());
    assert!(matches!(device.zeros::<u8>(1 << 45), Err(DeviceError::OutOfMemory { .. })));
}

fn streams() {
    let device = gpu();
    let kernel = load(&device, &scale::KERNEL, &ScaleSpec {});
    let (first, second) = (device.new_stream().unwrap(), device.new_stream().unwrap());
    let input = device.upload(&[2.0f32; 64]).unwrap();
    let mut middle = device.zeros::<f32>(64).unwrap();
    let mut out = device.zeros::<f32>(64).unwrap();
    let before = first.record().unwrap();
    let launch = scaled(&kernel, 1, &input, &mut middle, 64, 3.0).on(&first);
    // SAFETY: one program of 64 elements.
    unsafe { launch.run() }.unwrap();
    let done = first.record().unwrap();
    second.wait(&done).unwrap();
    let launch = scaled(&kernel, 1, &middle, &mut out, 64, 5.0).on(&second);
    // SAFETY: as above.
    unsafe { launch.run() }.unwrap();
    done.synchronize().unwrap();
    assert!(before.elapsed_ms(&done).unwrap() >= 0.0);
    second.synchronize().unwrap();
    assert_eq!(out.to_vec().unwrap(), [30.0; 64]);
}

fn foreign_stream() {
    let owner = cudarc::driver::CudaContext::new(0).unwrap();
    let stream = owner.new_stream().unwrap();
    // SAFETY: the stream is of the primary context and outlives the device.
    let device = unsafe { Device::cuda_on_stream(0, stream.cu_stream() as usize) }.unwrap();
    let kernel = load(&device, &scale::KERNEL, &ScaleSpec {});
    let input = device.upload(&[2.0f32; 64]).unwrap();
    let mut out = device.zeros::<f32>(64).unwrap();
    let launch = scaled(&kernel, 1, &input, &mut out, 64, 4.0);
    // SAFETY: one program of 64 elements.
    unsafe { launch.run() }.unwrap();
    assert_eq!(out.to_vec().unwrap(), [8.0; 64]);
    assert!(matches!(device.new_stream(), Err(DeviceError::ForeignStream)));
}

/// A decode step of requests of one format, all of whose tokens beyond the window are demoted, a token in each step.
fn decode_step_as_graph() {
    let held = replayed(&[0; 2].map(|_| ("K8V4/K4V2", Thresholds::new(50.0, 0.0))));
    let low: usize = held[0].heads.iter().map(|head| head.low).sum();
    assert!(low > 2 * 16, "{low} tokens were demoted, more than a page of each list holds");
}

/// A batch of two formats, in which a request has a budget: thresholds are solved for again between replays.
fn decode_step_of_a_mixed_batch_as_graph() {
    let budget = 4 * 1024;
    let none = Thresholds::new(0.0, 0.0);
    let held =
        replayed(&[("K8V4/K4V2", none.clone()), ("K4V4", none), ("K8V4/K4V2", Thresholds::within(budget))]);
    let kept = |stats: &RequestStats| stats.heads.iter().map(|head| head.high + head.low).sum::<usize>();
    let pages = |stats: &RequestStats| stats.heads.iter().map(|head| head.pages).sum::<usize>();
    assert_eq!([0, 1].map(|i| kept(&held[i])), [44; 2], "of two lists nothing is dropped");
    assert!(held[2].heads.iter().all(|head| head.low > 0), "{:?}", held[2]);
    assert!(pages(&held[2]) * 1024 <= budget && pages(&held[0]) * 1024 > budget, "{held:?}");
}

/// A decode step of the LeanKV cache, captured once and replayed until there are 22 tokens, beside a cache that takes the same steps launch by
/// launch. Gives what the requests hold.
fn replayed(requests: &[(&str, Thresholds)]) -> Vec<RequestStats> {
    type Rows = DeviceBuffer<f32>;
    let owner = cudarc::driver::CudaContext::new(0).unwrap();
    let stream = owner.new_stream().unwrap();
    // SAFETY: the stream is of the primary context and outlives the device.
    let device = unsafe { Device::cuda_on_stream(0, stream.cu_stream() as usize) }.unwrap();
    let config = CacheConfig {
        input: FloatType::F32,
        page_bytes: 1024,
        chunk: 16,
        window_q: 8,
        window: 3,
        sinks: 0,
        solve_every: 4,
        more_formats: vec!["K4V4".parse().unwrap()],
        ..CacheConfig::new([2, 1, 2, 64], 3, 64, 36)
    };
    let compiler = Compiler::new(KernelCache::without_folder());
    let kernels = EngineKernels::new(&compiler, &device, &config).unwrap();
    let cache = || KvCache::with_kernels(&device, config.clone(), kernels.clone()).unwrap();
    let (mut captured, mut plain) = (cache(), cache());
    let admit = |cache: &mut KvCache| -> Vec<RequestId> {
        let admit = |(tiering, thresholds): &(&str, Thresholds)| {
            cache.admit_as(&tiering.parse().unwrap(), 0, thresholds).unwrap()
        };
        requests.iter().map(admit).collect()
    };
    let (ids, others) = (admit(&mut captured), admit(&mut plain));

    let numbers = |seed: usize, len: usize| -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 101) % 127) as f32 / 63.0 - 1.0).collect()
    };
    let row = config.head_dim * ids.len();
    let mut q = device.upload(&numbers(0, row * config.group)).unwrap();
    let (mut k, mut v) = (device.upload(&numbers(1, row)).unwrap(), device.upload(&numbers(2, row)).unwrap());
    let layers = config.layers;
    let step = |cache: &mut KvCache, ids: &[RequestId], q: &Rows, k: &Rows, v: &Rows| {
        let mut step = cache.decode_step(ids).unwrap();
        for _ in 0..layers {
            step.layer(q, k, v).unwrap();
        }
        step.finish().unwrap();
    };
    let same = |captured: &KvCache, plain: &KvCache, turn: usize| {
        assert_eq!(captured.dump().unwrap(), plain.dump().unwrap(), "turn {turn}");
        let arenas = [captured, plain].map(|cache| cache.manager().state().arena.to_vec().unwrap());
        assert!(arenas[0] == arenas[1], "turn {turn}: every byte of every page is the same");
        assert_eq!(captured.audit().unwrap(), [], "turn {turn}");
    };
    let write = |turn: usize, q: &mut Rows, k: &mut Rows, v: &mut Rows| {
        q.write(&numbers(3 * turn, row * config.group)).unwrap();
        k.write(&numbers(3 * turn + 1, row)).unwrap();
        v.write(&numbers(3 * turn + 2, row)).unwrap();
    };
    for turn in 0..2 {
        write(turn, &mut q, &mut k, &mut v);
        step(&mut captured, &ids, &q, &k, &v);
        step(&mut plain, &others, &q, &k, &v);
    }
    same(&captured, &plain, 2);

    // From here on the host neither copies to the device nor waits for it: a stream that is captured allows none of it.
    write(2, &mut q, &mut k, &mut v);
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    step(&mut captured, &ids, &q, &k, &v);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    graph.launch().unwrap();
    step(&mut plain, &others, &q, &k, &v);
    same(&captured, &plain, 3);
    // Enough steps for the first page of the low tier, and its second.
    for turn in 3..22 {
        write(turn, &mut q, &mut k, &mut v);
        captured.replay_step(&ids).unwrap();
        graph.launch().unwrap();
        step(&mut plain, &others, &q, &k, &v);
        same(&captured, &plain, turn);
    }
    assert_eq!(captured.tokens(ids[0]).unwrap(), 22);
    let held = ids.iter().map(|&id| captured.stats(id).unwrap()).collect();
    // A step of other requests is no replay of this one.
    assert!(matches!(captured.replay_step(&ids[..1]), Err(KvError::NotReplayable)));
    step(
        &mut captured,
        &ids[..1],
        &device.zeros(config.head_dim * config.group).unwrap(),
        &device.zeros(config.head_dim).unwrap(),
        &device.zeros(config.head_dim).unwrap(),
    );
    assert!(matches!(captured.replay_step(&ids), Err(KvError::NotReplayable)));
    held
}

fn errors() {
    assert!(matches!(Device::cuda(64), Err(DeviceError::NoSuchDevice { ordinal: 64, .. })));
    let device = gpu();
    let kernel = load(&device, &scale::KERNEL, &ScaleSpec {});
    // A buffer of the host.
    let host = Device::host().upload(&[1.0f32; 64]).unwrap();
    let mut out = device.zeros::<f32>(64).unwrap();
    let launch = scaled(&kernel, 1, &host, &mut out, 64, 1.0);
    // SAFETY: refused before anything runs.
    assert!(unsafe { launch.run() }.is_err());
}

fn no_device() {
    assert_eq!(Device::cuda_count().unwrap(), 0);
    assert!(matches!(Device::cuda(0), Err(DeviceError::NoSuchDevice { ordinal: 0, count: 0 })));
}

fn overrun() {
    let device = gpu();
    let kernel = load(&device, &scale::KERNEL, &ScaleSpec {});
    let input = device.upload(&[1.0f32; 64]).unwrap();
    let mut out = device.zeros::<f32>(64).unwrap();
    let launch = scaled(&kernel, 2, &input, &mut out, 128, 1.0);
    // SAFETY: not sound on a GPU; the emulator checks every access, which is what is looked at.
    let launched = unsafe { launch.run() };
    let error =
        launched.err().map(|e| e.to_string()).or_else(|| device.synchronize().err().map(|e| e.to_string()));
    let error = error.expect("the overrun is found");
    assert!(error.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
    assert!(matches!(device.synchronize(), Err(DeviceError::Driver { poisoned: true, .. })));
    let report = common::report();
    assert!(report.contains("out-of-bounds") && report.contains("kernel scale"), "{report}");
}
