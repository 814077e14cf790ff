//! Parses the textual form (see [`print`](super::print)).
//!
//! The parser checks the form alone: names, numbers, braces. Whether the function makes sense is the business of
//! [`verify`](super::verify()), so a text can hold a wrong function. Values may be named by words (`%acc`), regions nest at most
//! [`MAX_DEPTH`] deep, and an op without `loc(..)` gets its place in the text.

mod cursor;
mod op;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::entity::{Block, Inst, Value};
use super::func::{Access, Func, Param};
use super::loc::Loc;
use super::types::{Dtype, Shape, Type};
use crate::diag::Diagnostic;
use cursor::Cursor;
use smallvec::SmallVec;

/// How deep regions may nest in a text.
pub const MAX_DEPTH: usize = 100;

type Result<T> = std::result::Result<T, Diagnostic>;

/// Parses a text with exactly one kernel. `file` is the name in locations and messages.
///
/// # Errors
/// A diagnostic with the place of the first mistake.
pub fn parse(file: &str, text: &str) -> Result<Func> {
    let mut all = parse_all(file, text)?;
    match (all.len(), all.pop()) {
        (1, Some(func)) => Ok(func),
        (count, _) => Err(Diagnostic::error(
            "K0302",
            Loc::new(file, 1, 1),
            format!("expected one kernel in the text, found {count}"),
        )),
    }
}

/// Parses a text with any number of kernels.
///
/// # Errors
/// A diagnostic with the place of the first mistake.
pub fn parse_all(file: &str, text: &str) -> Result<Vec<Func>> {
    let mut cursor = Cursor::new(file, text);
    let mut out = Vec::new();
    while !cursor.at_end() {
        out.push(Parser::kernel(&mut cursor)?);
    }
    Ok(out)
}

/// Operands of an op as they were written: resolved at the end, so that a use before its definition can be told.
type Names<'t> = SmallVec<[(&'t str, usize); 4]>;

struct Parser<'c, 't> {
    cursor: &'c mut Cursor<'t>,
    func: Func,
    values: BTreeMap<&'t str, Value>,
    uses: Vec<(Inst, Names<'t>)>,
}

impl<'c, 't> Parser<'c, 't> {
    fn kernel(cursor: &'c mut Cursor<'t>) -> Result<Func> {
        let start = cursor.here();
        cursor.expect_word("kernel")?;
        cursor.expect('@')?;
        let name = name(cursor, "the kernel's name")?;
        cursor.expect('(')?;
        let mut names = Vec::new();
        let mut params = Vec::new();
        while !cursor.eat(')') {
            names.push(cursor.value()?);
            params.push(param(cursor)?);
            if !cursor.eat(',') {
                cursor.expect(')')?;
                break;
            }
        }
        let func = Func::new(name, params, start);
        let mut parser = Parser { cursor, func, values: BTreeMap::new(), uses: Vec::new() };
        for (i, name) in names.into_iter().enumerate() {
            parser.define(name, parser.func.param_values()[i])?;
        }
        parser.attributes()?;
        parser.cursor.expect('{')?;
        let entry = parser.func.entry();
        parser.block(entry, 0)?;
        parser.resolve()?;
        Ok(parser.func)
    }

    fn attributes(&mut self) -> Result<()> {
        loop {
            match self.cursor.peek_word() {
                Some("num_warps") => {
                    self.cursor.expect_word("num_warps")?;
                    self.func.num_warps = self.cursor.integer("the number of warps")?;
                }
                Some("resident") => {
                    self.cursor.expect_word("resident")?;
                    self.func.resident = self.cursor.integer("the number of programs")?;
                }
                Some("spec") => {
                    self.cursor.expect_word("spec")?;
                    self.func.spec = self.cursor.string("the specialisation in quotes")?;
                }
                Some("loc") => self.func.loc = self.loc()?,
                Some(_) => return self.cursor.expected("`num_warps`, `resident`, `spec`, `loc` or `{`"),
                None => return Ok(()),
            }
        }
    }

    fn define(&mut self, (name, pos): (&'t str, usize), value: Value) -> Result<()> {
        if self.values.insert(name, value).is_some() {
            return self.cursor.error_at(pos, format!("the value `%{name}` is defined a second time"));
        }
        Ok(())
    }

    /// Gives every op its operands.
    fn resolve(&mut self) -> Result<()> {
        for (inst, names) in std::mem::take(&mut self.uses) {
            for (name, pos) in names {
                match self.values.get(name) {
                    Some(&value) => self.func.inst_mut(inst).operands.push(value),
                    None => return self.cursor.error_at(pos, format!("there is no value `%{name}`")),
                }
            }
        }
        Ok(())
    }

    /// The ops up to the closing brace, which is taken.
    fn block(&mut self, block: Block, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let pos = self.cursor.pos();
            return self.cursor.error_at(pos, format!("regions nest more than {MAX_DEPTH} deep"));
        }
        while !self.cursor.eat('}') {
            self.inst(block, depth)?;
        }
        Ok(())
    }

    fn inst(&mut self, block: Block, depth: usize) -> Result<()> {
        let place = self.cursor.here();
        let mut results = Names::new();
        if self.cursor.at('%') {
            results.push(self.cursor.value()?);
            while self.cursor.eat(',') {
                results.push(self.cursor.value()?);
            }
            self.cursor.expect('=')?;
        }
        let (op, literal, operands) = op::parse(self.cursor)?;
        let mut types = Vec::new();
        let colon = self.cursor.end();
        if self.cursor.eat(':') {
            types.push(ty(self.cursor)?);
            while self.cursor.eat(',') {
                types.push(ty(self.cursor)?);
            }
        }
        if types.len() != results.len() {
            let message =
                format!("`{}` names {} results but {} result types", op.name(), results.len(), types.len());
            return self.cursor.error_at(colon, message);
        }
        let op = match literal {
            Some(literal) => literal.typed(self.cursor, types.first().map_or(Dtype::I64, Type::dtype))?,
            None => op,
        };
        let inst = self.func.make_inst(op, &[], &types, &[], place);
        self.func.append(block, inst);
        self.uses.push((inst, operands));
        for (i, name) in results.into_iter().enumerate() {
            let value = self.func.inst(inst).results[i];
            self.define(name, value)?;
        }
        self.regions(inst, depth)?;
        if self.cursor.peek_word() == Some("loc") {
            self.func.inst_mut(inst).loc = self.loc()?;
        }
        Ok(())
    }

    fn regions(&mut self, inst: Inst, depth: usize) -> Result<()> {
        loop {
            if matches!(self.cursor.peek_word(), Some("else" | "do")) {
                self.cursor.word("a region")?;
                self.cursor.expect('{')?;
            } else if !self.cursor.eat('{') {
                return Ok(());
            }
            let block = self.func.new_block();
            self.func.inst_mut(inst).regions.push(block);
            if self.cursor.eat('|') {
                while !self.cursor.eat('|') {
                    let name = self.cursor.value()?;
                    self.cursor.expect(':')?;
                    let ty = ty(self.cursor)?;
                    let value = self.func.add_block_param(block, ty);
                    self.define(name, value)?;
                    if !self.cursor.eat(',') {
                        self.cursor.expect('|')?;
                        break;
                    }
                }
            }
            self.block(block, depth + 1)?;
        }
    }

    /// `loc("file":1:2)` or `loc(?)`.
    fn loc(&mut self) -> Result<Loc> {
        let cursor = &mut *self.cursor;
        cursor.expect_word("loc")?;
        cursor.expect('(')?;
        let loc = if cursor.eat('?') {
            Loc::unknown()
        } else {
            let file = cursor.string("a file name in quotes")?;
            cursor.expect(':')?;
            let line = cursor.integer("a line")?;
            cursor.expect(':')?;
            let col = cursor.integer("a column")?;
            Loc::new(&file, line, col)
        };
        cursor.expect(')')?;
        Ok(loc)
    }
}

/// A bare or quoted name.
fn name(cursor: &mut Cursor<'_>, what: &str) -> Result<String> {
    if cursor.at('"') { cursor.string(what) } else { Ok(cursor.word(what)?.to_owned()) }
}

/// `x: ptr<f32> read multiple_of 16`.
fn param(cursor: &mut Cursor<'_>) -> Result<Param> {
    let name = name(cursor, "the parameter's name")?;
    cursor.expect(':')?;
    let mut param = Param::new(name, ty(cursor)?, Access::Read);
    while let Some(word) = cursor.peek_word() {
        param.access = match word {
            "read" => Access::Read,
            "write" => Access::Write,
            "read_write" => Access::ReadWrite,
            "multiple_of" => {
                cursor.word(word)?;
                param.multiple_of = cursor.integer("a multiple")?;
                continue;
            }
            _ => return cursor.expected("`read`, `write`, `read_write` or `multiple_of`"),
        };
        cursor.word(word)?;
    }
    Ok(param)
}

/// A type as it prints.
fn ty(cursor: &mut Cursor<'_>) -> Result<Type> {
    cursor.skip();
    let start = cursor.pos();
    let word = cursor.word("a type")?;
    if !matches!(word, "tile" | "ptr" | "shared") || !cursor.eat('<') {
        return Ok(Type::scalar(dtype(cursor, word, start)?));
    }
    let (inner, at) = cursor.until_angle()?;
    match word {
        "ptr" => Ok(Type::ptr(dtype(cursor, inner.trim(), at)?)),
        "tile" => {
            let (dtype, shape) = shaped(cursor, inner, at)?;
            Ok(Type::Tile { dtype, shape })
        }
        _ => {
            let stages = inner.split_once(',').and_then(|(n, rest)| Some((n.trim().parse().ok()?, rest)));
            let Some((stages, rest)) = stages else {
                return cursor.error_at(at, "shared memory is written `shared<2, 64x64xf16>`");
            };
            let (dtype, shape) = shaped(cursor, rest, at)?;
            Ok(Type::Shared { dtype, shape, stages })
        }
    }
}

/// `64x32xf16`.
fn shaped(cursor: &mut Cursor<'_>, text: &str, at: usize) -> Result<(Dtype, Shape)> {
    let parts: Vec<&str> = text.trim().split('x').collect();
    let (last, extents) = parts.split_last().expect("splitting gives at least one part");
    let mut shape = SmallVec::<[u32; 4]>::new();
    for extent in extents {
        match extent.parse() {
            Ok(extent) => shape.push(extent),
            Err(_) => {
                return cursor.error_at(at, format!("`{}` is no shape; write `16x128xf32`", text.trim()));
            }
        }
    }
    if shape.is_empty() {
        return cursor
            .error_at(at, format!("a tile has extents: `tile<16x{last}>`; a scalar is just `{last}`"));
    }
    Ok((dtype(cursor, last, at)?, Shape::new(&shape)))
}

fn dtype(cursor: &mut Cursor<'_>, text: &str, at: usize) -> Result<Dtype> {
    text.parse().or_else(|e: super::UnknownDtype| cursor.error_at(at, e.to_string()))
}
