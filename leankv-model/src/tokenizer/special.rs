//! Cutting special tokens out of a text.

use std::collections::HashMap;

use super::Kind;

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Text without special tokens.
    Text(String),
    /// A special token.
    Token(u32),
}

/// The tokens that are found in a text as they are written, before any merging.
pub(super) struct Specials {
    ids: HashMap<Box<str>, (u32, Kind)>,
    /// For each first byte, the lengths of the tokens that begin with it, longest first.
    lengths: Vec<Vec<usize>>,
}

impl Specials {
    pub(super) fn new(tokens: &[&str], kinds: &[Kind]) -> Specials {
        let mut ids = HashMap::new();
        let mut lengths = vec![Vec::new(); 256];
        for ((id, token), kind) in (0u32..).zip(tokens).zip(kinds) {
            let Some(first) = token.bytes().next() else { continue };
            if matches!(kind, Kind::Control | Kind::UserDefined) {
                ids.entry((*token).into()).or_insert((id, *kind));
                lengths[usize::from(first)].push(token.len());
            }
        }
        for lengths in &mut lengths {
            lengths.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
            lengths.dedup();
        }
        Specials { ids, lengths }
    }

    /// The token that begins `text`, the longest where there are several.
    fn find(&self, text: &str, control: bool) -> Option<(u32, usize)> {
        let first = text.bytes().next()?;
        self.lengths[usize::from(first)].iter().find_map(|&n| {
            let &(id, kind) = self.ids.get(text.get(..n)?)?;
            (control || kind == Kind::UserDefined).then_some((id, n))
        })
    }

    /// Appends the fragments of `text`, joining plain text to plain text that already ends the list. Control tokens count only
    /// if `control` says so.
    pub(super) fn split(&self, text: &str, control: bool, fragments: &mut Vec<Fragment>) {
        let mut plain = 0;
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if let Some((id, n)) = self.find(&text[at..], control) {
                push_text(&text[plain..at], fragments);
                fragments.push(Fragment::Token(id));
                at += n;
                plain = at;
            } else {
                at += c.len_utf8();
            }
        }
        push_text(&text[plain..], fragments);
    }
}

fn push_text(text: &str, fragments: &mut Vec<Fragment>) {
    match fragments.last_mut() {
        _ if text.is_empty() => {}
        Some(Fragment::Text(last)) => last.push_str(text),
        _ => fragments.push(Fragment::Text(text.to_owned())),
    }
}
