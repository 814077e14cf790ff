//! One candidate after the other: is it right, and how fast is it?

use leankv_dsl::ir::Func;
use leankv_dsl::lang::{Settings, SpecField};
use leankv_dsl::workload::{Argument, Workload};

use super::found::{Outcome, Trial};
use super::measure::Timed;
use super::race::{MOST, Ratio, median, race};
use super::search::Verdict;
use super::{On, Tuner, WorkloadOf, model};
use crate::cache::Digest;
use crate::compiled::{Code, CompiledKernel};
use crate::kernel::Kernel;
use crate::target::Target;
use crate::verify::{
    Options, Outcome as Verified, VerifyReport, against_expectation, verify_on, verify_with,
};

/// A kernel whose specialisations are text.
pub(super) struct Subject<'a> {
    pub(super) name: &'static str,
    pub(super) fields: Vec<SpecField>,
    pub(super) build: &'a dyn Fn(&Settings) -> Result<Func, String>,
    pub(super) timed: &'a WorkloadOf<'a>,
    pub(super) checked: Option<&'a WorkloadOf<'a>>,
}

/// A candidate that is right.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) set: Settings,
    /// On a device; `None` where times are modelled.
    pub(super) kernel: Option<Kernel>,
    pub(super) grid: [u32; 3],
    pub(super) args: std::sync::Arc<[(String, Argument)]>,
    /// Of a launch.
    pub(super) seconds: f64,
}

/// A search under way.
pub(super) struct Run<'a> {
    pub(super) tuner: &'a Tuner<'a>,
    pub(super) subject: &'a Subject<'a>,
    pub(super) given: &'a Settings,
    pub(super) trials: Vec<Trial>,
    /// Digests of code and grid that were timed, with what was set.
    pub(super) codes: Vec<(Digest, Settings)>,
    pub(super) champion: Option<Candidate>,
}

impl Run<'_> {
    /// Tries a candidate; it becomes the champion if it is better.
    pub(super) fn judge(&mut self, set: Settings) -> Verdict {
        let (verdict, outcome) = match self.outcome(&set) {
            Ok(Outcome::SameCode { like }) => (Verdict::Impossible, Outcome::SameCode { like }),
            Ok(outcome @ Outcome::Timed { best: true, .. }) => (Verdict::Better, outcome),
            Ok(outcome @ Outcome::Timed { beside_best, .. }) if beside_best.low > 1.0 => {
                (Verdict::Worse, outcome)
            }
            Ok(outcome) => (Verdict::Level, outcome),
            Err(why) => (Verdict::Impossible, Outcome::Failed { why }),
        };
        let trial = Trial { set, outcome };
        if let Some(watch) = &self.tuner.watch {
            watch(&trial);
        }
        self.trials.push(trial);
        verdict
    }

    /// Why the last trial failed.
    pub(super) fn why_not(&self) -> String {
        match self.trials.last().map(|trial| &trial.outcome) {
            Some(Outcome::Failed { why }) => why.clone(),
            _ => "it was not timed".to_owned(),
        }
    }

    fn outcome(&mut self, set: &Settings) -> Result<Outcome, String> {
        let (tuner, subject) = (self.tuner, self.subject);
        let mut settings = self.given.clone();
        settings.extend(set.clone());
        let func = (subject.build)(&settings)?;
        let timed = (subject.timed)(&settings)?;
        let args = timed.arguments(&func).map_err(|e| e.to_string())?;
        let checked = subject.checked.map(|checked| checked(&settings)).transpose()?;
        let target = match &tuner.on {
            On::Device(device) => device.target().unwrap_or(Target::Host),
            On::Model(product) => Target::Gpu(product.target),
        };
        let compiled = tuner.compiler.compile(&func, target).map_err(|e| e.to_string())?.kernel;
        let code = code_digest(&compiled, timed.grid());
        if let Some((_, like)) = self.codes.iter().find(|(digest, _)| *digest == code) {
            return Ok(Outcome::SameCode { like: like.clone() });
        }
        tuner.check(&func, checked.as_ref().unwrap_or(&timed))?;
        let mut candidate =
            Candidate { set: set.clone(), kernel: None, grid: timed.grid(), args: args.into(), seconds: 0.0 };
        if let On::Device(device) = &tuner.on {
            candidate.kernel = Some(tuner.compiler.kernel(device, &func).map_err(|e| e.to_string())?);
        }
        let beside_best = match (&tuner.on, &self.champion) {
            (On::Model(product), champion) => {
                candidate.seconds = model::seconds(tuner.compiler, product, &func, &compiled, &timed)?;
                champion.as_ref().map_or(Ratio::ONE, |best| Ratio::modelled(candidate.seconds / best.seconds))
            }
            (On::Device(_), None) => {
                candidate.seconds = alone(&candidate)?;
                Ratio::ONE
            }
            (On::Device(_), Some(champion)) => {
                let (mut own, mut others) = (start(&candidate)?, start(champion)?);
                let pairs = race(|| own.measure(), || others.measure()).map_err(|e| e.to_string())?;
                let ratio = Ratio::of(&pairs);
                // In the time scale of the first one, whatever the machine did since.
                candidate.seconds = ratio.median * champion.seconds;
                ratio
            }
        };
        self.codes.push((code, set.clone()));
        let best = self.champion.is_none() || beside_best.high < 1.0;
        let microseconds = candidate.seconds * 1e6;
        if best {
            self.champion = Some(candidate);
        }
        Ok(Outcome::Timed { microseconds, beside_best, best })
    }
}

impl Tuner<'_> {
    /// Whether a candidate does what is right.
    fn check(&self, func: &Func, workload: &Workload) -> Result<(), String> {
        let report = match &self.on {
            On::Device(device) => verify_on(device, self.compiler, func, workload),
            On::Model(product) => {
                let options = Options { targets: vec![product.target], ..Options::default() };
                verify_with(self.compiler, func, workload, &options)
            }
        };
        let report = report.map_err(|e| e.to_string())?;
        if report.passed() { Ok(()) } else { Err(what_is_wrong(&report)) }
    }
}

/// The first run that did something wrong, in a line or two.
fn what_is_wrong(report: &VerifyReport) -> String {
    let Some(run) = report.runs.iter().find(|run| !run.passed()) else { return String::new() };
    let details = run.details();
    format!("{}: {}", run.executor, details.first().map_or(run.outcome.summary(), String::as_str))
}

/// Seconds of a launch of a candidate by itself.
fn alone(candidate: &Candidate) -> Result<f64, String> {
    let mut own = start(candidate)?;
    let times = (0..MOST).map(|_| own.measure()).collect::<Result<Vec<_>, _>>();
    let mut times = times.map_err(|e| e.to_string())?;
    times.sort_by(f64::total_cmp);
    Ok(median(&times))
}

/// Launches a candidate in memory of its own, if what it leaves there is what plain Rust says.
pub(super) fn start(candidate: &Candidate) -> Result<Timed<'_>, String> {
    let kernel = candidate.kernel.as_ref().ok_or("it is not loaded")?;
    // SAFETY: the interpreter ran this launch with all its checks, or a smaller one of which the caller of `tune_settings` promises that it says as much.
    let (timed, buffers) =
        unsafe { Timed::new(kernel, candidate.grid, &candidate.args) }.map_err(|e| e.to_string())?;
    match against_expectation(&candidate.args, &buffers) {
        Verified::Differs { differences } => Err(differences.join("; ")),
        _ => Ok(timed),
    }
}

/// Of code and grid.
fn code_digest(compiled: &CompiledKernel, grid: [u32; 3]) -> Digest {
    let code = match &compiled.code {
        Code::Ptx(text) => text.as_bytes(),
        Code::Host(artifact) => &artifact.object[..],
    };
    let grid = grid.iter().flat_map(|n| n.to_le_bytes());
    Digest::of(&code.iter().copied().chain(grid).collect::<Vec<u8>>())
}
