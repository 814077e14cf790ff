//! GPUs that PTX is made for.

use std::fmt;
use std::str::FromStr;

/// A GPU architecture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum NvptxTarget {
    /// Ampere data centre (A100).
    Sm80,
    /// Ampere consumer and workstation (A10, RTX 30).
    Sm86,
    /// Ada (L4, L40, RTX 40).
    Sm89,
    /// Hopper (H100, H20).
    Sm90,
    /// Blackwell data centre (B200).
    Sm100,
    /// Blackwell consumer (RTX 50).
    Sm120,
}

impl NvptxTarget {
    /// All targets, oldest first.
    pub const ALL: [NvptxTarget; 6] = [
        NvptxTarget::Sm80,
        NvptxTarget::Sm86,
        NvptxTarget::Sm89,
        NvptxTarget::Sm90,
        NvptxTarget::Sm100,
        NvptxTarget::Sm120,
    ];

    /// The compute capability as one number: 80, 86, ..
    pub fn sm(self) -> u32 {
        match self {
            NvptxTarget::Sm80 => 80,
            NvptxTarget::Sm86 => 86,
            NvptxTarget::Sm89 => 89,
            NvptxTarget::Sm90 => 90,
            NvptxTarget::Sm100 => 100,
            NvptxTarget::Sm120 => 120,
        }
    }

    /// The PTX version that is written, as LLVM names it: old enough for the first driver that knows the GPU well.
    pub(super) fn ptx_feature(self) -> &'static str {
        match self {
            NvptxTarget::Sm80 | NvptxTarget::Sm86 | NvptxTarget::Sm89 | NvptxTarget::Sm90 => "+ptx80",
            NvptxTarget::Sm100 => "+ptx86",
            NvptxTarget::Sm120 => "+ptx87",
        }
    }

    /// Bytes of shared memory that one block may use.
    pub fn shared_bytes(self) -> u32 {
        match self {
            NvptxTarget::Sm80 => 163 << 10,
            NvptxTarget::Sm86 | NvptxTarget::Sm89 | NvptxTarget::Sm120 => 99 << 10,
            NvptxTarget::Sm90 | NvptxTarget::Sm100 => 227 << 10,
        }
    }
}

impl fmt::Display for NvptxTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.sm())
    }
}

/// A name that is no target.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a GPU target; write one of sm_80, sm_86, sm_89, sm_90, sm_100, sm_120")]
pub struct UnknownTarget(pub String);

impl FromStr for NvptxTarget {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<NvptxTarget, UnknownTarget> {
        let number = text.strip_prefix("sm_").unwrap_or(text);
        NvptxTarget::ALL
            .into_iter()
            .find(|t| t.sm().to_string() == number)
            .ok_or_else(|| UnknownTarget(text.to_owned()))
    }
}
