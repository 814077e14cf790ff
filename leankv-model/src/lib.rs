//! Language models whose attention and cache are LeanKV's, at every layer.
//!
//! * [`Model`] is a decoder-only transformer read from a GGUF file; its attention is whatever [`Attend`] is given. What it computes for a row
//!   does not depend on the rows beside it, to the bit.
//!
//! Of GGUF files, these are run. All else is refused by its name: nothing that changes the answers is passed over.
//!
//! | what | which |
//! |---|---|
//! | architectures | `llama` (Llama 2 and 3, Mistral, SmolLM2), `qwen2` (and Qwen2.5), `qwen3`, `gemma3` (text) |
//! | formats of tensors | [`gguf::TENSOR_FORMATS`]; not IQ*, TQ*, MXFP4, NVFP4 |
//! | rotary positions | [`RopeScaling`]: none, linear, yarn, each with an attention factor; `rope_freqs.weight` (Llama 3.1 to 3.3) |
//! | sliding windows | Gemma's pattern; on all layers of `llama` files that have `attention.sliding_window` (Mistral 7B v0.1; files without that key attend to all) |
//! | tokenizers | [`tokenizer`]: `llama` (SentencePiece), `gpt2` with text splitting `smollm`, `qwen2` and `llama-bpe` |

pub mod cache;
pub mod calibrate;
mod config;
mod error;
pub mod eval;
pub mod fetch;
mod finite;
pub mod generate;
pub mod gguf;
mod linear;
pub mod math;
mod metadata;
mod model;
mod rope;
pub mod run;
pub mod sample;
pub mod serve;
pub mod settings;
pub mod statistics;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokenizer;
pub mod tune;
pub mod variants;

pub use config::{Architecture, ModelConfig, SlidingWindow};
pub use error::ModelError;
pub use finite::{BeyondF16, Hidden, NonFinite, Place};
pub use linear::WeightForm;
pub use model::{Attend, LayerRows, Model};
pub use rope::{Rope, RopeConfig, RopePairs, RopeScaling};
