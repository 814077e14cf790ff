//! Branches, calls and returns.

use super::Globals;
use super::builder::{Sym, Use, Width};
use super::cx::{Cx, Res};
use super::op::{Call, Callee, Class, Op, Pass, Reg};
use crate::syntax::ast::Operand;
use crate::ty::Ty;

pub(super) fn decode(cx: &mut Cx<'_, '_>, globals: &Globals) -> Res<(Op, Class)> {
    let op = match cx.instr.base.as_str() {
        "bra" => {
            let uniform = cx.flag("uni");
            cx.done(1, 1)?;
            Op::Bra { target: label(cx, 0)?, uniform }
        }
        "brx" => {
            cx.need(&["idx"])?;
            let uniform = cx.flag("uni");
            cx.done(2, 2)?;
            let index = cx.control(0, Ty::U32)?;
            let Operand::Name(list) = cx.operand(1)? else {
                return cx.err("`brx.idx` needs the label of a `.branchtargets` list");
            };
            let Some(Sym::Targets(names)) = cx.fb.lookup(list) else {
                return cx.err(format!("`{list}` is not a `.branchtargets` list"));
            };
            let mut targets = Vec::with_capacity(names.len());
            for n in names {
                match cx.fb.lookup(&n) {
                    Some(Sym::Label(l)) => targets.push(l),
                    _ => return cx.err(format!("`{n}` is not a label of this function")),
                }
            }
            Op::BrxIdx { index, targets: targets.into(), uniform }
        }
        "call" => return Ok((call(cx, globals)?, Class::Branch)),
        "ret" => {
            cx.flag("uni");
            cx.done(0, 0)?;
            Op::Ret
        }
        "exit" => {
            cx.done(0, 0)?;
            Op::Exit
        }
        "trap" => {
            cx.done(0, 0)?;
            Op::Trap
        }
        "brkpt" => {
            cx.done(0, 0)?;
            return Ok((Op::Nop, Class::Other));
        }
        "nanosleep" => {
            cx.need(&["u32"])?;
            cx.done(1, 1)?;
            cx.src(0, Ty::U32)?;
            return Ok((Op::Nanosleep, Class::Other));
        }
        _ => {
            cx.flag("mask");
            cx.done(1, 1)?;
            return Ok((Op::Nop, Class::Other));
        }
    };
    Ok((op, Class::Branch))
}

fn label(cx: &mut Cx<'_, '_>, i: usize) -> Res<u32> {
    let Operand::Name(n) = cx.operand(i)? else {
        return cx.err(format!("`{}` needs a label", cx.opcode()));
    };
    match cx.fb.lookup(n) {
        Some(Sym::Label(l)) => Ok(l),
        Some(_) => cx.err(format!("`{n}` is not a label")),
        None => cx.err(format!("label `{n}` is not defined in this function")),
    }
}

fn pass(cx: &mut Cx<'_, '_>, o: &Operand, how: Use) -> Res<Pass> {
    match o {
        Operand::Sink => Ok(Pass::Reg(Reg::Sink)),
        Operand::Name(n) => match cx.fb.lookup(n) {
            Some(Sym::FrameParam(offset, bytes) | Sym::Local(offset, bytes)) => {
                Ok(Pass::Mem { offset, bytes })
            }
            Some(Sym::Reg(w, slot)) => {
                cx.fb.note(n, w, slot, how);
                Ok(match w {
                    Width::W16 => Pass::Reg(Reg::R16(slot)),
                    Width::W32 => Pass::Reg(Reg::R32(slot)),
                    Width::W64 => Pass::Reg(Reg::R64(slot)),
                    Width::Pred => Pass::Pred(slot),
                    Width::W128 => {
                        return cx.err(format!("`{n}` has 128 bits; pass it in a `.param` variable"));
                    }
                })
            }
            Some(_) => cx.err(format!("`{n}` cannot be passed to a function")),
            None => cx.err(format!("`{n}` is not declared")),
        },
        // A constant argument: its width is the callee's; 32 bits serve a register parameter of 32 bits.
        Operand::Imm(_) => Ok(Pass::Reg(Reg::R32(cx.src_of(o, Ty::B32)?))),
        _ => cx.err("this operand cannot be passed to a function"),
    }
}

/// `call (rets), callee, (args){, prototype or target list};` with both lists optional.
fn call(cx: &mut Cx<'_, '_>, globals: &Globals) -> Res<Op> {
    let uniform = cx.flag("uni");
    cx.done(1, 4)?;
    let mut at = 0;
    let mut rets = Vec::new();
    if let Operand::List(list) = cx.operand(0)? {
        for o in list {
            rets.push(pass(cx, o, Use::Write)?);
        }
        at = 1;
    }
    let Operand::Name(name) = cx.operand(at)? else {
        return cx.err("`call` needs a function or a register that holds one");
    };
    let mut args = Vec::new();
    if cx.has(at + 1) {
        match cx.operand(at + 1)? {
            Operand::List(list) => {
                for o in list {
                    args.push(pass(cx, o, Use::Value)?);
                }
            }
            _ => return cx.err("the arguments of `call` stand in parentheses"),
        }
    }
    let callee = match cx.fb.lookup(name) {
        Some(Sym::Func(i)) => {
            let (fname, params, results, defined) = &globals.signatures[i as usize];
            if !defined {
                return cx
                    .err(format!("call of `{fname}`, which this module only declares; nothing defines it"));
            }
            if *params != args.len() || *results != rets.len() {
                return cx.err(format!(
                    "`{fname}` takes {params} arguments and returns {results} values; this call has {} and {}",
                    args.len(),
                    rets.len()
                ));
            }
            Callee::Direct(i)
        }
        Some(Sym::Reg(Width::W64, slot)) => {
            cx.fb.note(name, Width::W64, slot, Use::Control);
            match cx.operand(at + 2) {
                Ok(Operand::Name(n)) if matches!(cx.fb.lookup(n), Some(Sym::Prototype | Sym::Targets(_))) => {
                }
                _ => {
                    return cx.err("an indirect call names its `.callprototype` or `.calltargets` list last");
                }
            }
            Callee::Indirect(slot)
        }
        Some(_) => return cx.err(format!("`{name}` is not a function")),
        None => return cx.err(format!("function `{name}` is not declared")),
    };
    Ok(Op::Call(Box::new(Call { callee, args, rets, uniform })))
}
