//! `wmma`: the older matrix instructions, whose fragments have no documented layout.
//!
//! Because only `wmma.load` makes fragments and only `wmma.mma` and `wmma.store` take them, any layout that the
//! three agree on is right. Here element `e` of a matrix, counted by rows, sits in register `r`, lane `l` and
//! position `p` with `e = ((32 r + l) P + p) mod T`, where `P` elements fit a register and `T` is their number;
//! fragments with more room than elements hold them repeatedly.

use super::cx::{Cx, Res};
use super::op::{Collective, MmaTy, Op, Wmma, WmmaKind};
use super::ops_memory::generic_space;
use super::ops_warp::element_bits;
use crate::ty::Ty;

const SHAPES: &[&str] = &["m16n16k16", "m8n32k16", "m32n8k16", "m16n16k8", "m8n8k4"];

fn dims(shape: &str) -> (u32, u32, u32) {
    match shape {
        "m8n32k16" => (8, 32, 16),
        "m32n8k16" => (32, 8, 16),
        "m16n16k8" => (16, 16, 8),
        "m8n8k4" => (8, 8, 4),
        _ => (16, 16, 16),
    }
}

fn element(ty: Ty) -> Option<MmaTy> {
    Some(match ty {
        Ty::F16 => MmaTy::F16,
        Ty::Bf16 => MmaTy::Bf16,
        Ty::Tf32 | Ty::F32 | Ty::S32 => MmaTy::Tf32,
        Ty::S8 => MmaTy::S8,
        Ty::U8 => MmaTy::U8,
        _ => return None,
    })
}

/// Registers of a fragment: f16 operands are kept twice, as the ISA's register counts say.
fn registers(elements: u32, ty: Ty, operand: bool) -> usize {
    let bits = element(ty).map_or(32, element_bits);
    let once = elements * bits / 32 / 32;
    if operand && ty == Ty::F16 { 8 } else { once as usize }
}

pub(super) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    match cx.need(&["load", "store", "mma"])? {
        "mma" => mma(cx),
        what => transfer(cx, what == "load"),
    }
}

fn transfer(cx: &mut Cx<'_, '_>, load: bool) -> Res<Op> {
    let which = cx.need(if load { &["a", "b", "c"] } else { &["d"] })?;
    cx.need(&["sync"])?;
    cx.need(&["aligned"])?;
    let row = cx.need(&["row", "col"])? == "row";
    let (m, n, k) = dims(cx.need(SHAPES)?);
    let space = generic_space(cx);
    let ty = cx.ty()?;
    cx.done(2, 3)?;
    let (rows, cols) = match which {
        "a" => (m, k),
        "b" => (k, n),
        _ => (m, n),
    };
    let operand = matches!(which, "a" | "b");
    if element(ty).is_none() || (operand && ty == Ty::F32) {
        return cx.unsupported("wmma of this type is not executed; use mma.sync");
    }
    let count = registers(rows * cols, ty, operand);
    let (regs_at, addr_at) = if load { (0, 1) } else { (1, 0) };
    let list = cx.elements(regs_at)?;
    if list.len() != count {
        return cx.err(format!("`{}` needs {count} registers, found {}", cx.opcode(), list.len()));
    }
    let mut regs = Vec::with_capacity(count);
    for o in list {
        regs.push(if load { cx.dst_of(&o, Ty::B32)? } else { cx.src_of(&o, Ty::B32)? });
    }
    let addr = cx.addr(addr_at)?;
    // Without a stride the matrix is packed.
    let stride = match cx.has(2) {
        true => cx.control(2, Ty::U32)?,
        false => cx.fb.constant(false, u64::from(if row { cols } else { rows })),
    };
    let scratch = cx.fb.new_slot(super::Width::W32);
    let kind = WmmaKind::Move { load, row, rows, cols, ty, space, addr, stride, regs, scratch };
    Ok(Op::Collective { what: Collective::Wmma(Box::new(Wmma { kind })), mask: None })
}

fn mma(cx: &mut Cx<'_, '_>) -> Res<Op> {
    cx.need(&["sync"])?;
    cx.need(&["aligned"])?;
    // Fragments carry no trace of the layout they were loaded with.
    cx.need(&["row", "col"])?;
    cx.need(&["row", "col"])?;
    let (m, n, k) = dims(cx.need(SHAPES)?);
    let first = cx.ty()?;
    let second = cx.ty()?;
    // `.d.c` for f16; `.d.a.b.c` for the others.
    let (d, ab, c) = match cx.opt_ty() {
        None => (first, Ty::F16, second),
        Some(b) if b == second => (first, b, cx.ty()?),
        Some(_) => return cx.no_form(),
    };
    let satfinite = cx.flag("satfinite");
    cx.done(4, 4)?;
    let integer = matches!(ab, Ty::S8 | Ty::U8);
    let float_acc = |t: Ty| t == Ty::F32 || (t == Ty::F16 && ab == Ty::F16);
    let ok = if integer { d == Ty::S32 && c == Ty::S32 } else { float_acc(d) && float_acc(c) };
    if !ok || element(ab).is_none() {
        return cx.no_form();
    }
    let mut fragment = |i: usize, n: usize, dst: bool| -> Res<Vec<u32>> {
        let list = cx.elements(i)?;
        if list.len() != n {
            return cx.err(format!("`{}` needs {n} registers, found {}", cx.opcode(), list.len()));
        }
        list.into_iter().map(|o| if dst { cx.dst_of(&o, Ty::B32) } else { cx.src_of(&o, Ty::B32) }).collect()
    };
    let kind = WmmaKind::Multiply {
        shape: [m, n, k],
        ab,
        c_ty: c,
        d_ty: d,
        satfinite,
        a: fragment(1, registers(m * k, ab, true), false)?,
        b: fragment(2, registers(k * n, ab, true), false)?,
        c: fragment(3, registers(m * n, c, false), false)?,
        d: fragment(0, registers(m * n, d, false), true)?,
    };
    Ok(Op::Collective { what: Collective::Wmma(Box::new(Wmma { kind })), mask: None })
}
