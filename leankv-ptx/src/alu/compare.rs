//! Comparisons: `setp`, `set` and `testp`.

use super::macros::compare;
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::soft;
use crate::syntax::ast::Operand;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, Regs, SINK};

/// `imm` bits 4-6: what a true `set` writes (0 = predicate).
const SET_B32: u32 = 1 << 4;
const SET_F32: u32 = 2 << 4;
const SET_F16: u32 = 3 << 4;
const SET_BF16: u32 = 4 << 4;
const SET_B16: u32 = 5 << 4;

/// Stores a comparison result by `setp` or `set` rules. `s[2]` is the encoded predicate to combine with.
#[inline(always)]
pub(crate) fn store(r: &mut Regs, x: &Args, m: u32, t: u32) {
    if x.imm == 0 {
        r.putp(x.d, m, t);
        r.putp(x.d2, m, !t);
        return;
    }
    store_general(r, x, m, t);
}

fn combine(kind: u32, t: u32, c: u32) -> u32 {
    match kind & 3 {
        1 => t & c,
        2 => t | c,
        3 => t ^ c,
        _ => t,
    }
}

fn store_general(r: &mut Regs, x: &Args, m: u32, t: u32) {
    let c = if x.imm & 3 == 0 { 0 } else { r.pred(x.s[2]) };
    let (p, q) = (combine(x.imm, t, c), combine(x.imm, !t, c));
    let one = match x.imm & 0x70 {
        SET_B32 => u32::MAX,
        SET_F32 => 1.0f32.to_bits(),
        SET_F16 => 0x3c00,
        SET_BF16 => 0x3f80,
        SET_B16 => 0xffff,
        _ => {
            r.putp(x.d, m, p);
            r.putp(x.d2, m, q);
            return;
        }
    };
    let mut o = [0; 32];
    for (l, v) in o.iter_mut().enumerate() {
        *v = if p >> l & 1 == 1 { one } else { 0 };
    }
    r.put32(x.d, m, &o);
}

const OPS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
    "num", "nan",
];

macro_rules! float_ops {
    ($op:expr, $class:ident, $conv:expr) => {{
        match $op {
            "eq" => compare!(a, b: $class; $conv(a) == $conv(b)),
            "ne" => compare!(a, b: $class; { let (a, b) = ($conv(a), $conv(b)); a < b || a > b }),
            "lt" => compare!(a, b: $class; $conv(a) < $conv(b)),
            "le" => compare!(a, b: $class; $conv(a) <= $conv(b)),
            "gt" => compare!(a, b: $class; $conv(a) > $conv(b)),
            "ge" => compare!(a, b: $class; $conv(a) >= $conv(b)),
            "equ" => compare!(a, b: $class; { let (a, b) = ($conv(a), $conv(b)); !(a < b || a > b) }),
            "neu" => compare!(a, b: $class; $conv(a) != $conv(b)),
            "ltu" => compare!(a, b: $class; !($conv(a) >= $conv(b))),
            "leu" => compare!(a, b: $class; !($conv(a) > $conv(b))),
            "gtu" => compare!(a, b: $class; !($conv(a) <= $conv(b))),
            "geu" => compare!(a, b: $class; !($conv(a) < $conv(b))),
            "num" => compare!(a, b: $class; !$conv(a).is_nan() && !$conv(b).is_nan()),
            "nan" => compare!(a, b: $class; $conv(a).is_nan() || $conv(b).is_nan()),
            _ => return None,
        }
    }};
}

macro_rules! int_ops {
    ($op:expr, $class:ident, $conv:expr) => {{
        match $op {
            "eq" => compare!(a, b: $class; $conv(a) == $conv(b)),
            "ne" => compare!(a, b: $class; $conv(a) != $conv(b)),
            "lt" | "lo" => compare!(a, b: $class; $conv(a) < $conv(b)),
            "le" | "ls" => compare!(a, b: $class; $conv(a) <= $conv(b)),
            "gt" | "hi" => compare!(a, b: $class; $conv(a) > $conv(b)),
            "ge" | "hs" => compare!(a, b: $class; $conv(a) >= $conv(b)),
            _ => return None,
        }
    }};
}

fn f32_of(v: u32) -> f32 {
    f32::from_bits(v)
}
fn f32_ftz(v: u32) -> f32 {
    f32::from_bits(soft::ftz32(v))
}
fn f16_of(v: u32) -> f32 {
    soft::f16_to_f32(v as u16)
}
fn f16_ftz(v: u32) -> f32 {
    soft::f16_to_f32(soft::ftz16(v as u16))
}
fn bf16_of(v: u32) -> f32 {
    soft::bf16_to_f32(v as u16)
}
fn i16_of(v: u32) -> i16 {
    v as u16 as i16
}
fn i32_of(v: u32) -> i32 {
    v as i32
}
fn i64_of(v: u64) -> i64 {
    v as i64
}
fn same32(v: u32) -> u32 {
    v
}
fn same64(v: u64) -> u64 {
    v
}

#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::nonminimal_bool)] // Unordered comparisons are negations.
fn pick(op: &str, ty: Ty, ftz: bool) -> Option<AluFn> {
    let signed_only = matches!(op, "lo" | "ls" | "hi" | "hs");
    let bits_only = matches!(op, "eq" | "ne");
    Some(match ty {
        Ty::F32 if ftz => float_ops!(op, r32, f32_ftz),
        Ty::F32 => float_ops!(op, r32, f32_of),
        Ty::F16 if ftz => float_ops!(op, r32, f16_ftz),
        Ty::F16 => float_ops!(op, r32, f16_of),
        Ty::Bf16 => float_ops!(op, r32, bf16_of),
        Ty::F64 => float_ops!(op, r64, f64::from_bits),
        Ty::B16 | Ty::B32 if bits_only => int_ops!(op, r32, same32),
        Ty::B64 if bits_only => int_ops!(op, r64, same64),
        Ty::U16 | Ty::U32 => int_ops!(op, r32, same32),
        Ty::U64 => int_ops!(op, r64, same64),
        Ty::S16 if !signed_only => int_ops!(op, r32, i16_of),
        Ty::S32 if !signed_only => int_ops!(op, r32, i32_of),
        Ty::S64 if !signed_only => int_ops!(op, r64, i64_of),
        _ => return None,
    })
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    match cx.instr.base.as_str() {
        "testp" => testp(cx),
        "set" => set(cx),
        _ => setp(cx),
    }
}

/// How the comparison meets the third operand, if it does: bits 0-1 of `Args::imm`, see [`combine`].
fn combination(cx: &mut Cx<'_, '_>) -> u32 {
    match cx.one_of(&["and", "or", "xor"]) {
        Some("and") => 1,
        Some("or") => 2,
        Some(_) => 3,
        None => 0,
    }
}

/// Puts the combination and its predicate, operand 3, where [`store`] finds them.
fn combined(cx: &mut Cx<'_, '_>, kind: u32, x: &mut Args) -> Res<()> {
    if kind != 0 {
        x.imm |= kind;
        x.s[2] = cx.pred(3)?;
    }
    Ok(())
}

fn setp(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let op = cx.need(OPS)?;
    let kind = combination(cx);
    let ftz = cx.flag("ftz");
    let ty = cx.ty()?;
    let n = if kind != 0 { 4 } else { 3 };
    cx.done(n, n)?;
    let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    let f: AluFn = match pick(op, ty, ftz) {
        Some(f) => f,
        None if packed => |r, x, m| {
            let [low, high] = packed_compare(r, x);
            r.putp(x.d, m, low);
            r.putp(x.d2, m, high);
        },
        None => return cx.no_form(),
    };
    let how = if packed { packed_how(cx, op, ftz, ty)? } else { (0, 0) };
    let (d, d2) = match cx.operand(0)? {
        Operand::Pair(a, b) => (cx.pred_dst_of(a)?, cx.pred_dst_of(b)?),
        // The low half's and the high half's.
        _ if packed => {
            return cx.err(format!("`{}` needs two predicate destinations `p|q`", cx.opcode()));
        }
        o => (cx.pred_dst_of(o)?, SINK),
    };
    let mut x = Args { d, d2, s: [cx.src(1, ty)?, cx.src(2, ty)?, 0, how.0], imm: how.1 };
    combined(cx, kind, &mut x)?;
    Ok(Op::Alu(f, x))
}

/// How packed pairs are compared: the number of the comparison for `Args::s[3]`, and for `imm` how a half is read.
fn packed_how(cx: &Cx<'_, '_>, op: &str, ftz: bool, ty: Ty) -> Res<(u32, u32)> {
    match OPS.iter().position(|o| *o == op) {
        // Those of unsigned integers are none of floats.
        Some(code) if !(6..10).contains(&code) => {
            Ok((code as u32, u32::from(ftz) << 8 | u32::from(ty == Ty::Bf16x2) << 9))
        }
        _ => cx.no_form(),
    }
}

/// Lanes whose low and whose high halves compare true, combined with the predicate.
fn packed_compare(r: &Regs, x: &Args) -> [u32; 2] {
    let (a, b) = (&r.r32[x.s[0] as usize], &r.r32[x.s[1] as usize]);
    let conv = half_of(x.imm);
    let c = if x.imm & 3 == 0 { 0 } else { r.pred(x.s[2]) };
    [0, 16].map(|shift| {
        let half = |v: u32| conv(v >> shift & 0xffff);
        let lanes = (0..32).map(|l| u32::from(float_compare(x.s[3], half(a[l]), half(b[l]))) << l);
        combine(x.imm, lanes.fold(0, |all, lane| all | lane), c)
    })
}

/// How a half of a pair is read: bit 9 of `imm` says bf16, bit 8 flushes subnormals.
fn half_of(imm: u32) -> fn(u32) -> f32 {
    match (imm & 0x200 != 0, imm & 0x100 != 0) {
        (true, _) => bf16_of,
        (_, true) => f16_ftz,
        _ => f16_of,
    }
}

/// The comparison number `code` of [`OPS`] on two floats.
pub(crate) fn float_compare(code: u32, a: f32, b: f32) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match OPS.get(code as usize).copied().unwrap_or("eq") {
        "eq" => a == b,
        "ne" => !unordered && a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        "ge" => a >= b,
        "equ" => unordered || a == b,
        "neu" => a != b,
        "ltu" => unordered || a < b,
        "leu" => unordered || a <= b,
        "gtu" => unordered || a > b,
        "geu" => unordered || a >= b,
        "num" => !unordered,
        _ => unordered,
    }
}

fn set(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let op = cx.need(OPS)?;
    let kind = combination(cx);
    let ftz = cx.flag("ftz");
    let dty = cx.ty()?;
    let sty = cx.ty()?;
    let n = if kind != 0 { 4 } else { 3 };
    cx.done(n, n)?;
    let mut x = Args { d2: SINK, ..Args::default() };
    let f: AluFn = if matches!(sty, Ty::F16x2 | Ty::Bf16x2) {
        // Each half of the destination: one or all ones where its half compares true, else zero.
        let one: u32 = match dty {
            Ty::U32 | Ty::S32 => 0xffff,
            Ty::F16x2 if sty == dty => 0x3c00,
            Ty::Bf16x2 if sty == dty => 0x3f80,
            _ => return cx.no_form(),
        };
        let (code, how) = packed_how(cx, op, ftz, sty)?;
        (x.s[3], x.imm) = (code, how | one << 16);
        |r, x, m| {
            let [low, high] = packed_compare(r, x);
            r.put32(x.d, m, &std::array::from_fn(|l| (low >> l & 1 | (high >> l & 1) << 16) * (x.imm >> 16)));
        }
    } else {
        x.imm = match dty {
            Ty::U32 | Ty::S32 => SET_B32,
            Ty::F32 => SET_F32,
            Ty::F16 => SET_F16,
            Ty::Bf16 => SET_BF16,
            Ty::U16 | Ty::S16 => SET_B16,
            _ => return cx.unsupported("this destination type of set is not executed"),
        };
        match pick(op, sty, ftz) {
            Some(f) => f,
            None => return cx.no_form(),
        }
    };
    x.d = cx.dst(0, dty)?;
    (x.s[0], x.s[1]) = (cx.src(1, sty)?, cx.src(2, sty)?);
    combined(cx, kind, &mut x)?;
    Ok(Op::Alu(f, x))
}

fn testp(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let op = cx.need(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])?;
    let ty = cx.ty()?;
    cx.done(2, 2)?;
    macro_rules! test {
        ($class:ident, $f:ty) => {
            match op {
                "finite" => compare!(a, _b: $class; <$f>::from_bits(a).is_finite()),
                "infinite" => compare!(a, _b: $class; <$f>::from_bits(a).is_infinite()),
                "number" => compare!(a, _b: $class; !<$f>::from_bits(a).is_nan()),
                "notanumber" => compare!(a, _b: $class; <$f>::from_bits(a).is_nan()),
                // Zero counts as normal.
                "normal" => compare!(a, _b: $class; { let v = <$f>::from_bits(a); v.is_normal() || v == 0.0 }),
                _ => compare!(a, _b: $class; <$f>::from_bits(a).is_subnormal()),
            }
        };
    }
    let f: AluFn = match ty {
        Ty::F32 => test!(r32, f32),
        Ty::F64 => test!(r64, f64),
        _ => return cx.no_form(),
    };
    let o = cx.operand(0)?;
    let d = cx.pred_dst_of(o)?;
    let a = cx.src(1, ty)?;
    Ok(Op::Alu(f, Args { d, d2: SINK, s: [a, a, 0, 0], imm: 0 }))
}
