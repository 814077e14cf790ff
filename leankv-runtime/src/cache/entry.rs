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

use super::key::Digest;

const MAGIC: &[u8; 8] = b"LKVCACHE";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 32 + 8 + 32;
const EXTENSION: &str = "lkv";

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
    match fs::read(path) {
        Ok(mut bytes) => {
            check(&bytes, digest).map_err(ReadError::Damaged)?;
            bytes.drain(..HEADER);
            Ok(Some(bytes))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(ReadError::Io(error)),
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

/// Writes the entry beside its place and renames it there, so that no reader ever sees a part of it.
pub(super) fn write(path: &Path, digest: &Digest, payload: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("cache entry without a folder"))?;
    fs::create_dir_all(dir)?;
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(dir)?;
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

/// Removes all entries below `dir` and counts them.
pub(super) fn clear(dir: &Path) -> io::Result<u64> {
    let mut removed = 0;
    let folders = match fs::read_dir(dir) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in fs::read_dir(&folder)? {
            let file = file?.path();
            if file.extension().is_some_and(|e| e == EXTENSION) {
                fs::remove_file(&file)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
