//! Matrix product with an explicit accumulator.

use half::{bf16, f16};

use crate::ir::{Loc, Op};
use crate::lang::element::{Element, Plain};
use crate::lang::record;
use crate::lang::tile::Tile;

/// Which element types multiply, and into which accumulator.
///
/// There is no tf32 and no accumulation in 16 bits: what is not in this list does not happen silently.
#[diagnostic::on_unimplemented(
    message = "there is no `dot` of `{Self}` and `{B}` into `{Acc}`",
    label = "no matrix product for these element types",
    note = "there are f16, bf16 and f32 into f32, f64 into f64, and i8 or u8 into i32: `.cast` an operand"
)]
pub trait DotWith<B: Element, Acc: Element>: Plain {}

macro_rules! dots {
    ($($a:ty, $b:ty => $acc:ty;)*) => {$(impl DotWith<$b, $acc> for $a {})*};
}
dots! {
    f16, f16 => f32;
    bf16, bf16 => f32;
    f32, f32 => f32;
    f64, f64 => f64;
    i8, i8 => i32;
    i8, u8 => i32;
    u8, i8 => i32;
    u8, u8 => i32;
}

impl<A: Plain> Tile<A, 2> {
    /// `acc + self * b` for `self: [m, k]`, `b: [k, n]`, `acc: [m, n]`; products and sums in the accumulator's type.
    #[track_caller]
    pub fn dot<B: Plain, Acc: Plain>(self, b: Tile<B, 2>, acc: Tile<Acc, 2>) -> Tile<Acc, 2>
    where
        A: DotWith<B, Acc>,
    {
        let loc = Loc::caller();
        Tile::new(record::value(Op::Dot, &[self.handle, b.handle, acc.handle], None, loc))
    }
}
