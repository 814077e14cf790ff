//! How long a kernel takes from its specialisation to code, and from the cache to launchable.
//!
//! ```text
//! cargo bench -p leankv-runtime --bench compile [-- FILTER]
//! ```
//!
//! At the end the process's peak memory is printed: the bar for compiling any shipped kernel is 400 MB.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group};
use leankv_kernels::KERNELS;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device, Sm, Target};

/// Specialisation to code, nothing cached, for the first declared specialisation of every kernel.
fn cold(c: &mut Criterion) {
    for (what, target) in
        [("spec to PTX sm_90", Target::Gpu(Sm::Sm90)), ("spec to host object", Target::Host)]
    {
        let mut group = c.benchmark_group(what);
        for kernel in KERNELS {
            let Some(settings) = kernel.space().into_iter().next() else { continue };
            // A kernel that a target refuses is the conformance suite's business; here it has no time.
            let compiler = Compiler::new(KernelCache::without_folder());
            if kernel.build(&settings).ok().and_then(|f| compiler.compile(&f, target).ok()).is_none() {
                continue;
            }
            group.bench_function(kernel.name(), |b| {
                b.iter(|| {
                    let func = kernel.build(&settings).expect("it was built above");
                    black_box(compiler.compile(&func, target).expect("it was compiled above"))
                });
            });
        }
        group.finish();
    }
}

/// The decode attention kernel of the design's bar, in the two tierings that LeanKV uses; `scripts/peers` sets Triton's beside it.
fn decode(c: &mut Criterion) {
    let kernel = leankv_kernels::find("decode_attention").expect("the kernel is shipped");
    let mut group = c.benchmark_group("decode_attention to PTX sm_80");
    for tiering in ["K8V4", "K8V4/K4V2"] {
        let settings = [("tiering", tiering), ("group", "8")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let settings = settings.into_iter().collect();
        let compiler = Compiler::new(KernelCache::without_folder());
        group.bench_function(tiering, |b| {
            b.iter(|| {
                let func = kernel.build(&settings).expect("the settings are declared");
                black_box(compiler.compile(&func, Target::Gpu(Sm::Sm80)).expect("the kernel compiles"))
            });
        });
    }
    group.finish();
}

/// Cache entry on disk to a kernel that can be launched; recording it is not counted.
fn cached(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let host = Device::host();
    let mut group = c.benchmark_group("cached to launchable on host");
    for kernel in KERNELS {
        let Some(func) = kernel.space().first().and_then(|s| kernel.build(s).ok()) else { continue };
        let compiler = Compiler::new(KernelCache::at(dir.path()));
        if compiler.compile(&func, Target::Host).is_err() {
            continue;
        }
        group.bench_function(kernel.name(), |b| {
            b.iter(|| black_box(compiler.kernel(&host, &func).expect("it is in the cache")));
        });
        assert_eq!(compiler.cache().stats().built, 1, "only the first compile built anything");
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = cold, decode, cached
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    if let Some(bytes) = peak_memory() {
        println!("peak memory of compiling every shipped kernel: {} MB", bytes >> 20);
    }
}

/// The largest resident size of this process so far; Linux only.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}
