//! Which feature needs which target and which version of PTX.
//!
//! One table (`table.rs`) says it: for opcodes with modifiers and operands, special registers, directives, and for targets themselves.
//! A [`Module`](crate::Module) that uses what its `.target` or `.version` does not have is refused; who writes PTX asks
//! [`required_version`].

mod table;

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use crate::error::ParseError;
use crate::syntax::Pos;
use crate::syntax::ast::{Ast, Func, Instr, Item, Operand, Stmt, StmtKind};
use crate::ty::Ty;

/// A version of PTX: major and minor.
pub type Version = (u32, u32);

/// Checks that a module uses only what its `.version` and `.target` have.
///
/// # Errors
/// The first feature that they lack, with what it needs and what the module says; or a version or target that is not known.
pub fn check(ast: &Ast) -> Result<(), ParseError> {
    known_version(ast.version)?;
    let target = Target::of(ast)?;
    if ast.version < target.since {
        return Err(START.err(format!(
            "`.target {}` needs `.version {}` or newer; this module has `.version {}`",
            target.name,
            text(target.since),
            text(ast.version)
        )));
    }
    walk(ast, &mut |pos, what, needs| {
        let enough = needs.iter().any(|need| need.since.holds(&target) && need.version <= ast.version);
        if enough { Ok(()) } else { Err(lacks(pos, what, needs, &target, Some(ast.version))) }
    })
}

/// The oldest version of PTX that has everything a module uses, on the module's target.
///
/// # Errors
/// A feature that the target has in no version, or a target that is not known.
pub fn required_version(ast: &Ast) -> Result<Version, ParseError> {
    let target = Target::of(ast)?;
    let mut version = target.since;
    walk(ast, &mut |pos, what, needs| {
        let least = needs.iter().filter(|need| need.since.holds(&target)).map(|need| need.version).min();
        version = version.max(least.ok_or_else(|| lacks(pos, what, needs, &target, None))?);
        Ok(())
    })?;
    Ok(version)
}

/// Where a module's directives stand, nearly.
const START: Pos = Pos { line: 1, col: 1 };

fn text((major, minor): Version) -> String {
    format!("{major}.{minor}")
}

fn known_version(version: Version) -> Result<(), ParseError> {
    if table::VERSIONS.iter().any(|&(major, last)| version.0 == major && version.1 <= last) {
        return Ok(());
    }
    let known: Vec<String> =
        table::VERSIONS.iter().map(|(major, last)| format!("{major}.0 to {major}.{last}")).collect();
    Err(START.err(format!("`.version {}` is not known; known are {}", text(version), known.join(", "))))
}

/// A `.target`.
struct Target {
    name: String,
    number: u32,
    /// Whether it has features of its architecture or family alone.
    specific: bool,
    /// The first version that knows it.
    since: Version,
}

impl Target {
    fn of(ast: &Ast) -> Result<Target, ParseError> {
        let mut out = None;
        for name in &ast.target {
            let known = table::TARGETS.iter().find(|(number, suffix, _)| {
                let rest = name.strip_prefix("sm_").or_else(|| name.strip_prefix("compute_"));
                rest == Some(&format!("{number}{suffix}"))
            });
            match known {
                Some(&(number, suffix, since)) if out.is_none() => {
                    let since = version(since).expect("the table's versions are versions");
                    out = Some(Target { name: name.clone(), number, specific: !suffix.is_empty(), since });
                }
                Some(_) => {
                    return Err(
                        START.err(format!("`.target` names two targets: `{}`", ast.target.join(", ")))
                    );
                }
                None if table::TARGET_WORDS.contains(&&**name) => {}
                None => {
                    let known: Vec<String> = table::TARGETS
                        .iter()
                        .map(|(number, suffix, _)| format!("sm_{number}{suffix}"))
                        .collect();
                    return Err(
                        START.err(format!("`.target {name}` is not known; known are {}", known.join(", ")))
                    );
                }
            }
        }
        out.ok_or_else(|| {
            START.err(format!("`.target {}` names no target such as sm_80", ast.target.join(", ")))
        })
    }
}

/// Since which target something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// This one and all newer ones.
    From(u32),
    /// Those from this one on that have features of their own.
    Specific(u32),
    /// Those of this one's family that have.
    Family(u32),
}

impl Since {
    fn parse(text: &str) -> Option<Since> {
        let rest = text.strip_prefix("sm_")?;
        if let Some(number) = rest.strip_suffix("a+") {
            return number.parse().ok().map(Since::Specific);
        }
        match rest.strip_suffix('f') {
            Some(number) => number.parse().ok().map(Since::Family),
            None => rest.parse().ok().map(Since::From),
        }
    }

    fn holds(self, target: &Target) -> bool {
        match self {
            Since::From(least) => target.number >= least,
            Since::Specific(least) => target.specific && target.number >= least,
            Since::Family(first) => {
                target.specific && target.number / 10 == first / 10 && target.number >= first
            }
        }
    }
}

impl std::fmt::Display for Since {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Since::From(least) => write!(f, "`.target sm_{least}` or newer"),
            Since::Specific(least) => {
                write!(f, "`.target sm_{least}a` or a newer one that ends in `a` or `f`")
            }
            Since::Family(first) => {
                write!(f, "`.target sm_{first}a`, `sm_{first}f` or another of that family")
            }
        }
    }
}

/// What something needs: of several of these, one is enough.
#[derive(Clone, Copy, Debug)]
struct Need {
    version: Version,
    since: Since,
}

fn version(text: &str) -> Option<Version> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn needs(text: &str) -> Vec<Need> {
    let one = |part: &str| {
        let (number, since) = part.split_once(' ')?;
        Some(Need { version: version(number)?, since: Since::parse(since)? })
    };
    let parsed: Option<Vec<Need>> = text.split(", ").map(one).collect();
    parsed.unwrap_or_else(|| panic!("internal error: `{text}` in the table of features is no need"))
}

fn lacks(pos: Pos, what: &str, needs: &[Need], target: &Target, version: Option<Version>) -> ParseError {
    let wanted: Vec<String> = needs
        .iter()
        .map(|need| {
            let version = format!("`.version {}` or newer", text(need.version));
            // Every target that is known is at least this one.
            if need.since == Since::From(table::TARGETS[0].0) {
                version
            } else {
                format!("{} and {version}", need.since)
            }
        })
        .collect();
    let has = match version {
        Some(version) => format!("`.target {}` and `.version {}`", target.name, text(version)),
        None => format!("`.target {}`", target.name),
    };
    pos.err(format!("{what} needs {}; this module has {has}", wanted.join(", or ")))
}

/// A row of the table of instructions.
struct Row {
    /// One of each must be there.
    all: Vec<Vec<&'static str>>,
    /// None of these.
    none: Vec<&'static str>,
    needs: Vec<Need>,
}

/// The rows of each opcode; those of all opcodes stand under `*`.
fn rows() -> &'static HashMap<&'static str, Vec<Row>> {
    static ROWS: OnceLock<HashMap<&'static str, Vec<Row>>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let mut out: HashMap<&'static str, Vec<Row>> = HashMap::new();
        for &(opcodes, form, need) in table::INSTRUCTIONS {
            for opcode in opcodes.split('|') {
                let (mut all, mut none) = (Vec::new(), Vec::new());
                for word in form.split_whitespace() {
                    match word.strip_prefix('!') {
                        Some(word) => none.push(word),
                        None => all.push(word.split('|').collect()),
                    }
                }
                out.entry(opcode).or_default().push(Row { all, none, needs: needs(need) });
            }
        }
        out
    })
}

/// What a visitor gets: where something stands, its name in words, what it needs.
type Visit<'v> = dyn FnMut(Pos, &str, &[Need]) -> Result<(), ParseError> + 'v;

fn walk(ast: &Ast, visit: &mut Visit<'_>) -> Result<(), ParseError> {
    let mut seen = HashSet::new();
    for item in &ast.items {
        let Item::Func(func) = item else { continue };
        header(func, visit)?;
        if let Some(body) = &func.body {
            let mut walker = Walker { predicates: Vec::new(), seen: &mut seen, visit };
            walker.body(body)?;
        }
    }
    Ok(())
}

/// A function's directives and parameters.
fn header(func: &Func, visit: &mut Visit<'_>) -> Result<(), ParseError> {
    for directive in &func.directives {
        if let Some((name, need)) = table::DIRECTIVES.iter().find(|(name, _)| *name == directive.name) {
            visit(func.pos, &format!("`.{name}`"), &needs(need))?;
        }
    }
    let (most, need) = table::PARAMETERS;
    let total = func.params.iter().fold(0u64, |end, var| {
        let element = u64::from(var.ty.bytes() * var.vector);
        let align = var.align.map_or(element, u64::from).max(1);
        let bytes = var.dims.iter().fold(element, |n, extent| n.saturating_mul(extent.unwrap_or(1)));
        end.checked_next_multiple_of(align).unwrap_or(u64::MAX).saturating_add(bytes)
    });
    if func.is_entry && total > most {
        visit(func.pos, &format!("a kernel with more than {most} bytes of parameters"), &needs(need))?;
    }
    Ok(())
}

struct Walker<'w, 'v> {
    /// Names of predicate registers, and whether a number follows.
    predicates: Vec<(String, bool)>,
    /// Instructions that were looked at, whole but for operands that do not matter.
    seen: &'w mut HashSet<(String, usize, bool)>,
    visit: &'w mut Visit<'v>,
}

impl Walker<'_, '_> {
    fn body(&mut self, body: &[Stmt]) -> Result<(), ParseError> {
        for stmt in body {
            match &stmt.kind {
                StmtKind::Reg { ty: Ty::Pred, names, .. } => {
                    self.predicates.extend(names.iter().map(|(name, count)| (name.clone(), count.is_some())));
                }
                StmtKind::Reg { ty: Ty::B128, .. } => {
                    (self.visit)(stmt.pos, "a register of 128 bits", &needs(table::WIDE_REGISTERS))?;
                }
                StmtKind::Instr(instr) => self.instr(instr)?,
                StmtKind::Block(inner) => self.body(inner)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn instr(&mut self, instr: &Instr) -> Result<(), ParseError> {
        for operand in &instr.operands {
            let (Operand::Name(name) | Operand::Field(name, _)) = operand else { continue };
            if let Some((name, need)) = table::REGISTERS.iter().find(|(known, _)| known == name) {
                (self.visit)(instr.pos, &format!("`{name}`"), &needs(need))?;
            }
        }
        let opcode = crate::decode::cx::full_name(instr);
        let predicate = instr.operands.iter().skip(3).any(|operand| self.is_predicate(operand));
        let count = instr.operands.len();
        if !self.seen.insert((opcode.clone(), count, predicate)) {
            return Ok(());
        }
        let modifiers = format!("{}.", &opcode[instr.base.len()..]);
        let has = |word: &&str| match word.strip_prefix('#') {
            Some("predicate") => predicate,
            Some(number) => number.parse() == Ok(count),
            None => modifiers.contains(&format!(".{word}.")),
        };
        for row in [instr.base.as_str(), "*"].iter().filter_map(|opcode| rows().get(opcode)).flatten() {
            if row.all.iter().all(|any| any.iter().any(&has)) && !row.none.iter().any(&has) {
                let operands = if row.all.iter().flatten().any(|word| word.starts_with('#')) {
                    format!(" with {count} operands")
                } else {
                    String::new()
                };
                (self.visit)(instr.pos, &format!("`{opcode}`{operands}"), &row.needs)?;
            }
        }
        Ok(())
    }

    fn is_predicate(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Not(_) => true,
            Operand::Name(name) => self.predicates.iter().any(|(known, numbered)| {
                let rest = name.strip_prefix(known.as_str());
                rest.is_some_and(|rest| if *numbered { rest.parse::<u32>().is_ok() } else { rest.is_empty() })
            }),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_can_be_read() {
        assert!(rows().len() > 40);
        for (_, need) in table::REGISTERS.iter().chain(table::DIRECTIVES) {
            needs(need);
        }
        for (number, suffix, since) in table::TARGETS {
            assert!(version(since).is_some(), "sm_{number}{suffix}");
        }
    }
}
