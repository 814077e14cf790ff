//! The caches that a model's attention runs on: which one is asked for, how it is opened, and how rows of a batch reach it.

mod attend;
mod choice;
mod open;
mod replay;
mod window;

pub use attend::{PromptAttend, StepAttend};
pub use choice::{Always, BadChoice, KvChoice, Limit, Variant};
pub use open::{Room, open, page_bytes, thresholds};
pub use replay::Recorded;
pub use window::LayerWindow;
