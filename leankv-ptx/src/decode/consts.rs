//! Constant expressions.

use crate::soft;
use crate::syntax::ast::Expr;
use crate::ty::Ty;

/// Value of a constant expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Const {
    Int(i64),
    F32(u32),
    F64(u64),
}

impl Const {
    /// Bits in an operand of type `ty`: floating literals convert to floating types, integers are truncated.
    pub(crate) fn bits_of(self, ty: Ty) -> u64 {
        match (self, ty) {
            (Const::Int(v), Ty::F32) => u64::from((v as f32).to_bits()),
            (Const::Int(v), Ty::F64) => (v as f64).to_bits(),
            (Const::Int(v), _) => truncate(v as u64, ty.bits()),
            (Const::F32(b), Ty::F64) => f64::from(f32::from_bits(b)).to_bits(),
            (Const::F32(b), _) => u64::from(b),
            (Const::F64(b), Ty::F32) => u64::from((f64::from_bits(b) as f32).to_bits()),
            (Const::F64(b), Ty::F16) => soft::f64_to(soft::F16, f64::from_bits(b)),
            (Const::F64(b), Ty::Bf16) => soft::f64_to(soft::BF16, f64::from_bits(b)),
            (Const::F64(b), _) => b,
        }
    }

    fn int(self) -> Result<i64, String> {
        match self {
            Const::Int(v) => Ok(v),
            _ => Err("an integer constant is needed here".to_string()),
        }
    }
}

fn truncate(v: u64, bits: u32) -> u64 {
    if bits >= 64 { v } else { v & ((1 << bits) - 1) }
}

pub(crate) fn eval(e: &Expr) -> Result<Const, String> {
    Ok(match e {
        Expr::Int(v, _) => Const::Int(*v as i64),
        Expr::F32(b) => Const::F32(*b),
        Expr::F64(b) => Const::F64(*b),
        Expr::Sym(s) if s == "WARP_SZ" => Const::Int(32),
        Expr::Sym(s) => return Err(format!("`{s}` is not a constant")),
        Expr::Generic(_) | Expr::Mask(..) => return Err("a symbol's address is not allowed here".to_string()),
        Expr::Unary(op, e) => match (op, eval(e)?) {
            ('-', Const::Int(v)) => Const::Int(v.wrapping_neg()),
            ('-', Const::F32(b)) => Const::F32(b ^ 0x8000_0000),
            ('-', Const::F64(b)) => Const::F64(b ^ 1 << 63),
            ('+', v) => v,
            ('~', v) => Const::Int(!v.int()?),
            (_, v) => Const::Int(i64::from(v.int()? == 0)),
        },
        Expr::Binary(op, a, b) => {
            let (a, b) = (eval(a)?.int()?, eval(b)?.int()?);
            let flag = |c: bool| Const::Int(i64::from(c));
            match op.as_str() {
                "+" => Const::Int(a.wrapping_add(b)),
                "-" => Const::Int(a.wrapping_sub(b)),
                "*" => Const::Int(a.wrapping_mul(b)),
                "/" | "%" if b == 0 => return Err("division by zero in a constant expression".to_string()),
                "/" => Const::Int(a.wrapping_div(b)),
                "%" => Const::Int(a.wrapping_rem(b)),
                "&" => Const::Int(a & b),
                "|" => Const::Int(a | b),
                "^" => Const::Int(a ^ b),
                "<<" => Const::Int(a.checked_shl(b as u32).unwrap_or(0)),
                ">>" => Const::Int(a.checked_shr(b as u32).unwrap_or(0)),
                "<" => flag(a < b),
                ">" => flag(a > b),
                "<=" => flag(a <= b),
                ">=" => flag(a >= b),
                "==" => flag(a == b),
                "!=" => flag(a != b),
                "&&" => flag(a != 0 && b != 0),
                "||" => flag(a != 0 || b != 0),
                other => return Err(format!("unknown operator `{other}`")),
            }
        }
        Expr::Select(c, a, b) => {
            if eval(c)?.int()? != 0 {
                eval(a)?
            } else {
                eval(b)?
            }
        }
    })
}
