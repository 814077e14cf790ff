//! Quantisation codes: quantise, dequantise, pack, unpack.
//!
//! A tile of codes has its logical shape; how codes lie in words is the business of `pack` and `unpack`.

use super::convert::code_type;
use crate::diag::Diagnostic;
use crate::ir::{Dtype, Loc, Op, Type};
use crate::lang::element::{Code, Plain};
use crate::lang::record::{self, BAD_ARGUMENT};
use crate::lang::tile::{Operand, Tile, unify};

/// Words that codes are packed into: `u8`, `u16`, `u32`.
#[diagnostic::on_unimplemented(message = "codes are packed into u8, u16 or u32, not `{Self}`")]
pub trait Word: Plain {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}

impl<const R: usize> Tile<f32, R> {
    /// Codes of `bits` bits: `clamp(round_ties_even((x - zero) / scale), 0, 2^bits - 1)`; 0 where the scale is 0 or the
    /// quotient is NaN. Scale and zero repeat along extents of 1.
    #[track_caller]
    pub fn quantize(
        self,
        scale: impl Operand<f32, R>,
        zero: impl Operand<f32, R>,
        bits: usize,
    ) -> Tile<Code, R> {
        let loc = Loc::caller();
        let Some(code) = code_type("quantize", bits, loc) else { return Tile::poison() };
        let Some(args) = unify("quantize", &[self.arg(), scale.arg(), zero.arg()], loc) else {
            return Tile::poison();
        };
        let Some(ty) = record::ty(args[0], loc) else { return Tile::poison() };
        Tile::new(record::value(Op::Quantize, &args, Some(&ty.with_dtype(code)), loc))
    }
}

impl<const R: usize> Tile<Code, R> {
    /// The codes' width in bits; 8 after an error.
    #[track_caller]
    pub fn bits(self) -> usize {
        match self.dtype() {
            Some(Dtype::Code(bits)) => bits.into(),
            _ => 8,
        }
    }

    /// `scale * code + zero`, one rounding. Scale and zero repeat along extents of 1.
    #[track_caller]
    pub fn dequantize(self, scale: impl Operand<f32, R>, zero: impl Operand<f32, R>) -> Tile<f32, R> {
        let loc = Loc::caller();
        match unify("dequantize", &[self.arg(), scale.arg(), zero.arg()], loc) {
            Some(args) => Tile::new(record::value(Op::Dequantize, &args, None, loc)),
            None => Tile::poison(),
        }
    }

    /// Dense words along the last dimension, code 0 of a word in its lowest bits. Codes have 1, 2, 4 or 8 bits and fill words
    /// exactly.
    #[track_caller]
    pub fn pack<W: Word>(self) -> Tile<W, R> {
        let loc = Loc::caller();
        let Some(ty) = record::ty(self.handle, loc) else { return Tile::poison() };
        match scaled(&ty, "pack", u64::from(ty.dtype().bits()), u64::from(W::TYPE.bits()), W::TYPE, loc) {
            Some(to) => Tile::new(record::value(Op::Pack, &[self.handle], Some(&to), loc)),
            None => Tile::poison(),
        }
    }
}

impl<W: Word, const R: usize> Tile<W, R> {
    /// The inverse of [`pack`](Tile::pack).
    #[track_caller]
    pub fn unpack(self, bits: usize) -> Tile<Code, R> {
        let loc = Loc::caller();
        let Some(code) = code_type("unpack", bits, loc) else { return Tile::poison() };
        let Some(ty) = record::ty(self.handle, loc) else { return Tile::poison() };
        match scaled(&ty, "unpack", u64::from(W::TYPE.bits()), bits as u64, code, loc) {
            Some(to) => Tile::new(record::value(Op::Unpack, &[self.handle], Some(&to), loc)),
            None => Tile::poison(),
        }
    }
}

/// `ty` with another element type and its last extent scaled by `num / den`.
fn scaled(ty: &Type, op: &str, num: u64, den: u64, dtype: Dtype, loc: Loc) -> Option<Type> {
    let (_, shape) = ty.as_tile()?;
    let rank = shape.rank();
    let fits = rank > 0 && (u64::from(shape[rank - 1]) * num).is_multiple_of(den);
    if !fits {
        record::report(
            Diagnostic::error(
                BAD_ARGUMENT,
                loc,
                format!("`{op}` of `{ty}` does not fill words of {den} bits"),
            )
            .help("the last extent times the code's width is a multiple of the word's width"),
        );
        return None;
    }
    let last = u64::from(shape[rank - 1]) * num / den;
    Some(Type::Tile { dtype, shape: shape.with_extent(rank - 1, u32::try_from(last).ok()?) })
}
