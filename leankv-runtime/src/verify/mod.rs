//! Does a kernel do the same on every executor? And is it what plain Rust says?
//!
//! [`verify`] runs one [`Workload`] on the reference interpreter with all its checks (in order and
//! shuffled), on the host back end between guards, and, as PTX for each target, on the PTX machine with all its checks: with lanes of a
//! warp in step, with lanes apart in seeded random order, and, if wanted, with approximate functions moved within their error bounds and
//! another order of accumulation. Every buffer is compared. A kernel with an endless loop is stopped too: the interpreter comes first, with a
//! budget of steps, and what does not end there runs nowhere else; PTX has a budget of instructions in proportion to what the interpreter
//! had to do. No GPU is needed. It works for any kernel, in any crate:
//!
//! ```
//! use leankv_dsl::lang::*;
//! use leankv_dsl::workload::{Check, Generator, Workload, given};
//! use leankv_runtime::verify::{Options, verify};
//!
//! /// `out = 2 x`. Grid: `[ceil(n / 64)]`.
//! #[kernel]
//! fn twice(x: View<f32, 1>, out: ViewMut<f32, 1>) {
//!     let x = x.tile(program_id(0), [64]).load();
//!     out.tile(program_id(0), [64]).store(x + x);
//! }
//!
//! let x = Generator::new(1).f32s(100, -1.0, 1.0);
//! let expected: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
//! let out = given(&[0.0f32; 100]).output(Check::Bits).expect(&expected, Check::Bits);
//! let args = TwiceArgs { x: given(&x).tensor([100]), out: out.tensor_mut([100]) };
//! let workload = Workload::of::<twice>([2, 1, 1], args);
//! let report = verify(&twice::build(&TwiceSpec {})?, &workload, &Options::default())?;
//! assert!(report.passed(), "{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod device;
mod execute;
mod profile;
mod report;
#[cfg(test)]
mod tests;

use std::time::Instant;

use leankv_dsl::interp::{self, Order};
use leankv_dsl::ir::Func;
use leankv_dsl::workload::{Argument, Check, Workload, WorkloadMismatch, compare};
use leankv_ptx::{Config, Divergence, Finding, LaunchReport};

use crate::compiler::{CompileError, Compiler};
use crate::target::{Sm, Target};

pub(crate) use device::DeviceLaunch;
pub use device::verify_on;
pub use execute::PtxLaunch;
use execute::Stop;
pub use profile::{BufferTraffic, Cost, Profile, profile, profile_with};
pub use report::{Outcome, Run, VerifyReport};

/// What [`verify`] runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// GPU generations whose PTX is run.
    pub targets: Vec<Sm>,
    /// Order of programs, of blocks, warps and of lanes apart; the workload's data have their own seed.
    pub seed: u64,
    /// Also run the PTX with approximate functions moved within the ISA's error bounds and with another order in which tensor-core
    /// products are summed.
    pub perturb: bool,
    /// PTX to run in place of what the compiler emits, for one target: for PTX that was changed by hand.
    pub ptx: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { targets: vec![Sm::Sm80], seed: 1, perturb: false, ptx: None }
    }
}

/// Why nothing, or not everything, could be run. What a kernel does wrong is no error but part of the report.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VerifyError {
    /// The arguments are not the kernel's.
    #[error(transparent)]
    Workload(#[from] WorkloadMismatch),
    /// The kernel cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The PTX is not valid, or needs what the PTX machine does not support.
    #[error("PTX of kernel `{kernel}` for {target}, {error}")]
    Ptx {
        /// The kernel.
        kernel: String,
        /// The target.
        target: Sm,
        /// Line, column and what is wrong.
        error: leankv_ptx::ParseError,
    },
    /// The machine cannot launch it or lacks memory.
    #[error("kernel `{kernel}` for {target}: {error}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// What it was compiled for.
        target: Target,
        /// Why.
        error: String,
    },
    /// PTX was given, and not exactly one target.
    #[error("given PTX is run for one target, not for {0}")]
    TargetsOfPtx(usize),
    /// The launch ended in a fault, so there is nothing to count.
    #[error(transparent)]
    Fault(Box<leankv_ptx::Fault>),
}

/// Runs a kernel on every executor; kernels are compiled through the user's cache. See the [module](self).
///
/// # Errors
/// [`VerifyError`]: the workload does not fit, the kernel does not compile, the PTX does not parse. A disagreement, a fault or a finding
/// of a check is not an error: [`VerifyReport::passed`] is false then.
pub fn verify(func: &Func, workload: &Workload, options: &Options) -> Result<VerifyReport, VerifyError> {
    verify_with(Compiler::global(), func, workload, options)
}

/// [`verify`] with a compiler of one's own.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    compiler: &Compiler,
    func: &Func,
    workload: &Workload,
    options: &Options,
) -> Result<VerifyReport, VerifyError> {
    verify_within(compiler, func, workload, options, interp::Options::default().max_steps)
}

/// Warp instructions that any launch may take.
const LEAST_BUDGET: u64 = 1_000_000;

/// Warp instructions for each 32 elements that an op works on, and for each op and warp: several times what the worst of them takes
/// (a transcendental function of `f64`, an extent padded to the next power of two, a product without tensor cores).
const INSTRUCTIONS: u64 = 256;

/// Warp instructions after which PTX is endless, by what the interpreter had to do. Lanes that run apart take one each.
fn budget(func: &Func, work: Option<&interp::Report>, divergence: Divergence) -> u64 {
    let units =
        work.map_or(0, |r| (r.work / 32).saturating_add(r.steps.saturating_mul(func.num_warps.into())));
    let lanes = if divergence == Divergence::Independent { 32 } else { 1 };
    LEAST_BUDGET.saturating_add(units.saturating_mul(INSTRUCTIONS)).saturating_mul(lanes)
}

/// [`verify_with`] with at most this many steps a program on the interpreter.
fn verify_within(
    compiler: &Compiler,
    func: &Func,
    workload: &Workload,
    options: &Options,
    max_steps: u64,
) -> Result<VerifyReport, VerifyError> {
    if options.ptx.is_some() && options.targets.len() != 1 {
        return Err(VerifyError::TargetsOfPtx(options.targets.len()));
    }
    let args = workload.arguments(func)?;
    let grid = workload.grid();
    let mut report = VerifyReport {
        kernel: func.name.clone(),
        spec: func.spec.clone(),
        grid,
        seed: options.seed,
        runs: Vec::new(),
    };

    let start = Instant::now();
    let reference = execute::interpret(func, grid, &args, Order::Sequential, max_steps);
    let outcome = match &reference {
        Ok((buffers, _)) => against_expectation(&args, buffers),
        Err(stop) => Outcome::of(stop),
    };
    report.runs.push(Run::new("interpreter", None, outcome, start));
    if matches!(reference, Err(Stop::Endless(_))) {
        // Native code could not be stopped, and the PTX machine would say the same in its own lines.
        return Ok(report);
    }
    let (reference, work) = reference.ok().unzip();
    let judge = |result: Result<Vec<Vec<u8>>, Stop>| match (result, &reference) {
        (Ok(got), Some(want)) => against_reference(&args, &got, want),
        (Ok(_), None) => Outcome::NothingToCompareWith,
        (Err(stop), _) => Outcome::of(&stop),
    };

    // Only what the interpreter found no fault in may run as native code, or is worth a second order.
    if reference.is_some() {
        let start = Instant::now();
        let shuffled = Order::Shuffled(options.seed);
        let result = execute::interpret(func, grid, &args, shuffled, max_steps).map(|(buffers, _)| buffers);
        report.runs.push(Run::new("interpreter, programs shuffled", None, judge(result), start));

        let compiled = compiler.compile(func, Target::Host)?.kernel;
        let start = Instant::now();
        let result = execute::host(&compiled, grid, &args)?;
        report.runs.push(Run::new("host", None, judge(result), start));
    }

    for &sm in &options.targets {
        let compiled = compiler.compile(func, Target::Gpu(sm))?.kernel;
        let ptx = options.ptx.as_deref().or(compiled.ptx()).unwrap_or_default();
        let module = execute::module(&compiled, ptx, sm)?;
        for (name, config) in ptx_runs(options) {
            let start = Instant::now();
            let config = Config { budget: budget(func, work.as_ref(), config.divergence), ..config };
            let ran = execute::ptx(&compiled, &module, grid, &args, config)?;
            let (outcome, findings, counters) = match ran {
                Ok((buffers, launch)) => {
                    let outcome = match judge(Ok(buffers)) {
                        Outcome::Agrees { .. } | Outcome::NothingToCompareWith if !launch.is_clean() => {
                            Outcome::Findings
                        }
                        other => other,
                    };
                    (outcome, errors(&launch), Some(launch.counters))
                }
                Err(stop) => (judge(Err(stop)), Vec::new(), None),
            };
            let name = format!("{sm}, {name}");
            report.runs.push(Run { findings, counters, ..Run::new(&name, Some(sm), outcome, start) });
        }
    }
    Ok(report)
}

/// How the PTX is run.
fn ptx_runs(options: &Options) -> Vec<(&'static str, Config)> {
    let seed = options.seed;
    let mut runs = vec![
        ("lanes in step", Config { seed, ..Config::default() }),
        ("lanes apart", Config { seed, divergence: Divergence::Independent, ..Config::default() }),
    ];
    if options.perturb {
        let config = Config { seed, approx_seed: seed.max(1), mma_seed: seed.max(1), ..Config::default() };
        runs.push(("approximations and mma order perturbed", config));
    }
    runs
}

/// What the checks found that is an error.
fn errors(launch: &LaunchReport) -> Vec<Finding> {
    launch.errors().cloned().collect()
}

/// The interpreter's buffers against what plain Rust says, and inputs against what they were.
pub(crate) fn against_expectation(args: &[(String, Argument)], buffers: &[Vec<u8>]) -> Outcome {
    let mut judged = Judged::default();
    for ((name, buffer), got) in execute::buffers(args).zip(buffers) {
        match (&buffer.expect, buffer.output) {
            (Some((expect, check)), _) => {
                judged.expected += 1;
                judged.add(name, compare(buffer.dtype, *check, &buffer.bytes, got, expect));
            }
            (None, Some(_)) => {}
            (None, None) => {
                judged.add(name, compare(buffer.dtype, Check::Bits, &buffer.bytes, got, &buffer.bytes));
            }
        }
    }
    judged.outcome()
}

/// An executor's buffers against the interpreter's.
fn against_reference(args: &[(String, Argument)], got: &[Vec<u8>], want: &[Vec<u8>]) -> Outcome {
    let mut judged = Judged::default();
    for (((name, buffer), got), want) in execute::buffers(args).zip(got).zip(want) {
        judged.expected += usize::from(buffer.output.is_some());
        let check = buffer.output.unwrap_or(Check::Bits);
        judged.add(name, compare(buffer.dtype, check, &buffer.bytes, got, want));
    }
    judged.outcome()
}

/// Comparisons so far.
#[derive(Default)]
struct Judged {
    expected: usize,
    largest: f64,
    differences: Vec<String>,
}

impl Judged {
    fn add(&mut self, name: &str, found: leankv_dsl::workload::Comparison) {
        self.largest = self.largest.max(found.largest);
        self.differences.extend(found.difference.map(|text| format!("`{name}`: {text}")));
    }

    fn outcome(self) -> Outcome {
        match self.differences.is_empty() {
            true => Outcome::Agrees { outputs: self.expected, largest_difference: self.largest },
            false => Outcome::Differs { differences: self.differences },
        }
    }
}
