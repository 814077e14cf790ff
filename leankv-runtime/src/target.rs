//! What kernels are compiled for.

use std::fmt;
use std::str::FromStr;

pub use leankv_dsl::target::NvptxTarget as Sm;
use serde::{Deserialize, Serialize};

use crate::text::{join, suggestion};

/// A compilation target: this processor, or a GPU generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// This processor, with all its features.
    Host,
    /// A GPU generation.
    Gpu(Sm),
}

/// A name that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a target{}; the targets are {}", suggestion(name, &Target::names()), join(&Target::names()))]
pub struct UnknownTarget {
    /// The name.
    pub name: String,
}

/// The newest generation whose code a GPU of this compute capability runs; `None` for GPUs older than all.
pub(crate) fn newest_for((major, minor): (u32, u32)) -> Option<Sm> {
    Sm::ALL.into_iter().rfind(|sm| sm.sm() <= major * 10 + minor)
}

impl Target {
    /// All targets, the host first.
    pub fn all() -> impl Iterator<Item = Target> {
        std::iter::once(Target::Host).chain(Sm::ALL.map(Target::Gpu))
    }

    /// Their names.
    pub fn names() -> Vec<String> {
        Target::all().map(|t| t.to_string()).collect()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host => f.write_str("host"),
            Target::Gpu(sm) => sm.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Target, UnknownTarget> {
        Target::all().find(|t| t.to_string() == name).ok_or_else(|| UnknownTarget { name: name.to_owned() })
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = UnknownTarget;

    fn try_from(name: String) -> Result<Target, UnknownTarget> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_unknown_ones_list_the_choices() {
        for target in Target::all() {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        assert_eq!(
            "sm_99".parse::<Target>().unwrap_err().to_string(),
            "`sm_99` is not a target (did you mean `sm_89`?); the targets are `host`, `sm_80`, `sm_86`, `sm_89`, `sm_90`, \
             `sm_100` and `sm_120`"
        );
    }

    #[test]
    fn a_gpu_gets_the_newest_code_it_runs() {
        assert_eq!(newest_for((7, 5)), None);
        assert_eq!(newest_for((8, 0)), Some(Sm::Sm80));
        assert_eq!(newest_for((8, 7)), Some(Sm::Sm86));
        assert_eq!(newest_for((9, 0)), Some(Sm::Sm90));
        assert_eq!(newest_for((10, 3)), Some(Sm::Sm100));
        assert_eq!(newest_for((12, 1)), Some(Sm::Sm120));
    }
}
