//! Runs each case in a process of its own, which finds the library under the name that programs look for.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// A program: its name, its `SOFTCUDA_*` variables, what it does.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) vars: &'static [(&'static str, &'static str)],
    pub(crate) run: fn(),
}

/// Tells a process which case it is.
pub(crate) const CASE: &str = "SOFT_TEST_CASE";

/// The main function of a test binary: all trials in the first process, one case in a child.
pub(crate) fn main(cases: &[&'static [Case]], use_real_driver: bool) -> ExitCode {
    let all = || cases.iter().flat_map(|cases| cases.iter());
    if let Ok(name) = std::env::var(CASE) {
        let case = all().find(|case| case.name == name).expect("the parent names a case");
        (case.run)();
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let trials = all().map(|case| Trial::test(case.name, move || run(case, use_real_driver))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(case: &Case, use_real_driver: bool) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut program = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SOFTCUDA_") {
            program.env_remove(name);
        }
    }
    program.env(CASE, case.name);
    if !use_real_driver {
        lay_out(folder.path())?;
        program.env("LD_LIBRARY_PATH", folder.path());
        program.env("SOFTCUDA_REPORT", folder.path().join("report.txt"));
        program.envs(case.vars.iter().copied());
    }
    let output = program.output()?;
    if output.status.success() {
        return Ok(());
    }
    let report = std::fs::read_to_string(folder.path().join("report.txt")).unwrap_or_default();
    Err(format!(
        "{}\n{}\n{}\nreport:\n{report}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// Gives the built library the names that programs look for, in `folder`.
pub(crate) fn lay_out(folder: &Path) -> Result<(), Failed> {
    let built = library()?;
    for name in ["libcuda.so.1", "libcuda.so"] {
        std::os::unix::fs::symlink(&built, folder.join(name))?;
    }
    Ok(())
}

/// The shared object that cargo built together with this test: beside it.
fn library() -> Result<PathBuf, Failed> {
    let exe = std::env::current_exe()?;
    let deps = exe.parent().ok_or("a test binary lies in a folder")?;
    let built = deps.join("libsoftcuda.so");
    if built.is_file() { Ok(built) } else { Err(format!("{} was not built", built.display()).into()) }
}

/// What the report of this process says so far.
pub(crate) fn report() -> String {
    let path = std::env::var_os("SOFTCUDA_REPORT").expect("the parent sets it");
    std::fs::read_to_string(path).unwrap_or_default()
}
