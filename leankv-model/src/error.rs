//! What can go wrong with a model.

use std::path::PathBuf;

use leankv_runtime::kv::KvError;
use leankv_runtime::{CompileError, DeviceError};

use crate::cache::BadChoice;
use crate::finite::NonFinite;
use crate::sample::BadSampling;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read as GGUF.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        why: String,
    },
    /// The file says nothing, or something that cannot be, about a number that is needed.
    #[error("the model file's metadata: `{key}` {why}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// An architecture that is not written here.
    #[error("the model's architecture is `{0}`; this program runs llama, qwen2 and gemma3")]
    Architecture(String),
    /// A tensor that has another shape than the metadata says.
    #[error("tensor `{name}` is {got:?}, and the metadata asks for {expected:?}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Its extents.
        got: Vec<usize>,
        /// What they should be.
        expected: Vec<usize>,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is none of the vocabulary's {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// More tokens than the model was trained for.
    #[error("position {position} is beyond the model's context of {context} tokens")]
    Context {
        /// The position.
        position: usize,
        /// The longest context.
        context: usize,
    },
    /// What was computed is not finite, so nothing can be said with it.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// The same, with one cache of several.
    #[error("with the cache {cache}: {error}")]
    InCache {
        /// The cache.
        cache: String,
        /// What happened.
        error: NonFinite,
    },
    /// A cache that means nothing.
    #[error(transparent)]
    Choice(#[from] BadChoice),
    /// A way of choosing tokens that means nothing.
    #[error(transparent)]
    Sampling(#[from] BadSampling),
    /// Something this model cannot do.
    #[error("{0}")]
    Refused(String),
    /// A matrix product failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// The cache refused or failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
}
