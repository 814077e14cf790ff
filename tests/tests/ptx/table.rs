//! What the PTX of every kernel holds and moves, in two tables of one line a kernel: a change of one kernel changes its lines, and a
//! person sees in them what became of it. The idioms themselves are told one by one in `filetests/ptx`.
//!
//! Columns have fixed widths, so that no line moves for another's sake. `INSTA_UPDATE=always cargo test -p leankv-tests --test ptx`
//! accepts new tables; review the difference.

use std::sync::LazyLock;

use leankv_dsl::ir::Func;
use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::KERNELS;
use leankv_kernels::workload::{Size, recipe};
use leankv_ptx::Checks;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::testing::{PtxMetrics, normalise_ptx};
use leankv_runtime::verify::{Profile, profile_with};
use leankv_runtime::{Compiler, Sm, Target};
use rayon::prelude::*;

/// GPUs that the tables are for. Where two get the same PTX they share a line.
const TARGETS: [Sm; 2] = [Sm::Sm80, Sm::Sm90];

/// Specialisations beside the defaults: each takes another path through the compiler, or is what caches run.
const MORE: [(&str, &str); 21] = [
    ("decode_attention", "tiering=K8V4,block=16,stages=1"),
    ("decode_attention", "tiering=K4V4,stages=1"),
    ("decode_attention", "tiering=fp16,stages=1"),
    ("decode_attention", "tiering=K4V2,subnormal=true"),
    ("decode_attention", "significance=true,candidates=true,group=1,stages=1"),
    ("decode_attention", "significance=true,candidates=true,group=8,stages=1"),
    ("dequantize", "codec=affine2"),
    ("dequantize", "codec=affine8"),
    ("matmul", "bm=32,bn=32,stages=2"),
    ("matmul", "stages=3"),
    ("merge_splits", "significance=true,candidates=true"),
    ("plan_step", "shortlist=true"),
    ("quantize", "codec=affine2"),
    ("quantize", "codec=affine8"),
    ("softmax", "block=1024"),
    ("vector_add", "block=1024"),
    ("insert_token", "input=bf16"),
    ("insert_token", "input=f32"),
    ("write_chunk", "tiering=fp16"),
    ("write_chunk", "input=bf16"),
    ("write_chunk", "input=f32"),
];

/// A table's columns: heading, width, cell. Numbers stand right.
type Columns = Vec<(&'static str, usize, fn(&Row) -> String)>;

/// A kernel at a specialisation, and the GPUs with this PTX.
struct Row {
    name: String,
    targets: Vec<Sm>,
    /// One a target: registers alone differ.
    metrics: Vec<PtxMetrics>,
    profile: Profile,
}

impl Row {
    fn get(&self, metric: &str) -> String {
        self.metrics[0].get(metric).expect("the metric is known").to_string()
    }

    /// Accesses of 16, of 8, of 4 and of fewer bytes a thread.
    fn widths(&self, prefix: &str) -> String {
        let m = &self.metrics[0];
        let counts = [
            m.accesses(prefix, 16..),
            m.accesses(prefix, 8..16),
            m.accesses(prefix, 4..8),
            m.accesses(prefix, ..4),
        ];
        counts.map(|n| if n == 0 { "  .".to_owned() } else { format!("{n:>3}") }).join(" ")
    }

    fn count(&self, prefixes: &[&str]) -> String {
        prefixes.iter().map(|prefix| self.metrics[0].count(prefix)).sum::<u32>().to_string()
    }

    fn sum(&self, of: impl Fn(&leankv_runtime::verify::BufferTraffic) -> u64) -> String {
        self.profile.buffers.iter().map(of).sum::<u64>().to_string()
    }

    fn targets(&self) -> String {
        let numbers = self.targets.iter().map(|sm| sm.to_string().trim_start_matches("sm_").to_owned());
        numbers.collect::<Vec<_>>().join(",")
    }
}

fn instructions() -> Columns {
    vec![
        ("all", 5, |r| r.get("instructions")),
        ("looped", 6, |r| r.get("loop_instructions")),
        ("ld.global 16/8/4/<", 18, |r| r.widths("ld.global")),
        ("st.global 16/8/4/<", 18, |r| r.widths("st.global")),
        ("ld.shared 16/8/4/<", 18, |r| r.widths("ld.shared")),
        ("st.shared 16/8/4/<", 18, |r| r.widths("st.shared")),
        ("mma", 3, |r| r.get("mma")),
        ("cvt", 3, |r| r.get("conversions")),
        ("ex2", 3, |r| r.count(&["ex2."])),
        ("div", 3, |r| r.get("divisions")),
        ("bra", 3, |r| r.count(&["bra"])),
    ]
}

fn resources() -> Columns {
    vec![
        ("regs", 9, |r| {
            let regs = r.metrics.iter().map(|m| m.assembled.registers.to_string());
            regs.collect::<Vec<_>>().join(",")
        }),
        ("spill", 5, |r| r.get("spills")),
        ("shared", 6, |r| r.profile.counters.shared_bytes.to_string()),
        ("shfl", 4, |r| r.get("shuffles")),
        ("bar", 3, |r| r.get("barriers")),
        ("in loops", 8, |r| r.get("loop_barriers")),
        ("atom", 4, |r| r.count(&["atom.", "red."])),
        ("async", 5, |r| r.get("async_copies")),
        ("ahead", 5, |r| r.get("copies_in_flight")),
        ("loaded B", 9, |r| r.sum(|b| b.read_bytes)),
        ("asked B", 9, |r| r.sum(|b| b.read_sector_bytes)),
        ("moved B", 9, |r| r.sum(|b| b.distinct_sector_bytes)),
        ("written B", 9, |r| r.sum(|b| b.written_sector_bytes)),
        ("bank", 6, |r| r.profile.counters.bank_conflicts.to_string()),
    ]
}

const LEGEND: &str = "\
Instructions in the text, each once however often it runs: all, and those that stand in loops. Loads and stores: of 16, 8, 4 and fewer
bytes a thread. `cvt` is from or to floats.
";
const RESOURCES_LEGEND: &str = "\
`regs` for each target; spills and shared memory in bytes; `in loops` are barriers in loops; `ahead` is how many groups of asynchronous
copies a wait in a loop leaves on their way. Bytes and bank conflicts are those of the PTX machine with the kernel's usual workload:
what lanes loaded, the 32-byte sectors that loads asked for, those sectors once a block, and sectors written.
";

fn table(legend: &str, columns: &Columns, rows: &[Row]) -> String {
    let mut out = format!("{legend}\n{:<44} {:<5}", "kernel", "sm");
    for (heading, width, _) in columns {
        out.push_str(&format!(" {heading:>width$}"));
    }
    for row in rows {
        out.push_str(&format!("\n{:<44} {:<5}", row.name, row.targets()));
        for (_, width, cell) in columns {
            out.push_str(&format!(" {:>width$}", cell(row)));
        }
    }
    out
}

/// The rows of a kernel: one for all targets with the same PTX.
fn rows(kernel: &dyn KernelDef, text: &str) -> Vec<Row> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let settings: Settings = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let func = kernel.build(&settings).unwrap_or_else(|found| panic!("{found}"));
    let compiler = Compiler::new(KernelCache::without_folder());
    let mut found: Vec<(String, String, Vec<Sm>)> = Vec::new();
    for sm in TARGETS {
        let compiled = compiler.compile(&func, Target::Gpu(sm)).unwrap_or_else(|e| panic!("{e}"));
        let ptx = compiled.kernel.ptx().expect("a GPU's code is PTX").to_owned();
        let same = normalise_ptx(&ptx);
        match found.iter_mut().find(|(known, ..)| *known == same) {
            Some((.., targets)) => targets.push(sm),
            None => found.push((same, ptx, vec![sm])),
        }
    }
    let row = |(_, ptx, targets): (String, String, Vec<Sm>)| Row {
        name: if text.is_empty() {
            kernel.name().to_owned()
        } else {
            format!("{} {}", kernel.name(), short(text))
        },
        metrics: targets
            .iter()
            .map(|sm| PtxMetrics::of(&ptx, &sm.to_string()).unwrap_or_else(|e| panic!("{e}")))
            .collect(),
        profile: traffic(&compiler, &func, kernel, &settings, targets[0]),
        targets,
    };
    found.into_iter().map(row).collect()
}

/// Settings as a table has room for them.
fn short(text: &str) -> String {
    text.replace("significance=true,candidates=true", "in caches")
        .replace("tiering=", "")
        .replace("codec=", "")
        .replace("format=", "")
}

/// A run of the workload that `leankv profile` takes. Checks are for other tests.
fn traffic(compiler: &Compiler, func: &Func, kernel: &dyn KernelDef, settings: &Settings, sm: Sm) -> Profile {
    let recipe = recipe(kernel.name()).unwrap_or_else(|e| panic!("{e}"));
    let shapes = recipe.sizes(Size::Typical, &[]).unwrap_or_else(|e| panic!("{e}"));
    let workload = recipe.make(settings, &shapes, 1).unwrap_or_else(|e| panic!("{e}"));
    profile_with(compiler, func, &workload, sm, Checks::NONE)
        .unwrap_or_else(|e| panic!("{}: {e}", kernel.name()))
}

/// The rows of both tables, in the order of the kernels.
fn all_rows() -> &'static [Row] {
    static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
        let mut cases: Vec<(&dyn KernelDef, &str)> = KERNELS.iter().map(|kernel| (*kernel, "")).collect();
        for (name, settings) in MORE {
            let after = cases.iter().rposition(|(kernel, _)| kernel.name() == name);
            let after = after.unwrap_or_else(|| panic!("there is no kernel `{name}`"));
            cases.insert(after + 1, (cases[after].0, settings));
        }
        cases.par_iter().flat_map_iter(|(kernel, settings)| rows(*kernel, settings)).collect()
    });
    &ROWS
}

fn hold(name: &str, table: &str) {
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, table);
    });
    let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    assert!(widest <= 160, "a line of {widest} columns is too long to read");
}

#[test]
fn instructions_of_every_kernel() {
    hold("llvm22.instructions", &table(LEGEND, &instructions(), all_rows()));
}

#[test]
fn resources_of_every_kernel() {
    hold("llvm22.resources", &table(RESOURCES_LEGEND, &resources(), all_rows()));
}
