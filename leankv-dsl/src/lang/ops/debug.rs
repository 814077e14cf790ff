//! Printing and assertions.

use crate::diag::Diagnostic;
use crate::ir::{Loc, Op};
use crate::lang::element::Element;
use crate::lang::record::{self, Handle, STATIC_ASSERT};
use crate::lang::tile::Tile;

/// What `device_print` takes: a tile, a scalar, or a tuple of them.
pub trait Printable {
    /// The handles.
    #[doc(hidden)]
    fn handles(&self) -> Vec<Handle>;
}

impl<E: Element, const R: usize> Printable for Tile<E, R> {
    fn handles(&self) -> Vec<Handle> {
        vec![self.handle]
    }
}

macro_rules! printable_tuples {
    ($(($($name:ident $index:tt),+))*) => {$(
        impl<$($name: Printable),+> Printable for ($($name,)+) {
            fn handles(&self) -> Vec<Handle> {
                [$(self.$index.handles()),+].concat()
            }
        }
    )*};
}
printable_tuples! { (A 0) (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3) }

/// Prints values with a prefix when the kernel runs.
#[track_caller]
pub fn device_print(prefix: &str, values: impl Printable) {
    record::effect(Op::Print { prefix: prefix.to_owned() }, &values.handles(), Loc::caller());
}

/// Reports when an element is false while the kernel runs: an error of the launch on interpreter and host, a trap on a GPU.
#[track_caller]
pub fn device_assert<const R: usize>(condition: Tile<bool, R>, message: &str) {
    record::effect(Op::Assert { message: message.to_owned() }, &[condition.handle], Loc::caller());
}

/// Refuses a specialisation: when `condition` is false the kernel does not build, with `message` at this line.
/// Gives the condition, so that a kernel can leave out what would fail next.
#[track_caller]
pub fn static_assert(condition: bool, message: impl AsRef<str>) -> bool {
    if !condition {
        record::report(
            Diagnostic::error(STATIC_ASSERT, Loc::caller(), message.as_ref())
                .say("required by the kernel for this specialisation"),
        );
    }
    condition
}
