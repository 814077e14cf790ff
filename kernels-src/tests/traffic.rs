//! Bytes that significance costs: what decode attention and planning move beside keys and values, counted by the PTX machine.
//! Attention also looks for the next step's candidates, so that planning reads no token.

use half::f16;
use leankv_dsl::codegen::nvptx::{NvptxOptions, NvptxTarget, compile};
use leankv_dsl::format::PageLayout;
use leankv_dsl::lang::Settings;
use leankv_dsl::pass::{Facts, standard};
use leankv_kernels::find;
use leankv_ptx::{Arg, Config, LaunchConfig, Machine, Module};

const D: usize = 128;
const PAGE: usize = 6784;
/// Of either tier. Enough tokens that what is read once a head does not count.
const PAGES: usize = 16;
const TABLE: usize = 2 * PAGES;

/// A kernel on the PTX machine with its arguments so far.
struct Launch {
    module: Module,
    entry: String,
    threads: u32,
    shared: u32,
    machine: Machine,
    args: Vec<Arg>,
}

impl Launch {
    fn new(name: &str, settings: &[(&str, &str)]) -> Launch {
        let settings: Settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut func = find(name).unwrap().build(&settings).unwrap_or_else(|e| panic!("{e}"));
        standard().run(&mut func, &mut Facts::new()).unwrap_or_else(|e| panic!("{e}"));
        let artifact = compile(&func, &NvptxTarget::Sm80, &NvptxOptions::default()).unwrap();
        Launch {
            module: Module::parse(&artifact.ptx).unwrap(),
            entry: artifact.entry,
            threads: artifact.block_threads,
            shared: artifact.dynamic_shared_bytes,
            machine: Machine::new(Config { distinct_sectors: true, ..Config::default() }),
            args: Vec::new(),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let at = self.machine.alloc(bytes.len().max(1) as u64, 256).unwrap();
        self.machine.write(at, bytes).unwrap();
        self.args.push(Arg::U64(at));
    }

    fn view(&mut self, bytes: &[u8], shape: &[usize]) {
        self.bytes(bytes);
        self.args.extend(shape.iter().map(|&extent| Arg::U64(extent as u64)));
        for i in 1..shape.len() {
            self.args.push(Arg::U64(shape[i..].iter().product::<usize>() as u64));
        }
    }

    fn ints(&mut self, data: &[i32], shape: &[usize]) {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.view(&bytes, shape);
    }

    /// Bytes of the sectors that a program reads, each once, and writes.
    fn moved(mut self) -> u64 {
        let shape =
            LaunchConfig { grid: [1, 1, 1], block: [self.threads, 1, 1], dynamic_shared_bytes: self.shared };
        let report = self.machine.launch(&self.module, &self.entry, shape, &self.args).unwrap();
        assert_eq!(report.errors().count(), 0);
        report.counters.ranges.iter().map(|r| r.distinct_sector_bytes + r.written_sector_bytes).sum()
    }
}

/// Tokens of the two lists: full pages.
fn lengths() -> [i32; 4] {
    let tokens = |format: &str| {
        let format = format.parse().unwrap();
        let layout = PageLayout::derive(&format, D as u32, PAGE as u32).unwrap();
        layout.tokens_per_page() as i32 * PAGES as i32
    };
    [tokens("K8V4"), tokens("K4V2"), 0, 0]
}

fn cache(launch: &mut Launch, layers: bool) {
    launch.bytes(&vec![0; 2 * PAGES * PAGE]);
    launch.ints(&[0], &[1]);
    let table: Vec<i32> = (0..TABLE as i32).collect();
    let (rows, columns): (&[usize], &[usize]) = match layers {
        true => (&[1, 1, 1, TABLE], &[1, 1, 1, 4]),
        false => (&[1, 1, TABLE], &[1, 1, 4]),
    };
    launch.ints(&table, rows);
    launch.ints(&lengths(), columns);
}

fn attention(group: usize, significance: bool) -> u64 {
    let (members, on) = (group.to_string(), significance.to_string());
    let settings =
        [("group", &*members), ("significance", &*on), ("candidates", &*on), ("tiering", "K8V4/K4V2")];
    let mut launch = Launch::new("decode_attention", &settings);
    let q: Vec<u8> = vec![f16::ONE; group * D].into_iter().flat_map(f16::to_le_bytes).collect();
    launch.view(&q, &[1, group, D]);
    launch.ints(&[1000], &[1]);
    launch.args.push(Arg::F32(0.1));
    cache(&mut launch, false);
    let [high, ..] = lengths();
    launch.view(&vec![0; group * 4], &[1, group, 1]);
    launch.view(&vec![0; group * 4], &[1, group, 1]);
    launch.view(&vec![0; group * D * 4], &[1, group, 1, D]);
    launch.view(&q, &[1, group, D]);
    launch.view(&vec![0; group * 4], &[1, group]);
    launch.ints(&[high - 1], &[1, 1, 1]);
    launch.ints(&[900], &[1]);
    launch.ints(&[0; 3], &[1, 1, 3]);
    launch.ints(&[0; 6], &[1, 1, 6]);
    launch.ints(&[0; 5], &[1, 1, 5]);
    launch.moved()
}

/// Planning from what attention found in one split.
fn planning() -> u64 {
    let mut launch = Launch::new("plan_step", &[("splits", "1")]);
    launch.ints(&[1000], &[1]);
    launch.ints(&[900], &[1]);
    launch.ints(&[1f32.to_bits() as i32, 0], &[1, 1, 1, 2]);
    cache(&mut launch, true);
    launch.ints(&[0; 3], &[1, 1, 1, 3]);
    launch.ints(&[1; 6], &[1, 1, 1, 6]);
    let [high, low, ..] = lengths();
    launch.ints(&[1000, high, low, 0, 0], &[1, 1, 1, 5]);
    launch.ints(&[0; 8], &[1, 1, 1, 8]);
    launch.ints(&[0; 2], &[1, 1, 1, 2]);
    launch.moved()
}

#[test]
fn bytes_that_significance_costs_for_a_token() {
    let [high, low, ..] = lengths();
    let tokens = f64::from(high + low);
    let plan = planning() as f64 / tokens;
    println!("planning: {plan:.1} bytes a token and KV head");
    // Once a head: what attention found, and the plan. It looks at no token.
    assert!(plan < 1.0, "{plan}");
    let of_group = [1, 2, 4, 8, 16].map(|group| {
        let extra = attention(group, true) as f64 - attention(group, false) as f64;
        println!(
            "group {group}: attention {:.1} bytes more a token and KV head, {:.1} with planning",
            extra / tokens,
            extra / tokens + plan
        );
        assert!(
            extra / tokens + plan <= 16.0,
            "group {group}: {extra} bytes, and {plan} a token for planning"
        );
        // Once a head: the pending queries, their logarithms, the new token's number and the shortlist, in whole sectors.
        let once = (group * D * 2 + 17 * 32) as f64;
        (extra - once) / tokens
    });
    // A token's significance is read once and written once, and its position read once, in whole sectors, whatever the group.
    for extra in of_group {
        assert!((12.0..12.6).contains(&extra), "{of_group:?}");
        assert!((extra - of_group[0]).abs() < 0.5, "it does not grow with the group: {of_group:?}");
    }
}
