//! Compiled kernels for the host as plain data: what caches and bundles keep, also where nothing can make or load it.

use serde::{Deserialize, Serialize};

/// A compiled kernel as plain data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostArtifact {
    /// The object file: position independent, for the CPU it was compiled on.
    pub object: Vec<u8>,
    /// The symbol to call.
    pub entry: String,
    /// The machines that the object is for.
    pub target: HostTarget,
    /// Bytes of scratch memory that each running program needs.
    pub scratch_bytes: u64,
    /// The number of arguments.
    pub params: u32,
    /// Where the kernel asserts and prints.
    pub sites: Vec<Site>,
    /// LLVM IR as emitted; empty unless asked for.
    pub llvm_ir: String,
    /// LLVM IR after the passes; empty unless asked for.
    pub optimised_llvm_ir: String,
    /// What a user may want to know: vector width, CPU.
    pub notes: Vec<String>,
}

/// The host CPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostTarget {
    /// LLVM's triple.
    pub triple: String,
    /// LLVM's name of the CPU.
    pub cpu: String,
    /// LLVM's list of features, `+avx2,-avx512f,..`.
    pub features: String,
}

/// A place in the kernel that reports something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Site {
    /// Whether it is an assertion; else it prints.
    pub assert: bool,
    /// The assertion's message, or the prefix of what is printed.
    pub text: String,
    /// `file:line:column` of the op.
    pub loc: String,
    /// The printed operands.
    pub operands: Vec<SiteOperand>,
}

/// What a print prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SiteOperand {
    /// The element type's name.
    pub dtype: String,
    /// Extents; empty for a scalar.
    pub shape: Vec<u32>,
}
