//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;

/// Compiles, inspects and runs LeanKV kernels.
#[derive(Debug, Parser)]
#[command(name = "leankv", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print what the compiler and the cache do; repeat for more (`-vv`).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the kernels, or the settings of one kernel.
    List(List),
    /// Compile a kernel and print or write the results.
    #[command(after_help = COMPILE_EXAMPLES)]
    Compile(Compile),
    /// Show what a kernel takes of each target: registers, spills, shared memory, instructions, compile time.
    Inspect(Inspect),
    /// Run a kernel on the interpreter, the host and the PTX machine, and compare.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// Count what a kernel's PTX does: instructions, sectors, bank conflicts, bytes by buffer. Modelled.
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile(Profile),
    /// Explain an error code such as K0123; without a code, list them.
    Explain(Explain),
    /// Quantise real keys and values, attend over them, and print accuracy, bytes and time.
    Demo(Demo),
    /// Show or clear the kernel cache.
    Cache(Cache),
    /// List the devices that kernels can run on here.
    Devices(Devices),
}

const COMPILE_EXAMPLES: &str = "\
Examples:
  leankv compile softmax --target sm_90                                PTX to the terminal
  leankv compile softmax --set cols=512 --target sm_80 --emit ptx,sass -o out/
  leankv compile decode_attention --every-spec --target sm_90 --bundle kernels.lkvb";

const VERIFY_EXAMPLES: &str = "\
Examples:
  leankv verify softmax                                                one specialisation, PTX for sm_80
  leankv verify decode_attention --set tiering=K8V4/K4V2,group=8 --target sm_80,sm_90 --perturb
  leankv verify quantize --all                                         every declared specialisation
  leankv verify softmax --ptx changed.ptx                              PTX that was edited by hand";

const PROFILE_EXAMPLES: &str = "\
Examples:
  leankv profile decode_attention --set tiering=K8V4 --target sm_90
  leankv profile decode_attention --shapes tokens=1000,requests=1 --annotate > decode.annotated.ptx";

/// `leankv list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Show this kernel's settings.
    pub(crate) kernel: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which kernel, at which specialisation.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The kernel (see `leankv list`).
    pub(crate) kernel: String,
    /// A setting of the specialisation, repeated or separated by commas; what is not set has its default
    /// (see `leankv list KERNEL`).
    #[arg(long = "set", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) set: Vec<String>,
}

/// `leankv compile`.
#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// The kernel.
    #[command(flatten)]
    pub(crate) which: Which,
    /// What to compile for, repeated or separated by commas: host, sm_80, sm_86, sm_89, sm_90, sm_100, sm_120.
    #[arg(long, value_delimiter = ',', default_value = "sm_90")]
    pub(crate) target: Vec<String>,
    /// What to print or write, separated by commas: tile, llvm, ptx, sass, resources. Default: ptx for a GPU, llvm for
    /// the host.
    #[arg(long, value_delimiter = ',')]
    pub(crate) emit: Vec<String>,
    /// Compile every declared specialisation instead of one.
    #[arg(long, conflicts_with = "set")]
    pub(crate) every_spec: bool,
    /// Where to write: a file for a single result, else a folder. Default: the terminal.
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Write the compiled kernels to this bundle, for machines that must not compile at run time.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The kernel.
    #[command(flatten)]
    pub(crate) which: Which,
    /// What to compile for; default: every target.
    #[arg(long, value_delimiter = ',')]
    pub(crate) target: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The kernel.
    #[command(flatten)]
    pub(crate) which: Which,
    /// The GPUs whose PTX is run, repeated or separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "sm_80")]
    pub(crate) target: Vec<String>,
    /// Verify every declared specialisation instead of one.
    #[arg(long, conflicts_with = "set")]
    pub(crate) all: bool,
    /// Sizes of the generated inputs, such as `tokens=100,requests=3`; an unknown name lists those there are.
    #[arg(long, value_name = "NAME=NUMBER", value_delimiter = ',')]
    pub(crate) shapes: Vec<String>,
    /// Seed of inputs and schedules: of programs, blocks, warps and lanes.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Also run with approximate functions moved within their error bounds and tensor-core sums in another order.
    #[arg(long)]
    pub(crate) perturb: bool,
    /// Run this PTX in place of what the compiler emits.
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub(crate) ptx: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv profile`.
#[derive(Debug, Args)]
pub(crate) struct Profile {
    /// The kernel.
    #[command(flatten)]
    pub(crate) which: Which,
    /// The GPU whose PTX is run.
    #[arg(long, default_value = "sm_80")]
    pub(crate) target: String,
    /// Sizes of the generated inputs, such as `tokens=1000`; an unknown name lists those there are.
    #[arg(long, value_name = "NAME=NUMBER", value_delimiter = ',')]
    pub(crate) shapes: Vec<String>,
    /// Seed of inputs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the PTX with counts beside its lines instead of tables.
    #[arg(long)]
    pub(crate) annotate: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "annotate")]
    pub(crate) json: bool,
}

/// `leankv explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The code.
    pub(crate) code: Option<String>,
}

/// `leankv demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keys, values and queries in safetensors (see data/README.md for the layout).
    #[arg(long, value_name = "FILE", default_value = "data/smollm2_135m_kv.safetensors")]
    pub(crate) data: PathBuf,
    /// Where the PTX files go.
    #[arg(long, value_name = "DIR", default_value = "out/ptx")]
    pub(crate) ptx: PathBuf,
    /// Where the picture of memory by layer and KV head goes (SVG).
    #[arg(long, value_name = "FILE", default_value = "out/memory.svg")]
    pub(crate) heat_map: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv cache`.
#[derive(Debug, Args)]
pub(crate) struct Cache {
    /// Remove all compiled kernels.
    #[arg(long)]
    pub(crate) clear: bool,
}

/// `leankv devices`.
#[derive(Debug, Args)]
pub(crate) struct Devices {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
