//! Every kernel beside the interpreter and plain Rust.

use leankv_dsl::ir::Func;
use leankv_dsl::lang::{KernelDef, Settings};
use leankv_kernels::KERNELS;
use leankv_kernels::workload::{Size, recipe};
use leankv_runtime::verify::verify_on;
use leankv_runtime::{Compiler, Device};
use serde::Serialize;

use crate::Failure;
use crate::sizes::Sizes;

/// A kernel at one specialisation.
#[derive(Serialize)]
pub(crate) struct Checked {
    pub(crate) kernel: String,
    pub(crate) spec: String,
    /// What is wrong; nothing if all is right.
    pub(crate) wrong: Vec<String>,
}

/// Kernels that do more than their defaults say.
const MORE: [&str; 2] = ["decode_attention", "merge_splits"];

/// The defaults, and what differs from them in one declared value.
fn settings_of(kernel: &dyn KernelDef, sizes: &Sizes) -> Vec<Settings> {
    let mut all = vec![Settings::new()];
    if MORE.contains(&kernel.name()) {
        let more = ["significance", "candidates"].map(|name| (name.to_owned(), "true".to_owned()));
        all.push(more.into_iter().collect());
    }
    if !sizes.quick {
        // The merge reads no page, so that formats are all one to it.
        let same = |name: &str| kernel.name() == "merge_splits" && name == "tiering";
        for field in kernel.fields().iter().filter(|field| !same(field.name)) {
            for value in field.values.iter().filter(|value| field.default.as_ref() != Some(*value)) {
                all.push([(field.name.to_owned(), value.clone())].into_iter().collect());
            }
        }
    }
    // Some are no specialisation without another value beside them.
    all.retain(|settings| kernel.specialisation(settings).is_ok());
    all
}

/// Calls `each` for every kernel at every specialisation that is checked.
fn visit(
    sizes: &Sizes,
    mut each: impl FnMut(&Func, &Settings) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for kernel in KERNELS {
        for settings in settings_of(*kernel, sizes) {
            each(&kernel.build(&settings)?, &settings)?;
        }
    }
    Ok(())
}

/// Compiles what [`run`] runs.
pub(crate) fn load(device: &Device, compiler: &Compiler, sizes: &Sizes) -> Result<(), Failure> {
    visit(sizes, |func, _| {
        compiler.kernel(device, func)?;
        Ok(())
    })
}

/// Runs every kernel.
pub(crate) fn run(device: &Device, compiler: &Compiler, sizes: &Sizes) -> Result<Vec<Checked>, Failure> {
    let mut all = Vec::new();
    visit(sizes, |func, settings| {
        let recipe = recipe(&func.name)?;
        let workload = recipe.make(settings, &recipe.sizes(Size::Small, &[])?, 1)?;
        let wrong = match verify_on(device, compiler, func, &workload) {
            Ok(report) => {
                let wrong = report.runs.iter().filter(|run| !run.passed());
                wrong.map(|run| format!("{}: {}", run.executor, run.details().join("\n"))).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        all.push(Checked { kernel: func.name.clone(), spec: func.spec.clone(), wrong });
        Ok(())
    })?;
    Ok(all)
}
