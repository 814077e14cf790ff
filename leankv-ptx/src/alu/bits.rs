//! Bitwise and shift instructions.

use super::macros::lanes;
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, Regs};

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    match cx.instr.base.as_str() {
        "and" | "or" | "xor" | "not" => logic(cx),
        "cnot" => {
            let ty = cx.ty()?;
            cx.done(2, 2)?;
            let f: AluFn = match ty {
                Ty::B16 | Ty::B32 => lanes!(r32 <- a: r32; u32::from(a == 0)),
                Ty::B64 => lanes!(r64 <- a: r64; u64::from(a == 0)),
                _ => return cx.no_form(),
            };
            Ok(Op::Alu(f, cx.args1(ty, ty)?))
        }
        "shl" | "shr" => shift(cx),
        "shf" => funnel(cx),
        "lop3" => lop3(cx),
        "prmt" => prmt(cx),
        "bfe" | "bfi" => field(cx),
        "popc" | "clz" | "brev" | "bfind" => count(cx),
        "fns" => {
            if cx.ty()? != Ty::B32 {
                return cx.no_form();
            }
            cx.done(4, 4)?;
            let f = lanes!(r32 <- a: r32, b: r32, c: r32; fns(a, b, c as i32));
            Ok(Op::Alu(f, cx.args3(Ty::B32, Ty::B32, Ty::B32, Ty::S32)?))
        }
        "bmsk" => {
            let mode = cx.need(&["clamp", "wrap"])?;
            if cx.ty()? != Ty::B32 {
                return cx.no_form();
            }
            cx.done(3, 3)?;
            let f: AluFn = if mode == "clamp" {
                lanes!(r32 <- a: r32, b: r32; bmsk(a.min(32), b.min(32)))
            } else {
                lanes!(r32 <- a: r32, b: r32; bmsk(a & 31, b & 31))
            };
            Ok(Op::Alu(f, cx.args2(Ty::B32, Ty::B32, Ty::B32)?))
        }
        "szext" => {
            let mode = cx.need(&["clamp", "wrap"])?;
            let ty = cx.ty()?;
            cx.done(3, 3)?;
            let f: AluFn = match (mode, ty) {
                ("clamp", Ty::U32) => lanes!(r32 <- a: r32, b: r32; szext(a, b.min(32), false)),
                ("clamp", Ty::S32) => lanes!(r32 <- a: r32, b: r32; szext(a, b.min(32), true)),
                (_, Ty::U32) => lanes!(r32 <- a: r32, b: r32; szext(a, b & 31, false)),
                (_, Ty::S32) => lanes!(r32 <- a: r32, b: r32; szext(a, b & 31, true)),
                _ => return cx.no_form(),
            };
            Ok(Op::Alu(f, cx.args2(Ty::B32, Ty::B32, Ty::B32)?))
        }
        _ => cx.no_form(),
    }
}

fn logic(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let ty = cx.ty()?;
    let n = if base == "not" { 2 } else { 3 };
    cx.done(n, n)?;
    if ty == Ty::Pred {
        let o = cx.operand(0)?;
        let d = cx.pred_dst_of(o)?;
        let a = cx.pred(1)?;
        let b = if base == "not" { a } else { cx.pred(2)? };
        let f: AluFn = match base {
            "and" => |r: &mut Regs, x: &Args, m| {
                let v = r.pred(x.s[0]) & r.pred(x.s[1]);
                r.putp(x.d, m, v);
            },
            "or" => |r: &mut Regs, x: &Args, m| {
                let v = r.pred(x.s[0]) | r.pred(x.s[1]);
                r.putp(x.d, m, v);
            },
            "xor" => |r: &mut Regs, x: &Args, m| {
                let v = r.pred(x.s[0]) ^ r.pred(x.s[1]);
                r.putp(x.d, m, v);
            },
            _ => |r: &mut Regs, x: &Args, m| {
                let v = !r.pred(x.s[0]);
                r.putp(x.d, m, v);
            },
        };
        return Ok(Op::Alu(f, Args { d, s: [a, b, 0, 0], ..Args::default() }));
    }
    let f: AluFn = match (base, ty) {
        ("and", Ty::B16 | Ty::B32) => lanes!(r32 <- a: r32, b: r32; a & b),
        ("or", Ty::B16 | Ty::B32) => lanes!(r32 <- a: r32, b: r32; a | b),
        ("xor", Ty::B16 | Ty::B32) => lanes!(r32 <- a: r32, b: r32; a ^ b),
        ("not", Ty::B16) => lanes!(r32 <- a: r32; !a & 0xffff),
        ("not", Ty::B32) => lanes!(r32 <- a: r32; !a),
        ("and", Ty::B64) => lanes!(r64 <- a: r64, b: r64; a & b),
        ("or", Ty::B64) => lanes!(r64 <- a: r64, b: r64; a | b),
        ("xor", Ty::B64) => lanes!(r64 <- a: r64, b: r64; a ^ b),
        ("not", Ty::B64) => lanes!(r64 <- a: r64; !a),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, if n == 2 { cx.args1(ty, ty)? } else { cx.args2(ty, ty, ty)? }))
}

fn shift(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let left = cx.instr.base == "shl";
    let ty = cx.ty()?;
    cx.done(3, 3)?;
    let f: AluFn = match (left, ty) {
        (true, Ty::B16) => lanes!(r32 <- a: r32, b: r32; if b > 15 { 0 } else { (a << b) & 0xffff }),
        (true, Ty::B32) => lanes!(r32 <- a: r32, b: r32; if b > 31 { 0 } else { a << b }),
        (true, Ty::B64) => lanes!(r64 <- a: r64, b: r32; if b > 63 { 0 } else { a << b }),
        (false, Ty::B16 | Ty::U16) => lanes!(r32 <- a: r32, b: r32; if b > 15 { 0 } else { a >> b }),
        (false, Ty::B32 | Ty::U32) => lanes!(r32 <- a: r32, b: r32; if b > 31 { 0 } else { a >> b }),
        (false, Ty::B64 | Ty::U64) => lanes!(r64 <- a: r64, b: r32; if b > 63 { 0 } else { a >> b }),
        (false, Ty::S16) => {
            lanes!(r32 <- a: r32, b: r32; (i32::from(a as u16 as i16) >> b.min(15)) as u32 & 0xffff)
        }
        (false, Ty::S32) => lanes!(r32 <- a: r32, b: r32; ((a as i32) >> b.min(31)) as u32),
        (false, Ty::S64) => lanes!(r64 <- a: r64, b: r32; ((a as i64) >> b.min(63)) as u64),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, cx.args2(ty, ty, Ty::U32)?))
}

fn funnel(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let dir = cx.need(&["l", "r"])?;
    let mode = cx.need(&["clamp", "wrap"])?;
    if cx.ty()? != Ty::B32 {
        return cx.no_form();
    }
    cx.done(4, 4)?;
    #[inline(always)]
    fn pair(a: u32, b: u32) -> u64 {
        u64::from(b) << 32 | u64::from(a)
    }
    let f: AluFn = match (dir, mode) {
        ("l", "clamp") => {
            lanes!(r32 <- a: r32, b: r32, c: r32; ((u128::from(pair(a, b)) << c.min(32)) >> 32) as u32)
        }
        ("l", _) => lanes!(r32 <- a: r32, b: r32, c: r32; ((pair(a, b) << (c & 31)) >> 32) as u32),
        (_, "clamp") => lanes!(r32 <- a: r32, b: r32, c: r32; (pair(a, b) >> c.min(32)) as u32),
        _ => lanes!(r32 <- a: r32, b: r32, c: r32; (pair(a, b) >> (c & 31)) as u32),
    };
    Ok(Op::Alu(f, cx.args3(Ty::B32, Ty::B32, Ty::B32, Ty::U32)?))
}

fn lut3(a: u32, b: u32, c: u32, lut: u32) -> u32 {
    let mut out = 0;
    for i in 0..8u32 {
        if lut >> i & 1 == 1 {
            let pick = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

fn lop3(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let bool_op = cx.one_of(&["or", "and"]);
    if cx.ty()? != Ty::B32 {
        return cx.no_form();
    }
    if bool_op.is_some() {
        // `d|p, a, b, c, lut, q`: p is (d != 0) combined with q.
        cx.done(6, 6)?;
        let (d, p) = cx.dst_pair(0, Ty::B32)?;
        let s = [cx.src(1, Ty::B32)?, cx.src(2, Ty::B32)?, cx.src(3, Ty::B32)?, cx.pred(5)?];
        let lut = cx.const_int(4)? as u32 & 0xff;
        let imm = lut | u32::from(bool_op == Some("and")) << 8;
        let f: AluFn = |r, x, m| {
            let (a, b, c) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize], r.r32[x.s[2] as usize]);
            let mut o = [0; 32];
            let mut t = 0u32;
            for l in 0..32 {
                o[l] = lut3(a[l], b[l], c[l], x.imm);
                t |= u32::from(o[l] != 0) << l;
            }
            let q = r.pred(x.s[3]);
            r.put32(x.d, m, &o);
            r.putp(x.d2, m, if x.imm & 0x100 != 0 { t & q } else { t | q });
        };
        return Ok(Op::Alu(f, Args { d, d2: p, s, imm }));
    }
    cx.done(5, 5)?;
    let mut args = cx.args3(Ty::B32, Ty::B32, Ty::B32, Ty::B32)?;
    args.imm = cx.const_int(4)? as u32 & 0xff;
    // The truth tables that compilers emit most get a vector loop of their own.
    let f: AluFn = match args.imm {
        0x80 => lanes!(r32 <- a: r32, b: r32, c: r32; a & b & c),
        0xfe => lanes!(r32 <- a: r32, b: r32, c: r32; a | b | c),
        0x96 => lanes!(r32 <- a: r32, b: r32, c: r32; a ^ b ^ c),
        0xea => lanes!(r32 <- a: r32, b: r32, c: r32; (a & b) | c),
        0xca => lanes!(r32 <- a: r32, b: r32, c: r32; (a & b) | (!a & c)),
        0xe2 => lanes!(r32 <- a: r32, b: r32, c: r32; (b & a) | (!b & c)),
        0xf8 => lanes!(r32 <- a: r32, b: r32, c: r32; a | (b & c)),
        _ => |r, x, m| {
            let (a, b, c) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize], r.r32[x.s[2] as usize]);
            let mut o = [0; 32];
            for l in 0..32 {
                o[l] = lut3(a[l], b[l], c[l], x.imm);
            }
            r.put32(x.d, m, &o);
        },
    };
    Ok(Op::Alu(f, args))
}

/// Byte `sel & 7` of the eight, or its sign replicated when bit 3 is set.
#[inline(always)]
fn pick_byte(all: u64, sel: u32) -> u32 {
    let byte = (all >> (8 * (sel & 7))) as u8;
    if sel & 8 != 0 { u32::from((byte as i8 >> 7) as u8) } else { u32::from(byte) }
}

#[inline(always)]
fn prmt_generic(a: u32, b: u32, c: u32) -> u32 {
    let all = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |o, i| o | pick_byte(all, c >> (4 * i) & 15) << (8 * i))
}

/// Selector nibbles of the named modes for each value of `c & 3`.
fn prmt_mode(mode: &str) -> [u32; 4] {
    match mode {
        "f4e" => [0x3210, 0x4321, 0x5432, 0x6543],
        "b4e" => [0x5670, 0x6701, 0x7012, 0x0123],
        "rc8" => [0x0000, 0x1111, 0x2222, 0x3333],
        "ecl" => [0x3210, 0x3211, 0x3222, 0x3333],
        "ecr" => [0x0000, 0x1110, 0x2210, 0x3210],
        _ => [0x1010, 0x3232, 0x1010, 0x3232],
    }
}

fn prmt(cx: &mut Cx<'_, '_>) -> Res<Op> {
    if cx.ty()? != Ty::B32 {
        return cx.no_form();
    }
    let mode = cx.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    cx.done(4, 4)?;
    let args = cx.args3(Ty::B32, Ty::B32, Ty::B32, Ty::B32)?;
    macro_rules! named {
        ($mode:literal) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; prmt_generic(a, b, prmt_mode($mode)[(c & 3) as usize]))
        };
    }
    let f: AluFn = match mode {
        None => lanes!(r32 <- a: r32, b: r32, c: r32; prmt_generic(a, b, c)),
        Some("f4e") => named!("f4e"),
        Some("b4e") => named!("b4e"),
        Some("rc8") => named!("rc8"),
        Some("ecl") => named!("ecl"),
        Some("ecr") => named!("ecr"),
        Some(_) => named!("rc16"),
    };
    Ok(Op::Alu(f, args))
}

/// Bit field extract; position and length are taken from the low 8 bits.
#[inline(always)]
fn bfe(a: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let msb = width - 1;
    let fill = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
    let kept = if pos > msb { 0 } else { a >> pos };
    let n = len.min(width.saturating_sub(pos));
    let mask = if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    let sign = if fill == 1 { !mask } else { 0 };
    (kept & mask) | sign
}

#[inline(always)]
fn bfi(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= width || len == 0 {
        return b;
    }
    let n = len.min(width - pos);
    let mask = if n >= 64 { u64::MAX } else { (1u64 << n) - 1 } << pos;
    (b & !mask) | (a << pos & mask)
}

fn field(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let ty = cx.ty()?;
    if cx.instr.base == "bfe" {
        cx.done(4, 4)?;
        let f: AluFn = match ty {
            Ty::U32 => lanes!(r32 <- a: r32, b: r32, c: r32; bfe(u64::from(a), b, c, 32, false) as u32),
            Ty::S32 => lanes!(r32 <- a: r32, b: r32, c: r32; bfe(u64::from(a), b, c, 32, true) as u32),
            Ty::U64 => lanes!(r64 <- a: r64, b: r32, c: r32; bfe(a, b, c, 64, false)),
            Ty::S64 => lanes!(r64 <- a: r64, b: r32, c: r32; bfe(a, b, c, 64, true)),
            _ => return cx.no_form(),
        };
        return Ok(Op::Alu(f, cx.args3(ty, ty, Ty::U32, Ty::U32)?));
    }
    cx.done(5, 5)?;
    let mut args = cx.args3(ty, ty, ty, Ty::U32)?;
    args.s[3] = cx.src(4, Ty::U32)?;
    let f: AluFn = match ty {
        Ty::B32 => {
            lanes!(r32 <- a: r32, b: r32, c: r32, d: r32; bfi(u64::from(a), u64::from(b), c, d, 32) as u32)
        }
        Ty::B64 => lanes!(r64 <- a: r64, b: r64, c: r32, d: r32; bfi(a, b, c, d, 64)),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, args))
}

/// Position of the most significant non-sign bit, or all ones.
#[inline(always)]
fn bfind(v: u64, width: u32, signed: bool, shift_amount: bool) -> u32 {
    let ext = if signed && v >> (width - 1) & 1 == 1 { !v } else { v };
    let ext = if width == 32 { ext & 0xffff_ffff } else { ext };
    if ext == 0 {
        return u32::MAX;
    }
    let pos = 63 - ext.leading_zeros();
    if shift_amount { width - 1 - pos } else { pos }
}

fn count(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let shift = base == "bfind" && cx.flag("shiftamt");
    let ty = cx.ty()?;
    cx.done(2, 2)?;
    let f: AluFn = match (base, ty, shift) {
        ("popc", Ty::B32, _) => lanes!(r32 <- a: r32; a.count_ones()),
        ("popc", Ty::B64, _) => lanes!(r32 <- a: r64; a.count_ones()),
        ("clz", Ty::B32, _) => lanes!(r32 <- a: r32; a.leading_zeros()),
        ("clz", Ty::B64, _) => lanes!(r32 <- a: r64; a.leading_zeros()),
        ("brev", Ty::B32, _) => lanes!(r32 <- a: r32; a.reverse_bits()),
        ("brev", Ty::B64, _) => lanes!(r64 <- a: r64; a.reverse_bits()),
        ("bfind", Ty::U32, false) => lanes!(r32 <- a: r32; bfind(u64::from(a), 32, false, false)),
        ("bfind", Ty::S32, false) => lanes!(r32 <- a: r32; bfind(u64::from(a), 32, true, false)),
        ("bfind", Ty::U64, false) => lanes!(r32 <- a: r64; bfind(a, 64, false, false)),
        ("bfind", Ty::S64, false) => lanes!(r32 <- a: r64; bfind(a, 64, true, false)),
        ("bfind", Ty::U32, true) => lanes!(r32 <- a: r32; bfind(u64::from(a), 32, false, true)),
        ("bfind", Ty::S32, true) => lanes!(r32 <- a: r32; bfind(u64::from(a), 32, true, true)),
        ("bfind", Ty::U64, true) => lanes!(r32 <- a: r64; bfind(a, 64, false, true)),
        ("bfind", Ty::S64, true) => lanes!(r32 <- a: r64; bfind(a, 64, true, true)),
        _ => return cx.no_form(),
    };
    let d = if base == "brev" { ty } else { Ty::U32 };
    Ok(Op::Alu(f, cx.args1(d, ty)?))
}

/// Position of the n-th set bit from `base`, as the ISA's reference code defines it.
fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    if offset == 0 {
        return if mask >> base & 1 == 1 { base } else { u32::MAX };
    }
    let mut pos = base as i32;
    let step = if offset > 0 { 1 } else { -1 };
    let mut left = offset.unsigned_abs();
    while (0..32).contains(&pos) {
        if mask >> pos & 1 == 1 {
            left -= 1;
            if left == 0 {
                return pos as u32;
            }
        }
        pos += step;
    }
    u32::MAX
}

fn bmsk(pos: u32, len: u32) -> u32 {
    let mask = ((1u64 << len) - 1) << pos;
    mask as u32
}

fn szext(v: u32, n: u32, signed: bool) -> u32 {
    if n == 0 {
        return 0;
    }
    let s = 32 - n;
    if signed { ((v << s) as i32 >> s) as u32 } else { v << s >> s }
}
