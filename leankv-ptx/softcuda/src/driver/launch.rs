//! Kernel launches.

use std::sync::Arc;

use super::queue::Work;
use super::{Driver, module::Function};
use crate::arch::{BLOCK, GRID};
use crate::code::{Code, Fail, Res, invalid};
use crate::engine::{Failure, Image, Kernel, Shape};
use crate::handles::Id;
use crate::settings::OnFinding;

/// A checked launch.
pub(super) struct Launch {
    image: Arc<Image>,
    kernel: Arc<Kernel>,
    shape: Shape,
    /// The bytes of each parameter.
    arguments: Vec<Vec<u8>>,
}

/// What a program asks for.
pub(crate) struct LaunchRequest {
    pub(crate) function: Id,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: Id,
    pub(crate) cooperative: bool,
    pub(crate) arguments: Arguments,
}

/// Values of a kernel's parameters.
pub(crate) enum Arguments {
    /// The bytes of each.
    Each(Vec<Vec<u8>>),
    /// All of them, laid out as the kernel's parameters are.
    Packed(Vec<u8>),
}

impl Driver {
    /// `cuLaunchKernel` and its relatives.
    pub(crate) fn launch(&self, request: LaunchRequest) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, context) = state.stream(request.stream)?;
        let function = state.function(request.function)?;
        if function.context != context {
            let why = "the function belongs to another context than the stream";
            return Err(Fail::new(Code::InvalidHandle, why));
        }
        check_shape(function, &request, self.settings.arch.limits().shared_per_block_opt_in)?;
        if request.cooperative {
            let blocks: u64 = request.grid.iter().map(|n| u64::from(*n)).product();
            let threads = request.block.iter().product();
            let resident = self.resident_blocks(&function.kernel, threads, request.shared_bytes as usize);
            let most = u64::from(resident) * u64::from(self.settings.arch.limits().processors);
            if blocks > most {
                let why = format!("{blocks} blocks cannot be resident together, at most {most} can");
                return Err(Fail::new(Code::CooperativeLaunchTooLarge, why));
            }
        }
        let kernel = function.kernel.clone();
        let arguments = match request.arguments {
            Arguments::Each(arguments) => arguments,
            Arguments::Packed(bytes) => unpack(&kernel, &bytes)?,
        };
        let launch = Launch {
            image: function.image.clone(),
            kernel,
            shape: Shape {
                grid: request.grid,
                block: request.block,
                dynamic_shared_bytes: request.shared_bytes,
            },
            arguments,
        };
        self.submit(state, stream, Work::Launch(Arc::new(launch))).map(drop)
    }

    /// Runs a kernel on the machine and writes what it found.
    pub(super) fn run_kernel(&self, launch: &Launch) -> Result<(), Failure> {
        let counters = self.reporter.wants_counters();
        let outcome =
            self.engine().launch(&launch.image, &launch.kernel, launch.shape, &launch.arguments, counters)?;
        if let Some(line) = outcome.counters {
            self.reporter.counters(&line);
        }
        for finding in &outcome.findings {
            self.reporter.entry(finding);
        }
        if self.settings.on_finding == OnFinding::Fail && outcome.undefined {
            let report = format!(
                "kernel {}: {} findings fail the launch (SOFTCUDA_ON_FINDING=fail)",
                launch.kernel.name,
                outcome.findings.len()
            );
            return Err(Failure { code: Code::LaunchFailed, report });
        }
        Ok(())
    }
}

fn check_shape(function: &Function, request: &LaunchRequest, shared_limit: u32) -> Res<()> {
    let name = &function.kernel.name;
    for (axis, letter) in ["x", "y", "z"].into_iter().enumerate() {
        let (grid, block) = (request.grid[axis], request.block[axis]);
        if grid == 0 || grid > GRID[axis] {
            return Err(invalid(format!(
                "{name}: a grid of {grid} blocks in {letter}; 1 to {} do",
                GRID[axis]
            )));
        }
        if block == 0 || block > BLOCK[axis] {
            let why = format!("{name}: a block of {block} threads in {letter}; 1 to {} do", BLOCK[axis]);
            return Err(invalid(why));
        }
    }
    let threads: u64 = request.block.iter().map(|n| u64::from(*n)).product();
    if threads > u64::from(crate::arch::THREADS_PER_BLOCK) {
        return Err(invalid(format!("{name}: a block of {threads} threads; 1024 are the most")));
    }
    if let Some(required) = function.kernel.required_threads
        && required != request.block
    {
        return Err(invalid(format!(
            "{name} is compiled for blocks of {required:?}, not {:?}",
            request.block
        )));
    }
    if threads > u64::from(function.kernel.block_limit()) {
        let why = format!(
            "{name}: a block of {threads} threads, it is compiled for {}",
            function.kernel.block_limit()
        );
        return Err(Fail::new(Code::LaunchOutOfResources, why));
    }
    let shared = request.shared_bytes;
    if shared > function.max_dynamic_shared {
        let why = format!(
            "{name}: {shared} bytes of dynamic shared memory; {} are allowed, up to {} can be asked for with \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
            function.max_dynamic_shared,
            shared_limit.saturating_sub(function.kernel.shared_bytes)
        );
        return Err(invalid(why));
    }
    Ok(())
}

/// Cuts a parameter buffer at the kernel's parameters.
fn unpack(kernel: &Kernel, bytes: &[u8]) -> Res<Vec<Vec<u8>>> {
    kernel
        .parameters
        .iter()
        .enumerate()
        .map(|(index, parameter)| {
            let range = parameter.offset..parameter.offset + parameter.bytes;
            bytes.get(range).map(<[u8]>::to_vec).ok_or_else(|| {
                invalid(format!(
                    "{}: the parameter buffer has {} bytes, parameter {index} lies at {} to {}",
                    kernel.name,
                    bytes.len(),
                    parameter.offset,
                    parameter.offset + parameter.bytes
                ))
            })
        })
        .collect()
}
