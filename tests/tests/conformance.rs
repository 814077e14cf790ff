//! The conformance suite: each group of cases on each executor is a test, `executor::group`.
//!
//! A name filter works as usual: `cargo test --test conformance -- host::cast`. Random programs are `executor::random::N`; set
//! `LEANKV_RANDOM_SEED` to try others.

use leankv_tests::conformance::{Executor, cases, check_case, check_group, executors, random};
use libtest_mimic::{Arguments, Trial};

/// Random programs that each executor runs, and how many of them make a test.
const RANDOM: u64 = 120;
const CHUNK: u64 = 20;

fn main() {
    let seed: u64 = std::env::var("LEANKV_RANDOM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut trials = Vec::new();
    for executor in executors::all() {
        for group in cases::all() {
            // Lanes that run apart show in ops that exchange data between lanes alone.
            if executor.name() == "ptx_apart" && !group.exchanges {
                continue;
            }
            trials.push(Trial::test(format!("{}::{}", executor.name(), group.name), move || {
                on_a_thread(move || check_group(executor, &group)).map_err(Into::into)
            }));
        }
        for chunk in 0..RANDOM / CHUNK {
            let seeds = seed + chunk * CHUNK..seed + (chunk + 1) * CHUNK;
            trials.push(Trial::test(format!("{}::random::{chunk}", executor.name()), move || {
                random_programs(executor, seeds).map_err(Into::into)
            }));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// On the stack that a thread has by default, wherever the test runs: compilers and executors need no more.
fn on_a_thread(run: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread can be started");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn random_programs(executor: &dyn Executor, seeds: std::ops::Range<u64>) -> Result<(), String> {
    let wrong: Vec<String> = seeds
        .filter_map(|seed| {
            let case = random::program(seed);
            check_case(executor, "random", &case).err().map(|message| format!("seed {seed}: {message}"))
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}
