//! Comparisons give truth values; `select` chooses by them.

use crate::ir::{CmpOp, Loc, Op};
use crate::lang::element::{Element, Plain};
use crate::lang::record;
use crate::lang::tile::{Operand, Tile, elementwise, unify};

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        impl<E: Plain, const R: usize> Tile<E, R> {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $name(self, other: impl Operand<E, R>) -> Tile<bool, R> {
                    elementwise(Op::Cmp(CmpOp::$op), &[self.arg(), other.arg()], Loc::caller())
                }
            )*
        }
    };
}

comparisons! {
    /// Element-wise `==`; false with NaN.
    eq Eq;
    /// Element-wise `!=`; true with NaN.
    ne Ne;
    /// Element-wise `<`; false with NaN.
    lt Lt;
    /// Element-wise `<=`; false with NaN.
    le Le;
    /// Element-wise `>`; false with NaN.
    gt Gt;
    /// Element-wise `>=`; false with NaN.
    ge Ge;
}

impl<const R: usize> Tile<bool, R> {
    /// Elements of `yes` where true, of `no` where false. Both were computed.
    #[track_caller]
    pub fn select<E: Element>(self, yes: impl Operand<E, R>, no: impl Operand<E, R>) -> Tile<E, R> {
        let loc = Loc::caller();
        match unify("select", &[self.arg(), yes.arg(), no.arg()], loc) {
            Some(handles) => Tile::new(record::value(Op::Select, &handles, None, loc)),
            None => Tile::poison(),
        }
    }
}
