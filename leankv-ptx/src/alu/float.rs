//! Single-precision arithmetic.

use super::canon32;
use super::macros::{lanes, lanes_f32, lanes_f32_ftz};
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::soft::{self, Round};
use crate::ty::Ty;
use crate::vm::fast;
use crate::vm::regs::{AluFn, Args};

/// `imm` of directed-rounding forms: rounding in bits 0-2, then flush and saturate flags.
const FTZ: u32 = 8;
pub(super) const SAT: u32 = 16;

pub(crate) const ROUNDS: &[&str] = &["rn", "rz", "rm", "rp"];

pub(crate) fn round_code(name: &str) -> u32 {
    match name {
        "rz" => 1,
        "rm" => 2,
        "rp" => 3,
        _ => 0,
    }
}

pub(crate) fn round_of(code: u32) -> Round {
    match code & 7 {
        1 => Round::Zero,
        2 => Round::Down,
        3 => Round::Up,
        _ => Round::Nearest,
    }
}

/// Clamp to [0, 1]; NaN becomes +0.
#[inline(always)]
fn sat(v: f32) -> f32 {
    if v > 0.0 { v.min(1.0) } else { 0.0 }
}

/// `a op b (op c)` in a rounding other than nearest, or with saturation.
#[inline(always)]
pub(super) fn slow(x: &Args, a: u32, b: u32, c: u32, f: impl Fn(u64, u64, u64, Round) -> u64) -> u32 {
    let z = |v: u32| if x.imm & FTZ != 0 { soft::ftz32(v) } else { v };
    let out = z(f(u64::from(z(a)), u64::from(z(b)), u64::from(z(c)), round_of(x.imm)) as u32);
    if x.imm & SAT != 0 { sat(f32::from_bits(out)).to_bits() } else { out }
}

macro_rules! slow_lanes {
    ($n:tt, $f:expr) => {{
        let f: AluFn = |r, x, m| {
            let v: [_; 3] = std::array::from_fn(|i| r.r32[x.s[if i < $n { i } else { 0 }] as usize]);
            let mut o = [0; 32];
            for l in 0..32 {
                o[l] = slow(x, v[0][l], v[1][l], v[2][l], $f);
            }
            r.put32(x.d, m, &o);
        };
        f
    }};
}

const ONE: u64 = 0x3f80_0000;
const SIGN: u64 = 0x8000_0000;

/// `a + b`: as `a * 1 + b`, so signed zeros follow the addition rule.
pub(super) fn add_r(a: u64, b: u64, _: u64, r: Round) -> u64 {
    soft::fma(soft::F32, a, ONE, b, r)
}
pub(super) fn sub_r(a: u64, b: u64, c: u64, r: Round) -> u64 {
    add_r(a, b ^ SIGN, c, r)
}
/// `a * b`: the addend is a zero of the product's sign, so that a zero product keeps it.
fn mul_r(a: u64, b: u64, _: u64, r: Round) -> u64 {
    soft::fma(soft::F32, a, b, (a ^ b) & SIGN, r)
}
pub(super) fn fma_r(a: u64, b: u64, c: u64, r: Round) -> u64 {
    soft::fma(soft::F32, a, b, c, r)
}
fn div_r(a: u64, b: u64, _: u64, r: Round) -> u64 {
    soft::div(soft::F32, a, b, r)
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    match cx.instr.base.as_str() {
        "add" | "sub" | "mul" => add_sub_mul(cx),
        "fma" | "mad" => fma(cx),
        "div" => div(cx),
        "min" | "max" => min_max(cx),
        "abs" | "neg" => {
            let neg = cx.instr.base == "neg";
            let ftz = cx.flag("ftz");
            cx.ty()?;
            cx.done(2, 2)?;
            let f: AluFn = match (neg, ftz) {
                (true, false) => lanes!(r32 <- a: r32; a ^ 0x8000_0000),
                (true, true) => lanes!(r32 <- a: r32; soft::ftz32(a) ^ 0x8000_0000),
                (false, false) => lanes!(r32 <- a: r32; a & 0x7fff_ffff),
                (false, true) => lanes!(r32 <- a: r32; soft::ftz32(a) & 0x7fff_ffff),
            };
            Ok(Op::Alu(f, cx.args1(Ty::F32, Ty::F32)?))
        }
        "copysign" => {
            cx.ty()?;
            cx.done(3, 3)?;
            // The sign comes from the first operand, the magnitude from the second.
            let f = lanes!(r32 <- a: r32, b: r32; (a & 0x8000_0000) | (b & 0x7fff_ffff));
            Ok(Op::Alu(f, cx.args2(Ty::F32, Ty::F32, Ty::F32)?))
        }
        _ => cx.no_form(),
    }
}

fn add_sub_mul(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let round = cx.one_of(ROUNDS).unwrap_or("rn");
    let ftz = cx.flag("ftz");
    let saturate = cx.flag("sat");
    let ty = cx.ty()?;
    cx.done(3, 3)?;
    if ty == Ty::F32x2 {
        return packed(cx, base, round, ftz, saturate);
    }
    let mut args = cx.args2(Ty::F32, Ty::F32, Ty::F32)?;
    if round != "rn" || saturate {
        args.imm = round_code(round) | if ftz { FTZ } else { 0 } | if saturate { SAT } else { 0 };
        let f: AluFn = match base {
            "add" => slow_lanes!(2, add_r),
            "sub" => slow_lanes!(2, sub_r),
            _ => slow_lanes!(2, mul_r),
        };
        return Ok(Op::Alu(f, args));
    }
    let f: AluFn = match (base, ftz) {
        ("add", false) => lanes_f32!(a, b; f32::from_bits(canon32(a + b))),
        ("sub", false) => lanes_f32!(a, b; f32::from_bits(canon32(a - b))),
        ("mul", false) => lanes_f32!(a, b; f32::from_bits(canon32(a * b))),
        ("add", true) => lanes_f32_ftz!(a, b; f32::from_bits(canon32(a + b))),
        ("sub", true) => lanes_f32_ftz!(a, b; f32::from_bits(canon32(a - b))),
        _ => lanes_f32_ftz!(a, b; f32::from_bits(canon32(a * b))),
    };
    Ok(Op::Alu(f, args))
}

/// `add/sub/mul/fma.f32x2`: two singles in a 64-bit register.
fn packed(cx: &mut Cx<'_, '_>, base: &str, round: &str, ftz: bool, saturate: bool) -> Res<Op> {
    if saturate {
        return cx.no_form();
    }
    let ty = Ty::F32x2;
    let mut args = if base == "fma" { cx.args3(ty, ty, ty, ty)? } else { cx.args2(ty, ty, ty)? };
    args.imm = round_code(round) | if ftz { FTZ } else { 0 };
    macro_rules! both {
        ($n:tt, $f:expr) => {{
            let f: AluFn = |r, x, m| {
                let v: [_; 3] = std::array::from_fn(|i| r.r64[x.s[if i < $n { i } else { 0 }] as usize]);
                let mut o = [0u64; 32];
                for l in 0..32 {
                    for h in [0, 32] {
                        let part = |i: usize| (v[i][l] >> h) as u32;
                        o[l] |= u64::from(slow(x, part(0), part(1), part(2), $f)) << h;
                    }
                }
                r.put64(x.d, m, &o);
            };
            f
        }};
    }
    let f = match base {
        "add" => both!(2, add_r),
        "sub" => both!(2, sub_r),
        "mul" => both!(2, mul_r),
        _ => both!(3, fma_r),
    };
    Ok(Op::Alu(f, args))
}

fn fma(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let round = if base == "fma" { cx.need(ROUNDS)? } else { cx.one_of(ROUNDS).unwrap_or("rn") };
    let ftz = cx.flag("ftz");
    let saturate = cx.flag("sat");
    let ty = cx.ty()?;
    cx.done(4, 4)?;
    if ty == Ty::F32x2 {
        return packed(cx, "fma", round, ftz, saturate);
    }
    let mut args = cx.args3(Ty::F32, Ty::F32, Ty::F32, Ty::F32)?;
    if round != "rn" || saturate {
        args.imm = round_code(round) | if ftz { FTZ } else { 0 } | if saturate { SAT } else { 0 };
        return Ok(Op::Alu(slow_lanes!(3, fma_r), args));
    }
    let f: AluFn = if ftz {
        |r, x, m| {
            let z = |v: [u32; 32]| v.map(soft::ftz32);
            let (a, b, c) = (z(r.r32[x.s[0] as usize]), z(r.r32[x.s[1] as usize]), z(r.r32[x.s[2] as usize]));
            let o = fast::fma32(&a, &b, &c).map(|v| soft::ftz32(canon32(f32::from_bits(v))));
            r.put32(x.d, m, &o);
        }
    } else {
        |r, x, m| {
            let (a, b, c) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize], r.r32[x.s[2] as usize]);
            let o = fast::fma32(&a, &b, &c).map(|v| canon32(f32::from_bits(v)));
            r.put32(x.d, m, &o);
        }
    };
    Ok(Op::Alu(f, args))
}

fn div(cx: &mut Cx<'_, '_>) -> Res<Op> {
    // Assemblers take `.ftz` on either side of the rounding.
    let early = cx.flag("ftz");
    let mode = cx.need(&["rn", "rz", "rm", "rp", "approx", "full"])?;
    let ftz = cx.flag("ftz") || early;
    cx.ty()?;
    cx.done(3, 3)?;
    let mut args = cx.args2(Ty::F32, Ty::F32, Ty::F32)?;
    let f: AluFn = match (mode, ftz) {
        ("rz" | "rm" | "rp", _) => {
            args.imm = round_code(mode) | if ftz { FTZ } else { 0 };
            slow_lanes!(2, div_r)
        }
        ("rn", false) => lanes_f32!(a, b; f32::from_bits(canon32(a / b))),
        ("rn", true) => lanes_f32_ftz!(a, b; f32::from_bits(canon32(a / b))),
        _ => super::special::div(mode == "full", ftz),
    };
    Ok(Op::Alu(f, args))
}

/// IEEE 754-2019 minimumNumber and maximumNumber on bits: +0 is above -0, one NaN loses.
#[inline(always)]
pub(crate) fn min_max_bits(a: u32, b: u32, max: bool, nan: bool) -> u32 {
    let (fa, fb) = (f32::from_bits(a), f32::from_bits(b));
    if fa.is_nan() || fb.is_nan() {
        if nan || (fa.is_nan() && fb.is_nan()) {
            return 0x7fff_ffff;
        }
        return if fa.is_nan() { b } else { a };
    }
    if fa == fb {
        // Only the zeros are equal with different bits.
        return if max { a & b } else { a | b };
    }
    if (fa > fb) == max { a } else { b }
}

fn min_max(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let max = cx.instr.base == "max";
    let ftz = cx.flag("ftz");
    let nan = cx.flag("NaN");
    let xorsign = cx.flag("xorsign");
    let abs = xorsign && cx.flag("abs");
    cx.ty()?;
    if xorsign && !abs {
        return cx.no_form();
    }
    cx.done(3, if xorsign { 3 } else { 4 })?;
    let three = cx.has(3);
    let mut args = if three {
        cx.args3(Ty::F32, Ty::F32, Ty::F32, Ty::F32)?
    } else {
        cx.args2(Ty::F32, Ty::F32, Ty::F32)?
    };
    args.imm = u32::from(max) | u32::from(nan) << 1 | u32::from(ftz) << 2 | u32::from(xorsign) << 3;
    if three {
        let f: AluFn = |r, x, m| {
            let (a, b, c) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize], r.r32[x.s[2] as usize]);
            let z = |v: u32| if x.imm & 4 != 0 { soft::ftz32(v) } else { v };
            let (max, nan) = (x.imm & 1 != 0, x.imm & 2 != 0);
            let mut o = [0; 32];
            for l in 0..32 {
                o[l] = min_max_bits(min_max_bits(z(a[l]), z(b[l]), max, nan), z(c[l]), max, nan);
            }
            r.put32(x.d, m, &o);
        };
        return Ok(Op::Alu(f, args));
    }
    let f: AluFn = match (max, ftz, nan, xorsign) {
        (true, false, false, false) => lanes!(r32 <- a: r32, b: r32; min_max_bits(a, b, true, false)),
        (false, false, false, false) => lanes!(r32 <- a: r32, b: r32; min_max_bits(a, b, false, false)),
        (true, true, false, false) => {
            lanes!(r32 <- a: r32, b: r32; min_max_bits(soft::ftz32(a), soft::ftz32(b), true, false))
        }
        (false, true, false, false) => {
            lanes!(r32 <- a: r32, b: r32; min_max_bits(soft::ftz32(a), soft::ftz32(b), false, false))
        }
        _ => |r, x, m| {
            let (a, b) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize]);
            let z = |v: u32| if x.imm & 4 != 0 { soft::ftz32(v) } else { v };
            let (max, nan, xorsign) = (x.imm & 1 != 0, x.imm & 2 != 0, x.imm & 8 != 0);
            let mut o = [0; 32];
            for l in 0..32 {
                let (p, q) = (z(a[l]), z(b[l]));
                o[l] = if xorsign {
                    let v = min_max_bits(p & 0x7fff_ffff, q & 0x7fff_ffff, max, nan);
                    if f32::from_bits(v).is_nan() { v } else { v | ((p ^ q) & 0x8000_0000) }
                } else {
                    min_max_bits(p, q, max, nan)
                };
            }
            r.put32(x.d, m, &o);
        },
    };
    Ok(Op::Alu(f, args))
}
