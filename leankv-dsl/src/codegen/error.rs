//! What can go wrong between tile IR and machine code, and machine code and a function to call.

use crate::ir::Loc;

/// Why a kernel could not be compiled for a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodegenError {
    /// The target has no form of this op. Found before LLVM is asked.
    #[error("{loc}: `{op}` is not available on {target}: {reason}")]
    Unsupported {
        /// The op's name.
        op: String,
        /// The target, as the user named it: `host`, `sm_80`.
        target: String,
        /// What is missing, and which target has it.
        reason: String,
        /// Where the user wrote the op.
        loc: Loc,
    },
    /// The target itself cannot be used: an unknown name, a machine without a needed feature, LLVM without the back end.
    #[error("target {target}: {reason}")]
    Target {
        /// The target.
        target: String,
        /// Why.
        reason: String,
    },
    /// LLVM refused something that we asked for; a bug of ours.
    #[error("internal error: LLVM, while {stage}: {message}")]
    Llvm {
        /// What was being done.
        stage: &'static str,
        /// LLVM's text.
        message: String,
    },
    /// The IR breaks one of its own rules; the verifier names the place.
    #[error("internal error: malformed tile IR: {0}")]
    Malformed(String),
}

impl CodegenError {
    /// An LLVM failure, with the text of whatever error LLVM gave.
    pub(crate) fn llvm(stage: &'static str, message: impl std::fmt::Display) -> CodegenError {
        CodegenError::Llvm { stage, message: message.to_string().trim_end().to_owned() }
    }
}

/// Why an object could not be made callable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    /// The machine has no back end.
    #[error(transparent)]
    Target(#[from] CodegenError),
    /// The object is for other machines.
    #[error(
        "the compiled kernel `{entry}` is for the CPU `{made_for}`, this one is `{here}`; compile it again here"
    )]
    Machine {
        /// The entry symbol.
        entry: String,
        /// The CPU it was compiled for.
        made_for: String,
        /// This CPU.
        here: String,
    },
    /// The object is damaged.
    #[error("the compiled kernel `{entry}` cannot be loaded: {message}")]
    Object {
        /// The entry symbol.
        entry: String,
        /// LLVM's text.
        message: String,
    },
}
