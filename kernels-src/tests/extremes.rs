//! Input that nobody means. Each kernel with each field at values that are too small, too large, odd or no numbers at all: it is either
//! refused with a message or it is a kernel. Each workload with each size 0 or 1: it is refused, or all executors agree. Nothing panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::workload::{RECIPES, Recipe, Size};
use leankv_kernels::{KERNELS, find};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::verify::{Options, VerifyError, verify_with};
use leankv_runtime::{Compiler, Sm, Target};
use rayon::prelude::*;

/// Texts for a field.
const VALUES: &[&str] = &[
    "",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "5",
    "7",
    "12",
    "17",
    "33",
    "100",
    "1000",
    "4096",
    "65535",
    "65536",
    "1000003",
    "16777217",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e3",
    "0x10",
    "true",
    "K0V9",
    "K8V4/",
    "K3V5g4.2/K1V1",
    "affine3g4",
    "sink0-window0",
    "sink2147483647-window2147483647",
];

/// Values that are compiled as well: larger ones give programs that a compiler may take minutes for.
const COMPILED: &[&str] =
    &["3", "K3V5g4.2/K1V1", "affine3g4", "sink0-window0", "sink2147483647-window2147483647"];

fn settings(kernel: &dyn KernelDef, field: &str, value: &str) -> Settings {
    let mut settings = kernel.space().into_iter().next().unwrap_or_default();
    settings.insert(field.to_owned(), value.to_owned());
    settings
}

/// What happened that must not happen, panics among it.
fn caught(what: &str, run: impl FnOnce() -> Option<String>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(found) => found.map(|text| format!("{what}: {text}")),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(format!("{what}: panic: {}", text.unwrap_or_default()))
        }
    }
}

/// What is wrong with a kernel that has `field` at `value`.
fn trouble(kernel: &dyn KernelDef, field: &str, value: &str) -> Option<String> {
    let settings = settings(kernel, field, value);
    caught(&format!("{} {field}={value}", kernel.name()), || {
        let func = match kernel.build(&settings) {
            Ok(func) => func,
            Err(found) => {
                return (!found.to_string().contains("error")).then(|| format!("refused with `{found}`"));
            }
        };
        if !COMPILED.contains(&value) {
            return None;
        }
        let compiler = Compiler::new(KernelCache::without_folder());
        for target in [Target::Host, Target::Gpu(Sm::Sm80)] {
            if let Err(error) = compiler.compile(&func, target) {
                let text = error.to_string();
                if text.contains("internal") || text.is_empty() {
                    return Some(text);
                }
            }
        }
        None
    })
}

/// What is wrong with a workload that has `shape` at `value`.
fn disagreement(recipe: &Recipe, shape: &'static str, value: usize) -> Option<String> {
    caught(&format!("{} {shape}={value}", recipe.kernel), || {
        let kernel = find(recipe.kernel)?;
        let settings = kernel.space().into_iter().next().unwrap_or_default();
        let shapes = recipe.sizes(Size::Small, &[(shape.to_owned(), value)]).ok()?;
        let workload = recipe.make(&settings, &shapes, 3).ok()?;
        let func = kernel.build(&settings).map_err(|found| found.to_string()).ok()?;
        let nothing = workload.grid().contains(&0);
        let options = Options { targets: vec![Sm::Sm80], seed: 3, perturb: false, ptx: None };
        match verify_with(&Compiler::new(KernelCache::without_folder()), &func, &workload, &options) {
            Ok(report) => (!report.passed()).then(|| report.to_string()),
            // A grid without programs is no launch.
            Err(error @ VerifyError::Launch { .. }) if nothing => {
                (!error.to_string().contains("must not be zero")).then(|| error.to_string())
            }
            Err(error) => Some(error.to_string()),
        }
    })
}

#[test]
fn settings_that_nobody_means_are_refused_or_are_kernels() {
    let cases: Vec<(&dyn KernelDef, String, &str)> = KERNELS
        .iter()
        .flat_map(|&kernel| {
            let fields = kernel.fields().into_iter().map(|field| field.name.to_string());
            fields.flat_map(move |field| VALUES.iter().map(move |&value| (kernel, field.clone(), value)))
        })
        .collect();
    let wrong: Vec<String> =
        cases.par_iter().filter_map(|(kernel, field, value)| trouble(*kernel, field, value)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn workloads_of_nothing_and_one_agree_on_every_executor() {
    let cases: Vec<(&Recipe, &'static str, usize)> = RECIPES
        .iter()
        .flat_map(|recipe| {
            recipe.shapes.iter().flat_map(move |shape| [0, 1].map(|n| (recipe, shape.name, n)))
        })
        .collect();
    let wrong: Vec<String> =
        cases.par_iter().filter_map(|&(recipe, shape, value)| disagreement(recipe, shape, value)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
