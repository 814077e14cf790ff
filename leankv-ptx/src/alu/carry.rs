//! Extended-precision arithmetic over the carry flag.

use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, Regs};

/// `d = a * b (part) +- c` with carry in and out. `s[3]` is the flag; `imm`: bit 0 uses it, bit 1 sets it.
fn run<const WIDE: bool, const SUB: bool, const PART: u8, const SIGNED: bool>(
    r: &mut Regs,
    x: &Args,
    m: u32,
) {
    let flag = r.p[x.s[3] as usize];
    let get = |r: &Regs, s: u32, l: usize| {
        if WIDE { r.r64[s as usize][l] } else { u64::from(r.r32[s as usize][l]) }
    };
    let bits = if WIDE { 64 } else { 32 };
    let mask = if WIDE { u64::MAX } else { 0xffff_ffff };
    let mut out32 = [0u32; 32];
    let mut out64 = [0u64; 32];
    let mut carry = 0u32;
    for l in 0..32 {
        let (first, second) = if PART == 0 {
            (get(r, x.s[0], l), get(r, x.s[1], l))
        } else {
            let (a, b) = (get(r, x.s[0], l), get(r, x.s[1], l));
            let ext = |v: u64| if WIDE { i128::from(v as i64) } else { i128::from(v as u32 as i32) };
            let product =
                if SIGNED { (ext(a).wrapping_mul(ext(b))) as u128 } else { u128::from(a) * u128::from(b) };
            let part = if PART == 1 { product } else { product >> bits };
            (part as u64 & mask, get(r, x.s[2], l))
        };
        // A subtraction adds the complement: its flag is the carry of that, set when nothing was borrowed.
        let cin = if x.imm & 1 != 0 { flag >> l & 1 } else { u32::from(SUB) };
        let second = if SUB { !second & mask } else { second };
        let wide = u128::from(first) + u128::from(second) + u128::from(cin);
        carry |= ((wide >> bits) as u32 & 1) << l;
        if WIDE {
            out64[l] = wide as u64;
        } else {
            out32[l] = wide as u32;
        }
    }
    if WIDE {
        r.put64(x.d, m, &out64);
    } else {
        r.put32(x.d, m, &out32);
    }
    if x.imm & 2 != 0 {
        r.putp(x.s[3], m, carry);
    }
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let part = match base {
        "mad" | "madc" => {
            if cx.need(&["lo", "hi"])? == "lo" {
                1
            } else {
                2
            }
        }
        "add" | "addc" | "sub" | "subc" => 0,
        _ => return cx.no_form(),
    };
    let sets = cx.flag("cc");
    let ty = cx.ty()?;
    let uses = base.ends_with('c');
    let sub = base.starts_with("sub");
    let n = if part == 0 { 3 } else { 4 };
    cx.done(n, n)?;
    if !matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) {
        return cx.no_form();
    }
    let f: AluFn = match (ty.bits() == 64, sub, part, ty.is_signed()) {
        (false, false, 0, _) => run::<false, false, 0, false>,
        (true, false, 0, _) => run::<true, false, 0, false>,
        (false, true, _, _) => run::<false, true, 0, false>,
        (true, true, _, _) => run::<true, true, 0, false>,
        (false, _, 1, _) => run::<false, false, 1, false>,
        (true, _, 1, _) => run::<true, false, 1, false>,
        (false, _, _, false) => run::<false, false, 2, false>,
        (false, _, _, true) => run::<false, false, 2, true>,
        (true, _, _, false) => run::<true, false, 2, false>,
        (true, _, _, true) => run::<true, false, 2, true>,
    };
    let mut args = if part == 0 { cx.args2(ty, ty, ty)? } else { cx.args3(ty, ty, ty, ty)? };
    args.s[3] = cx.fb.carry();
    args.imm = u32::from(uses) | u32::from(sets) << 1;
    Ok(Op::Alu(f, args))
}
