//! PTX text to tokens, each with its line and column.

use crate::error::ParseError;

/// Where a token or statement starts, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Column in bytes, from 1.
    pub col: u32,
}

impl Pos {
    pub(crate) fn err(self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.line, col: self.col, message: message.into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok<'a> {
    /// Identifier, register name or label name.
    Ident(&'a str),
    /// `.name`, the text without its dot; may contain `::`.
    Dot(&'a str),
    /// Integer literal; `true` when it carried the unsigned suffix.
    Int(u64, bool),
    /// `0f` and eight hexadecimal digits.
    F32(u32),
    /// `0d` and sixteen hexadecimal digits, or a decimal floating-point literal.
    F64(u64),
    Str(&'a str),
    Punct(char),
    /// `<<`, `>>`, `<=`, `>=`, `==`, `!=`, `&&`, `||`.
    Op(&'static str),
    Eof,
}

impl Tok<'_> {
    pub(crate) fn describe(&self) -> String {
        match self {
            Tok::Ident(s) => format!("`{s}`"),
            Tok::Dot(s) => format!("`.{s}`"),
            Tok::Int(v, _) => format!("`{v}`"),
            Tok::F32(b) => format!("`0f{b:08X}`"),
            Tok::F64(b) => format!("`0d{b:016X}`"),
            Tok::Str(s) => format!("\"{s}\""),
            Tok::Punct(c) => format!("`{c}`"),
            Tok::Op(s) => format!("`{s}`"),
            Tok::Eof => "end of file".to_string(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) tok: Tok<'a>,
    pub(crate) pos: Pos,
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
    line_start: usize,
}

fn ident_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b == b'$' || b == b'%'
}

fn ident_char(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$'
}

/// Splits `text` into tokens, the last of which is [`Tok::Eof`].
pub(crate) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1, line_start: 0 };
    let mut out = Vec::with_capacity(text.len() / 4 + 1);
    loop {
        lexer.skip_space()?;
        let pos = lexer.pos();
        let tok = lexer.next()?;
        let end = tok == Tok::Eof;
        out.push(Token { tok, pos });
        if end {
            return Ok(out);
        }
    }
}

impl<'a> Lexer<'a> {
    fn pos(&self) -> Pos {
        Pos { line: self.line, col: (self.at - self.line_start) as u32 + 1 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.at;
    }

    fn skip_space(&mut self) -> Result<(), ParseError> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.at += 1;
                    self.newline();
                }
                b' ' | b'\t' | b'\r' | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => {
                    let start = self.pos();
                    self.at += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        if self.at >= self.bytes.len() {
                            return Err(start.err("this comment is never closed; add `*/`"));
                        }
                        let newline = self.peek(0) == b'\n';
                        self.at += 1;
                        if newline {
                            self.newline();
                        }
                    }
                    self.at += 2;
                }
                // A terminating NUL is what the CUDA driver API hands over.
                0 if self.at + 1 == self.bytes.len() => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    fn take_while(&mut self, f: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.bytes.len() && f(self.bytes[self.at]) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn next(&mut self) -> Result<Tok<'a>, ParseError> {
        if self.at >= self.bytes.len() {
            return Ok(Tok::Eof);
        }
        let pos = self.pos();
        let b = self.peek(0);
        if ident_start(b) {
            let start = self.at;
            self.at += 1;
            self.take_while(ident_char);
            let text = &self.text[start..self.at];
            if text == "%" {
                return Ok(Tok::Punct('%'));
            }
            return Ok(Tok::Ident(text));
        }
        if b == b'.' && ident_char(self.peek(1)) {
            self.at += 1;
            let start = self.at;
            loop {
                self.take_while(ident_char);
                if self.peek(0) == b':' && self.peek(1) == b':' && ident_char(self.peek(2)) {
                    self.at += 2;
                } else {
                    break;
                }
            }
            return Ok(Tok::Dot(&self.text[start..self.at]));
        }
        if b.is_ascii_digit() {
            return self.number(pos);
        }
        if b == b'"' {
            self.at += 1;
            let start = self.at;
            while self.peek(0) != b'"' {
                if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                    return Err(pos.err("this string is never closed; add `\"`"));
                }
                self.at += if self.peek(0) == b'\\' && self.at + 1 < self.bytes.len() { 2 } else { 1 };
            }
            if !self.text.is_char_boundary(self.at) {
                return Err(pos.err("this string holds a broken escape"));
            }
            let text = &self.text[start..self.at];
            self.at += 1;
            return Ok(Tok::Str(text));
        }
        for op in ["<<", ">>", "<=", ">=", "==", "!=", "&&", "||"] {
            if self.bytes[self.at..].starts_with(op.as_bytes()) {
                self.at += 2;
                return Ok(Tok::Op(op));
            }
        }
        if b"()[]{}<>,;:+-*/!~&|^=?@%.".contains(&b) {
            self.at += 1;
            return Ok(Tok::Punct(b as char));
        }
        let c = self.text[self.at..].chars().next().unwrap_or('\0');
        Err(pos.err(format!("unexpected character {c:?}")))
    }

    fn number(&mut self, pos: Pos) -> Result<Tok<'a>, ParseError> {
        if self.peek(0) == b'0' {
            let width = match self.peek(1) {
                b'f' | b'F' => 8,
                b'd' | b'D' => 16,
                _ => 0,
            };
            if width != 0 {
                let start = self.at + 2;
                self.at = start;
                let text = self.take_while(|b| b.is_ascii_hexdigit());
                if text.len() != width {
                    return Err(pos.err(format!(
                        "this floating-point literal has {} hexadecimal digits; it needs {width}",
                        text.len()
                    )));
                }
                let bits = u64::from_str_radix(text, 16).map_err(|e| pos.err(e.to_string()))?;
                return Ok(if width == 8 { Tok::F32(bits as u32) } else { Tok::F64(bits) });
            }
            let radix = match self.peek(1) {
                b'x' | b'X' => 16,
                b'b' | b'B' => 2,
                b if b.is_ascii_digit() => 8,
                _ => 10,
            };
            if radix != 10 {
                self.at += if radix == 8 { 1 } else { 2 };
                let text = self.take_while(|b| b.is_ascii_hexdigit());
                let v = u64::from_str_radix(text, radix)
                    .map_err(|_| pos.err(format!("`{text}` is not a base-{radix} 64-bit integer")))?;
                return Ok(Tok::Int(v, self.unsigned_suffix()));
            }
        }
        let start = self.at;
        self.take_while(|b| b.is_ascii_digit());
        let mut float = false;
        if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
            float = true;
            self.at += 1;
            self.take_while(|b| b.is_ascii_digit());
        }
        if matches!(self.peek(0), b'e' | b'E')
            && (self.peek(1).is_ascii_digit()
                || (matches!(self.peek(1), b'+' | b'-') && self.peek(2).is_ascii_digit()))
        {
            float = true;
            self.at += 2;
            self.take_while(|b| b.is_ascii_digit());
        }
        let text = &self.text[start..self.at];
        if float {
            let v: f64 = text.parse().map_err(|_| pos.err(format!("`{text}` is not a number")))?;
            return Ok(Tok::F64(v.to_bits()));
        }
        let v = text.parse().map_err(|_| pos.err(format!("`{text}` does not fit 64 bits")))?;
        Ok(Tok::Int(v, self.unsigned_suffix()))
    }

    fn unsigned_suffix(&mut self) -> bool {
        let yes = matches!(self.peek(0), b'U' | b'u');
        if yes {
            self.at += 1;
        }
        yes
    }
}
