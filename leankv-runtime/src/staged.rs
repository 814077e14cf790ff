//! Files that appear in one move.

use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

/// A new file in a folder, to be written and then moved to its name ([`NamedTempFile::persist`]): whoever looks sees the old file or the new one. Others may read it as
/// the process's umask says, where temporary files are their owner's alone.
///
/// # Errors
/// What the system says.
pub fn staged_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn others_may_read_what_they_may_read_of_other_new_files() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, staged] = ["plain", "staged"].map(|name| folder.path().join(name));
        std::fs::write(&plain, b"x").unwrap();
        super::staged_in(folder.path()).unwrap().persist(&staged).unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&staged), mode(&plain));
    }
}
