//! Control flow: what the rewritten `if`, `for` and `while` call.
//!
//! Whether a construct is recorded or runs as plain Rust is decided by the type of its condition or range
//! ([`Cond`], [`Iterable`]); that choice is the type parameter [`Kind`] of everything here. In a recorded construct every
//! variable that changes must be [`Carry`]; in a static one any Rust variable may.
//!
//! What the macros see change (assignments, `&mut`, methods, local macros) is carried or refused. What they cannot see is found in three
//! ways. Variables that a construct mentions are looked at before and after it, through `Cell`s and the like ([`hidden`]). The body of a
//! recorded loop is recorded twice and must come out the same. And a value that was made in a region is refused outside of it.
//! What is left: a plain value that changes in a *branch* behind a type parameter, in a `static`, behind a `&mut` inside of a struct, or in
//! a type that has a `Cell` and no `Debug`; and one that a loop sets to the same at every turn there, when it is read after the loop.
//!
//! Names in this module are the macros' business; kernels use [`range`], [`comptime`] and `#[derive(Carry)]`.

mod carry;
mod for_loop;
pub mod hidden;
pub mod hint;
mod if_branch;
mod slot;
pub mod soft;
mod state;
mod turns;
mod while_loop;

pub use carry::{Carry, Flat, Fresh};
pub use for_loop::{Bounds, ForLoop, Iterable, Mapped, Range, for_begin, indices, range};
pub use if_branch::{Cond, IfBranch, PickIn, arm, if_begin};
pub use slot::{CarryIn, Kind, KindOf, Recorded, Slot, Static, hard};
pub use turns::{Call, enter_call};
pub use while_loop::{WhileLoop, while_begin};

/// Marks a condition or a range as known at specialisation time: the `if`, `while` or `for` over it stays plain
/// Rust, and `break`, `continue` and `return` may leave it.
pub fn comptime<T>(known: T) -> T {
    known
}

/// A value that a `match` with literals can compare.
#[diagnostic::on_unimplemented(
    message = "`match` on a run-time value",
    label = "`{Self}` is only known when the kernel runs",
    note = "both arms of a run-time choice are recorded: write `if x.eq(0) {{ .. }} else {{ .. }}`, or `select`",
    note = "`match` works on values known at specialisation time"
)]
pub trait Known {
    /// The type itself. That it is reached through the trait keeps follow-up errors away.
    #[doc(hidden)]
    type Same;
    /// The value itself.
    #[doc(hidden)]
    fn same(self) -> Self::Same;
}

macro_rules! known_types {
    ($($ty:ty)*) => {$(
        impl Known for $ty {
            type Same = $ty;
            fn same(self) -> $ty {
                self
            }
        }
    )*};
}
known_types!(bool char i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize f32 f64);

impl<'a> Known for &'a str {
    type Same = &'a str;
    fn same(self) -> &'a str {
        self
    }
}

/// The value of a `match` with literals.
#[doc(hidden)]
pub fn known<T: Known>(value: T) -> T::Same {
    value.same()
}
