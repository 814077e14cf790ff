//! The `leankv` command: lists, compiles, inspects, verifies and profiles kernels, explains errors, runs language models, and
//! runs the demo.
//!
//! Results go to standard output, everything else to standard error, so that output can be piped. Exit codes are part of
//! the interface (`leankv --help` has them).

/// A line to standard output, in place of the standard library's, which panics where it cannot be written.
macro_rules! println {
    () => { $crate::terminal::line(format_args!("")) };
    ($($text:tt)*) => { $crate::terminal::line(format_args!($($text)*)) };
}

mod args;
mod bundle_cache;
mod cache;
mod compile;
mod completions;
mod demo;
mod devices;
mod emit;
mod eval;
mod explain;
mod failure;
mod fetch_model;
mod heat_map;
mod inspect;
mod interrupt;
mod language;
mod learn;
mod list;
mod man;
mod plot;
mod profile;
mod registry;
mod results;
mod roofline;
mod run;
mod select;
mod serve_bench;
#[cfg(test)]
mod svg;
mod table;
mod terminal;
mod tune;
mod verify;
mod workload;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use leankv_model::cache::Registry;
use leankv_runtime::Compiler;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::tune::TunedTable;

use args::{Cli, Command};
use failure::Failure;

/// The command line, for programs that look at it: completions, manual pages, tests.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line of this process says, and gives its exit code.
pub fn main() -> ExitCode {
    main_with(Registry::builtin())
}

/// As [`main`], with variants and policies of a user's: `--kv` takes their names in every command.
///
/// ```no_run
/// use leankv_model::cache::Registry;
///
/// leankv_cli::main_with(Registry::builtin());
/// ```
pub fn main_with(registry: Registry) -> ExitCode {
    language::take(registry);
    end_quietly_on_a_closed_pipe();
    let cli = Cli::parse();
    log(cli.verbose);
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    let compiler = || Compiler::new(KernelCache::user()).with_tuned(TunedTable::user());
    match command {
        Command::List(args) => list::run(args),
        Command::Compile(args) => compile::run(args, compiler()),
        Command::BundleCache(args) => bundle_cache::run(args),
        Command::Inspect(args) => inspect::run(args, &compiler()),
        Command::Verify(args) => verify::run(args, &compiler()),
        Command::Profile(args) => profile::run(args, &compiler()),
        Command::Explain(args) => explain::run(args),
        Command::Demo(args) => demo::run(args, &compiler()),
        Command::Eval(args) => eval::run(args, &compiler()),
        Command::Calibrate(args) => eval::calibrate(args, &compiler()),
        Command::Tune(args) => tune::run(args, &compiler()),
        Command::Results(args) => results::run(args, &compiler()),
        Command::Cache(args) => cache::run(args, &KernelCache::user()),
        Command::Devices(args) => devices::run(args),
        Command::FetchModel(args) => fetch_model::run(args),
        Command::Run(args) => run::run(args, &compiler()),
        Command::ServeBench(args) => serve_bench::run(args, &compiler()),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// `leankv .. | head` ends the command as it ends any other, instead of a panic in the middle of a table.
fn end_quietly_on_a_closed_pipe() {
    // SAFETY: called before any thread is started; it sets the default action for a signal that the Rust runtime ignores.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Messages of the libraries: warnings, and with `-v` and `-vv` more.
fn log(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(terminal::colours())
        .with_target(false)
        .init();
}
