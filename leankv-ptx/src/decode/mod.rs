//! Syntax tree to decoded program.
//!
//! * Every opcode is decoded when a module is loaded; an unknown opcode or modifier, a wrong operand or an
//!   unresolved name is an error with line and column then, never a surprise at run time.
//! * Registers become dense slots, given out at first use; constants, symbol addresses and special registers
//!   become slots as well.
//! * Each branch knows the instruction where its lanes meet again (its immediate post-dominator).

mod builder;
mod cfg;
pub(crate) mod consts;
pub(crate) mod cx;
pub(crate) mod defined;
mod func;
pub(crate) mod op;
mod opcode;
mod ops_control;
mod ops_memory;
mod ops_warp;
mod ops_wmma;

pub(crate) use builder::{Sym, Use, Width};
pub(crate) use ops_warp::element_bits;

use crate::error::ParseError;
use crate::syntax::Pos;
use crate::syntax::ast::{Ast, Expr, Func, Init, Item, Linkage, Space, Var};
use crate::ty::Ty;
use op::{Class, Guard, Initial, Op};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Static facts about one instruction.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) pos: Pos,
    pub(crate) opcode: Box<str>,
    pub(crate) class: Class,
    /// `.loc` in force: file number and line.
    pub(crate) loc: Option<(u64, u64)>,
}

/// One parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct ParamInfo {
    pub(crate) name: String,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    pub(crate) ty: Ty,
    pub(crate) is_array: bool,
}

/// How a device function receives a parameter or returns a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Formal {
    Mem { offset: u32, bytes: u32 },
    Reg(Width, u32),
}

/// A decoded function.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) is_entry: bool,
    pub(crate) ops: Vec<Op>,
    pub(crate) guards: Vec<Guard>,
    /// Where diverged lanes meet again, per instruction; `u32::MAX` for "at the function's end".
    pub(crate) meet: Vec<u32>,
    pub(crate) info: Vec<Info>,
    pub(crate) watch: defined::Watch,
    pub(crate) n32: u32,
    pub(crate) n64: u32,
    pub(crate) np: u32,
    pub(crate) initials: Vec<(bool, u32, Initial, i64)>,
    pub(crate) pred_consts: Vec<(u32, bool)>,
    pub(crate) local_bytes: u32,
    pub(crate) params: Vec<ParamInfo>,
    pub(crate) param_bytes: u32,
    pub(crate) formals: Vec<Formal>,
    pub(crate) results: Vec<Formal>,
    pub(crate) callees: Vec<u32>,
    pub(crate) indirect: bool,
    /// Uses barriers that do not involve the whole block, so races need exact clocks.
    pub(crate) partial_barriers: bool,
    /// `.reqntid` / `.maxntid`.
    pub(crate) required_threads: Option<[u32; 3]>,
    pub(crate) max_threads: Option<u64>,
}

/// A variable in global or constant memory.
#[derive(Clone, Debug)]
pub(crate) struct ModuleVar {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) align: u32,
    pub(crate) constant: bool,
    pub(crate) external: bool,
    pub(crate) data: Vec<u8>,
    /// Addresses to store into the data: offset, width in bytes, symbol, addend.
    pub(crate) relocations: Vec<(u64, u32, String, i64)>,
}

/// A variable in shared memory.
#[derive(Clone, Debug)]
pub(crate) struct SharedVar {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) align: u32,
    /// Unsized: its extent is the launch's dynamic shared memory.
    pub(crate) dynamic: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) funcs: Vec<Code>,
    pub(crate) by_name: BTreeMap<String, u32>,
    pub(crate) vars: Vec<ModuleVar>,
    pub(crate) shared: Vec<SharedVar>,
    pub(crate) files: BTreeMap<u64, String>,
}

impl Program {
    /// `file:line` for a `.loc` pair.
    pub(crate) fn source(&self, loc: Option<(u64, u64)>) -> Option<String> {
        let (file, line) = loc?;
        let name = self.files.get(&file).map_or("?", String::as_str);
        Some(format!("{name}:{line}"))
    }
}

/// Largest variable with an initialiser, in bytes.
const INITIALISED_BYTES: u64 = 64 << 20;

/// Largest sum of a module's constant variables, in bytes.
const CONSTANT_BYTES: u64 = 64 << 10;

/// Size of a variable in bytes; `None` for an unsized array.
fn var_bytes(v: &Var) -> Result<Option<u64>, ParseError> {
    let mut n = u64::from(v.ty.bytes()) * u64::from(v.vector);
    for d in &v.dims {
        match d {
            None => return Ok(None),
            Some(d) => {
                n = n
                    .checked_mul(*d)
                    .filter(|n| *n <= 1 << 40)
                    .ok_or_else(|| v.pos.err("this variable is too large"))?;
            }
        }
    }
    Ok(Some(n))
}

fn var_align(v: &Var) -> u32 {
    v.align.unwrap_or(v.ty.bytes() * v.vector).max(1)
}

/// Module-level names, shared by the decoding of all functions.
pub(crate) struct Globals {
    pub(crate) names: Rc<BTreeMap<String, Sym>>,
    pub(crate) vars: Vec<ModuleVar>,
    pub(crate) shared: Vec<SharedVar>,
    /// Number of parameters and results of each function, for checking calls, and whether it has a body.
    pub(crate) signatures: Vec<(String, usize, usize, bool)>,
}

impl Globals {
    /// Adds a variable and returns what its name stands for.
    pub(crate) fn add_var(&mut self, v: &Var) -> Result<Sym, ParseError> {
        let bytes = var_bytes(v)?;
        let align = var_align(v);
        if v.space == Space::Shared {
            let dynamic = bytes.is_none() || (bytes == Some(0) && v.linkage == Linkage::Extern);
            if v.init.is_some() {
                return Err(v.pos.err("shared variables cannot have an initialiser"));
            }
            self.shared.push(SharedVar { name: v.name.clone(), bytes: bytes.unwrap_or(0), align, dynamic });
            return Ok(Sym::Shared(self.shared.len() as u32 - 1));
        }
        let mut data = Vec::new();
        let mut relocations = Vec::new();
        if let Some(init) = &v.init {
            init_bytes(v, init, &mut data, &mut relocations, 0)?;
        }
        let bytes = match bytes {
            Some(b) => b,
            None => data.len() as u64,
        };
        if data.len() as u64 > bytes {
            return Err(v.pos.err(format!(
                "`{}` has {bytes} bytes but its initialiser {}",
                v.name,
                data.len()
            )));
        }
        self.vars.push(ModuleVar {
            name: v.name.clone(),
            bytes,
            align,
            constant: v.space == Space::Const,
            external: v.linkage == Linkage::Extern,
            data,
            relocations,
        });
        Ok(Sym::Global(self.vars.len() as u32 - 1))
    }
}

fn init_bytes(
    v: &Var,
    init: &Init,
    data: &mut Vec<u8>,
    relocations: &mut Vec<(u64, u32, String, i64)>,
    depth: usize,
) -> Result<(), ParseError> {
    match init {
        Init::List(list) => {
            let start = data.len();
            for i in list {
                init_bytes(v, i, data, relocations, depth + 1)?;
            }
            // Inner rows of a multi-dimensional array are zero-filled to their full length.
            if depth > 0 {
                let element = u64::from(v.ty.bytes() * v.vector);
                let extents = v.dims.iter().skip(depth).map(|d| d.unwrap_or(1));
                let row = extents.fold(element, u64::saturating_mul);
                let want = (start as u64).saturating_add(row);
                if want > INITIALISED_BYTES {
                    return Err(v.pos.err("an initialised variable of more than 64 MiB is not supported"));
                }
                if (data.len() as u64) < want {
                    data.resize(want as usize, 0);
                }
            }
            Ok(())
        }
        Init::Value(e) => {
            let bytes = v.ty.bytes();
            let (mask, inner) = match e {
                Expr::Mask(m, inner) => (Some(*m), &**inner),
                e => (None, e),
            };
            if let Some((name, addend)) = symbol_of(inner) {
                if mask.is_some() {
                    return Err(v
                        .pos
                        .err("byte selection of a symbol's address is not supported in initialisers"));
                }
                relocations.push((data.len() as u64, bytes, name.to_string(), addend));
                data.extend(std::iter::repeat_n(0, bytes as usize));
                return Ok(());
            }
            let bits = consts::eval(inner).map_err(|m| v.pos.err(m))?.bits_of(v.ty);
            data.extend_from_slice(&bits.to_le_bytes()[..bytes.min(8) as usize]);
            data.extend(std::iter::repeat_n(0, bytes.saturating_sub(8) as usize));
            Ok(())
        }
    }
}

fn symbol_of(e: &Expr) -> Option<(&str, i64)> {
    match e {
        Expr::Sym(s) if s != "WARP_SZ" => Some((s, 0)),
        Expr::Generic(e) => symbol_of(e),
        Expr::Binary(op, a, b) if op == "+" || op == "-" => {
            let (s, o) = symbol_of(a)?;
            let v = consts::eval(b).ok()?.bits_of(Ty::S64) as i64;
            Some((s, if op == "+" { o.wrapping_add(v) } else { o.wrapping_sub(v) }))
        }
        _ => None,
    }
}

/// Decodes a module.
pub(crate) fn program(ast: &Ast) -> Result<Program, ParseError> {
    let mut globals =
        Globals { names: Rc::default(), vars: Vec::new(), shared: Vec::new(), signatures: Vec::new() };
    let mut defs: Vec<&Func> = Vec::new();
    let mut files = BTreeMap::new();
    for item in &ast.items {
        match item {
            Item::Var(v) => {
                let sym = globals.add_var(v)?;
                // An extern declaration followed by the definition: the definition wins.
                let defined = globals.names.contains_key(&v.name);
                if defined && v.linkage == Linkage::Extern {
                    continue;
                }
                Rc::make_mut(&mut globals.names).insert(v.name.clone(), sym);
            }
            Item::Func(f) => match globals.names.get(&f.name) {
                Some(Sym::Func(i)) => {
                    let i = *i as usize;
                    if f.body.is_some() {
                        if defs[i].body.is_some() {
                            return Err(f.pos.err(format!("function `{}` is defined twice", f.name)));
                        }
                        defs[i] = f;
                        globals.signatures[i].3 = true;
                    }
                }
                Some(_) => return Err(f.pos.err(format!("`{}` is already a variable", f.name))),
                None => {
                    Rc::make_mut(&mut globals.names).insert(f.name.clone(), Sym::Func(defs.len() as u32));
                    globals.signatures.push((f.name.clone(), f.params.len(), f.rets.len(), f.body.is_some()));
                    defs.push(f);
                }
            },
            Item::Alias(a, b) => match globals.names.get(b).cloned() {
                Some(sym) => {
                    Rc::make_mut(&mut globals.names).insert(a.clone(), sym);
                }
                None => return Err(Pos::default().err(format!("alias `{a}` names unknown function `{b}`"))),
            },
            Item::File { index, name, .. } => {
                files.insert(*index, name.clone());
            }
            Item::Section { .. } | Item::Pragma(_) => {}
        }
    }
    let constants = globals.vars.iter().filter(|v| v.constant && !v.external);
    let bytes = constants.fold(0u64, |end, v| end.next_multiple_of(v.align.into()).saturating_add(v.bytes));
    if bytes > CONSTANT_BYTES {
        let last = ast.items.iter().rev().find_map(|item| match item {
            Item::Var(v) if v.space == Space::Const => Some(v.pos),
            _ => None,
        });
        return Err(last.unwrap_or_default().err(format!(
            "a module has at most {CONSTANT_BYTES} bytes of constant variables; this one has {bytes}"
        )));
    }
    let mut funcs = Vec::with_capacity(defs.len());
    let mut by_name = BTreeMap::new();
    for (i, f) in defs.iter().enumerate() {
        funcs.push(func::decode(f, &mut globals)?);
        by_name.insert(f.name.clone(), i as u32);
    }
    Ok(Program { funcs, by_name, vars: globals.vars, shared: globals.shared, files })
}
