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
            return;
        }
        if self.map.len() >= self.limit && !(key.1 == Severity::Error && self.make_room()) {
            self.dropped += 1;
            return;
        }
        self.map.insert(key, make());
    }

    /// Makes room for an error: drops something benign, and keeps one error whatever the limit is.
    fn make_room(&mut self) -> bool {
        let benign = self.map.keys().find(|key| key.1 == Severity::Benign).copied();
        if let Some(benign) = benign {
            self.map.remove(&benign);
            self.dropped += 1;
        }
        benign.is_some() || self.map.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        let (kind, site) = (FindingKind::GlobalRace, Site::default());
        Finding { kind, severity, site, address: None, message: String::new(), other: None, count: 1 }
    }

    fn add(findings: &mut Findings, severity: Severity, pc: u32) {
        findings.add((FindingKind::GlobalRace, severity, 0, pc, 0), || finding(severity));
    }

    fn kept(findings: &Findings, severity: Severity) -> usize {
        findings.map.values().filter(|f| f.severity == severity).count()
    }

    #[test]
    fn an_error_is_kept_whatever_came_before_it() {
        for limit in [0, 1, 4] {
            let mut findings = Findings { limit, ..Findings::default() };
            for pc in 0..100 {
                add(&mut findings, Severity::Benign, pc);
            }
            assert_eq!((kept(&findings, Severity::Benign), findings.dropped), (limit, 100 - limit as u64));
            for pc in 100..110 {
                add(&mut findings, Severity::Error, pc);
                add(&mut findings, Severity::Error, pc);
            }
            let errors = limit.max(1);
            assert_eq!((kept(&findings, Severity::Error), findings.map.len()), (errors, errors));
        }
    }
}
