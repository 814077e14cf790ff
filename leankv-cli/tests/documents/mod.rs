//! The commands that documents show: found in the texts themselves, so that there is no second list of them.

use std::fmt;
use std::path::{Path, PathBuf};

/// A command, or a mention of one, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// For messages: file and line, or the `--help` it is of.
    pub(crate) place: String,
    /// As it is copied, with its continuation lines.
    pub(crate) text: String,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A fenced block of Markdown.
pub(crate) struct Block {
    /// What stands behind the fence.
    pub(crate) language: String,
    /// The number of its first line.
    pub(crate) line: usize,
    /// Its lines.
    pub(crate) lines: Vec<String>,
}

/// The fenced blocks of a Markdown text, and the text without them (lines of blocks are empty).
pub(crate) fn blocks(markdown: &str) -> (Vec<Block>, Vec<String>) {
    let (mut blocks, mut text): (Vec<Block>, Vec<String>) = (Vec::new(), Vec::new());
    let mut open = false;
    for (at, line) in markdown.lines().enumerate() {
        text.push(String::new());
        if let Some(language) = line.trim_start().strip_prefix("```") {
            open = !open;
            if open {
                let language = language.trim().to_owned();
                blocks.push(Block { language, line: at + 2, lines: Vec::new() });
            }
        } else if open {
            blocks.last_mut().unwrap().lines.push(line.to_owned());
        } else {
            text[at] = line.to_owned();
        }
    }
    assert!(!open, "a block has no end");
    (blocks, text)
}

/// The commands of a block for a shell: one a line, without comments; a line that ends with `\` or `|` goes on in the next one.
pub(crate) fn commands<'a>(
    place: impl Fn(usize) -> String,
    lines: impl Iterator<Item = &'a str>,
) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut goes_on = false;
    for (at, line) in lines.enumerate() {
        let line = line.trim();
        if !goes_on && (line.is_empty() || line.starts_with('#')) {
            continue;
        }
        match shown.last_mut().filter(|_| goes_on) {
            Some(last) => last.text = format!("{}\n{line}", last.text),
            None => shown.push(Shown { place: place(at), text: line.to_owned() }),
        }
        goes_on = line.ends_with(['\\', '|']);
    }
    assert!(!goes_on, "{:?} does not end", shown.last());
    shown
}

/// Mentions of commands within running text: code spans that begin with the name of a program. Spans may reach over lines, not over paragraphs.
pub(crate) fn mentions(place: impl Fn(usize) -> String, lines: &[String]) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut at = 0;
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let mut line = at;
        // Longer fences hold no mentions.
        let text = paragraph.join("\n").replace("``", "");
        for (number, part) in text.split('`').enumerate() {
            // Every other part is code.
            let span = part.split_whitespace().collect::<Vec<_>>().join(" ");
            let program = ["leankv ", "make ", "cargo "].iter().any(|program| span.starts_with(program));
            if number % 2 == 1 && program {
                shown.push(Shown { place: place(line), text: span });
            }
            line += part.matches('\n').count();
        }
        at += paragraph.len() + 1;
    }
    shown
}

/// Text and blocks of a document of the project.
pub(crate) fn document(path: &str) -> (Vec<Block>, Vec<String>) {
    let file = root().join(path);
    blocks(&std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

/// The running text of the documentation comments of a source file.
pub(crate) fn comments(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let comment = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).unwrap_or_default().to_owned()
    };
    text.lines().map(comment).collect()
}

/// All files below a folder with an ending; not those of builds and of tools.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) && path.is_file() {
            found.push(path);
        }
    }
    found
}
