//! Source locations. Every op has one; there is no constructor of an op without it.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::Location;
use std::sync::Mutex;

/// A position in a source file: one-based line and column.
///
/// `Copy`, because every op and every diagnostic carries one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc {
    file: &'static str,
    line: u32,
    col: u32,
}

impl Loc {
    /// The caller's position, for functions marked `#[track_caller]`.
    #[track_caller]
    pub fn caller() -> Loc {
        Location::caller().into()
    }

    /// A position in `file`. File names are interned for the life of the process: their number is
    /// bounded by the number of files that were ever read, not by the number of ops.
    pub fn new(file: &str, line: u32, col: u32) -> Loc {
        static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut names = NAMES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let file = match names.get(file) {
            Some(known) => known,
            None => {
                let leaked: &'static str = Box::leak(file.to_owned().into_boxed_str());
                names.insert(leaked);
                leaked
            }
        };
        Loc { file, line, col }
    }

    /// The place of ops that no user line stands for, such as a pass's own constants in a test.
    pub fn unknown() -> Loc {
        Loc { file: "?", line: 0, col: 0 }
    }

    /// The file's name as the compiler saw it.
    pub fn file(self) -> &'static str {
        self.file
    }

    /// The line, from 1; 0 for [`Loc::unknown`].
    pub fn line(self) -> u32 {
        self.line
    }

    /// The column, from 1; 0 for [`Loc::unknown`].
    pub fn col(self) -> u32 {
        self.col
    }

    /// Whether this is [`Loc::unknown`].
    pub fn is_unknown(self) -> bool {
        self.line == 0
    }
}

impl From<&'static Location<'static>> for Loc {
    fn from(at: &'static Location<'static>) -> Loc {
        Loc { file: at.file(), line: at.line(), col: at.column() }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unknown() { write!(f, "?") } else { write!(f, "{}:{}:{}", self.file, self.line, self.col) }
    }
}

impl fmt::Debug for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
