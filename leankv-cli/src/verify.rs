//! `leankv verify`: one kernel on every executor, without a GPU.

use std::path::Path;

use leankv_kernels::workload::Size;
use leankv_runtime::Compiler;
use leankv_runtime::verify::{Options, Outcome, Run, VerifyReport, verify_with};
use serde_json::json;

use crate::args;
use crate::failure::{Failure, at_path};
use crate::select;
use crate::table;
use crate::terminal;
use crate::workload::{Subject, failed, gpus};

/// Runs the command.
pub(crate) fn run(args: &args::Verify, compiler: &Compiler) -> Result<(), Failure> {
    let subject = Subject::new(&args.which.kernel, Size::Small, &args.shapes, args.seed)?;
    let ptx = args.ptx.as_deref().map(|path: &Path| std::fs::read_to_string(path).map_err(at_path(path)));
    let options = Options {
        targets: gpus(&args.target)?,
        seed: args.seed,
        perturb: args.perturb,
        ptx: ptx.transpose()?,
    };
    let specs: Vec<Vec<(String, String)>> = match args.all {
        true => subject.kernel.space().into_iter().map(|settings| settings.into_iter().collect()).collect(),
        false => vec![select::settings(&args.which.set)?],
    };
    let mut reports = Vec::new();
    for settings in &specs {
        let (func, workload) = subject.at(settings)?;
        reports.push(verify_with(compiler, &func, &workload, &options).map_err(failed)?);
    }
    if args.json {
        let document = json!({
            "kernel": subject.kernel.name(), "shapes": subject.shapes.to_string(), "counters_are": "modelled",
            "passed": reports.iter().all(VerifyReport::passed), "reports": reports,
        });
        println!("{document:#}");
    } else {
        match &reports[..] {
            [report] => one(report, &subject),
            reports => many(reports, &subject),
        }
    }
    verdict(&reports)
}

/// The failure, when there is one.
fn verdict(reports: &[VerifyReport]) -> Result<(), Failure> {
    let runs = || reports.iter().flat_map(|report| &report.runs);
    let wrong = runs().filter(|run| !run.passed()).count();
    match (wrong, reports) {
        (0, _) => Ok(()),
        (n, [report]) => Err(Failure::kernel(format_args!(
            "`{}`: {n} of {} runs failed",
            report.kernel,
            report.runs.len()
        ))),
        (n, reports) => {
            let specs = reports.iter().filter(|report| !report.passed()).count();
            let kernel = reports.first().map_or("", |report| report.kernel.as_str());
            let total = runs().count();
            Err(Failure::kernel(format_args!(
                "`{kernel}`: {n} of {total} runs failed, at {specs} specialisations"
            )))
        }
    }
}

/// One specialisation: a row a run.
fn one(report: &VerifyReport, subject: &Subject) {
    println!("{}", report.kernel);
    if !report.spec.is_empty() {
        println!("  at {}", report.spec);
    }
    let [x, y, z] = report.grid;
    println!("  shapes {}; grid {x} x {y} x {z}; seed {}\n", subject.shapes, report.seed);
    let mut table = table::table([
        "executor",
        "outcome",
        "outputs",
        "largest diff.",
        "warp instr.",
        "sectors",
        "ideal",
        "confl.",
        "mma",
        "barr.",
        "div.",
        "ms",
    ]);
    for run in &report.runs {
        let (outputs, largest) = agreement(run);
        let count = |get: fn(&leankv_ptx::Counters) -> u64| {
            run.counters.as_ref().map_or_else(|| "-".to_owned(), |c| get(c).to_string())
        };
        table.add_row([
            run.executor.clone(),
            run.outcome.summary().to_owned(),
            outputs,
            largest,
            count(|c| c.warp_instructions),
            count(|c| c.global_sectors),
            count(|c| c.global_ideal_sectors),
            count(|c| c.bank_conflicts),
            count(|c| c.mma),
            count(|c| c.barriers),
            count(|c| c.divergent_branches),
            format!("{:.1}", run.milliseconds),
        ]);
    }
    table::numbers_from(&mut table, 2);
    println!("{table}");
    details(report);
    if report.passed() {
        println!();
        terminal::print(
            "Every executor left the same in every buffer, and the interpreter what plain Rust says; no check found anything.",
        );
    }
    terminal::print(
        "confl.: bank conflicts; barr.: barriers; div.: divergent branches. Counters are modelled: architectural rules, not measurements.",
    );
}

/// Many specialisations: a row each.
fn many(reports: &[VerifyReport], subject: &Subject) {
    println!("{}, {} specialisations; shapes {}\n", subject.kernel.name(), reports.len(), subject.shapes);
    let mut table = table::table(["specialisation", "outcome", "runs", "largest diff.", "warp instr.", "ms"]);
    for report in reports {
        let wrong = report.runs.iter().find(|run| !run.passed());
        let largest = report.runs.iter().map(|run| difference(run).1).fold(0.0, f64::max);
        let counters = report.runs.iter().find_map(|run| run.counters.as_ref());
        table.add_row([
            report.spec.clone(),
            wrong.map_or("agrees", |run| run.outcome.summary()).to_owned(),
            report.runs.len().to_string(),
            format!("{largest:.1e}"),
            counters.map_or_else(|| "-".to_owned(), |c| c.warp_instructions.to_string()),
            format!("{:.0}", report.runs.iter().map(|run| run.milliseconds).sum::<f64>()),
        ]);
    }
    table::numbers_from(&mut table, 2);
    println!("{table}");
    for report in reports.iter().filter(|report| !report.passed()) {
        println!("\n{} at {}", report.kernel, report.spec);
        details(report);
    }
}

fn details(report: &VerifyReport) {
    for run in &report.runs {
        let details = run.details();
        if !details.is_empty() {
            println!("\n{}:", run.executor);
        }
        for line in details.iter().flat_map(|text| text.lines()) {
            println!("  {line}");
        }
    }
}

fn difference(run: &Run) -> (usize, f64) {
    match run.outcome {
        Outcome::Agrees { outputs, largest_difference } => (outputs, largest_difference),
        _ => (0, 0.0),
    }
}

fn agreement(run: &Run) -> (String, String) {
    match run.outcome {
        Outcome::Agrees { outputs, largest_difference } => {
            (outputs.to_string(), format!("{largest_difference:.1e}"))
        }
        _ => ("-".to_owned(), "-".to_owned()),
    }
}
