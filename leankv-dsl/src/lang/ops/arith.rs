//! Operators: `+ - * / %` on numbers, `& | ^ !` on integers and truth values, `<< >>` on integers, and their
//! assigning forms. The other side is a tile of the same rank, a scalar, or a literal.

use std::ops;

use crate::ir::{BinaryOp, Loc, Op, UnaryOp};
use crate::lang::element::{Bits, Int, Number};
use crate::lang::tile::{Operand, Tile, elementwise};

macro_rules! operator {
    ($trait:ident $method:ident $assign_trait:ident $assign:ident $op:ident $bound:ident
     [$($ranks:literal)*] [$($literals:ty)*] [$($halves:ty)*]) => {
        impl<E: $bound, const R: usize> ops::$trait for Tile<E, R> {
            type Output = Tile<E, R>;
            #[track_caller]
            fn $method(self, rhs: Tile<E, R>) -> Tile<E, R> {
                elementwise(Op::Binary(BinaryOp::$op), &[self.arg(), rhs.arg()], Loc::caller())
            }
        }

        impl<E: $bound, const R: usize> ops::$assign_trait for Tile<E, R> {
            #[track_caller]
            fn $assign(&mut self, rhs: Tile<E, R>) {
                *self = elementwise(Op::Binary(BinaryOp::$op), &[self.arg(), rhs.arg()], Loc::caller());
            }
        }

        $(
            impl<E: $bound> ops::$trait<Tile<E, 0>> for Tile<E, $ranks> {
                type Output = Tile<E, $ranks>;
                #[track_caller]
                fn $method(self, rhs: Tile<E, 0>) -> Tile<E, $ranks> {
                    let rhs = Operand::<E, $ranks>::arg(rhs);
                    elementwise(Op::Binary(BinaryOp::$op), &[self.arg(), rhs], Loc::caller())
                }
            }

            impl<E: $bound> ops::$trait<Tile<E, $ranks>> for Tile<E, 0> {
                type Output = Tile<E, $ranks>;
                #[track_caller]
                fn $method(self, rhs: Tile<E, $ranks>) -> Tile<E, $ranks> {
                    let lhs = Operand::<E, $ranks>::arg(self);
                    elementwise(Op::Binary(BinaryOp::$op), &[lhs, rhs.arg()], Loc::caller())
                }
            }

            impl<E: $bound> ops::$assign_trait<Tile<E, 0>> for Tile<E, $ranks> {
                #[track_caller]
                fn $assign(&mut self, rhs: Tile<E, 0>) {
                    let rhs = Operand::<E, $ranks>::arg(rhs);
                    *self = elementwise(Op::Binary(BinaryOp::$op), &[self.arg(), rhs], Loc::caller());
                }
            }
        )*

        $(operator!(@literal $trait $method $assign_trait $assign $op $literals, $literals);)*
        $(operator!(@literal $trait $method $assign_trait $assign $op $halves, f32);)*
    };

    (@literal $trait:ident $method:ident $assign_trait:ident $assign:ident $op:ident $elem:ty, $literal:ty) => {
        impl<const R: usize> ops::$trait<$literal> for Tile<$elem, R> {
            type Output = Tile<$elem, R>;
            #[track_caller]
            fn $method(self, rhs: $literal) -> Tile<$elem, R> {
                let rhs = Operand::<$elem, R>::arg(rhs);
                elementwise(Op::Binary(BinaryOp::$op), &[self.arg(), rhs], Loc::caller())
            }
        }

        impl<const R: usize> ops::$trait<Tile<$elem, R>> for $literal {
            type Output = Tile<$elem, R>;
            #[track_caller]
            fn $method(self, rhs: Tile<$elem, R>) -> Tile<$elem, R> {
                let lhs = Operand::<$elem, R>::arg(self);
                elementwise(Op::Binary(BinaryOp::$op), &[lhs, rhs.arg()], Loc::caller())
            }
        }

        impl<const R: usize> ops::$assign_trait<$literal> for Tile<$elem, R> {
            #[track_caller]
            fn $assign(&mut self, rhs: $literal) {
                let rhs = Operand::<$elem, R>::arg(rhs);
                *self = elementwise(Op::Binary(BinaryOp::$op), &[self.arg(), rhs], Loc::caller());
            }
        }
    };
}

macro_rules! numbers {
    ($($trait:ident $method:ident $assign_trait:ident $assign:ident $op:ident;)*) => {$(
        operator!($trait $method $assign_trait $assign $op Number [1 2 3 4 5]
            [i8 i16 i32 i64 u8 u16 u32 u64 f32 f64] [half::f16 half::bf16]);
    )*};
}
numbers! {
    Add add AddAssign add_assign Add;
    Sub sub SubAssign sub_assign Sub;
    Mul mul MulAssign mul_assign Mul;
    Div div DivAssign div_assign Div;
    Rem rem RemAssign rem_assign Rem;
}

macro_rules! bitwise {
    ($($trait:ident $method:ident $assign_trait:ident $assign:ident $op:ident;)*) => {$(
        operator!($trait $method $assign_trait $assign $op Bits [1 2 3 4 5]
            [bool i8 i16 i32 i64 u8 u16 u32 u64] []);
    )*};
}
bitwise! {
    BitAnd bitand BitAndAssign bitand_assign And;
    BitOr bitor BitOrAssign bitor_assign Or;
    BitXor bitxor BitXorAssign bitxor_assign Xor;
}

macro_rules! shifts {
    ($($trait:ident $method:ident $assign_trait:ident $assign:ident $op:ident;)*) => {$(
        operator!($trait $method $assign_trait $assign $op Int [1 2 3 4 5]
            [i8 i16 i32 i64 u8 u16 u32 u64] []);
    )*};
}
shifts! {
    Shl shl ShlAssign shl_assign Shl;
    Shr shr ShrAssign shr_assign Shr;
}

impl<E: Number, const R: usize> ops::Neg for Tile<E, R> {
    type Output = Tile<E, R>;
    #[track_caller]
    fn neg(self) -> Tile<E, R> {
        elementwise(Op::Unary(UnaryOp::Neg), &[self.arg()], Loc::caller())
    }
}

impl<E: Bits, const R: usize> ops::Not for Tile<E, R> {
    type Output = Tile<E, R>;
    #[track_caller]
    fn not(self) -> Tile<E, R> {
        elementwise(Op::Unary(UnaryOp::Not), &[self.arg()], Loc::caller())
    }
}
