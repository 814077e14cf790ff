//! `leankv tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use leankv_model::tune;

use super::{Weights, Which};

/// `leankv tune`.
#[derive(Debug, Args)]
pub(crate) struct Tune {
    /// What is done.
    #[command(subcommand)]
    pub(crate) what: TuneWhat,
}

/// What `leankv tune` does.
#[derive(Debug, Subcommand)]
pub(crate) enum TuneWhat {
    /// Find formats of its own for every layer of a model, and keep them in leankv.toml for `--kv tuned` and `--kv tuned@1/8`.
    Bits(Bits),
    /// Find the fastest specialisation of a kernel on a device, and keep it where caches find it.
    Kernel(TuneKernel),
    /// Find the fastest specialisations of all kernels of a model's cache whose blocks can be tuned.
    Cache(TuneCache),
    /// List what was found for the models of a file of settings.
    Show(ShowTuned),
    /// Say what one of the caches that were found has in each layer.
    Explain(ExplainCache),
}

/// `leankv tune bits`.
#[derive(Debug, Args)]
pub(crate) struct Bits {
    /// A model that was fetched (see `leankv fetch-model`), or a GGUF file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) model: String,
    /// The texts that choices are made on: not those that are scored later. What suits one kind of text may not suit another, so give several kinds.
    #[arg(long, value_name = "FILE", num_args = 1.., default_values = ["data/opticks.txt", "data/code.txt"])]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens of each that are skipped first; the usual statistics of a model are of the first 2048.
    #[arg(long, default_value_t = 2048)]
    pub(crate) skip: usize,
    /// The texts on which what was found is measured at the end. What does not beat the default formats there too is not kept. Default: a later part of the others.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) held: Vec<PathBuf>,
    /// Tokens of each of these that are skipped first.
    #[arg(long, default_value_t = 8192)]
    pub(crate) held_skip: usize,
    /// Parts of FP16 that are tuned for, separated by commas: 8 for an eighth.
    #[arg(long, value_delimiter = ',', default_values_t = [3.0, 4.0, 5.0, 8.0, 11.0, 16.0])]
    pub(crate) parts: Vec<f32>,
    /// Bits of codes that are tried for keys and for values of every layer, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 3, 4, 5, 6, 8])]
    pub(crate) widths: Vec<u32>,
    /// Which codes.
    #[arg(long, value_enum, default_value_t = Codes::MidRise)]
    pub(crate) codes: Codes,
    /// How much is measured: SmolLM2-135M takes some ten minutes on two cores, or an hour.
    #[arg(long, value_enum, default_value_t = Effort::Quick)]
    pub(crate) effort: Effort,
    /// With `--effort full`: leave the second round of sensitivities out where the first one ends after this, such as 20m.
    #[arg(long, value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// `--kv tuned` takes the smallest cache that diverges from FP16's predictions by at most this KL, in nats a token.
    #[arg(long, default_value_t = 0.01)]
    pub(crate) max_kl: f64,
    /// In which form weights are multiplied: activations that are rounded for quantised ones hide what few bits of a cache lose.
    #[arg(long, value_enum, default_value_t = Weights::Dense)]
    pub(crate) weights: Weights,
    /// Keep every trial here as it comes; a run that was cut off goes on from it. Default: MODEL.trials.jsonl beside the file of settings.
    #[arg(long, value_name = "FILE")]
    pub(crate) trials: Option<PathBuf>,
    /// Write a report here: one HTML file that needs no other.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Where what was found is written.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
    /// Print what would be measured, and about how long it would take; measure nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `leankv tune kernel`.
#[derive(Debug, Args)]
pub(crate) struct TuneKernel {
    /// The kernel, and what is given: `--set` of a setting that is tuned says where the search begins.
    #[command(flatten)]
    pub(crate) which: Which,
    /// A size of the launch that is timed, repeated or separated by commas (see `leankv profile KERNEL`).
    #[arg(long = "shapes", value_name = "NAME=NUMBER", value_delimiter = ',')]
    pub(crate) shapes: Vec<String>,
    /// How it is done.
    #[command(flatten)]
    pub(crate) how: HowKernels,
    /// Print the space and its size; measure nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON, with every candidate.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv tune cache`.
#[derive(Debug, Args)]
pub(crate) struct TuneCache {
    /// A model that was fetched (see `leankv fetch-model`), or a GGUF file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) model: String,
    /// The cache, of built-in codecs.
    #[arg(long, value_name = "CACHE", default_value = "@1/5")]
    pub(crate) kv: String,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 2048)]
    pub(crate) ctx: usize,
    /// What `--kv tuned` and thresholds are read from.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
    /// How it is done.
    #[command(flatten)]
    pub(crate) how: HowKernels,
}

/// How kernels are tuned.
#[derive(Debug, Args)]
pub(crate) struct HowKernels {
    /// host, cuda:0, or a GPU that need not be here and whose times are modelled: h200, h100, a100, l40s.
    #[arg(long, default_value = "host")]
    pub(crate) device: String,
    /// How much is measured.
    #[arg(long, value_enum, default_value_t = KernelEffort::Quick)]
    pub(crate) effort: KernelEffort,
    /// Begin no further candidate of a kernel after this, such as 90s; what was found by then is kept in no table.
    #[arg(long, value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// Seed of the workload's data.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The table in which what was measured is kept. Default: the file that LEANKV_TUNED names, or tuned.json in the folder of compiled kernels.
    #[arg(long, value_name = "FILE")]
    pub(crate) table: Option<PathBuf>,
}

/// How much of a kernel's space is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KernelEffort {
    /// Along one setting after the other, at most a quarter of the candidates.
    Quick,
    /// Every candidate.
    Full,
}

/// `leankv tune show`.
#[derive(Debug, Args)]
pub(crate) struct ShowTuned {
    /// This model alone.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Where it was written.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `leankv tune explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainCache {
    /// `tuned`, `tuned@1/8`, or any cache's text.
    #[arg(default_value = "tuned")]
    pub(crate) cache: String,
    /// The model.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) model: String,
    /// Where it was written.
    #[arg(long, value_name = "FILE", default_value = leankv_model::settings::FILE)]
    pub(crate) settings: PathBuf,
}

/// Codes of every width.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Codes {
    /// Symmetric with mid-rise levels, of rotated rows.
    MidRise,
    /// Symmetric with mid-tread levels.
    Symmetric,
    /// With a scale and a zero point.
    Affine,
}

impl From<Codes> for tune::Codes {
    fn from(codes: Codes) -> Self {
        match codes {
            Codes::MidRise => tune::Codes::MidRise,
            Codes::Symmetric => tune::Codes::Symmetric,
            Codes::Affine => tune::Codes::Affine,
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Effort {
    /// Two widths of every side of every layer, in short contexts.
    Quick,
    /// All widths, in longer contexts, and once more around what that says.
    Full,
}

impl From<Effort> for tune::Effort {
    fn from(effort: Effort) -> Self {
        match effort {
            Effort::Quick => tune::Effort::Quick,
            Effort::Full => tune::Effort::Full,
        }
    }
}

/// A number of seconds, minutes or hours: `90s`, `20m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time such as 90s, 20m or 1h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}
