//! PTX on the CPU: parse, print, execute, check, count.
//!
//! ```
//! use leankv_ptx::{Arg, Config, LaunchConfig, Machine, Module};
//!
//! let ptx = r#"
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry double(.param .u64 data) {
//!     .reg .b64 %rd<3>;
//!     .reg .b32 %r<3>;
//!     ld.param.u64 %rd1, [data];
//!     mov.u32 %r1, %tid.x;
//!     mad.wide.u32 %rd2, %r1, 4, %rd1;
//!     ld.global.u32 %r2, [%rd2];
//!     add.u32 %r2, %r2, %r2;
//!     st.global.u32 [%rd2], %r2;
//!     ret;
//! }
//! "#;
//! let module = Module::parse(ptx)?;
//! let mut machine = Machine::new(Config::default());
//! let data = machine.alloc(4 * 32, 4)?;
//! machine.write(data, &21u32.to_le_bytes().repeat(32))?;
//! let shape = LaunchConfig { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared_bytes: 0 };
//! let report = machine.launch(&module, "double", shape, &[Arg::U64(data)])?;
//! let mut out = [0u8; 4];
//! machine.read(data + 4 * 31, &mut out)?;
//! assert_eq!(u32::from_le_bytes(out), 42);
//! assert!(report.is_clean());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it proves, and what not
//! * Values, bounds, races and synchronisation of the PTX as written, under the schedules that were run.
//! * Not what an assembler does with it afterwards, not the bits of approximate functions or of the order in
//!   which `mma` accumulates, not weak-memory effects beyond the modelled orders, and not speed: the counters
//!   are architectural rules.

#![allow(clippy::needless_range_loop)]
// Lane loops index several arrays by lane.
// Shifts and masks of bit fields read as fields; unordered comparisons are negated ordered ones.
#![allow(
    clippy::precedence,
    clippy::nonminimal_bool,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::double_comparisons
)]
#![allow(unreachable_pub)]

mod alu;
mod config;
mod counters;
mod decode;
mod error;
pub mod feature;
mod finding;
mod machine;
mod soft;
pub mod syntax;
mod ty;
mod vm;

pub use config::{Checks, Config, Divergence};
pub use counters::{Counters, InstrCounters, InstrLine, RangeCounters};
pub use decode::op::Class;
pub use error::{Error, Fault, FaultKind, ParseError, Site};
pub use finding::{Finding, FindingKind, Party, Severity};
pub use machine::{Arg, LaunchConfig, LaunchReport, Machine, Module};
pub use syntax::ast::Ast;
pub use ty::Ty;
