//! How long a launch takes on a GPU that is not here, by its roofline. A model, not a measurement.

use leankv_dsl::ir::Func;
use leankv_dsl::target::Product;
use leankv_dsl::workload::Workload;
use leankv_ptx::Checks;

use crate::compiled::CompiledKernel;
use crate::compiler::Compiler;
use crate::roofline::{LATENCY_NS, Roofline, Runs};
use crate::verify::profile_with;

/// Modelled seconds of a launch: the larger of what its instructions take in the busiest part of a multiprocessor, and what its bytes take in global memory, which gives its
/// full bandwidth only where enough bytes are in flight. Programs are dealt out to multiprocessors evenly, and the one with the most ends last.
pub(super) fn seconds(
    compiler: &Compiler,
    product: &Product,
    func: &Func,
    compiled: &CompiledKernel,
    workload: &Workload,
) -> Result<f64, String> {
    let profile =
        profile_with(compiler, func, workload, product.target, Checks::NONE).map_err(|e| e.to_string())?;
    let runs = Runs { run: &profile, less: None, units: 1.0 };
    let roofline = Roofline::of(product, LATENCY_NS, compiled, &runs).map_err(|e| e.to_string())?;
    let programs: f64 = workload.grid().iter().map(|&n| f64::from(n)).product();
    let busy = f64::from(product.sms).min(programs);
    let hertz = product.ghz * 1e9;

    let cycles = roofline.cycles.iter().map(|(_, cycles)| *cycles).fold(0.0, f64::max);
    let largest_share = (programs / busy).ceil() / programs;
    let instructions = cycles * largest_share / hertz;

    let warps = f64::from(compiled.info.threads.div_ceil(32));
    let resident = f64::from(roofline.occupancy.warps).max(warps);
    let filled = (programs / busy * warps / resident).min(1.0);
    let in_flight = (roofline.mean_in_flight * filled / roofline.needed_in_flight).clamp(1e-3, 1.0);
    let memory = roofline.dram_cycles / busy / hertz / in_flight;
    Ok(instructions.max(memory))
}
