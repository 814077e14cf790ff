//! The executors that the suite knows.

mod host;
mod interp;
pub mod ptx;

pub use host::{Host, HostNarrow};
pub use interp::{Interp, Optimised, Shuffled};
pub use ptx::{Ptx, PtxApart, PtxOn};

use super::Executor;

/// All of them.
pub fn all() -> Vec<&'static dyn Executor> {
    vec![&Interp, &Shuffled, &Optimised, &Host, &HostNarrow, &Ptx, &PtxOn::SM_90, &PtxOn::SM_100, &PtxApart]
}
