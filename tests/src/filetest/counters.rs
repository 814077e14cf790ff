//! `launch` lines: launches on the PTX machine whose modelled counters are the test's output.

use leankv_dsl::codegen::nvptx::{NvptxTarget, UnknownTarget};
use leankv_dsl::ir::Func;
use leankv_ptx::{Checks, Config, Counters};

use super::run::launch_case;
use crate::conformance::executors::ptx::launch;

/// Runs each line's launch of the first kernel and prints what it cost, for `CHECK` lines.
pub(super) fn counters(text: &str, funcs: &[Func], sm: &str) -> Result<String, String> {
    let target: NvptxTarget = format!("sm_{sm}").parse().map_err(|e: UnknownTarget| e.to_string())?;
    let func = funcs.first().ok_or("there is no kernel")?;
    let mut out = String::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("; launch:")) {
        let case = launch_case(line, func)?;
        let config = Config { checks: Checks::ALL, ..Config::default() };
        let (report, _) = launch(&case, func.num_warps, target, config).map_err(|e| format!("{e:?}"))?;
        out.push_str(&show(&report.counters));
    }
    if out.is_empty() { Err("no line `; launch: ..`".to_owned()) } else { Ok(out) }
}

/// A line a counter; "least" is what the bytes asked for cannot do without.
fn show(c: &Counters) -> String {
    format!(
        "global sectors {} least {}\nshared wavefronts {} least {}\nbank conflicts {}\nbarriers {}\nmma {}\nasync bytes {}\n",
        c.global_sectors,
        c.global_ideal_sectors,
        c.shared_wavefronts,
        c.shared_ideal_wavefronts,
        c.bank_conflicts,
        c.barriers,
        c.mma,
        c.async_copy_bytes,
    )
}
