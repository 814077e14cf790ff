//! Whose folder and files these are. What the cache reads is machine code that this process will run, so it takes only what this user alone
//! can have written. That holds for root too: a folder of another user is not root's.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Largest entry. Kernels take a hundredth of it.
const MAX_BYTES: u64 = 256 << 20;

/// Why a folder or a file is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    /// Another user owns it.
    Owner { owner: u32, user: u32 },
    /// Its mode lets others write.
    Writable { mode: u32 },
    /// Not a folder, or not a regular file.
    Kind,
    /// Larger than any entry.
    Size,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distrust::Owner { owner, user } => {
                write!(f, "user {owner} owns it, and this process runs as user {user}")
            }
            Distrust::Writable { mode } => write!(f, "others can write it (mode {mode:o}): `chmod go-w` it"),
            Distrust::Kind => f.write_str("it is of another kind"),
            Distrust::Size => f.write_str("it is larger than any entry"),
        }
    }
}

/// Why something is not used.
pub(super) enum Refusal {
    Distrust(Distrust),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

/// Whether this user alone can have written what this is.
#[cfg(unix)]
fn check(found: &Metadata) -> Result<(), Distrust> {
    use std::os::unix::fs::MetadataExt;

    // SAFETY: it takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if found.uid() != user {
        return Err(Distrust::Owner { owner: found.uid(), user });
    }
    match found.mode() & 0o7777 {
        mode if mode & 0o022 != 0 => Err(Distrust::Writable { mode }),
        _ => Ok(()),
    }
}

/// Elsewhere folders of a user are the user's.
#[cfg(not(unix))]
fn check(_: &Metadata) -> Result<(), Distrust> {
    Ok(())
}

fn check_folder(found: &Metadata) -> Result<(), Refusal> {
    if !found.is_dir() {
        return Err(Refusal::Io(io::ErrorKind::NotADirectory.into()));
    }
    check(found).map_err(Refusal::Distrust)
}

/// Whether the cache's folder and that of an entry in it are this user's alone; `false` when one is not there. The folder may be
/// reached through a link of the user's choice, what is in it may not.
pub(super) fn trusted(root: &Path, of_entry: &Path) -> Result<bool, Refusal> {
    let there = |found: io::Result<Metadata>| match found {
        Ok(found) => check_folder(&found).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Refusal::Io(error)),
    };
    Ok(there(fs::metadata(root))? && there(fs::symlink_metadata(of_entry))?)
}

/// Makes both folders, for this user alone, where they are not there; then checks as [`trusted`] does.
pub(super) fn make(root: &Path, of_entry: &Path) -> Result<(), Refusal> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    if !root.exists() {
        builder.recursive(true).create(root)?;
    }
    // Before anything is made in it.
    check_folder(&fs::metadata(root)?)?;
    match builder.recursive(false).create(of_entry) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    check_folder(&fs::symlink_metadata(of_entry)?)
}

/// The bytes of a regular file of this user's, opened without following a link or waiting for a pipe.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        #[cfg(unix)]
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Refusal::Distrust(Distrust::Kind));
        }
        other => other?,
    };
    // Of what was opened, whatever the path names by now.
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(Refusal::Io(io::ErrorKind::IsADirectory.into()));
    }
    if !found.is_file() {
        return Err(Refusal::Distrust(Distrust::Kind));
    }
    check(&found).map_err(Refusal::Distrust)?;
    if found.len() > MAX_BYTES {
        return Err(Refusal::Distrust(Distrust::Size));
    }
    read_whole(file, found.len()).map_err(Refusal::Io)
}

fn read_whole(file: File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    // A file that grows meanwhile is no entry; its checksum will say so.
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
