//! `leankv completions`: what a shell completes after `leankv`.

use std::io::Write;

use crate::args;
use crate::failure::{Failure, at_path};

/// Runs the command.
pub(crate) fn run(args: &args::Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "leankv", &mut script);
    std::io::stdout().write_all(&script).map_err(at_path("standard output".as_ref()))
}
