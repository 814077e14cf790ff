//! Where findings and explanations go: the file of `SOFTCUDA_REPORT`, or standard error.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Writes whole entries, one after another, from any thread.
pub(crate) struct Reporter {
    report: Option<Mutex<File>>,
    counters: Option<Mutex<File>>,
    explain: bool,
}

impl Reporter {
    /// Opens the files; one that cannot be opened is an error with its reason.
    pub(crate) fn new(
        report: Option<&Path>,
        counters: Option<&Path>,
        explain: bool,
    ) -> Result<Reporter, String> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map(Mutex::new).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        Ok(Reporter {
            report: report.map(open).transpose()?,
            counters: counters.map(open).transpose()?,
            explain,
        })
    }

    /// A finding or a fault, always written.
    pub(crate) fn entry(&self, text: &str) {
        let entry = format!("softcuda: {}\n", text.trim_end());
        match &self.report {
            Some(file) => append(file, entry.as_bytes()),
            // A program may have closed its standard error.
            None => drop(std::io::stderr().lock().write_all(entry.as_bytes())),
        }
    }

    /// Why a call returned an error, written where the program's author asked to see it.
    pub(crate) fn explanation(&self, text: &str) {
        if self.explain || self.report.is_some() {
            self.entry(text);
        }
    }

    /// Whether counters are wanted.
    pub(crate) fn wants_counters(&self) -> bool {
        self.counters.is_some()
    }

    /// One line of counters, JSON.
    pub(crate) fn counters(&self, line: &str) {
        if let Some(file) = &self.counters {
            append(file, format!("{line}\n").as_bytes());
        }
    }
}

/// A full disk must not change what the program computes, so write errors are dropped.
fn append(file: &Mutex<File>, bytes: &[u8]) {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = file.write_all(bytes).and_then(|()| file.flush());
}
