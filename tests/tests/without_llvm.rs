//! What production links without the feature `llvm`.

use std::process::Command;

/// The crates that these link and build with.
fn tree(packages: &[&str], features: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none"]);
    let output = cargo
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(features)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("names are text")
}

#[test]
fn no_crate_of_llvm_is_there_without_the_feature() {
    let llvm =
        |tree: &str| tree.lines().any(|line| line.starts_with("llvm-sys") || line.starts_with("inkwell"));
    let runtime = ["leankv-runtime", "leankv-kernels"];
    assert!(llvm(&tree(&runtime, &[])), "the feature is a default, and this test sees it");
    assert!(!llvm(&tree(&runtime, &["--no-default-features"])));
    assert!(!llvm(&tree(&["leankv-gpu"], &[])), "`make gpu` is for machines without it");
}
