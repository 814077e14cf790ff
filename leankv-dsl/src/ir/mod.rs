//! Tile IR: what a kernel is between the Rust source that recorded it and the machine code.
//!
//! * Entities ([`Value`], [`Inst`], [`Block`]) are `u32` handles into dense arenas of a [`Func`].
//! * Control flow is structured: `for`, `while` and `if` own regions of one block each; values are carried
//!   explicitly, so there are no phis and no branches.
//! * A scalar is a tile of rank 0. Extents are numbers, not parameters: a kernel is specialised before it is recorded.
//! * Memory is reached through a scalar pointer and a tile of element offsets.
//!
//! **Invariants**: every op has a [`Loc`]; a value is defined before it is used, in the same or an enclosing block; a
//! block ends with exactly one terminator; result types are what [`infer`] says.
//!
//! What each op means stands in [`op`]; what types it takes in [`infer`].

mod build;
mod entity;
mod func;
pub mod infer;
mod loc;
pub mod op;
mod parse;
pub mod pointer;
mod print;
pub mod round;
mod types;
pub mod verify;

pub use build::{BuildError, Builder};
pub use entity::{Arena, Block, Entity, Inst, SideTable, Value};
pub use func::{Access, BlockData, Def, Func, Param, ValueData};
pub use infer::TypeError;
pub use loc::Loc;
pub use op::{
    AtomicOp, Axis, BinaryOp, CacheHint, CmpOp, Combine, CombineKind, Const, Effect, InstData, MemOrder,
    MemScope, Op, UnaryOp,
};
pub use parse::{MAX_DEPTH, parse, parse_all};
pub use print::{Annotate, Print};
pub use types::{Dtype, MAX_RANK, MAX_TILE_ELEMENTS, Shape, Type, UnknownDtype};
pub use verify::verify;
