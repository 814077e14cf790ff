//! Transcendental and approximate functions.
//!
//! The ISA bounds the error of `.approx` forms and leaves the bits open. They are computed in double
//! precision and rounded; with [`Config::approx_seed`](crate::Config) set, the result is then moved by a
//! pseudo-random amount within the bound, so that code which leans on the bits shows it.

use super::canon32;
use super::float::{ROUNDS, round_code, round_of};
use super::macros::{lanes_f32, lanes_f32_ftz, lanes_f64};
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::soft;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, Regs};

/// Error bound of a function, as the ISA states it.
#[derive(Clone, Copy)]
enum Bound {
    /// Units in the last place.
    Ulp(u32),
    /// Absolute error.
    Abs(f64),
}

/// A number in [-1, 1) from the operand and the seed.
fn noise(seed: u64, bits: u64) -> f64 {
    let mut h = seed ^ bits.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 29;
    (h as i64) as f64 / 9.223_372_036_854_776e18
}

fn perturb(v: f32, seed: u64, input: u64, bound: Bound) -> f32 {
    if seed == 0 || !v.is_finite() || v == 0.0 {
        return v;
    }
    let n = noise(seed, input);
    match bound {
        Bound::Ulp(u) => {
            let moved = f32::from_bits((v.to_bits() as i64 + (n * f64::from(u + 1)) as i64) as u32);
            if moved.is_finite() && (moved > 0.0) == (v > 0.0) { moved } else { v }
        }
        Bound::Abs(e) => (f64::from(v) + n * e) as f32,
    }
}

#[inline(always)]
fn unary(r: &mut Regs, x: &Args, m: u32, ftz: bool, bound: Bound, f: impl Fn(f64) -> f64) {
    let a = r.r32[x.s[0] as usize];
    let seed = r.approx_seed;
    let mut o = [0; 32];
    for l in 0..32 {
        if m >> l & 1 == 0 {
            continue;
        }
        let v = if ftz { soft::ftz32(a[l]) } else { a[l] };
        let y = f(f64::from(f32::from_bits(v))) as f32;
        let y = canon32(perturb(y, seed, u64::from(v), bound));
        o[l] = if ftz { soft::ftz32(y) } else { y };
    }
    r.put32(x.d, m, &o);
}

#[inline(always)]
fn binary(r: &mut Regs, x: &Args, m: u32, ftz: bool, f: impl Fn(f32, f32) -> f32) {
    let (a, b) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize]);
    let seed = r.approx_seed;
    let mut o = [0; 32];
    for l in 0..32 {
        let z = |v| f32::from_bits(if ftz { soft::ftz32(v) } else { v });
        let y = f(z(a[l]), z(b[l]));
        let y = canon32(perturb(y, seed, u64::from(a[l]) << 32 | u64::from(b[l]), Bound::Ulp(2)));
        o[l] = if ftz { soft::ftz32(y) } else { y };
    }
    r.put32(x.d, m, &o);
}

/// `div.approx`: above 2^126 the divisor's reciprocal underflows to zero.
fn div_approx(a: f32, b: f32) -> f32 {
    if b.is_finite() && b.abs() > f32::from_bits(0x7e80_0000) {
        return if a.is_infinite() || a.is_nan() {
            f32::NAN
        } else {
            0.0f32.copysign(f32::from_bits(a.to_bits() ^ (b.to_bits() & 0x8000_0000)))
        };
    }
    a / b
}

/// The function of `div.approx` and `div.full`.
pub(crate) fn div(full: bool, ftz: bool) -> AluFn {
    match (full, ftz) {
        (false, false) => |r, x, m| binary(r, x, m, false, div_approx),
        (false, true) => |r, x, m| binary(r, x, m, true, div_approx),
        (true, false) => |r, x, m| binary(r, x, m, false, |a, b| a / b),
        (true, true) => |r, x, m| binary(r, x, m, true, |a, b| a / b),
    }
}

/// Logarithm, with the bound that applies near one.
fn lg2(r: &mut Regs, x: &Args, m: u32, ftz: bool) {
    unary(r, x, m, ftz, Bound::Abs(1.0 / 4_194_304.0), |v| v.log2());
}

/// Sine and cosine of a finite angle; infinities give NaN.
fn trig(v: f64, f: fn(f64) -> f64) -> f64 {
    if v.is_finite() { f(v) } else { f64::NAN }
}

macro_rules! approx {
    ($ftz:expr, $bound:expr, $f:expr) => {
        if $ftz {
            |r, x, m| unary(r, x, m, true, $bound, $f)
        } else {
            |r, x, m| unary(r, x, m, false, $bound, $f)
        }
    };
}

const TRIG: Bound = Bound::Abs(1.0 / 2_097_152.0);

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let mode = cx.one_of(&["approx", "rn", "rz", "rm", "rp"]);
    let ftz = cx.flag("ftz");
    let ty = cx.ty()?;
    cx.done(2, 2)?;
    if matches!(base, "rcp" | "sqrt") && mode.is_some_and(|m| ROUNDS.contains(&m)) {
        return rounded(cx, base, mode.unwrap_or("rn"), ftz, ty);
    }
    if mode != Some("approx") {
        return cx.err(format!("`{}` lacks `.approx` or a rounding", cx.opcode()));
    }
    let f: AluFn = match (base, ty) {
        ("rcp", Ty::F32) => approx!(ftz, Bound::Ulp(1), |v: f64| 1.0 / v),
        ("sqrt", Ty::F32) => approx!(ftz, Bound::Ulp(1), f64::sqrt),
        ("rsqrt", Ty::F32) => approx!(ftz, Bound::Ulp(2), rsqrt),
        ("sin", Ty::F32) => approx!(ftz, TRIG, |v| trig(v, f64::sin)),
        ("cos", Ty::F32) => approx!(ftz, TRIG, |v| trig(v, f64::cos)),
        ("lg2", Ty::F32) if ftz => |r, x, m| lg2(r, x, m, true),
        ("lg2", Ty::F32) => |r, x, m| lg2(r, x, m, false),
        ("ex2", Ty::F32) => approx!(ftz, Bound::Ulp(2), f64::exp2),
        ("tanh", Ty::F32) if !ftz => approx!(false, Bound::Ulp(4096), f64::tanh),
        ("ex2", Ty::F16 | Ty::F16x2) if !ftz => |r, x, m| narrow::<false>(r, x, m, |v| v.exp2()),
        ("ex2", Ty::Bf16 | Ty::Bf16x2) if ftz => |r, x, m| narrow::<true>(r, x, m, |v| v.exp2()),
        ("tanh", Ty::F16 | Ty::F16x2) if !ftz => |r, x, m| narrow::<false>(r, x, m, |v| v.tanh()),
        ("tanh", Ty::Bf16 | Ty::Bf16x2) if !ftz => |r, x, m| narrow::<true>(r, x, m, |v| v.tanh()),
        // The low half of the result is zero; subnormals are flushed.
        ("rcp", Ty::F64) if ftz => lanes_f64!(a; coarse(1.0 / flush64(a))),
        ("rsqrt", Ty::F64) if ftz => lanes_f64!(a; coarse(rsqrt(flush64(a)))),
        ("rsqrt", Ty::F64) => lanes_f64!(a; rsqrt(a)),
        _ => return cx.no_form(),
    };
    let mut x = cx.args1(ty, ty)?;
    x.imm = u32::from(matches!(ty, Ty::F16x2 | Ty::Bf16x2));
    Ok(Op::Alu(f, x))
}

fn rsqrt(v: f64) -> f64 {
    if v == 0.0 { f64::INFINITY.copysign(v) } else { 1.0 / v.sqrt() }
}

fn flush64(v: f64) -> f64 {
    if v.is_subnormal() { 0.0f64.copysign(v) } else { v }
}

fn coarse(v: f64) -> f64 {
    if v.is_nan() {
        f64::from_bits(0x7ff8_0000_0000_0000)
    } else {
        f64::from_bits(v.to_bits() & !0xffff_ffff)
    }
}

/// f16 and bf16 forms; `imm` bit 0 marks a packed pair.
fn narrow<const BF: bool>(r: &mut Regs, x: &Args, m: u32, f: fn(f64) -> f64) {
    let a = r.r32[x.s[0] as usize];
    let one = |h: u16| {
        let v = if BF {
            // The bf16 exponential flushes subnormals.
            if h & 0x7f80 == 0 { 0.0 } else { soft::bf16_to_f32(h) }
        } else {
            soft::f16_to_f32(h)
        };
        let y = f(f64::from(v));
        u32::from(soft::f64_to(if BF { soft::BF16 } else { soft::F16 }, y) as u16)
    };
    let mut o = [0; 32];
    for l in 0..32 {
        if m >> l & 1 == 1 {
            o[l] = one(a[l] as u16);
            if x.imm & 1 == 1 {
                o[l] |= one((a[l] >> 16) as u16) << 16;
            }
        }
    }
    r.put32(x.d, m, &o);
}

/// Correctly rounded `rcp` and `sqrt`.
fn rounded(cx: &mut Cx<'_, '_>, base: &str, mode: &str, ftz: bool, ty: Ty) -> Res<Op> {
    let mut x = cx.args1(ty, ty)?;
    x.imm = round_code(mode) | u32::from(ftz) << 3;
    macro_rules! slow {
        ($class:ident, $put:ident, $f:expr) => {{
            let f: AluFn = |r, x, m| {
                let a = r.$class[x.s[0] as usize];
                let mut o = [0; 32];
                for l in 0..32 {
                    o[l] = $f(a[l], x.imm);
                }
                r.$put(x.d, m, &o);
            };
            f
        }};
    }
    let f: AluFn = match (base, ty, mode, ftz) {
        ("rcp", Ty::F32, "rn", false) => lanes_f32!(a; f32::from_bits(canon32(1.0 / a))),
        ("rcp", Ty::F32, "rn", true) => lanes_f32_ftz!(a; f32::from_bits(canon32(1.0 / a))),
        ("sqrt", Ty::F32, "rn", false) => lanes_f32!(a; f32::from_bits(canon32(a.sqrt()))),
        ("sqrt", Ty::F32, "rn", true) => lanes_f32_ftz!(a; f32::from_bits(canon32(a.sqrt()))),
        ("rcp", Ty::F32, ..) => slow!(r32, put32, |a, imm| {
            let v = soft::div(soft::F32, 0x3f80_0000, u64::from(flush(a, imm)), round_of(imm)) as u32;
            flush(v, imm)
        }),
        ("sqrt", Ty::F32, ..) => slow!(r32, put32, |a, imm| {
            flush(soft::sqrt(soft::F32, u64::from(flush(a, imm)), round_of(imm)) as u32, imm)
        }),
        ("rcp", Ty::F64, "rn", false) => lanes_f64!(a; 1.0 / a),
        ("sqrt", Ty::F64, "rn", false) => lanes_f64!(a; a.sqrt()),
        ("rcp", Ty::F64, _, false) => {
            slow!(r64, put64, |a, imm| soft::div(soft::F64, 1.0f64.to_bits(), a, round_of(imm)))
        }
        ("sqrt", Ty::F64, _, false) => slow!(r64, put64, |a, imm| soft::sqrt(soft::F64, a, round_of(imm))),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, x))
}

fn flush(v: u32, imm: u32) -> u32 {
    if imm & 8 != 0 { soft::ftz32(v) } else { v }
}
