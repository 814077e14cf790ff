//! `leankv profile`: the modelled counters of a kernel's PTX.

use leankv_kernels::workload::{Shapes, Size};
use leankv_ptx::{Checks, Finding};
use leankv_runtime::roofline::{Roofline, Runs};
use leankv_runtime::verify::{Profile, profile_with};
use leankv_runtime::{Compiler, Target};
use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::roofline;
use crate::select;
use crate::table;
use crate::terminal;
use crate::workload::{Subject, failed, gpus};

/// Runs the command.
pub(crate) fn run(args: &args::Profile, compiler: &Compiler) -> Result<(), Failure> {
    let subject = Subject::new(&args.which.kernel, Size::Typical, &args.shapes, args.seed)?;
    let product = args.roofline.as_deref().map(roofline::product).transpose()?;
    let own = product.map_or_else(|| "sm_80".to_owned(), |product| product.target.to_string());
    let target = args.target.as_ref().unwrap_or(&own);
    let [target] = gpus(std::slice::from_ref(target))?[..] else { unreachable!("one name is one target") };
    if let Some(product) = product.filter(|product| product.target != target) {
        let words = format_args!("{} is {own}, and `--target` says {target}", product.name).to_string();
        return Err(Failure::usage(words).help("leave out `--target`"));
    }
    let settings = select::settings(&args.which.set)?;
    let profiled = |subject: &Subject| {
        let (func, workload) = subject.at(&settings)?;
        let profile = profile_with(compiler, &func, &workload, target, Checks::ALL).map_err(failed)?;
        match profile.findings.first() {
            // Shown with its counters all the same, where those are all there is to show.
            Some(first) if product.is_some() || !args.per.is_empty() => Err(found(&profile, first)),
            _ => Ok((func, profile)),
        }
    };
    let larger = match args.per.first() {
        Some(size) => {
            let units = subject.units(&args.per)?;
            let larger = subject.doubled(size)?;
            Some((larger.units(&args.per)? - units, larger))
        }
        None => None,
    };
    if product.is_none() && larger.is_none() {
        return whole(args, &subject, &profiled(&subject)?.1);
    }

    let (func, profile) = profiled(&subject)?;
    let less = larger.as_ref().map(|(_, larger)| profiled(larger)).transpose()?;
    let runs = match (&less, &larger) {
        (Some((_, run)), Some((units, _))) => Runs { run, less: Some(&profile), units: *units as f64 },
        _ => Runs { run: &profile, less: None, units: 1.0 },
    };
    let compiled = compiler.compile(&func, Target::Gpu(target)).map_err(Failure::kernel)?.kernel;
    let model = product.map(|product| Roofline::of(&product, args.latency, &compiled, &runs));
    let model = model.transpose().map_err(roofline::failed)?;
    let shapes = larger.as_ref().map_or(&subject.shapes, |(_, larger)| &larger.shapes);
    if args.json {
        let document = json!({
            "counters_are": "modelled", "shapes": shapes.to_string(), "profile": runs.run,
            "per": args.per, "units": runs.units, "cost": runs.cost(), "roofline": model,
        });
        println!("{document:#}");
        return Ok(());
    }
    head(runs.run, shapes);
    if let (Some(size), Some((units, larger))) = (args.per.first(), &larger) {
        let (n, twice) = (subject.shapes.get(size), larger.shapes.get(size));
        println!(
            "  per {}: launches with {size}={twice} and {n}, their difference over {units}",
            args.per.join(" x ")
        );
    }
    println!();
    roofline::print(&runs, product.as_ref().zip(model.as_ref()));
    Ok(())
}

fn found(profile: &Profile, first: &Finding) -> Failure {
    Failure::kernel(format_args!("the checks found {} errors, the first: {first}", profile.findings.len()))
}

/// Prints the counters of a whole launch.
fn whole(args: &args::Profile, subject: &Subject, profile: &Profile) -> Result<(), Failure> {
    if args.json {
        let document = json!({
            "counters_are": "modelled", "shapes": subject.shapes.to_string(), "profile": profile,
            "moved_ratios": profile.buffers.iter()
                .filter_map(|b| Some((b.name.clone(), b.moved_ratio()?)))
                .collect::<std::collections::BTreeMap<_, _>>(),
        });
        println!("{document:#}");
    } else if args.annotate {
        println!("// {MODELLED}");
        println!("// {} at {}, {}; {}", profile.kernel, profile.spec, profile.target, subject.shapes);
        print!("{}", profile.annotated());
    } else {
        print(profile, subject);
    }
    profile.findings.first().map_or(Ok(()), |first| Err(found(profile, first)))
}

const MODELLED: &str = "modelled counters: architectural rules (32-byte sectors, 32 banks), not measurements";

fn head(profile: &Profile, shapes: &Shapes) {
    println!("{}, {}", profile.kernel, profile.target);
    if !profile.spec.is_empty() {
        println!("  at {}", profile.spec);
    }
    let [x, y, z] = profile.grid;
    println!("  shapes {shapes}; grid {x} x {y} x {z} of {} threads", profile.threads);
    println!("  {MODELLED}");
}

fn print(profile: &Profile, subject: &Subject) {
    head(profile, &subject.shapes);
    println!();
    println!("{}\n", classes(profile));
    println!("{}\n", totals(profile));
    println!("{}", buffers(profile));
    terminal::print(
        "All in bytes. Asked: sectors of every request; moved: a sector once a program, as a first-level cache that keeps them would have \
         it; must move: sectors that the kernel cannot do without.",
    );
}

/// Instructions by class.
fn classes(profile: &Profile) -> table::Table {
    let counters = &profile.counters;
    let mut table = table::table(["class", "warp instr.", "share", "thread instr.", "lanes"]);
    let mut row = |name: String, warp: u64, lanes: u64| {
        let of = |a: u64, b: u64| a as f64 / b.max(1) as f64;
        table.add_row([
            name,
            warp.to_string(),
            format!("{:.1} %", 100.0 * of(warp, counters.warp_instructions)),
            lanes.to_string(),
            format!("{:.1}", of(lanes, warp)),
        ]);
    };
    for &(class, warp, lanes) in &counters.classes {
        row(words(&format!("{class:?}")), warp, lanes);
    }
    row("all".to_owned(), counters.warp_instructions, counters.thread_instructions);
    table::numbers_from(&mut table, 1);
    table
}

/// Memory, tensor cores, synchronisation.
fn totals(profile: &Profile) -> table::Table {
    let c = &profile.counters;
    let mut table = table::table(["what", "count", "ideal", "count / ideal"]);
    let mut row = |name: &str, count: u64, ideal: Option<u64>| {
        let ratio = ideal.filter(|&ideal| ideal > 0).map(|ideal| count as f64 / ideal as f64);
        let dash = || "-".to_owned();
        table.add_row([
            name.to_owned(),
            count.to_string(),
            ideal.map_or_else(dash, |ideal| ideal.to_string()),
            ratio.map_or_else(dash, |ratio| format!("{ratio:.3}")),
        ]);
    };
    row("global requests", c.global_requests, None);
    row("global 32-byte sectors", c.global_sectors, Some(c.global_ideal_sectors));
    row("bytes of asynchronous copies", c.async_copy_bytes, None);
    row("shared wavefronts", c.shared_wavefronts, Some(c.shared_ideal_wavefronts));
    row("bank conflicts", c.bank_conflicts, None);
    row("mma", c.mma, None);
    row("barriers", c.barriers, None);
    row("divergent branches", c.divergent_branches, None);
    row("atomics", c.atomics, None);
    row("lanes on one address, summed over atomics", c.atomic_contention, Some(c.atomics));
    row("shared bytes of a program", c.shared_bytes, None);
    table::numbers_from(&mut table, 1);
    table
}

/// Bytes by buffer.
fn buffers(profile: &Profile) -> table::Table {
    let mut table = table::table([
        "buffer",
        "bytes",
        "read",
        "sectors asked",
        "sectors moved",
        "must move",
        "moved / must",
        "written",
        "written in sectors",
    ]);
    for buffer in &profile.buffers {
        let dash = || "-".to_owned();
        table.add_row([
            buffer.name.clone(),
            buffer.bytes.to_string(),
            buffer.read_bytes.to_string(),
            buffer.read_sector_bytes.to_string(),
            buffer.distinct_sector_bytes.to_string(),
            buffer.least_read_bytes.map_or_else(dash, |bytes| bytes.to_string()),
            buffer.moved_ratio().map_or_else(dash, |ratio| format!("{ratio:.3}")),
            buffer.written_bytes.to_string(),
            buffer.written_sector_bytes.to_string(),
        ]);
    }
    table::numbers_from(&mut table, 1);
    table
}

/// `GlobalLoad` as `global load`.
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    out
}
