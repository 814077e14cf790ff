//! One function: declarations, labels, instructions.

use super::builder::{FuncBuilder, RegKey, Sym, Use, Width};
use super::cx::{Cx, Res, full_name};
use super::op::{Class, Guard, Op};
use super::{Code, Formal, Globals, Info, ParamInfo, cfg, defined, opcode, var_align, var_bytes};
use crate::syntax::Pos;
use crate::syntax::ast::{Func, Space, Stmt, StmtKind, Var};
use crate::vm::regs::SINK;

pub(super) struct Body<'g> {
    pub(super) fb: FuncBuilder,
    pub(super) globals: &'g mut Globals,
    ops: Vec<Op>,
    guards: Vec<Guard>,
    info: Vec<Info>,
    loc: Option<(u64, u64)>,
    /// Register uses of each instruction.
    uses: Vec<Vec<(RegKey, Use)>>,
    /// Branches whose label numbers become instruction numbers at the end.
    label_uses: Vec<(usize, Pos)>,
}

pub(super) fn decode(f: &Func, globals: &mut Globals) -> Res<Code> {
    let mut body = Body {
        fb: FuncBuilder::new(f.is_entry, globals.names.clone()),
        globals,
        ops: Vec::new(),
        guards: Vec::new(),
        info: Vec::new(),
        uses: Vec::new(),
        loc: None,
        label_uses: Vec::new(),
    };
    let mut params = Vec::new();
    let mut param_bytes = 0u64;
    let mut formals = Vec::new();
    let mut results = Vec::new();
    for v in &f.params {
        if f.is_entry {
            let bytes = sized(v)?;
            let offset = param_bytes.next_multiple_of(u64::from(var_align(v)));
            param_bytes = offset + bytes;
            if param_bytes > 32764 {
                return Err(v.pos.err("kernel parameters are limited to 32764 bytes"));
            }
            let (o, b) = (offset as u32, bytes as u32);
            body.declare(v.pos, &v.name, Sym::KernelParam(o))?;
            params.push(ParamInfo {
                name: v.name.clone(),
                offset: o,
                bytes: b,
                ty: v.ty,
                is_array: !v.dims.is_empty(),
            });
        } else {
            formals.push(body.formal(v)?);
        }
    }
    for v in &f.rets {
        results.push(body.formal(v)?);
    }
    if let Some(stmts) = &f.body {
        body.stmts(stmts)?;
        // Falling off the end returns.
        body.push(Op::Ret, Guard::NONE, f.pos, "ret", Class::Branch);
        body.resolve_labels()?;
    }
    let blocks = cfg::Blocks::new(&body.ops, &body.guards);
    let meet = cfg::meeting_points(&body.ops, &blocks);
    let formal_regs = formals.iter().filter_map(|f| match f {
        Formal::Reg(width, slot) => Some((*width, *slot)),
        Formal::Mem { .. } => None,
    });
    let watch = defined::analyse(&blocks, &body.guards, &body.uses, formal_regs, &body.fb);
    let mut callees = Vec::new();
    let mut indirect = false;
    let mut partial_barriers = false;
    for op in &body.ops {
        match op {
            Op::Call(c) => match c.callee {
                super::op::Callee::Direct(i) => callees.push(i),
                super::op::Callee::Indirect(_) => indirect = true,
            },
            Op::Bar(b) => {
                partial_barriers |= b.count.is_some() || !b.aligned || b.kind == super::op::BarKind::Arrive;
            }
            Op::Mbar(_) => partial_barriers = true,
            _ => {}
        }
    }
    callees.sort_unstable();
    callees.dedup();
    let directive = |name: &str| f.directives.iter().find(|d| d.name == name).map(|d| &d.args);
    let required_threads = directive("reqntid").map(|a| {
        let axis = |i: usize| a.get(i).copied().unwrap_or(1) as u32;
        [axis(0), axis(1), axis(2)]
    });
    let max_threads = directive("maxntid").map(|a| a.iter().fold(1u64, |n, v| n.saturating_mul(*v)));
    let fb = body.fb;
    Ok(Code {
        name: f.name.clone(),
        is_entry: f.is_entry,
        ops: body.ops,
        guards: body.guards,
        meet,
        watch,
        info: body.info,
        n32: fb.n32,
        n64: fb.n64,
        np: fb.np,
        initials: fb.initials,
        pred_consts: fb.pred_consts,
        local_bytes: fb.local_bytes,
        params,
        param_bytes: param_bytes as u32,
        formals,
        results,
        callees,
        indirect,
        partial_barriers,
        required_threads,
        max_threads,
    })
}

fn sized(v: &Var) -> Res<u64> {
    var_bytes(v)?.ok_or_else(|| v.pos.err(format!("`{}` needs a size", v.name)))
}

impl Body<'_> {
    fn declare(&mut self, pos: Pos, name: &str, sym: Sym) -> Res<()> {
        self.fb.declare(name, sym).map_err(|m| pos.err(m))
    }

    fn formal(&mut self, v: &Var) -> Res<Formal> {
        if v.space == Space::Reg {
            let width = Width::of(v.ty);
            if v.vector > 1 || width == Width::W128 {
                return Err(v.pos.err(format!(
                    "`{}`: parameters in vector registers or registers of 128 bits are not supported; use `.param`",
                    v.name
                )));
            }
            let slot = self.fb.new_slot(width);
            self.declare(v.pos, &v.name, Sym::Reg(width, slot))?;
            return Ok(Formal::Reg(width, slot));
        }
        let (offset, bytes) = self.local(v)?;
        self.declare(v.pos, &v.name, Sym::FrameParam(offset, bytes))?;
        Ok(Formal::Mem { offset, bytes })
    }

    fn local(&mut self, v: &Var) -> Res<(u32, u32)> {
        let bytes = sized(v)?;
        match self.fb.reserve_local(bytes, var_align(v)) {
            Some(offset) => Ok((offset, bytes as u32)),
            None => Err(v.pos.err("local memory of one thread is limited to 512 KiB")),
        }
    }

    fn push(&mut self, op: Op, guard: Guard, pos: Pos, opcode: &str, class: Class) {
        self.ops.push(op);
        self.guards.push(guard);
        self.uses.push(std::mem::take(&mut self.fb.uses));
        self.info.push(Info { pos, opcode: opcode.into(), class, loc: self.loc });
    }

    fn stmts(&mut self, stmts: &[Stmt]) -> Res<()> {
        // Labels of a scope are visible before they are reached.
        for s in stmts {
            match &s.kind {
                StmtKind::Label(name) => {
                    let label = self.fb.new_label();
                    self.declare(s.pos, name, Sym::Label(label))?;
                }
                StmtKind::Targets { name, targets, .. } => {
                    self.declare(s.pos, name, Sym::Targets(targets.clone()))?;
                }
                StmtKind::Prototype { name, .. } => self.declare(s.pos, name, Sym::Prototype)?,
                _ => {}
            }
        }
        for s in stmts {
            self.stmt(s)?;
        }
        Ok(())
    }

    fn stmt(&mut self, s: &Stmt) -> Res<()> {
        match &s.kind {
            StmtKind::Reg { ty, vector, names } => {
                let width = Width::of(*ty);
                if *vector > 1 {
                    return self.vectors(s.pos, width, *vector, names);
                }
                for (name, count) in names {
                    match count {
                        Some(n) => self.fb.declare_range(name, width, *n).map_err(|m| s.pos.err(m))?,
                        None => self.declare(s.pos, name, Sym::Reg(width, SINK))?,
                    }
                }
                Ok(())
            }
            StmtKind::Var(v) => {
                let sym = match v.space {
                    Space::Local => {
                        let (o, b) = self.local(v)?;
                        Sym::Local(o, b)
                    }
                    Space::Param => {
                        let (o, b) = self.local(v)?;
                        Sym::FrameParam(o, b)
                    }
                    Space::Shared | Space::Global | Space::Const => self.globals.add_var(v)?,
                    Space::Reg | Space::Generic => return Err(s.pos.err("a variable needs a memory space")),
                };
                self.declare(v.pos, &v.name, sym)
            }
            StmtKind::Label(name) => {
                if let Some(Sym::Label(l)) = self.fb.lookup(name) {
                    self.fb.labels[l as usize] = Some(self.ops.len() as u32);
                }
                Ok(())
            }
            StmtKind::Loc(l) => {
                self.loc = Some((l.file, l.line));
                Ok(())
            }
            StmtKind::Block(inner) => {
                self.fb.push_scope();
                let r = self.stmts(inner);
                self.fb.pop_scope();
                r
            }
            StmtKind::Instr(i) => {
                let mut cx = Cx { instr: i, at: 0, fb: &mut self.fb };
                let guard = match &i.guard {
                    None => Guard::NONE,
                    Some((name, negated)) => match cx.fb.lookup(name) {
                        Some(Sym::Reg(Width::Pred, slot)) => {
                            cx.fb.note(name, Width::Pred, slot, Use::Guard);
                            Guard(slot << 1 | u32::from(*negated))
                        }
                        Some(_) => {
                            return Err(i.pos.err(format!("guard `{name}` is not a predicate register")));
                        }
                        None => return Err(i.pos.err(format!("`{name}` is not declared"))),
                    },
                };
                let (op, class) = opcode::decode(&mut cx, self.globals)?;
                if matches!(op, Op::Bra { .. } | Op::BrxIdx { .. }) {
                    self.label_uses.push((self.ops.len(), i.pos));
                }
                self.push(op, guard, i.pos, &full_name(i), class);
                Ok(())
            }
            StmtKind::Pragma(_) | StmtKind::Targets { .. } | StmtKind::Prototype { .. } => Ok(()),
        }
    }

    /// `.reg .v4 .f32 a, b<2>;`: every element becomes a register of its own.
    fn vectors(&mut self, pos: Pos, width: Width, n: u32, names: &[(String, Option<u32>)]) -> Res<()> {
        for (name, count) in names {
            let all: Vec<String> = match count {
                Some(k) if *k > 4096 => return Err(pos.err("at most 4096 vector registers are supported")),
                Some(k) => (0..*k).map(|i| format!("{name}{i}")).collect(),
                None => vec![name.clone()],
            };
            for name in all {
                for element in super::cx::ELEMENTS.iter().take(n as usize) {
                    self.declare(pos, &format!("{name}.{element}"), Sym::Reg(width, SINK))?;
                }
                self.declare(pos, &name, Sym::Vector(n))?;
            }
        }
        Ok(())
    }

    fn resolve_labels(&mut self) -> Res<()> {
        for (at, pos) in &self.label_uses {
            let labels = &self.fb.labels;
            let resolve = |l: &mut u32| match labels.get(*l as usize) {
                Some(Some(pc)) => {
                    *l = *pc;
                    Ok(())
                }
                _ => Err(pos.err("branch to a label that is never placed")),
            };
            match &mut self.ops[*at] {
                Op::Bra { target, .. } => resolve(target)?,
                Op::BrxIdx { targets, .. } => targets.iter_mut().try_for_each(resolve)?,
                _ => {}
            }
        }
        Ok(())
    }
}
