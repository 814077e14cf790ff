//! A workload on a device, a GPU for one.

use std::time::Instant;

use leankv_dsl::interp::{self, Order};
use leankv_dsl::ir::Func;
use leankv_dsl::workload::{Argument, Workload, scalar_bits};

use super::execute::{self, Stop};
use super::{Outcome, Run, VerifyError, VerifyReport, against_expectation, against_reference};
use crate::compiler::Compiler;
use crate::device::{Device, DeviceBuffer};
use crate::kernel::Kernel;
use crate::launch::{Grid, Launch, LaunchError, Slot};
use crate::target::Target;

/// Runs a workload on the reference interpreter and, if that finds no fault, on `device`. What the device leaves is compared with what the interpreter leaves, and with what
/// plain Rust says. It needs no LLVM, but where the device's kernel has to be compiled.
///
/// # Errors
/// As [`verify`](super::verify()). A disagreement or a fault is not an error: [`VerifyReport::passed`] is false then.
pub fn verify_on(
    device: &Device,
    compiler: &Compiler,
    func: &Func,
    workload: &Workload,
) -> Result<VerifyReport, VerifyError> {
    let (args, grid) = (workload.arguments(func)?, workload.grid());
    let mut report =
        VerifyReport { kernel: func.name.clone(), spec: func.spec.clone(), grid, seed: 0, runs: Vec::new() };
    let mut add = |executor: &str, outcome, start| report.runs.push(Run::new(executor, None, outcome, start));
    let start = Instant::now();
    let steps = interp::Options::default().max_steps;
    let (want, _) = match execute::interpret(func, grid, &args, Order::Sequential, steps) {
        Ok(done) => done,
        Err(stop) => {
            add("interpreter", Outcome::of(&stop), start);
            return Ok(report);
        }
    };
    add("interpreter", against_expectation(&args, &want), start);
    let kernel = compiler.kernel(device, func)?;
    let start = Instant::now();
    match run(&kernel, grid, &args) {
        Ok(got) => {
            add(&device.name(), against_reference(&args, &got, &want), start);
            add(&format!("{}, beside plain Rust", device.name()), against_expectation(&args, &got), start);
        }
        Err(LaunchError::Argument(error)) => {
            let (kernel, target) = (func.name.clone(), device.target().unwrap_or(Target::Host));
            return Err(VerifyError::Launch { kernel, target, error: error.to_string() });
        }
        Err(error) => add(&device.name(), Outcome::of(&Stop::Fault(error.to_string())), start),
    }
    Ok(report)
}

/// The buffers after a launch, in order.
fn run(kernel: &Kernel, grid: [u32; 3], args: &[(String, Argument)]) -> Result<Vec<Vec<u8>>, LaunchError> {
    let device = kernel.device();
    let upload = |buffer: &leankv_dsl::workload::Buffer| device.upload(&buffer.bytes);
    let mut buffers: Vec<DeviceBuffer<u8>> =
        execute::buffers(args).map(|(_, buffer)| upload(buffer)).collect::<Result<_, _>>()?;
    let mut next = buffers.iter_mut();
    let slots = args.iter().filter_map(|(_, arg)| match arg {
        Argument::Scalar(value) => Some(Slot::Scalar(scalar_bits(*value))),
        // One was made for each.
        Argument::Buffer(_) => next.next().map(|buffer| buffer.as_view_mut().slot()),
    });
    let launch = Launch::with_slots(kernel, Grid(grid), slots.collect());
    // SAFETY: the interpreter ran the same launch with all its checks.
    unsafe { launch.run() }?;
    Ok(buffers.iter().map(DeviceBuffer::to_vec).collect::<Result<_, _>>()?)
}
