//! Rendering in rustc's manner: excerpt, labels, notes and help.

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::{Diagnostic, Diagnostics, Severity};
use crate::ir::Loc;

/// How diagnostics are shown.
#[derive(Clone, Debug)]
pub struct Render {
    color: bool,
    sources: Vec<(String, String)>,
}

impl Render {
    /// Plain text.
    pub fn plain() -> Render {
        Render { color: false, sources: Vec::new() }
    }

    /// Text with ANSI colours. Ask for it only where a terminal shows it.
    pub fn colored() -> Render {
        Render { color: true, ..Render::plain() }
    }

    /// Uses `text` for excerpts of `file` instead of looking for a file of that name.
    pub fn with_source(mut self, file: impl Into<String>, text: impl Into<String>) -> Render {
        self.sources.push((file.into(), text.into()));
        self
    }

    /// All of them, with an empty line between two and a count at the end when there are several.
    pub fn all(&self, diagnostics: &Diagnostics) -> String {
        let mut parts: Vec<String> = diagnostics.iter().map(|d| self.diagnostic(d)).collect();
        let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
        if errors > 1 {
            parts.push(format!("{errors} errors"));
        }
        parts.join("\n\n")
    }

    /// One of them.
    pub fn diagnostic(&self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group =
            level.primary_title(&diagnostic.message).id(diagnostic.code).elements(Vec::<Origin<'_>>::new());
        let texts: Vec<(&'static str, Option<String>)> =
            files(diagnostic).into_iter().map(|file| (file, self.source(file))).collect();
        let mut unseen = Vec::new();
        for (file, text) in &texts {
            let labels = || diagnostic.labels.iter().enumerate().filter(|(_, (loc, _))| loc.file() == *file);
            match text.as_deref().and_then(|text| excerpt(file, text, labels())) {
                Some(snippet) => group = group.element(snippet),
                None => {
                    for (i, (loc, label)) in labels() {
                        if i == 0 {
                            let origin = Origin::path(*file).line(loc.line() as usize);
                            group = group.element(origin.char_column(loc.col() as usize));
                            if !label.is_empty() {
                                unseen.push(label.clone());
                            }
                        } else {
                            unseen.push(format!("{loc}: {label}"));
                        }
                    }
                }
            }
        }
        let notes = unseen.iter().chain(&diagnostic.notes).map(|text| Level::NOTE.message(text));
        let help = diagnostic.help.iter().map(|text| Level::HELP.message(text));
        let group: Group<'_> = group.elements(notes).elements(help);
        let renderer = if self.color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    fn source(&self, file: &str) -> Option<String> {
        if let Some((_, text)) = self.sources.iter().find(|(name, _)| name == file) {
            return Some(text.clone());
        }
        std::fs::read_to_string(find_file(file)?).ok()
    }
}

/// The files of the labels, the main one first. Labels without a place are left out.
fn files(diagnostic: &Diagnostic) -> Vec<&'static str> {
    let mut files = Vec::new();
    for (loc, _) in &diagnostic.labels {
        if !loc.is_unknown() && !files.contains(&loc.file()) {
            files.push(loc.file());
        }
    }
    files
}

/// Rustc names files relative to the workspace, while tests run in their package's folder.
fn find_file(file: &str) -> Option<PathBuf> {
    let path = Path::new(file);
    if path.is_absolute() {
        return path.is_file().then(|| path.to_owned());
    }
    let here = std::env::current_dir().ok()?;
    here.ancestors().take(4).map(|dir| dir.join(path)).find(|candidate| candidate.is_file())
}

/// The lines around the labels; `None` when the text has no such line, which happens when a file changed since it was compiled.
fn excerpt<'a>(
    file: &'a str,
    text: &str,
    labels: impl Iterator<Item = (usize, &'a (Loc, String))> + Clone,
) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
    let first = labels.clone().map(|(_, (loc, _))| loc.line()).min()?;
    let last = labels.clone().map(|(_, (loc, _))| loc.line()).max()?;
    let count = (last - first + 1) as usize;
    let lines: Vec<&str> = text.lines().skip(first as usize - 1).take(count).collect();
    if lines.len() < count {
        return None;
    }
    let mut starts = Vec::with_capacity(count);
    let mut source = String::new();
    for line in &lines {
        starts.push(source.len());
        source.push_str(line);
        source.push('\n');
    }
    let mut annotations = Vec::new();
    for (i, (loc, label)) in labels {
        let row = (loc.line() - first) as usize;
        let span = token(lines[row], loc.col())?;
        let kind = if i == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let label = (!label.is_empty()).then_some(label.as_str());
        annotations.push(kind.span(starts[row] + span.start..starts[row] + span.end).label(label));
    }
    Some(Snippet::source(source).line_start(first as usize).path(file).annotations(annotations))
}

/// The bytes of the word or sign at a column (in characters, from 1).
fn token(line: &str, col: u32) -> Option<Range<usize>> {
    let column = (col as usize).checked_sub(1)?;
    let mut chars = line.char_indices().skip(column);
    let Some((start, first)) = chars.next() else {
        // One past the end is a place too: where something is missing.
        return (line.chars().count() == column).then_some(line.len()..line.len());
    };
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let end = if word(first) || first == '%' {
        chars.find(|&(_, c)| !word(c)).map_or(line.len(), |(at, _)| at)
    } else {
        start + first.len_utf8()
    };
    Some(start..end)
}
