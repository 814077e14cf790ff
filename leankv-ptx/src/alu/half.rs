//! Half precision: f16, bf16 and their packed pairs.

use super::float::min_max_bits;
use crate::decode::cx::{Cx, Res};
use crate::decode::op::Op;
use crate::soft;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args, Regs};

/// Flags in `Args::imm`.
const FTZ: u32 = 1;
const SAT: u32 = 2;
const RELU: u32 = 4;
const NAN: u32 = 8;
const XORSIGN: u32 = 16;

/// Format of one half.
trait Half {
    fn to(v: u16) -> f32;
    fn from(v: f32) -> u16;
    fn from64(v: f64) -> u16;
    fn ftz(v: u16) -> u16;
    const ONE: u16;
}

struct F16;
struct Bf16;

impl Half for F16 {
    fn to(v: u16) -> f32 {
        soft::f16_to_f32(v)
    }
    fn from(v: f32) -> u16 {
        soft::f32_to_f16(v)
    }
    fn from64(v: f64) -> u16 {
        soft::f64_to(soft::F16, v) as u16
    }
    fn ftz(v: u16) -> u16 {
        soft::ftz16(v)
    }
    const ONE: u16 = 0x3c00;
}

impl Half for Bf16 {
    fn to(v: u16) -> f32 {
        soft::bf16_to_f32(v)
    }
    fn from(v: f32) -> u16 {
        soft::f32_to_bf16(v)
    }
    fn from64(v: f64) -> u16 {
        soft::f64_to(soft::BF16, v) as u16
    }
    fn ftz(v: u16) -> u16 {
        if v & 0x7f80 == 0 { v & 0x8000 } else { v }
    }
    const ONE: u16 = 0x3f80;
}

fn is_nan<H: Half>(v: u16) -> bool {
    H::to(v).is_nan()
}

/// Result modifiers shared by all arithmetic.
fn finish<H: Half>(v: u16, imm: u32) -> u16 {
    let v = if imm & FTZ != 0 { H::ftz(v) } else { v };
    if imm & SAT != 0 {
        let f = H::to(v);
        return if f >= 1.0 {
            H::ONE
        } else if f > 0.0 {
            v
        } else {
            0
        };
    }
    if imm & RELU != 0 {
        // Negative values become +0; NaN becomes the canonical NaN.
        if is_nan::<H>(v) {
            return 0x7fff;
        }
        if v & 0x8000 != 0 {
            return 0;
        }
    }
    v
}

#[inline(always)]
fn each<H: Half, const N: usize, const PACKED: bool>(
    r: &mut Regs,
    x: &Args,
    m: u32,
    f: impl Fn([u16; N], u32) -> u16,
) {
    let v: [_; N] = std::array::from_fn(|i| r.r32[x.s[i] as usize]);
    let mut o = [0u32; 32];
    for l in 0..32 {
        let get = |shift: u32| {
            std::array::from_fn(|i| {
                let h = (v[i][l] >> shift) as u16;
                if x.imm & FTZ != 0 { H::ftz(h) } else { h }
            })
        };
        o[l] = u32::from(f(get(0), x.imm));
        if PACKED {
            o[l] |= u32::from(f(get(16), x.imm)) << 16;
        }
    }
    r.put32(x.d, m, &o);
}

fn add<H: Half>([a, b]: [u16; 2], imm: u32) -> u16 {
    finish::<H>(H::from(H::to(a) + H::to(b)), imm)
}
fn sub<H: Half>([a, b]: [u16; 2], imm: u32) -> u16 {
    finish::<H>(H::from(H::to(a) - H::to(b)), imm)
}
fn mul<H: Half>([a, b]: [u16; 2], imm: u32) -> u16 {
    finish::<H>(H::from(H::to(a) * H::to(b)), imm)
}
fn fma<H: Half>([a, b, c]: [u16; 3], imm: u32) -> u16 {
    finish::<H>(H::from64(soft::fma_narrow(H::to(a), H::to(b), H::to(c))), imm)
}
fn min_max<H: Half, const MAX: bool>([a, b]: [u16; 2], imm: u32) -> u16 {
    let (mut a, mut b) = (a, b);
    let sign = (a ^ b) & 0x8000;
    if imm & XORSIGN != 0 {
        a &= 0x7fff;
        b &= 0x7fff;
    }
    let f = f32::from_bits(min_max_bits(H::to(a).to_bits(), H::to(b).to_bits(), MAX, imm & NAN != 0));
    if f.is_nan() {
        return 0x7fff;
    }
    let v = H::from(f);
    if imm & XORSIGN != 0 { v | sign } else { v }
}
fn neg<H: Half>([a]: [u16; 1], _: u32) -> u16 {
    a ^ 0x8000
}
fn abs<H: Half>([a]: [u16; 1], _: u32) -> u16 {
    a & 0x7fff
}

macro_rules! forms {
    ($ty:expr, $n:tt, $f:ident $(, $c:literal)?) => {{
        let f: AluFn = match $ty {
            Ty::F16 => |r, x, m| each::<F16, $n, false>(r, x, m, $f::<F16 $(, $c)?>),
            Ty::F16x2 => |r, x, m| each::<F16, $n, true>(r, x, m, $f::<F16 $(, $c)?>),
            Ty::Bf16 => |r, x, m| each::<Bf16, $n, false>(r, x, m, $f::<Bf16 $(, $c)?>),
            _ => |r, x, m| each::<Bf16, $n, true>(r, x, m, $f::<Bf16 $(, $c)?>),
        };
        f
    }};
}

pub(crate) fn decode(cx: &mut Cx<'_, '_>) -> Res<Op> {
    let base = cx.instr.base.as_str();
    let mut imm = 0;
    match base {
        "add" | "sub" | "mul" => {
            cx.one_of(&["rn"]);
            imm |= if cx.flag("ftz") { FTZ } else { 0 } | if cx.flag("sat") { SAT } else { 0 };
        }
        "fma" => {
            cx.need(&["rn"])?;
            imm |= if cx.flag("ftz") { FTZ } else { 0 };
            imm |= match cx.one_of(&["sat", "relu"]) {
                Some("sat") => SAT,
                Some(_) => RELU,
                None => 0,
            };
            if cx.flag("oob") {
                return cx.unsupported("out-of-bounds NaN handling is not executed");
            }
        }
        "min" | "max" => {
            imm |= if cx.flag("ftz") { FTZ } else { 0 } | if cx.flag("NaN") { NAN } else { 0 };
            if cx.flag("xorsign") {
                cx.need(&["abs"])?;
                imm |= XORSIGN;
            }
        }
        "neg" | "abs" => imm |= if cx.flag("ftz") { FTZ } else { 0 },
        _ => return cx.no_form(),
    }
    let ty = cx.ty()?;
    if matches!(ty, Ty::Bf16 | Ty::Bf16x2) && imm & (FTZ | SAT) != 0 {
        return cx.no_form();
    }
    let n = match base {
        "neg" | "abs" => 2,
        "fma" => 4,
        _ => 3,
    };
    cx.done(n, n)?;
    let f = match base {
        "add" => forms!(ty, 2, add),
        "sub" => forms!(ty, 2, sub),
        "mul" => forms!(ty, 2, mul),
        "fma" => forms!(ty, 3, fma),
        "min" => forms!(ty, 2, min_max, false),
        "max" => forms!(ty, 2, min_max, true),
        "neg" => forms!(ty, 1, neg),
        _ => forms!(ty, 1, abs),
    };
    let mut x = match n {
        2 => cx.args1(ty, ty)?,
        3 => cx.args2(ty, ty, ty)?,
        _ => cx.args3(ty, ty, ty, ty)?,
    };
    x.imm = imm;
    Ok(Op::Alu(f, x))
}
