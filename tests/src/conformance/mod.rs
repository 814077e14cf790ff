//! Cases, executors and how their results are compared.
//!
//! * A [`Case`] is a kernel with arguments. The interpreter says what its outputs are; every other executor's are compared with the
//!   interpreter's.
//! * What an executor cannot do is an error of its own kind.
//! * Integers and single correctly rounded float ops must be equal bit for bit; sums and approximate functions within the bounds
//!   that the op list states.

pub mod case;
pub mod compare;
pub mod data;
pub mod executors;
pub mod number;

pub use case::{Case, CaseArg, Check, K};

/// Why an executor gave no outputs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It said, by an error of its own, that it cannot run such a kernel.
    Unsupported(String),
    /// The kernel did something wrong while it ran.
    Fault(String),
    /// Anything else: a bug.
    Broken(String),
}

/// Something that runs kernels.
pub trait Executor: Sync {
    /// Its name in the names of tests and in the tests.
    fn name(&self) -> &'static str;

    /// Runs a case and gives its buffers afterwards, inputs included.
    ///
    /// # Errors
    /// See [`Failure`].
    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure>;
}
