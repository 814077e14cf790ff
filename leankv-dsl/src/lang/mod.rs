//! What kernel authors write.
//!
//! A kernel is ordinary Rust that *records* tile IR when it runs. [`Tile`]s and [`Scalar`]s are `Copy` handles to values of the
//! kernel; operators and methods record ops at the caller's line. What is known at specialisation time (block sizes, head
//! dim, bit widths, formats) is a plain Rust value and vanishes from the IR.
//!
//! * [`kernel`] makes a function a kernel, [`device`] lets functions, `impl` blocks and traits use run-time control flow.
//! * `for i in range(a, b)` is recorded; `for i in 0..4` runs while the kernel is recorded, so its body is recorded four times.
//!   `if c` is recorded when `c` is a `Scalar<bool>`, and plain when it is a `bool`. Variables that change in a recorded construct
//!   are carried by it; plain Rust values that would change there are refused, also where a `Cell`, a closure or a local macro
//!   changes them ([`control`] says how far that goes). The body of a recorded loop runs twice while it is recorded, so that such changes show.
//! * Element types never convert implicitly; tiles combine when ranks agree and each extent is equal or 1.
//! * Mistakes are collected; each is reported at its line with a stable code when the kernel is specialised.
//!
//! ```
//! use leankv_dsl::lang::*;
//!
//! /// `out = x + y`, element by element.
//! #[kernel(space(block = [256, 1024]))]
//! fn add(#[comptime] block: usize, x: View<f32, 1>, y: View<f32, 1>, out: ViewMut<f32, 1>) {
//!     let at = program_id(0);
//!     let sum = x.tile(at, [block]).load() + y.tile(at, [block]).load();
//!     out.tile(at, [block]).store(sum);
//! }
//!
//! let func = add::build(&AddSpec { block: 256 })?;
//! assert_eq!(func.name, "add");
//! assert_eq!(func.spec, "block=256");
//! # Ok::<(), leankv_dsl::diag::Diagnostics>(())
//! ```

mod arg;
pub mod attention;
pub mod control;
mod element;
mod kernel;
pub mod launch;
mod ops;
mod record;
mod row;
pub mod spec;
#[cfg(test)]
mod tests;
mod tile;

pub use arg::{ArgOptions, ArgScope, Choices, KernelArg};
pub use control::{Carry, Iterable, Range, comptime, range};
pub use element::{Bits, Code, Element, Float, Index, Int, Number, Plain};
pub use kernel::{BAD_SPEC, KernelDef, TypedKernel};
pub use ops::{
    At, Atomics, Combined, DotWith, FloatType, FloatView, FloatViewMut, FloatViewTile, FloatViewTileMut,
    InlinePtx, Printable, Ptr, PtrMut, TileAt, UnknownFloatType, View, ViewIndex, ViewMut, ViewTile,
    ViewTileMut, Word, device_assert, device_print, element, static_assert,
};
pub use record::Handle;
pub use row::row;
pub use spec::{Settings, Spec, SpecError, SpecField};
pub use tile::{Arg, Fill, Operand, Scalar, Tile, iota, iota_of, lit, num_programs, program_id};

pub use crate::ir::{MemOrder, MemScope};
pub use leankv_macros::{Carry, KernelArg, Spec, device, kernel};

/// What expansions name.
#[doc(hidden)]
pub mod __private {
    pub use serde;
}
