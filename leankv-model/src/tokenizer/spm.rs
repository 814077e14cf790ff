//! SentencePiece's BPE: neighbours whose concatenation is the piece with the highest score are merged until none is
//! left.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::Kind;

/// How SentencePiece writes a space.
const SPACE: char = '\u{2581}';

/// Pieces with their scores.
pub(super) struct Spm {
    pieces: HashMap<Box<str>, (u32, f32)>,
    /// The token of each byte, for characters that no piece holds.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    space_prefix: bool,
}

/// The value of a byte token, which is written `<0x0A>`.
fn byte(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// What a piece decodes to.
pub(super) fn bytes(token: &str, kind: Kind) -> Box<[u8]> {
    match byte(token) {
        Some(byte) if kind == Kind::Byte => Box::new([byte]),
        _ => token.replace(SPACE, " ").into_bytes().into(),
    }
}

/// Text with spaces for SentencePiece's own sign of one: the two are the same to it.
pub(super) fn plain_spaces(text: &str) -> Cow<'_, str> {
    if text.contains(SPACE) { text.replace(SPACE, " ").into() } else { text.into() }
}

/// A run of the text, in a doubly linked list; an empty one was merged into its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be merged. The greatest is merged first.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when the candidate was found: if they have changed since, it is void.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    pub(super) fn new(
        tokens: &[&str],
        kinds: &[Kind],
        scores: &[f32],
        unknown: Option<u32>,
        space_prefix: bool,
    ) -> Spm {
        let mut pieces = HashMap::with_capacity(tokens.len());
        let mut bytes = [None; 256];
        for (((id, token), kind), score) in (0u32..).zip(tokens).zip(kinds).zip(scores) {
            match kind {
                Kind::Normal => {
                    pieces.entry((*token).into()).or_insert((id, *score));
                }
                Kind::Byte => {
                    if let Some(byte) = byte(token) {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                // Control and user-defined tokens are cut out before; merging never leads to one.
                Kind::Unknown | Kind::Control | Kind::UserDefined | Kind::Unused => {}
            }
        }
        Spm { pieces, bytes, unknown, space_prefix }
    }

    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the ids of `text`, which is what stands at the beginning or after a special token.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + 8);
        if self.space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        for symbol in self.merge(&escaped) {
            let piece = &escaped[symbol.start..symbol.start + symbol.len];
            match self.pieces.get(piece) {
                Some(&(id, _)) => ids.push(id),
                None => match piece.bytes().map(|b| self.bytes[usize::from(b)]).collect::<Option<Vec<u32>>>()
                {
                    Some(bytes) => ids.extend(bytes),
                    None => ids.extend(self.unknown),
                },
            }
        }
    }

    /// The symbols that are left after all merges, in the order of the text.
    fn merge(&self, text: &str) -> impl Iterator<Item = Symbol> + use<> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: i.checked_sub(1),
                next: Some(i + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let candidate = |symbols: &[Symbol], left: usize, right: usize| {
            let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
            let &(_, score) = self.pieces.get(&text[start..start + len])?;
            Some(Candidate { score, left, right, len })
        };
        let mut heap: BinaryHeap<Candidate> =
            (1..symbols.len()).filter_map(|right| candidate(&symbols, right - 1, right)).collect();
        while let Some(Candidate { left, right, len, .. }) = heap.pop() {
            if symbols[left].len == 0
                || symbols[right].len == 0
                || symbols[left].len + symbols[right].len != len
            {
                continue;
            }
            symbols[left].len = len;
            symbols[right].len = 0;
            let next = symbols[right].next;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].prev = Some(left);
                heap.extend(candidate(&symbols, left, next));
            }
            if let Some(prev) = symbols[left].prev {
                heap.extend(candidate(&symbols, prev, left));
            }
        }
        symbols.into_iter().filter(|symbol| symbol.len > 0)
    }
}
