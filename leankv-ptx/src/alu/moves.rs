//! Moves, packing, selection and address conversion.

use super::macros::lanes;
use crate::decode::cx::{Cx, Res};
use crate::decode::op::{Op, Reg, Timer};
use crate::decode::{Sym, Width};
use crate::syntax::ast::Operand;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, Regs, SINK};
use crate::vm::window;

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    match cx.instr.base.as_str() {
        "mov" => mov(cx),
        "cvta" => cvta(cx),
        "isspacep" => isspacep(cx),
        "selp" => selp(cx),
        "slct" => slct(cx),
        // Every block is a cluster of one: its own shared memory is the only peer.
        "mapa" => {
            let shared = cx.flag("shared::cluster");
            let ty = cx.ty()?;
            cx.done(3, 3)?;
            let _ = shared;
            let args = cx.args2(ty, ty, Ty::U32)?;
            Ok(match ty {
                Ty::U32 => Op::Alu(lanes!(r32 <- a: r32; a), args),
                Ty::U64 => Op::Alu(lanes!(r64 <- a: r64; a), args),
                _ => return cx.no_form(),
            })
        }
        _ => {
            cx.flag("shared::cluster");
            let ty = cx.ty()?;
            cx.done(2, 2)?;
            let a = cx.src(1, ty)?;
            let d = cx.dst(0, Ty::U32)?;
            let _ = a;
            let zero = cx.fb.constant(false, 0);
            Ok(Op::Alu(lanes!(r32 <- a: r32; a), Args { d, s: [zero, 0, 0, 0], ..Args::default() }))
        }
    }
}

fn copy(ty: Ty) -> Option<AluFn> {
    Some(match ty.bits() {
        16 | 32 => lanes!(r32 <- a: r32; a),
        64 => lanes!(r64 <- a: r64; a),
        _ => return None,
    })
}

fn clock(cx: &mut Cx<'_, '_>) -> Res<Option<Op>> {
    let Operand::Name(n) = cx.operand(1)? else { return Ok(None) };
    let (which, ty) = match n.as_str() {
        "%clock" => (Timer::Cycles, Ty::U32),
        "%clock_hi" => (Timer::CyclesHi, Ty::U32),
        "%clock64" => (Timer::Cycles64, Ty::U64),
        "%globaltimer" => (Timer::Global, Ty::U64),
        "%globaltimer_lo" => (Timer::GlobalLo, Ty::U32),
        "%globaltimer_hi" => (Timer::GlobalHi, Ty::U32),
        _ => return Ok(None),
    };
    let slot = cx.dst(0, ty)?;
    let d = match (slot, ty) {
        (SINK, _) => Reg::Sink,
        (s, Ty::U64) => Reg::R64(s),
        (s, _) => Reg::R32(s),
    };
    Ok(Some(Op::ReadClock { d, which }))
}

fn mov(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let ty = cx.ty()?;
    cx.done(2, 2)?;
    if let Some(op) = clock(cx)? {
        return Ok(op);
    }
    if ty == Ty::Pred {
        let o = cx.operand(0)?;
        let d = cx.pred_dst_of(o)?;
        let a = cx.pred(1)?;
        let f: AluFn = |r, x, m| {
            let v = r.pred(x.s[0]);
            r.putp(x.d, m, v);
        };
        return Ok(Op::Alu(f, Args { d, s: [a, 0, 0, 0], ..Args::default() }));
    }
    let (d, s) = (cx.operand(0)?, cx.operand(1)?);
    match (d, s) {
        (Operand::Vector(parts), _) => unpack(cx, ty, parts, s),
        (_, Operand::Vector(parts)) => pack(cx, ty, parts, d),
        _ if ty == Ty::B128 => {
            let f: AluFn = |r, x, m| {
                let (lo, hi) = (r.r64[x.s[0] as usize], r.r64[x.s[0] as usize + 1]);
                r.put64(x.d, m, &lo);
                r.put64(x.d + 1, m, &hi);
            };
            let s = wide_reg(cx, s)?;
            let d = wide_reg(cx, d)?;
            Ok(Op::Alu(f, Args { d, s: [s, 0, 0, 0], ..Args::default() }))
        }
        _ => match copy(ty) {
            Some(f) => Ok(Op::Alu(f, cx.args1(ty, ty)?)),
            None => cx.no_form(),
        },
    }
}

/// A 128-bit register's first slot.
fn wide_reg(cx: &mut Cx<'_, '_>, o: &Operand) -> Res<u32> {
    if let Operand::Name(n) = o
        && let Some(Sym::Reg(Width::W128, slot)) = cx.fb.lookup(n)
    {
        return Ok(slot);
    }
    cx.err(format!("`{}` needs a .b128 register here", cx.opcode()))
}

fn part_ty(cx: &Cx<'_, '_>, ty: Ty, n: usize) -> Res<Ty> {
    match (ty.bits(), n) {
        (128, 2) => Ok(Ty::B64),
        (64, 2) => Ok(Ty::B32),
        (64, 4) | (32, 2) => Ok(Ty::B16),
        (32, 4) | (16, 2) => Ok(Ty::B8),
        _ => cx.err(format!("`{}` cannot be split into {n} parts", cx.opcode())),
    }
}

fn unpack(cx: &mut Cx<'_, '_>, ty: Ty, parts: &[Operand], s: &Operand) -> Res<Op> {
    let part = part_ty(cx, ty, parts.len())?;
    let mut d = [SINK; 4];
    for (slot, p) in d.iter_mut().zip(parts) {
        *slot = cx.dst_of(p, part)?;
    }
    if ty.bits() == 128 {
        let s = wide_reg(cx, s)?;
        let f: AluFn = |r, x, m| {
            let (lo, hi) = (r.r64[x.s[0] as usize], r.r64[x.s[0] as usize + 1]);
            r.put64(x.d, m, &lo);
            r.put64(x.d2, m, &hi);
        };
        return Ok(Op::Alu(f, Args { d: d[0], d2: d[1], s: [s, 0, 0, 0], imm: 0 }));
    }
    let src = cx.src_of(s, ty)?;
    // Destinations beyond two travel in the source fields.
    let x = Args { d: d[0], d2: d[1], s: [src, d[2], d[3], 0], imm: 0 };
    fn split32<const BITS: u32, const N: u32>(r: &mut Regs, x: &Args, m: u32) {
        let v = r.r32[x.s[0] as usize];
        let dst = [x.d, x.d2, x.s[1], x.s[2]];
        for i in 0..N {
            r.put32(dst[i as usize], m, &v.map(|v| v >> (i * BITS) & ((1 << BITS) - 1)));
        }
    }
    let f: AluFn = match (ty.bits(), parts.len()) {
        (64, 2) => |r, x, m| {
            let v = r.r64[x.s[0] as usize];
            r.put32(x.d, m, &v.map(|v| v as u32));
            r.put32(x.d2, m, &v.map(|v| (v >> 32) as u32));
        },
        (64, _) => |r, x, m| {
            let v = r.r64[x.s[0] as usize];
            for (i, d) in [x.d, x.d2, x.s[1], x.s[2]].into_iter().enumerate() {
                r.put32(d, m, &v.map(|v| (v >> (16 * i)) as u32 & 0xffff));
            }
        },
        (32, 2) => split32::<16, 2>,
        (32, _) => split32::<8, 4>,
        _ => split32::<8, 2>,
    };
    Ok(Op::Alu(f, x))
}

fn pack(cx: &mut Cx<'_, '_>, ty: Ty, parts: &[Operand], d: &Operand) -> Res<Op> {
    let part = part_ty(cx, ty, parts.len())?;
    let mut s = [0; 4];
    for (slot, p) in s.iter_mut().zip(parts) {
        *slot = cx.src_of(p, part)?;
    }
    if ty.bits() == 128 {
        let d = wide_reg(cx, d)?;
        let f: AluFn = |r, x, m| {
            let (lo, hi) = (r.r64[x.s[0] as usize], r.r64[x.s[1] as usize]);
            r.put64(x.d, m, &lo);
            r.put64(x.d + 1, m, &hi);
        };
        return Ok(Op::Alu(f, Args { d, s, ..Args::default() }));
    }
    let d = cx.dst_of(d, ty)?;
    let f: AluFn = match (ty.bits(), parts.len()) {
        (64, 2) => lanes!(r64 <- a: r32, b: r32; u64::from(b) << 32 | u64::from(a)),
        (64, _) => lanes!(r64 <- a: r32, b: r32, c: r32, d: r32;
            u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48),
        (32, 2) => lanes!(r32 <- a: r32, b: r32; (a & 0xffff) | b << 16),
        (32, _) => lanes!(r32 <- a: r32, b: r32, c: r32, d: r32;
            (a & 0xff) | (b & 0xff) << 8 | (c & 0xff) << 16 | d << 24),
        _ => lanes!(r32 <- a: r32, b: r32; (a & 0xff) | (b & 0xff) << 8),
    };
    Ok(Op::Alu(f, Args { d, s, ..Args::default() }))
}

const SPACES: &[&str] =
    &["const", "global", "local", "shared", "shared::cta", "shared::cluster", "param", "param::entry"];

fn window_of(cx: &Cx<'_, '_>, space: &str) -> u64 {
    match space {
        "shared" | "shared::cta" | "shared::cluster" => window::SHARED,
        "local" => window::LOCAL,
        // A device function's parameters live in local memory.
        "param" | "param::entry" => {
            if cx.fb.is_entry {
                window::PARAM
            } else {
                window::LOCAL
            }
        }
        _ => 0,
    }
}

fn cvta(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let to = cx.flag("to");
    let space = cx.need(SPACES)?;
    let ty = cx.ty()?;
    cx.done(2, 2)?;
    let base = window_of(cx, space);
    match ty {
        Ty::U64 => {
            let b = cx.fb.constant(true, base);
            let d = cx.dst(0, ty)?;
            let a = cx.src(1, ty)?;
            let f: AluFn = if to {
                lanes!(r64 <- a: r64, b: r64; a.wrapping_sub(b))
            } else {
                lanes!(r64 <- a: r64, b: r64; a.wrapping_add(b))
            };
            Ok(Op::Alu(f, Args { d, s: [a, b, 0, 0], ..Args::default() }))
        }
        _ => cx.unsupported("addresses are 64 bits wide; use .u64"),
    }
}

fn isspacep(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let space = cx.need(SPACES)?;
    cx.done(2, 2)?;
    let o = cx.operand(0)?;
    let d = cx.pred_dst_of(o)?;
    let a = cx.src(1, Ty::U64)?;
    fn run(r: &mut Regs, x: &Args, m: u32, inside: fn(u64) -> bool) {
        let mut t = 0;
        for (l, v) in r.r64[x.s[0] as usize].iter().enumerate() {
            t |= u32::from(inside(*v)) << l;
        }
        r.putp(x.d, m, t);
    }
    let f: AluFn = match space {
        "shared" | "shared::cta" | "shared::cluster" => {
            |r, x, m| run(r, x, m, |a| window::of(a) == window::SHARED)
        }
        "local" => |r, x, m| run(r, x, m, |a| window::of(a) == window::LOCAL),
        "param" | "param::entry" => |r, x, m| run(r, x, m, |a| window::of(a) == window::PARAM),
        "global" => |r, x, m| run(r, x, m, |a| window::of(a) == 0),
        _ => |r, x, m| run(r, x, m, |_| false),
    };
    Ok(Op::Alu(f, Args { d, s: [a, 0, 0, 0], ..Args::default() }))
}

fn selp(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let ty = cx.ty()?;
    cx.done(4, 4)?;
    if !matches!(ty.bits(), 16 | 32 | 64) {
        return cx.no_form();
    }
    let mut x = cx.args2(ty, ty, ty)?;
    x.s[2] = cx.pred(3)?;
    let f: AluFn = if ty.bits() == 64 {
        |r, x, m| {
            let (a, b, p) = (r.r64[x.s[0] as usize], r.r64[x.s[1] as usize], r.pred(x.s[2]));
            let mut o = [0; 32];
            for l in 0..32 {
                let keep = 0u64.wrapping_sub(u64::from(p >> l & 1));
                o[l] = (a[l] & keep) | (b[l] & !keep);
            }
            r.put64(x.d, m, &o);
        }
    } else {
        |r, x, m| {
            let (a, b, p) = (r.r32[x.s[0] as usize], r.r32[x.s[1] as usize], r.pred(x.s[2]));
            let mut o = [0; 32];
            for l in 0..32 {
                let keep = 0u32.wrapping_sub(p >> l & 1);
                o[l] = (a[l] & keep) | (b[l] & !keep);
            }
            r.put32(x.d, m, &o);
        }
    };
    Ok(Op::Alu(f, x))
}

fn slct(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let ftz = cx.flag("ftz");
    let ty = cx.ty()?;
    let cond = cx.ty()?;
    cx.done(4, 4)?;
    // A flushed subnormal is a zero of its sign, and both zeros select `a`.
    #[inline(always)]
    fn nonneg(c: u32, ftz: bool) -> bool {
        let c = if ftz { crate::soft::ftz32(c) } else { c };
        f32::from_bits(c) >= 0.0
    }
    let f: AluFn = match (ty.bits(), cond, ftz) {
        (16 | 32, Ty::S32, false) => lanes!(r32 <- a: r32, b: r32, c: r32; if c as i32 >= 0 { a } else { b }),
        (64, Ty::S32, false) => lanes!(r64 <- a: r64, b: r64, c: r32; if c as i32 >= 0 { a } else { b }),
        (16 | 32, Ty::F32, false) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; if nonneg(c, false) { a } else { b })
        }
        (64, Ty::F32, false) => lanes!(r64 <- a: r64, b: r64, c: r32; if nonneg(c, false) { a } else { b }),
        (16 | 32, Ty::F32, true) => {
            lanes!(r32 <- a: r32, b: r32, c: r32; if nonneg(c, true) { a } else { b })
        }
        (64, Ty::F32, true) => lanes!(r64 <- a: r64, b: r64, c: r32; if nonneg(c, true) { a } else { b }),
        _ => return cx.no_form(),
    };
    Ok(Op::Alu(f, cx.args3(ty, ty, ty, cond)?))
}
