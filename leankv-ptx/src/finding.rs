//! What the checks report.

use crate::error::Site;
use serde::Serialize;
use std::collections::BTreeMap;

/// The kinds of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Two accesses to shared memory, one a write, that nothing orders.
    SharedRace,
    /// Two blocks, or two threads of one, access global memory, one writing, and nothing orders them.
    GlobalRace,
    /// A read of shared memory that nothing wrote.
    UninitShared,
    /// A read of global memory that nothing wrote.
    UninitGlobal,
    /// A read of a register that the lane never wrote. An error where the value steers execution (address, guard,
    /// membermask, barrier number, branch index); elsewhere benign, because compilers read registers of undefined
    /// value whose result they then select away or leave in lanes that nobody reads.
    UninitRegister,
    /// A barrier reached by part of a warp.
    BarrierDivergence,
    /// Threads meet at one barrier with different parameters.
    BarrierMismatch,
    /// An access to the destination of an asynchronous copy in flight.
    AsyncCopyInFlight,
    /// A warp ended with asynchronous copies that it never waited for.
    AsyncCopyLost,
    /// A lane is missing from, or not named by, a membermask.
    Membermask,
    /// A collective read a lane that did not take part.
    InactiveLane,
    /// A branch marked uniform, or an `.aligned` instruction, executed by part of a warp.
    NotUniform,
    /// Integer division by zero.
    DivisionByZero,
    /// A store to memory that the launch reads through the read-only path.
    ReadOnlyWrite,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The result does not depend on it, for example two lanes that write the same value.
    Benign,
    /// Results are undefined.
    Error,
}

/// The other side of a race.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// `read` or `write`.
    pub access: &'static str,
    /// Function the instruction stands in.
    pub function: String,
    /// PTX line of its instruction, from 1; 0 if unknown.
    pub ptx_line: u32,
    /// `file:line` of the source.
    pub source: Option<String>,
    /// Linear block index; `None` where several blocks read.
    pub block: Option<u32>,
    /// Warp, if known.
    pub warp: Option<u32>,
    /// Lane, if known.
    pub lane: Option<u32>,
}

/// One report of a check. Repeats at the same pair of instructions only count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// Where; the first occurrence.
    pub site: Site,
    /// Address: an offset for shared memory.
    pub address: Option<u64>,
    /// A sentence.
    pub message: String,
    /// The other party.
    pub other: Option<Party>,
    /// Occurrences.
    pub count: u64,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        if let Some(a) = self.address {
            write!(f, " at 0x{a:x}")?;
        }
        write!(f, "\n  {}", self.site)?;
        if let Some(o) = &self.other {
            write!(f, "\n  against {} at PTX line {}", o.access, o.ptx_line)?;
            if o.function != self.site.function {
                write!(f, " in {}", o.function)?;
            }
            if let Some(s) = &o.source {
                write!(f, ", source {s}")?;
            }
            match o.block {
                Some(block) => write!(f, ", block {block}")?,
                None => f.write_str(", several blocks")?,
            }
            if let (Some(w), Some(l)) = (o.warp, o.lane) {
                write!(f, " warp {w} lane {l}")?;
            }
        }
        if self.count > 1 {
            write!(f, "\n  {} occurrences", self.count)?;
        }
        Ok(())
    }
}

/// Key that makes two findings one: kind, severity, function and instruction of both sides.
pub(crate) type Key = (FindingKind, Severity, u32, u32, u32);

/// Collects findings of one worker.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) map: BTreeMap<Key, Finding>,
    pub(crate) limit: usize,
    pub(crate) dropped: u64,
}

impl Findings {
    pub(crate) fn add(&mut self, key: Key, make: impl FnOnce() -> Finding) {
        if let Some(f) = self.map.get_mut(&key) {
            f.count += 1;
        } else if self.map.len() < self.limit {
            self.map.insert(key, make());
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: Findings) {
        self.dropped += other.dropped;
        for (key, f) in other.map {
            match self.map.get_mut(&key) {
                Some(mine) => mine.count += f.count,
                None => {
                    self.map.insert(key, f);
                }
            }
        }
    }
}
