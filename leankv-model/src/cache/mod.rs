//! The caches that a model's attention runs on: which one is asked for, how it is opened, and how rows of a batch reach it.

mod attend;
mod choice;
mod open;
mod registry;
mod replay;
mod window;

pub use attend::{PromptAttend, StepAttend};
pub use choice::{Always, BadChoice, KvChoice, Limit};
pub use open::{Room, config_without_model, open, page_bytes, thresholds};
pub use registry::{
    Context, Entry, Named, NamedPolicy, NamedVariant, PolicyMaker, Registry, RegistryError, Stage,
    VariantMaker,
};
pub use replay::Recorded;
