//! The textual form of a function.
//!
//! ```text
//! kernel @scale(%0 x: ptr<f32> read multiple_of 16, %1 out: ptr<f32> write, %2 n: i32) num_warps 4 spec "block=64" {
//!   %3 = program_id x : i32
//!   %4 = constant 64 : i32
//!   %5 = mul %3, %4 : i32
//!   %6 = splat %5 : tile<64xi32>
//!   %7 = iota : tile<64xi32>
//!   %8 = add %6, %7 : tile<64xi32>
//!   %9 = splat %2 : tile<64xi32>
//!   %10 = cmp lt %8, %9 : tile<64xi1>
//!   %11 = load %0[%8] mask %10 : tile<64xf32>
//!   %12 = add %11, %11 : tile<64xf32>
//!   store %1[%8], %12 mask %10
//!   return
//! }
//! ```
//!
//! * One op a line: results, name, attributes and operands, `:` and the result types, regions in braces. A region's
//!   parameters stand between bars: `{ |%4: i32, %5: f32|`.
//! * Locations are printed only when asked for: ` loc("kernel.rs":12:5)` at the end of the op.
//! * [`parse`](super::parse()) reads it back: printing, parsing and printing again gives the same text. Operands of an op whose count is wrong are
//!   printed in parentheses, so a broken function has a text too.

use std::fmt::{self, Write};

use super::entity::{Block, Inst, Value};
use super::func::{Access, Func, Param};
use super::loc::Loc;
use super::op::{Axis, CacheHint, Combine, Const, Op};
use super::types::Dtype;

/// The widest header that stands on one line.
const HEADER_WIDTH: usize = 110;

/// What text to put behind an op as a comment, if any.
pub type Annotate<'a> = &'a dyn Fn(&Func, Inst) -> Option<String>;

/// How to print a function.
#[derive(Clone, Copy, Default)]
pub struct Print<'a> {
    /// Print the location of each op.
    pub locs: bool,
    /// Keep the arenas' own numbers. Without it the function is compacted first, so that numbers do not depend on what passes removed.
    pub raw: bool,
    /// A comment for an op, asked for with the numbers that are printed.
    pub annotate: Option<Annotate<'a>>,
}

impl fmt::Debug for Print<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Print").field("locs", &self.locs).field("raw", &self.raw).finish_non_exhaustive()
    }
}

impl Print<'_> {
    /// The function's text.
    pub fn func(&self, func: &Func) -> String {
        let compacted;
        let func = if self.raw {
            func
        } else {
            compacted = func.compact();
            &compacted
        };
        let mut printer = Printer { func, options: *self, out: String::new() };
        // Writing to a string does not fail.
        let _ = printer.kernel();
        printer.out
    }
}

/// The compacted function without locations.
impl fmt::Display for Func {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Print::default().func(self))
    }
}

impl Const {
    /// The constant in IR text: `true`, `-3`, `0.1` (the shortest decimal that rounds to it), `inf`, `nan`. [`Const::parse`] reads it back.
    pub fn text(self, dtype: Dtype) -> String {
        match self {
            Const::Int(value) if dtype == Dtype::I1 && (value == 0 || value == 1) => (value == 1).to_string(),
            Const::Int(value) => value.to_string(),
            Const::Float(bits) => float_text(bits, dtype),
        }
    }
}

/// The shortest decimal that rounds to the value in its element type; bits where there is none.
fn float_text(bits: u64, dtype: Dtype) -> String {
    let value = f64::from_bits(bits);
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if bits == f64::NAN.to_bits() {
        return "nan".into();
    }
    if dtype.is_float() && !value.is_nan() {
        for digits in 0..17 {
            let short: f64 = format!("{value:.digits$e}").parse().unwrap_or(f64::NAN);
            if Const::float(short).rounded(dtype) == Const::Float(bits) {
                return format!("{short:?}");
            }
        }
    }
    format!("{bits:#018x}")
}

/// A string in quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a name needs no quotes.
fn plain_name(name: &str, extra: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || extra.contains(c))
}

fn name_text(name: &str, extra: &str) -> String {
    if plain_name(name, extra) { name.to_owned() } else { quoted(name) }
}

/// An axis as IR text and messages name it.
pub(super) fn axis_name(axis: Axis) -> &'static str {
    match axis {
        Axis::X => "x",
        Axis::Y => "y",
        Axis::Z => "z",
    }
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::ReadWrite => "read_write",
    }
}

struct Printer<'f> {
    func: &'f Func,
    options: Print<'f>,
    out: String,
}

impl Printer<'_> {
    fn kernel(&mut self) -> fmt::Result {
        let func = self.func;
        let params: Vec<String> = func
            .param_values()
            .iter()
            .zip(&func.params)
            .map(|(value, param)| param_text(*value, param))
            .collect();
        let mut tail = format!("num_warps {}", func.num_warps);
        if func.resident > 0 {
            write!(tail, " resident {}", func.resident)?;
        }
        if !func.spec.is_empty() {
            write!(tail, " spec {}", quoted(&func.spec))?;
        }
        if self.options.locs {
            tail += &loc_text(func.loc);
        }
        let name = name_text(&func.name, "");
        let line = format!("kernel @{name}({}) {tail} {{", params.join(", "));
        if line.len() <= HEADER_WIDTH || params.is_empty() {
            writeln!(self.out, "{line}")?;
        } else {
            writeln!(self.out, "kernel @{name}(\n    {},\n) {tail} {{", params.join(",\n    "))?;
        }
        self.block(func.entry(), 1)?;
        writeln!(self.out, "}}")
    }

    fn block(&mut self, block: Block, depth: usize) -> fmt::Result {
        for &inst in &self.func.block(block).insts {
            write!(self.out, "{:1$}", "", depth * 2)?;
            self.inst(inst, depth)?;
            self.out.push('\n');
        }
        Ok(())
    }

    fn inst(&mut self, inst: Inst, depth: usize) -> fmt::Result {
        let data = self.func.inst(inst);
        if !data.results.is_empty() {
            write!(self.out, "{} = ", list(&data.results))?;
        }
        self.op(inst)?;
        if !data.results.is_empty() {
            let types: Vec<String> = data.results.iter().map(|&r| self.func.ty(r).to_string()).collect();
            write!(self.out, " : {}", types.join(", "))?;
        }
        // The comment of an op with regions stands on its first line, its location on the last.
        let note = self.options.annotate.and_then(|annotate| annotate(self.func, inst));
        for (i, &region) in data.regions.iter().enumerate() {
            match (&data.op, i) {
                (_, 0) => self.out.push_str(" {"),
                (Op::While, _) => self.out.push_str(" do {"),
                _ => self.out.push_str(" else {"),
            }
            let params = &self.func.block(region).params;
            if !params.is_empty() {
                let params: Vec<String> =
                    params.iter().map(|&p| format!("{p}: {}", self.func.ty(p))).collect();
                write!(self.out, " |{}|", params.join(", "))?;
            }
            if let (Some(note), 0) = (&note, i) {
                self.note(note)?;
            }
            self.out.push('\n');
            self.block(region, depth + 1)?;
            write!(self.out, "{:1$}}}", "", depth * 2)?;
        }
        if self.options.locs {
            self.out += &loc_text(data.loc);
        }
        if let (Some(note), true) = (&note, data.regions.is_empty()) {
            self.note(note)?;
        }
        Ok(())
    }

    fn note(&mut self, note: &str) -> fmt::Result {
        write!(self.out, " ; {}", note.replace('\n', " "))
    }

    /// The op's name with its attributes and operands.
    fn op(&mut self, inst: Inst) -> fmt::Result {
        let data = self.func.inst(inst);
        let op = &data.op;
        let v: &[Value] = &data.operands;
        let out = &mut self.out;
        out.push_str(op.name());
        match op {
            Op::ProgramId(axis) | Op::NumPrograms(axis) => {
                write!(out, " {}", axis_name(*axis))?;
                spaced(out, v)
            }
            Op::Constant(value) => {
                let dtype = data.results.first().map_or(Dtype::I64, |&r| self.func.ty(r).dtype());
                write!(out, " {}", value.text(dtype))?;
                spaced(out, v)
            }
            Op::Cmp(cmp) => {
                write!(out, " {cmp}")?;
                spaced(out, v)
            }
            Op::Transpose { perm } => {
                spaced(out, v)?;
                let perm: Vec<String> = perm.iter().map(u8::to_string).collect();
                write!(out, " perm [{}]", perm.join(", "))
            }
            Op::ExpandDims { axis } | Op::Gather { axis } => {
                spaced(out, v)?;
                write!(out, " axis {axis}")
            }
            Op::Reduce { axis, combine } => reduction(out, v, *axis, combine, false),
            Op::Scan { axis, reverse, combine } => reduction(out, v, *axis, combine, *reverse),
            Op::Load { masked, other, cache } => {
                if v.len() == 2 + usize::from(*masked) + usize::from(*other) {
                    write!(out, " {}[{}]", v[0], v[1])?;
                    optional(out, "mask", *masked, v.get(2))?;
                    optional(out, "other", *other, v.last())?;
                } else {
                    flag(out, *masked, " masked");
                    flag(out, *other, " with_other");
                    generic(out, v)?;
                }
                hint(out, *cache)
            }
            Op::Store { masked, cache } => {
                addressed(out, v, 3, *masked)?;
                hint(out, *cache)
            }
            Op::AtomicRmw { op, order, scope, masked } => {
                write!(out, " {op} {order} {scope}")?;
                addressed(out, v, 3, *masked)
            }
            Op::AtomicCas { order, scope } => {
                write!(out, " {order} {scope}")?;
                addressed(out, v, 4, false)
            }
            Op::AsyncCopy { masked, cache } => {
                if v.len() == 4 + usize::from(*masked) {
                    write!(out, " {}[{}], {}[{}]", v[0], v[1], v[2], v[3])?;
                    optional(out, "mask", *masked, v.last())?;
                } else {
                    flag(out, *masked, " masked");
                    generic(out, v)?;
                }
                hint(out, *cache)
            }
            Op::LocalLoad => addressed(out, v, 2, false),
            Op::LocalStore => addressed(out, v, 3, false),
            Op::AsyncWait { pending } => {
                write!(out, " {pending}")?;
                spaced(out, v)
            }
            Op::Assert { message } => {
                spaced(out, v)?;
                write!(out, " {}", quoted(message))
            }
            Op::Print { prefix } => {
                write!(out, " {}", quoted(prefix))?;
                spaced(out, v)
            }
            Op::InlinePtx { asm, constraints } => {
                write!(out, " {} {}", quoted(asm), quoted(constraints))?;
                spaced(out, v)
            }
            Op::For { stages } => {
                if let [lower, upper, step, inits @ ..] = v {
                    write!(out, " {lower} to {upper} step {step}")?;
                    carried(out, inits)?;
                } else {
                    generic(out, v)?;
                }
                if *stages != 1 {
                    write!(out, " stages {stages}")?;
                }
                Ok(())
            }
            Op::While => carried(out, v),
            _ => spaced(out, v),
        }
    }
}

fn param_text(value: Value, param: &Param) -> String {
    let mut out = format!("{value} {}: {}", name_text(&param.name, "."), param.ty);
    if param.ty.is_ptr() || param.access != Access::Read {
        out += " ";
        out += access_name(param.access);
    }
    if param.multiple_of != 1 {
        out += &format!(" multiple_of {}", param.multiple_of);
    }
    out
}

fn loc_text(loc: Loc) -> String {
    if loc.is_unknown() {
        " loc(?)".to_owned()
    } else {
        format!(" loc({}:{}:{})", quoted(loc.file()), loc.line(), loc.col())
    }
}

fn list(values: &[Value]) -> String {
    let names: Vec<String> = values.iter().map(Value::to_string).collect();
    names.join(", ")
}

fn spaced(out: &mut String, values: &[Value]) -> fmt::Result {
    if values.is_empty() { Ok(()) } else { write!(out, " {}", list(values)) }
}

fn generic(out: &mut String, values: &[Value]) -> fmt::Result {
    write!(out, " ({})", list(values))
}

fn carried(out: &mut String, values: &[Value]) -> fmt::Result {
    if values.is_empty() { Ok(()) } else { write!(out, " carry {}", list(values)) }
}

fn optional(out: &mut String, word: &str, there: bool, value: Option<&Value>) -> fmt::Result {
    match value {
        Some(value) if there => write!(out, " {word} {value}"),
        _ => Ok(()),
    }
}

fn flag(out: &mut String, there: bool, text: &str) {
    if there {
        out.push_str(text);
    }
}

fn hint(out: &mut String, cache: CacheHint) -> fmt::Result {
    if cache == CacheHint::Default { Ok(()) } else { write!(out, " cache {cache}") }
}

/// `%p[%i], %v.. mask %m` with `count` operands before the mask.
fn addressed(out: &mut String, values: &[Value], count: usize, masked: bool) -> fmt::Result {
    if values.len() != count + usize::from(masked) {
        flag(out, masked, " masked");
        return generic(out, values);
    }
    write!(out, " {}[{}]", values[0], values[1])?;
    for value in &values[2..count] {
        write!(out, ", {value}")?;
    }
    optional(out, "mask", masked, values.last())
}

fn reduction(out: &mut String, values: &[Value], axis: u8, combine: &Combine, reverse: bool) -> fmt::Result {
    if let Combine::Kind(kind) = combine {
        write!(out, " {kind}")?;
    }
    spaced(out, values)?;
    write!(out, " axis {axis}")?;
    flag(out, reverse, " reverse");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_the_shortest_decimal_of_their_type() {
        let text = |x: f64, d: Dtype| Const::float(x).rounded(d).text(d);
        assert_eq!(text(0.1, Dtype::F32), "0.1");
        assert_eq!(text(0.1, Dtype::F16), "0.1");
        assert_eq!(text(0.1, Dtype::BF16), "0.1");
        assert_eq!(text(1.0, Dtype::F32), "1.0");
        assert_eq!(text(-0.0, Dtype::F32), "-0.0");
        assert_eq!(text(f64::from(f32::MAX), Dtype::F32), "3.4028235e38");
        assert_eq!(text(f64::NEG_INFINITY, Dtype::F16), "-inf");
        assert_eq!(text(f64::NAN, Dtype::F64), "nan");
        assert_eq!(text(5e-324, Dtype::F64), "5e-324");
        // Not exact in the type: shown as it is, not as what it would round to.
        assert_eq!(Const::float(0.1).text(Dtype::F32), "0x3fb999999999999a");
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}é"), "\"a\\\"b\\\\c\\nd\\u{1}é\"");
    }
}
