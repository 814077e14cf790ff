//! Results as they come, so that a run that was cut off goes on where it was.
//!
//! One JSON document a line: first what the run is, then a piece a line. A torn last line is left out.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is of a run with other settings.
    #[error("{} is the journal of another run (another model, text, or list of caches): name another file, or remove it", .0.display())]
    OtherRun(PathBuf),
}

/// A file of pieces.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
}

impl Journal {
    /// Opens a journal of the run that `head` describes, and gives the pieces that are there. Without a path nothing is kept.
    pub(crate) fn open<H: Serialize, P: DeserializeOwned>(
        path: Option<&Path>,
        head: &H,
    ) -> Result<(Journal, Vec<P>), JournalError> {
        let Some(path) = path else {
            return Ok((Journal { path: PathBuf::new(), file: None }, Vec::new()));
        };
        let io = |error| JournalError::Io { path: path.to_owned(), error };
        let head = line(head).map_err(io)?;
        let mut pieces = Vec::new();
        let mut whole = 0;
        if let Ok(file) = File::open(path) {
            let mut lines = BufReader::new(file);
            let mut text = String::new();
            let mut first = true;
            while lines.read_line(&mut text).map_err(io)? > 0 {
                if !text.ends_with('\n') {
                    break;
                }
                if std::mem::take(&mut first) {
                    if text != head {
                        return Err(JournalError::OtherRun(path.to_owned()));
                    }
                } else if let Ok(piece) = serde_json::from_str(&text) {
                    pieces.push(piece);
                } else {
                    break;
                }
                whole += text.len() as u64;
                text.clear();
            }
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(io)?;
        file.set_len(whole).map_err(io)?;
        if whole == 0 {
            file.write_all(head.as_bytes()).map_err(io)?;
        }
        Ok((Journal { path: path.to_owned(), file: Some(file) }, pieces))
    }

    /// Keeps a piece.
    pub(crate) fn push<P: Serialize>(&mut self, piece: &P) -> Result<(), JournalError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let io = |error| JournalError::Io { path: self.path.clone(), error };
        let text = line(piece).map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        file.sync_data().map_err(io)
    }
}

fn line<T: Serialize>(value: &T) -> std::io::Result<String> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Journal, JournalError};

    #[test]
    fn a_torn_line_is_left_out_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/run.jsonl");
        let (mut journal, pieces) = Journal::open::<_, u32>(Some(&path), &"run").unwrap();
        assert!(pieces.is_empty());
        journal.push(&1).unwrap();
        journal.push(&2).unwrap();
        drop(journal);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push('3');
        std::fs::write(&path, text).unwrap();

        let (mut journal, pieces) = Journal::open::<_, u32>(Some(&path), &"run").unwrap();
        assert_eq!(pieces, [1, 2]);
        journal.push(&4).unwrap();
        drop(journal);
        let (_, pieces) = Journal::open::<_, u32>(Some(&path), &"run").unwrap();
        assert_eq!(pieces, [1, 2, 4]);
    }

    #[test]
    fn another_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        drop(Journal::open::<_, u32>(Some(&path), &"one").unwrap());
        let before = std::fs::read(&path).unwrap();
        let error = Journal::open::<_, u32>(Some(&path), &"two").unwrap_err();
        assert!(matches!(error, JournalError::OtherRun(_)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn without_a_path_nothing_is_kept() {
        let (mut journal, pieces) = Journal::open::<_, u32>(None, &"run").unwrap();
        assert!(pieces.is_empty());
        journal.push(&1).unwrap();
    }
}
