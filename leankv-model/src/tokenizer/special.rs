//! Cutting special tokens out of a text.

use std::collections::HashMap;
use std::ops::Range;

use super::Kind;

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Text without special tokens.
    Text(&'t str),
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

    /// The token that begins at `at`, the longest where there are several. Control tokens do not count if they touch
    /// `plain`.
    fn find(&self, text: &str, at: usize, plain: &Range<usize>) -> Option<(u32, usize)> {
        let first = *text.as_bytes().get(at)?;
        self.lengths[usize::from(first)].iter().find_map(|&n| {
            let &(id, kind) = self.ids.get(text.get(at..at + n)?)?;
            let apart = at + n <= plain.start || at >= plain.end;
            (apart || kind == Kind::UserDefined).then_some((id, n))
        })
    }

    /// The fragments of `text`. In the part `plain` of it, control tokens are text.
    pub(super) fn split<'t>(&self, text: &'t str, plain: Range<usize>) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        let (mut start, mut at) = (0, 0);
        while let Some(c) = text[at..].chars().next() {
            let Some((id, n)) = self.find(text, at, &plain) else {
                at += c.len_utf8();
                continue;
            };
            if start < at {
                fragments.push(Fragment::Text(&text[start..at]));
            }
            fragments.push(Fragment::Token(id));
            at += n;
            start = at;
        }
        if start < at {
            fragments.push(Fragment::Text(&text[start..]));
        }
        fragments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_that_touch_plain_text_are_text() {
        let (tokens, kinds) =
            (["<s>", "<t>", "<t><t>"], [Kind::Control, Kind::UserDefined, Kind::UserDefined]);
        let specials = Specials::new(&tokens, &kinds);
        use Fragment::{Text, Token};
        assert_eq!(specials.split("a<s>b", 0..0), [Text("a"), Token(0), Text("b")]);
        assert_eq!(specials.split("<s><s><s>", 3..6), [Token(0), Text("<s>"), Token(0)]);
        assert_eq!(specials.split("<s><s>", 5..6), [Token(0), Text("<s>")]);
        assert_eq!(specials.split("<s><s>", 0..1), [Text("<s>"), Token(0)]);
        assert_eq!(specials.split("<t><t><t>\u{1fae0}<", 0..14), [Token(2), Token(1), Text("\u{1fae0}<")]);
        assert_eq!(specials.split("", 0..0), []);
    }
}
