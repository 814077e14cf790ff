//! Runs arguments on one executor and gives all buffers afterwards.

use std::fmt;

use leankv_dsl::interp::{self, Arg, FaultKind, LaunchError, Memory, Order};
use leankv_dsl::ir::Func;
use leankv_dsl::workload::{Argument, Buffer, Guarded, Workload, scalar_bits};
use leankv_ptx::{Config, LaunchConfig, LaunchReport, Machine, Module};

use super::VerifyError;
use crate::compiled::{Code, CompiledKernel};
use crate::kernel::{HostArg, HostCode};
use crate::lower::Native;
use crate::target::{Sm, Target};

/// The buffers among arguments, in order.
pub(super) fn buffers(args: &[(String, Argument)]) -> impl Iterator<Item = (&str, &Buffer)> {
    args.iter().filter_map(|(name, arg)| match arg {
        Argument::Buffer(buffer) => Some((name.as_str(), buffer)),
        Argument::Scalar(_) => None,
    })
}

/// What a kernel did wrong, so that there are no results.
#[derive(Debug)]
pub(super) enum Stop {
    /// On the interpreter or the host.
    Fault(String),
    /// A program did not end within the interpreter's steps.
    Endless(String),
    /// On the PTX machine.
    Ptx(leankv_ptx::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Fault(text) | Stop::Endless(text) => f.write_str(text),
            Stop::Ptx(error) => error.fmt(f),
        }
    }
}

/// On the reference interpreter, with every check and at most `max_steps` steps a program. Also gives what there was to do.
pub(super) fn interpret(
    func: &Func,
    grid: [u32; 3],
    args: &[(String, Argument)],
    order: Order,
    max_steps: u64,
) -> Result<(Vec<Vec<u8>>, interp::Report), Stop> {
    let mut memory = Memory::new();
    let mut ids = Vec::new();
    let mut values = Vec::new();
    for (_, arg) in args {
        values.push(match arg {
            Argument::Scalar(value) => Arg::Scalar(*value),
            Argument::Buffer(buffer) => {
                let id = memory.alloc_bytes(&buffer.bytes);
                ids.push(id);
                Arg::Buffer(id, 0)
            }
        });
    }
    let options = interp::Options { order, max_steps, ..interp::Options::default() };
    match interp::launch(func, grid, &values, &mut memory, &options) {
        Ok(report) => Ok((ids.into_iter().map(|id| memory.bytes(id).to_vec()).collect(), report)),
        Err(LaunchError::Faults(faults)) => {
            let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let endless = faults.iter().any(|fault| matches!(fault.kind, FaultKind::StepBudget { .. }));
            Err(if endless { Stop::Endless(texts.join("\n")) } else { Stop::Fault(texts.join("\n")) })
        }
        Err(other) => Err(Stop::Fault(other.to_string())),
    }
}

/// On the host, between guards. Only for what the interpreter ran without a fault.
pub(super) fn host(
    compiled: &CompiledKernel,
    grid: [u32; 3],
    args: &[(String, Argument)],
) -> Result<Result<Vec<Vec<u8>>, Stop>, VerifyError> {
    let failed = |error: String| VerifyError::Launch {
        kernel: compiled.info.entry.clone(),
        target: Target::Host,
        error,
    };
    let Code::Host(artifact) = &compiled.code else {
        return Err(failed("it was compiled for a GPU".to_owned()));
    };
    let kernel = Native::load(artifact).map_err(|e| failed(e.to_string()))?;
    let mut memory: Vec<(&str, Guarded)> =
        buffers(args).map(|(name, buffer)| (name, Guarded::new(&buffer.bytes))).collect();
    let mut next = memory.iter_mut();
    let values: Vec<HostArg> = args
        .iter()
        .map(|(_, arg)| match arg {
            Argument::Scalar(value) => HostArg::Scalar(scalar_bits(*value)),
            Argument::Buffer(_) => {
                let (_, buffer) = next.next().expect("one was made for each buffer");
                HostArg::Pointer { start: buffer.as_mut_ptr(), bytes: buffer.bytes().len() }
            }
        })
        .collect();
    // SAFETY: the interpreter ran the same launch with all its checks: types, bounds, alignment and races.
    let result = unsafe { kernel.run(grid, &values) };
    Ok(match result {
        Err(text) => Err(Stop::Fault(text)),
        Ok(()) => match memory.iter().find(|(_, buffer)| !buffer.intact()) {
            Some((name, _)) => Err(Stop::Fault(format!("bytes before or after `{name}` were written"))),
            None => Ok(memory.iter().map(|(_, buffer)| buffer.bytes().to_vec()).collect()),
        },
    })
}

/// Parses PTX.
pub(super) fn module(compiled: &CompiledKernel, ptx: &str, sm: Sm) -> Result<Module, VerifyError> {
    Module::parse(ptx).map_err(|error| VerifyError::Ptx {
        kernel: compiled.info.entry.clone(),
        target: sm,
        error,
    })
}

/// On the PTX machine. A machine of its own for each launch.
pub(super) fn ptx(
    compiled: &CompiledKernel,
    module: &Module,
    grid: [u32; 3],
    args: &[(String, Argument)],
    config: Config,
) -> Result<Result<(Vec<Vec<u8>>, LaunchReport), Stop>, VerifyError> {
    let mut launch = PtxLaunch::with(compiled, module.clone(), grid, args, config)?;
    match launch.run() {
        Ok(report) => Ok(Ok((launch.buffers()?, report))),
        Err(VerifyError::Fault(fault)) => Ok(Err(Stop::Ptx(leankv_ptx::Error::Fault(fault)))),
        Err(other) => Err(other),
    }
}

/// A kernel's PTX and its arguments on a PTX machine that holds exactly these buffers, each under its parameter's name.
pub struct PtxLaunch {
    machine: Machine,
    module: Module,
    kernel: String,
    target: Target,
    shape: LaunchConfig,
    args: Vec<leankv_ptx::Arg>,
    places: Vec<(u64, usize)>,
}

impl PtxLaunch {
    /// Places the workload on a machine of its own.
    ///
    /// # Errors
    /// The workload does not fit, the PTX is not valid, or the machine lacks memory.
    pub fn new(
        func: &Func,
        compiled: &CompiledKernel,
        workload: &Workload,
        config: Config,
    ) -> Result<PtxLaunch, VerifyError> {
        let args = workload.arguments(func)?;
        let (Code::Ptx(ptx), Target::Gpu(sm)) = (&compiled.code, compiled.info.target) else {
            return Err(VerifyError::Launch {
                kernel: compiled.info.entry.clone(),
                target: compiled.info.target,
                error: "it was compiled for the host".to_owned(),
            });
        };
        PtxLaunch::with(compiled, module(compiled, ptx, sm)?, workload.grid(), &args, config)
    }

    fn with(
        compiled: &CompiledKernel,
        module: Module,
        grid: [u32; 3],
        args: &[(String, Argument)],
        config: Config,
    ) -> Result<PtxLaunch, VerifyError> {
        let shape = LaunchConfig {
            grid,
            block: [compiled.info.threads, 1, 1],
            dynamic_shared_bytes: compiled.info.dynamic_shared_bytes,
        };
        let mut launch = PtxLaunch {
            machine: Machine::new(config),
            module,
            kernel: compiled.info.entry.clone(),
            target: compiled.info.target,
            shape,
            args: Vec::new(),
            places: Vec::new(),
        };
        for ((name, arg), param) in args.iter().zip(&compiled.info.signature.params) {
            let value = match arg {
                Argument::Scalar(value) => {
                    let bytes = param.dtype.bytes().unwrap_or(8) as usize;
                    leankv_ptx::Arg::Bytes(scalar_bits(*value).to_le_bytes()[..bytes].to_vec())
                }
                Argument::Buffer(buffer) => {
                    let at =
                        launch.place(name, &buffer.bytes, param.multiple_of).map_err(|e| launch.failed(e))?;
                    launch.places.push((at, buffer.bytes.len()));
                    leankv_ptx::Arg::U64(at)
                }
            };
            launch.args.push(value);
        }
        Ok(launch)
    }

    fn place(&mut self, name: &str, bytes: &[u8], align: u64) -> Result<u64, leankv_ptx::Error> {
        // The machine has no empty allocations; one byte that nobody wrote stands for an empty buffer.
        let at = self.machine.alloc(bytes.len().max(1) as u64, align.max(256))?;
        self.machine.name(at, name);
        self.machine.write(at, bytes)?;
        Ok(at)
    }

    fn failed(&self, error: leankv_ptx::Error) -> VerifyError {
        match error {
            leankv_ptx::Error::Fault(fault) => VerifyError::Fault(fault),
            other => VerifyError::Launch {
                kernel: self.kernel.clone(),
                target: self.target,
                error: other.to_string(),
            },
        }
    }

    /// Launches once, on what the last launch left in the buffers.
    ///
    /// # Errors
    /// A fault, or a shape that the machine refuses.
    pub fn run(&mut self) -> Result<LaunchReport, VerifyError> {
        let launched = self.machine.launch(&self.module, &self.kernel, self.shape, &self.args);
        launched.map_err(|error| self.failed(error))
    }

    /// The buffers as they are now, in the order of the parameters.
    ///
    /// # Errors
    /// Never for buffers that the machine holds.
    pub fn buffers(&self) -> Result<Vec<Vec<u8>>, VerifyError> {
        let read = |&(at, len): &(u64, usize)| {
            let mut bytes = vec![0; len];
            self.machine.read(at, &mut bytes).map_err(|error| self.failed(error))?;
            Ok(bytes)
        };
        self.places.iter().map(read).collect()
    }
}
