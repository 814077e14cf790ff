//! The interpreter, with all checks on.

use leankv_dsl::interp::{self, Arg, LaunchError, Memory, Options, Order};
use leankv_dsl::ir::Func;
use leankv_dsl::pass::{Facts, standard};

use crate::conformance::{Case, CaseArg, Executor, Failure};

/// Programs in order.
pub struct Interp;

/// Programs in a random order: results must not depend on it.
pub struct Shuffled;

/// After the standard passes: they must not change what a kernel does.
pub struct Optimised;

impl Executor for Interp {
    fn name(&self) -> &'static str {
        "interp"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        run(case, &case.func, Order::Sequential)
    }
}

impl Executor for Shuffled {
    fn name(&self) -> &'static str {
        "interp_shuffled"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        run(case, &case.func, Order::Shuffled(7))
    }
}

impl Executor for Optimised {
    fn name(&self) -> &'static str {
        "interp_optimised"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let mut func = case.func.clone();
        standard().run(&mut func, &mut Facts::new()).map_err(|e| Failure::Broken(e.to_string()))?;
        run(case, &func, Order::Sequential)
    }
}

fn run(case: &Case, func: &Func, order: Order) -> Result<Vec<Vec<u8>>, Failure> {
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
    let (check_division, check_steps) = (case.checked, case.checked);
    let options = Options { order, check_division, check_steps, ..Options::default() };
    match interp::launch(func, case.grid, &args, &mut mem, &options) {
        Ok(_) => Ok(ids.into_iter().map(|id| mem.bytes(id).to_vec()).collect()),
        Err(LaunchError::Faults(faults)) => Err(Failure::Fault(faults[0].to_string())),
        Err(other) => Err(Failure::Broken(other.to_string())),
    }
}
