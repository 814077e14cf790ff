//! The command of this crate: `--kv` takes the variants and policies by their names.

use std::process::{Command, Output};

use leankv_model::testing::{TinyFile, write_tiny_gguf};

fn leankv(folder: &std::path::Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leankv-variants"));
    command.args(args).env("LEANKV_CACHE_DIR", folder.join("kernels")).current_dir(folder).output().unwrap()
}

fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_gguf(&folder.path().join("tiny.gguf"), 1);
    let text: String = (0..200).map(|i| format!("Line {i} says {}. ", i * i % 97)).collect();
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    folder
}

#[test]
fn an_evaluation_takes_all_of_them() {
    let folder = place();
    let caches = [
        "k4v4+nf4",
        "k8v8+fp8",
        "k4v4+outlier",
        "k8v4/k4v2+outlier@1/3:snapkv:keep=0",
        "k8v4/k4v2@1/3:value-norm",
        "k8v4@1,0:duo",
    ];
    let mut args =
        vec!["eval", "--model", "tiny.gguf", "--text", "text.txt", "--ctx", "64", "--chunks", "1", "--json"];
    args.extend(["--kv"].iter().chain(&caches));
    let out = leankv(folder.path(), &args);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for name in
        ["K4V4+nf4", "K8V8+fp8", "K4V4+outlier", "K8V4/K4V2+outlier@1/3:snapkv:keep=0", "K8V4@1,0:duo"]
    {
        assert!(text.contains(&format!("\"{name}\"")), "{name}: {text}");
    }
}

#[test]
fn run_and_serve_bench_take_them() {
    let folder = place();
    let run = [
        "run",
        "--model",
        "tiny.gguf",
        "--kv",
        "k4v4+nf4",
        "--raw",
        "--max-tokens",
        "8",
        "--prompt",
        "A tale",
    ];
    let out = leankv(folder.path(), &run);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let serve = [
        "serve-bench",
        "--model",
        "tiny.gguf",
        "--text",
        "text.txt",
        "--kv-memory",
        "4MiB",
        "--requests",
        "2",
        "--prompt-tokens",
        "20..30",
        "--output-tokens",
        "4..8",
        "--kv",
        "fp16",
        "k8v4@1,0:duo",
    ];
    let out = leankv(folder.path(), &serve);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn thresholds_are_calibrated_for_a_cache_with_its_variant_and_policy() {
    let folder = place();
    let on = ["--model", "tiny.gguf", "--text", "text.txt", "--ctx", "64", "--chunks", "1"];
    let calibrate = |kv: &str| {
        let settings = ["--settings", "s.toml", "--high", "2", "--low", "0.5", "--kv", kv];
        leankv(folder.path(), &[&["calibrate"], &on[..], &settings].concat())
    };
    let out = calibrate("k8v4/k4v2+nf4:snapkv");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let settings = std::fs::read_to_string(folder.path().join("s.toml")).unwrap();
    assert!(settings.contains("cache = \"K8V4/K4V2+nf4:snapkv\""), "{settings}");

    let eval = ["--settings", "s.toml", "--json", "--kv", "k8v4/k4v2+nf4:snapkv", "k8v4/k4v2+nf4"];
    let out = leankv(folder.path(), &[&["eval"], &on[..], &eval].concat());
    let text = String::from_utf8_lossy(&out.stdout);
    for name in ["K8V4/K4V2+nf4@2,0.5:snapkv", "K8V4/K4V2+nf4@1,0.02"] {
        assert!(
            text.contains(&format!("\"{name}\"")),
            "{name}: {text} {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    for (kv, why) in [("k8v4+nf4", "has one tier"), ("k8v4/k4v2+nf4@1/5", "leave it out: `K8V4/K4V2+nf4`")] {
        let out = calibrate(kv);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn names_that_are_not_there_are_refused_with_those_that_are() {
    let folder = place();
    for (kv, there) in [
        ("k4v4+nf3", "offset, hadamard, rotated, centred, nf4, fp8, outlier, plain"),
        ("k8v4@1/5:snap", "snapkv, value-norm, duo"),
    ] {
        let out = leankv(folder.path(), &["run", "--model", "tiny.gguf", "--kv", kv, "--prompt", "x"]);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(text.contains(there), "{text}");
    }
}

/// Perplexity of FP16 and of each cache, over that of FP16.
fn perplexities(folder: &std::path::Path, model: &str, caches: &[&str]) -> Vec<f64> {
    let mut args = vec![
        "eval", "--model", model, "--text", "text.txt", "--ctx", "64", "--chunks", "1", "--json", "--kv",
    ];
    args.extend(caches);
    let out = leankv(folder, &args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let configs = report["configs"].as_array().unwrap();
    configs.iter().map(|config| config["figures"]["over_fp16"]["mean"].as_f64().unwrap()).collect()
}

#[test]
fn a_model_with_windows_takes_variants() {
    let folder = place();
    std::fs::write(folder.path().join("gemma.gguf"), TinyFile::new("gemma3", 1).bytes()).unwrap();
    let all =
        perplexities(folder.path(), "gemma.gguf", &["k8v8+hadamard", "k8v8+fp8", "k8v4+outlier+hadamard"]);
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|over| (over - 1.0).abs() < 0.02), "{all:?}");
}

#[test]
fn each_is_at_most_sixty_lines_of_code() {
    let files = [
        include_str!("../src/nf4.rs"),
        include_str!("../src/fp8.rs"),
        include_str!("../src/outlier.rs"),
        include_str!("../src/snapkv.rs"),
        include_str!("../src/value_norm.rs"),
        include_str!("../src/duo.rs"),
    ];
    for text in files {
        let code = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        let lines = code.count();
        assert!(lines <= 60, "{lines} lines");
    }
}
