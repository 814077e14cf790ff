//! What a GPU would have done, by architectural rules. Modelled, not measured.
//!
//! * Global: a request is one warp instruction; a sector is 32 bytes. The ideal is the bytes asked for over 32.
//! * Shared: a wavefront serves each of the 32 four-byte banks once; 8- and 16-byte accesses are split into
//!   half- and quarter-warps; lanes that read the same word share it. The ideal is the fewest wavefronts that
//!   the bytes asked for can take.

use crate::decode::op::Class;
use serde::Serialize;

/// Counters of one instruction, over all executions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstrCounters {
    /// Warp instructions issued.
    pub warp: u64,
    /// Lanes that executed it.
    pub lanes: u64,
    /// Bytes moved by lanes.
    pub bytes: u64,
    /// 32-byte sectors touched.
    pub sectors: u64,
    /// Sectors that the bytes would fill.
    pub ideal_sectors: u64,
    /// Shared-memory wavefronts.
    pub wavefronts: u64,
    /// Wavefronts without bank conflicts.
    pub ideal_wavefronts: u64,
    /// Branches that split their warp.
    pub divergent: u64,
    /// Atomics: largest number of lanes on one address, summed.
    pub contention: u64,
}

impl InstrCounters {
    pub(crate) fn add(&mut self, o: &InstrCounters) {
        self.warp += o.warp;
        self.lanes += o.lanes;
        self.bytes += o.bytes;
        self.sectors += o.sectors;
        self.ideal_sectors += o.ideal_sectors;
        self.wavefronts += o.wavefronts;
        self.ideal_wavefronts += o.ideal_wavefronts;
        self.divergent += o.divergent;
        self.contention += o.contention;
    }
}

/// An instruction with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstrLine {
    /// Function.
    pub function: String,
    /// PTX line, from 1.
    pub ptx_line: u32,
    /// Full opcode.
    pub opcode: String,
    /// Class.
    pub class: Class,
    /// `file:line` of the source.
    pub source: Option<String>,
    /// Its counters.
    pub counters: InstrCounters,
}

/// Traffic of one address range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RangeCounters {
    /// Name given to [`Machine::track`](crate::Machine::track), or the allocation's address.
    pub name: String,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes that lanes loaded.
    pub read_bytes: u64,
    /// Bytes that lanes stored.
    pub written_bytes: u64,
    /// Bytes in sectors touched by loads, 32 per sector and request.
    pub read_sector_bytes: u64,
    /// Bytes in sectors touched by loads, a sector once a block: what comes from beyond the first-level cache if that keeps what a
    /// block loaded. Counted with [`Config::distinct_sectors`](crate::Config::distinct_sectors) alone.
    pub distinct_sector_bytes: u64,
    /// Bytes in sectors touched by stores.
    pub written_sector_bytes: u64,
}

/// Counters of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Always true: these are rules, not measurements.
    pub modelled: bool,
    /// Warp instructions.
    pub warp_instructions: u64,
    /// Thread instructions.
    pub thread_instructions: u64,
    /// Warp and thread instructions by class, in class order, classes that occur.
    pub classes: Vec<(Class, u64, u64)>,
    /// Global load and store requests.
    pub global_requests: u64,
    /// 32-byte sectors of global accesses.
    pub global_sectors: u64,
    /// Sectors that the bytes asked for would fill.
    pub global_ideal_sectors: u64,
    /// Shared-memory wavefronts.
    pub shared_wavefronts: u64,
    /// Shared-memory wavefronts without conflicts.
    pub shared_ideal_wavefronts: u64,
    /// Extra wavefronts caused by bank conflicts.
    pub bank_conflicts: u64,
    /// `mma` instructions.
    pub mma: u64,
    /// Barrier instructions.
    pub barriers: u64,
    /// Branches that split a warp.
    pub divergent_branches: u64,
    /// Atomic instructions.
    pub atomics: u64,
    /// Largest contention of atomics, summed over instructions.
    pub atomic_contention: u64,
    /// Bytes copied by `cp.async`.
    pub async_copy_bytes: u64,
    /// Blocks run.
    pub blocks: u64,
    /// Static and dynamic shared memory of a block in bytes.
    pub shared_bytes: u64,
    /// Instructions that were executed, in program order.
    pub instructions: Vec<InstrLine>,
    /// Traffic by allocation and by tracked range.
    pub ranges: Vec<RangeCounters>,
}

impl Counters {
    /// Adds up the totals from the instruction lines.
    pub(crate) fn summarise(&mut self) {
        self.modelled = true;
        let mut by_class: std::collections::BTreeMap<Class, (u64, u64)> = Default::default();
        for line in &self.instructions {
            let c = &line.counters;
            self.warp_instructions += c.warp;
            self.thread_instructions += c.lanes;
            let e = by_class.entry(line.class).or_default();
            e.0 += c.warp;
            e.1 += c.lanes;
            self.divergent_branches += c.divergent;
            self.shared_wavefronts += c.wavefronts;
            self.shared_ideal_wavefronts += c.ideal_wavefronts;
            self.global_sectors += c.sectors;
            self.global_ideal_sectors += c.ideal_sectors;
            match line.class {
                Class::GlobalLoad | Class::GlobalStore => self.global_requests += c.warp,
                Class::Matrix => self.mma += c.warp,
                Class::Barrier => self.barriers += c.warp,
                Class::AsyncCopy => self.async_copy_bytes += c.bytes,
                Class::Atomic => {
                    self.atomics += c.warp;
                    self.atomic_contention += c.contention;
                }
                _ => {}
            }
        }
        self.bank_conflicts = self.shared_wavefronts.saturating_sub(self.shared_ideal_wavefronts);
        self.classes = by_class.into_iter().map(|(k, (w, l))| (k, w, l)).collect();
    }

    /// A table for people; the first line says that the numbers are modelled.
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut s = String::from("modelled counters (architectural rules, not hardware measurements)\n");
        let mut row = |name: &str, v: u64| {
            let _ = writeln!(s, "{name:<28} {v:>16}");
        };
        row("warp instructions", self.warp_instructions);
        row("thread instructions", self.thread_instructions);
        row("global requests", self.global_requests);
        row("global sectors", self.global_sectors);
        row("global sectors, ideal", self.global_ideal_sectors);
        row("shared wavefronts", self.shared_wavefronts);
        row("shared bank conflicts", self.bank_conflicts);
        row("mma", self.mma);
        row("barriers", self.barriers);
        row("divergent branches", self.divergent_branches);
        row("atomics", self.atomics);
        row("cp.async bytes", self.async_copy_bytes);
        row("shared bytes per block", self.shared_bytes);
        for (class, warp, lanes) in &self.classes {
            let _ = writeln!(s, "  {:<26} {warp:>16} {lanes:>18}", format!("{class:?}"));
        }
        for r in &self.ranges {
            let _ = writeln!(
                s,
                "  {:<26} read {:>12} ({:>12} in sectors) written {:>12}",
                r.name, r.read_bytes, r.read_sector_bytes, r.written_bytes
            );
        }
        s
    }

    /// The PTX text with warp executions in front of each executed line, and sector or conflict notes after it.
    pub fn annotate(&self, ptx: &str) -> String {
        use std::fmt::Write as _;
        let mut by_line: std::collections::BTreeMap<u32, InstrCounters> = Default::default();
        for i in &self.instructions {
            by_line.entry(i.ptx_line).or_default().add(&i.counters);
        }
        let mut out = String::new();
        for (n, text) in ptx.lines().enumerate() {
            match by_line.get(&(n as u32 + 1)) {
                Some(c) => {
                    let _ = write!(out, "{:>10} | {text}", c.warp);
                    if c.sectors > 0 {
                        let _ = write!(out, "  // sectors {} ideal {}", c.sectors, c.ideal_sectors);
                    }
                    if c.wavefronts > 0 {
                        let _ = write!(out, "  // wavefronts {} ideal {}", c.wavefronts, c.ideal_wavefronts);
                    }
                    if c.divergent > 0 {
                        let _ = write!(out, "  // divergent {}", c.divergent);
                    }
                    out.push('\n');
                }
                None => {
                    let _ = writeln!(out, "{:>10} | {text}", "");
                }
            }
        }
        out
    }

    /// The counters as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
