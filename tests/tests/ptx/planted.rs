//! Faults of a compiler, planted into the PTX of shipped kernels: each moves the numbers that tables and budgets are made of.

use leankv_runtime::testing::{PtxMetrics, PtxSource};

use super::kernel;

/// A metric's name, its value before and after.
type Moved = (&'static str, u32, u32);

/// The metrics that `plant` moves.
fn moved(ptx: &str, plant: impl Fn(&str) -> String) -> Vec<Moved> {
    let planted = plant(ptx);
    let [before, after] =
        [ptx, &planted].map(|text| PtxMetrics::of(text, "sm_80").unwrap_or_else(|e| panic!("{e}\n{text}")));
    let of = |metrics: &PtxMetrics, name| metrics.get(name).expect("the metric is known");
    PtxMetrics::NAMES
        .into_iter()
        // What ptxas makes of a fault is its own affair.
        .filter(|name| !matches!(*name, "regs" | "spills" | "stack" | "shared"))
        .map(|name| (name, of(&before, name), of(&after, name)))
        .filter(|(_, before, after)| before != after)
        .collect()
}

#[track_caller]
fn assert_moves(found: &[Moved], name: &str, by: i64) {
    let wanted =
        |&(found, before, after): &Moved| found == name && i64::from(after) - i64::from(before) == by;
    assert!(found.iter().any(wanted), "`{name}` does not move by {by}: {found:?}");
}

fn decode() -> String {
    kernel("decode_attention", &[("tiering", "K8V4"), ("block", "16"), ("stages", "1")]).ptx("sm_80").unwrap()
}

fn pipelined() -> String {
    kernel("matmul", &[("stages", "3")]).ptx("sm_80").unwrap()
}

/// The first line that `wanted` likes, replaced.
fn replace_line(ptx: &str, wanted: impl Fn(&str) -> bool, with: impl Fn(&str) -> String) -> String {
    let line = ptx.lines().find(|line| wanted(line.trim())).expect("there is such a line");
    ptx.replacen(&format!("{line}\n"), &format!("{}\n", with(line.trim())), 1)
}

/// `ld.global.nc.v4.b32 {a, b, c, d}, [at];` as four loads.
fn in_pieces(line: &str) -> String {
    let (head, rest) = line.split_once(".v4.b32").expect("a vector of words");
    let (registers, at) = rest.split_once('}').expect("registers in braces");
    let at = at.trim_start_matches(',').trim().trim_start_matches('[').trim_end_matches("];");
    let registers = registers.trim().trim_start_matches('{').split(',');
    let load = |(i, register): (usize, &str)| format!("{head}.b32 {}, [{at}+{}];", register.trim(), 4 * i);
    registers.enumerate().map(load).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_vector_load_in_pieces() {
    // An address without an offset, so that pieces can have one.
    let vector =
        |line: &str| line.contains("ld.global.nc.v4.b32") && line.contains('}') && !line.contains('+');
    let add = kernel("vector_add", &[("block", "1024")]).ptx("sm_80").unwrap();
    let found = moved(&add, |ptx| replace_line(ptx, vector, in_pieces));
    assert_moves(&found, "wide_loads", -1);
}

#[test]
fn a_conversion_more() {
    let found = moved(&decode(), |ptx| {
        let exponential = |line: &str| line.starts_with("ex2.approx.f32");
        replace_line(ptx, exponential, |line| {
            let register = line.split_whitespace().nth(1).expect("a destination").trim_end_matches(',');
            format!("{line}\n{{\n.reg .b16 %half;\ncvt.rn.f16.f32 %half, {register};\n}}")
        })
    });
    assert_moves(&found, "conversions", 1);
}

#[test]
fn a_barrier_more_in_a_loop() {
    let barrier = |line: &str| line.starts_with("bar.sync");
    let found = moved(&pipelined(), |ptx| replace_line(ptx, barrier, |line| format!("{line}\n{line}")));
    assert_moves(&found, "loop_barriers", 1);
}

#[test]
fn a_pipeline_that_waits_for_everything() {
    let wait = |line: &str| line.starts_with("cp.async.wait_group");
    let found = moved(&pipelined(), |ptx| replace_line(ptx, wait, |_| "cp.async.wait_group 0;".to_owned()));
    assert_eq!(found, [("copies_in_flight", 1, 0)]);
}

#[test]
fn an_invariant_that_stays_in_its_loop() {
    let found = moved(&pipelined(), |ptx| {
        let mut lines: Vec<&str> = ptx.lines().collect();
        let starts_loop = |&at: &usize| {
            let label = lines[at].trim().strip_suffix(':');
            label.is_some_and(|label| {
                lines[at..].iter().any(|line| line.contains("bra") && line.contains(label))
            })
        };
        let label = (0..lines.len()).find(starts_loop).expect("there is a loop");
        let invariant = lines[..label].iter().rposition(|line| line.trim().starts_with("and.b32"));
        let line = lines.remove(invariant.expect("something is computed before it"));
        lines.insert(label, line);
        lines.join("\n") + "\n"
    });
    assert_eq!(found.iter().map(|m| m.0).collect::<Vec<_>>(), ["loop_instructions"]);
}
