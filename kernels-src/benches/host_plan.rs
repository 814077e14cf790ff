//! Planning a decode step on the host: 128 requests, 32 layers, 8 KV heads in one launch, K8V4/K4V2 at head dim 128.
//!
//! `cargo bench -p leankv-kernels --bench host_plan`

use std::time::Instant;

use leankv_dsl::codegen::host::{HostArg, HostKernel, HostOptions, compile};
use leankv_dsl::format::PageLayout;
use leankv_dsl::lang::Settings;
use leankv_dsl::pass::{self, Facts};

const REQUESTS: usize = 128;
const LAYERS: usize = 32;
const HEADS: usize = 8;
const PAGE_BYTES: usize = 6784;
/// Pages of the arena. Lists share them, since all pages of so many lists would not fit; it is still larger than caches.
const PAGES: usize = 24_000;
const TABLE: usize = 32;

/// A view's arguments: pointer, extents, strides of all dimensions but the last.
fn view(args: &mut Vec<HostArg>, at: HostArg, shape: &[usize]) {
    args.push(at);
    args.extend(shape.iter().map(|&extent| HostArg::from(extent as i64)));
    for i in 1..shape.len() {
        args.push(HostArg::from(shape[i..].iter().product::<usize>() as i64));
    }
}

fn plan_kernel(policy: &str, splits: usize) -> HostKernel {
    let kernel = leankv_kernels::find("plan_step").expect("the kernel is shipped");
    let settings: Settings =
        [("policy".to_owned(), policy.to_owned()), ("splits".to_owned(), splits.to_string())].into();
    let mut func = kernel.build(&settings).unwrap_or_else(|e| panic!("{e}"));
    pass::standard().run(&mut func, &mut Facts::new()).unwrap_or_else(|e| panic!("{e}"));
    let artifact = compile(&func, &HostOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    HostKernel::load(&artifact).unwrap_or_else(|e| panic!("{e}"))
}

/// An arena whose slots hold plausible positions and masses, for both formats: it is written at the offsets of `format`.
fn arena(words: &mut [u32], format: &str, pages: std::ops::Range<usize>) {
    let format = format.parse().expect("this is a name of a format");
    let layout =
        PageLayout::derive(&format, 128, PAGE_BYTES as u32).expect("a page of this size holds tokens");
    for page in pages {
        for slot in 0..layout.tokens_per_page() {
            let at = |row: u32| page * PAGE_BYTES / 4 + row as usize / 4;
            let seed = (page * 61 + slot as usize).wrapping_mul(2_654_435_761) as u32;
            words[at(layout.positions().row(slot))] = seed % 4000;
            words[at(layout.significance().row(slot))] = ((seed >> 8) as f32 / (1 << 24) as f32).to_bits();
        }
    }
}

fn main() {
    let mut words = vec![0u32; PAGES * PAGE_BYTES / 4];
    arena(&mut words, "K8V4", 0..PAGES / 2);
    arena(&mut words, "K4V2", PAGES / 2..PAGES);
    let lists = REQUESTS * LAYERS * HEADS;
    let page = |list: usize, k: usize| ((list * TABLE + k) * 7919 % (PAGES / 2)) as i32;
    let table: Vec<i32> = (0..lists * TABLE)
        .map(|i| match (i / TABLE, i % TABLE) {
            (list, k) if k < TABLE / 2 => page(list, k),
            (list, k) => (PAGES / 2) as i32 + page(list, k),
        })
        .collect();
    let slots: Vec<i32> = (0..REQUESTS as i32).collect();
    let (positions, prompts) = (vec![4200i32; REQUESTS], vec![4000i32; REQUESTS]);
    let thresholds: Vec<f32> = [1.0, 0.02].repeat(lists);
    let (mut plan, mut target) = (vec![0i32; lists * 8], vec![0i32; lists * 2]);
    let (sig, at) = (vec![0.5f32; lists * 12], vec![1i32; lists * 24]);
    for (policy, splits) in [("leankv", 0), ("leankv", 4), ("leankv-paper", 0), ("uniform", 0)] {
        let kernel = plan_kernel(policy, splits);
        for (high, low) in [(64, 0), (256, 256), (448, 576)] {
            let state: Vec<i32> = [4200, high, low, 0, 0].repeat(lists);
            let lengths: Vec<i32> = [high, low, 0, 0].repeat(lists);
            let mut args = Vec::new();
            view(&mut args, positions.as_ptr().into(), &[REQUESTS]);
            view(&mut args, prompts.as_ptr().into(), &[REQUESTS]);
            view(&mut args, thresholds.as_ptr().into(), &[REQUESTS, LAYERS, HEADS, 2]);
            args.push(words.as_mut_ptr().into());
            view(&mut args, slots.as_ptr().into(), &[REQUESTS]);
            view(&mut args, table.as_ptr().into(), &[REQUESTS, LAYERS, HEADS, TABLE]);
            view(&mut args, lengths.as_ptr().into(), &[REQUESTS, LAYERS, HEADS, 4]);
            view(&mut args, sig.as_ptr().into(), &[REQUESTS, LAYERS, HEADS, 12]);
            view(&mut args, at.as_ptr().into(), &[REQUESTS, LAYERS, HEADS, 24]);
            view(&mut args, state.as_ptr().into(), &[REQUESTS, LAYERS, HEADS, 5]);
            view(&mut args, plan.as_mut_ptr().into(), &[REQUESTS, LAYERS, HEADS, 8]);
            view(&mut args, target.as_mut_ptr().into(), &[REQUESTS, LAYERS, HEADS, 2]);
            let mut best = f64::MAX;
            for _ in 0..5 {
                let start = Instant::now();
                // SAFETY: the arguments are the kernel's parameters in order, the views describe the buffers.
                unsafe { kernel.launch([HEADS as u32, LAYERS as u32, REQUESTS as u32], &args, 1) }
                    .unwrap_or_else(|e| panic!("{e}"));
                best = best.min(start.elapsed().as_secs_f64());
            }
            let tokens = lists * (high + low) as usize;
            println!(
                "{policy}{}, {high} + {low} tokens a head: {:.2} ms on one thread, {:.2} ns a token, {:.0} ns a head",
                if splits > 0 { " from attention's shortlist" } else { "" },
                best * 1e3,
                best * 1e9 / tokens as f64,
                best * 1e9 / lists as f64
            );
        }
    }
}
