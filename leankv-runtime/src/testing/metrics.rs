//! Counts over PTX text: what a budget is written in.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use super::loops::looped_lines;
use crate::ptx_stats::{access_bytes, opcode_histogram};
use crate::tools::{Ptxas, PtxasEntry, ToolError};

/// What a kernel's PTX holds, and what `ptxas` makes of it.
#[derive(Clone, Debug, Default)]
pub struct PtxMetrics {
    /// Number of instructions by spelling without the predicate: `ld.global.nc.v4.b32` -> 2.
    pub opcodes: BTreeMap<String, u32>,
    /// Those of them that stand in a loop.
    pub looped: BTreeMap<String, u32>,
    /// The most groups of asynchronous copies that a wait in a loop leaves on their way: one less than a pipeline's depth is ahead.
    pub copies_in_flight: u32,
    /// The report of `ptxas`, summed (registers: the largest) over the kernels in the text.
    pub assembled: PtxasEntry,
}

/// A metric's name is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no metric `{name}`; metrics are {}", PtxMetrics::NAMES.join(", "))]
pub struct UnknownMetric {
    /// The name as written.
    pub name: String,
}

impl PtxMetrics {
    /// The names that [`PtxMetrics::get`] knows.
    pub const NAMES: [&'static str; 20] = [
        "regs",
        "spills",
        "stack",
        "shared",
        "instructions",
        "mma",
        "barriers",
        "shuffles",
        "local",
        "calls",
        "divisions",
        "wide_loads",
        "wide_stores",
        "conversions",
        "loop_instructions",
        "loop_loads",
        "loop_conversions",
        "loop_barriers",
        "async_copies",
        "copies_in_flight",
    ];

    /// Counts instructions and assembles the text for `sm` (`"sm_90"`).
    ///
    /// # Errors
    /// When `ptxas` is not installed or refuses the PTX.
    pub fn of(ptx: &str, sm: &str) -> Result<PtxMetrics, ToolError> {
        let mut assembled = PtxasEntry::default();
        for entry in Ptxas::find()?.assemble(ptx, sm)?.entries {
            assembled.name = entry.name;
            assembled.registers = assembled.registers.max(entry.registers);
            assembled.stack_bytes += entry.stack_bytes;
            assembled.spill_store_bytes += entry.spill_store_bytes;
            assembled.spill_load_bytes += entry.spill_load_bytes;
            assembled.shared_bytes += entry.shared_bytes;
            assembled.barriers += entry.barriers;
            assembled.constant_bytes += entry.constant_bytes;
        }
        Ok(PtxMetrics { assembled, ..PtxMetrics::of_text(ptx) })
    }

    /// What the text alone tells.
    fn of_text(ptx: &str) -> PtxMetrics {
        let looped = looped_lines(ptx);
        let waits = looped.lines().filter_map(|line| {
            line.strip_prefix("cp.async.wait_group")?.trim().trim_end_matches(';').parse().ok()
        });
        PtxMetrics {
            opcodes: opcode_histogram(ptx),
            looped: opcode_histogram(&looped),
            copies_in_flight: waits.max().unwrap_or(0),
            assembled: PtxasEntry::default(),
        }
    }

    /// A metric by name: registers, bytes, or a number of instructions.
    ///
    /// # Errors
    /// [`UnknownMetric`], which lists the names.
    pub fn get(&self, name: &str) -> Result<u32, UnknownMetric> {
        Ok(match name {
            "regs" => self.assembled.registers,
            "spills" => self.assembled.spill_store_bytes + self.assembled.spill_load_bytes,
            "stack" => self.assembled.stack_bytes,
            "shared" => self.assembled.shared_bytes,
            "instructions" => self.opcodes.values().sum(),
            "mma" => self.count("mma."),
            "barriers" => barriers(&self.opcodes),
            "shuffles" => self.count("shfl."),
            "local" => self.count("ld.local") + self.count("st.local"),
            "calls" => self.count("call"),
            "divisions" => self.count("div."),
            "wide_loads" => self.accesses("ld.global", 16..),
            "wide_stores" => self.accesses("st.global", 16..),
            "conversions" => sum(&self.opcodes, converts_floats),
            "loop_instructions" => self.looped.values().sum(),
            "loop_loads" => sum(&self.looped, |name| name.starts_with("ld.global")),
            "loop_conversions" => sum(&self.looped, converts_floats),
            "loop_barriers" => barriers(&self.looped),
            // A copy names both spaces; what commits and waits names none.
            "async_copies" => {
                sum(&self.opcodes, |name| name.starts_with("cp.async") && name.contains(".shared"))
            }
            "copies_in_flight" => self.copies_in_flight,
            _ => return Err(UnknownMetric { name: name.to_owned() }),
        })
    }

    /// The number of instructions whose spelling begins with `prefix`.
    pub fn count(&self, prefix: &str) -> u32 {
        sum(&self.opcodes, |name| name.starts_with(prefix))
    }

    /// The number of loads or stores of that spelling whose bytes a thread, over all elements of the vector, are in the range.
    pub fn accesses(&self, prefix: &str, bytes: impl RangeBounds<u32>) -> u32 {
        sum(&self.opcodes, |name| name.starts_with(prefix) && bytes.contains(&access_bytes(name)))
    }
}

fn sum(opcodes: &BTreeMap<String, u32>, wanted: impl Fn(&str) -> bool) -> u32 {
    opcodes.iter().filter(|(name, _)| wanted(name)).map(|(_, n)| n).sum()
}

fn barriers(opcodes: &BTreeMap<String, u32>) -> u32 {
    let names = ["bar.sync", "barrier.sync", "barrier.cta.sync"];
    sum(opcodes, |name| names.iter().any(|barrier| name.starts_with(barrier)))
}

/// Whether a conversion has a float on either side; between integers it is a move.
fn converts_floats(opcode: &str) -> bool {
    opcode.starts_with("cvt.")
        && opcode.split('.').any(|part| {
            part.starts_with("f16") || part.starts_with("bf16") || matches!(part, "f32" | "f64" | "tf32")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_by_spelling_with_predicates_off() {
        let ptx = ".visible .entry k()\n{\n.reg .b32 %r<3>;\n@%p1 bra $L;\n@!%p2 add.s32 %r1, %r2, 1;\n\
            add.s32 %r1, %r1, 1;\nld.global.v2.b32 {%r1, %r2}, [%rd1]; // x;\n$L:\nret;\n}\n";
        let histogram = opcode_histogram(ptx);
        let expect = [("add.s32", 2), ("bra", 1), ("ld.global.v2.b32", 1), ("ret", 1)];
        assert_eq!(histogram, expect.map(|(name, n)| (name.to_owned(), n)).into());
        let metrics = PtxMetrics { opcodes: histogram, ..PtxMetrics::default() };
        assert_eq!(metrics.get("instructions"), Ok(5));
        assert_eq!(metrics.count("ld.global"), 1);
        assert_eq!((metrics.accesses("ld.global", 8..), metrics.accesses("ld.global", ..8)), (1, 0));
        let error = metrics.get("registers").unwrap_err().to_string();
        assert!(error.contains("`registers`") && error.contains("regs, spills"), "{error}");
    }

    #[test]
    fn what_a_loop_repeats_is_counted_apart() {
        let ptx = ".visible .entry k()\n{\nbar.sync 0;\ncp.async.wait_group 3;\n$L:\n\
            cp.async.cg.shared.global [%r1], [%rd1], 16;\ncp.async.commit_group;\ncp.async.wait_group 1;\nbar.sync 0;\n\
            ld.global.nc.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];\nld.global.b16 %rs1, [%rd1];\ncvt.rn.f16x2.f32 %r1, %r2, %r3;\n\
            cvt.u32.u16 %r1, %rs1;\n@%p1 bra $L;\ncp.async.wait_group 0;\nst.global.v2.b64 [%rd1], {%rd2, %rd3};\nret;\n}\n";
        let metrics = PtxMetrics::of_text(ptx);
        let expect = [
            ("barriers", 2),
            ("loop_instructions", 9),
            ("loop_barriers", 1),
            ("loop_loads", 2),
            ("wide_loads", 1),
            ("wide_stores", 1),
            ("conversions", 1),
            ("async_copies", 1),
            ("copies_in_flight", 1),
        ];
        for (name, value) in expect {
            assert_eq!(metrics.get(name), Ok(value), "{name}");
        }
    }
}
