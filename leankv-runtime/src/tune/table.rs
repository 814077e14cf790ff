//! What tuners found, kept in a file.
//!
//! An entry is for one kernel at one specialisation (fields that are not tuned), one device (a processor's model and vector width, or a GPU and its driver), and sizes of a
//! workload. It is also taken for specialisations and sizes that differ from these in numbers alone, where no other entry is nearer. It holds for the kernel as it was: a digest of its tile IR and the compiler's version are kept, and an entry whose digest is another one is passed over.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use leankv_dsl::COMPILER_FINGERPRINT;
use leankv_dsl::ir::{Func, Print};
use leankv_dsl::lang::Settings;
use serde::{Deserialize, Serialize};

use super::{Found, Ratio};
use crate::cache::{Digest, user_cache_dir};
use crate::device::{Device, Kind};
use crate::lower;
use crate::staged::staged_in;

/// The environment variable that names the user's table, in place of `tuned.json` in the folder of the kernel cache; empty for none.
pub const TABLE_VARIABLE: &str = "LEANKV_TUNED";

/// The form of the file.
const SCHEMA: u32 = 1;

/// Specialisations that were found to be the fastest. See [`Compiler::load_tuned`](crate::Compiler::load_tuned).
#[derive(Debug, Default)]
pub struct TunedTable {
    path: PathBuf,
    entries: Vec<Entry>,
    /// Whether an entry that no longer fits was told of.
    warned: AtomicBool,
}

/// Why a table cannot be read or written. A file that is not understood is never written over.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no table.
    #[error("{} is no table of tuned kernels, or damaged ({why}); remove it to begin a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another version wrote it.
    #[error(
        "{} is a table of form {form}, and this version reads form {SCHEMA}; name another file with {TABLE_VARIABLE}, or remove it",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// Its form.
        form: u32,
    },
    /// Times of a model are no measurement.
    #[error("what was found for `{0}` is modelled; a table holds what was measured")]
    Modelled(String),
    /// Nobody knows what else there is.
    #[error("the search for `{0}` was cut short; a table holds what a whole one found")]
    CutShort(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    schema: u32,
    tuned: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    kernel: String,
    device: String,
    /// The fields that are not tuned.
    given: Settings,
    /// Of the workload.
    sizes: BTreeMap<String, usize>,
    /// The fields that are.
    set: Settings,
    /// How many times as fast as the specialisation that was given.
    gain: Ratio,
    /// Of the kernel at what was found, and the compiler.
    fingerprint: String,
}

/// What a table is asked.
pub(crate) struct Question<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) device: &'a str,
    pub(crate) given: &'a Settings,
    pub(crate) sizes: &'a [(&'a str, usize)],
}

impl TunedTable {
    /// Where the user's table is: what [`TABLE_VARIABLE`] says, or `tuned.json` beside the compiled kernels.
    pub fn user_path() -> Option<PathBuf> {
        match std::env::var_os(TABLE_VARIABLE) {
            Some(path) if path.is_empty() => None,
            Some(path) => Some(PathBuf::from(path)),
            None => Some(user_cache_dir()?.join("tuned.json")),
        }
    }

    /// The user's table. One that cannot be read is as none, with a warning.
    pub fn user() -> TunedTable {
        let Some(path) = TunedTable::user_path() else { return TunedTable::default() };
        TunedTable::read(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "tuned specialisations are not used");
            TunedTable::default()
        })
    }

    /// The table in a file; an empty one where there is none.
    ///
    /// # Errors
    /// [`TableError::Io`], [`TableError::Damaged`], [`TableError::Form`].
    pub fn read(path: &Path) -> Result<TunedTable, TableError> {
        let io = |error| TableError::Io { path: path.to_owned(), error };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(TunedTable { path: path.to_owned(), ..TunedTable::default() });
            }
            Err(error) => return Err(io(error)),
        };
        let damaged =
            |error: serde_json::Error| TableError::Damaged { path: path.to_owned(), why: error.to_string() };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        if let Some(form) =
            value.get("schema").and_then(serde_json::Value::as_u64).filter(|&form| form != u64::from(SCHEMA))
        {
            return Err(TableError::Form {
                path: path.to_owned(),
                form: u32::try_from(form).unwrap_or(u32::MAX),
            });
        }
        let contents: Contents = serde_json::from_value(value).map_err(damaged)?;
        Ok(TunedTable { path: path.to_owned(), entries: contents.tuned, warned: AtomicBool::new(false) })
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a table may be kept in this file: what is there is understood, and the folder can be written. For asking before anything is measured.
    ///
    /// # Errors
    /// As [`TunedTable::keep`].
    pub fn check_writable(path: &Path) -> Result<(), TableError> {
        let (_lock, path) = locked(path)?;
        TunedTable::read(&path).map(drop)
    }

    /// Adds what was found to the table in a file, in place of an older entry for the same kernel, device and about the same sizes. Processes that do so at one time wait
    /// for each other, and readers see the file before or after.
    ///
    /// # Errors
    /// As [`TunedTable::read`]; [`TableError::Modelled`] and [`TableError::CutShort`] for what is no result of a search on the device.
    pub fn keep<S>(path: &Path, found: &Found<S>) -> Result<(), TableError> {
        if found.modelled {
            return Err(TableError::Modelled(found.kernel.clone()));
        }
        if found.cut_short {
            return Err(TableError::CutShort(found.kernel.clone()));
        }
        let (_lock, path) = locked(path)?;
        let io = |error| TableError::Io { path: path.clone(), error };
        let mut entries = TunedTable::read(&path)?.entries;
        let entry = Entry {
            kernel: found.kernel.clone(),
            device: found.device.clone(),
            given: found.given.clone(),
            sizes: found.sizes.clone(),
            set: found.set.clone(),
            gain: found.gain,
            fingerprint: found.fingerprint.clone(),
        };
        entries.retain(|other| !other.is_replaced_by(&entry));
        entries.push(entry);
        let mut file = staged_in(folder_of(&path)).map_err(io)?;
        serde_json::to_writer_pretty(&mut file, &Contents { schema: SCHEMA, tuned: entries })
            .map_err(|error| io(error.into()))?;
        file.write_all(b"\n").and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(&path).map_err(|error| io(error.error))?;
        Ok(())
    }

    /// What is to be set, by the nearest entry of the kernel and the device that holds for the kernel as it is now: `fingerprint` gives that of it at what an
    /// entry has, if it can be built, and `usable` says whether it may be set. Of entries that are equally near the newest one is taken.
    pub(crate) fn find(
        &self,
        question: &Question<'_>,
        fingerprint: impl Fn(&Settings) -> Option<String>,
        usable: impl Fn(&Settings) -> bool,
    ) -> Option<&Settings> {
        let of = self.entries.iter().rev();
        let of = of.filter(|entry| entry.kernel == question.kernel && entry.device == question.device);
        let mut near: Vec<(f64, &Entry)> =
            of.filter_map(|entry| Some((entry.distance(question)?, entry))).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut entries = near.iter().map(|(_, entry)| entry);
        let holds = |entry: &Entry| {
            let all = entry.given.clone().into_iter().chain(entry.set.clone()).collect();
            usable(&entry.set) && fingerprint(&all).as_ref() == Some(&entry.fingerprint)
        };
        let found = entries.find(|entry| holds(entry));
        if found.is_none() && !near.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                path = %self.path.display(), kernel = question.kernel,
                "what was tuned is not used: it is of another version of the kernel or the compiler, or sets what the kernel does not declare; tune again"
            );
        }
        found.map(|entry| &entry.set)
    }
}

/// The file that a path names, through links, with a lock that is held until it is dropped.
fn locked(path: &Path) -> Result<(File, PathBuf), TableError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let io = |error| TableError::Io { path: path.clone(), error };
    fs::create_dir_all(folder_of(&path)).map_err(io)?;
    let mut name = path.clone().into_os_string();
    name.push(".lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(name).map_err(io)?;
    lock.lock().map_err(io)?;
    staged_in(folder_of(&path)).map_err(io)?;
    Ok((lock, path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Entry {
    /// Whether another one is for the same, and for sizes that are the same to a power of two.
    fn is_replaced_by(&self, other: &Entry) -> bool {
        let bucket = |sizes: &BTreeMap<String, usize>| -> Vec<(String, u32)> {
            sizes
                .iter()
                .map(|(name, &size)| (name.clone(), (size.max(1) as f64).log2().round() as u32))
                .collect()
        };
        (&self.kernel, &self.device, &self.given) == (&other.kernel, &other.device, &other.given)
            && bucket(&self.sizes) == bucket(&other.sizes)
    }

    /// How far it is from what is asked for, in doublings of the numbers in which the two differ; `None` where they differ in something that is no number, such as a format.
    fn distance(&self, question: &Question<'_>) -> Option<f64> {
        if self.given.len() != question.given.len() {
            return None;
        }
        let doublings = |a: f64, b: f64| (a.abs().max(1.0) / b.abs().max(1.0)).log2().abs();
        let mut distance = 0.0;
        for (name, own) in &self.given {
            let asked = question.given.get(name)?;
            if own != asked {
                distance += doublings(own.parse().ok()?, asked.parse().ok()?);
            }
        }
        // A size that it does not have counts as one doubling.
        let apart = |&(name, size): &(&str, usize)| {
            self.sizes.get(name).map_or(1.0, |&own| doublings(own as f64, size as f64))
        };
        Some(distance + question.sizes.iter().map(apart).sum::<f64>())
    }
}

/// A device as tables name it; `None` for one that only imitates another, and where the host cannot be compiled for.
pub(crate) fn device_key(device: &Device) -> Option<String> {
    match device.kind() {
        Kind::Host => lower::host_model(),
        Kind::Cuda => Some(match device.driver_version() {
            Some((major, minor)) => format!("{}, driver {major}.{minor}", device.name()),
            None => device.name(),
        }),
        Kind::Reference | Kind::Emulated => None,
    }
}

/// A digest of a kernel's tile IR at a specialisation, without places in its source, and of what compiles it.
pub(crate) fn fingerprint(func: &Func) -> String {
    let what = [Print::default().func(func), COMPILER_FINGERPRINT.to_owned(), lower::llvm_version()];
    Digest::of(what.join("\n").as_bytes()).to_string()
}
