//! Module-level grammar: directives, variables and function headers.

use super::ast::*;
use super::lexer::{Pos, Tok, Token, tokenize};
use crate::error::ParseError;
use crate::ty::Ty;

/// Nesting limit of blocks, initialisers and expressions, so that hostile text cannot exhaust the stack.
pub(super) const MAX_DEPTH: u32 = 128;
/// Largest height of an expression's tree. Its printed form, with all parentheses, nests at most twice as deep.
pub(super) const MAX_HEIGHT: u32 = 48;

pub(super) struct Parser<'a> {
    pub(super) toks: Vec<Token<'a>>,
    pub(super) at: usize,
    pub(super) depth: u32,
}

pub(super) type Res<T> = Result<T, ParseError>;

pub(super) fn parse(text: &str) -> Res<Ast> {
    let toks = tokenize(text)?;
    let mut p = Parser { toks, at: 0, depth: 0 };
    let mut ast = Ast { address_size: 64, ..Ast::default() };
    let mut seen_version = false;
    loop {
        let pos = p.pos();
        match p.peek().clone() {
            Tok::Eof => break,
            Tok::Punct(';') => {
                p.bump();
            }
            Tok::Dot("version") => {
                p.bump();
                // `8.0` is one floating-point token; its digits are recovered from the text.
                ast.version = p.version()?;
                seen_version = true;
            }
            Tok::Dot("target") => {
                p.bump();
                loop {
                    ast.target.push(p.ident("a target such as sm_80")?.to_string());
                    if !p.eat(',') {
                        break;
                    }
                }
            }
            Tok::Dot("address_size") => {
                p.bump();
                let bits = p.int("the address size")?;
                if bits != 64 {
                    return Err(pos.err(format!("address size {bits} is not supported; use 64")));
                }
                ast.address_size = 64;
            }
            _ => {
                let item = p.item()?;
                ast.items.push(item);
            }
        }
    }
    if !seen_version {
        return Err(Pos { line: 1, col: 1 }.err("no `.version` directive: this is not a PTX module"));
    }
    if ast.target.is_empty() {
        return Err(Pos { line: 1, col: 1 }.err("no `.target` directive"));
    }
    Ok(ast)
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> &Tok<'a> {
        &self.toks[self.at].tok
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &Tok<'a> {
        &self.toks[(self.at + ahead).min(self.toks.len() - 1)].tok
    }

    pub(super) fn pos(&self) -> Pos {
        self.toks[self.at].pos
    }

    pub(super) fn bump(&mut self) -> Tok<'a> {
        let tok = self.toks[self.at].tok.clone();
        if self.at + 1 < self.toks.len() {
            self.at += 1;
        }
        tok
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let yes = *self.peek() == Tok::Punct(c);
        if yes {
            self.bump();
        }
        yes
    }

    pub(super) fn eat_dot(&mut self, name: &str) -> bool {
        let yes = matches!(self.peek(), Tok::Dot(n) if *n == name);
        if yes {
            self.bump();
        }
        yes
    }

    pub(super) fn expect(&mut self, c: char) -> Res<()> {
        if self.eat(c) { Ok(()) } else { Err(self.unexpected(&format!("`{c}`"))) }
    }

    pub(super) fn unexpected(&self, wanted: &str) -> ParseError {
        self.pos().err(format!("expected {wanted}, found {}", self.peek().describe()))
    }

    pub(super) fn ident(&mut self, wanted: &str) -> Res<&'a str> {
        match *self.peek() {
            Tok::Ident(s) => {
                self.bump();
                Ok(s)
            }
            _ => Err(self.unexpected(wanted)),
        }
    }

    pub(super) fn int(&mut self, wanted: &str) -> Res<u64> {
        match *self.peek() {
            Tok::Int(v, _) => {
                self.bump();
                Ok(v)
            }
            _ => Err(self.unexpected(wanted)),
        }
    }

    pub(super) fn deeper(&mut self) -> Res<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.pos().err(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// `a, b` up to `close`, which is consumed; may be empty.
    pub(super) fn list<T>(&mut self, close: char, item: impl FnMut(&mut Self) -> Res<T>) -> Res<Vec<T>> {
        if self.eat(close) { Ok(Vec::new()) } else { self.list_items(close, item) }
    }

    /// `a, b` up to `close`, which is consumed; at least one.
    pub(super) fn list_items<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Res<T>,
    ) -> Res<Vec<T>> {
        let mut out = Vec::new();
        loop {
            out.push(item(self)?);
            if !self.eat(',') {
                self.expect(close)?;
                return Ok(out);
            }
        }
    }

    fn version(&mut self) -> Res<(u32, u32)> {
        let pos = self.pos();
        match self.bump() {
            Tok::F64(bits) => {
                let v = f64::from_bits(bits);
                let tenths = (v * 10.0).round();
                // One digit behind the point: the literal is the number nearest to that.
                if !(1.0..100.0).contains(&v) || tenths / 10.0 != v {
                    return Err(pos.err("not a PTX version; one is such as 8.0"));
                }
                Ok((tenths as u32 / 10, tenths as u32 % 10))
            }
            Tok::Int(v, _) if v < 100 => Ok((v as u32, 0)),
            other => Err(pos.err(format!("expected a version such as 8.0, found {}", other.describe()))),
        }
    }

    fn strings(&mut self) -> Res<Vec<String>> {
        let mut out = Vec::new();
        loop {
            match *self.peek() {
                Tok::Str(s) => {
                    self.bump();
                    out.push(s.to_string());
                }
                _ => return Err(self.unexpected("a quoted string")),
            }
            if !self.eat(',') {
                return Ok(out);
            }
        }
    }

    pub(super) fn pragma(&mut self) -> Res<Vec<String>> {
        let out = self.strings()?;
        self.expect(';')?;
        Ok(out)
    }

    fn item(&mut self) -> Res<Item> {
        let pos = self.pos();
        match self.peek().clone() {
            Tok::Dot("file") => {
                self.bump();
                let index = self.int("a file number")?;
                let name = match self.bump() {
                    Tok::Str(s) => s.to_string(),
                    other => {
                        return Err(pos.err(format!("expected a file name, found {}", other.describe())));
                    }
                };
                let mut stat = Vec::new();
                while self.eat(',') {
                    stat.push(self.int("a number")?);
                }
                Ok(Item::File { index, name, stat })
            }
            Tok::Dot("section") => {
                self.bump();
                self.section()
            }
            Tok::Dot("pragma") => {
                self.bump();
                Ok(Item::Pragma(self.pragma()?))
            }
            Tok::Dot("alias") => {
                self.bump();
                let a = self.ident("a function name")?.to_string();
                self.expect(',')?;
                let b = self.ident("a function name")?.to_string();
                self.expect(';')?;
                Ok(Item::Alias(a, b))
            }
            Tok::Dot(_) => self.linked_item(),
            other => {
                Err(pos.err(format!("expected a directive at module level, found {}", other.describe())))
            }
        }
    }

    fn section(&mut self) -> Res<Item> {
        let name = match self.bump() {
            Tok::Dot(s) => format!(".{s}"),
            Tok::Ident(s) => s.to_string(),
            _ => return Err(self.unexpected("a section name")),
        };
        let open = self.pos();
        self.expect('{')?;
        let mut depth = 1;
        let mut body = Vec::new();
        loop {
            let text = match self.bump() {
                Tok::Eof => return Err(open.err("this section is never closed; add `}`")),
                Tok::Punct('{') => {
                    depth += 1;
                    "{".to_string()
                }
                Tok::Punct('}') => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(Item::Section { name, body });
                    }
                    "}".to_string()
                }
                Tok::Ident(s) => s.to_string(),
                Tok::Dot(s) => format!(".{s}"),
                Tok::Int(v, u) => format!("{v}{}", if u { "U" } else { "" }),
                Tok::F32(b) => format!("0f{b:08X}"),
                Tok::F64(b) => format!("0d{b:016X}"),
                Tok::Str(s) => format!("\"{s}\""),
                Tok::Punct(c) => c.to_string(),
                Tok::Op(s) => s.to_string(),
            };
            body.push(text);
        }
    }

    fn linked_item(&mut self) -> Res<Item> {
        let linkage = self.linkage();
        let pos = self.pos();
        match *self.peek() {
            Tok::Dot(which @ ("entry" | "func")) => {
                self.bump();
                Ok(Item::Func(self.func(linkage, which == "entry")?))
            }
            Tok::Dot(name) => match space_of(name) {
                Some(space @ (Space::Global | Space::Const | Space::Shared | Space::Local)) => {
                    self.bump();
                    let mut vars = self.var_list(linkage, space)?;
                    self.expect(';')?;
                    if vars.len() != 1 {
                        return Err(pos.err("declare one module-level variable per statement"));
                    }
                    Ok(Item::Var(vars.remove(0)))
                }
                _ => Err(pos.err(format!("unknown directive `.{name}`"))),
            },
            _ => Err(self.unexpected("a variable or function")),
        }
    }

    pub(super) fn linkage(&mut self) -> Linkage {
        let linkage = match self.peek() {
            Tok::Dot("visible") => Linkage::Visible,
            Tok::Dot("extern") => Linkage::Extern,
            Tok::Dot("weak") => Linkage::Weak,
            Tok::Dot("common") => Linkage::Common,
            _ => return Linkage::None,
        };
        self.bump();
        linkage
    }

    /// `.attribute(...)` as balanced text.
    fn attributes(&mut self) -> Res<Vec<String>> {
        let mut out = Vec::new();
        while self.eat_dot("attribute") {
            self.expect('(')?;
            let mut text = String::new();
            let mut depth = 1;
            loop {
                let word = match self.bump() {
                    Tok::Punct('(') => {
                        depth += 1;
                        text.push('(');
                        continue;
                    }
                    Tok::Punct(')') => {
                        depth -= 1;
                        if depth == 0 {
                            break;
                        }
                        text.push(')');
                        continue;
                    }
                    Tok::Punct(',') => {
                        text.push_str(", ");
                        continue;
                    }
                    Tok::Dot(s) => format!(".{s}"),
                    Tok::Ident(s) => s.to_string(),
                    Tok::Int(v, _) => v.to_string(),
                    _ => return Err(self.unexpected("`)`")),
                };
                // Two words stay two.
                if !text.is_empty() && !text.ends_with(['(', ' ']) {
                    text.push(' ');
                }
                text.push_str(&word);
            }
            out.push(text);
        }
        Ok(out)
    }

    /// Everything after the state space of a variable declaration, up to (not including) `;`.
    pub(super) fn var_list(&mut self, linkage: Linkage, space: Space) -> Res<Vec<Var>> {
        let mut attributes = self.attributes()?;
        let mut align = None;
        let mut vector = 1;
        let mut ty = None;
        loop {
            let pos = self.pos();
            match *self.peek() {
                Tok::Dot("align") => {
                    self.bump();
                    align = Some(self.alignment()?);
                }
                Tok::Dot("attribute") => attributes.extend(self.attributes()?),
                Tok::Dot(v @ ("v2" | "v4" | "v8")) => {
                    self.bump();
                    vector = u32::from(v.as_bytes()[1] - b'0');
                }
                Tok::Dot(name) => {
                    let t = Ty::from_name(name);
                    ty = Some(t.ok_or_else(|| pos.err(format!("unknown type `.{name}`")))?);
                    self.bump();
                }
                _ => break,
            }
        }
        let ty = ty.ok_or_else(|| self.unexpected("a type"))?;
        let mut out = Vec::new();
        loop {
            let pos = self.pos();
            let name = self.ident("a variable name")?.to_string();
            let dims = self.dims()?;
            let init = if self.eat('=') { Some(self.init()?) } else { None };
            out.push(Var {
                linkage,
                space,
                align,
                ty,
                vector,
                name,
                dims,
                ptr: None,
                init,
                attributes: attributes.clone(),
                pos,
            });
            if !self.eat(',') {
                return Ok(out);
            }
        }
    }

    fn dims(&mut self) -> Res<Vec<Option<u64>>> {
        let mut dims = Vec::new();
        while self.eat('[') {
            if self.eat(']') {
                dims.push(None);
            } else {
                dims.push(Some(self.int("an array size")?));
                self.expect(']')?;
            }
        }
        Ok(dims)
    }

    fn init(&mut self) -> Res<Init> {
        if !self.eat('{') {
            return Ok(Init::Value(self.expr()?));
        }
        self.deeper()?;
        let list = self.list('}', Self::init)?;
        self.depth -= 1;
        Ok(Init::List(list))
    }

    fn alignment(&mut self) -> Res<u32> {
        let pos = self.pos();
        let v = self.int("an alignment")?;
        if !v.is_power_of_two() || v > 1 << 20 {
            return Err(pos.err(format!("alignment {v} is not a power of two up to 1048576")));
        }
        Ok(v as u32)
    }

    pub(super) fn params(&mut self) -> Res<Vec<Var>> {
        if self.eat('(') { self.list(')', Self::param) } else { Ok(Vec::new()) }
    }

    fn param(&mut self) -> Res<Var> {
        let pos = self.pos();
        let space = match *self.peek() {
            Tok::Dot("param") => Space::Param,
            Tok::Dot("reg") => Space::Reg,
            _ => return Err(self.unexpected("`.param` or `.reg`")),
        };
        self.bump();
        let (mut align, mut vector, mut ty, mut ptr) = (None, 1, None, None::<PtrAttr>);
        loop {
            match *self.peek() {
                Tok::Dot("align") => {
                    self.bump();
                    let n = Some(self.alignment()?);
                    // After `.ptr` the alignment is the pointee's.
                    match &mut ptr {
                        Some(p) => p.align = n,
                        None => align = n,
                    }
                }
                Tok::Dot("ptr") => {
                    self.bump();
                    ptr = Some(PtrAttr::default());
                }
                Tok::Dot(v @ ("v2" | "v4")) => {
                    self.bump();
                    vector = u32::from(v.as_bytes()[1] - b'0');
                }
                Tok::Dot(name) => {
                    if let Some(p) = &mut ptr
                        && let Some(space) = space_of(name)
                    {
                        p.space = Some(space);
                    } else if let Some(t) = Ty::from_name(name) {
                        ty = Some(t);
                    } else {
                        return Err(self.pos().err(format!("unknown parameter attribute `.{name}`")));
                    }
                    self.bump();
                }
                _ => break,
            }
        }
        let ty = ty.ok_or_else(|| pos.err("this parameter has no type"))?;
        let pos = self.pos();
        let name = self.ident("a parameter name")?.to_string();
        let dims = self.dims()?;
        Ok(Var {
            linkage: Linkage::None,
            space,
            align,
            ty,
            vector,
            name,
            dims,
            ptr,
            init: None,
            attributes: Vec::new(),
            pos,
        })
    }

    fn func(&mut self, linkage: Linkage, is_entry: bool) -> Res<Func> {
        let mut attributes = self.attributes()?;
        let rets = if is_entry { Vec::new() } else { self.params()? };
        let pos = self.pos();
        let name = self.ident("a function name")?.to_string();
        let params = self.params()?;
        let mut directives = Vec::new();
        loop {
            let pos = self.pos();
            match *self.peek() {
                Tok::Dot("attribute") => attributes.extend(self.attributes()?),
                Tok::Dot("pragma") => {
                    self.bump();
                    let strings = self.pragma()?;
                    directives.push(FuncDirective { name: "pragma".into(), args: Vec::new(), strings });
                }
                Tok::Dot(
                    name @ ("maxntid"
                    | "reqntid"
                    | "minnctapersm"
                    | "maxnctapersm"
                    | "maxnreg"
                    | "reqnctapercluster"
                    | "maxclusterrank"
                    | "explicitcluster"
                    | "noreturn"
                    | "blocksareclusters"
                    | "local_maxnreg"
                    | "abi_preserve"
                    | "abi_preserve_control"),
                ) => {
                    self.bump();
                    let mut args = Vec::new();
                    if matches!(self.peek(), Tok::Int(..)) {
                        args.push(self.int("a number")?);
                        while self.eat(',') {
                            args.push(self.int("a number")?);
                        }
                    }
                    directives.push(FuncDirective { name: name.into(), args, strings: Vec::new() });
                }
                Tok::Dot(name) => return Err(pos.err(format!("unknown function directive `.{name}`"))),
                _ => break,
            }
        }
        let body = if self.eat(';') {
            None
        } else {
            self.expect('{')?;
            Some(self.body()?)
        };
        if is_entry && body.is_none() && linkage != Linkage::Extern {
            return Err(pos.err(format!("kernel `{name}` has no body")));
        }
        Ok(Func { linkage, is_entry, attributes, rets, name, params, directives, body, pos })
    }
}

pub(super) fn space_of(name: &str) -> Option<Space> {
    Some(match name {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}
