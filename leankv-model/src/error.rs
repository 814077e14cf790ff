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
    /// What is no GGUF file, or a damaged one or a part of one.
    #[error("this is no GGUF file, or a damaged one or a part of one: {0}")]
    Gguf(String),
    /// A key or a tensor that the file has twice: which one counts is nobody's to say.
    #[error(
        "the file has the {what} `{name}` twice: it is damaged or wrongly converted; convert the model again"
    )]
    Twice {
        /// A key or a tensor.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A tensor in a format that is not read.
    #[error(
        "tensor `{tensor}` is in {format}, which is not supported; supported are {}: take or make a file in one of them",
        crate::gguf::TENSOR_FORMATS
    )]
    TensorFormat {
        /// The tensor.
        tensor: String,
        /// The format's name.
        format: &'static str,
    },
    /// A tensor that the model needs and the file lacks.
    #[error(
        "the file has no tensor `{0}`, which a model of its metadata needs; it is a part of a model, or wrongly converted"
    )]
    MissingTensor(String),
    /// Tensors that the architecture as it is written here has no use for: without them the model would be another one.
    #[error(
        "the file has {} that {architecture} models do not use here: {}; without it the answers would be wrong, so take a plain {architecture} file",
        if names.len() == 1 { "a tensor".to_owned() } else { format!("{} tensors", names.len()) },
        listed(names)
    )]
    UnreadTensors {
        /// The model's architecture.
        architecture: &'static str,
        /// The tensors, in order.
        names: Vec<String>,
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
    #[error("the model's architecture is `{0}`; this program runs {known}", known = crate::config::Architecture::names())]
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

/// The first few of some names.
fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(4).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
