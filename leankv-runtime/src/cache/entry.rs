//! One cache entry as a file.
//!
//! ```text
//! magic "LKVCACHE" | format u32 | key digest 32 | payload length u64 | payload SHA-256 32 | payload
//! ```
//! All integers are little-endian.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::folder::{self, Distrust, Refusal};
use super::key::Digest;

const MAGIC: &[u8; 8] = b"LKVCACHE";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 32 + 8 + 32;
const EXTENSION: &str = "lkv";
/// How files begin that are being written.
const WRITING: &str = ".writing-";
/// After so long, who wrote one has died.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// What is wrong with a stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It does not begin like an entry.
    NotAnEntry,
    /// It was written in another version of the entry format.
    OtherFormat,
    /// It belongs to another key.
    OtherKey,
    /// It is shorter or longer than its header says.
    Length,
    /// Its payload does not match its checksum.
    Checksum,
    /// The payload is whole, but its contents cannot be used.
    Contents,
    /// It is a link, a pipe or another thing that is no regular file.
    Kind,
    /// Another user owns it, or others can write it.
    Foreign,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::NotAnEntry => "not a cache entry",
            Damage::OtherFormat => "written in another format version",
            Damage::OtherKey => "belongs to another kernel",
            Damage::Length => "truncated or overlong",
            Damage::Checksum => "checksum mismatch",
            Damage::Contents => "contents cannot be used",
            Damage::Kind => "not a regular file",
            Damage::Foreign => "another user's, or writable by others",
        })
    }
}

pub(super) enum ReadError {
    Damaged(Damage),
    Io(io::Error),
}

/// The file of `digest` below `dir`; 256 sub-folders keep any one of them small.
pub(super) fn path(dir: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_string();
    dir.join(&hex[..2]).join(format!("{hex}.{EXTENSION}"))
}

/// The payload at `path`, `None` when there is no file.
pub(super) fn read(path: &Path, digest: &Digest) -> Result<Option<Vec<u8>>, ReadError> {
    match folder::read(path) {
        Ok(mut bytes) => {
            check(&bytes, digest).map_err(ReadError::Damaged)?;
            bytes.drain(..HEADER);
            Ok(Some(bytes))
        }
        Err(Refusal::Distrust(distrust)) => Err(ReadError::Damaged(match distrust {
            Distrust::Owner { .. } | Distrust::Writable { .. } => Damage::Foreign,
            Distrust::Kind => Damage::Kind,
            Distrust::Size => Damage::Length,
        })),
        Err(Refusal::Io(error))
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(Refusal::Io(error)) => Err(ReadError::Io(error)),
    }
}

fn check(bytes: &[u8], digest: &Digest) -> Result<(), Damage> {
    let header = bytes.get(..HEADER).ok_or(Damage::Length)?;
    if &header[..8] != MAGIC {
        return Err(Damage::NotAnEntry);
    }
    if header[8..12] != FORMAT.to_le_bytes() {
        return Err(Damage::OtherFormat);
    }
    if header[12..44] != digest.0 {
        return Err(Damage::OtherKey);
    }
    let payload = &bytes[HEADER..];
    if header[44..52] != (payload.len() as u64).to_le_bytes() {
        return Err(Damage::Length);
    }
    if header[52..84] != Digest::of(payload).0 {
        return Err(Damage::Checksum);
    }
    Ok(())
}

/// Writes the entry beside its place and renames it there, so that no reader ever sees a part of it. The folder is there.
pub(super) fn write(path: &Path, digest: &Digest, payload: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("cache entry without a folder"))?;
    let mut file = tempfile::Builder::new().prefix(WRITING).tempfile_in(dir)?;
    file.write_all(MAGIC)?;
    file.write_all(&FORMAT.to_le_bytes())?;
    file.write_all(&digest.0)?;
    file.write_all(&(payload.len() as u64).to_le_bytes())?;
    file.write_all(&Digest::of(payload).0)?;
    file.write_all(payload)?;
    file.flush()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Removes all entries below `dir`, and what is left over of writing some, and counts the entries.
pub(super) fn clear(dir: &Path) -> io::Result<u64> {
    let mut removed = 0;
    each_file(dir, &mut |file, left_over| {
        let entry = file.extension().is_some_and(|e| e == EXTENSION);
        if entry || left_over {
            fs::remove_file(file)?;
            removed += u64::from(entry);
        }
        Ok(())
    })?;
    Ok(removed)
}

/// Removes what processes left that died while they wrote.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    each_file(dir, &mut |file, left_over| if left_over { fs::remove_file(file) } else { Ok(()) })
}

/// Visits the regular files and links in the folders of entries, and tells of each whether it was left over by a writer that died. No link is
/// followed.
fn each_file(dir: &Path, visit: &mut dyn FnMut(&Path, bool) -> io::Result<()>) -> io::Result<()> {
    let folders = match fs::read_dir(dir) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?;
        if !folder.file_type()?.is_dir() || !is_of_entries(&folder.file_name()) {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            if file.file_type()?.is_dir() {
                continue;
            }
            let written = file.metadata().and_then(|found| found.modified());
            let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let writing = file.file_name().to_string_lossy().starts_with(WRITING);
            visit(&file.path(), writing && age.is_some_and(|age| age > LEFT_OVER))?;
        }
    }
    Ok(())
}

/// Whether a folder has the name of one that holds entries: two digits of their digests.
fn is_of_entries(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit()))
}
