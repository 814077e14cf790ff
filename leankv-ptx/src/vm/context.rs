//! What executing code can reach: the launch, the block's memory, counters and findings.

use super::barrier::BarState;
use super::clock::Clocks;
use super::global::GlobalMemory;
use super::mbar::MbarState;
use super::race::GlobalSync;
use super::regs::Regs;
use super::shared::Shared;
use crate::config::Config;
use crate::counters::InstrCounters;
use crate::decode::{Code, Program};
use crate::error::{Fault, FaultKind, Site};
use crate::finding::{Finding, FindingKind, Findings, Party, Severity};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Everything that stays the same during a launch, shared by all workers.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Program,
    pub(crate) entry: u32,
    pub(crate) config: &'a Config,
    pub(crate) global: &'a GlobalMemory,
    /// Initial registers of each function's frames.
    pub(crate) templates: Vec<Regs>,
    /// First counter of each function.
    pub(crate) counter_base: Vec<usize>,
    pub(crate) counters: usize,
    pub(crate) params: Vec<u8>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Address range of each shared variable in the block, sorted.
    pub(crate) shared_ranges: Vec<(u32, u32, String)>,
    pub(crate) shared_bytes: u32,
    pub(crate) dynamic_bytes: u32,
    pub(crate) exact_clocks: bool,
    pub(crate) has_local: bool,
    /// Allocations that a tracked range lies in.
    pub(crate) tracked: Vec<(u64, u64)>,
    /// Number of this launch, for stamps.
    pub(crate) number: u32,
    pub(crate) stop: AtomicBool,
    pub(crate) executed: AtomicU64,
    pub(crate) sync: Mutex<GlobalSync>,
}

impl Launch<'_> {
    /// Number of an instruction among those of all functions.
    #[inline(always)]
    pub(crate) fn number(&self, at: At) -> u32 {
        self.counter_base[at.func as usize] as u32 + at.pc
    }

    /// Function and program counter of a numbered instruction.
    fn place(&self, number: u32) -> (usize, usize) {
        // Functions without a body share their number with the next one.
        let func = self.counter_base.partition_point(|base| *base <= number as usize).saturating_sub(1);
        (func, number as usize - self.counter_base[func])
    }

    pub(crate) fn threads(&self) -> u32 {
        self.block[0] * self.block[1] * self.block[2]
    }

    pub(crate) fn kernel(&self) -> &Code {
        &self.program.funcs[self.entry as usize]
    }
}

/// Traffic of one allocation or range.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) read_sectors: u64,
    /// Sectors read, each once a block.
    pub(crate) distinct_sectors: u64,
    pub(crate) written_sectors: u64,
}

/// State of the block that is running, and of the worker that runs it.
pub(crate) struct Ctx<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) block: [u32; 3],
    pub(crate) linear: u32,
    pub(crate) shared: Shared,
    pub(crate) clocks: Clocks,
    pub(crate) bars: Vec<BarState>,
    pub(crate) mbars: BTreeMap<u32, MbarState>,
    pub(crate) race: super::race::BlockClock,
    pub(crate) block_shadow: super::race_block::BlockShadow,
    pub(crate) live_threads: u32,
    pub(crate) ticks: u64,
    /// Allocation of the last global access.
    pub(crate) hint: usize,
}

/// Counters and findings of a worker, which outlive its blocks.
pub(crate) struct Worker {
    pub(crate) counters: Vec<InstrCounters>,
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) tracked: Vec<Traffic>,
    /// For each allocation, then for each tracked range; empty unless distinct sectors are counted.
    pub(crate) touched: Vec<super::touched::Touched>,
    pub(crate) findings: Findings,
    pub(crate) blocks: u64,
}

/// Position of an instruction: function and program counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) func: u32,
    pub(crate) pc: u32,
    pub(crate) warp: u32,
}

impl Ctx<'_> {
    pub(crate) fn site(&self, at: At, lane: u32) -> Site {
        let p = self.launch.program;
        let code = &p.funcs[at.func as usize];
        let info = code.info.get(at.pc as usize);
        Site {
            kernel: self.launch.kernel().name.clone(),
            function: code.name.clone(),
            ptx_line: info.map_or(0, |i| i.pos.line),
            opcode: info.map_or(String::new(), |i| i.opcode.to_string()),
            source: info.and_then(|i| p.source(i.loc)),
            block: self.block,
            warp: at.warp,
            lane,
        }
    }

    #[cold]
    pub(crate) fn fault(&self, kind: FaultKind, at: At, lane: u32) -> Box<Fault> {
        Box::new(Fault { kind, site: self.site(at, lane), findings: Vec::new(), findings_dropped: 0 })
    }

    /// Reports a finding.
    #[cold]
    pub(crate) fn report(
        &self,
        worker: &mut Worker,
        kind: FindingKind,
        at: At,
        lane: u32,
        address: Option<u64>,
        message: &str,
    ) {
        self.add(worker, kind, Severity::Error, at, lane, address, message, Detail::None);
    }

    /// Reports a read of a register that was never written, by its number in the function.
    #[cold]
    pub(crate) fn report_register(
        &self,
        worker: &mut Worker,
        severity: Severity,
        at: At,
        lane: u32,
        register: u32,
        message: &str,
    ) {
        let kind = FindingKind::UninitRegister;
        self.add(worker, kind, severity, at, lane, None, message, Detail::Register(register));
    }

    /// Reports a race with an earlier access whose instruction is `other`.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn report_race(
        &self,
        worker: &mut Worker,
        kind: FindingKind,
        severity: Severity,
        at: At,
        lane: u32,
        address: u64,
        message: &str,
        other: OtherSide,
    ) {
        self.add(worker, kind, severity, at, lane, Some(address), message, Detail::Other(other));
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &self,
        worker: &mut Worker,
        kind: FindingKind,
        severity: Severity,
        at: At,
        lane: u32,
        address: Option<u64>,
        message: &str,
        detail: Detail,
    ) {
        worker.findings.add((kind, severity, at.func, at.pc, detail.key()), || Finding {
            kind,
            severity,
            site: self.site(at, lane),
            address,
            message: message.to_string(),
            other: match detail {
                Detail::Other(other) => Some(self.party(other)),
                Detail::None | Detail::Register(_) => None,
            },
            count: 1,
        });
    }

    fn party(&self, other: OtherSide) -> Party {
        let p = self.launch.program;
        let (func, pc) = self.launch.place(other.instr);
        let info = p.funcs[func].info.get(pc);
        Party {
            access: if other.write { "write" } else { "read" },
            function: p.funcs[func].name.clone(),
            ptx_line: info.map_or(0, |i| i.pos.line),
            source: info.and_then(|i| p.source(i.loc)),
            block: other.block,
            warp: other.warp,
            lane: other.lane,
        }
    }
}

/// What tells findings of one kind at one instruction apart.
enum Detail {
    None,
    Register(u32),
    Other(OtherSide),
}

impl Detail {
    fn key(&self) -> u32 {
        match self {
            Detail::None => u32::MAX,
            Detail::Register(number) => *number,
            Detail::Other(other) => other.instr,
        }
    }
}

/// The other side of a race, as the shadow knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherSide {
    pub(crate) write: bool,
    /// Number of the instruction among those of all functions.
    pub(crate) instr: u32,
    /// `None` for readers of several blocks.
    pub(crate) block: Option<u32>,
    pub(crate) warp: Option<u32>,
    pub(crate) lane: Option<u32>,
}
