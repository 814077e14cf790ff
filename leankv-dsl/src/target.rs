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
        let (sm_warps, sm_blocks) = match self {
            NvptxTarget::Sm80 | NvptxTarget::Sm90 | NvptxTarget::Sm100 => (64, 32),
            NvptxTarget::Sm86 => (48, 16),
            NvptxTarget::Sm89 | NvptxTarget::Sm120 => (48, 24),
        };
        Gpu {
            target: self,
            block_threads: 1024,
            static_shared_bytes: 48 << 10,
            shared_bytes: shared_kib << 10,
            sm_registers: 64 << 10,
            // The system takes 1 KiB of every block.
            sm_shared_bytes: (shared_kib + 1) << 10,
            sm_warps,
            sm_blocks,
            async_copies: true,
            matrix_loads: true,
            bf16_arithmetic: self >= NvptxTarget::Sm90,
            // Newer ones take the instructions, and do them in halves.
            f32_pairs: self == NvptxTarget::Sm100,
        }
    }
}

/// What a GPU has, as far as code depends on it, and how many blocks of a kernel fit a multiprocessor.
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
    /// 32-bit registers of a multiprocessor.
    pub sm_registers: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub sm_shared_bytes: u32,
    /// The most warps on a multiprocessor.
    pub sm_warps: u32,
    /// The most blocks on a multiprocessor.
    pub sm_blocks: u32,
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

/// A GPU as it is sold: what a model of time needs beside [`Gpu`]. SMs and bandwidth are those of NVIDIA's data sheets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Product {
    /// Its name, in small letters.
    pub name: &'static str,
    /// Its architecture.
    pub target: NvptxTarget,
    /// Multiprocessors.
    pub sms: u32,
    /// Clock in GHz: one that is held under load, where parts boost higher for a while.
    pub ghz: f64,
    /// Bandwidth of global memory in GB (1e9 bytes) a second.
    pub gbytes: f64,
}

impl Product {
    /// All products.
    pub const ALL: [Product; 4] = [
        Product { name: "h200", target: NvptxTarget::Sm90, sms: 132, ghz: 1.755, gbytes: 4800.0 },
        Product { name: "h100", target: NvptxTarget::Sm90, sms: 132, ghz: 1.755, gbytes: 3350.0 },
        Product { name: "a100", target: NvptxTarget::Sm80, sms: 108, ghz: 1.41, gbytes: 2039.0 },
        Product { name: "l40s", target: NvptxTarget::Sm89, sms: 142, ghz: 2.52, gbytes: 864.0 },
    ];

    /// The product of this name, in capitals or not.
    pub fn named(name: &str) -> Option<Product> {
        Product::ALL.into_iter().find(|product| product.name.eq_ignore_ascii_case(name))
    }

    /// Bytes that global memory gives one multiprocessor in a cycle, if all take as much.
    pub fn sm_bytes_a_cycle(&self) -> f64 {
        self.gbytes / self.ghz / f64::from(self.sms)
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
