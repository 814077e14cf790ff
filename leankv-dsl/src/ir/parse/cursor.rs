//! Reading words, numbers and strings with line and column.

use crate::diag::Diagnostic;
use crate::ir::Loc;

/// Text that is no tile IR.
const SYNTAX: &str = "K0301";

type Result<T> = std::result::Result<T, Diagnostic>;

/// A position in a text.
pub(super) struct Cursor<'t> {
    text: &'t str,
    file: &'t str,
    pos: usize,
    /// Where the last word ended, and where skipping blanks after it ended.
    end: usize,
    skipped: usize,
    /// The line of `line_start` and its first byte: positions are asked for in rising order mostly.
    line: u32,
    line_start: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Cursor<'t> {
        Cursor { text, file, pos: 0, end: 0, skipped: 0, line: 1, line_start: 0 }
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    /// Where the last word ended: the place of something that should follow it.
    pub(super) fn end(&mut self) -> usize {
        self.skip();
        self.end
    }

    fn rest(&self) -> &'t str {
        &self.text[self.pos..]
    }

    /// The place of a byte position.
    pub(super) fn loc(&mut self, pos: usize) -> Loc {
        if pos < self.line_start {
            (self.line, self.line_start) = (1, 0);
        }
        while let Some(at) = self.text[self.line_start..pos].find('\n') {
            self.line_start += at + 1;
            self.line += 1;
        }
        let col = self.text[self.line_start..pos].chars().count() as u32 + 1;
        Loc::new(self.file, self.line, col)
    }

    /// The place of the next word.
    pub(super) fn here(&mut self) -> Loc {
        self.skip();
        self.loc(self.pos)
    }

    pub(super) fn error_at<T>(&mut self, pos: usize, message: impl Into<String>) -> Result<T> {
        let loc = self.loc(pos);
        Err(Diagnostic::error(SYNTAX, loc, message))
    }

    /// An error at the next word: what was expected, and what stands there.
    pub(super) fn expected<T>(&mut self, what: &str) -> Result<T> {
        self.skip();
        let rest = self.rest();
        let mut found: String = rest.chars().take_while(|c| !c.is_whitespace()).take(24).collect();
        found = if found.is_empty() {
            "the end of the text".into()
        } else {
            format!("`{}`", found.escape_debug())
        };
        self.error_at(self.pos, format!("expected {what}, found {found}"))
    }

    /// Skips blanks and comments.
    pub(super) fn skip(&mut self) {
        if self.pos != self.skipped {
            self.end = self.pos;
        }
        self.skip_blanks();
        self.skipped = self.pos;
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.pos += rest.len() - trimmed.len();
            if !trimmed.starts_with(';') {
                return;
            }
            self.pos += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip();
        self.rest().is_empty()
    }

    /// Whether the next sign is `c`.
    pub(super) fn at(&mut self, c: char) -> bool {
        self.skip();
        self.rest().starts_with(c)
    }

    /// Takes the sign `c` if it is next.
    pub(super) fn eat(&mut self, c: char) -> bool {
        let there = self.at(c);
        if there {
            self.pos += c.len_utf8();
        }
        there
    }

    pub(super) fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    /// The length of the name at the cursor: letters, digits, `_` and `.`, not starting with a digit.
    fn word_len(&self) -> usize {
        let rest = self.rest();
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            return 0;
        }
        rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len())
    }

    /// The word that is next, left there.
    pub(super) fn peek_word(&mut self) -> Option<&'t str> {
        self.skip();
        Some(&self.rest()[..self.word_len()]).filter(|word| !word.is_empty())
    }

    /// Takes a word.
    pub(super) fn word(&mut self, what: &str) -> Result<&'t str> {
        match self.peek_word() {
            Some(word) => {
                self.pos += word.len();
                Ok(word)
            }
            None => self.expected(what),
        }
    }

    /// Takes this word if it is next.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let there = self.peek_word() == Some(word);
        if there {
            self.pos += word.len();
        }
        there
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    /// `%name`, without the sign, and its position.
    pub(super) fn value(&mut self) -> Result<(&'t str, usize)> {
        self.skip();
        let start = self.pos;
        if !self.eat('%') {
            return self.expected("a value such as `%3`");
        }
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if len == 0 {
            return self.error_at(start, "`%` without a name; values are written `%3` or `%name`");
        }
        self.pos += len;
        Ok((&rest[..len], start))
    }

    /// Whether a value follows on the same line.
    pub(super) fn value_on_line(&self) -> bool {
        self.rest().trim_start_matches([' ', '\t']).starts_with('%')
    }

    /// The characters of a number, without looking at them closely.
    pub(super) fn number_text(&mut self) -> Result<(&'t str, usize)> {
        self.skip();
        let start = self.pos;
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let mut len = sign;
        let mut previous = ' ';
        for c in rest[sign..].chars() {
            let exponent_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E');
            if !(c.is_ascii_alphanumeric() || c == '.' || exponent_sign) {
                break;
            }
            previous = c;
            len += c.len_utf8();
        }
        if len == sign {
            return self.expected("a number");
        }
        self.pos += len;
        Ok((&rest[..len], start))
    }

    /// A whole number that fits `T`.
    pub(super) fn integer<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        self.skip();
        let start = self.pos;
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if len == 0 {
            return self.expected(what);
        }
        self.pos += len;
        match rest[..len].parse() {
            Ok(value) => Ok(value),
            Err(_) => self.error_at(start, format!("{} is out of range for {what}", &rest[..len])),
        }
    }

    /// A string in quotes.
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        self.skip();
        let start = self.pos;
        if !self.eat('"') {
            return self.expected(what);
        }
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.pos += at + 1;
                    return Ok(out);
                }
                '\\' => {
                    let bad = self.pos + at;
                    match chars.next().map(|(_, c)| c) {
                        Some('n') => out.push('\n'),
                        Some('t') => out.push('\t'),
                        Some(c @ ('"' | '\\')) => out.push(c),
                        Some('u') => match unicode(&mut chars) {
                            Some(c) => out.push(c),
                            None => return self.error_at(bad, "a bad `\\u{..}` escape"),
                        },
                        _ => return self.error_at(bad, "a bad escape; there are \\n \\t \\\" \\\\ \\u{..}"),
                    }
                }
                '\n' => break,
                c => out.push(c),
            }
        }
        self.error_at(start, "a string without its closing quote")
    }

    /// The text up to the next `>`, which is taken too.
    pub(super) fn until_angle(&mut self) -> Result<(&'t str, usize)> {
        let start = self.pos;
        let rest = self.rest();
        match rest.find(['>', '\n']).filter(|&at| rest[at..].starts_with('>')) {
            Some(at) => {
                self.pos += at + 1;
                Ok((&rest[..at], start))
            }
            None => self.error_at(start, "a type without its closing `>`"),
        }
    }
}

/// `{1f}` after `\u`.
fn unicode(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    if chars.next()?.1 != '{' {
        return None;
    }
    let mut code = 0u32;
    loop {
        match chars.next()?.1 {
            '}' => return char::from_u32(code),
            c => code = code.checked_mul(16)?.checked_add(c.to_digit(16)?)?,
        }
    }
}
