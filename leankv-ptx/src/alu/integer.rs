//! Integer arithmetic.

use super::macros::lanes;
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args};

#[inline(always)]
fn s16(v: u32) -> i32 {
    i32::from(v as u16 as i16)
}

#[inline(always)]
fn low16(v: u32) -> u32 {
    v & 0xffff
}

fn sat32(v: i64) -> u32 {
    v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 as u32
}

#[inline(always)]
fn packed(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    low16(f(low16(a), low16(b))) | low16(f(a >> 16, b >> 16)) << 16
}

/// Sign- or zero-extends the low 24 bits.
fn low24(v: u32, signed: bool) -> i64 {
    if signed { i64::from((v << 8) as i32 >> 8) } else { i64::from(v & 0xff_ffff) }
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    match cx.instr.base.as_str() {
        "add" | "sub" => add_sub(cx),
        "mul" | "mad" => mul_mad(cx),
        "mul24" | "mad24" => mul24(cx),
        "div" | "rem" => div_rem(cx),
        "min" | "max" => min_max(cx),
        "abs" | "neg" => abs_neg(cx),
        "sad" => sad(cx),
        "dp4a" | "dp2a" => dot(cx),
        _ => cx.no_form(),
    }
}

fn add_sub(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let sub = cx.instr.base == "sub";
    let sat = cx.flag("sat");
    let ty = cx.ty()?;
    cx.done(3, 3)?;
    let f: AluFn = match (sub, sat, ty) {
        (false, true, Ty::S32) => {
            lanes!(r32 <- a: r32, b: r32; sat32(i64::from(a as i32) + i64::from(b as i32)))
        }
        (true, true, Ty::S32) => {
            lanes!(r32 <- a: r32, b: r32; sat32(i64::from(a as i32) - i64::from(b as i32)))
        }
        (_, true, _) => return cx.no_form(),
        (false, _, Ty::U32 | Ty::S32) => lanes!(r32 <- a: r32, b: r32; a.wrapping_add(b)),
        (true, _, Ty::U32 | Ty::S32) => lanes!(r32 <- a: r32, b: r32; a.wrapping_sub(b)),
        (false, _, Ty::U16 | Ty::S16) => lanes!(r32 <- a: r32, b: r32; low16(a.wrapping_add(b))),
        (true, _, Ty::U16 | Ty::S16) => lanes!(r32 <- a: r32, b: r32; low16(a.wrapping_sub(b))),
        (false, _, Ty::U64 | Ty::S64) => lanes!(r64 <- a: r64, b: r64; a.wrapping_add(b)),
        (true, _, Ty::U64 | Ty::S64) => lanes!(r64 <- a: r64, b: r64; a.wrapping_sub(b)),
        (false, _, Ty::U16x2 | Ty::S16x2) => lanes!(r32 <- a: r32, b: r32; packed(a, b, u32::wrapping_add)),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, cx.args2(ty, ty, ty)?))
}

fn mul_mad(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let mad = cx.instr.base == "mad";
    let half = cx.need(&["lo", "hi", "wide"])?;
    let sat = cx.flag("sat");
    let ty = cx.ty()?;
    if sat && !(mad && half == "hi" && ty == Ty::S32) {
        return cx.no_form();
    }
    if mad {
        cx.done(4, 4)?;
    } else {
        cx.done(3, 3)?;
    }
    let f: AluFn = match (mad, half, ty) {
        (false, "lo", Ty::U32 | Ty::S32) => lanes!(r32 <- a: r32, b: r32; a.wrapping_mul(b)),
        (true, "lo", Ty::U32 | Ty::S32) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; a.wrapping_mul(b).wrapping_add(c))
        }
        (false, "lo", Ty::U16 | Ty::S16) => lanes!(r32 <- a: r32, b: r32; low16(a.wrapping_mul(b))),
        (true, "lo", Ty::U16 | Ty::S16) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; low16(a.wrapping_mul(b).wrapping_add(c)))
        }
        (false, "lo", Ty::U64 | Ty::S64) => lanes!(r64 <- a: r64, b: r64; a.wrapping_mul(b)),
        (true, "lo", Ty::U64 | Ty::S64) => {
            lanes!(r64 <- a: r64, b: r64, c: r64; a.wrapping_mul(b).wrapping_add(c))
        }
        (false, "hi", Ty::U32) => lanes!(r32 <- a: r32, b: r32; (u64::from(a) * u64::from(b) >> 32) as u32),
        (false, "hi", Ty::S32) => {
            lanes!(r32 <- a: r32, b: r32; (i64::from(a as i32) * i64::from(b as i32) >> 32) as u32)
        }
        (true, "hi", Ty::U32) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c))
        }
        (true, "hi", Ty::S32) if sat => lanes!(r32 <- a: r32, b: r32, c: r32;
            sat32((i64::from(a as i32) * i64::from(b as i32) >> 32) + i64::from(c as i32))),
        (true, "hi", Ty::S32) => lanes!(r32 <- a: r32, b: r32, c: r32;
            ((i64::from(a as i32) * i64::from(b as i32) >> 32) as u32).wrapping_add(c)),
        (false, "hi", Ty::U16) => lanes!(r32 <- a: r32, b: r32; a * b >> 16),
        (false, "hi", Ty::S16) => lanes!(r32 <- a: r32, b: r32; low16((s16(a) * s16(b) >> 16) as u32)),
        (true, "hi", Ty::U16) => lanes!(r32 <- a: r32, b: r32, c: r32; low16((a * b >> 16) + c)),
        (true, "hi", Ty::S16) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; low16((s16(a) * s16(b) >> 16).wrapping_add(c as i32) as u32))
        }
        (false, "hi", Ty::U64) => {
            lanes!(r64 <- a: r64, b: r64; (u128::from(a) * u128::from(b) >> 64) as u64)
        }
        (false, "hi", Ty::S64) => {
            lanes!(r64 <- a: r64, b: r64; (i128::from(a as i64) * i128::from(b as i64) >> 64) as u64)
        }
        (true, "hi", Ty::U64) => lanes!(r64 <- a: r64, b: r64, c: r64;
            ((u128::from(a) * u128::from(b) >> 64) as u64).wrapping_add(c)),
        (true, "hi", Ty::S64) => lanes!(r64 <- a: r64, b: r64, c: r64;
            ((i128::from(a as i64) * i128::from(b as i64) >> 64) as u64).wrapping_add(c)),
        (false, "wide", Ty::U16) => lanes!(r32 <- a: r32, b: r32; a.wrapping_mul(b)),
        (false, "wide", Ty::S16) => lanes!(r32 <- a: r32, b: r32; s16(a).wrapping_mul(s16(b)) as u32),
        (true, "wide", Ty::U16) => lanes!(r32 <- a: r32, b: r32, c: r32; a.wrapping_mul(b).wrapping_add(c)),
        (true, "wide", Ty::S16) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; (s16(a).wrapping_mul(s16(b)) as u32).wrapping_add(c))
        }
        (false, "wide", Ty::U32) => lanes!(r64 <- a: r32, b: r32; u64::from(a) * u64::from(b)),
        (false, "wide", Ty::S32) => {
            lanes!(r64 <- a: r32, b: r32; (i64::from(a as i32) * i64::from(b as i32)) as u64)
        }
        (true, "wide", Ty::U32) => {
            lanes!(r64 <- a: r32, b: r32, c: r64; (u64::from(a) * u64::from(b)).wrapping_add(c))
        }
        (true, "wide", Ty::S32) => lanes!(r64 <- a: r32, b: r32, c: r64;
            ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)),
        _ => return cx.no_form(),
    };
    let wide = match (half, ty.bits()) {
        ("wide", 16) => Ty::B32,
        ("wide", _) => Ty::B64,
        _ => ty,
    };
    let args = if mad { cx.args3(wide, ty, ty, wide)? } else { cx.args2(wide, ty, ty)? };
    Ok(Op::Alu(f, args))
}

fn mul24(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let mad = cx.instr.base == "mad24";
    let half = cx.need(&["lo", "hi"])?;
    let sat = cx.flag("sat");
    let ty = cx.ty()?;
    if !matches!(ty, Ty::U32 | Ty::S32) || (sat && !(mad && half == "hi" && ty == Ty::S32)) {
        return cx.no_form();
    }
    if mad {
        cx.done(4, 4)?;
    } else {
        cx.done(3, 3)?;
    }
    let f: AluFn = match (mad, half, ty == Ty::S32) {
        (false, "lo", true) => lanes!(r32 <- a: r32, b: r32; (low24(a, true) * low24(b, true)) as u32),
        (false, "lo", false) => lanes!(r32 <- a: r32, b: r32; (low24(a, false) * low24(b, false)) as u32),
        (false, _, true) => lanes!(r32 <- a: r32, b: r32; (low24(a, true) * low24(b, true) >> 16) as u32),
        (false, _, false) => lanes!(r32 <- a: r32, b: r32; (low24(a, false) * low24(b, false) >> 16) as u32),
        (true, "lo", true) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; ((low24(a, true) * low24(b, true)) as u32).wrapping_add(c))
        }
        (true, "lo", false) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; ((low24(a, false) * low24(b, false)) as u32).wrapping_add(c))
        }
        (true, _, true) if sat => lanes!(r32 <- a: r32, b: r32, c: r32;
            sat32((low24(a, true) * low24(b, true) >> 16) + i64::from(c as i32))),
        (true, _, true) => lanes!(r32 <- a: r32, b: r32, c: r32;
            ((low24(a, true) * low24(b, true) >> 16) as u32).wrapping_add(c)),
        (true, _, false) => lanes!(r32 <- a: r32, b: r32, c: r32;
            ((low24(a, false) * low24(b, false) >> 16) as u32).wrapping_add(c)),
    };
    let args = if mad { cx.args3(ty, ty, ty, ty)? } else { cx.args2(ty, ty, ty)? };
    Ok(Op::Alu(f, args))
}

fn div_rem(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let div = cx.instr.base == "div";
    let ty = cx.ty()?;
    cx.done(3, 3)?;
    // The result of a division by zero is unspecified; all ones here, and the machine reports it.
    let f: AluFn = match (div, ty) {
        (true, Ty::U32) => lanes!(r32 <- a: r32, b: r32; a.checked_div(b).unwrap_or(u32::MAX)),
        (true, Ty::S32) => lanes!(r32 <- a: r32, b: r32;
            if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }),
        (true, Ty::U16) => lanes!(r32 <- a: r32, b: r32; a.checked_div(b).unwrap_or(0xffff)),
        (true, Ty::S16) => {
            lanes!(r32 <- a: r32, b: r32; low16(s16(a).checked_div(s16(b)).unwrap_or(-1) as u32))
        }
        (true, Ty::U64) => lanes!(r64 <- a: r64, b: r64; a.checked_div(b).unwrap_or(u64::MAX)),
        (true, Ty::S64) => lanes!(r64 <- a: r64, b: r64;
            if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        (false, Ty::U32) => lanes!(r32 <- a: r32, b: r32; a.checked_rem(b).unwrap_or(a)),
        (false, Ty::S32) => lanes!(r32 <- a: r32, b: r32;
            if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        (false, Ty::U16) => lanes!(r32 <- a: r32, b: r32; a.checked_rem(b).unwrap_or(a)),
        (false, Ty::S16) => {
            lanes!(r32 <- a: r32, b: r32; low16(s16(a).checked_rem(s16(b)).unwrap_or(s16(a)) as u32))
        }
        (false, Ty::U64) => lanes!(r64 <- a: r64, b: r64; a.checked_rem(b).unwrap_or(a)),
        (false, Ty::S64) => lanes!(r64 <- a: r64, b: r64;
            if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        _ => return cx.no_form(),
    };
    let args = cx.args2(ty, ty, ty)?;
    Ok(Op::Div(f, args, ty.bits() == 64))
}

fn min_max(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let max = cx.instr.base == "max";
    let relu = cx.flag("relu");
    let ty = cx.ty()?;
    cx.done(3, 3)?;
    let f: AluFn = match (max, relu, ty) {
        (false, true, Ty::S32) => lanes!(r32 <- a: r32, b: r32; (a as i32).min(b as i32).max(0) as u32),
        (true, true, Ty::S32) => lanes!(r32 <- a: r32, b: r32; (a as i32).max(b as i32).max(0) as u32),
        (false, true, Ty::S16x2) => {
            lanes!(r32 <- a: r32, b: r32; packed(a, b, |a, b| s16(a).min(s16(b)).max(0) as u32))
        }
        (true, true, Ty::S16x2) => {
            lanes!(r32 <- a: r32, b: r32; packed(a, b, |a, b| s16(a).max(s16(b)).max(0) as u32))
        }
        (_, true, _) => return cx.no_form(),
        (false, _, Ty::U32) => lanes!(r32 <- a: r32, b: r32; a.min(b)),
        (true, _, Ty::U32) => lanes!(r32 <- a: r32, b: r32; a.max(b)),
        (false, _, Ty::S32) => lanes!(r32 <- a: r32, b: r32; (a as i32).min(b as i32) as u32),
        (true, _, Ty::S32) => lanes!(r32 <- a: r32, b: r32; (a as i32).max(b as i32) as u32),
        (false, _, Ty::U16) => lanes!(r32 <- a: r32, b: r32; a.min(b)),
        (true, _, Ty::U16) => lanes!(r32 <- a: r32, b: r32; a.max(b)),
        (false, _, Ty::S16) => lanes!(r32 <- a: r32, b: r32; low16(s16(a).min(s16(b)) as u32)),
        (true, _, Ty::S16) => lanes!(r32 <- a: r32, b: r32; low16(s16(a).max(s16(b)) as u32)),
        (false, _, Ty::U64) => lanes!(r64 <- a: r64, b: r64; a.min(b)),
        (true, _, Ty::U64) => lanes!(r64 <- a: r64, b: r64; a.max(b)),
        (false, _, Ty::S64) => lanes!(r64 <- a: r64, b: r64; (a as i64).min(b as i64) as u64),
        (true, _, Ty::S64) => lanes!(r64 <- a: r64, b: r64; (a as i64).max(b as i64) as u64),
        (false, _, Ty::U16x2) => lanes!(r32 <- a: r32, b: r32; packed(a, b, u32::min)),
        (true, _, Ty::U16x2) => lanes!(r32 <- a: r32, b: r32; packed(a, b, u32::max)),
        (false, _, Ty::S16x2) => {
            lanes!(r32 <- a: r32, b: r32; packed(a, b, |a, b| s16(a).min(s16(b)) as u32))
        }
        (true, _, Ty::S16x2) => lanes!(r32 <- a: r32, b: r32; packed(a, b, |a, b| s16(a).max(s16(b)) as u32)),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, cx.args2(ty, ty, ty)?))
}

fn abs_neg(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let neg = cx.instr.base == "neg";
    let ty = cx.ty()?;
    cx.done(2, 2)?;
    let f: AluFn = match (neg, ty) {
        (false, Ty::S16) => lanes!(r32 <- a: r32; low16(s16(a).unsigned_abs())),
        (false, Ty::S32) => lanes!(r32 <- a: r32; (a as i32).unsigned_abs()),
        (false, Ty::S64) => lanes!(r64 <- a: r64; (a as i64).unsigned_abs()),
        (true, Ty::S16) => lanes!(r32 <- a: r32; low16(a.wrapping_neg())),
        (true, Ty::S32) => lanes!(r32 <- a: r32; a.wrapping_neg()),
        (true, Ty::S64) => lanes!(r64 <- a: r64; a.wrapping_neg()),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, cx.args1(ty, ty)?))
}

fn sad(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let ty = cx.ty()?;
    cx.done(4, 4)?;
    let f: AluFn = match ty {
        Ty::U16 => lanes!(r32 <- a: r32, b: r32, c: r32; low16(c.wrapping_add(a.abs_diff(b)))),
        Ty::S16 => lanes!(r32 <- a: r32, b: r32, c: r32; low16(c.wrapping_add(s16(a).abs_diff(s16(b))))),
        Ty::U32 => lanes!(r32 <- a: r32, b: r32, c: r32; c.wrapping_add(a.abs_diff(b))),
        Ty::S32 => lanes!(r32 <- a: r32, b: r32, c: r32; c.wrapping_add((a as i32).abs_diff(b as i32))),
        Ty::U64 => lanes!(r64 <- a: r64, b: r64, c: r64; c.wrapping_add(a.abs_diff(b))),
        Ty::S64 => lanes!(r64 <- a: r64, b: r64, c: r64; c.wrapping_add((a as i64).abs_diff(b as i64))),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, cx.args3(ty, ty, ty, ty)?))
}

/// Four byte products; the signedness of each side is a constant of the instruction.
#[inline(always)]
fn dp4<const SA: bool, const SB: bool>(a: u32, b: u32, c: u32) -> u32 {
    let ext = |v: u8, signed: bool| if signed { i32::from(v as i8) } else { i32::from(v) };
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let mut sum = c;
    for i in 0..4 {
        sum = sum.wrapping_add((ext(a[i], SA) * ext(b[i], SB)) as u32);
    }
    sum
}

#[inline(always)]
fn dp2<const SA: bool, const SB: bool>(a: u32, b: u32, c: u32, hi: bool) -> u32 {
    let b = if hi { b >> 16 } else { b };
    let half = |i: u32| {
        let v = a >> (16 * i) & 0xffff;
        if SA { s16(v) } else { v as i32 }
    };
    let byte = |i: u32| {
        let v = (b >> (8 * i)) as u8;
        if SB { i32::from(v as i8) } else { i32::from(v) }
    };
    c.wrapping_add((half(0) * byte(0)) as u32).wrapping_add((half(1) * byte(1)) as u32)
}

fn dot(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let hi = if cx.instr.base == "dp2a" { Some(cx.need(&["lo", "hi"])? == "hi") } else { None };
    let (ta, tb) = (cx.ty()?, cx.ty()?);
    cx.done(4, 4)?;
    let signed = |t: Ty| match t {
        Ty::S32 => Some(true),
        Ty::U32 => Some(false),
        _ => None,
    };
    let (Some(sa), Some(sb)) = (signed(ta), signed(tb)) else { return cx.no_form() };
    macro_rules! pick {
        ($f:ident $(, $hi:expr)?) => {
            match (sa, sb) {
                (false, false) => lanes!(r32 <- a: r32, b: r32, c: r32; $f::<false, false>(a, b, c $(, $hi)?)),
                (false, true) => lanes!(r32 <- a: r32, b: r32, c: r32; $f::<false, true>(a, b, c $(, $hi)?)),
                (true, false) => lanes!(r32 <- a: r32, b: r32, c: r32; $f::<true, false>(a, b, c $(, $hi)?)),
                (true, true) => lanes!(r32 <- a: r32, b: r32, c: r32; $f::<true, true>(a, b, c $(, $hi)?)),
            }
        };
    }
    let f: AluFn = match hi {
        None => pick!(dp4),
        Some(false) => pick!(dp2, false),
        Some(true) => pick!(dp2, true),
    };
    let args: Args = cx.args3(Ty::B32, Ty::B32, Ty::B32, Ty::B32)?;
    Ok(Op::Alu(f, args))
}
