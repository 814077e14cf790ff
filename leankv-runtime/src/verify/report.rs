//! What was run, and how it ended.

use std::fmt;
use std::time::Instant;

use leankv_ptx::{Counters, Fault, Finding};
use serde::Serialize;

use super::execute::Stop;
use crate::target::Sm;

/// Runs of one kernel on every executor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifyReport {
    /// The kernel.
    pub kernel: String,
    /// Its specialisation.
    pub spec: String,
    /// Programs along x, y and z.
    pub grid: [u32; 3],
    /// Seed of the schedules.
    pub seed: u64,
    /// One run an executor and mode; the interpreter's comes first, and the others are compared with it.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// The executor and how it ran.
    pub executor: String,
    /// The GPU generation whose PTX it was.
    #[serde(serialize_with = "name_of")]
    pub target: Option<Sm>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the PTX machine's checks found.
    pub findings: Vec<Finding>,
    /// The PTX machine's modelled counters.
    pub counters: Option<Counters>,
    /// Wall time, compilation aside.
    pub milliseconds: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// Every buffer is as it should be: the interpreter's as plain Rust says, the others' as the interpreter's.
    Agrees {
        /// Buffers that the kernel writes and that were compared; for the interpreter, those of which plain Rust said what they are.
        outputs: usize,
        /// The largest difference of two floats that were compared within a bound.
        largest_difference: f64,
    },
    /// Buffers differ.
    Differs {
        /// Which, and where.
        differences: Vec<String>,
    },
    /// Results agree, but checks found errors: with another schedule or on a GPU, they need not.
    Findings,
    /// The kernel did something that ends a launch, on the interpreter or the host.
    Faults {
        /// What, and where.
        message: String,
    },
    /// The PTX did something that ends a launch.
    PtxFault {
        /// What, and where.
        fault: Fault,
    },
    /// It ran, but the interpreter did not, so there is nothing to compare with.
    NothingToCompareWith,
}

fn name_of<S: serde::Serializer>(sm: &Option<Sm>, serializer: S) -> Result<S::Ok, S::Error> {
    match sm {
        Some(sm) => serializer.serialize_some(&sm.to_string()),
        None => serializer.serialize_none(),
    }
}

impl Outcome {
    pub(super) fn of(stop: &Stop) -> Outcome {
        match stop {
            Stop::Ptx(leankv_ptx::Error::Fault(fault)) => Outcome::PtxFault { fault: (**fault).clone() },
            other => Outcome::Faults { message: other.to_string() },
        }
    }

    /// In a few words.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        match self {
            Outcome::Agrees { .. } => "agrees",
            Outcome::Differs { .. } => "DIFFERS",
            Outcome::Findings => "FINDINGS",
            Outcome::Faults { .. } | Outcome::PtxFault { .. } => "FAULT",
            Outcome::NothingToCompareWith => "nothing to compare with",
        }
    }
}

impl Run {
    pub(super) fn new(executor: &str, target: Option<Sm>, outcome: Outcome, start: Instant) -> Run {
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        Run {
            executor: executor.to_owned(),
            target,
            outcome,
            findings: Vec::new(),
            counters: None,
            milliseconds,
        }
    }

    /// Whether it did what it should.
    #[must_use]
    pub fn passed(&self) -> bool {
        matches!(self.outcome, Outcome::Agrees { .. })
    }

    /// What is wrong with it, in full; empty if nothing is.
    #[must_use]
    pub fn details(&self) -> Vec<String> {
        let mut out = match &self.outcome {
            Outcome::Agrees { .. } | Outcome::Findings => Vec::new(),
            Outcome::NothingToCompareWith => {
                vec![
                    "it ran; the interpreter did not, so nothing says whether the results are right"
                        .to_owned(),
                ]
            }
            Outcome::Differs { differences } => differences.clone(),
            Outcome::Faults { message } => vec![message.clone()],
            Outcome::PtxFault { fault } => vec![fault.to_string()],
        };
        out.extend(self.findings.iter().map(ToString::to_string));
        out
    }
}

impl VerifyReport {
    /// Whether every run did what it should.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.runs.iter().all(Run::passed)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(f, "{}", self.kernel)?;
        if !self.spec.is_empty() {
            write!(f, " at {}", self.spec)?;
        }
        write!(f, "\n  grid {x} x {y} x {z}, seed {}", self.seed)?;
        for run in &self.runs {
            write!(f, "\n  {:<48} {}", run.executor, run.outcome.summary())?;
            if let Outcome::Agrees { outputs, largest_difference } = run.outcome {
                write!(f, ", {outputs} outputs, largest difference {largest_difference:.1e}")?;
            }
            for line in run.details().iter().flat_map(|text| text.lines()) {
                write!(f, "\n      {line}")?;
            }
        }
        Ok(())
    }
}
