//! What an instruction decoder sees: modifiers to consume and operands to resolve.

use super::builder::{FuncBuilder, Sym, Use, Width};
use super::op::{Addr, Initial, Reg, Special};
use crate::error::ParseError;
use crate::syntax::ast::{Address, Expr, Instr, Operand};
use crate::ty::Ty;
use crate::vm::regs::{Args, SINK};
use std::borrow::Cow;

/// Element names of a vector register.
pub(crate) const ELEMENTS: [&str; 4] = ["x", "y", "z", "w"];

pub(crate) type Res<T> = Result<T, ParseError>;

pub(crate) struct Cx<'a, 'b> {
    pub(crate) instr: &'a Instr,
    pub(crate) at: usize,
    pub(crate) fb: &'b mut FuncBuilder,
}

impl<'a> Cx<'a, '_> {
    pub(crate) fn err<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(self.instr.pos.err(message))
    }

    pub(crate) fn opcode(&self) -> String {
        full_name(self.instr)
    }

    // ---- modifiers ----

    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.instr.mods.get(self.at).map(String::as_str)
    }

    /// Consumes `name` if it is next.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let yes = self.peek() == Some(name);
        if yes {
            self.at += 1;
        }
        yes
    }

    /// Consumes the next modifier if it is one of `names`.
    pub(crate) fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        let m = self.peek()?;
        let found = names.iter().copied().find(|n| *n == m)?;
        self.at += 1;
        Some(found)
    }

    pub(crate) fn need(&mut self, names: &[&'static str]) -> Res<&'static str> {
        match self.one_of(names) {
            Some(n) => Ok(n),
            None => {
                let wanted: Vec<String> = names.iter().map(|n| format!("`.{n}`")).collect();
                self.bad_modifier(&wanted.join(", "))
            }
        }
    }

    fn bad_modifier<T>(&self, wanted: &str) -> Res<T> {
        let base = &self.instr.base;
        match self.peek() {
            Some(m) => {
                // Column of the modifier itself.
                let before: usize = self.instr.mods[..self.at].iter().map(|m| m.len() + 1).sum();
                let mut pos = self.instr.pos;
                pos.col += (base.len() + before) as u32;
                Err(pos.err(format!("unknown modifier `.{m}` in `{}`; expected {wanted}", self.opcode())))
            }
            None => self.err(format!("`{}` lacks a modifier: expected {wanted}", self.opcode())),
        }
    }

    /// Consumes the next modifier, which must be a type.
    pub(crate) fn ty(&mut self) -> Res<Ty> {
        match self.peek().and_then(Ty::from_name) {
            Some(t) => {
                self.at += 1;
                Ok(t)
            }
            None => self.bad_modifier("a type"),
        }
    }

    pub(crate) fn opt_ty(&mut self) -> Option<Ty> {
        let t = self.peek().and_then(Ty::from_name)?;
        self.at += 1;
        Some(t)
    }

    /// Every modifier must have been consumed and the operand count must be within the range.
    pub(crate) fn done(&self, least: usize, most: usize) -> Res<()> {
        if self.at < self.instr.mods.len() {
            return self.bad_modifier("no further modifier");
        }
        let n = self.instr.operands.len();
        if n < least || n > most {
            let want = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            return self.err(format!("`{}` takes {want} operands, found {n}", self.opcode()));
        }
        Ok(())
    }

    pub(crate) fn unsupported<T>(&self, why: &str) -> Res<T> {
        self.err(format!("`{}` is not supported: {why}", self.opcode()))
    }

    // ---- operands ----

    pub(crate) fn operand(&self, i: usize) -> Res<&'a Operand> {
        match self.instr.operands.get(i) {
            Some(o) => Ok(o),
            None => self.err(format!("`{}` lacks operand {}", self.opcode(), i + 1)),
        }
    }

    pub(crate) fn has(&self, i: usize) -> bool {
        i < self.instr.operands.len()
    }

    fn width_of(ty: Ty) -> Width {
        match ty.bits() {
            1 if ty == Ty::Pred => Width::Pred,
            64 => Width::W64,
            128 => Width::W128,
            16 | 8 | 4 | 1 => Width::W16,
            _ => Width::W32,
        }
    }

    fn reg_named(&mut self, name: &str, how: Use) -> Res<(Width, u32)> {
        match self.fb.lookup(name) {
            Some(Sym::Reg(w, slot)) => {
                self.fb.note(name, w, slot, how);
                Ok((w, slot))
            }
            Some(_) => self.err(format!("`{name}` is not a register")),
            None => self.err(format!("`{name}` is not declared")),
        }
    }

    /// Destination register that must hold exactly `ty`; `_` is a sink.
    pub(crate) fn dst(&mut self, i: usize, ty: Ty) -> Res<u32> {
        let o = self.operand(i)?;
        self.dst_of(o, ty)
    }

    pub(crate) fn dst_of(&mut self, o: &Operand, ty: Ty) -> Res<u32> {
        if let Some(e) = self.element(o) {
            return self.dst_of(&e, ty);
        }
        match o {
            Operand::Sink => Ok(SINK),
            Operand::Name(n) => {
                let (w, slot) = self.reg_named(n, Use::Write)?;
                let want = Self::width_of(ty);
                if !w.fits(want) {
                    return self.err(format!(
                        "`{}` writes a {}-bit value, but `{n}` is a {} register",
                        self.opcode(),
                        ty.bits(),
                        w.describe()
                    ));
                }
                Ok(slot)
            }
            _ => self.err(format!("`{}` needs a register as its destination", self.opcode())),
        }
    }

    /// Destination of a load or conversion, which may be wider than the type.
    pub(crate) fn dst_wide_of(&mut self, o: &Operand, ty: Ty) -> Res<Reg> {
        if let Some(e) = self.element(o) {
            return self.dst_wide_of(&e, ty);
        }
        match o {
            Operand::Sink => Ok(Reg::Sink),
            Operand::Name(n) => {
                let (w, slot) = self.reg_named(n, Use::Write)?;
                self.wide(n, w, slot, ty)
            }
            _ => self.err(format!("`{}` needs a register here", self.opcode())),
        }
    }

    fn wide(&self, name: &str, w: Width, slot: u32, ty: Ty) -> Res<Reg> {
        if w == Width::Pred || w == Width::W128 || w.bits() < ty.bits() {
            return self.err(format!(
                "`{}` moves {} bits, but `{name}` is a {} register",
                self.opcode(),
                ty.bits(),
                w.describe()
            ));
        }
        Ok(match w {
            Width::W64 => Reg::R64(slot),
            Width::W16 => Reg::R16(slot),
            _ => Reg::R32(slot),
        })
    }

    pub(crate) fn dst_wide(&mut self, i: usize, ty: Ty) -> Res<Reg> {
        let o = self.operand(i)?;
        self.dst_wide_of(o, ty)
    }

    /// Source that may be a register wider than the type (stores, conversions).
    pub(crate) fn src_wide_of(&mut self, o: &Operand, ty: Ty) -> Res<Reg> {
        if let Some(e) = self.element(o) {
            return self.src_wide_of(&e, ty);
        }
        if let Operand::Name(n) = o
            && let Some(Sym::Reg(w, slot)) = self.fb.lookup(n)
        {
            self.fb.note(n, w, slot, Use::Value);
            return self.wide(n, w, slot, ty);
        }
        let slot = self.src_of(o, ty)?;
        Ok(if ty.bits() == 64 { Reg::R64(slot) } else { Reg::R32(slot) })
    }

    pub(crate) fn src_wide(&mut self, i: usize, ty: Ty) -> Res<Reg> {
        let o = self.operand(i)?;
        self.src_wide_of(o, ty)
    }

    /// Source of exactly `ty`: a register or constant slot.
    pub(crate) fn src(&mut self, i: usize, ty: Ty) -> Res<u32> {
        let o = self.operand(i)?;
        self.src_of(o, ty)
    }

    pub(crate) fn src_of(&mut self, o: &Operand, ty: Ty) -> Res<u32> {
        self.source(o, ty, Use::Value)
    }

    /// Source that steers execution: a membermask, a barrier's number or count, the index of a branch, a stride.
    pub(crate) fn control(&mut self, i: usize, ty: Ty) -> Res<u32> {
        let o = self.operand(i)?;
        self.source(o, ty, Use::Control)
    }

    fn source(&mut self, o: &Operand, ty: Ty, how: Use) -> Res<u32> {
        if let Some(e) = self.element(o) {
            return self.source(&e, ty, how);
        }
        let want = Self::width_of(ty);
        match o {
            Operand::Name(n) => match self.fb.lookup(n) {
                Some(Sym::Reg(w, slot)) => {
                    if !w.fits(want) {
                        return self.err(format!(
                            "`{}` reads a {}-bit value, but `{n}` is a {} register",
                            self.opcode(),
                            ty.bits(),
                            w.describe()
                        ));
                    }
                    self.fb.note(n, w, slot, how);
                    Ok(slot)
                }
                Some(sym) => {
                    let Some((initial, offset)) = self.fb.address_of(&sym) else {
                        return self.err(format!("`{n}` cannot be an operand of `{}`", self.opcode()));
                    };
                    Ok(self.fb.initial_at(want == Width::W64, initial, offset))
                }
                None => self.special(n, "", ty),
            },
            Operand::Field(n, f) => self.special(n, f, ty),
            Operand::Imm(e) => {
                if let Some((name, offset)) = symbol_sum(e) {
                    let Some(sym) = self.fb.lookup(name) else {
                        return self.err(format!("`{name}` is not declared"));
                    };
                    let Some((initial, base)) = self.fb.address_of(&sym) else {
                        return self.err(format!("`{name}` has no address"));
                    };
                    return Ok(self.fb.initial_at(want == Width::W64, initial, base.wrapping_add(offset)));
                }
                let bits = self.imm(e, ty)?;
                Ok(self.fb.constant(want == Width::W64, bits))
            }
            _ => self.err(format!("this operand is not allowed in `{}`", self.opcode())),
        }
    }

    /// Constant expression as bits of `ty`.
    pub(crate) fn imm(&self, e: &Expr, ty: Ty) -> Res<u64> {
        let v = match super::consts::eval(e) {
            Ok(v) => v,
            Err(m) => return self.err(m),
        };
        if matches!(v, super::consts::Const::F64(_)) && !(ty.is_float() || ty.bits() == 64) {
            return self.err(format!("a floating-point constant is not a `.{}` operand", ty.name()));
        }
        Ok(v.bits_of(ty))
    }

    /// The value of an operand that is a constant number.
    pub(crate) fn known(&self, i: usize) -> Res<Option<u64>> {
        match self.operand(i)? {
            Operand::Imm(e) if symbol_sum(e).is_none() => self.imm(e, Ty::U32).map(Some),
            _ => Ok(None),
        }
    }

    /// Integer constant that the encoding needs at assembly time.
    pub(crate) fn const_int(&self, i: usize) -> Res<u64> {
        match self.operand(i)? {
            Operand::Imm(e) => self.imm(e, Ty::U64),
            _ => self.err(format!("operand {} of `{}` must be a constant", i + 1, self.opcode())),
        }
    }

    fn special(&mut self, name: &str, field: &str, ty: Ty) -> Res<u32> {
        let wide = Self::width_of(ty) == Width::W64;
        if name == "WARP_SZ" {
            return Ok(self.fb.constant(wide, 32));
        }
        let axis = match field {
            "x" | "" => 0,
            "y" => 1,
            "z" => 2,
            "w" => 3,
            _ => return self.err(format!("unknown component `.{field}` of `{name}`")),
        };
        let s = match name {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            "%laneid" => Special::LaneId,
            "%warpid" => Special::WarpId,
            "%nwarpid" => Special::NWarpId,
            "%smid" => Special::SmId,
            "%nsmid" => Special::NSmId,
            "%gridid" => Special::GridId,
            "%lanemask_eq" => Special::LaneMaskEq,
            "%lanemask_lt" => Special::LaneMaskLt,
            "%lanemask_le" => Special::LaneMaskLe,
            "%lanemask_gt" => Special::LaneMaskGt,
            "%lanemask_ge" => Special::LaneMaskGe,
            "%dynamic_smem_size" => Special::DynamicSmem,
            "%total_smem_size" | "%aggr_smem_size" => Special::TotalSmem,
            // Every block is its own cluster.
            "%clusterid" => Special::Ctaid(axis),
            "%nclusterid" => Special::Nctaid(axis),
            "%cluster_ctaid" | "%cluster_ctarank" => Special::Zero,
            "%cluster_nctaid" | "%cluster_nctarank" | "%is_explicit_cluster" => {
                if name == "%is_explicit_cluster" { Special::Zero } else { Special::One }
            }
            "%reserved_smem_offset_begin" | "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => {
                Special::Zero
            }
            _ if name.starts_with('%') && self.fb.is_special_name(name) => {
                return self.err(format!("special register `{name}` is not supported here"));
            }
            _ => return self.err(format!("`{name}` is not declared")),
        };
        Ok(self.fb.initial(wide, Initial::Special(s)))
    }

    /// Predicate source `p` or `!p`, encoded as slot and negation.
    pub(crate) fn pred(&mut self, i: usize) -> Res<u32> {
        let o = self.operand(i)?;
        self.pred_of(o)
    }

    pub(crate) fn pred_of(&mut self, o: &Operand) -> Res<u32> {
        match o {
            Operand::Not(inner) => Ok(self.pred_of(inner)? ^ 1),
            Operand::Name(n) => match self.reg_named(n, Use::Value)? {
                (Width::Pred, slot) => Ok(slot << 1),
                (w, _) => self.err(format!("`{n}` is a {} register, not a predicate", w.describe())),
            },
            Operand::Imm(e) => {
                let v = self.imm(e, Ty::U64)?;
                Ok(self.fb.const_pred(v != 0) << 1)
            }
            _ => self.err(format!("`{}` needs a predicate here", self.opcode())),
        }
    }

    pub(crate) fn pred_dst_of(&mut self, o: &Operand) -> Res<u32> {
        self.dst_of(o, Ty::Pred)
    }

    /// `d` or `d|p` as a register and a predicate destination.
    pub(crate) fn dst_pair(&mut self, i: usize, ty: Ty) -> Res<(u32, u32)> {
        match self.operand(i)? {
            Operand::Pair(a, b) => Ok((self.dst_of(a, ty)?, self.pred_dst_of(b)?)),
            o => Ok((self.dst_of(o, ty)?, SINK)),
        }
    }

    pub(crate) fn addr(&mut self, i: usize) -> Res<Addr> {
        match self.operand(i)? {
            Operand::Address(a) => self.addr_of(a),
            _ => self.err(format!("operand {} of `{}` must be an address `[...]`", i + 1, self.opcode())),
        }
    }

    pub(crate) fn addr_of(&mut self, a: &Address) -> Res<Addr> {
        let Some(name) = &a.base else {
            let slot = self.fb.constant(true, a.offset as u64);
            return Ok(Addr { base: Reg::R64(slot), offset: 0 });
        };
        match self.fb.lookup(name) {
            Some(Sym::Reg(w @ (Width::W64 | Width::W32), slot)) => {
                self.fb.note(name, w, slot, Use::Control);
                let base = if w == Width::W64 { Reg::R64(slot) } else { Reg::R32(slot) };
                Ok(Addr { base, offset: a.offset })
            }
            Some(Sym::Reg(w, _)) => {
                self.err(format!("`{name}` is a {} register; an address needs 32 or 64 bits", w.describe()))
            }
            Some(sym) => match self.fb.address_of(&sym) {
                Some((initial, offset)) => {
                    let slot = self.fb.initial(true, initial);
                    Ok(Addr { base: Reg::R64(slot), offset: a.offset.wrapping_add(offset) })
                }
                None => self.err(format!("`{name}` has no address")),
            },
            None => self.err(format!("`{name}` is not declared")),
        }
    }

    /// The elements of `{a, b, ..}`, or the operand itself.
    pub(crate) fn elements(&mut self, i: usize) -> Res<Vec<Cow<'a, Operand>>> {
        let o = self.operand(i)?;
        if let Operand::Vector(list) = o {
            return Ok(list.iter().map(Cow::Borrowed).collect());
        }
        if let Operand::Name(n) = o
            && let Some(Sym::Vector(count)) = self.fb.lookup(n)
        {
            let field = |f: &&str| Cow::Owned(Operand::Field(n.clone(), (*f).to_string()));
            return Ok(ELEMENTS.iter().take(count as usize).map(field).collect());
        }
        Ok(vec![Cow::Borrowed(o)])
    }

    /// `v.x` of a vector register, as the name of that element's register.
    fn element(&mut self, o: &Operand) -> Option<Operand> {
        let Operand::Field(n, f) = o else { return None };
        let name = format!("{n}.{f}");
        matches!(self.fb.lookup(&name), Some(Sym::Reg(..))).then_some(Operand::Name(name))
    }

    // ---- common shapes ----

    /// `d, a` of one type.
    pub(crate) fn args1(&mut self, d: Ty, a: Ty) -> Res<Args> {
        Ok(Args { d: self.dst(0, d)?, s: [self.src(1, a)?, 0, 0, 0], ..Args::default() })
    }

    /// `d, a, b`.
    pub(crate) fn args2(&mut self, d: Ty, a: Ty, b: Ty) -> Res<Args> {
        Ok(Args { d: self.dst(0, d)?, s: [self.src(1, a)?, self.src(2, b)?, 0, 0], ..Args::default() })
    }

    /// `d, a, b, c`.
    pub(crate) fn args3(&mut self, d: Ty, a: Ty, b: Ty, c: Ty) -> Res<Args> {
        Ok(Args {
            d: self.dst(0, d)?,
            s: [self.src(1, a)?, self.src(2, b)?, self.src(3, c)?, 0],
            ..Args::default()
        })
    }

    pub(crate) fn no_form<T>(&self) -> Res<T> {
        self.err(format!("`{}` is not a form of `{}` in PTX", self.opcode(), self.instr.base))
    }
}

/// The full dotted opcode.
pub(crate) fn full_name(i: &Instr) -> String {
    let mut s = i.base.clone();
    for m in &i.mods {
        s.push('.');
        s.push_str(m);
    }
    s
}

/// `sym`, `sym + n`, `sym - n` as name and offset.
fn symbol_sum(e: &Expr) -> Option<(&str, i64)> {
    match e {
        Expr::Sym(s) => Some((s, 0)),
        Expr::Generic(e) => symbol_sum(e),
        Expr::Binary(op, a, b) => {
            let (s, o) = symbol_sum(a)?;
            let v = super::consts::eval(b).ok()?.bits_of(Ty::S64) as i64;
            match op.as_str() {
                "+" => Some((s, o.wrapping_add(v))),
                "-" => Some((s, o.wrapping_sub(v))),
                _ => None,
            }
        }
        _ => None,
    }
}
