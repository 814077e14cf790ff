//! What compression does to a model: likelihood of held-out text, tasks, and bytes.
//!
//! Every configuration is a cache of its own and gets the same tokens; one pass of the model serves all of them, since they share the
//! weights. FP16 is always among them: it is what the others are compared with.

mod fleet;
mod journal;
mod memory;
mod report;
mod score;
mod tasks;
#[cfg(test)]
mod tests;
mod text;

pub use fleet::{Fleet, Row};
pub(crate) use journal::Journal;
pub use journal::JournalError;
pub use memory::{HeadMemory, Memory};
pub use report::{ConfigReport, Report};
pub use score::{Estimate, Figures, Prediction, Score, ScoreError};
pub use tasks::{Question, Questions, TaskScore, run_tasks};
pub use text::{EvalError, TextEval, evaluate};
