//! The machine: memory, warps, blocks and the interpreter loop.

pub(crate) mod access;
pub(crate) mod access_global;
pub(crate) mod access_local;
pub(crate) mod access_shared;
pub(crate) mod atomics;
pub(crate) mod barrier;
pub(crate) mod call;
pub(crate) mod clock;
pub(crate) mod collective;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod fast;
pub(crate) mod global;
pub(crate) mod grid;
pub(crate) mod matrix;
pub(crate) mod mbar;
pub(crate) mod mma;
pub(crate) mod model;
pub(crate) mod race;
pub(crate) mod regs;
pub(crate) mod shared;
pub(crate) mod step;
pub(crate) mod touched;
pub(crate) mod warp;
pub(crate) mod window;
pub(crate) mod wmma;
