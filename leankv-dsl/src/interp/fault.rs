//! What can go wrong while a kernel runs, and how it is said.

use std::fmt;

use crate::diag::Diagnostic;
use crate::ir::{Dtype, Func, Loc};

/// What a kernel did wrong.
///
/// Bytes are counted from the start of the buffer; elements of a tile in row-major order.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside its buffer.
    OutOfBounds {
        /// First byte of the element.
        byte: i128,
        /// The element type.
        dtype: Dtype,
        /// The buffer's length.
        buffer_bytes: u64,
    },
    /// An access at an address that is no multiple of the element's size.
    Misaligned {
        /// First byte of the element.
        byte: i64,
        /// The element type.
        dtype: Dtype,
    },
    /// A read of memory, or of a stage of shared memory, that was never written.
    Uninitialised {
        /// First byte of the element; `None` for shared memory.
        byte: Option<i64>,
    },
    /// A read through a read-only parameter of a byte that this launch wrote through another parameter.
    ReadOnlyMemoryWritten {
        /// The byte.
        byte: i64,
    },
    /// Two programs wrote different values to a byte, in no order.
    WriteRace {
        /// The byte.
        byte: i64,
        /// The other program; `None` when there were several.
        other: Option<[u32; 3]>,
    },
    /// One program wrote a byte that another read, in no order.
    ReadRace {
        /// The byte.
        byte: i64,
        /// The other program; `None` when there were several.
        other: Option<[u32; 3]>,
        /// Whether the faulting access is the write.
        on_write: bool,
    },
    /// Two elements of one store have the same address and different values.
    DuplicateStore {
        /// First byte of the element.
        byte: i64,
        /// The earlier element.
        first: u64,
    },
    /// A truth value in memory is neither 0 nor 1.
    NotABool {
        /// The byte.
        byte: i64,
        /// What it holds.
        value: u8,
    },
    /// Integer division or remainder by zero.
    DivisionByZero,
    /// An index of `gather` outside the source's extent.
    GatherIndex {
        /// The index.
        index: i128,
        /// The extent along the axis.
        extent: u32,
    },
    /// A `for` loop whose step is not positive.
    NonPositiveStep {
        /// The step.
        step: i64,
    },
    /// A program did not end within the steps allowed.
    StepBudget {
        /// The limit (`Options::max_steps`).
        limit: u64,
    },
    /// An `assert` was false.
    AssertFailed {
        /// Its text.
        message: String,
    },
    /// A stage of shared memory outside its block.
    StageIndex {
        /// The stage asked for.
        stage: i64,
        /// The number of stages.
        stages: u32,
    },
    /// A stage was used while an asynchronous copy into it may still be running.
    StagePending {
        /// The stage.
        stage: u32,
    },
    /// A stage was read, or written again, without a barrier after the other access.
    MissingBarrier {
        /// The stage.
        stage: u32,
    },
    /// Pointer arithmetic that leaves 64 bits.
    AddressOverflow,
    /// The IR breaks its own rules; the verifier would have said so.
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl FaultKind {
    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            FaultKind::OutOfBounds { .. } => "K0801",
            FaultKind::Misaligned { .. } => "K0802",
            FaultKind::Uninitialised { .. } => "K0803",
            FaultKind::ReadOnlyMemoryWritten { .. } => "K0804",
            FaultKind::WriteRace { .. } => "K0805",
            FaultKind::ReadRace { .. } => "K0806",
            FaultKind::DuplicateStore { .. } => "K0807",
            FaultKind::NotABool { .. } => "K0808",
            FaultKind::DivisionByZero => "K0809",
            FaultKind::GatherIndex { .. } => "K0810",
            FaultKind::NonPositiveStep { .. } => "K0811",
            FaultKind::StepBudget { .. } => "K0812",
            FaultKind::AssertFailed { .. } => "K0813",
            FaultKind::StageIndex { .. } => "K0814",
            FaultKind::StagePending { .. } => "K0815",
            FaultKind::MissingBarrier { .. } => "K0816",
            FaultKind::AddressOverflow => "K0817",
            FaultKind::Malformed { .. } => "K0106",
        }
    }

    /// What to do about it, where there is something to say.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            FaultKind::OutOfBounds { .. } => "mask the elements that lie beyond the data",
            FaultKind::Misaligned { .. } => {
                "pass an address that is a multiple of the element's size, or access smaller elements"
            }
            FaultKind::Uninitialised { byte: Some(_) } => {
                "fill the buffer before the launch, or mask these elements"
            }
            FaultKind::Uninitialised { byte: None } => "copy or store a tile to the stage first",
            FaultKind::ReadOnlyMemoryWritten { .. } => {
                "a read-only parameter promises that nobody writes its memory during the launch: declare it for writing, or \
                 pass separate buffers"
            }
            FaultKind::WriteRace { .. } => {
                "give each program its own part of the output, or combine with an atomic op"
            }
            FaultKind::ReadRace { .. } => {
                "programs run in no order: split the kernel in two launches, or order the accesses with an atomic release \
                 and acquire of device scope"
            }
            FaultKind::DuplicateStore { .. } => "mask all but one of the elements, or use an atomic op",
            FaultKind::NotABool { .. } => "i1 takes one byte, 0 or 1; load other bytes as u8 and compare",
            FaultKind::DivisionByZero => "generated code gives 0 here; guard the divisor with `select`",
            FaultKind::GatherIndex { .. } => "clamp the index",
            FaultKind::NonPositiveStep { .. } => {
                "steps count up; reverse the index inside the loop to count down"
            }
            FaultKind::StepBudget { .. } => {
                "a loop may never end, for example one that waits for a program which runs later; if it is only long, raise the \
                 limit"
            }
            FaultKind::StagePending { .. } => "wait for the copy's group before using the stage",
            FaultKind::MissingBarrier { .. } => "put a barrier between the two accesses",
            _ => return None,
        })
    }

    /// The fault at an element of the op's tile.
    pub(crate) fn at(self, element: usize) -> Raised {
        Raised { kind: self, element: Some(element), param: None }
    }

    /// The fault of the op as a whole.
    pub(crate) fn raised(self) -> Raised {
        Raised { kind: self, element: None, param: None }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |other: &Option<[u32; 3]>| match other {
            Some([x, y, z]) => format!("program [{x}, {y}, {z}]"),
            None => "several other programs".to_owned(),
        };
        match self {
            FaultKind::OutOfBounds { byte, dtype, buffer_bytes } => {
                write!(f, "`{dtype}` at byte {byte} lies outside the buffer of {buffer_bytes} bytes")
            }
            FaultKind::Misaligned { byte, dtype } => write!(f, "`{dtype}` at byte {byte} is misaligned"),
            FaultKind::Uninitialised { byte: Some(byte) } => {
                write!(f, "read of byte {byte}, which was never written")
            }
            FaultKind::Uninitialised { byte: None } => {
                f.write_str("read of a stage of shared memory that was never written")
            }
            FaultKind::ReadOnlyMemoryWritten { byte } => {
                write!(f, "byte {byte} of a read-only parameter was written in this launch")
            }
            FaultKind::WriteRace { byte, other } => {
                write!(f, "write race on byte {byte}: {} wrote another value", who(other))
            }
            FaultKind::ReadRace { byte, other, on_write: false } => {
                write!(f, "race on byte {byte}: read here, written by {}", who(other))
            }
            FaultKind::ReadRace { byte, other, on_write: true } => {
                write!(f, "race on byte {byte}: written here, read by {}", who(other))
            }
            FaultKind::DuplicateStore { byte, first } => {
                write!(f, "one store writes different values to byte {byte} (element {first} wrote it too)")
            }
            FaultKind::NotABool { byte, value } => {
                write!(f, "the `i1` at byte {byte} is {value}, not 0 or 1")
            }
            FaultKind::DivisionByZero => f.write_str("integer division by zero"),
            FaultKind::GatherIndex { index, extent } => {
                write!(f, "index {index} is out of range for extent {extent}")
            }
            FaultKind::NonPositiveStep { step } => write!(f, "the loop's step is {step}"),
            FaultKind::StepBudget { limit } => write!(f, "the program did not end within {limit} steps"),
            FaultKind::AssertFailed { message } => write!(f, "assertion failed: {message}"),
            FaultKind::StageIndex { stage, stages } => {
                write!(f, "stage {stage} is out of range for {stages} stages")
            }
            FaultKind::StagePending { stage } => {
                write!(f, "stage {stage} is used while a copy into it is pending")
            }
            FaultKind::MissingBarrier { stage } => {
                write!(f, "stage {stage} is used without a barrier after its last access")
            }
            FaultKind::AddressOverflow => f.write_str("pointer arithmetic overflows"),
            FaultKind::Malformed { what } => write!(f, "internal error: {what}"),
        }
    }
}

/// A fault with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The op's name in IR text.
    pub op: &'static str,
    /// Where the user wrote the op.
    pub loc: Loc,
    /// The kernel's name.
    pub kernel: String,
    /// The program's index in the grid.
    pub program: [u32; 3],
    /// The parameter whose memory was accessed.
    pub param: Option<String>,
    /// The element of the op's tile: its index along each dimension; empty for a scalar, `None` when no single element is at
    /// fault.
    pub element: Option<Vec<u32>>,
}

impl Fault {
    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// The fault as a diagnostic at the user's line.
    pub fn diagnostic(&self) -> Diagnostic {
        let [x, y, z] = self.program;
        let element = match &self.element {
            Some(index) if !index.is_empty() => format!(", element {index:?}"),
            _ => String::new(),
        };
        let access = match &self.param {
            Some(param) => format!("`{}` on parameter `{param}`", self.op),
            None => format!("`{}`", self.op),
        };
        let out = Diagnostic::error(self.code(), self.loc, self.kind.to_string())
            .say(access)
            .note(format!("in kernel `{}`, program [{x}, {y}, {z}]{element}", self.kernel));
        match self.kind.help() {
            Some(help) => out.help(help),
            None => out,
        }
    }
}

/// The diagnostic's text, with the source excerpt where the file can be read.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.diagnostic(), f)
    }
}

impl std::error::Error for Fault {}

/// A fault before its place is known.
#[derive(Debug)]
pub(crate) struct Raised {
    pub(crate) kind: FaultKind,
    /// Row-major index.
    pub(crate) element: Option<usize>,
    /// Index of the parameter.
    pub(crate) param: Option<u32>,
}

impl Raised {
    pub(crate) fn malformed(what: String) -> Raised {
        FaultKind::Malformed { what }.raised()
    }

    /// The fault with its place.
    pub(crate) fn placed(
        self,
        func: &Func,
        op: &'static str,
        loc: Loc,
        program: [u32; 3],
        extents: &[u32],
    ) -> Fault {
        let element = self.element.map(|linear| {
            let mut rest = linear as u64;
            let mut index: Vec<u32> = extents
                .iter()
                .rev()
                .map(|&extent| {
                    let at = rest % u64::from(extent.max(1));
                    rest /= u64::from(extent.max(1));
                    at as u32
                })
                .collect();
            index.reverse();
            index
        });
        Fault {
            kind: self.kind,
            op,
            loc,
            kernel: func.name.clone(),
            program,
            param: self.param.and_then(|i| func.params.get(i as usize)).map(|p| p.name.clone()),
            element,
        }
    }
}
