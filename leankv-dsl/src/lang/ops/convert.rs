//! Conversions. Nothing converts implicitly.

use crate::diag::Diagnostic;
use crate::ir::{Const, Dtype, Loc, Op};
use crate::lang::element::{Code, Element, Float, Int, Plain};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::tile::{Arg, Side, Tile};

/// A literal of a generic integer type.
pub(crate) fn int_literal<E: Int>(value: i128) -> Arg {
    Arg(Side::Literal(Const::Int(value), E::TYPE))
}

/// A literal of a generic float type.
pub(crate) fn float_literal<E: Float>(value: f64) -> Arg {
    Arg(Side::Literal(Const::float(value), E::TYPE))
}

/// A code width as a type; `None` (reported) when it is not 1 to 8.
pub(crate) fn code_type(op: &str, bits: usize, loc: Loc) -> Option<Dtype> {
    match u8::try_from(bits) {
        Ok(bits @ 1..=8) => Some(Dtype::Code(bits)),
        _ => {
            record::report(
                Diagnostic::error(BAD_ARGUMENT, loc, format!("`{op}` with codes of {bits} bits"))
                    .help("a code has 1 to 8 bits"),
            );
            None
        }
    }
}

impl<E: Element, const R: usize> Tile<E, R> {
    /// Conversion by value. Integers wrap; to a float rounds to nearest even; float to integer truncates toward zero and
    /// saturates, NaN gives 0; to `bool` is `!= 0`.
    #[track_caller]
    pub fn cast<F: Plain>(self) -> Tile<F, R> {
        let loc = Loc::caller();
        let Some(ty) = record::ty(self.handle, loc) else { return Tile::poison() };
        if ty.dtype() == F::TYPE {
            return Tile::new(self.handle);
        }
        Tile::new(record::value(Op::Cast, &[self.handle], Some(&ty.with_dtype(F::TYPE)), loc))
    }
}

impl<E: Plain, const R: usize> Tile<E, R> {
    /// The same bits as another type of the same width.
    #[track_caller]
    pub fn bitcast<F: Plain>(self) -> Tile<F, R> {
        let loc = Loc::caller();
        let Some(ty) = record::ty(self.handle, loc) else { return Tile::poison() };
        Tile::new(record::value(Op::Bitcast, &[self.handle], Some(&ty.with_dtype(F::TYPE)), loc))
    }
}

impl<E: Int, const R: usize> Tile<E, R> {
    /// The low `bits` bits as codes.
    #[track_caller]
    pub fn cast_code(self, bits: usize) -> Tile<Code, R> {
        let loc = Loc::caller();
        let Some(code) = code_type("cast_code", bits, loc) else { return Tile::poison() };
        let Some(ty) = record::ty(self.handle, loc) else { return Tile::poison() };
        Tile::new(record::value(Op::Cast, &[self.handle], Some(&ty.with_dtype(code)), loc))
    }
}
