//! What the programs of this folder share: rows with bars, medians, a kernel on one host thread.

use std::time::Instant;

use leankv_dsl::codegen::host::{HostArg, HostKernel};
use leankv_dsl::ir::Func;
use leankv_dsl::lang::Settings;
use leankv_dsl::workload::{Argument, Guarded, Workload, scalar_bits};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::compiled::Code;
use leankv_runtime::{Compiler, Target};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One row: what, the bar, what was measured, and whether that meets it; `None` where it was not measured.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) bar: String,
    pub(crate) measured: String,
    pub(crate) met: Option<bool>,
}

pub(crate) fn row(what: impl Into<String>, bar: &str, measured: String, met: bool) -> Row {
    Row { what: what.into(), bar: bar.to_owned(), measured, met: Some(met) }
}

pub(crate) fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    println!("{:<width$}  {:>16}  {:>34}  met", "what", "bar", "measured");
    for row in rows {
        let met = row.met.map_or("-", |met| if met { "yes" } else { "NO" });
        println!("{:<width$}  {:>16}  {:>34}  {met}", row.what, row.bar, row.measured);
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A kernel and its arguments, to be launched again and again on one host thread.
pub(crate) struct HostRun {
    kernel: HostKernel,
    grid: [u32; 3],
    values: Vec<HostArg>,
    /// What the arguments point to.
    _memory: Vec<Guarded>,
}

impl HostRun {
    pub(crate) fn new(func: &Func, workload: &Workload) -> Outcome<HostRun> {
        let compiled = Compiler::new(KernelCache::without_folder()).compile(func, Target::Host)?.kernel;
        let Code::Host(artifact) = &compiled.code else { return Err("it was compiled for a GPU".into()) };
        let mut memory = Vec::new();
        let args = workload.arguments(func)?;
        let value = |(_, arg): &(String, Argument)| match arg {
            Argument::Scalar(value) => HostArg::Bits(scalar_bits(*value)),
            Argument::Buffer(buffer) => {
                let mut copy = Guarded::new(&buffer.bytes);
                let at = copy.as_mut_ptr();
                memory.push(copy);
                HostArg::Ptr(at)
            }
        };
        let values = args.iter().map(value).collect();
        Ok(HostRun { kernel: HostKernel::load(artifact)?, grid: workload.grid(), values, _memory: memory })
    }

    /// Milliseconds of one launch.
    pub(crate) fn launch(&self) -> Outcome<f64> {
        let start = Instant::now();
        // SAFETY: a recipe's arguments are the kernel's parameters in order and describe the buffers, which live here.
        unsafe { self.kernel.launch(self.grid, &self.values, 1) }?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}
