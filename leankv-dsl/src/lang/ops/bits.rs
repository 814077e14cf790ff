//! Integer helpers.

use crate::ir::{BinaryOp, Loc, Op, UnaryOp};
use crate::lang::element::Int;
use crate::lang::tile::{Operand, Tile, elementwise};

impl<E: Int, const R: usize> Tile<E, R> {
    /// Number of one bits.
    #[track_caller]
    pub fn popcount(self) -> Self {
        elementwise(Op::Unary(UnaryOp::Popcount), &[self.arg()], Loc::caller())
    }

    /// Number of leading zero bits.
    #[track_caller]
    pub fn clz(self) -> Self {
        elementwise(Op::Unary(UnaryOp::Clz), &[self.arg()], Loc::caller())
    }

    /// High half of the full product; 32- and 64-bit integers.
    #[track_caller]
    pub fn mulhi(self, other: impl Operand<E, R>) -> Self {
        elementwise(Op::Binary(BinaryOp::MulHi), &[self.arg(), other.arg()], Loc::caller())
    }

    /// Quotient rounded up, for operands that are not negative: `(self + other - 1) / other`.
    #[track_caller]
    pub fn cdiv(self, other: impl Operand<E, R>) -> Self {
        let loc = Loc::caller();
        let one = super::convert::int_literal::<E>(1);
        let sum = elementwise::<E, R>(Op::Binary(BinaryOp::Add), &[self.arg(), other.arg()], loc);
        let top = elementwise::<E, R>(Op::Binary(BinaryOp::Sub), &[sum.arg(), one], loc);
        elementwise(Op::Binary(BinaryOp::Div), &[top.arg(), other.arg()], loc)
    }
}
