//! Language models whose attention and cache are LeanKV's, at every layer.
//!
//! * [`Model`] is a decoder-only transformer read from a GGUF file; its attention is whatever [`Attend`] is given. What it computes for a row
//!   does not depend on the rows beside it, to the bit.

pub mod cache;
pub mod calibrate;
mod config;
mod error;
pub mod eval;
pub mod fetch;
pub mod generate;
mod linear;
pub mod math;
mod model;
mod rope;
pub mod run;
pub mod sample;
pub mod serve;
pub mod settings;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokenizer;
pub mod variants;

pub use config::{Architecture, ModelConfig, SlidingWindow};
pub use error::ModelError;
pub use linear::WeightForm;
pub use model::{Attend, LayerRows, Model};
pub use rope::RopePairs;
