//! Conversions.
//!
//! One general routine defines every conversion; the pairs that compilers emit in inner loops have a vector
//! loop of their own, held equal to it by a test.

use super::float::round_code;
use super::macros::lanes;
use crate::decode::cx::{Cx, Res};
use crate::decode::op::{Op, Reg};
use crate::soft::{self, Format, Round, Value};
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, SINK};

/// Modifiers of a conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mode {
    /// 0 rn, 1 rz, 2 rm, 3 rp, 4 rna; +8 when rounding to an integer.
    round: u32,
    ftz: bool,
    sat: bool,
    satfinite: bool,
    relu: bool,
}

const TYS: &[Ty] = &[
    Ty::U8,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S8,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F16,
    Ty::Bf16,
    Ty::Tf32,
    Ty::F32,
    Ty::F64,
    Ty::E4m3,
    Ty::E5m2,
];

fn code(ty: Ty) -> u32 {
    TYS.iter().position(|t| *t == ty).unwrap_or(0) as u32
}

fn format(ty: Ty) -> Option<Format> {
    Some(match ty {
        Ty::F16 => soft::F16,
        Ty::Bf16 => soft::BF16,
        Ty::F32 => soft::F32,
        Ty::F64 => soft::F64,
        // The upper 19 bits of a single.
        Ty::Tf32 => Format { bits: 19, frac: 10, bias: 127, ieee: true },
        Ty::E4m3 => soft::E4M3,
        Ty::E5m2 => soft::E5M2,
        _ => return None,
    })
}

impl Mode {
    fn bits(self) -> u32 {
        self.round
            | u32::from(self.ftz) << 4
            | u32::from(self.sat) << 5
            | u32::from(self.satfinite) << 6
            | u32::from(self.relu) << 7
    }

    fn from_bits(b: u32) -> Mode {
        let bit = |i: u32| b >> i & 1 == 1;
        Mode { round: b & 15, ftz: bit(4), sat: bit(5), satfinite: bit(6), relu: bit(7) }
    }

    fn rounding(self) -> Round {
        match self.round & 7 {
            1 => Round::Zero,
            2 => Round::Down,
            3 => Round::Up,
            4 => Round::Away,
            _ => Round::Nearest,
        }
    }
}

/// The low bits of `v` as an integer of type `ty`.
fn extend(ty: Ty, v: u64) -> i128 {
    let shift = 64 - ty.bits();
    if ty.is_signed() { i128::from((v << shift) as i64 >> shift) } else { i128::from(v << shift >> shift) }
}

fn int_range(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Rounds an unpacked number to an integer, saturating at the i128 range's useful part.
fn to_integer(neg: bool, mant: u128, exp: i32, round: Round) -> i128 {
    let magnitude = if exp >= 0 {
        if exp > 70 || mant.leading_zeros() < exp as u32 + 2 { 1i128 << 100 } else { (mant << exp) as i128 }
    } else {
        let s = (-exp) as u32;
        if s > 126 {
            let up = match round {
                Round::Down => neg && mant != 0,
                Round::Up => !neg && mant != 0,
                _ => false,
            };
            i128::from(up)
        } else {
            let kept = mant >> s;
            let half = mant >> (s - 1) & 1 == 1;
            let rest = mant & ((1u128 << (s - 1)) - 1) != 0;
            let up = match round {
                Round::Nearest => half && (rest || kept & 1 == 1),
                Round::Away => half,
                Round::Zero => false,
                Round::Down => neg && (half || rest),
                Round::Up => !neg && (half || rest),
            };
            (kept + u128::from(up)) as i128
        }
    };
    if neg { -magnitude } else { magnitude }
}

/// The value of one conversion: source bits of type `src` to bits of type `dst`.
fn convert(src: Ty, dst: Ty, mode: Mode, bits: u64) -> u64 {
    let value = match format(src) {
        Some(f) => {
            let mut b = if src == Ty::Tf32 { bits >> 13 } else { bits };
            if mode.ftz && src == Ty::F32 {
                b = u64::from(soft::ftz32(b as u32));
            }
            soft::unpack(f, b)
        }
        None => {
            let v = extend(src, bits);
            let Some(f) = format(dst) else {
                let (lo, hi) = int_range(dst);
                let v = if mode.sat { v.clamp(lo, hi) } else { v };
                return v as u64 & low_mask(dst);
            };
            let value = Value::Num { neg: v < 0, mant: v.unsigned_abs(), exp: 0 };
            return float_result(f, dst, mode, value);
        }
    };
    if let Some(f) = format(dst) {
        // Rounding to an integer within a floating-point format.
        if mode.round & 8 != 0
            && let Value::Num { neg, mant, exp } = value
            && exp < 0
        {
            let n = to_integer(neg, mant, exp, mode.rounding());
            let value = Value::Num { neg, mant: n.unsigned_abs(), exp: 0 };
            return float_result(f, dst, mode, value);
        }
        return float_result(f, dst, mode, value);
    }
    let (lo, hi) = int_range(dst);
    let out = match value {
        Value::Nan => {
            // The 64-bit converters return the integer indefinite, the 32-bit ones zero.
            if src == Ty::F64 || dst.bits() == 64 { 1i128 << (dst.bits() - 1) } else { 0 }
        }
        Value::Inf(neg) => {
            if neg {
                lo
            } else {
                hi
            }
        }
        Value::Num { neg, mant, exp } => to_integer(neg, mant, exp, mode.rounding()).clamp(lo, hi),
    };
    out as u64 & low_mask(dst)
}

fn low_mask(ty: Ty) -> u64 {
    if ty.bits() == 64 { u64::MAX } else { (1 << ty.bits()) - 1 }
}

fn float_result(f: Format, dst: Ty, mode: Mode, value: Value) -> u64 {
    let sign = 1u64 << (f.bits - 1);
    let one = (f.bias as u64) << f.frac;
    let mut out = soft::pack(f, value, mode.rounding(), false);
    let nan = matches!(value, Value::Nan);
    if mode.relu && !nan && out & sign != 0 {
        out = 0;
    }
    if mode.satfinite && !nan && out & !sign > f.max_finite() {
        out = out & sign | f.max_finite();
    }
    if mode.sat {
        out = if nan || out & sign != 0 { 0 } else { out.min(one) };
    }
    if mode.ftz && dst == Ty::F32 {
        out = u64::from(soft::ftz32(out as u32));
    }
    if dst == Ty::Tf32 { out << 13 } else { out }
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    if cx.flag("pack") {
        return pack(cx);
    }
    let mut mode = Mode::default();
    let mut integer_rounding = false;
    let mut rounded = false;
    loop {
        match cx.peek() {
            Some(r @ ("rn" | "rz" | "rm" | "rp")) => {
                mode.round = round_code(r);
                rounded = true;
            }
            Some("rna") => {
                mode.round = 4;
                rounded = true;
            }
            Some("rni") => integer_rounding = true,
            Some("rzi") => (integer_rounding, mode.round) = (true, 1),
            Some("rmi") => (integer_rounding, mode.round) = (true, 2),
            Some("rpi") => (integer_rounding, mode.round) = (true, 3),
            Some("rs") => return cx.unsupported("stochastic rounding is not executed"),
            Some("ftz") => mode.ftz = true,
            Some("sat") => mode.sat = true,
            Some("satfinite") => mode.satfinite = true,
            Some("relu") => mode.relu = true,
            _ => break,
        }
        cx.at += 1;
    }
    let dst = cx.ty()?;
    let src = cx.ty()?;
    // Pairs: two singles to a packed half, or packed eights and halves.
    if matches!(dst, Ty::F16x2 | Ty::Bf16x2 | Ty::E4m3x2 | Ty::E5m2x2) {
        return packed(cx, dst, src, mode);
    }
    cx.done(2, 2)?;
    if !TYS.contains(&dst) || !TYS.contains(&src) {
        return cx.no_form();
    }
    let (df, sf) = (format(dst), format(src));
    match (df, sf) {
        (None, Some(_)) if !integer_rounding => {
            return cx.err(format!("`{}` needs an integer rounding such as `.rzi`", cx.opcode()));
        }
        (Some(_), None) if !rounded => {
            return cx.err(format!("`{}` needs a rounding such as `.rn`", cx.opcode()));
        }
        (None, None) if rounded || integer_rounding => return cx.no_form(),
        // Where nothing is lost there is nothing to round. With bf16 a rounding may be written all the same.
        (Some(d), Some(s))
            if rounded && d.frac >= s.frac && (dst == src || (dst != Ty::Bf16 && src != Ty::Bf16)) =>
        {
            return cx.err(format!("`{}` is exact and takes no rounding", cx.opcode()));
        }
        (Some(d), Some(s)) if dst != src && d.frac < s.frac && !rounded => {
            return cx.err(format!("`{}` narrows and needs a rounding such as `.rn`", cx.opcode()));
        }
        _ => {}
    }
    if integer_rounding {
        mode.round |= 8;
    }
    let s = cx.src_wide(1, src)?;
    let d = cx.dst_wide(0, dst)?;
    let s_slot = match s {
        Reg::R16(s) | Reg::R32(s) | Reg::R64(s) => s,
        Reg::Sink => return cx.no_form(),
    };
    let wide_src = matches!(s, Reg::R64(_));
    let (d_slot, d_bits) = match d {
        Reg::R16(s) => (s, 16),
        Reg::R32(s) => (s, 32),
        Reg::R64(s) => (s, 64),
        Reg::Sink => (SINK, dst.bits().max(16)),
    };
    if d_bits == dst.bits()
        && wide_src == (src.bits() == 64)
        && let Some(f) = fast(dst, src, mode)
    {
        return Ok(Op::Alu(f, Args { d: d_slot, s: [s_slot, 0, 0, 0], ..Args::default() }));
    }
    let imm = mode.bits() | code(src) << 8 | code(dst) << 12 | d_bits << 16;
    let f: AluFn = match (wide_src, d_bits == 64) {
        (false, false) => general::<false, false>,
        (false, true) => general::<false, true>,
        (true, false) => general::<true, false>,
        (true, true) => general::<true, true>,
    };
    Ok(Op::Alu(f, Args { d: d_slot, s: [s_slot, 0, 0, 0], imm, ..Args::default() }))
}

fn general<const WIDE_SRC: bool, const WIDE_DST: bool>(r: &mut crate::vm::regs::Regs, x: &Args, m: u32) {
    let mode = Mode::from_bits(x.imm & 0xff);
    let (src, dst) = (TYS[(x.imm >> 8 & 15) as usize], TYS[(x.imm >> 12 & 15) as usize]);
    let d_bits = x.imm >> 16;
    let mut o32 = [0u32; 32];
    let mut o64 = [0u64; 32];
    for l in 0..32 {
        if m >> l & 1 == 0 {
            continue;
        }
        let bits = if WIDE_SRC { r.r64[x.s[0] as usize][l] } else { u64::from(r.r32[x.s[0] as usize][l]) };
        let v = convert(src, dst, mode, bits);
        // A wider destination register is sign- or zero-extended by the type.
        let v = if dst.is_signed() { extend(dst, v) as u64 } else { v };
        if WIDE_DST {
            o64[l] = v;
        } else {
            o32[l] = if d_bits == 16 { v as u32 & 0xffff } else { v as u32 };
        }
    }
    if WIDE_DST {
        r.put64(x.d, m, &o64);
    } else {
        r.put32(x.d, m, &o32);
    }
}

/// f32 to a 32-bit integer, toward zero: the host's saturating cast is the ISA's rule.
fn fast(dst: Ty, src: Ty, mode: Mode) -> Option<AluFn> {
    if mode.sat || mode.satfinite || mode.relu || mode.ftz {
        return None;
    }
    Some(match (dst, src, mode.round) {
        (Ty::F32, Ty::F16, 0) => |r, x, m| {
            let o = crate::vm::fast::f16_lanes(&r.r32[x.s[0] as usize]).map(canon_nan);
            r.put32(x.d, m, &o);
        },
        (Ty::F32, Ty::Bf16, 0) => lanes!(r32 <- a: r32; canon_nan(a << 16)),
        (Ty::F16, Ty::F32, 0) => lanes!(r32 <- a: r32; u32::from(soft::f32_to_f16(f32::from_bits(a)))),
        (Ty::Bf16, Ty::F32, 0) => lanes!(r32 <- a: r32; u32::from(soft::f32_to_bf16(f32::from_bits(a)))),
        (Ty::F32, Ty::S32, 0) => lanes!(r32 <- a: r32; (a as i32 as f32).to_bits()),
        (Ty::F32, Ty::U32, 0) => lanes!(r32 <- a: r32; (a as f32).to_bits()),
        (Ty::F32, Ty::S16, 0) => lanes!(r32 <- a: r32; f32::from(a as u16 as i16).to_bits()),
        (Ty::F32, Ty::U16, 0) => lanes!(r32 <- a: r32; f32::from(a as u16).to_bits()),
        (Ty::F32, Ty::S8, 0) => lanes!(r32 <- a: r32; f32::from(a as u8 as i8).to_bits()),
        (Ty::F32, Ty::U8, 0) => lanes!(r32 <- a: r32; f32::from(a as u8).to_bits()),
        (Ty::S32, Ty::F32, 9) => lanes!(r32 <- a: r32; f32::from_bits(a) as i32 as u32),
        (Ty::U32, Ty::F32, 9) => lanes!(r32 <- a: r32; f32::from_bits(a) as u32),
        (Ty::S32, Ty::F32, 8) => lanes!(r32 <- a: r32; f32::from_bits(a).round_ties_even() as i32 as u32),
        (Ty::S64 | Ty::U64, Ty::S32, 0) => lanes!(r64 <- a: r32; a as i32 as i64 as u64),
        (Ty::S64 | Ty::U64, Ty::U32, 0) => lanes!(r64 <- a: r32; u64::from(a)),
        (Ty::U32 | Ty::S32, Ty::U64 | Ty::S64, 0) => lanes!(r32 <- a: r64; a as u32),
        (Ty::U32 | Ty::S32, Ty::U32 | Ty::S32, 0) => lanes!(r32 <- a: r32; a),
        (Ty::U16 | Ty::S16, Ty::U32 | Ty::S32 | Ty::U16 | Ty::S16, 0) => lanes!(r32 <- a: r32; a & 0xffff),
        (Ty::U16 | Ty::S16, Ty::U64 | Ty::S64, 0) => lanes!(r32 <- a: r64; a as u32 & 0xffff),
        (Ty::U32 | Ty::S32, Ty::U16, 0) => lanes!(r32 <- a: r32; a & 0xffff),
        (Ty::U32 | Ty::S32, Ty::S16, 0) => lanes!(r32 <- a: r32; a as u16 as i16 as i32 as u32),
        (Ty::U32 | Ty::S32 | Ty::U16, Ty::U8, 0) => lanes!(r32 <- a: r32; a & 0xff),
        (Ty::U32 | Ty::S32, Ty::S8, 0) => lanes!(r32 <- a: r32; a as u8 as i8 as i32 as u32),
        (Ty::S16 | Ty::U16, Ty::S8, 0) => lanes!(r32 <- a: r32; u32::from(a as u8 as i8 as i16 as u16)),
        _ => return None,
    })
}

#[inline(always)]
fn canon_nan(b: u32) -> u32 {
    if b & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { b }
}

/// Forms with a packed result.
fn packed(cx: &mut Cx<'_, '_>, dst: Ty, src: Ty, mode: Mode) -> Res<Op> {
    let half = match dst {
        Ty::F16x2 => Ty::F16,
        Ty::Bf16x2 => Ty::Bf16,
        Ty::E4m3x2 => Ty::E4m3,
        _ => Ty::E5m2,
    };
    let n = if src == Ty::F32 { 3 } else { 2 };
    cx.done(n, n)?;
    let from = match src {
        Ty::F32 => Ty::F32,
        Ty::F16x2 if dst.bits() == 16 => Ty::F16,
        Ty::E4m3x2 if dst == Ty::F16x2 => Ty::E4m3,
        Ty::E5m2x2 if dst == Ty::F16x2 => Ty::E5m2,
        _ => return cx.no_form(),
    };
    if dst.bits() == 16 && !mode.satfinite {
        return cx.err(format!("`{}` needs `.satfinite`", cx.opcode()));
    }
    let d = cx.dst(0, dst)?;
    if src == Ty::F32 {
        let s = [cx.src(1, src)?, cx.src(2, src)?, 0, 0];
        let plain = mode == Mode::default();
        let f: AluFn = match (dst, plain) {
            // The first operand becomes the upper half.
            (Ty::F16x2, true) => lanes!(r32 <- a: r32, b: r32;
                u32::from(soft::f32_to_f16(f32::from_bits(a))) << 16 | u32::from(soft::f32_to_f16(f32::from_bits(b)))),
            (Ty::Bf16x2, true) => lanes!(r32 <- a: r32, b: r32;
                u32::from(soft::f32_to_bf16(f32::from_bits(a))) << 16
                    | u32::from(soft::f32_to_bf16(f32::from_bits(b)))),
            _ => |r, x, m| {
                let mode = Mode::from_bits(x.imm & 0xff);
                let half = TYS[(x.imm >> 12 & 15) as usize];
                let (a, b) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize]);
                let mut o = [0; 32];
                for l in 0..32 {
                    let one = |v: u32| convert(Ty::F32, half, mode, u64::from(v)) as u32;
                    o[l] = one(a[l]) << half.bits() | one(b[l]);
                }
                r.put32(x.d, m, &o);
            },
        };
        let imm = mode.bits() | code(half) << 12;
        return Ok(Op::Alu(f, Args { d, s, imm, ..Args::default() }));
    }
    let s = [cx.src(1, src)?, 0, 0, 0];
    let f: AluFn = |r, x, m| {
        let mode = Mode::from_bits(x.imm & 0xff);
        let (from, half) = (TYS[(x.imm >> 8 & 15) as usize], TYS[(x.imm >> 12 & 15) as usize]);
        let mut o = [0; 32];
        for l in 0..32 {
            let v = r.r32[x.s[0] as usize][l];
            let one = |v: u32| convert(from, half, mode, u64::from(v & ((1 << from.bits()) - 1))) as u32;
            o[l] = one(v >> from.bits()) << half.bits() | one(v);
        }
        r.put32(x.d, m, &o);
    };
    let imm = mode.bits() | code(from) << 8 | code(half) << 12;
    Ok(Op::Alu(f, Args { d, s, imm, ..Args::default() }))
}

/// `cvt.pack.sat`: two saturated integers, above the shifted third operand for 8-bit and narrower results.
fn pack(cx: &mut Cx<'_, '_>) -> Res<Op> {
    cx.need(&["sat"])?;
    let to = cx.ty()?;
    let from = cx.ty()?;
    let third = cx.opt_ty();
    if from != Ty::S32 {
        return cx.no_form();
    }
    let n = if third.is_some() { 4 } else { 3 };
    cx.done(n, n)?;
    let bits = to.bits();
    if !matches!(to, Ty::U16 | Ty::S16 | Ty::U8 | Ty::S8 | Ty::U4 | Ty::S4)
        || (third.is_some() != (bits < 16))
        || third.is_some_and(|t| t != Ty::B32)
    {
        return cx.no_form();
    }
    let d = cx.dst(0, Ty::B32)?;
    let a = cx.src(1, Ty::S32)?;
    let b = cx.src(2, Ty::S32)?;
    let c = if third.is_some() { cx.src(3, Ty::B32)? } else { a };
    let imm = bits | u32::from(to.is_signed()) << 8 | u32::from(third.is_some()) << 9;
    let f: AluFn = |r, x, m| {
        let (a, b, c) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize], r.r32[x.s[2] as usize]);
        let bits = x.imm & 0xff;
        let (lo, hi) = if x.imm & 0x100 != 0 {
            (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1)
        } else {
            (0, (1i64 << bits) - 1)
        };
        let mut o = [0; 32];
        for l in 0..32 {
            let one = |v: u32| (i64::from(v as i32).clamp(lo, hi) as u32) & ((1 << bits) - 1);
            let pair = one(a[l]) << bits | one(b[l]);
            o[l] = if x.imm & 0x200 != 0 { c[l] << (2 * bits) | pair } else { pair };
        }
        r.put32(x.d, m, &o);
    };
    Ok(Op::Alu(f, Args { d, s: [a, b, c, 0], imm, ..Args::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vector loops and the general routine agree on every pair that has both.
    #[test]
    fn fast_conversions_equal_the_general_rule() {
        let inputs: Vec<u64> = (0..64u64)
            .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 40))
            .chain([
                0x7f80_0000,
                0xff80_0000,
                0x7fc0_0000,
                0x8000_0000,
                0x4f00_0000,
                0x3f00_0000,
                0x4020_0000,
            ])
            .chain([0x7c00, 0xfc00, 0x7e01, 0x0001, 0x83ff, 0x7bff, u64::MAX])
            .collect();
        let mut pairs = 0;
        for &dst in TYS {
            for &src in TYS {
                for round in [0, 8, 9] {
                    let mode = Mode { round, ..Mode::default() };
                    let Some(f) = fast(dst, src, mode) else { continue };
                    pairs += 1;
                    for &v in &inputs {
                        let mut r = crate::vm::regs::Regs {
                            r32: vec![[v as u32; 32], [0; 32]],
                            r64: vec![[v; 32], [0; 32]],
                            ..Default::default()
                        };
                        f(&mut r, &Args { d: 1, s: [0; 4], ..Args::default() }, u32::MAX);
                        let got = if dst.bits() == 64 { r.r64[1][0] } else { u64::from(r.r32[1][0]) };
                        let bits = if src.bits() == 64 { v } else { v & 0xffff_ffff };
                        let want = convert(src, dst, mode, bits);
                        assert_eq!(got, want, "{src:?} to {dst:?} round {round} of {v:#x}");
                    }
                }
            }
        }
        assert!(pairs > 25, "only {pairs} pairs have a fast form");
    }
}
