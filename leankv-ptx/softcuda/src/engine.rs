//! The machine behind the driver: the only file that names `leankv_ptx`.

use std::collections::BTreeMap;
use std::sync::Arc;

use leankv_ptx as ptx;
use leankv_ptx::FaultKind;

use crate::arch::THREADS_PER_BLOCK;
use crate::code::Code;
use crate::settings::{Checks, Divergence, Settings};

/// Device memory and the means to run kernels.
pub(crate) struct Engine {
    machine: ptx::Machine,
}

/// A parsed module, before its variables have a place.
pub(crate) struct Source {
    module: ptx::Module,
}

/// A module whose variables lie in memory.
pub(crate) struct Image {
    module: ptx::Module,
    pub(crate) kernels: BTreeMap<String, Arc<Kernel>>,
    /// Address and size in bytes of each variable.
    pub(crate) globals: BTreeMap<String, (u64, u64)>,
    /// Constant memory in bytes.
    pub(crate) constant_bytes: u32,
    /// Version of the PTX.
    pub(crate) version: (u32, u32),
}

/// What a launch needs to know of a kernel.
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    /// Static shared memory in bytes.
    pub(crate) shared_bytes: u32,
    /// Local memory of a thread in bytes.
    pub(crate) local_bytes: u32,
    pub(crate) max_threads: Option<u32>,
    pub(crate) required_threads: Option<[u32; 3]>,
}

/// Where a parameter lies in the parameter buffer, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared_bytes: u32,
}

/// What a launch that ran to its end tells.
pub(crate) struct Outcome {
    /// Reports of the checks, as text, and whether any makes results undefined.
    pub(crate) findings: Vec<String>,
    pub(crate) undefined: bool,
    /// Counters as a line of JSON, if wanted.
    pub(crate) counters: Option<String>,
}

/// Work that failed: what the program sees, and the report.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) report: String,
}

/// Names of the checks that `SOFTCUDA_CHECKS` can list.
const CHECKS: [(&str, fn(&mut ptx::Checks) -> &mut bool); 11] = [
    ("uninit_shared", |checks| &mut checks.uninit_shared),
    ("uninit_global", |checks| &mut checks.uninit_global),
    ("uninit_registers", |checks| &mut checks.uninit_registers),
    ("shared_races", |checks| &mut checks.shared_races),
    ("global_races", |checks| &mut checks.global_races),
    ("barriers", |checks| &mut checks.barriers),
    ("async_copies", |checks| &mut checks.async_copies),
    ("membermask", |checks| &mut checks.membermask),
    ("uniform", |checks| &mut checks.uniform),
    ("division_by_zero", |checks| &mut checks.division_by_zero),
    ("read_only", |checks| &mut checks.read_only),
];

/// The machine's checks for the user's choice.
///
/// # Errors
/// A sentence that lists the names there are.
pub(crate) fn checks(chosen: &Checks) -> Result<ptx::Checks, String> {
    let names = match chosen {
        Checks::All => return Ok(ptx::Checks::ALL),
        Checks::None => return Ok(ptx::Checks::NONE),
        Checks::Some(names) => names,
    };
    let mut checks = ptx::Checks::NONE;
    for name in names {
        let Some((_, field)) = CHECKS.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
            return Err(format!("expected all, none or a list of {}", known.join(",")));
        };
        *field(&mut checks) = true;
    }
    Ok(checks)
}

impl Source {
    /// Parses PTX text.
    pub(crate) fn parse(text: &str) -> Result<Source, ptx::ParseError> {
        Ok(Source { module: ptx::Module::parse(text)? })
    }

    /// The architecture that the PTX is for, such as `sm_90a`.
    pub(crate) fn target(&self) -> &str {
        self.module.ast().target.iter().map(String::as_str).find(|name| name.starts_with("sm_")).unwrap_or("")
    }
}

impl Kernel {
    /// Threads that a block may have at most.
    pub(crate) fn block_limit(&self) -> u32 {
        self.max_threads.unwrap_or(THREADS_PER_BLOCK).min(THREADS_PER_BLOCK)
    }
}

impl Engine {
    pub(crate) fn new(settings: &Settings) -> Result<Engine, String> {
        let defaults = ptx::Config::default();
        let config = ptx::Config {
            checks: checks(&settings.checks)?,
            divergence: match settings.divergence {
                Divergence::Reconverge => ptx::Divergence::Reconverge,
                Divergence::Independent => ptx::Divergence::Independent,
            },
            seed: settings.seed,
            threads: settings.threads,
            budget: settings.budget.unwrap_or(defaults.budget),
            // All devices share the machine; the driver counts what each of them holds.
            memory_bytes: u64::MAX,
            shared_limit: u64::from(settings.arch.limits().shared_per_block_opt_in),
            ..defaults
        };
        Ok(Engine { machine: ptx::Machine::new(config) })
    }

    /// Memory of a size that is not zero.
    pub(crate) fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, String> {
        self.machine.alloc(bytes, align).map_err(|error| error.to_string())
    }

    /// Gives memory back. The driver frees what it has in its tables, once.
    pub(crate) fn free(&mut self, address: u64) {
        let freed = self.machine.free(address);
        debug_assert!(freed.is_ok(), "internal error: {freed:?}");
    }

    pub(crate) fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Failure> {
        self.machine.write(address, data).map_err(failure)
    }

    pub(crate) fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Failure> {
        self.machine.read(address, data).map_err(failure)
    }

    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Failure> {
        self.machine.copy(to, from, bytes as u64).map_err(failure)
    }

    /// Stores the low `width` bytes of `value` `count` times.
    pub(crate) fn fill(
        &mut self,
        address: u64,
        value: u32,
        width: usize,
        count: usize,
    ) -> Result<(), Failure> {
        let pattern = &value.to_le_bytes()[..width];
        // In pieces, so that a large fill needs little room.
        let piece = pattern.repeat(count.min(64 * 1024));
        let (mut at, mut left) = (address, count * width);
        while left > 0 {
            let bytes = left.min(piece.len());
            self.write(at, &piece[..bytes])?;
            at += bytes as u64;
            left -= bytes;
        }
        Ok(())
    }

    /// Gives a module's variables a place.
    pub(crate) fn place(&mut self, source: Source) -> Result<Image, String> {
        let module = source.module;
        self.machine.load(&module).map_err(|error| error.to_string())?;
        let variables = module.variables();
        let constant_bytes: u64 =
            variables.iter().filter(|(.., constant)| *constant).map(|(_, n, _)| n).sum();
        let place =
            |(name, ..): &(&str, u64, bool)| Some(((*name).to_owned(), self.machine.symbol(&module, name)?));
        let globals = variables.iter().filter_map(place).collect();
        let kernels = module
            .kernels()
            .into_iter()
            .map(|name| (name.to_owned(), Arc::new(kernel(&module, name))))
            .collect();
        let version = module.ast().version;
        Ok(Image { kernels, globals, constant_bytes: small(constant_bytes), version, module })
    }

    /// Frees a module's variables.
    pub(crate) fn unload(&mut self, image: &Image) {
        let unloaded = self.machine.unload(&image.module);
        debug_assert!(unloaded.is_ok(), "internal error: {unloaded:?}");
    }

    /// Runs a kernel to its end.
    pub(crate) fn launch(
        &mut self,
        image: &Image,
        kernel: &Kernel,
        shape: Shape,
        arguments: &[Vec<u8>],
        counters: bool,
    ) -> Result<Outcome, Failure> {
        let arguments: Vec<ptx::Arg> = arguments.iter().map(|bytes| ptx::Arg::Bytes(bytes.clone())).collect();
        let config = ptx::LaunchConfig {
            grid: shape.grid,
            block: shape.block,
            dynamic_shared_bytes: shape.dynamic_shared_bytes,
        };
        let report = self.machine.launch(&image.module, &kernel.name, config, &arguments).map_err(failure)?;
        let mut findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        if report.findings_dropped > 0 {
            findings.push(format!("{} further findings of {}", report.findings_dropped, kernel.name));
        }
        let counters = counters.then(|| {
            serde_json::json!({
                "kernel": kernel.name,
                "grid": shape.grid,
                "block": shape.block,
                "dynamic_shared_bytes": shape.dynamic_shared_bytes,
                "findings": report.findings.len(),
                "counters": report.counters,
            })
            .to_string()
        });
        Ok(Outcome { undefined: !report.is_clean(), findings, counters })
    }
}

fn kernel(module: &ptx::Module, name: &str) -> Kernel {
    let parameters = module.kernel_params(name).unwrap_or_default();
    Kernel {
        name: name.to_owned(),
        parameters: parameters
            .iter()
            .map(|(_, offset, bytes)| Parameter { offset: *offset as usize, bytes: *bytes as usize })
            .collect(),
        shared_bytes: small(module.static_shared_bytes(name).unwrap_or(0)),
        local_bytes: small(module.local_bytes(name).unwrap_or(0)),
        max_threads: module.max_threads(name).map(small),
        required_threads: module.required_threads(name),
    }
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// What a program sees of the machine's error.
fn failure(error: ptx::Error) -> Failure {
    let code = match &error {
        ptx::Error::Fault(fault) => match &fault.kind {
            FaultKind::OutOfBounds { .. } | FaultKind::UseAfterFree { .. } | FaultKind::ReadOnly { .. } => {
                Code::IllegalAddress
            }
            FaultKind::Misaligned { .. } => Code::MisalignedAddress,
            FaultKind::Trap => Code::LaunchFailed,
            // On a GPU both hang, until the watchdog of a display ends them.
            FaultKind::Deadlock(_) | FaultKind::Budget(_) => Code::LaunchTimeout,
            FaultKind::Illegal(_) => Code::IllegalInstruction,
            FaultKind::StackOverflow(_) => Code::HardwareStackError,
        },
        ptx::Error::HostAccess { .. } => Code::IllegalAddress,
        ptx::Error::Alloc { .. } => Code::OutOfMemory,
        ptx::Error::NoKernel { .. }
        | ptx::Error::Argument { .. }
        | ptx::Error::Launch { .. }
        | ptx::Error::Unresolved(_) => Code::LaunchFailed,
    };
    Failure { code, report: error.to_string() }
}
