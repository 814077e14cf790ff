//! The whole program on an emulated GPU, with a bundle and nothing to compile with.

use std::path::Path;
use std::process::{Command, Output};

fn leankv_gpu(folder: &Path, args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_leankv-gpu"));
    program.args(args).current_dir(folder).env("LEANKV_CACHE_DIR", folder.join("cache"));
    program.env("LD_LIBRARY_PATH", folder).env("SOFTCUDA_DEVICES", "1").env("SOFTCUDA_ON_FINDING", "fail");
    program.output().unwrap()
}

#[test]
fn a_quick_run_finds_everything_right_and_claims_no_speed() {
    let folder = tempfile::tempdir().unwrap();
    let built = std::env::current_exe().unwrap().with_file_name("libsoftcuda.so");
    assert!(built.is_file(), "{} was not built", built.display());
    for name in ["libcuda.so.1", "libcuda.so"] {
        std::os::unix::fs::symlink(&built, folder.path().join(name)).unwrap();
    }
    let text = |output: &Output| {
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
    };
    let made = leankv_gpu(folder.path(), &["bundle", "kernels.lkvb", "--quick", "--target", "sm_90"]);
    assert!(made.status.success(), "{}", text(&made));
    let run = ["--quick", "--bundle", "kernels.lkvb", "--out", "out"];
    let ran = leankv_gpu(folder.path(), &run);
    assert!(ran.status.success(), "{}", text(&ran));

    let table = std::fs::read_to_string(folder.path().join("out/report.md")).unwrap();
    assert!(table.contains("emulated") && table.contains("mean nothing"), "{table}");
    let json = std::fs::read_to_string(folder.path().join("out/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["emulated"], true);
    assert_eq!(report["subnormal"]["exact"], true);
    assert!(table.contains("products of subnormal 16-bit floats: exact"), "{table}");
    let kernels = report["kernels"].as_array().unwrap();
    for kernel in leankv_kernels::KERNELS {
        assert!(kernels.iter().any(|checked| checked["kernel"] == kernel.name()), "{}", kernel.name());
    }
    assert_eq!(report["cache"]["checked_steps"], 60);
    assert_eq!(report["cache"]["replayed_steps"], 20);

    // A kernel that is not there is named, and nothing is compiled.
    let empty = leankv_runtime::cache::BundleWriter::new();
    empty.write(&folder.path().join("kernels.lkvb")).unwrap();
    let failed = leankv_gpu(folder.path(), &run);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed).contains("kernel `advance_positions`"), "{}", text(&failed));
}
