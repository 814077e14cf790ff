//! Counts over PTX text: what a budget is written in.

use std::collections::BTreeMap;

use crate::ptx_stats::opcode_histogram;
use crate::tools::{Ptxas, PtxasEntry, ToolError};

/// What a kernel's PTX holds, and what `ptxas` makes of it.
#[derive(Clone, Debug, Default)]
pub struct PtxMetrics {
    /// Number of instructions by spelling without the predicate: `ld.global.nc.v4.b32` -> 2.
    pub opcodes: BTreeMap<String, u32>,
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
    pub const NAMES: [&'static str; 11] = [
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
        Ok(PtxMetrics { opcodes: opcode_histogram(ptx), assembled })
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
            "barriers" => {
                self.count("bar.sync") + self.count("barrier.sync") + self.count("barrier.cta.sync")
            }
            "shuffles" => self.count("shfl."),
            "local" => self.count("ld.local") + self.count("st.local"),
            "calls" => self.count("call"),
            "divisions" => self.count("div."),
            _ => return Err(UnknownMetric { name: name.to_owned() }),
        })
    }

    /// The number of instructions whose spelling begins with `prefix`.
    pub fn count(&self, prefix: &str) -> u32 {
        self.opcodes.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, n)| n).sum()
    }
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
        let error = metrics.get("registers").unwrap_err().to_string();
        assert!(error.contains("`registers`") && error.contains("regs, spills"), "{error}");
    }
}
