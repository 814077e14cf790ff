//! Function bodies: statements, operands and constant expressions.

use super::ast::*;
use super::lexer::{Pos, Tok};
use super::parser::{MAX_HEIGHT, Parser, Res, space_of};
use crate::ty::Ty;

impl Parser<'_> {
    /// Statements up to the closing brace, which is consumed.
    pub(super) fn body(&mut self) -> Res<Vec<Stmt>> {
        self.deeper()?;
        let mut out = Vec::new();
        loop {
            let pos = self.pos();
            match self.peek().clone() {
                Tok::Punct('}') => {
                    self.bump();
                    self.depth -= 1;
                    return Ok(out);
                }
                Tok::Punct(';') => {
                    self.bump();
                }
                Tok::Eof => return Err(pos.err("this function body is never closed; add `}`")),
                _ => {
                    let kinds = self.stmt(pos)?;
                    out.extend(kinds.into_iter().map(|kind| Stmt { pos, kind }));
                }
            }
        }
    }

    fn stmt(&mut self, pos: Pos) -> Res<Vec<StmtKind>> {
        match self.peek().clone() {
            Tok::Punct('{') => {
                self.bump();
                Ok(vec![StmtKind::Block(self.body()?)])
            }
            Tok::Punct('@') => {
                self.bump();
                let negated = self.eat('!');
                let name = self.ident("a predicate register")?.to_string();
                Ok(vec![StmtKind::Instr(self.instr(Some((name, negated)))?)])
            }
            Tok::Dot("reg") => {
                self.bump();
                Ok(vec![self.reg()?])
            }
            Tok::Dot("loc") => {
                self.bump();
                Ok(vec![StmtKind::Loc(self.loc()?)])
            }
            Tok::Dot("pragma") => {
                self.bump();
                Ok(vec![StmtKind::Pragma(self.pragma()?)])
            }
            Tok::Dot(name) => {
                let linkage = self.linkage();
                let space = match *self.peek() {
                    Tok::Dot(n) => space_of(n),
                    _ => None,
                };
                let Some(space) = space else {
                    return Err(pos.err(format!("unknown directive `.{name}` in a function body")));
                };
                self.bump();
                let vars = self.var_list(linkage, space)?;
                self.expect(';')?;
                Ok(vars.into_iter().map(StmtKind::Var).collect())
            }
            Tok::Ident(name) if *self.peek_at(1) == Tok::Punct(':') => {
                self.bump();
                self.bump();
                match *self.peek() {
                    Tok::Dot(which @ ("branchtargets" | "calltargets")) => {
                        self.bump();
                        let mut targets = vec![self.ident("a label")?.to_string()];
                        while self.eat(',') {
                            targets.push(self.ident("a label")?.to_string());
                        }
                        self.expect(';')?;
                        let call = which == "calltargets";
                        Ok(vec![StmtKind::Targets { name: name.to_string(), call, targets }])
                    }
                    Tok::Dot("callprototype") => {
                        self.bump();
                        let rets = self.params()?;
                        self.ident("`_`")?;
                        let params = self.params()?;
                        let mut attributes = Vec::new();
                        while let Tok::Dot(a) = *self.peek() {
                            self.bump();
                            attributes.push(a.to_string());
                        }
                        self.expect(';')?;
                        Ok(vec![StmtKind::Prototype { name: name.to_string(), rets, params, attributes }])
                    }
                    _ => Ok(vec![StmtKind::Label(name.to_string())]),
                }
            }
            Tok::Ident(_) => Ok(vec![StmtKind::Instr(self.instr(None)?)]),
            _ => Err(self.unexpected("a statement")),
        }
    }

    fn reg(&mut self) -> Res<StmtKind> {
        let mut vector = 1;
        let mut ty = None;
        while let Tok::Dot(name) = *self.peek() {
            match name {
                "v2" => vector = 2,
                "v4" => vector = 4,
                _ => {
                    let t = Ty::from_name(name);
                    ty = Some(t.ok_or_else(|| self.pos().err(format!("unknown register type `.{name}`")))?);
                }
            }
            self.bump();
        }
        let ty = ty.ok_or_else(|| self.unexpected("a register type"))?;
        let mut names = Vec::new();
        loop {
            let name = self.ident("a register name")?.to_string();
            let count = if self.eat('<') {
                let pos = self.pos();
                let n = self.int("a register count")?;
                self.expect('>')?;
                // ptxas itself gives up long before this.
                let n = u32::try_from(n).ok().filter(|n| *n <= 1 << 20);
                Some(n.ok_or_else(|| pos.err("a register count is at most 1048576"))?)
            } else {
                None
            };
            names.push((name, count));
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(StmtKind::Reg { ty, vector, names })
    }

    fn loc(&mut self) -> Res<Loc> {
        let file = self.int("a file number")?;
        let line = self.int("a line")?;
        let col = self.int("a column")?;
        let mut out = Loc { file, line, col, function: None, inlined_at: None };
        while self.eat(',') {
            match self.ident("`function_name` or `inlined_at`")? {
                "function_name" => {
                    let label = self.ident("a label")?.to_string();
                    let offset = if self.eat('+') { Some(self.int("an offset")?) } else { None };
                    out.function = Some((label, offset));
                }
                "inlined_at" => {
                    let file = self.int("a file number")?;
                    let line = self.int("a line")?;
                    out.inlined_at = Some((file, line, self.int("a column")?));
                }
                other => return Err(self.pos().err(format!("unknown `.loc` attribute `{other}`"))),
            }
        }
        Ok(out)
    }

    fn instr(&mut self, guard: Option<(String, bool)>) -> Res<Instr> {
        let pos = self.pos();
        let base = self.ident("an opcode")?.to_string();
        let mut mods = Vec::new();
        while let Tok::Dot(m) = *self.peek() {
            self.bump();
            mods.push(m.to_string());
        }
        let mut operands = Vec::new();
        if !self.eat(';') {
            loop {
                // Only calls have lists in parentheses; elsewhere a parenthesis starts an expression.
                let at = self.pos();
                operands.push(if base == "call" && self.eat('(') {
                    Operand::List(self.operands(')')?)
                } else {
                    self.operand()?
                });
                if base == "call" && matches!(operands.last(), Some(Operand::Imm(_))) {
                    return Err(
                        at.err("a call takes names and lists in parentheses; put the constant into the list")
                    );
                }
                if !self.eat(',') {
                    break;
                }
            }
            self.expect(';')?;
        }
        Ok(Instr { guard, base, mods, operands, pos })
    }

    fn operand(&mut self) -> Res<Operand> {
        let first = self.operand_single()?;
        if self.eat('|') {
            let second = self.operand_single()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn operands(&mut self, close: char) -> Res<Vec<Operand>> {
        self.deeper()?;
        let out = self.list(close, Self::operand)?;
        self.depth -= 1;
        Ok(out)
    }

    fn operand_single(&mut self) -> Res<Operand> {
        match self.peek().clone() {
            Tok::Punct('{') => {
                self.bump();
                Ok(Operand::Vector(self.operands('}')?))
            }
            Tok::Punct('[') => {
                self.bump();
                self.address()
            }
            Tok::Punct('!') if matches!(self.peek_at(1), Tok::Ident(_)) => {
                self.bump();
                let name = self.ident("a predicate register")?.to_string();
                Ok(Operand::Not(Box::new(Operand::Name(name))))
            }
            Tok::Ident("_") => {
                self.bump();
                Ok(Operand::Sink)
            }
            // A name with a constant added is its address moved on.
            Tok::Ident(name) if *self.peek_at(1) != Tok::Punct('+') => {
                self.bump();
                if let Tok::Dot(field) = *self.peek() {
                    self.bump();
                    return Ok(Operand::Field(name.to_string(), field.to_string()));
                }
                Ok(Operand::Name(name.to_string()))
            }
            first => {
                let pos = self.pos();
                let e = self.expr()?;
                // As ptxas has it: else `(a) | b` would be read as a constant, and its text as a pair of registers.
                let ok = if matches!(first, Tok::Ident(_)) { is_name_plus(&e) } else { is_literal(&e) };
                if !ok {
                    return Err(pos.err(
                        "the constants of an instruction have no names in them, but for `name + constant`",
                    ));
                }
                Ok(Operand::Imm(e))
            }
        }
    }

    fn address(&mut self) -> Res<Operand> {
        let base = match *self.peek() {
            Tok::Ident(name) => {
                self.bump();
                Some(name.to_string())
            }
            _ => None,
        };
        let mut offset = 0i64;
        if base.is_none() {
            offset = self.signed_sum(true)?;
        } else if *self.peek() == Tok::Punct('+') || *self.peek() == Tok::Punct('-') {
            offset = self.signed_sum(false)?;
        }
        let address = Operand::Address(Address { base, offset });
        if self.eat(',') {
            self.deeper()?;
            let mut list = vec![address];
            list.extend(self.list_items(']', Self::operand)?);
            self.depth -= 1;
            return Ok(Operand::AddressList(list));
        }
        self.expect(']')?;
        Ok(address)
    }

    /// `+ 4`, `+-8`, `- 3 + 2`: the signed sum after a base, or a bare absolute address.
    fn signed_sum(&mut self, mut bare: bool) -> Res<i64> {
        let mut sum = 0i64;
        loop {
            let mut sign = 1i64;
            let mut any = false;
            loop {
                if self.eat('+') {
                    any = true;
                } else if self.eat('-') {
                    any = true;
                    sign = -sign;
                } else {
                    break;
                }
            }
            if !any && !bare {
                return Ok(sum);
            }
            bare = false;
            let v = self.int("a byte offset")?;
            sum = sum.wrapping_add((v as i64).wrapping_mul(sign));
        }
    }

    // ---- constant expressions ----

    pub(super) fn expr(&mut self) -> Res<Expr> {
        self.deeper()?;
        let cond = self.binary(0)?;
        let out = if self.eat('?') {
            let a = self.expr()?;
            self.expect(':')?;
            let b = self.expr()?;
            let select = Expr::Select(Box::new(cond), Box::new(a), Box::new(b));
            self.check_height(&select)?;
            select
        } else {
            cond
        };
        self.depth -= 1;
        Ok(out)
    }

    /// A flat sum makes a tree as high as it is long, which later passes walk recursively.
    fn check_height(&self, e: &Expr) -> Res<()> {
        if height(e) > MAX_HEIGHT {
            return Err(self.pos().err(format!("an expression of more than {MAX_HEIGHT} levels")));
        }
        Ok(())
    }

    fn binary(&mut self, min: u8) -> Res<Expr> {
        let mut left = self.unary()?;
        loop {
            let op: String = match self.peek() {
                Tok::Punct(c @ ('+' | '-' | '*' | '/' | '%' | '&' | '|' | '^' | '<' | '>')) => c.to_string(),
                Tok::Op(s) => (*s).to_string(),
                _ => return Ok(left),
            };
            let prec = precedence(&op);
            if prec < min {
                return Ok(left);
            }
            self.bump();
            self.deeper()?;
            let right = self.binary(prec + 1)?;
            self.depth -= 1;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
            self.check_height(&left)?;
        }
    }

    fn unary(&mut self) -> Res<Expr> {
        let pos = self.pos();
        match self.peek().clone() {
            Tok::Punct(c @ ('-' | '+' | '~' | '!')) => {
                self.bump();
                self.deeper()?;
                let inner = self.unary()?;
                self.depth -= 1;
                let unary = Expr::Unary(c, Box::new(inner));
                self.check_height(&unary)?;
                Ok(unary)
            }
            Tok::Punct('(') => {
                self.bump();
                // `(.s64)expr` and `(.u64)expr` are casts between 64-bit types; bits do not change.
                if let Tok::Dot("s64" | "u64") = *self.peek() {
                    self.bump();
                    self.expect(')')?;
                    self.deeper()?;
                    let inner = self.unary();
                    self.depth -= 1;
                    return inner;
                }
                let inner = self.expr()?;
                self.expect(')')?;
                Ok(inner)
            }
            Tok::Int(v, u) => {
                self.bump();
                if *self.peek() == Tok::Punct('(') {
                    self.bump();
                    let inner = self.expr()?;
                    self.expect(')')?;
                    let mask = Expr::Mask(v, Box::new(inner));
                    self.check_height(&mask)?;
                    return Ok(mask);
                }
                Ok(Expr::Int(v, u))
            }
            Tok::F32(b) => {
                self.bump();
                Ok(Expr::F32(b))
            }
            Tok::F64(b) => {
                self.bump();
                Ok(Expr::F64(b))
            }
            Tok::Ident("generic") if *self.peek_at(1) == Tok::Punct('(') => {
                self.bump();
                self.bump();
                let inner = self.expr()?;
                self.expect(')')?;
                Ok(Expr::Generic(Box::new(inner)))
            }
            Tok::Ident(name) => {
                self.bump();
                Ok(Expr::Sym(name.to_string()))
            }
            other => Err(pos.err(format!("expected an operand, found {}", other.describe()))),
        }
    }
}

fn precedence(op: &str) -> u8 {
    match op {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | ">" | "<=" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        _ => 10,
    }
}

/// Whether `e` is made of numbers alone.
fn is_literal(e: &Expr) -> bool {
    match e {
        Expr::Int(..) | Expr::F32(_) | Expr::F64(_) => true,
        Expr::Sym(_) | Expr::Generic(_) | Expr::Mask(..) => false,
        Expr::Unary(_, a) => is_literal(a),
        Expr::Binary(_, a, b) => is_literal(a) && is_literal(b),
        Expr::Select(c, a, b) => is_literal(c) && is_literal(a) && is_literal(b),
    }
}

/// Whether `e` is a name to which constants are added.
fn is_name_plus(e: &Expr) -> bool {
    match e {
        Expr::Sym(_) => true,
        Expr::Binary(op, a, b) => op == "+" && is_name_plus(a) && is_literal(b),
        _ => false,
    }
}

fn height(e: &Expr) -> u32 {
    1 + match e {
        Expr::Generic(a) | Expr::Mask(_, a) | Expr::Unary(_, a) => height(a),
        Expr::Binary(_, a, b) => height(a).max(height(b)),
        Expr::Select(c, a, b) => height(c).max(height(a)).max(height(b)),
        _ => 0,
    }
}
