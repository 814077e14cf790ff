//! Decode attention's PTX on the PTX machine: warp instructions per second on one thread, checks on and off.
//!
//! `cargo bench -p leankv-kernels --bench ptx_decode`. Time is what the thread spent on a processor, so that other load on the machine
//! does not count.

use std::time::{Duration, Instant};

use leankv_kernels::workload::{Size, recipe};
use leankv_ptx::{Checks, Config, Divergence};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::verify::PtxLaunch;
use leankv_runtime::{Compiler, Sm, Target};

/// Time this thread was on a processor; wall time where the system does not tell.
fn cpu_time(start: Instant) -> Duration {
    let on_cpu = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().next().and_then(|ns| ns.parse().ok()));
    on_cpu.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn main() {
    let start = Instant::now();
    let kernel = leankv_kernels::find("decode_attention").expect("the kernel is shipped");
    let recipe = recipe("decode_attention").expect("the kernel has a recipe");
    let shapes = recipe.sizes(Size::Typical, &[]).expect("defaults are shapes");
    let compiler = Compiler::new(KernelCache::without_folder());
    println!("decode attention, sm_80, {shapes}; one thread");
    for tiering in ["K8V4", "K8V4/K4V2", "fp16"] {
        let settings = [("tiering".to_owned(), tiering.to_owned())].into();
        let func = kernel.build(&settings).unwrap_or_else(|e| panic!("{e}"));
        let workload = recipe.make(&settings, &shapes, 1).unwrap_or_else(|e| panic!("{e}"));
        let compiled =
            compiler.compile(&func, Target::Gpu(Sm::Sm80)).unwrap_or_else(|e| panic!("{e}")).kernel;
        for (checks, all) in [("on", Checks::ALL), ("off", Checks::NONE)] {
            for (lanes, divergence) in
                [("in step", Divergence::Reconverge), ("apart", Divergence::Independent)]
            {
                let config = Config { checks: all, divergence, seed: 1, ..Config::default() };
                let mut launch =
                    PtxLaunch::new(&func, &compiled, &workload, config).unwrap_or_else(|e| panic!("{e}"));
                // The system counts in ticks of some milliseconds, so a measurement is of many launches.
                let (mut instructions, mut launches, before) = (0u64, 0u32, cpu_time(start));
                while cpu_time(start) - before < Duration::from_millis(400) {
                    let report = launch.run().unwrap_or_else(|e| panic!("{e}"));
                    assert!(report.is_clean(), "{}", report.findings[0]);
                    instructions = report.counters.warp_instructions;
                    launches += 1;
                }
                let one = (cpu_time(start) - before) / launches;
                println!(
                    "{tiering:<10} checks {checks:<3} lanes {lanes:<7} {instructions:>8} warp instructions, {:>6.2} ms, {:>5.2} M/s",
                    one.as_secs_f64() * 1e3,
                    instructions as f64 / one.as_secs_f64() / 1e6
                );
            }
        }
    }
}
