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
use crate::signature::ParamKind;
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
    let mut launch = DeviceLaunch::new(kernel, grid, args)?;
    // SAFETY: the interpreter ran the same launch with all its checks.
    unsafe { launch.run() }?;
    launch.buffers()
}

/// A kernel and its arguments in buffers of its device, to be launched any number of times.
pub(crate) struct DeviceLaunch<'a> {
    kernel: &'a Kernel,
    grid: [u32; 3],
    args: &'a [(String, Argument)],
    buffers: Vec<DeviceBuffer<u8>>,
}

impl<'a> DeviceLaunch<'a> {
    /// Uploads the arguments' buffers.
    pub(crate) fn new(
        kernel: &'a Kernel,
        grid: [u32; 3],
        args: &'a [(String, Argument)],
    ) -> Result<Self, LaunchError> {
        let upload = |(_, buffer): (_, &leankv_dsl::workload::Buffer)| kernel.device().upload(&buffer.bytes);
        let buffers = execute::buffers(args).map(upload).collect::<Result<_, _>>()?;
        Ok(DeviceLaunch { kernel, grid, args, buffers })
    }

    /// Launches once, on what the last launch left in the buffers.
    ///
    /// # Safety
    /// As [`Launch::run`].
    pub(crate) unsafe fn run(&mut self) -> Result<(), LaunchError> {
        let mut next = self.buffers.iter_mut();
        let slots = self.args.iter().filter_map(|(_, arg)| match arg {
            Argument::Scalar(value) => Some(Slot::Scalar(scalar_bits(*value))),
            // One was made for each.
            Argument::Buffer(_) => next.next().map(|buffer| buffer.as_view_mut().slot()),
        });
        let launch = Launch::with_slots(self.kernel, Grid(self.grid), slots.collect());
        // SAFETY: the caller promises it.
        unsafe { launch.run() }
    }

    /// Writes what the buffers held before the first launch over those that a kernel may write.
    pub(crate) fn restore(&mut self) -> Result<(), LaunchError> {
        let params = &self.kernel.signature().params;
        let kinds = params.iter().map(|param| param.kind).filter(|&kind| kind != ParamKind::Scalar);
        for ((buffer, (_, given)), kind) in
            self.buffers.iter_mut().zip(execute::buffers(self.args)).zip(kinds)
        {
            if kind == ParamKind::Write {
                buffer.write(&given.bytes)?;
            }
        }
        Ok(())
    }

    /// The buffers as they are now, in the order of the parameters.
    pub(crate) fn buffers(&self) -> Result<Vec<Vec<u8>>, LaunchError> {
        Ok(self.buffers.iter().map(DeviceBuffer::to_vec).collect::<Result<_, _>>()?)
    }
}
