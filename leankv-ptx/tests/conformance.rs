//! Hand-written PTX, one opcode spelling a case, against expectations computed independently of the machine.

#![allow(unreachable_pub, clippy::precedence, clippy::needless_range_loop)] // A test crate; its modules are one unit, and shifts are bit fields.

#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/reference.rs"]
mod reference;

#[path = "conformance/bits.rs"]
mod bits;
#[path = "conformance/convert.rs"]
mod convert;
#[path = "conformance/float.rs"]
mod float;
#[path = "conformance/half_precision.rs"]
mod half_precision;
#[path = "conformance/integer.rs"]
mod integer;
#[path = "conformance/matrix.rs"]
mod matrix;
#[path = "conformance/memory.rs"]
mod memory;
#[path = "conformance/warp.rs"]
mod warp;

pub use integer::int as integer_value;
