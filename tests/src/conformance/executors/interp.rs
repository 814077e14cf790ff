//! The interpreter, with all checks on.

use leankv_dsl::interp::{self, Arg, LaunchError, Memory, Options, Order};

use crate::conformance::{Case, CaseArg, Executor, Failure};

/// Programs in order.
pub struct Interp;

/// Programs in a random order: results must not depend on it.
pub struct Shuffled;

impl Executor for Interp {
    fn name(&self) -> &'static str {
        "interp"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        run(case, Order::Sequential)
    }
}

impl Executor for Shuffled {
    fn name(&self) -> &'static str {
        "interp_shuffled"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        run(case, Order::Shuffled(7))
    }
}

fn run(case: &Case, order: Order) -> Result<Vec<Vec<u8>>, Failure> {
    let mut mem = Memory::new();
    let mut ids = Vec::new();
    let mut args = Vec::new();
    for arg in &case.args {
        args.push(match arg {
            CaseArg::Buffer(slot) => {
                let id = mem.alloc_bytes(&slot.bytes);
                ids.push(id);
                Arg::Buffer(id, 0)
            }
            CaseArg::Scalar(value) => Arg::Scalar(*value),
        });
    }
    let options = Options { order, check_division: case.check_division, ..Options::default() };
    match interp::launch(&case.func, case.grid, &args, &mut mem, &options) {
        Ok(_) => Ok(ids.into_iter().map(|id| mem.bytes(id).to_vec()).collect()),
        Err(LaunchError::Faults(faults)) => Err(Failure::Fault(faults[0].to_string())),
        Err(other) => Err(Failure::Broken(other.to_string())),
    }
}
