//! The page manager on the device against the sequential one: admission, a decode step, and freeing, at 1, 16 and 128 requests of 32 layers and
//! 8 KV heads.
//!
//! Both do the same work on equal states, in turns. A decode step takes a page for every 32nd list, as K8V4 pages of 32 tokens do. The device
//! manager's times are from host memory to answers read back.

use std::hint::black_box;
use std::time::Instant;

use leankv_runtime::kv::{CacheShape, DeviceManager, PageManager, SequentialManager};
use leankv_runtime::{Compiler, Device};

use crate::common::{Outcome, Row, median};

const LAYERS: usize = 32;
const KV_HEADS: usize = 8;
/// Pages of a list: 2048 tokens.
const HIGH: i32 = 40;
const LOW: i32 = 13;

fn shape(requests: usize) -> CacheShape {
    let per_list = (HIGH + LOW) as usize + 3;
    CacheShape {
        slots: requests,
        layers: LAYERS,
        kv_heads: KV_HEADS,
        // As a cache's for sequences of 4096 tokens.
        table_len: 157,
        pages: requests * LAYERS * KV_HEADS * per_list,
        // Pages are not touched.
        page_bytes: 16,
        tokens: [32, 60],
    }
}

/// Microseconds of one call.
fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e6
}

/// Times of admission, decode step, and freeing, of one manager.
#[derive(Default)]
struct Times {
    admit: Vec<f64>,
    step: Vec<f64>,
    free: Vec<f64>,
}

fn round(manager: &mut dyn PageManager, times: &mut Times) {
    let requests = manager.shape().slots;
    let slots: Vec<usize> = (0..requests).collect();
    let lists = requests * LAYERS * KV_HEADS;
    let mut targets = [HIGH, LOW].repeat(lists);
    let all = |manager: &mut dyn PageManager, targets: &[i32]| {
        let answers = manager.rebalance(&slots, targets).expect("the device works");
        assert!(answers.iter().all(Result::is_ok), "the arena is large enough");
        black_box(answers);
    };
    times.admit.push(timed(|| all(manager, &targets)));
    for step in 0..8 {
        for list in (step..lists).step_by(32) {
            targets[2 * list] += 1;
        }
        times.step.push(timed(|| all(manager, &targets)));
    }
    times.free.push(timed(|| manager.free(&slots).expect("the device works")));
}

pub(crate) fn section(compiler: &Compiler, _: &mut Vec<Row>) -> Outcome<()> {
    let device = Device::host();
    println!("microseconds, medians; the sequential manager over the device's");
    println!("{:>8}  {:<10}{:>12}{:>12}{:>10}", "requests", "operation", "sequential", "device", "ratio");
    for requests in [1, 16, 128] {
        let shape = shape(requests);
        let mut device_manager = DeviceManager::new(compiler, &device, shape)?;
        let mut sequential = SequentialManager::new(shape)?;
        let (mut ours, mut theirs) = (Times::default(), Times::default());
        for _ in 0..7 {
            round(&mut device_manager, &mut ours);
            round(&mut sequential, &mut theirs);
        }
        assert!(device_manager.audit()?.is_empty());
        for (operation, ours, theirs) in [
            ("admit", ours.admit, theirs.admit),
            ("step", ours.step, theirs.step),
            ("free", ours.free, theirs.free),
        ] {
            let (ours, theirs) = (median(ours), median(theirs));
            println!("{requests:>8}  {operation:<10}{theirs:>12.1}{ours:>12.1}{:>10.2}", theirs / ours);
        }
    }
    Ok(())
}
