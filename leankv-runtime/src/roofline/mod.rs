//! What bounds a kernel on a GPU: cycles of each part of a multiprocessor, against the time of its bytes. A model, not a measurement.
//!
//! Machine code comes from `ptxas` and `nvdisasm`, how often it runs from a [`Profile`] of the PTX machine
//! ([`executions`]), what an instruction takes from a table ([`pipes`]). All parts are taken to work beside each other, each at its full rate,
//! so that the part with the most cycles is the least time that a kernel can take. Whether it comes near depends on latency: how many bytes are in
//! flight ([`flight`]), against what Little's law asks.

pub mod executions;
pub mod flight;
pub mod pipes;
mod sass;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use leankv_dsl::target::{Gpu, Product};
use leankv_ptx::syntax::ast::Ast;
use serde::Serialize;

use crate::compiled::CompiledKernel;
use crate::target::Target;
use crate::tools::{Nvdisasm, Ptxas, PtxasEntry, ToolError};
use crate::verify::{Cost, Profile};
use executions::{Executions, Lines, Match};
use flight::{Turn, main_loop};
use pipes::{Pipe, Takes};
use sass::Listing;

/// Nanoseconds from a load to its data that Little's law is asked with unless another number is given: DRAM under load.
pub const LATENCY_NS: u32 = 800;

/// What limits the warps on a multiprocessor; each limit in warps, of whole programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a program.
    pub shared_bytes: u32,
    /// Bytes of spills.
    pub spill_bytes: u32,
    /// As many as registers allow.
    pub by_registers: u32,
    /// As many as shared memory allows.
    pub by_shared: u32,
    /// As many as the multiprocessor's blocks and warps allow.
    pub by_blocks: u32,
    /// The least of them.
    pub warps: u32,
}

impl Occupancy {
    /// Register file and shared memory are given out in units, as the CUDA occupancy calculator has them: 256 registers of a warp, whole
    /// warps in each of four parts, 128 bytes and one KiB for the system.
    fn of(entry: &PtxasEntry, threads: u32, dynamic_shared_bytes: u32, gpu: &Gpu) -> Occupancy {
        let warps = threads.div_ceil(32).max(1);
        let of_warp = (entry.registers * 32).next_multiple_of(256).max(256);
        let shared_bytes = entry.shared_bytes + dynamic_shared_bytes;
        let whole = |most: u32| most / warps * warps;
        let by_registers = whole(gpu.sm_registers / 4 / of_warp * 4);
        let by_shared = gpu.sm_shared_bytes / (shared_bytes.next_multiple_of(128) + 1024) * warps;
        let by_blocks = (gpu.sm_blocks * warps).min(whole(gpu.sm_warps));
        Occupancy {
            registers: entry.registers,
            shared_bytes,
            spill_bytes: entry.spill_store_bytes + entry.spill_load_bytes,
            by_registers,
            by_shared,
            by_blocks,
            warps: by_registers.min(by_shared).min(by_blocks),
        }
    }

    /// What the least limit comes from.
    #[must_use]
    pub fn limit(&self) -> &'static str {
        match self.warps {
            warps if warps == self.by_blocks => "blocks and warps",
            warps if warps == self.by_registers => "registers",
            _ => "shared memory",
        }
    }
}

/// Why there is no roofline.
#[derive(Debug, thiserror::Error)]
pub enum RooflineError {
    /// The kernel was compiled for something else.
    #[error("kernel `{kernel}` is compiled for {target}, and {product} is {needs}")]
    Target {
        /// The kernel.
        kernel: String,
        /// What it was compiled for.
        target: Target,
        /// The GPU that was asked for.
        product: &'static str,
        /// Its architecture.
        needs: Target,
    },
    /// A tool is missing or refused its input.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Machine code does not fit the PTX's counts.
    #[error(
        "how often machine instructions ran cannot be said: PTX ran {:.0} {}, and by its blocks the machine code ran {:.0}; the assembler has \
         copied, merged or split what they are in",
        .0.ptx, .0.kind.name(), .0.machine
    )]
    Unmatched(Match),
    /// The PTX or the machine code is not what this library knows.
    #[error("the code of kernel `{0}` cannot be read")]
    Unreadable(String),
}

/// Launches whose cost is shared out among units of work: one launch, or the difference of two of one kernel that differ in size.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    /// The launch, or the larger of two.
    pub run: &'a Profile,
    /// The smaller one.
    pub less: Option<&'a Profile>,
    /// Units of work in the launch, or by how many the launches differ.
    pub units: f64,
}

impl Runs<'_> {
    /// A number of a launch, of one unit.
    pub fn per_unit(&self, number: impl Fn(&Profile) -> f64) -> f64 {
        (number(self.run) - self.less.map_or(0.0, &number)) / self.units
    }

    /// What a unit costs in PTX.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let (run, less) = (Cost::of(self.run), self.less.map(Cost::of).unwrap_or_default());
        run.minus(&less).over(self.units)
    }
}

/// The roofline of a kernel on a GPU: all figures are of one unit of work and modelled. Cycles are those of one multiprocessor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// The GPU.
    pub gpu: &'static str,
    /// Its architecture.
    pub target: String,
    /// Machine instructions of a warp that ran.
    pub instructions: f64,
    /// Cycles by pipe.
    pub cycles: Vec<(Pipe, f64)>,
    /// Cycles that its global memory takes: bytes moved and written, at full bandwidth.
    pub dram_cycles: f64,
    /// The pipe with the most cycles.
    pub worst: Pipe,
    /// Its cycles over those of global memory.
    pub ratio: f64,
    /// Warps on a multiprocessor.
    pub occupancy: Occupancy,
    /// A turn of the main loop.
    pub turn: Turn,
    /// Nanoseconds that a load is taken to wait.
    pub latency_ns: u32,
    /// Bytes in flight on a multiprocessor that keep global memory busy: its bandwidth times the latency.
    pub needed_in_flight: f64,
    /// Bytes in flight on a multiprocessor at the fullest moment of every warp.
    pub most_in_flight: f64,
    /// Bytes in flight on a multiprocessor, on average over the waits of its warps.
    pub mean_in_flight: f64,
    /// PTX instructions and machine instructions that were compared, of the launch or the larger of two.
    pub matches: Vec<Match>,
    /// Opcodes that the table does not have, with how many ran in a unit: taken for ALU instructions.
    pub unknown: Vec<(String, f64)>,
}

/// Sums over a launch.
#[derive(Default)]
struct Sums {
    instructions: f64,
    cycles: [f64; Pipe::ALL.len()],
    unknown: BTreeMap<String, f64>,
}

impl Roofline {
    /// Assembles the PTX of `compiled`, which is what the launches ran, and puts both together.
    ///
    /// # Errors
    /// [`RooflineError`]: the tools are missing, the kernel is for another GPU, or its machine code does not fit the counts.
    pub fn of(
        product: &Product,
        latency_ns: u32,
        compiled: &CompiledKernel,
        runs: &Runs<'_>,
    ) -> Result<Roofline, RooflineError> {
        let unreadable = || RooflineError::Unreadable(compiled.info.entry.clone());
        let needs = Target::Gpu(product.target);
        let (Some(ptx), true) = (compiled.ptx(), compiled.info.target == needs) else {
            let (kernel, target) = (compiled.info.entry.clone(), compiled.info.target);
            return Err(RooflineError::Target { kernel, target, product: product.name, needs });
        };
        let assembled = Ptxas::find()?.assemble_with_lines(ptx, &product.target.to_string())?;
        let listing = Listing::parse(
            &Nvdisasm::find()?.disassemble_with_lines(&assembled.cubin)?,
            &compiled.info.entry,
        );
        let entry = assembled
            .entries
            .iter()
            .find(|entry| entry.name == compiled.info.entry)
            .ok_or_else(unreadable)?;
        let starts = Ast::parse(ptx).map_err(|_| unreadable())?.instruction_lines();
        if listing.instrs.is_empty() {
            return Err(unreadable());
        }

        let lines = Lines::new(starts.iter().copied(), &runs.run.counters);
        let executions = Executions::of(&listing, &lines)?;
        let mut sums = Sums::of(&listing, &lines, &executions, product);
        if let Some(less) = runs.less {
            let lines = Lines::new(starts.iter().copied(), &less.counters);
            sums = sums.minus(&Sums::of(&listing, &lines, &Executions::of(&listing, &lines)?, product));
        }
        let cycles: Vec<(Pipe, f64)> = Pipe::ALL
            .into_iter()
            .zip(sums.cycles)
            .map(|(pipe, cycles)| (pipe, cycles / runs.units))
            .collect();
        let &(worst, most) = cycles.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are pipes");
        let cost = runs.cost();
        let dram_cycles = (cost.moved + cost.written) / product.sm_bytes_a_cycle();

        let gpu = product.target.gpu();
        let occupancy = Occupancy::of(entry, compiled.info.threads, compiled.info.dynamic_shared_bytes, &gpu);
        let warps = runs.run.counters.blocks as f64 * f64::from(compiled.info.threads.div_ceil(32));
        let whole = Cost::of(runs.run);
        let repeats = if whole.asked > 0.0 { whole.moved / whole.asked } else { 1.0 };
        let main = main_loop(&listing, &executions.counts);
        let turn = flight::turn(&listing, main.as_ref(), &executions.counts, &lines, warps, repeats);
        let on_sm = f64::from(occupancy.warps);
        Ok(Roofline {
            gpu: product.name,
            target: product.target.to_string(),
            instructions: sums.instructions / runs.units,
            cycles,
            dram_cycles,
            worst,
            ratio: most / dram_cycles,
            most_in_flight: turn.most_in_flight() * on_sm,
            mean_in_flight: turn.mean_in_flight() * on_sm,
            occupancy,
            turn,
            latency_ns,
            needed_in_flight: product.gbytes / f64::from(product.sms) * f64::from(latency_ns),
            matches: executions.matches,
            unknown: sums
                .unknown
                .into_iter()
                .filter(|(_, ran)| *ran > 0.0)
                .map(|(name, ran)| (name, ran / runs.units))
                .collect(),
        })
    }

    /// What bounds the kernel if nothing waits: a pipe's name, or `DRAM`.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        if self.ratio > 1.0 { self.worst.name() } else { "DRAM" }
    }
}

impl Sums {
    fn of(listing: &Listing, lines: &Lines, executions: &Executions, product: &Product) -> Sums {
        let mut sums = Sums::default();
        for (instr, &count) in
            listing.instrs.iter().zip(&executions.counts).filter(|(_, count)| **count > 0.0)
        {
            let mut add = |pipe: Pipe, cycles: f64| sums.cycles[pipe as usize] += count * cycles;
            sums.instructions += count;
            add(Pipe::Issue, 1.0 / pipes::ISSUE);
            match pipes::takes(instr, product.target, &lines.counters(instr)) {
                Takes::Pipe(pipe, cycles) => add(pipe, cycles),
                Takes::Nothing => {}
                Takes::Unknown(cycles) => {
                    add(Pipe::Alu, cycles);
                    *sums.unknown.entry(instr.base().to_owned()).or_default() += count;
                }
            }
        }
        sums
    }

    fn minus(mut self, less: &Sums) -> Sums {
        self.instructions -= less.instructions;
        self.cycles.iter_mut().zip(less.cycles).for_each(|(cycles, less)| *cycles -= less);
        for (opcode, ran) in &less.unknown {
            *self.unknown.entry(opcode.clone()).or_default() -= ran;
        }
        self
    }
}
