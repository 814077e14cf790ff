//! Results as they come, so that a run that was cut off goes on where it was.
//!
//! One JSON document a line: first what the run is, then a piece a line, each as `{"check":"..","of":..}`. The check is the beginning of the SHA-256 of the
//! check before it and of the text after `"of":`, so a line that was changed, moved, copied or taken out is found. A file that does not begin like one is never touched.
//! The file is locked as long as it is written to. A last line without its end is one that was cut off, and is left out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is something else, and was left as it is.
    #[error("{} is no journal of an evaluation, or one of an earlier version; it was left as it is: name another file, or remove it", .0.display())]
    NoJournal(PathBuf),
    /// The file is of a run with other settings.
    #[error("{} is the journal of another run (another model, text, context, prompt chunk, list of caches, or other statistics of the model): name another file, or remove it", .0.display())]
    OtherRun(PathBuf),
    /// Another run writes to the file.
    #[error("{} is in use by another run: wait for its end, or name another file", .0.display())]
    InUse(PathBuf),
    /// A line is not what was written.
    #[error("{}, line {line}: this is not what was written; remove this line and all after it, or the file, to measure again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// What every line begins with.
const BEGIN: &str = "{\"check\":\"";
/// What stands between the check and what it is of.
const OF: &str = "\",\"of\":";
/// Hexadecimal digits of a check.
const DIGITS: usize = 16;
/// What the first line is of, so that a journal is told from other files.
const KIND: &str = "{\"leankv_journal\":";

/// The first line.
#[derive(Serialize)]
struct Head<'a, H> {
    /// Version of this form.
    leankv_journal: u32,
    run: &'a H,
}

/// A file of pieces.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Locked until it is closed.
    file: Option<File>,
    /// Bytes of whole lines.
    whole: u64,
    /// The check of the last one.
    check: String,
}

impl Journal {
    /// Opens a journal of the run that `head` describes, and gives the pieces that are there. Without a path nothing is kept.
    pub(crate) fn open<H: Serialize, P: DeserializeOwned>(
        path: Option<&Path>,
        head: &H,
    ) -> Result<(Journal, Vec<P>), JournalError> {
        let Some(path) = path else {
            let none = Journal { path: PathBuf::new(), file: None, whole: 0, check: String::new() };
            return Ok((none, Vec::new()));
        };
        let io = |error| JournalError::Io { path: path.to_owned(), error };
        // Opening a pipe would wait for ever.
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return Err(JournalError::NoJournal(path.to_owned()));
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(io)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse(path.to_owned()),
            TryLockError::Error(error) => io(error),
        })?;
        let (head, check) = line("", &Head { leankv_journal: 2, run: head }).map_err(io)?;
        let mut journal = Journal { path: path.to_owned(), file: None, whole: 0, check };
        let pieces = journal.read(&mut file, &head)?;
        file.set_len(journal.whole).map_err(io)?;
        if journal.whole == 0 {
            file.write_all(head.as_bytes()).map_err(io)?;
            journal.whole = head.len() as u64;
        }
        journal.file = Some(file);
        Ok((journal, pieces))
    }

    /// Keeps a piece.
    pub(crate) fn push<P: Serialize>(&mut self, piece: &P) -> Result<(), JournalError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let io = |error| JournalError::Io { path: self.path.clone(), error };
        let (text, check) = line(&self.check, piece).map_err(io)?;
        if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_data()) {
            // Half a line would damage what may still come; if this fails too, it is found when the file is opened.
            drop(file.set_len(self.whole));
            return Err(io(error));
        }
        self.whole += text.len() as u64;
        self.check = check;
        Ok(())
    }

    /// The pieces of a file; `whole` and `check` are then those of its last whole line.
    fn read<P: DeserializeOwned>(&mut self, file: &mut File, head: &str) -> Result<Vec<P>, JournalError> {
        let path = &self.path;
        let io = |error| JournalError::Io { path: path.clone(), error };
        // Other files may be of any length.
        let mut text = Vec::new();
        Read::take(&mut *file, BEGIN.len() as u64).read_to_end(&mut text).map_err(io)?;
        if text.is_empty() {
            return Ok(Vec::new());
        }
        if text != BEGIN.as_bytes() {
            return Err(JournalError::NoJournal(path.clone()));
        }
        file.read_to_end(&mut text).map_err(io)?;
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let first = lines.next().unwrap_or_default();
        if first != head.as_bytes() {
            let of_a_run = parse(first).is_some_and(|(_, of)| of.starts_with(KIND));
            return match head.as_bytes().starts_with(first) {
                // It was cut off before there was a piece.
                true => Ok(Vec::new()),
                false if of_a_run => Err(JournalError::OtherRun(path.clone())),
                false => Err(JournalError::NoJournal(path.clone())),
            };
        }
        self.whole = first.len() as u64;
        let mut pieces = Vec::new();
        for (at, text) in lines.enumerate() {
            if !text.ends_with(b"\n") {
                tracing::warn!(
                    "{}: the last line was cut off; it is left out, and what it held is measured again",
                    path.display()
                );
                break;
            }
            let damaged = || JournalError::Damaged { path: path.clone(), line: at + 2 };
            let (check, of) =
                parse(text).filter(|&(check, of)| check == check_of(&self.check, of)).ok_or_else(damaged)?;
            pieces.push(serde_json::from_str(of).map_err(|_| damaged())?);
            self.check = check.to_owned();
            self.whole += text.len() as u64;
        }
        Ok(pieces)
    }
}

/// A line and its check, after a line with the check `before`.
fn line<T: Serialize>(before: &str, value: &T) -> io::Result<(String, String)> {
    let of = serde_json::to_string(value)?;
    let check = check_of(before, &of);
    Ok((format!("{BEGIN}{check}{OF}{of}}}\n"), check))
}

/// The check of a whole line, and the text that it is of.
fn parse(line: &[u8]) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix(BEGIN)?;
    let (check, rest) = rest.split_at_checked(DIGITS)?;
    Some((check, rest.strip_prefix(OF)?.strip_suffix("}\n")?))
}

fn check_of(before: &str, of: &str) -> String {
    let hash = Sha256::new().chain_update(before).chain_update(of).finalize();
    hash.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Journal, JournalError, Path, PathBuf};

    fn open(path: &Path) -> Result<(Journal, Vec<u32>), JournalError> {
        Journal::open(Some(path), &"run")
    }

    /// A journal of these pieces.
    fn journal(folder: &tempfile::TempDir, pieces: &[u32]) -> PathBuf {
        let path = folder.path().join("run.jsonl");
        let (mut journal, _) = open(&path).unwrap();
        pieces.iter().for_each(|piece| journal.push(piece).unwrap());
        path
    }

    #[test]
    fn a_torn_line_is_left_out_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/run.jsonl");
        let (mut journal, pieces) = open(&path).unwrap();
        assert!(pieces.is_empty());
        journal.push(&1).unwrap();
        journal.push(&2).unwrap();
        drop(journal);
        let whole = std::fs::read_to_string(&path).unwrap();
        // Cut off anywhere within the second piece, or within the head.
        let [head, first, second] = whole.split_inclusive('\n').collect::<Vec<_>>()[..] else {
            panic!("{whole}")
        };
        for cut in [1, 12, second.len() - 1] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut journal, pieces) = open(&path).unwrap();
            assert_eq!(pieces, [1]);
            journal.push(&4).unwrap();
            drop(journal);
            assert_eq!(open(&path).unwrap().1, [1, 4]);
        }
        std::fs::write(&path, [head, first, "{"].concat()).unwrap();
        assert_eq!(open(&path).unwrap().1, [1]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), [head, first].concat());
        std::fs::write(&path, &head[..30]).unwrap();
        assert!(open(&path).unwrap().1.is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), head);
    }

    #[test]
    fn a_file_that_is_no_journal_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thesis.tex");
        let head = {
            let of_this_run = journal(&folder, &[]);
            std::fs::read_to_string(of_this_run).unwrap()
        };
        for text in [
            "One line without an end",
            "{",
            "a first line\nand a second",
            "\"run\"\n1\n",
            "{\"check\":\"but something else\"}\n",
            &format!("x{head}"),
            &head.replace("leankv_journal", "other_journal1"),
            "\n\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = open(&path).unwrap_err();
            assert!(matches!(error, JournalError::NoJournal(_)), "{text}: {error}");
            assert!(error.to_string().contains("name another file"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let bytes: Vec<u8> = (0..=255).collect();
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(&path), Err(JournalError::NoJournal(_))));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert!(matches!(open(folder.path()), Err(JournalError::NoJournal(_))), "a folder");
    }

    #[test]
    fn another_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = journal(&folder, &[1]);
        let before = std::fs::read(&path).unwrap();
        let error = Journal::open::<_, u32>(Some(&path), &"two").unwrap_err();
        assert!(matches!(error, JournalError::OtherRun(_)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn there_is_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let (mut first, _) = open(&path).unwrap();
        assert!(matches!(open(&path), Err(JournalError::InUse(_))));
        first.push(&1).unwrap();
        drop(first);
        assert_eq!(open(&path).unwrap().1, [1]);
    }

    #[test]
    fn lines_that_were_changed_moved_copied_or_taken_out_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = journal(&folder, &[10, 20, 30]);
        let whole = std::fs::read_to_string(&path).unwrap();
        let [head, a, b, c] = whole.split_inclusive('\n').collect::<Vec<_>>()[..] else { panic!("{whole}") };
        let changed = b.replace("20", "21");
        let cases: [(&[&str], usize); 7] = [
            (&[head, a, &changed, c], 3),
            (&[head, a, b, b, c], 4),
            (&[head, a, b, c, a], 5),
            (&[head, a, c], 3),
            (&[head, b, a, c], 2),
            (&[head, a, "\n", b], 3),
            (&[head, head, a], 2),
        ];
        for (lines, at) in cases {
            std::fs::write(&path, lines.concat()).unwrap();
            let error = open(&path).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { line, .. } if line == at), "{lines:?}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), lines.concat(), "it is left as it is");
        }
        // As the message says.
        std::fs::write(&path, [head, a].concat()).unwrap();
        assert_eq!(open(&path).unwrap().1, [10]);
    }

    #[test]
    fn without_a_path_nothing_is_kept() {
        let (mut journal, pieces) = Journal::open::<_, u32>(None, &"run").unwrap();
        assert!(pieces.is_empty());
        journal.push(&1).unwrap();
    }
}
