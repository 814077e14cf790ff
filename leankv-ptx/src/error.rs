//! Errors of parsing, launching and executing.

use crate::finding::Finding;
use thiserror::Error;

/// PTX text that is not valid, or that this machine does not support.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{line}:{col}: {message}")]
pub struct ParseError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Column in bytes, from 1.
    pub col: u32,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Where an event happened during execution.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Site {
    /// Kernel that was launched.
    pub kernel: String,
    /// Function the instruction stands in; the kernel itself unless it is a callee.
    pub function: String,
    /// Line of the PTX text, from 1; 0 where the event belongs to no instruction.
    pub ptx_line: u32,
    /// The opcode, for example `ld.global.f32`.
    pub opcode: String,
    /// `file:line` of the source, from the last `.loc` directive.
    pub source: Option<String>,
    /// Block index.
    pub block: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Lane of the warp.
    pub lane: u32,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        if self.function != self.kernel {
            write!(f, " in {}", self.function)?;
        }
        if self.ptx_line > 0 {
            write!(f, ", PTX line {} ({})", self.ptx_line, self.opcode)?;
        }
        if let Some(s) = &self.source {
            write!(f, ", source {s}")?;
        }
        let [x, y, z] = self.block;
        write!(f, ", block ({x},{y},{z}) warp {} lane {}", self.warp, self.lane)
    }
}

/// The kinds of hard fault.
#[derive(Clone, Debug, PartialEq, Eq, Error, serde::Serialize)]
pub enum FaultKind {
    /// An access outside every live allocation, variable or window.
    #[error("out-of-bounds {access} of {bytes} bytes at 0x{address:x}: {detail}")]
    OutOfBounds {
        /// `load`, `store`, `atomic` and so on.
        access: &'static str,
        /// Size of the access of one lane, in bytes.
        bytes: u32,
        /// Address.
        address: u64,
        /// The nearest allocation or the limit that was exceeded.
        detail: String,
    },
    /// An access to freed memory.
    #[error("use after free: {access} of {bytes} bytes at 0x{address:x}: {detail}")]
    UseAfterFree {
        /// `load`, `store`, `atomic` and so on.
        access: &'static str,
        /// Size of the access of one lane, in bytes.
        bytes: u32,
        /// Address.
        address: u64,
        /// The allocation it belonged to.
        detail: String,
    },
    /// An address that is not a multiple of the access size.
    #[error("misaligned {access}: 0x{address:x} is not a multiple of {align} bytes")]
    Misaligned {
        /// `load`, `store`, `atomic` and so on.
        access: &'static str,
        /// Address.
        address: u64,
        /// Required alignment in bytes.
        align: u32,
    },
    /// A store to constant or parameter memory.
    #[error("store to read-only memory at 0x{address:x}")]
    ReadOnly {
        /// Address.
        address: u64,
    },
    /// `trap`.
    #[error("trap instruction executed")]
    Trap,
    /// No warp of a block can make progress.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// The instruction budget of the launch ran out.
    #[error(
        "instruction budget of {0} warp instructions is used up; raise Config::budget or look for an endless loop"
    )]
    Budget(u64),
    /// An instruction that is executed wrongly in a way that has no defined result.
    #[error("{0}")]
    Illegal(String),
    /// Call stack or local memory exhausted.
    #[error("stack overflow: {0}")]
    StackOverflow(String),
}

/// A hard fault: the launch stopped here.
#[derive(Clone, Debug, PartialEq, Eq, Error, serde::Serialize)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Where.
    pub site: Site,
    /// What the checks had found when the launch stopped; often the cause.
    pub findings: Vec<Finding>,
    /// Distinct findings beyond [`Config::max_findings`](crate::Config::max_findings).
    pub findings_dropped: u64,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n  at {}", self.kind, self.site)?;
        if !self.findings.is_empty() || self.findings_dropped > 0 {
            write!(f, "\nfound before it:")?;
        }
        for finding in &self.findings {
            write!(f, "\n{finding}")?;
        }
        if self.findings_dropped > 0 {
            write!(f, "\n{} further findings", self.findings_dropped)?;
        }
        Ok(())
    }
}

/// Errors of the machine's host-side functions.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// Execution stopped with a fault.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// The module has no kernel of this name.
    #[error("no kernel `{name}` in the module; it has: {known}")]
    NoKernel {
        /// The name asked for.
        name: String,
        /// The kernels there are.
        known: String,
    },
    /// Arguments do not match the kernel's parameters.
    #[error("argument {index} of kernel `{kernel}`: {message}")]
    Argument {
        /// Kernel.
        kernel: String,
        /// Index from 0.
        index: usize,
        /// What is wrong.
        message: String,
    },
    /// Grid, block or shared memory outside the limits.
    #[error("launch of `{kernel}`: {message}")]
    Launch {
        /// Kernel.
        kernel: String,
        /// The limit and the value.
        message: String,
    },
    /// A host access to memory that is not allocated.
    #[error("host access of {bytes} bytes at 0x{address:x}: {message}")]
    HostAccess {
        /// Address.
        address: u64,
        /// Size.
        bytes: u64,
        /// What is wrong.
        message: String,
    },
    /// Device memory is used up, or the request is malformed.
    #[error("allocation of {bytes} bytes with alignment {align}: {message}")]
    Alloc {
        /// Requested bytes.
        bytes: u64,
        /// Requested alignment.
        align: u64,
        /// What is wrong.
        message: String,
    },
    /// The module refers to symbols that nothing defines.
    #[error("unresolved external symbol `{0}`")]
    Unresolved(String),
}

impl From<Fault> for Error {
    fn from(f: Fault) -> Self {
        Error::Fault(Box::new(f))
    }
}
