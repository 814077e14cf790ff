//! `leankv-gpu`: is what the kernels and the cache do on this GPU right, and how fast is decode attention?
//!
//! It needs an NVIDIA driver and the bundle beside it, no compiler. `leankv-gpu bundle` makes that bundle where there is one.

mod checks;
#[allow(dead_code, unused_imports)]
#[path = "../../leankv-runtime/tests/engine/common.rs"]
mod common;
mod engine;
#[allow(dead_code, unused_imports)]
#[path = "../../leankv-runtime/tests/engine/model.rs"]
mod model;
mod report;
mod sizes;
mod subnormal;
mod timing;
mod torch;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use leankv_runtime::cache::{Bundle, KernelCache};
use leankv_runtime::{Compiler, Device, Target};

use report::Report;
use sizes::Sizes;

/// What can go wrong, in words.
type Failure = Box<dyn Error>;

/// Checks LeanKV's kernels and cache on a GPU, and times decode attention.
#[derive(Debug, Parser)]
#[command(name = "leankv-gpu", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile all kernels that a run needs into a bundle; takes a build with feature `llvm`.
    Bundle(MakeBundle),
}

#[derive(Debug, Args)]
struct Run {
    /// The kernels; default: `kernels.lkvb` beside this program.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Number of the GPU.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Where results are written, as JSON and as a table.
    #[arg(long, value_name = "FOLDER", default_value = "results/gpu")]
    out: PathBuf,
    /// Small sizes, which an emulated GPU does in seconds.
    #[arg(long)]
    quick: bool,
    /// Decode steps of the cache that are checked.
    #[arg(long)]
    steps: Option<usize>,
    /// Requests of a batch that is timed.
    #[arg(long, value_delimiter = ',')]
    batch: Vec<usize>,
    /// Tokens of each of them.
    #[arg(long, value_delimiter = ',')]
    tokens: Vec<usize>,
}

#[derive(Debug, Args)]
struct MakeBundle {
    /// Where to write it.
    file: PathBuf,
    /// What to compile for.
    #[arg(long, value_delimiter = ',', default_value = "sm_80,sm_86,sm_89,sm_90,sm_100,sm_120")]
    target: Vec<String>,
    /// The kernels of a run with `--quick` alone.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Bundle(args)) => make_bundle(args).map(|()| true),
        None => run(&cli.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

/// All kernels of a run, for every target.
fn make_bundle(args: &MakeBundle) -> Result<(), Failure> {
    let sizes = Sizes::new(args.quick);
    let compiler = Compiler::new(KernelCache::user()).recording();
    for name in &args.target {
        let Target::Gpu(sm) = name.parse()? else { return Err(format!("`{name}` is no GPU").into()) };
        let device = Device::emulated(sm);
        subnormal::load(&device, &compiler)?;
        checks::load(&device, &compiler, &sizes)?;
        engine::kernels(&device, &compiler)?;
        timing::load(&device, &compiler, &sizes)?;
    }
    let bundle = compiler.recorded();
    bundle.write(&args.file)?;
    println!("{} kernels in {}", bundle.len(), args.file.display());
    Ok(())
}

/// Whether everything that was checked is right.
fn run(args: &Run) -> Result<bool, Failure> {
    let start = Instant::now();
    let mut sizes = Sizes::new(args.quick);
    sizes.ask(args.steps, &args.batch, &args.tokens);
    let path = args.bundle.clone().map_or_else(beside, Ok)?;
    let compiler = Compiler::new(KernelCache::without_folder());
    compiler.cache().deny_jit(true);
    compiler.cache().add_bundle(Bundle::open(&path)?);
    let device = Device::cuda_on_own_stream(args.device)?;
    let mut report = Report::new(&device, args.quick);
    println!("{}", report.heading());

    let subnormal = subnormal::run(&device, &compiler);
    report.subnormal = report.part("products of subnormal floats", subnormal.map(Some));
    report.print_subnormal();
    report.kernels = checks::run(&device, &compiler, &sizes)?;
    report.print_kernels();
    report.cache = engine::run(&device, &compiler, &sizes);
    report.print_cache();
    let sizes = if report.emulated { Sizes::new(true) } else { sizes };
    let copy = timing::copy_gbytes(&device, &sizes);
    report.copy_gbytes = report.part("timing a copy", copy);
    let times = timing::run(&device, &compiler, &sizes);
    report.times = report.part("timing attention", times);
    report.torch = if report.emulated { None } else { torch::run(&sizes) };
    report.seconds = start.elapsed().as_secs_f64();
    print!("{}", report.times_table());
    report.write(&args.out)?;
    let verdict = if report.passed() { "everything that was checked is right" } else { "SOMETHING IS WRONG" };
    println!("{verdict}; {:.0} s; written to {}", report.seconds, args.out.display());
    Ok(report.passed())
}

fn beside() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    Ok(program.parent().unwrap_or(Path::new(".")).join("kernels.lkvb"))
}
