//! Assembles every declared specialisation of every shipped kernel, and those that caches run, for every GPU and fails if any spills:
//! `make spills`.
//!
//! The tests assemble all specialisations for one GPU and one of each kernel for all GPUs; this is the whole matrix.
//! Specialisations whose PTX is the same are assembled once.

use std::collections::BTreeMap;
use std::process::ExitCode;

use leankv_dsl::ir::Func;
use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::KERNELS;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::tools::{Ptxas, PtxasEntry};
use leankv_runtime::{Compiler, Sm, Target};
use rayon::prelude::*;

/// A PTX text and the specialisations that compile to it.
struct Case {
    sm: Sm,
    ptx: String,
    specs: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(3)
        }
    }
}

/// The number of cases that spill or do not assemble.
fn run() -> Result<usize, String> {
    let ptxas = Ptxas::find().map_err(|e| e.to_string())?;
    let mut funcs: Vec<(String, Func)> = Vec::new();
    for kernel in KERNELS {
        for settings in kernel.space().into_iter().chain(in_caches(*kernel)) {
            let func = kernel.build(&settings).map_err(|found| found.to_string())?;
            funcs.push((format!("{} ({})", func.name, func.spec), func));
        }
    }
    let cases = cases(&funcs)?;
    let results: Vec<(&Case, Result<PtxasEntry, String>)> =
        cases.par_iter().map(|case| (case, assemble(&ptxas, case))).collect();

    let mut bad = Vec::new();
    for sm in Sm::ALL {
        let here: Vec<_> = results.iter().filter(|(case, _)| case.sm == sm).collect();
        let entries = || here.iter().filter_map(|(_, result)| result.as_ref().ok());
        let broken: Vec<String> = here.iter().filter_map(|(case, result)| complaint(case, result)).collect();
        println!(
            "{sm}: {} specialisations, {} PTX texts, at most {} registers, {} with spills or errors",
            funcs.len(),
            here.len(),
            entries().map(|e| e.registers).max().unwrap_or(0),
            broken.len()
        );
        bad.extend(broken);
    }
    for line in &bad {
        println!("{line}");
    }
    Ok(bad.len())
}

/// What no declared space has, and every cache runs: attention that adds significance and looks for the next step's candidates, and plans that
/// read what it found.
fn in_caches(kernel: &dyn KernelDef) -> Vec<Settings> {
    let more: &[(&str, &str)] = match kernel.name() {
        "decode_attention" => &[("significance", "true"), ("candidates", "true"), ("stages", "1")],
        "merge_splits" => &[("significance", "true"), ("candidates", "true")],
        "plan_step" => &[("shortlist", "true")],
        _ => return Vec::new(),
    };
    let with = |mut settings: Settings| {
        settings.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        settings
    };
    kernel.space().into_iter().map(with).collect()
}

/// Compiles everything; equal texts for one GPU become one case.
fn cases(funcs: &[(String, Func)]) -> Result<Vec<Case>, String> {
    let compiler = Compiler::new(KernelCache::without_folder());
    let work: Vec<(Sm, &(String, Func))> =
        Sm::ALL.into_iter().flat_map(|sm| funcs.iter().map(move |func| (sm, func))).collect();
    let texts: Vec<String> = work
        .par_iter()
        .map(|(sm, (spec, func))| {
            let compiled =
                compiler.compile(func, Target::Gpu(*sm)).map_err(|e| format!("{spec}, {sm}: {e}"))?;
            Ok(compiled.kernel.ptx().unwrap_or_default().to_owned())
        })
        .collect::<Result<_, String>>()?;
    let mut found: BTreeMap<(Sm, String), Vec<String>> = BTreeMap::new();
    for ((sm, (spec, _)), ptx) in work.into_iter().zip(texts) {
        found.entry((sm, ptx)).or_default().push(spec.clone());
    }
    Ok(found.into_iter().map(|((sm, ptx), specs)| Case { sm, ptx, specs }).collect())
}

fn assemble(ptxas: &Ptxas, case: &Case) -> Result<PtxasEntry, String> {
    let assembled = ptxas.assemble(&case.ptx, &case.sm.to_string()).map_err(|e| e.to_string())?;
    assembled.entries.into_iter().next().ok_or_else(|| "ptxas reported no kernel".to_owned())
}

/// What is wrong with a case, in words.
fn complaint(case: &Case, result: &Result<PtxasEntry, String>) -> Option<String> {
    let what = match result {
        Ok(e) if e.spill_store_bytes + e.spill_load_bytes + e.stack_bytes == 0 => return None,
        Ok(e) => format!(
            "{} bytes of spill stores, {} of spill loads, {} of stack",
            e.spill_store_bytes, e.spill_load_bytes, e.stack_bytes
        ),
        Err(message) => message.clone(),
    };
    Some(format!("{} for {}: {what}", case.specs.join(", "), case.sm))
}
