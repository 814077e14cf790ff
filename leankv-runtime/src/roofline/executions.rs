//! How often machine instructions ran. The PTX machine counts PTX instructions; the assembler says which PTX line each machine
//! instruction comes from, but moves instructions between blocks and copies loops. Paths for warps that are diverged at a shuffle and for
//! operands that are rare are taken never to run.
//!
//! All instructions of a block run equally often. A block's count is that of its instructions that the assembler may not move
//! (barriers, shuffles, stores, products, atomics), divided by the copies of them that the block holds; without such instructions it is
//! the count of most of its PTX lines. What comes out is checked: products, barriers, shuffles and stores must have run as often as the
//! PTX's, loads at most as often, as far as the assembler has not done without them. Else the two cannot be matched, and nothing is said.

use std::collections::{BTreeMap, BTreeSet};

use leankv_ptx::{Class, Counters, InstrCounters};
use serde::Serialize;

use super::RooflineError;
use super::sass::{Instr, Listing};

/// Instructions that PTX and machine code have one for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Tensor-core products.
    Products,
    /// Barriers.
    Barriers,
    /// Shuffles.
    Shuffles,
    /// Asynchronous copies.
    Copies,
    /// Atomics.
    Atomics,
    /// Stores to global memory.
    GlobalStores,
    /// Stores to shared memory.
    SharedStores,
    /// Loads from global memory.
    GlobalLoads,
    /// Loads from shared memory.
    SharedLoads,
}

impl Kind {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Products => "products",
            Kind::Barriers => "barriers",
            Kind::Shuffles => "shuffles",
            Kind::Copies => "asynchronous copies",
            Kind::Atomics => "atomics",
            Kind::GlobalStores => "global stores",
            Kind::SharedStores => "shared stores",
            Kind::GlobalLoads => "global loads",
            Kind::SharedLoads => "shared loads",
        }
    }

    /// Whether the assembler may merge or move them.
    fn is_load(self) -> bool {
        matches!(self, Kind::GlobalLoads | Kind::SharedLoads)
    }

    fn of_machine(base: &str) -> Option<Kind> {
        Some(match base {
            "HMMA" | "IMMA" => Kind::Products,
            "BAR" => Kind::Barriers,
            "SHFL" => Kind::Shuffles,
            "LDGSTS" => Kind::Copies,
            "ATOM" | "ATOMG" | "ATOMS" | "RED" | "REDG" => Kind::Atomics,
            "STG" => Kind::GlobalStores,
            "STS" => Kind::SharedStores,
            "LDG" => Kind::GlobalLoads,
            "LDS" => Kind::SharedLoads,
            _ => return None,
        })
    }

    fn of_ptx(class: Class, opcode: &str) -> Option<Kind> {
        Some(match class {
            Class::Matrix if opcode.starts_with("mma.") => Kind::Products,
            Class::Barrier if opcode.starts_with("bar.sync") || opcode.starts_with("barrier.sync") => {
                Kind::Barriers
            }
            Class::Warp if opcode.starts_with("shfl.") => Kind::Shuffles,
            Class::AsyncCopy
                if ["cp.async.ca.", "cp.async.cg."].iter().any(|copy| opcode.starts_with(copy)) =>
            {
                Kind::Copies
            }
            Class::Atomic => Kind::Atomics,
            Class::GlobalStore => Kind::GlobalStores,
            Class::SharedStore => Kind::SharedStores,
            Class::GlobalLoad => Kind::GlobalLoads,
            Class::SharedLoad => Kind::SharedLoads,
            _ => return None,
        })
    }
}

/// How often instructions of a kind ran.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Match {
    /// Which.
    pub kind: Kind,
    /// PTX warp instructions, counted.
    pub ptx: f64,
    /// Machine instructions, derived.
    pub machine: f64,
}

/// The counts of one launch.
pub(super) struct Executions {
    /// Of each instruction of the listing.
    pub(super) counts: Vec<f64>,
    /// What was checked.
    pub(super) matches: Vec<Match>,
}

/// Counters by PTX line, for lines on which an instruction begins.
pub(super) struct Lines {
    lines: BTreeMap<u32, (Option<Kind>, InstrCounters)>,
}

impl Lines {
    /// `starts` has the lines on which instructions begin.
    pub(super) fn new(starts: impl IntoIterator<Item = u32>, counters: &Counters) -> Lines {
        let mut lines: BTreeMap<u32, (Option<Kind>, InstrCounters)> =
            starts.into_iter().map(|line| (line, Default::default())).collect();
        for instr in &counters.instructions {
            let entry = lines.entry(instr.ptx_line).or_default();
            // Of several instructions on a line none is known from its machine code.
            let alone = entry.1.warp == 0;
            entry.0 = Kind::of_ptx(instr.class, &instr.opcode).filter(|_| alone);
            if instr.counters.warp >= entry.1.warp {
                entry.1 = instr.counters;
            }
        }
        Lines { lines }
    }

    /// The first line of the PTX instruction that a machine instruction comes from.
    fn start(&self, instr: &Instr) -> Option<u32> {
        self.lines.range(..=instr.line).next_back().map(|(&line, _)| line)
    }

    /// Counters of that PTX instruction.
    pub(super) fn counters(&self, instr: &Instr) -> InstrCounters {
        self.start(instr).map(|line| self.lines[&line].1).unwrap_or_default()
    }

    /// Where a machine instruction and the PTX instruction it comes from are of one kind: the kind and the line.
    fn pair(&self, instr: &Instr) -> Option<(Kind, u32)> {
        let line = self.start(instr)?;
        let kind = Kind::of_machine(instr.base())?;
        (self.lines[&line].0 == Some(kind)).then_some((kind, line))
    }
}

/// Paths that the assembler takes for operands that are rare, such as a division's by a denormal number.
fn is_slow_path(function: &str) -> bool {
    function.contains("slowpath")
}

/// How far counts may differ.
const TOLERANCE: f64 = 0.02;

impl Executions {
    pub(super) fn of(listing: &Listing, lines: &Lines) -> Result<Executions, RooflineError> {
        let instrs = &listing.instrs;
        let reached = listing.reached();
        let blocks: Vec<_> = listing.blocks().into_iter().filter(|block| reached[block.start]).collect();
        // In which blocks copies of an instruction stand.
        let mut copies: BTreeMap<(Kind, u32), Vec<usize>> = BTreeMap::new();
        for (number, block) in blocks.iter().enumerate() {
            for pair in block.clone().filter_map(|at| lines.pair(&instrs[at])) {
                copies.entry(pair).or_default().push(number);
            }
        }
        let mut counts = vec![0.0; instrs.len()];
        for (number, block) in blocks.iter().enumerate() {
            let here = |pair: &(Kind, u32)| copies[pair].iter().all(|&other| other == number);
            let divided = |pair: (Kind, u32)| lines.lines[&pair.1].1.warp as f64 / copies[&pair].len() as f64;
            let pairs =
                || block.clone().filter(|&at| !instrs[at].guarded).filter_map(|at| lines.pair(&instrs[at]));
            let fixed = pairs().filter(|pair| !pair.0.is_load()).filter(here).map(divided);
            let count = most(fixed).or_else(|| {
                // Loads may have come from elsewhere, but not with copies.
                let loop_copies =
                    most(pairs().filter(here).map(|pair| copies[&pair].len() as f64)).unwrap_or(1.0);
                let all = block.clone().filter_map(|at| lines.start(&instrs[at]));
                most(all.map(|line| lines.lines[&line].1.warp as f64)).map(|count| count / loop_copies)
            });
            counts[block.clone()].fill(count.unwrap_or(0.0));
        }
        for block in &blocks {
            if block.clone().any(|at| listing.called(at).is_some_and(is_slow_path)) {
                counts[block.clone()].fill(0.0);
            }
        }
        for (name, body) in listing.functions() {
            let called: f64 =
                (0..instrs.len()).filter(|&at| listing.called(at) == Some(name)).map(|at| counts[at]).sum();
            counts[body].fill(called);
        }
        let matches = Executions::check(listing, lines, &counts)?;
        Ok(Executions { counts, matches })
    }

    /// Compares how often PTX and machine instructions of each kind ran.
    fn check(listing: &Listing, lines: &Lines, counts: &[f64]) -> Result<Vec<Match>, RooflineError> {
        let mut matches: BTreeMap<Kind, Match> = BTreeMap::new();
        let mut of = |kind, ptx, machine| {
            let entry = matches.entry(kind).or_insert(Match { kind, ptx: 0.0, machine: 0.0 });
            entry.ptx += ptx;
            entry.machine += machine;
        };
        let mut seen = BTreeSet::new();
        for (instr, &count) in listing.instrs.iter().zip(counts) {
            let Some((kind, line)) = lines.pair(instr) else { continue };
            // What the assembler has done without is not compared.
            let ptx = if seen.insert(line) { lines.lines[&line].1.warp } else { 0 };
            if count > 0.0 || ptx > 0 {
                of(kind, ptx as f64, count);
            }
        }
        let matches: Vec<Match> = matches.into_values().collect();
        for found in &matches {
            let (most, least) = (found.ptx * (1.0 + TOLERANCE), found.ptx * (1.0 - TOLERANCE));
            if found.machine > most || (found.machine < least && !found.kind.is_load()) {
                return Err(RooflineError::Unmatched(*found));
            }
        }
        Ok(matches)
    }
}

/// The value that occurs most often; of several the largest.
fn most(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    // Positive numbers are ordered as their bits are.
    values.for_each(|value| *seen.entry(value.to_bits()).or_default() += 1);
    seen.into_iter().max_by_key(|&(value, times)| (times, value)).map(|(value, _)| f64::from_bits(value))
}
