//! The words of one op: name, attributes, operands.

use super::cursor::Cursor;
use super::{Names, Result};
use crate::ir::op::*;
use crate::ir::types::Dtype;
use smallvec::SmallVec;

/// A constant whose element type comes later.
pub(super) struct Literal<'t> {
    text: &'t str,
    pos: usize,
}

impl Literal<'_> {
    /// The constant op.
    pub(super) fn typed(self, cursor: &mut Cursor<'_>, dtype: Dtype) -> Result<Op> {
        match Const::parse(self.text, dtype) {
            Some(value) => Ok(Op::Constant(value)),
            None => cursor.error_at(self.pos, format!("`{}` is no constant of `{dtype}`", self.text)),
        }
    }
}

impl Const {
    /// Reads a constant of an element type. Integers are kept as written, so that the verifier can say what does not fit; decimals
    /// are rounded to the type, and `0x` with the bits of an `f64` is taken as it is.
    pub fn parse(text: &str, dtype: Dtype) -> Option<Const> {
        if dtype.is_float() {
            return match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok().map(Const::Float),
                None if text == "nan" => Some(Const::float(f64::NAN)),
                None => text.parse().ok().map(|x| Const::float(x).rounded(dtype)),
            };
        }
        match text {
            "true" => Some(Const::Int(1)),
            "false" => Some(Const::Int(0)),
            _ => text.parse().ok().map(Const::Int),
        }
    }
}

/// Parses an op up to its result types. A constant comes back as its literal.
pub(super) fn parse<'t>(c: &mut Cursor<'t>) -> Result<(Op, Option<Literal<'t>>, Names<'t>)> {
    c.skip();
    let start = c.pos();
    let word = c.word("an op or `}`")?;
    if word == "constant" {
        let (text, pos) = c.number_text()?;
        let operands = values(c)?;
        return Ok((Op::Constant(Const::Int(0)), Some(Literal { text, pos }), operands));
    }
    match attributed(c, word)? {
        Some((op, operands)) => Ok((op, None, operands)),
        None => c.error_at(start, format!("there is no op `{word}`")),
    }
}

/// The ops with attributes or a form of their own; the others are a name and operands.
fn attributed<'t>(c: &mut Cursor<'t>, word: &str) -> Result<Option<(Op, Names<'t>)>> {
    if let Some(op) = plain(word) {
        return Ok(Some((op, values(c)?)));
    }
    Ok(Some(match word {
        "program_id" => (Op::ProgramId(axis_word(c)?), values(c)?),
        "num_programs" => (Op::NumPrograms(axis_word(c)?), values(c)?),
        "cmp" => (Op::Cmp(named(c, "a comparison", CmpOp::ALL, CmpOp::name)?), values(c)?),
        "transpose" => {
            let operands = values(c)?;
            (Op::Transpose { perm: perm(c)? }, operands)
        }
        "expand_dims" => {
            let operands = values(c)?;
            (Op::ExpandDims { axis: axis(c)? }, operands)
        }
        "gather" => {
            let operands = values(c)?;
            (Op::Gather { axis: axis(c)? }, operands)
        }
        "reduce" | "scan" => {
            let combine = match c.peek_word() {
                Some("axis") | None => Combine::Region,
                Some(_) => Combine::Kind(named(c, "a way to combine", CombineKind::ALL, CombineKind::name)?),
            };
            let operands = values(c)?;
            let axis = axis(c)?;
            if word == "reduce" {
                (Op::Reduce { axis, combine }, operands)
            } else {
                (Op::Scan { axis, reverse: c.eat_word("reverse"), combine }, operands)
            }
        }
        "load" => {
            let mut masked = c.eat_word("masked");
            let mut other = c.eat_word("with_other");
            let mut operands = Names::new();
            if !generic(c, &mut operands)? {
                address(c, &mut operands)?;
                masked = keyed(c, "mask", &mut operands)?;
                other = keyed(c, "other", &mut operands)?;
            }
            (Op::Load { masked, other, cache: cache(c)? }, operands)
        }
        "store" => {
            let (masked, operands) = addressed(c)?;
            (Op::Store { masked, cache: cache(c)? }, operands)
        }
        "atomic_rmw" => {
            let op = named(c, "an atomic operation", AtomicOp::ALL, AtomicOp::name)?;
            let (order, scope) = order_and_scope(c)?;
            let (masked, operands) = addressed(c)?;
            (Op::AtomicRmw { op, order, scope, masked }, operands)
        }
        "atomic_cas" => {
            let (order, scope) = order_and_scope(c)?;
            (Op::AtomicCas { order, scope }, addressed(c)?.1)
        }
        "async_copy" => {
            let mut masked = c.eat_word("masked");
            let mut operands = Names::new();
            if !generic(c, &mut operands)? {
                address(c, &mut operands)?;
                c.expect(',')?;
                address(c, &mut operands)?;
                masked = keyed(c, "mask", &mut operands)?;
            }
            (Op::AsyncCopy { masked, cache: cache(c)? }, operands)
        }
        "local_load" => (Op::LocalLoad, addressed(c)?.1),
        "local_store" => (Op::LocalStore, addressed(c)?.1),
        "async_wait" => (Op::AsyncWait { pending: c.integer("a number of groups")? }, values(c)?),
        "assert" => {
            let operands = values(c)?;
            (Op::Assert { message: c.string("the message in quotes")? }, operands)
        }
        "print" => (Op::Print { prefix: c.string("the prefix in quotes")? }, values(c)?),
        "inline_ptx" => {
            let asm = c.string("the instructions in quotes")?;
            let constraints = c.string("the constraints in quotes")?;
            (Op::InlinePtx { asm, constraints }, values(c)?)
        }
        "for" => {
            let mut operands = Names::new();
            if !generic(c, &mut operands)? {
                operands.push(c.value()?);
                c.expect_word("to")?;
                operands.push(c.value()?);
                c.expect_word("step")?;
                operands.push(c.value()?);
                carried(c, &mut operands)?;
            }
            let stages = if c.eat_word("stages") { c.integer("a number of stages")? } else { 1 };
            (Op::For { stages }, operands)
        }
        "while" => {
            let mut operands = Names::new();
            carried(c, &mut operands)?;
            (Op::While, operands)
        }
        _ => return Ok(None),
    }))
}

/// The op of a name without attributes.
fn plain(word: &str) -> Option<Op> {
    Some(match word {
        "iota" => Op::Iota,
        "splat" => Op::Splat,
        "fma" => Op::Fma,
        "select" => Op::Select,
        "cast" => Op::Cast,
        "bitcast" => Op::Bitcast,
        "reshape" => Op::Reshape,
        "broadcast" => Op::Broadcast,
        "join" => Op::Join,
        "split" => Op::Split,
        "dot" => Op::Dot,
        "ptr_cast" => Op::PtrCast,
        "ptr_add" => Op::PtrAdd,
        "pack" => Op::Pack,
        "unpack" => Op::Unpack,
        "quantize" => Op::Quantize,
        "dequantize" => Op::Dequantize,
        "if" => Op::If,
        "yield" => Op::Yield,
        "return" => Op::Return,
        "convert_layout" => Op::ConvertLayout,
        "local_alloc" => Op::LocalAlloc,
        "async_commit" => Op::AsyncCommit,
        "barrier" => Op::Barrier,
        _ => return UnaryOp::from_name(word).map(Op::Unary).or(BinaryOp::from_name(word).map(Op::Binary)),
    })
}

/// `%a, %b`; none if the next sign is no `%`.
///
/// A line such as `yield` followed by one that starts with `%5 =` would be ambiguous, so operands
/// stand on the op's line.
fn values<'t>(c: &mut Cursor<'t>) -> Result<Names<'t>> {
    let mut out = Names::new();
    if c.value_on_line() {
        list(c, &mut out)?;
    }
    Ok(out)
}

fn list<'t>(c: &mut Cursor<'t>, out: &mut Names<'t>) -> Result<()> {
    out.push(c.value()?);
    while c.eat(',') {
        out.push(c.value()?);
    }
    Ok(())
}

/// `(%a, %b)`: the operands of an op whose count is wrong. Whether it stood there.
fn generic<'t>(c: &mut Cursor<'t>, out: &mut Names<'t>) -> Result<bool> {
    if !c.eat('(') {
        return Ok(false);
    }
    if !c.eat(')') {
        list(c, out)?;
        c.expect(')')?;
    }
    Ok(true)
}

/// `%p[%i]`.
fn address<'t>(c: &mut Cursor<'t>, out: &mut Names<'t>) -> Result<()> {
    out.push(c.value()?);
    c.expect('[')?;
    out.push(c.value()?);
    c.expect(']')
}

/// `%p[%i], %v.. mask %m`, and whether there is a mask.
fn addressed<'t>(c: &mut Cursor<'t>) -> Result<(bool, Names<'t>)> {
    let masked = c.eat_word("masked");
    let mut out = Names::new();
    if generic(c, &mut out)? {
        return Ok((masked, out));
    }
    address(c, &mut out)?;
    while c.eat(',') {
        out.push(c.value()?);
    }
    let masked = keyed(c, "mask", &mut out)?;
    Ok((masked, out))
}

/// `word %v`, if it stands there.
fn keyed<'t>(c: &mut Cursor<'t>, word: &str, out: &mut Names<'t>) -> Result<bool> {
    let there = c.eat_word(word);
    if there {
        out.push(c.value()?);
    }
    Ok(there)
}

fn carried<'t>(c: &mut Cursor<'t>, out: &mut Names<'t>) -> Result<()> {
    if c.eat_word("carry") { list(c, out) } else { Ok(()) }
}

/// One of an enum's names.
fn named<T: Copy>(c: &mut Cursor<'_>, what: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T> {
    let found = c.peek_word().and_then(|word| all.iter().copied().find(|&item| name(item) == word));
    match found {
        Some(item) => {
            c.expect_word(name(item))?;
            Ok(item)
        }
        None => {
            let names: Vec<&str> = all.iter().map(|&item| name(item)).collect();
            c.expected(&format!("{what} ({})", names.join(", ")))
        }
    }
}

fn axis_word(c: &mut Cursor<'_>) -> Result<Axis> {
    named(c, "a grid axis", &[Axis::X, Axis::Y, Axis::Z], crate::ir::print::axis_name)
}

fn axis(c: &mut Cursor<'_>) -> Result<u8> {
    c.expect_word("axis")?;
    c.integer("an axis")
}

fn cache(c: &mut Cursor<'_>) -> Result<CacheHint> {
    if c.eat_word("cache") {
        named(c, "a cache hint", CacheHint::ALL, CacheHint::name)
    } else {
        Ok(CacheHint::Default)
    }
}

fn order_and_scope(c: &mut Cursor<'_>) -> Result<(MemOrder, MemScope)> {
    Ok((
        named(c, "a memory order", MemOrder::ALL, MemOrder::name)?,
        named(c, "a memory scope", MemScope::ALL, MemScope::name)?,
    ))
}

/// `perm [1, 0]`.
fn perm(c: &mut Cursor<'_>) -> Result<SmallVec<[u8; 4]>> {
    c.expect_word("perm")?;
    c.expect('[')?;
    let mut out = SmallVec::new();
    while !c.eat(']') {
        out.push(c.integer("a dimension")?);
        if !c.eat(',') {
            c.expect(']')?;
            break;
        }
    }
    Ok(out)
}
