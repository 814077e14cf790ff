//! The syntax tree of one PTX module.

use super::Pos;
use crate::error::ParseError;
use crate::ty::Ty;

/// A parsed PTX module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ast {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// `.target` arguments, for example `sm_80`, `debug`.
    pub target: Vec<String>,
    /// `.address_size`; 64 when absent.
    pub address_size: u32,
    /// Module-level items in source order.
    pub items: Vec<Item>,
}

/// A module-level item.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A `.global`, `.const` or `.shared` variable.
    Var(Var),
    /// A kernel or device function, defined or declared.
    Func(Func),
    /// `.file index "name"{, timestamp, size}`.
    File {
        /// Number that `.loc` refers to.
        index: u64,
        /// File name as written.
        name: String,
        /// Optional timestamp and size.
        stat: Vec<u64>,
    },
    /// `.section name { ... }`; its tokens as text.
    Section {
        /// Section name with its dot.
        name: String,
        /// The tokens between the braces.
        body: Vec<String>,
    },
    /// `.pragma "text", ...;`
    Pragma(Vec<String>),
    /// `.alias a, b;`
    Alias(String, String),
}

/// How a symbol is linked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Each variant is the directive of the same name.
pub enum Linkage {
    #[default]
    None,
    Visible,
    Extern,
    Weak,
    Common,
}

/// State space of a variable or access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each variant is the state space of the same name.
pub enum Space {
    Reg,
    Global,
    Const,
    Shared,
    Local,
    Param,
    Generic,
}

/// One variable, parameter or array.
#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    /// Linkage directive.
    pub linkage: Linkage,
    /// State space; `Reg` for register parameters.
    pub space: Space,
    /// `.align`, in bytes.
    pub align: Option<u32>,
    /// Element type.
    pub ty: Ty,
    /// 1, 2 or 4 (`.v2`, `.v4`).
    pub vector: u32,
    /// Name.
    pub name: String,
    /// Array dimensions; `None` for an unsized first dimension.
    pub dims: Vec<Option<u64>>,
    /// `.ptr` attributes of a kernel parameter.
    pub ptr: Option<PtrAttr>,
    /// Initialiser.
    pub init: Option<Init>,
    /// Attribute lists such as `managed`, as text.
    pub attributes: Vec<String>,
    /// Where the name stands.
    pub pos: Pos,
}

/// `.ptr .space .align n` of a kernel parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PtrAttr {
    /// State space the pointer points into.
    pub space: Option<Space>,
    /// Alignment of what it points to, in bytes.
    pub align: Option<u32>,
}

/// A variable's initialiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// A single value.
    Value(Expr),
    /// A braced list.
    List(Vec<Init>),
}

/// A constant expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Integer; `true` for the `U` suffix.
    Int(u64, bool),
    /// Single-precision bits.
    F32(u32),
    /// Double-precision bits.
    F64(u64),
    /// Address of a symbol.
    Sym(String),
    /// `generic(sym)`.
    Generic(Box<Expr>),
    /// `mask(expr)`-like byte selection: `0xFF00(sym)`.
    Mask(u64, Box<Expr>),
    /// Unary operator.
    Unary(char, Box<Expr>),
    /// Binary operator.
    Binary(String, Box<Expr>, Box<Expr>),
    /// `c ? a : b`.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// A kernel or device function.
#[derive(Clone, Debug, PartialEq)]
pub struct Func {
    /// Linkage directive.
    pub linkage: Linkage,
    /// `.entry` (true) or `.func`.
    pub is_entry: bool,
    /// Attributes such as `.attribute(.unified(..))`, as text.
    pub attributes: Vec<String>,
    /// Return parameters.
    pub rets: Vec<Var>,
    /// Name.
    pub name: String,
    /// Parameters.
    pub params: Vec<Var>,
    /// Performance and launch directives, for example `maxntid 128, 1, 1`.
    pub directives: Vec<FuncDirective>,
    /// Body; `None` for a declaration.
    pub body: Option<Vec<Stmt>>,
    /// Where the name stands.
    pub pos: Pos,
}

/// A directive between a function's parameters and its body.
#[derive(Clone, Debug, PartialEq)]
pub struct FuncDirective {
    /// Name without its dot.
    pub name: String,
    /// Numeric arguments.
    pub args: Vec<u64>,
    /// String arguments (`.pragma`).
    pub strings: Vec<String>,
}

/// A statement with its position.
#[derive(Clone, Debug, PartialEq)]
pub struct Stmt {
    /// Where it starts.
    pub pos: Pos,
    /// What it is.
    pub kind: StmtKind,
}

/// The kinds of statement in a function body.
#[derive(Clone, Debug, PartialEq)]
pub enum StmtKind {
    /// `.reg .type a, b<n>;`
    Reg {
        /// Register type.
        ty: Ty,
        /// 1, 2 or 4.
        vector: u32,
        /// Names, each with the count of `name<count>`.
        names: Vec<(String, Option<u32>)>,
    },
    /// A variable in shared, local, param, global or const space.
    Var(Var),
    /// `name:`
    Label(String),
    /// An instruction.
    Instr(Instr),
    /// `.loc file line column{, function_name ..., inlined_at ...}`.
    Loc(Loc),
    /// `.pragma "text";`
    Pragma(Vec<String>),
    /// `{ ... }`
    Block(Vec<Stmt>),
    /// `name: .branchtargets a, b;` or `.calltargets`.
    Targets {
        /// Label that names the list.
        name: String,
        /// Whether it lists call targets.
        call: bool,
        /// The labels or functions.
        targets: Vec<String>,
    },
    /// `name: .callprototype (ret) _ (params);`
    Prototype {
        /// Label that names the prototype.
        name: String,
        /// Return parameters.
        rets: Vec<Var>,
        /// Parameters.
        params: Vec<Var>,
        /// Trailing directives, as text.
        attributes: Vec<String>,
    },
}

/// A `.loc` directive.
#[derive(Clone, Debug, PartialEq)]
pub struct Loc {
    /// File number.
    pub file: u64,
    /// Source line.
    pub line: u64,
    /// Source column.
    pub col: u64,
    /// `function_name label{+offset}`.
    pub function: Option<(String, Option<u64>)>,
    /// `inlined_at file line col`.
    pub inlined_at: Option<(u64, u64, u64)>,
}

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instr {
    /// `@p` or `@!p`: register name and negation.
    pub guard: Option<(String, bool)>,
    /// First part of the opcode, for example `ld`.
    pub base: String,
    /// Dotted modifiers in order, for example `global`, `v4`, `b32`.
    pub mods: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Where the opcode starts.
    pub pos: Pos,
}

/// An instruction operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Register, symbol or label; which one is known after name resolution.
    Name(String),
    /// `%tid.x`, or a component of a vector register.
    Field(String, String),
    /// Constant.
    Imm(Expr),
    /// `!p`.
    Not(Box<Operand>),
    /// `a|b`.
    Pair(Box<Operand>, Box<Operand>),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`.
    Address(Address),
    /// `[map, {c0, c1}]`: the addresses of bulk tensor and texture instructions.
    AddressList(Vec<Operand>),
    /// `(a, b)`: argument or result list of a call.
    List(Vec<Operand>),
    /// `_`.
    Sink,
}

/// A memory address.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// Register or symbol; `None` for an absolute address.
    pub base: Option<String>,
    /// Constant added to the base, in bytes.
    pub offset: i64,
}

impl Ast {
    /// The lines on which instructions begin, in order; a line once for each of its instructions.
    pub fn instruction_lines(&self) -> Vec<u32> {
        fn of(body: &[Stmt], lines: &mut Vec<u32>) {
            for stmt in body {
                match &stmt.kind {
                    StmtKind::Instr(instr) => lines.push(instr.pos.line),
                    StmtKind::Block(body) => of(body, lines),
                    _ => {}
                }
            }
        }
        let mut lines = Vec::new();
        for item in &self.items {
            if let Item::Func(Func { body: Some(body), .. }) = item {
                of(body, &mut lines);
            }
        }
        lines
    }

    /// Parses PTX text.
    ///
    /// # Errors
    /// The first syntax error with its line and column.
    pub fn parse(text: &str) -> Result<Ast, ParseError> {
        super::parser::parse(text)
    }

    /// The module as PTX text.
    pub fn print(&self) -> String {
        super::printer::print(self)
    }

    /// Whether two trees are equal apart from positions.
    pub fn same(&self, other: &Ast) -> bool {
        let (mut a, mut b) = (self.clone(), other.clone());
        a.clear_positions();
        b.clear_positions();
        a == b
    }

    fn clear_positions(&mut self) {
        for item in &mut self.items {
            match item {
                Item::Var(v) => v.pos = Pos::default(),
                Item::Func(f) => {
                    f.pos = Pos::default();
                    f.rets.iter_mut().chain(&mut f.params).for_each(|v| v.pos = Pos::default());
                    if let Some(body) = &mut f.body {
                        clear_body(body);
                    }
                }
                _ => {}
            }
        }
    }
}

fn clear_body(body: &mut [Stmt]) {
    for stmt in body {
        stmt.pos = Pos::default();
        match &mut stmt.kind {
            StmtKind::Var(v) => v.pos = Pos::default(),
            StmtKind::Instr(i) => i.pos = Pos::default(),
            StmtKind::Block(b) => clear_body(b),
            StmtKind::Prototype { rets, params, .. } => {
                rets.iter_mut().chain(params).for_each(|v| v.pos = Pos::default());
            }
            _ => {}
        }
    }
}
