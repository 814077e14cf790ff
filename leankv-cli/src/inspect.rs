//! `leankv inspect`: what a kernel takes of each target.

use leankv_runtime::{Compiler, Resources, Target};
use serde_json::json;

use crate::args;
use crate::failure::Failure;
use crate::registry;
use crate::select;
use crate::table::{self, Table};
use crate::terminal;

/// Runs the command.
pub(crate) fn run(args: &args::Inspect, compiler: &Compiler) -> Result<(), Failure> {
    let targets =
        if args.target.is_empty() { Target::all().collect() } else { select::targets(&args.target)? };
    let kernel = registry::find(&args.which.kernel)?;
    let func = registry::build(kernel, &select::settings(&args.which.set)?)?;
    let mut rows = Vec::new();
    let mut signature = None;
    for target in targets {
        let compiled = compiler.compile(&func, target).map_err(Failure::kernel)?;
        rows.push(compiled.kernel.resources().map_err(Failure::machine)?);
        signature = Some(compiled.kernel.info.signature);
    }
    if args.json {
        let document = json!({ "kernel": func.name, "spec": func.spec, "resources": rows });
        println!("{document:#}");
        return Ok(());
    }
    if let Some(signature) = signature {
        terminal::print(&signature.to_string());
    }
    if !func.spec.is_empty() {
        println!("  at {}", func.spec);
    }
    println!("{}", resources(&rows));
    let mut notes: Vec<&String> = rows.iter().flat_map(|r| &r.notes).collect();
    notes.sort();
    notes.dedup();
    for note in notes {
        terminal::print(&format!("note: {note}"));
    }
    Ok(())
}

/// Resources as a table, a row a target.
pub(crate) fn resources(rows: &[Resources]) -> Table {
    let mut table = table::table([
        "target",
        "threads",
        "registers",
        "spill B",
        "stack B",
        "shared B",
        "PTX lines",
        "instr.",
        "mma",
        "16 B access",
        "code B",
        "compile ms",
    ]);
    for row in rows {
        let asm = row.assembled.as_ref();
        let gpu = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let shared = asm.map(|a| a.shared_bytes + row.dynamic_shared_bytes);
        table.add_row([
            row.target.to_string(),
            row.threads.to_string(),
            gpu(asm.map(|a| a.registers.to_string())),
            gpu(asm.map(|a| (a.spill_store_bytes + a.spill_load_bytes).to_string())),
            gpu(asm.map(|a| a.stack_bytes.to_string())),
            gpu(shared.map(|bytes| bytes.to_string())),
            gpu(row.ptx.as_ref().map(|p| p.lines.to_string())),
            gpu(row.ptx.as_ref().map(|p| p.instructions.to_string())),
            gpu(row.ptx.as_ref().map(|p| p.count("mma").to_string())),
            gpu(row
                .ptx
                .as_ref()
                .map(|p| format!("{}/{}", p.wide_global_accesses.0, p.wide_global_accesses.1))),
            row.code_bytes.to_string(),
            format!("{:.1}", row.compile_ms),
        ]);
    }
    table::numbers_from(&mut table, 1);
    table
}
