//! The syntax tree back to PTX text.

use super::ast::*;
use std::fmt::Write as _;

pub(super) fn print(ast: &Ast) -> String {
    let mut p = Printer { out: String::new(), indent: 0 };
    p.module(ast);
    p.out
}

struct Printer {
    out: String,
    indent: usize,
}

/// Writing to a `String` cannot fail; this keeps the call sites short.
macro_rules! put {
    ($p:expr, $($arg:tt)*) => {{
        let _ = write!($p.out, $($arg)*);
    }};
}

impl Printer {
    fn line_start(&mut self) {
        for _ in 0..self.indent {
            self.out.push('\t');
        }
    }

    fn module(&mut self, ast: &Ast) {
        put!(self, ".version {}.{}\n", ast.version.0, ast.version.1);
        put!(self, ".target {}\n", ast.target.join(", "));
        put!(self, ".address_size {}\n\n", ast.address_size);
        for item in &ast.items {
            match item {
                Item::Var(v) => {
                    self.var(v);
                    self.out.push_str(";\n");
                }
                Item::Func(f) => self.func(f),
                Item::File { index, name, stat } => {
                    put!(self, ".file {index} \"{name}\"");
                    for s in stat {
                        put!(self, ", {s}");
                    }
                    self.out.push('\n');
                }
                Item::Section { name, body } => self.section(name, body),
                Item::Pragma(list) => {
                    self.pragma(list);
                    self.out.push('\n');
                }
                Item::Alias(a, b) => {
                    put!(self, ".alias {a}, {b};\n");
                }
            }
        }
    }

    fn section(&mut self, name: &str, body: &[String]) {
        put!(self, ".section {name}\n{{");
        for tok in body {
            // Data directives and labels each start a line.
            let starts = tok.starts_with('.') || tok == "}";
            self.out.push(if starts { '\n' } else { ' ' });
            self.out.push_str(tok);
        }
        self.out.push_str("\n}\n");
    }

    fn pragma(&mut self, list: &[String]) {
        let quoted: Vec<String> = list.iter().map(|s| format!("\"{s}\"")).collect();
        put!(self, ".pragma {};", quoted.join(", "));
    }

    fn linkage(&mut self, linkage: Linkage) {
        self.out.push_str(match linkage {
            Linkage::None => "",
            Linkage::Visible => ".visible ",
            Linkage::Extern => ".extern ",
            Linkage::Weak => ".weak ",
            Linkage::Common => ".common ",
        });
    }

    fn var(&mut self, v: &Var) {
        self.linkage(v.linkage);
        put!(self, ".{}", space_name(v.space));
        for a in &v.attributes {
            put!(self, " .attribute({a})");
        }
        if let Some(n) = v.align {
            put!(self, " .align {n}");
        }
        if v.vector > 1 {
            put!(self, " .v{}", v.vector);
        }
        put!(self, " .{}", v.ty.name());
        if let Some(ptr) = &v.ptr {
            self.out.push_str(" .ptr");
            if let Some(space) = ptr.space {
                put!(self, " .{}", space_name(space));
            }
            if let Some(n) = ptr.align {
                put!(self, " .align {n}");
            }
        }
        put!(self, " {}", v.name);
        for d in &v.dims {
            match d {
                Some(n) => put!(self, "[{n}]"),
                None => self.out.push_str("[]"),
            }
        }
        if let Some(init) = &v.init {
            self.out.push_str(" = ");
            self.init(init);
        }
    }

    fn init(&mut self, init: &Init) {
        match init {
            Init::Value(e) => self.expr(e),
            Init::List(list) => {
                self.out.push('{');
                for (i, e) in list.iter().enumerate() {
                    if i > 0 {
                        self.out.push_str(", ");
                    }
                    self.init(e);
                }
                self.out.push('}');
            }
        }
    }

    fn expr(&mut self, e: &Expr) {
        match e {
            Expr::Int(v, u) => {
                put!(self, "{v}{}", if *u { "U" } else { "" });
            }
            Expr::F32(b) => {
                put!(self, "0f{b:08X}");
            }
            Expr::F64(b) => {
                put!(self, "0d{b:016X}");
            }
            Expr::Sym(s) => self.out.push_str(s),
            Expr::Generic(e) => {
                self.out.push_str("generic(");
                self.expr(e);
                self.out.push(')');
            }
            Expr::Mask(m, e) => {
                put!(self, "{m}(");
                self.expr(e);
                self.out.push(')');
            }
            Expr::Unary(c, e) => {
                self.out.push(*c);
                self.operand_expr(e);
            }
            Expr::Binary(op, a, b) => {
                match &**a {
                    // `name + 4 + 4` may not be written with parentheses, and needs none.
                    Expr::Binary(first, ..) if op == "+" && first == "+" => self.expr(a),
                    a => self.operand_expr(a),
                }
                put!(self, " {op} ");
                self.operand_expr(b);
            }
            Expr::Select(c, a, b) => {
                self.operand_expr(c);
                self.out.push_str(" ? ");
                self.operand_expr(a);
                self.out.push_str(" : ");
                self.operand_expr(b);
            }
        }
    }

    /// A sub-expression, in parentheses unless it is a single token.
    fn operand_expr(&mut self, e: &Expr) {
        let compound = matches!(e, Expr::Unary(..) | Expr::Binary(..) | Expr::Select(..));
        if compound {
            self.out.push('(');
        }
        self.expr(e);
        if compound {
            self.out.push(')');
        }
    }

    fn params(&mut self, params: &[Var]) {
        self.out.push('(');
        for (i, v) in params.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.var(v);
        }
        self.out.push(')');
    }

    fn func(&mut self, f: &Func) {
        self.linkage(f.linkage);
        self.out.push_str(if f.is_entry { ".entry " } else { ".func " });
        for a in &f.attributes {
            put!(self, ".attribute({a}) ");
        }
        if !f.rets.is_empty() {
            self.params(&f.rets);
            self.out.push(' ');
        }
        self.out.push_str(&f.name);
        self.params(&f.params);
        for d in &f.directives {
            self.out.push('\n');
            if d.name == "pragma" {
                self.pragma(&d.strings);
            } else {
                let args: Vec<String> = d.args.iter().map(u64::to_string).collect();
                put!(self, ".{} {}", d.name, args.join(", "));
            }
        }
        match &f.body {
            None => self.out.push_str(";\n\n"),
            Some(body) => {
                self.out.push_str("\n{\n");
                self.indent = 1;
                self.stmts(body);
                self.indent = 0;
                self.out.push_str("}\n\n");
            }
        }
    }

    fn stmts(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(&stmt.kind);
        }
    }

    fn stmt(&mut self, kind: &StmtKind) {
        if let StmtKind::Label(name) = kind {
            put!(self, "{name}:\n");
            return;
        }
        self.line_start();
        match kind {
            StmtKind::Label(_) => {}
            StmtKind::Reg { ty, vector, names } => {
                self.out.push_str(".reg ");
                if *vector > 1 {
                    put!(self, ".v{vector} ");
                }
                put!(self, ".{} ", ty.name());
                for (i, (name, count)) in names.iter().enumerate() {
                    put!(self, "{}{name}", if i > 0 { ", " } else { "" });
                    if let Some(n) = count {
                        put!(self, "<{n}>");
                    }
                }
                self.out.push(';');
            }
            StmtKind::Var(v) => {
                self.var(v);
                self.out.push(';');
            }
            StmtKind::Instr(i) => self.instr(i),
            StmtKind::Loc(l) => {
                put!(self, ".loc {} {} {}", l.file, l.line, l.col);
                if let Some((name, offset)) = &l.function {
                    put!(self, ", function_name {name}");
                    if let Some(n) = offset {
                        put!(self, " + {n}");
                    }
                }
                if let Some((f, line, col)) = l.inlined_at {
                    put!(self, ", inlined_at {f} {line} {col}");
                }
            }
            StmtKind::Pragma(list) => self.pragma(list),
            StmtKind::Block(body) => {
                self.out.push_str("{\n");
                self.indent += 1;
                self.stmts(body);
                self.indent -= 1;
                self.line_start();
                self.out.push('}');
            }
            StmtKind::Targets { name, call, targets } => {
                let which = if *call { "calltargets" } else { "branchtargets" };
                put!(self, "{name}: .{which} {};", targets.join(", "));
            }
            StmtKind::Prototype { name, rets, params, attributes } => {
                put!(self, "{name}: .callprototype ");
                if !rets.is_empty() {
                    self.params(rets);
                    self.out.push(' ');
                }
                self.out.push_str("_ ");
                self.params(params);
                for a in attributes {
                    put!(self, " .{a}");
                }
                self.out.push(';');
            }
        }
        self.out.push('\n');
    }

    fn instr(&mut self, i: &Instr) {
        if let Some((name, negated)) = &i.guard {
            put!(self, "@{}{name} ", if *negated { "!" } else { "" });
        }
        self.out.push_str(&i.base);
        for m in &i.mods {
            put!(self, ".{m}");
        }
        if !i.operands.is_empty() {
            self.out.push('\t');
            self.operands(&i.operands);
        }
        self.out.push(';');
    }

    fn operands(&mut self, list: &[Operand]) {
        for (i, o) in list.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.operand(o);
        }
    }

    fn operand(&mut self, o: &Operand) {
        match o {
            Operand::Name(n) => self.out.push_str(n),
            Operand::Field(n, f) => {
                put!(self, "{n}.{f}");
            }
            Operand::Imm(e) => self.expr(e),
            Operand::Not(o) => {
                self.out.push('!');
                self.operand(o);
            }
            Operand::Pair(a, b) => {
                self.operand(a);
                self.out.push('|');
                self.operand(b);
            }
            Operand::Vector(list) => {
                self.out.push('{');
                self.operands(list);
                self.out.push('}');
            }
            Operand::Address(a) => {
                self.out.push('[');
                self.address(a);
                self.out.push(']');
            }
            Operand::AddressList(list) => {
                self.out.push('[');
                for (i, o) in list.iter().enumerate() {
                    if i > 0 {
                        self.out.push_str(", ");
                    }
                    match o {
                        Operand::Address(a) if i == 0 => self.address(a),
                        o => self.operand(o),
                    }
                }
                self.out.push(']');
            }
            Operand::List(list) => {
                self.out.push('(');
                self.operands(list);
                self.out.push(')');
            }
            Operand::Sink => self.out.push('_'),
        }
    }

    fn address(&mut self, a: &Address) {
        // `-9223372036854775808` has no positive counterpart, hence the magnitude as u64.
        let magnitude = a.offset.unsigned_abs();
        match (&a.base, a.offset) {
            (Some(b), 0) => self.out.push_str(b),
            (Some(b), o) if o > 0 => {
                put!(self, "{b}+{o}");
            }
            (Some(b), _) => {
                put!(self, "{b}+-{magnitude}");
            }
            (None, o) if o < 0 => {
                put!(self, "-{magnitude}");
            }
            (None, o) => {
                put!(self, "{o}");
            }
        }
    }
}

fn space_name(space: Space) -> &'static str {
    match space {
        Space::Reg => "reg",
        Space::Global => "global",
        Space::Const => "const",
        Space::Shared => "shared",
        Space::Local => "local",
        Space::Param => "param",
        Space::Generic => "generic",
    }
}
