//! Every example runs and finds its own results right.

use std::path::Path;
use std::process::Command;

#[track_caller]
fn runs(program: &str) {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let output = Command::new(program).env("LEANKV_CACHE_DIR", cache).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty(), "it says what it did");
}

#[test]
fn vector_add() {
    runs(env!("CARGO_BIN_EXE_vector_add"));
}

#[test]
fn softmax() {
    runs(env!("CARGO_BIN_EXE_softmax"));
}

#[test]
fn matmul() {
    runs(env!("CARGO_BIN_EXE_matmul"));
}

#[test]
fn own_codec() {
    runs(env!("CARGO_BIN_EXE_own_codec"));
}

#[test]
fn kv_cache() {
    runs(env!("CARGO_BIN_EXE_kv_cache"));
}
