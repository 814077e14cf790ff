//! How the command fails: a message, what to do, and an exit code that scripts can rely on.

use std::fmt::{self, Display};
use std::process::ExitCode;

/// A failure of the command.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    help: Option<String>,
}

/// Whose the failure is; each kind has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel is wrong at this specialisation, or its target cannot express it, or a model computes what is not finite: exit code 1.
    Kernel,
    /// The command line is wrong: exit code 2, as clap's own.
    Usage,
    /// Something of the machine is missing or refused: a tool, a file, a device. Exit code 3.
    Machine,
}

/// The exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the kernel is wrong at this specialisation, its target cannot express it,
     or `verify` found that executors disagree or that a check fails; or what a
     model computes is not finite
  2  the command line is wrong: an unknown kernel, setting, target, format,
     model or option, or a file that is no model
  3  the machine lacks something: a tool, a file, a device";

impl Failure {
    /// The kernel is wrong, or what it computes.
    pub(crate) fn kernel(message: impl Display) -> Failure {
        Failure { kind: Kind::Kernel, message: message.to_string(), help: None }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure { kind: Kind::Usage, message: message.to_string(), help: None }
    }

    /// The machine lacks something.
    pub(crate) fn machine(message: impl Display) -> Failure {
        Failure { kind: Kind::Machine, message: message.to_string(), help: None }
    }

    /// What the user can do about it.
    pub(crate) fn help(mut self, help: impl Display) -> Failure {
        self.help = Some(help.to_string());
        self
    }

    /// The exit code of its kind.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Kernel => 1,
            Kind::Usage => 2,
            Kind::Machine => 3,
        })
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A rendered diagnostic brings its own head.
        if self.message.starts_with("error") {
            write!(f, "{}", self.message.trim_end())?;
        } else {
            write!(f, "error: {}", self.message.trim_end())?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Turns a failed file operation into a failure that names the path.
pub(crate) fn at_path(path: &std::path::Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::machine(format_args!("{}: {error}", path.display()))
}
