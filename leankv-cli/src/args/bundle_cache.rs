//! `leankv bundle-cache`.

use std::path::PathBuf;

use clap::Args;
use leankv_dsl::lang::FloatType;

/// `leankv bundle-cache`. How much a cache holds is nothing that its kernels depend on.
#[derive(Debug, Args)]
pub(crate) struct BundleCache {
    /// Where to write the bundle.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    /// What to compile for, repeated or separated by commas: sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, host.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) target: Vec<String>,
    /// Query heads that share a KV head.
    #[arg(long)]
    pub(crate) group: usize,
    /// Elements of a vector.
    #[arg(long)]
    pub(crate) head_dim: usize,
    /// The caches, such as `k8v4/k4v2` or `k8v4:window=32`. What limits their bytes is nothing that kernels depend on. `@1/5` stands for the default formats, for models
    /// whose key projection has no bias.
    #[arg(long, value_name = "CACHE", num_args = 1.., default_value = "@1/5")]
    pub(crate) kv: Vec<String>,
    /// Element type of queries, keys and values as they come: f16, bf16, f32.
    #[arg(long, default_value = "f16")]
    pub(crate) input: FloatType,
    /// Bytes of a page; default: a size that wastes little with the formats.
    #[arg(long)]
    pub(crate) page_bytes: Option<usize>,
    /// Tokens of a chunk of a prompt.
    #[arg(long, default_value_t = 512)]
    pub(crate) chunk: usize,
    /// How many of a chunk's last queries count towards significance; default: 64, or all of a shorter chunk.
    #[arg(long)]
    pub(crate) window_q: Option<usize>,
}
