//! Runs arguments on one executor and gives all buffers afterwards.

use std::fmt;

use leankv_dsl::codegen::host::{self, HostArg, HostKernel};
use leankv_dsl::interp::{self, Arg, LaunchError, Memory, Order};
use leankv_dsl::ir::Func;
use leankv_dsl::workload::{Argument, Buffer, scalar_bits};
use leankv_ptx::{Config, LaunchConfig, LaunchReport, Machine, Module};

use super::VerifyError;
use crate::compiled::{Code, CompiledKernel};
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
    /// On the PTX machine.
    Ptx(leankv_ptx::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Fault(text) => f.write_str(text),
            Stop::Ptx(error) => error.fmt(f),
        }
    }
}

/// On the reference interpreter, with every check.
pub(super) fn interpret(
    func: &Func,
    grid: [u32; 3],
    args: &[(String, Argument)],
    order: Order,
) -> Result<Vec<Vec<u8>>, Stop> {
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
    let options = interp::Options { order, ..interp::Options::default() };
    match interp::launch(func, grid, &values, &mut memory, &options) {
        Ok(_) => Ok(ids.into_iter().map(|id| memory.bytes(id).to_vec()).collect()),
        Err(LaunchError::Faults(faults)) => {
            let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Err(Stop::Fault(texts.join("\n")))
        }
        Err(other) => Err(Stop::Fault(other.to_string())),
    }
}

/// Bytes around each buffer that nobody may touch, and its alignment.
const GUARD: usize = 128;
const PATTERN: u8 = 0xa5;

/// A buffer between guards.
struct Guarded {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Guarded {
    fn new(bytes: &[u8]) -> Guarded {
        let mut memory = vec![PATTERN; bytes.len() + 3 * GUARD];
        let start = GUARD + memory.as_ptr().align_offset(GUARD);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        Guarded { memory, start, len: bytes.len() }
    }

    fn intact(&self) -> bool {
        let (before, rest) = self.memory.split_at(self.start);
        before.iter().chain(&rest[self.len..]).all(|&byte| byte == PATTERN)
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
    let kernel = HostKernel::load(artifact).map_err(|e| failed(e.to_string()))?;
    let mut memory: Vec<(&str, Guarded)> =
        buffers(args).map(|(name, buffer)| (name, Guarded::new(&buffer.bytes))).collect();
    let mut next = memory.iter_mut();
    let values: Vec<HostArg> = args
        .iter()
        .map(|(_, arg)| match arg {
            Argument::Scalar(value) => HostArg::Bits(scalar_bits(*value)),
            Argument::Buffer(_) => {
                let (_, buffer) = next.next().expect("one was made for each buffer");
                HostArg::Ptr(buffer.memory[buffer.start..].as_mut_ptr())
            }
        })
        .collect();
    // SAFETY: the interpreter ran the same launch with all its checks: types, bounds, alignment and races.
    let result = unsafe { kernel.launch(grid, &values, 0) };
    Ok(match result {
        Err(host::LaunchError::Assertion { message, loc }) => Err(Stop::Fault(format!("{loc}: {message}"))),
        Err(other) => Err(Stop::Fault(other.to_string())),
        Ok(()) => match memory.iter().find(|(_, buffer)| !buffer.intact()) {
            Some((name, _)) => Err(Stop::Fault(format!("bytes before or after `{name}` were written"))),
            None => Ok(memory.iter().map(|(_, b)| b.memory[b.start..b.start + b.len].to_vec()).collect()),
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

/// On the PTX machine. A machine of its own for each launch holds exactly the launch's buffers, each under its parameter's name.
pub(super) fn ptx(
    compiled: &CompiledKernel,
    module: &Module,
    grid: [u32; 3],
    args: &[(String, Argument)],
    config: Config,
) -> Result<Result<(Vec<Vec<u8>>, LaunchReport), Stop>, VerifyError> {
    let failed = |error: leankv_ptx::Error| VerifyError::Launch {
        kernel: compiled.info.entry.clone(),
        target: compiled.info.target,
        error: error.to_string(),
    };
    let mut machine = Machine::new(config);
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for ((name, arg), param) in args.iter().zip(&compiled.info.signature.params) {
        values.push(match arg {
            Argument::Scalar(value) => {
                let bytes = param.dtype.bytes().unwrap_or(8) as usize;
                leankv_ptx::Arg::Bytes(scalar_bits(*value).to_le_bytes()[..bytes].to_vec())
            }
            Argument::Buffer(buffer) => {
                // The machine has no empty allocations; one byte that nobody wrote stands for an empty buffer.
                let bytes = buffer.bytes.len();
                let at = machine.alloc(bytes.max(1) as u64, param.multiple_of.max(256)).map_err(failed)?;
                machine.name(at, name);
                machine.write(at, &buffer.bytes).map_err(failed)?;
                places.push((at, bytes));
                leankv_ptx::Arg::U64(at)
            }
        });
    }
    let shape = LaunchConfig {
        grid,
        block: [compiled.info.threads, 1, 1],
        dynamic_shared_bytes: compiled.info.dynamic_shared_bytes,
    };
    let report = match machine.launch(module, &compiled.info.entry, shape, &values) {
        Ok(report) => report,
        Err(error @ leankv_ptx::Error::Fault(_)) => return Ok(Err(Stop::Ptx(error))),
        Err(other) => return Err(failed(other)),
    };
    let mut out = Vec::new();
    for (at, len) in places {
        let mut bytes = vec![0; len];
        machine.read(at, &mut bytes).map_err(failed)?;
        out.push(bytes);
    }
    Ok(Ok((out, report)))
}
