//! Mixed precision: a single is added to, subtracted from, or put under the product of halves, which are widened first.

use super::float::{ROUNDS, SAT, add_r, fma_r, round_code, slow, sub_r};
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::soft;
use crate::ty::Ty;
use crate::vm::regs::AluFn;

/// The operation on widened halves and a single, the last of them; halves are `f16` or else `bf16`.
macro_rules! widened {
    ($halves:tt, $f16:expr, $f:expr) => {{
        let f: AluFn = |r, x, m| {
            let half = |i: usize, l: usize| {
                let v = r.r32[x.s[i] as usize][l] as u16;
                if $f16 { soft::f16_to_f32(v) } else { soft::bf16_to_f32(v) }.to_bits()
            };
            let mut o = [0; 32];
            for l in 0..32 {
                let single = r.r32[x.s[$halves] as usize][l];
                let b = if $halves == 1 { single } else { half(1, l) };
                o[l] = slow(x, half(0, l), b, single, $f);
            }
            r.put32(x.d, m, &o);
        };
        f
    }};
}

/// `add`, `sub` and `fma` of `.f32.f16` and `.f32.bf16`.
pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    if !matches!(base, "add" | "sub" | "fma") {
        return cx.no_form();
    }
    let round = if base == "fma" { cx.need(ROUNDS)? } else { cx.one_of(ROUNDS).unwrap_or("rn") };
    let saturate = cx.flag("sat");
    cx.need(&["f32"])?;
    let half = cx.ty()?;
    let operands = if base == "fma" { 4 } else { 3 };
    cx.done(operands, operands)?;
    let mut args = match base {
        "fma" => cx.args3(Ty::F32, half, half, Ty::F32)?,
        _ => cx.args2(Ty::F32, half, Ty::F32)?,
    };
    args.imm = round_code(round) | if saturate { SAT } else { 0 };
    let f = match (base, half == Ty::F16) {
        ("add", true) => widened!(1, true, add_r),
        ("add", false) => widened!(1, false, add_r),
        ("sub", true) => widened!(1, true, sub_r),
        ("sub", false) => widened!(1, false, sub_r),
        (_, true) => widened!(2, true, fma_r),
        (_, false) => widened!(2, false, fma_r),
    };
    Ok(Op::Alu(f, args))
}
