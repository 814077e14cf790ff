//! What Rust's own syntax takes in kernel code, asked for by traits whose messages say what to write for run-time values; and traits that
//! nothing implements, named after what to write.

use std::cmp::Ordering;
use std::fmt;
use std::ops;

use super::for_loop::Range;
use crate::lang::tile::{Scalar, Tile};

/// A side of `&&` or `||`.
#[diagnostic::on_unimplemented(
    message = "`&&` and `||` do not combine run-time values",
    label = "`{Self}` is only known when the kernel runs",
    note = "write `a & b`, `a | b`: both sides are computed, and combined for each element",
    note = "a number is compared first: `x.gt(0)`"
)]
pub trait Truth {
    /// The type itself. That it is reached through the trait keeps follow-up errors away.
    #[doc(hidden)]
    type Same;
    /// The value itself.
    #[doc(hidden)]
    fn same(self) -> Self::Same;
}

impl Truth for bool {
    type Same = bool;
    fn same(self) -> bool {
        self
    }
}

/// A side of `&&` or `||`.
#[doc(hidden)]
pub fn truth<T: Truth>(value: T) -> T::Same {
    value.same()
}

/// The start of a Rust range that ends at a `B`.
#[diagnostic::on_unimplemented(
    message = "a Rust range has no run-time ends",
    label = "`{Self} .. {B}` is no range of plain numbers of one type",
    note = "a loop with run-time bounds is written `for i in range(low, high)`",
    note = "the ends of `low..high` are numbers known at specialisation time"
)]
pub trait Until<B>: Sized {
    /// `self..end`.
    #[doc(hidden)]
    fn until(self, end: B) -> ops::Range<Self>;
    /// `self..=end`.
    #[doc(hidden)]
    fn through(self, end: B) -> ops::RangeInclusive<Self>;
}

macro_rules! ends {
    ($($ty:ty)*) => {$(
        impl Until<$ty> for $ty {
            fn until(self, end: $ty) -> ops::Range<$ty> {
                self..end
            }
            fn through(self, end: $ty) -> ops::RangeInclusive<$ty> {
                self..=end
            }
        }
    )*};
}
ends!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize char);

/// `start..end` over which a loop runs.
#[doc(hidden)]
pub fn until<A: Until<B>, B>(start: A, end: B) -> ops::Range<A> {
    start.until(end)
}

/// `start..=end` over which a loop runs.
#[doc(hidden)]
pub fn through<A: Until<B>, B>(start: A, end: B) -> ops::RangeInclusive<A> {
    start.through(end)
}

/// No tile is compared by an operator of Rust, whose answer is a `bool`: `a.gt(b)` and its like are answered when the kernel runs.
pub trait ComparedByMethodsLikeGtAndEq {}

impl<E, const R: usize, T> PartialEq<T> for Tile<E, R>
where
    Tile<E, R>: ComparedByMethodsLikeGtAndEq,
{
    fn eq(&self, _: &T) -> bool {
        false
    }
}

impl<E, const R: usize, T> PartialOrd<T> for Tile<E, R>
where
    Tile<E, R>: ComparedByMethodsLikeGtAndEq,
{
    fn partial_cmp(&self, _: &T) -> Option<Ordering> {
        None
    }
}

/// No tile has a text while the kernel is recorded: `device_print("x =", x)` prints it when the kernel runs.
pub trait PrintedByDevicePrint {}

impl<E, const R: usize> fmt::Display for Tile<E, R>
where
    Tile<E, R>: PrintedByDevicePrint,
{
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A run-time range is no iterator of Rust: a loop over it is recorded, in functions and `impl` blocks that are marked `#[kernel]` or
/// `#[device]`.
pub trait LoopedOverInAFunctionMarkedDevice {}

impl<E> Iterator for Range<E>
where
    Range<E>: LoopedOverInAFunctionMarkedDevice,
{
    type Item = Scalar<E>;

    fn next(&mut self) -> Option<Scalar<E>> {
        None
    }
}
