//! How near a quick search for the fastest specialisation comes to the best of all candidates, and with how many of the measurements. On the host, kernels whose spaces are large there.

use std::time::Instant;

use leankv_dsl::lang::Settings;
use leankv_kernels::find;
use leankv_kernels::workload::{Size, recipe};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::tune::{Effort, Found, Tuner};
use leankv_runtime::{Compiler, Device};

use crate::common::{Outcome, Row, row, settings};

/// A name for people, the kernel, where the search begins, and sizes of the workload.
type Tuned =
    (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, usize)]);

const TUNED: [Tuned; 4] = [
    ("matmul", "matmul", &[("stages", "1")], &[("m", 256), ("n", 256), ("k", 256)]),
    (
        "matmul from its smallest blocks",
        "matmul",
        &[("bm", "16"), ("bn", "16"), ("bk", "16"), ("stages", "1")],
        &[("m", 256), ("n", 256), ("k", 256)],
    ),
    (
        "cached_significance",
        "cached_significance",
        &[("tiering", "K8V4/K4V2"), ("stages", "1")],
        &[("kv_heads", 4), ("tokens", 512), ("low_tokens", 512), ("queries", 128)],
    ),
    (
        "chunk_attention",
        "chunk_attention",
        &[("tiering", "K8V4"), ("stages", "1")],
        &[("kv_heads", 4), ("tokens", 512), ("queries", 128)],
    ),
];

/// Two rows a kernel.
pub(crate) fn rows() -> Outcome<Vec<Row>> {
    let (compiler, device) = (Compiler::new(KernelCache::without_folder()), Device::host());
    let tuner = |effort| Tuner::new(&compiler, &device).effort(effort);
    let mut rows = Vec::new();
    for (what, name, set, sizes) in TUNED {
        let start = Instant::now();
        let quick = tune(&tuner(Effort::Quick), name, &settings(set), sizes)?;
        let seconds = start.elapsed().as_secs_f64();
        // From there on, so that the last race is between what the quick search found and the best of all.
        let full = tune(&tuner(Effort::Full), name, &quick.best, sizes)?;
        eprintln!("{quick}\n{full}");
        let (behind, part) = (full.gain.median, quick.timed() as f64 / full.timed() as f64);
        rows.push(row(
            format!("{what}: the quick search's time over the best of all {} different ones", full.timed()),
            "<= 1.03",
            format!("{behind:.3}"),
            behind <= 1.03,
        ));
        rows.push(row(
            format!("{what}: measurements of the quick search ({seconds:.0} s) over all"),
            "<= 0.25",
            format!("{part:.2}"),
            part <= 0.25,
        ));
    }
    Ok(rows)
}

fn tune(tuner: &Tuner<'_>, name: &str, set: &Settings, sizes: &[(&str, usize)]) -> Outcome<Found<Settings>> {
    let (kernel, recipe) = (find(name).ok_or("it is not shipped")?, recipe(name)?);
    let sizes: Vec<(String, usize)> = sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
    let (small, timed) = (recipe.sizes(Size::Small, &[])?, recipe.sizes(Size::Typical, &sizes)?);
    let checked = |set: &Settings| recipe.make(set, &small, 1).map_err(|e| e.to_string());
    let large = |set: &Settings| recipe.make(set, &timed, 1).map_err(|e| e.to_string());
    // SAFETY: a recipe's sizes change how many tiles and pages a kernel reaches, and nothing else.
    Ok(unsafe { tuner.tune_settings(kernel, set, &checked, &large) }?)
}
