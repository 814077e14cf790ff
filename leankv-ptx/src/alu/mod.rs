//! Arithmetic: for each opcode family, one file that decodes the modifiers and defines the value.
//!
//! * A 16-bit value lives zero-extended in a 32-bit lane; every operation keeps that.
//! * Single-precision NaN results are the canonical `0x7fffffff`, half-precision ones `0x7fff`.

pub(crate) mod bits;
pub(crate) mod carry;
pub(crate) mod compare;
pub(crate) mod cvt;
pub(crate) mod double;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod integer;
pub(crate) mod macros;
pub(crate) mod mixed;
pub(crate) mod moves;
pub(crate) mod special;

use crate::decode::cx::{Cx, Res};
use crate::decode::op::{Class, Op};
use crate::ty::Ty;

/// Opcodes that exist for integers and floats: the last type modifier decides.
pub(crate) fn arith(cx: &mut Cx<'_, '_>) -> Res<(Op, Class)> {
    if cx.instr.mods.iter().any(|m| m == "cc") || matches!(cx.instr.base.as_str(), "addc" | "subc" | "madc") {
        return Ok((carry::decode(cx)?, Class::Integer));
    }
    let last = cx.instr.mods.iter().rev().find_map(|m| Ty::from_name(m));
    Ok(match last {
        Some(Ty::F32 | Ty::F32x2) => (float::decode(cx)?, Class::Float),
        Some(Ty::F64) => (double::decode(cx)?, Class::Double),
        Some(Ty::F16 | Ty::Bf16) if cx.instr.mods.iter().any(|m| m == "f32") => {
            (mixed::decode(cx)?, Class::Float)
        }
        Some(Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2) => (half::decode(cx)?, Class::Half),
        Some(_) => (integer::decode(cx)?, Class::Integer),
        None => return cx.err(format!("`{}` lacks a type modifier", cx.opcode())),
    })
}

/// Canonical f32 NaN for any NaN.
#[inline(always)]
pub(crate) fn canon32(v: f32) -> u32 {
    if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
}
