//! The cache's numbers on the host device, in one run: what its page manager costs, what formats cost in bytes and in time, and what serving
//! wastes.
//!
//! ```text
//! cargo bench -p leankv-runtime --bench cache [-- managers share formats waste metadata]
//! ```
//!
//! * Figures are ratios of times taken in turns within one run. Nothing fails when a bar is missed: this machine may be busy.
//! * A step here is the cache's part of a step: planning, pages, insertion, attention. A model's matrix products are not in it, so that the manager's
//!   share of a served step is smaller than what is printed.

#[path = "../common/mod.rs"]
mod common;
mod formats;
mod managers;
mod metadata;
mod share;
mod waste;

use std::process::ExitCode;
use std::time::Instant;

use common::{Outcome, Row};
use leankv_runtime::Compiler;
use leankv_runtime::cache::KernelCache;

type Section = fn(&Compiler, &mut Vec<Row>) -> Outcome<()>;

const SECTIONS: [(&str, &str, Section); 5] = [
    ("managers", "the page manager, parallel against sequential", managers::section),
    ("share", "the page manager's share of decode steps and prompts", share::section),
    ("formats", "decode attention's time against bytes", formats::section),
    ("waste", "bytes that hold no token while serving", waste::section),
    ("metadata", "bytes of a token", metadata::section),
];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if let Some(unknown) =
        asked.iter().find(|asked| SECTIONS.iter().all(|section| section.0 != asked.as_str()))
    {
        eprintln!(
            "there is no section `{unknown}`; there are {}",
            SECTIONS.map(|section| section.0).join(", ")
        );
        return ExitCode::FAILURE;
    }
    let compiler = Compiler::new(KernelCache::user());
    println!("{} threads", rayon::current_num_threads());
    let mut rows = Vec::new();
    for (name, what, section) in SECTIONS {
        if !asked.is_empty() && !asked.iter().any(|asked| asked == name) {
            continue;
        }
        println!("\n== {name}: {what}");
        let start = Instant::now();
        if let Err(error) = section(&compiler, &mut rows) {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
        println!("({:.0} s)", start.elapsed().as_secs_f64());
    }
    if !rows.is_empty() {
        println!("\n== bars");
        common::print(&rows);
    }
    ExitCode::SUCCESS
}
