//! `run` lines: launches with expected results.

use leankv_dsl::codegen::nvptx::{self, NvptxOptions, NvptxTarget, UnknownTarget};
use leankv_dsl::interp::ScalarValue;
use leankv_dsl::ir::{Access, Const, Dtype, Func, Param};
use leankv_dsl::pass::{Facts, standard};

use super::Outcome;
use crate::conformance::case::{Output, Slot};
use crate::conformance::data::{Rng, small};
use crate::conformance::number::{Num, read_all, write_all};
use crate::conformance::{Case, CaseArg, Check, Executor, Failure, compare, executors};

/// Runs the lines on the interpreter, as they are and after the standard passes.
pub(super) fn interpret(funcs: &[Func], out: &mut Outcome) -> Result<(), String> {
    run(funcs, &[&executors::Interp], &[], out)
}

/// Runs the lines on the interpreter, which says what holds, after the standard passes, and on the executors.
pub(super) fn run(
    funcs: &[Func],
    executors: &[&dyn Executor],
    skip: &[&str],
    out: &mut Outcome,
) -> Result<(), String> {
    let mut lines = Vec::new();
    let mut count = 0;
    for line in out.text.lines() {
        match Line::parse(line) {
            None => lines.push(line.to_owned()),
            Some(parsed) => {
                count += 1;
                let (text, wrong) = parsed?.hold(line, funcs, executors, skip)?;
                lines.push(text);
                out.wrong.extend(wrong);
            }
        }
    }
    if count == 0 {
        return Err("no line `; run: ..`".to_owned());
    }
    out.text = lines.join("\n") + "\n";
    Ok(())
}

/// The PTX of a file's kernels for a target, without lines of the source.
pub(super) fn ptx(funcs: &[Func], sm: &str) -> Result<String, String> {
    let target: NvptxTarget = format!("sm_{sm}").parse().map_err(|e: UnknownTarget| e.to_string())?;
    let mut out = String::new();
    for func in funcs {
        let mut func = func.clone();
        standard().run(&mut func, &mut Facts::new()).map_err(|e| e.to_string())?;
        let artifact =
            nvptx::compile(&func, &target, &NvptxOptions { line_info: false, ..NvptxOptions::default() })
                .map_err(|e| e.to_string())?;
        out.push_str(&artifact.ptx);
    }
    Ok(out)
}

/// The launch of a `launch` line, from what stands behind its colon.
pub(super) fn launch_case(text: &str, func: &Func) -> Result<Case, String> {
    let args = words(text).into_iter().map(pair).collect::<Result<_, _>>()?;
    let line = Line { kernel: None, args, head: "", expected: Expected::Buffers(Vec::new()) };
    line.case(func).map_err(|e| format!("`; launch:{text}`: {e}"))
}

/// A line in its parts.
struct Line<'t> {
    kernel: Option<&'t str>,
    args: Vec<(&'t str, &'t str)>,
    /// Everything up to and with `==`.
    head: &'t str,
    expected: Expected<'t>,
}

enum Expected<'t> {
    /// Name, tolerance if any, content.
    Buffers(Vec<(&'t str, Option<&'t str>, &'t str)>),
    Fault(&'t str),
}

impl<'t> Line<'t> {
    fn parse(line: &'t str) -> Option<Result<Line<'t>, String>> {
        let rest = line.strip_prefix("; run")?;
        let (kernel, rest) = rest.split_once(':')?;
        let kernel = kernel.trim().strip_prefix('@');
        Some(Line::parts(line, kernel, rest).map_err(|e| format!("`{line}`: {e}")))
    }

    fn parts(line: &'t str, kernel: Option<&'t str>, rest: &'t str) -> Result<Line<'t>, String> {
        let (args, expected) = rest.split_once("==").ok_or("no `==` with what is expected after it")?;
        let head = &line[..line.len() - expected.len()];
        let args = words(args).into_iter().map(pair).collect::<Result<_, _>>()?;
        let expected = match expected.trim().strip_prefix("fault") {
            Some(text) => Expected::Fault(text.trim().trim_matches('"')),
            None => Expected::Buffers(
                words(expected)
                    .into_iter()
                    .map(|word| {
                        let (name, value) = pair(word)?;
                        Ok(match name.split_once('~') {
                            Some((name, tolerance)) => (name, Some(tolerance), value),
                            None => (name, None, value),
                        })
                    })
                    .collect::<Result<_, String>>()?,
            ),
        };
        Ok(Line { kernel, args, head, expected })
    }

    /// The line as it should be, and what is wrong beyond it.
    fn hold(
        self,
        line: &str,
        funcs: &[Func],
        executors: &[&dyn Executor],
        skip: &[&str],
    ) -> Result<(String, Vec<String>), String> {
        let named = |func: &&Func| self.kernel.is_none_or(|name| name == func.name);
        let func = funcs.iter().find(named).ok_or_else(|| format!("`{line}`: no such kernel"))?;
        let case = self.case(func).map_err(|e| format!("`{line}`: {e}"))?;
        let mut optimised = case.clone();
        standard().run(&mut optimised.func, &mut Facts::new()).map_err(|e| e.to_string())?;

        let mut wrong = Vec::new();
        let reference = executors::Interp.run(&case);
        let text = match (&reference, &self.expected) {
            (Err(Failure::Fault(found)), Expected::Fault(want))
                if found.contains(want) && !want.is_empty() =>
            {
                line.to_owned()
            }
            (Err(Failure::Fault(found)), _) => {
                // The first line says what happened, the others where.
                let first = found.lines().next().unwrap_or(found);
                format!("{} fault \"{first}\"", self.head)
            }
            (Err(failure), _) => return Err(format!("`{line}`: interp: {failure:?}")),
            (Ok(buffers), Expected::Fault(_)) => {
                format!("{} {}", self.head, show(&case, buffers, &[], func))
            }
            (Ok(buffers), Expected::Buffers(expected)) => {
                if self.agree(&case, buffers, expected)? && !expected.is_empty() {
                    line.to_owned()
                } else {
                    format!("{} {}", self.head, show(&case, buffers, expected, func))
                }
            }
        };
        let mut compare = |name: &str, result: Result<Vec<Vec<u8>>, Failure>| {
            // `ptx` stands for `ptx_apart` too.
            let skipped =
                skip.iter().any(|s| name == *s || name.strip_prefix(s).is_some_and(|n| n.starts_with('_')));
            let message = match (&reference, result) {
                (_, Err(Failure::Unsupported(_))) if skipped => return,
                (_, Ok(_)) if skipped => "it runs, but the file says `skip`".to_owned(),
                (Err(_), Err(Failure::Fault(_))) => return,
                (Err(_), Ok(_)) => "it ran, but the interpreter fails".to_owned(),
                (_, Err(failure)) => format!("{failure:?}"),
                (Ok(want), Ok(got)) => match self.differences(&case, &got, want) {
                    None => return,
                    Some(message) => message,
                },
            };
            wrong.push(format!("`{line}`: on {name}: {message}"));
        };
        // A fault may go away with an op that nobody needed.
        if reference.is_ok() {
            compare("interp after the standard passes", executors::Interp.run(&optimised));
        }
        for executor in executors {
            compare(executor.name(), executor.run(&case));
        }
        Ok((text, wrong))
    }

    fn case(&self, func: &Func) -> Result<Case, String> {
        let mut args = Vec::new();
        for param in &func.params {
            let value = self.args.iter().find(|(name, _)| *name == param.name);
            let (_, value) = value.ok_or_else(|| format!("no argument `{}`", param.name))?;
            args.push(argument(param, value).map_err(|e| format!("argument `{}`: {e}", param.name))?);
        }
        let known = |name: &str| name == "grid" || func.params.iter().any(|p| p.name == name);
        if let Some((name, _)) = self.args.iter().find(|(name, _)| !known(name)) {
            return Err(format!("the kernel has no parameter `{name}`"));
        }
        let mut grid = [1; 3];
        if let Some((_, text)) = self.args.iter().find(|(name, _)| *name == "grid") {
            for (axis, extent) in text.split('x').enumerate() {
                let slot = grid.get_mut(axis).ok_or("a grid has three axes")?;
                *slot = extent.parse().map_err(|_| format!("`{text}` is no grid"))?;
            }
        }
        Ok(Case { name: func.name.clone(), func: func.clone(), grid, args, fails: false, checked: true })
    }

    /// Whether the buffers are as the line says.
    fn agree(
        &self,
        case: &Case,
        buffers: &[Vec<u8>],
        expected: &[(&str, Option<&str>, &str)],
    ) -> Result<bool, String> {
        for (name, tolerance, value) in expected {
            let found = case.buffers().zip(buffers).find(|(slot, _)| slot.name == *name);
            let (slot, got) = found.ok_or_else(|| format!("`{name}` is no buffer of the kernel"))?;
            let (_, want) = content(value, slot.dtype)?;
            if compare::differences(name, slot.dtype, check_of(*tolerance)?, got, &want).is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How an executor's buffers differ from the interpreter's.
    fn differences(&self, case: &Case, got: &[Vec<u8>], want: &[Vec<u8>]) -> Option<String> {
        let tolerance = |name: &str| match &self.expected {
            Expected::Buffers(list) => {
                list.iter().find(|(n, ..)| *n == name).and_then(|(_, tolerance, _)| *tolerance)
            }
            Expected::Fault(_) => None,
        };
        let found: Vec<String> = case
            .buffers()
            .zip(got.iter().zip(want))
            .filter_map(|(slot, (got, want))| {
                let check = check_of(tolerance(&slot.name)).unwrap_or(Check::Bits);
                compare::differences(&slot.name, slot.dtype, check, got, want)
            })
            .collect();
        if found.is_empty() { None } else { Some(found.join("\n")) }
    }
}

fn check_of(tolerance: Option<&str>) -> Result<Check, String> {
    match tolerance {
        None => Ok(Check::Bits),
        Some(text) => match text.parse() {
            Ok(bound) => Ok(Check::Close { rel: bound, abs: bound }),
            Err(_) => Err(format!("`{text}` is no tolerance")),
        },
    }
}

/// Words at blanks outside brackets.
fn words(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut depth, mut start) = (0, None);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        match (c.is_whitespace() && depth == 0, start) {
            (true, Some(from)) => {
                out.push(&text[from..at]);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    out.extend(start.map(|from| &text[from..]));
    out
}

fn pair(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("`{word}` is not name=value"))
}

fn argument(param: &Param, text: &str) -> Result<CaseArg, String> {
    let dtype = param.ty.dtype();
    if !param.ty.is_ptr() {
        return scalar(dtype, text).map(CaseArg::Scalar).ok_or_else(|| format!("`{text}` is no `{dtype}`"));
    }
    let (dtype, bytes) = content(text, dtype)?;
    // Outputs are compared by the line, not by the case.
    let output = (param.access != Access::Read).then_some(Output { check: Check::Bits, expect: None });
    Ok(CaseArg::Buffer(Slot { name: param.name.clone(), dtype, bytes, output }))
}

/// A constant that the type holds.
fn constant(dtype: Dtype, text: &str) -> Option<Const> {
    Const::parse(text.trim(), dtype).filter(|c| dtype.is_float() || c.rounded(dtype) == *c)
}

fn scalar(dtype: Dtype, text: &str) -> Option<ScalarValue> {
    let value = constant(dtype, text)?;
    let int = value.as_int().unwrap_or(0);
    let float = value.as_f64();
    Some(match dtype {
        Dtype::I1 => ScalarValue::I1(int == 1),
        Dtype::I8 => ScalarValue::I8(int as i8),
        Dtype::I16 => ScalarValue::I16(int as i16),
        Dtype::I32 => ScalarValue::I32(int as i32),
        Dtype::I64 => ScalarValue::I64(int as i64),
        Dtype::U8 => ScalarValue::U8(int as u8),
        Dtype::U16 => ScalarValue::U16(int as u16),
        Dtype::U32 => ScalarValue::U32(int as u32),
        Dtype::U64 => ScalarValue::U64(int as u64),
        Dtype::F16 => ScalarValue::F16(half::f16::from_f64(float)),
        Dtype::BF16 => ScalarValue::BF16(half::bf16::from_f64(float)),
        Dtype::F32 => ScalarValue::F32(float as f32),
        Dtype::F64 => ScalarValue::F64(float),
        Dtype::Code(_) => return None,
    })
}

/// The bytes of `[1, 2]`, `[0; 8]`, `[0..8]`, `[random 7; 8]`, with an element type before it or the pointer's.
fn content(text: &str, pointee: Dtype) -> Result<(Dtype, Vec<u8>), String> {
    let inner = text.split_once('[').and_then(|(ty, rest)| Some((ty, rest.strip_suffix(']')?)));
    let (ty, inner) = inner.ok_or_else(|| format!("`{text}` is no list `[..]`"))?;
    let dtype = if ty.is_empty() { pointee } else { ty.parse::<Dtype>().map_err(|e| e.to_string())? };
    let number = |text: &str| match constant(dtype, text) {
        Some(Const::Int(x)) => Ok(Num::Int(x)),
        Some(x) => Ok(Num::Float(x.as_f64())),
        None => Err(format!("`{}` is no `{dtype}`", text.trim())),
    };
    let values = if let Some((value, count)) = inner.split_once(';') {
        let count: usize = count.trim().parse().map_err(|_| format!("`{}` is no count", count.trim()))?;
        match value.trim().strip_prefix("random ") {
            Some(seed) => {
                let seed = seed.trim().parse().map_err(|_| format!("`{seed}` is no seed"))?;
                small(dtype, count, 50, &mut Rng::new(seed))
            }
            None => vec![number(value)?; count],
        }
    } else if let Some((from, to)) = inner.split_once("..") {
        let bound =
            |text: &str| text.trim().parse::<i64>().map_err(|_| format!("`{text}` is no whole number"));
        let range = bound(from)?..bound(to)?;
        range.map(|x| if dtype.is_float() { Num::Float(x as f64) } else { Num::Int(x.into()) }).collect()
    } else {
        inner
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(number)
            .collect::<Result<_, _>>()?
    };
    Ok((dtype, write_all(dtype, values)))
}

/// What holds after `==`: the named buffers, or all that the kernel may write.
fn show(case: &Case, buffers: &[Vec<u8>], named: &[(&str, Option<&str>, &str)], func: &Func) -> String {
    let mut out = Vec::new();
    for (slot, bytes) in case.buffers().zip(buffers) {
        let name = named.iter().find(|(name, ..)| *name == slot.name);
        let written = func.params.iter().any(|p| p.name == slot.name && p.access != Access::Read);
        if name.is_none() && (!named.is_empty() || !written) {
            continue;
        }
        let tolerance =
            name.and_then(|(_, tolerance, _)| *tolerance).map_or(String::new(), |t| format!("~{t}"));
        let texts: Vec<String> =
            read_all(slot.dtype, bytes).into_iter().map(|x| text(x, slot.dtype)).collect();
        let list = match texts.split_first() {
            Some((first, rest)) if texts.len() > 4 && rest.iter().all(|t| t == first) => {
                format!("{first}; {}", texts.len())
            }
            _ => texts.join(", "),
        };
        let pointee = func.params.iter().find(|p| p.name == slot.name).map(|p| p.ty.dtype());
        let ty = if pointee == Some(slot.dtype) { String::new() } else { slot.dtype.to_string() };
        out.push(format!("{}{tolerance}={ty}[{list}]", slot.name));
    }
    out.join(" ")
}

fn text(x: Num, dtype: Dtype) -> String {
    match x {
        Num::Int(x) => Const::Int(x).text(dtype),
        Num::Float(x) if x.is_nan() => "nan".to_owned(),
        Num::Float(x) => Const::float(x).text(dtype),
    }
}
