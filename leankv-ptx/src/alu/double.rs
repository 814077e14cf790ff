//! Double-precision arithmetic.

use super::float::{ROUNDS, round_code, round_of};
use super::macros::{lanes, lanes_f64};
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::soft::{self, Round};
use crate::ty::Ty;
use crate::vm::regs::AluFn;

const NAN: u64 = 0x7ff8_0000_0000_0000;
const SIGN: u64 = 1 << 63;

fn add_r(a: u64, b: u64, _: u64, r: Round) -> u64 {
    soft::fma(soft::F64, a, 1.0f64.to_bits(), b, r)
}
fn sub_r(a: u64, b: u64, c: u64, r: Round) -> u64 {
    add_r(a, b ^ SIGN, c, r)
}
fn mul_r(a: u64, b: u64, _: u64, r: Round) -> u64 {
    soft::fma(soft::F64, a, b, (a ^ b) & SIGN, r)
}
fn fma_r(a: u64, b: u64, c: u64, r: Round) -> u64 {
    soft::fma(soft::F64, a, b, c, r)
}
fn div_r(a: u64, b: u64, _: u64, r: Round) -> u64 {
    soft::div(soft::F64, a, b, r)
}

macro_rules! slow_lanes {
    ($n:tt, $f:expr) => {{
        let f: AluFn = |r, x, m| {
            let v: [_; 3] = std::array::from_fn(|i| r.r64[x.s[if i < $n { i } else { 0 }] as usize]);
            let mut o = [0; 32];
            for l in 0..32 {
                o[l] = $f(v[0][l], v[1][l], v[2][l], round_of(x.imm));
            }
            r.put64(x.d, m, &o);
        };
        f
    }};
}

fn min_max(a: u64, b: u64, max: bool) -> u64 {
    let (fa, fb) = (f64::from_bits(a), f64::from_bits(b));
    match (fa.is_nan(), fb.is_nan()) {
        (true, true) => NAN,
        (true, false) => b,
        (false, true) => a,
        _ if fa == fb => {
            if max {
                a & b
            } else {
                a | b
            }
        }
        _ => {
            if (fa > fb) == max {
                a
            } else {
                b
            }
        }
    }
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let ty = Ty::F64;
    let f: AluFn;
    match base {
        "add" | "sub" | "mul" | "div" | "fma" | "mad" => {
            let round = match base {
                "add" | "sub" | "mul" => cx.one_of(ROUNDS).unwrap_or("rn"),
                _ => cx.need(ROUNDS)?,
            };
            cx.ty()?;
            let three = matches!(base, "fma" | "mad");
            let n = if three { 4 } else { 3 };
            cx.done(n, n)?;
            f = match (base, round) {
                ("add", "rn") => lanes_f64!(a, b; a + b),
                ("sub", "rn") => lanes_f64!(a, b; a - b),
                ("mul", "rn") => lanes_f64!(a, b; a * b),
                ("div", "rn") => lanes_f64!(a, b; a / b),
                ("fma" | "mad", "rn") => lanes_f64!(a, b, c; a.mul_add(b, c)),
                ("add", _) => slow_lanes!(2, add_r),
                ("sub", _) => slow_lanes!(2, sub_r),
                ("mul", _) => slow_lanes!(2, mul_r),
                ("div", _) => slow_lanes!(2, div_r),
                _ => slow_lanes!(3, fma_r),
            };
            let mut args = if three { cx.args3(ty, ty, ty, ty)? } else { cx.args2(ty, ty, ty)? };
            args.imm = round_code(round);
            Ok(Op::Alu(f, args))
        }
        "min" | "max" => {
            cx.ty()?;
            cx.done(3, 3)?;
            f = if base == "max" {
                lanes!(r64 <- a: r64, b: r64; min_max(a, b, true))
            } else {
                lanes!(r64 <- a: r64, b: r64; min_max(a, b, false))
            };
            Ok(Op::Alu(f, cx.args2(ty, ty, ty)?))
        }
        "abs" | "neg" => {
            cx.ty()?;
            cx.done(2, 2)?;
            f = if base == "neg" {
                lanes!(r64 <- a: r64; a ^ SIGN)
            } else {
                lanes!(r64 <- a: r64; a & !SIGN)
            };
            Ok(Op::Alu(f, cx.args1(ty, ty)?))
        }
        "copysign" => {
            cx.ty()?;
            cx.done(3, 3)?;
            f = lanes!(r64 <- a: r64, b: r64; (a & SIGN) | (b & !SIGN));
            Ok(Op::Alu(f, cx.args2(ty, ty, ty)?))
        }
        _ => cx.no_form(),
    }
}
