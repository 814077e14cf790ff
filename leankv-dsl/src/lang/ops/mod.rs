//! What can be done with tiles; one file a family. Method names are the op names of the IR.

mod arith;
mod atomic;
mod bits;
mod compare;
mod convert;
mod debug;
mod dot;
mod float_view;
mod inline_ptx;
mod math;
mod memory;
mod quant;
mod reduce;
mod scan;
mod shape;
mod view;

pub use atomic::Atomics;
pub use debug::{Printable, device_assert, device_print, static_assert};
pub use dot::DotWith;
pub use float_view::{FloatType, FloatView, FloatViewMut, FloatViewTile, FloatViewTileMut, UnknownFloatType};
pub use inline_ptx::InlinePtx;
pub(crate) use memory::scalar;
pub use memory::{Ptr, PtrMut};
pub use quant::Word;
pub use reduce::Combined;
pub(crate) use view::Dims;
pub use view::{At, TileAt, View, ViewIndex, ViewMut, ViewTile, ViewTileMut, element};
