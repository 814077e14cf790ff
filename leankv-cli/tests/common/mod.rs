//! Running the command.

// Not every test binary uses everything.
#![allow(dead_code)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `leankv` with a cache of its own, so that tests neither see nor leave anything, and without a package index.
fn command(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leankv"));
    command.args(args).env("LEANKV_CACHE_DIR", cache).env("PIP_NO_INDEX", "1");
    // Tables in one piece, with a row a line; `output.rs` has narrower ones.
    command.env("COLUMNS", "250");
    command
}

/// Runs `leankv` with a cache of its own, so that tests neither see nor leave anything.
pub(crate) fn leankv_in(cache: &Path, args: &[&str]) -> Output {
    command(cache, args).output().unwrap()
}

pub(crate) fn leankv(args: &[&str]) -> Output {
    leankv_in(tempfile::tempdir().unwrap().path(), args)
}

pub(crate) fn stdout(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
pub(crate) fn fails(args: &[&str], code: i32, parts: &[&str]) {
    let output = leankv(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in:\n{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// Runs `leankv` with something on standard input.
pub(crate) fn leankv_fed(args: &[&str], input: &str) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let mut command = command(cache.path(), args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}
