//! What a kernel's PTX does, in counters. All of them are modelled: architectural rules, not measurements.

use leankv_dsl::ir::Func;
use leankv_dsl::workload::Workload;
use leankv_ptx::{Checks, Config, Counters, Finding};
use serde::Serialize;

use super::{PtxLaunch, VerifyError, errors, execute};
use crate::compiler::Compiler;
use crate::target::{Sm, Target};

/// Modelled counters of one launch of a kernel's PTX.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The kernel.
    pub kernel: String,
    /// Its specialisation.
    pub spec: String,
    /// The GPU generation it was compiled for.
    pub target: String,
    /// Programs along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a program.
    pub threads: u32,
    /// The counters, per instruction and in all.
    pub counters: Counters,
    /// Traffic of each buffer, in the order of the parameters.
    pub buffers: Vec<BufferTraffic>,
    /// What the checks found; counters of a launch with findings may mean little.
    pub findings: Vec<Finding>,
    /// The PTX that ran.
    pub ptx: String,
}

/// Modelled traffic of one buffer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BufferTraffic {
    /// The parameter.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that lanes loaded.
    pub read_bytes: u64,
    /// Bytes of the 32-byte sectors that loads asked for, a sector once a request.
    pub read_sector_bytes: u64,
    /// Bytes of these sectors, each counted once a program: what comes from beyond the first-level cache, if that keeps what a program
    /// loaded.
    pub distinct_sector_bytes: u64,
    /// Bytes that lanes stored.
    pub written_bytes: u64,
    /// Bytes of the sectors that stores touched.
    pub written_sector_bytes: u64,
    /// Bytes that the kernel cannot do without reading, in whole sectors, if the workload says so.
    pub least_read_bytes: Option<u64>,
}

impl BufferTraffic {
    /// Bytes moved over the bytes that must be: distinct sectors of each program over those that the kernel cannot do without.
    #[must_use]
    pub fn moved_ratio(&self) -> Option<f64> {
        let least = self.least_read_bytes.filter(|&least| least > 0)?;
        Some(self.distinct_sector_bytes as f64 / least as f64)
    }

    /// Sectors asked for over distinct ones: how often a program's warps ask for what the first-level cache holds by then.
    #[must_use]
    pub fn repeat_ratio(&self) -> Option<f64> {
        let distinct = self.distinct_sector_bytes;
        (distinct > 0).then(|| self.read_sector_bytes as f64 / distinct as f64)
    }
}

impl Profile {
    /// The PTX with counts beside its lines.
    #[must_use]
    pub fn annotated(&self) -> String {
        self.counters.annotate(&self.ptx)
    }
}

/// What a launch costs, or a unit of its work. Bytes are those of whole sectors, over all buffers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// PTX warp instructions.
    pub warp_instructions: f64,
    /// Barriers, one for each warp that comes to it.
    pub barriers: f64,
    /// Extra wavefronts of shared memory.
    pub bank_conflicts: f64,
    /// Bytes that loads asked for.
    pub asked: f64,
    /// Of these, bytes that were moved: a sector once a program.
    pub moved: f64,
    /// Bytes of the sectors that stores touched.
    pub written: f64,
}

impl Cost {
    /// Of a launch.
    #[must_use]
    pub fn of(profile: &Profile) -> Cost {
        let bytes = |of: fn(&BufferTraffic) -> u64| profile.buffers.iter().map(of).sum::<u64>() as f64;
        Cost {
            warp_instructions: profile.counters.warp_instructions as f64,
            barriers: profile.counters.barriers as f64,
            bank_conflicts: profile.counters.bank_conflicts as f64,
            asked: bytes(|buffer| buffer.read_sector_bytes),
            moved: bytes(|buffer| buffer.distinct_sector_bytes),
            written: bytes(|buffer| buffer.written_sector_bytes),
        }
    }

    /// What it is more than another.
    #[must_use]
    pub fn minus(&self, less: &Cost) -> Cost {
        self.with(less, |a, b| a - b)
    }

    /// The cost of one of `units`.
    #[must_use]
    pub fn over(&self, units: f64) -> Cost {
        self.with(self, |a, _| a / units)
    }

    fn with(&self, other: &Cost, of: impl Fn(f64, f64) -> f64) -> Cost {
        Cost {
            warp_instructions: of(self.warp_instructions, other.warp_instructions),
            barriers: of(self.barriers, other.barriers),
            bank_conflicts: of(self.bank_conflicts, other.bank_conflicts),
            asked: of(self.asked, other.asked),
            moved: of(self.moved, other.moved),
            written: of(self.written, other.written),
        }
    }
}

/// Runs a kernel's PTX once and counts; it is compiled through the user's cache.
///
/// # Errors
/// [`VerifyError`]; a fault is one here.
pub fn profile(func: &Func, workload: &Workload, target: Sm) -> Result<Profile, VerifyError> {
    profile_with(Compiler::global(), func, workload, target, Checks::ALL)
}

/// [`profile`] with a compiler of one's own and chosen checks; without checks it is faster.
///
/// # Errors
/// As [`profile`].
pub fn profile_with(
    compiler: &Compiler,
    func: &Func,
    workload: &Workload,
    target: Sm,
    checks: Checks,
) -> Result<Profile, VerifyError> {
    let args = workload.arguments(func)?;
    let compiled = compiler.compile(func, Target::Gpu(target))?.kernel;
    let config = Config { checks, distinct_sectors: true, ..Config::default() };
    let report = PtxLaunch::new(func, &compiled, workload, config)?.run()?;
    let (findings, counters) = (errors(&report), report.counters);
    let buffers = execute::buffers(&args)
        .map(|(name, buffer)| {
            let range = counters.ranges.iter().find(|range| range.name == name).cloned().unwrap_or_default();
            BufferTraffic {
                name: name.to_owned(),
                bytes: buffer.bytes.len() as u64,
                read_bytes: range.read_bytes,
                read_sector_bytes: range.read_sector_bytes,
                distinct_sector_bytes: range.distinct_sector_bytes,
                written_bytes: range.written_bytes,
                written_sector_bytes: range.written_sector_bytes,
                least_read_bytes: buffer.least_read_bytes,
            }
        })
        .collect();
    Ok(Profile {
        kernel: func.name.clone(),
        spec: func.spec.clone(),
        target: target.to_string(),
        grid: workload.grid(),
        threads: compiled.info.threads,
        counters,
        buffers,
        findings,
        ptx: compiled.ptx().unwrap_or_default().to_owned(),
    })
}
