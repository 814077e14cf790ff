//! NVIDIA's offline tools, which run without a GPU: `ptxas` (PTX to machine code, with a resource report) and
//! `nvdisasm` (machine code to SASS text).
//!
//! They are optional at run time. A tool is looked for, in this order, at the path in an environment variable
//! (`LEANKV_PTXAS`, `LEANKV_NVDISASM`), in `.tools/bin` of the working directory and of each folder above it (where
//! `make setup` puts them), beside the running program, and on `PATH`.

mod nvdisasm;
mod ptxas;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use nvdisasm::Nvdisasm;
pub use ptxas::{Assembled, Ptxas, PtxasEntry};

/// Why a tool gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The tool is not installed.
    #[error("{tool} was not found; run `make setup`, put it on PATH, or set {variable} to its path")]
    NotFound {
        /// The tool's name.
        tool: &'static str,
        /// The environment variable that names its path.
        variable: &'static str,
    },
    /// The path in the environment variable is no file.
    #[error("{variable} is set to {}, where there is no program", path.display())]
    BadPath {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The tool could not be started, or its files could not be written or read.
    #[error("running {}: {source}", path.display())]
    Io {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tool ran and refused its input. For `ptxas` this means that the PTX is wrong: a bug of the compiler, or
    /// of hand-written inline PTX.
    #[error("{tool} refused its input ({status}):\n{}", log.trim_end())]
    Refused {
        /// The tool's name.
        tool: &'static str,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it printed.
        log: String,
    },
    /// The tool printed something this library does not understand.
    #[error("{tool} printed a report that cannot be read: {line:?}")]
    Report {
        /// The tool's name.
        tool: &'static str,
        /// The line.
        line: String,
    },
}

/// Finds `tool` as the module's documentation says.
fn find(tool: &'static str, variable: &'static str) -> Result<PathBuf, ToolError> {
    find_in(
        tool,
        variable,
        |name| std::env::var_os(name),
        std::env::current_dir().ok(),
        std::env::current_exe().ok(),
    )
}

fn find_in(
    tool: &'static str,
    variable: &'static str,
    env: impl Fn(&str) -> Option<OsString>,
    working_dir: Option<PathBuf>,
    program: Option<PathBuf>,
) -> Result<PathBuf, ToolError> {
    if let Some(path) = env(variable).filter(|v| !v.is_empty()).map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(ToolError::BadPath { variable, path }) };
    }
    // Programs of a build lie in target/<profile>/, below the folder that holds .tools.
    let above = |start: &Option<PathBuf>| -> Vec<PathBuf> {
        start
            .iter()
            .flat_map(|p| p.ancestors())
            .map(|dir| dir.join(".tools").join("bin").join(tool))
            .collect()
    };
    let beside = program.as_deref().and_then(Path::parent).map(|dir| dir.join(tool));
    let on_path = env("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).map(|dir| dir.join(tool)).collect::<Vec<_>>());
    above(&working_dir)
        .into_iter()
        .chain(above(&program))
        .chain(beside)
        .chain(on_path)
        .find(|candidate| candidate.is_file())
        .ok_or(ToolError::NotFound { tool, variable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, name: &str) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, b"").unwrap();
        path
    }

    #[test]
    fn the_environment_variable_wins_and_a_wrong_one_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mine = program(dir.path(), "my-ptxas");
        let on_path = dir.path().join("bin");
        program(&on_path, "ptxas");
        let find = |value: PathBuf| {
            let env = |name: &str| match name {
                "LEANKV_PTXAS" => Some(value.clone().into_os_string()),
                "PATH" => Some(on_path.clone().into_os_string()),
                _ => None,
            };
            find_in("ptxas", "LEANKV_PTXAS", env, None, None)
        };
        assert_eq!(find(mine.clone()).unwrap(), mine);
        let error = find(dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("LEANKV_PTXAS") && error.contains("none"), "{error}");
    }

    #[test]
    fn the_set_up_tools_are_found_from_any_folder_below_and_before_path() {
        let dir = tempfile::tempdir().unwrap();
        let set_up = program(&dir.path().join(".tools/bin"), "ptxas");
        let below = dir.path().join("tests/deep");
        std::fs::create_dir_all(&below).unwrap();
        let bin = dir.path().join("bin");
        let on_path = program(&bin, "ptxas");
        let env = |name: &str| (name == "PATH").then(|| bin.clone().into_os_string());
        assert_eq!(find_in("ptxas", "LEANKV_PTXAS", env, Some(below), None).unwrap(), set_up);
        assert_eq!(find_in("ptxas", "LEANKV_PTXAS", env, None, None).unwrap(), on_path);
        let missing = find_in("ptxas", "LEANKV_PTXAS", |_| None, None, None).unwrap_err().to_string();
        assert!(missing.contains("make setup"), "{missing}");
    }
}
