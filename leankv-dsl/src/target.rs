//! GPUs that PTX is made for, and what each has.

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

    /// What this GPU has.
    pub fn gpu(self) -> Gpu {
        let shared_kib = match self {
            NvptxTarget::Sm80 => 163,
            NvptxTarget::Sm86 | NvptxTarget::Sm89 | NvptxTarget::Sm120 => 99,
            NvptxTarget::Sm90 | NvptxTarget::Sm100 => 227,
        };
        Gpu {
            target: self,
            block_threads: 1024,
            static_shared_bytes: 48 << 10,
            shared_bytes: shared_kib << 10,
            async_copies: true,
            matrix_loads: true,
            bf16_arithmetic: self >= NvptxTarget::Sm90,
            // Newer ones take the instructions, and do them in halves.
            f32_pairs: self == NvptxTarget::Sm100,
        }
    }
}

/// What a GPU has, as far as code depends on it.
///
/// Sizes: CUDA Programming Guide, "Technical Specifications per Compute Capability". Instructions: the "Target ISA Notes" of the
/// PTX ISA. Which products its tensor cores take is not here: a target lists its ways to do dots
/// ([`codegen::nvptx`](crate::codegen::nvptx)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gpu {
    /// The architecture; its number is the compute capability.
    pub target: NvptxTarget,
    /// The most threads of a block.
    pub block_threads: u32,
    /// Bytes of shared memory that a block has without asking.
    pub static_shared_bytes: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_bytes: u32,
    /// Whether copies from global to shared memory run beside other work (`cp.async`).
    pub async_copies: bool,
    /// Whether a warp reads matrix fragments from shared memory in one instruction (`ldmatrix`).
    pub matrix_loads: bool,
    /// Whether bfloat16 is added, subtracted, multiplied, compared, and made from integers and `f64` as such, not only by way of `f32`;
    /// and added atomically.
    pub bf16_arithmetic: bool,
    /// Whether two `f32` are added, subtracted, multiplied and put together (`fma`) by one instruction at the rate of one.
    pub f32_pairs: bool,
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
