//! Which part of a multiprocessor an instruction takes, and for how long.
//!
//! Sources: rates are those of the CUDA C++ Programming Guide, table "Throughput of Native Arithmetic Instructions" (results a cycle and
//! multiprocessor); those of tensor cores are the dense peaks of NVIDIA's data sheets over multiprocessors and clock; shared memory and the
//! first-level cache give 128 bytes a cycle, and four schedulers issue one warp instruction a cycle each (tuning guides). Which opcode
//! stands for which row of the guide's table is read off machine code: NVIDIA documents opcodes by name only. `MOVM` is in no table; it
//! is taken for a shuffle.

use leankv_dsl::target::NvptxTarget;
use leankv_ptx::InstrCounters;
use serde::Serialize;

use super::sass::Instr;

/// A part of a multiprocessor that all its warps share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pipe {
    /// The schedulers: every instruction.
    Issue,
    /// Integer and logical operations, comparisons, minima.
    Alu,
    /// Multiply-adds of `f32`, `f16` and integers.
    Fma,
    /// Approximate functions and most conversions.
    Xu,
    /// Tensor cores.
    Tensor,
    /// Loads, stores, shuffles.
    Lsu,
}

impl Pipe {
    /// All pipes, in the order of tables.
    pub const ALL: [Pipe; 6] = [Pipe::Issue, Pipe::Alu, Pipe::Fma, Pipe::Xu, Pipe::Tensor, Pipe::Lsu];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Pipe::Issue => "issue",
            Pipe::Alu => "ALU",
            Pipe::Fma => "FMA",
            Pipe::Xu => "XU",
            Pipe::Tensor => "tensor",
            Pipe::Lsu => "LSU",
        }
    }
}

/// Warp instructions that a multiprocessor issues in a cycle.
pub const ISSUE: f64 = 4.0;

/// Bytes that shared memory or the first-level cache gives in a cycle.
pub const LSU_BYTES: f64 = 128.0;

/// Opcodes that take a pipe alike.
struct Row {
    pipe: Pipe,
    /// Lanes a cycle and multiprocessor on sm_80; on sm_86, sm_89 and sm_120; on sm_90 and sm_100.
    lanes: [f64; 3],
    opcodes: &'static str,
}

const TABLE: &[Row] = &[
    // 32-bit integer add, compare, minimum, shift, logical; conversions of 8 and 16 bits; votes.
    Row {
        pipe: Pipe::Alu,
        lanes: [64.0; 3],
        opcodes: "BMSK F2FP FCHK FMNMX FMNMX3 FSEL FSET FSETP HMNMX2 HSET2 HSETP2 I2FP IABS IADD \
                  IADD3 ICMP IMNMX ISETP LEA LOP LOP3 MOV P2R PLOP3 PRMT R2P SEL SGXT SHF SHL SHR \
                  VABSDIFF VHMNMX VIADD VIADDMNMX VIMNMX VIMNMX3 VOTE VOTEU",
    },
    // 32-bit floating-point add, multiply, multiply-add.
    Row { pipe: Pipe::Fma, lanes: [64.0, 128.0, 128.0], opcodes: "FADD FFMA FMUL" },
    // 32-bit integer multiply-add.
    Row { pipe: Pipe::Fma, lanes: [64.0; 3], opcodes: "IDP IMAD IMUL" },
    // 16-bit floating-point add, multiply, multiply-add: 256 or 128 results, two a lane.
    Row { pipe: Pipe::Fma, lanes: [128.0, 64.0, 128.0], opcodes: "HADD2 HFMA2 HMUL2" },
    // Reciprocal, square root, exponential; all other conversions; bit counts.
    Row { pipe: Pipe::Xu, lanes: [16.0; 3], opcodes: "BREV F2F F2I FLO FRND I2F MUFU POPC" },
    // Loads and stores: 32 addresses a cycle, and as many cycles as the data take. Warp shuffles.
    Row {
        pipe: Pipe::Lsu,
        lanes: [32.0; 3],
        opcodes: "ATOM ATOMG ATOMS LD LDG LDGSTS LDL LDS LDSM MOVM RED REDG SHFL ST STG STL STS STSM \
                  UBLKCP",
    },
    // Warp reductions and matches.
    Row { pipe: Pipe::Lsu, lanes: [16.0; 3], opcodes: "MATCH REDUX" },
];

/// Opcodes that take the schedulers alone: control, barriers, constants, special registers. So do those of the uniform datapath (`U..`).
const ISSUE_ONLY: &str = "ACQBULK BAR BMOV BPT BRA BREAK BRX BSSY BSYNC CALL CCTL CS2R DEPBAR ELECT ENDCOLLECTIVE ERRBAR \
     EXIT FENCE LDC LDGDEPBAR MEMBAR NANOSLEEP NOP PREEXIT R2UR RET S2R S2UR SYNCS WARPGROUP WARPSYNC \
     YIELD";

/// Multiply-adds of 16 bits that tensor cores do in a cycle; of 8 bits it is twice as many.
fn multiply_adds(target: NvptxTarget) -> f64 {
    match target {
        NvptxTarget::Sm80 => 1024.0,
        NvptxTarget::Sm86 | NvptxTarget::Sm89 | NvptxTarget::Sm120 => 512.0,
        NvptxTarget::Sm90 | NvptxTarget::Sm100 => 2048.0,
    }
}

fn column(target: NvptxTarget) -> usize {
    match target {
        NvptxTarget::Sm80 => 0,
        NvptxTarget::Sm86 | NvptxTarget::Sm89 | NvptxTarget::Sm120 => 1,
        NvptxTarget::Sm90 | NvptxTarget::Sm100 => 2,
    }
}

/// The pipe that a warp instruction takes besides the schedulers, and cycles of a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Takes {
    Pipe(Pipe, f64),
    /// Nothing but the schedulers.
    Nothing,
    /// The opcode is not in the table: taken for one of the ALU.
    Unknown(f64),
}

fn has(opcodes: &str, opcode: &str) -> bool {
    opcodes.split_whitespace().any(|other| other == opcode)
}

/// What an instruction takes; `line` has the counters of its PTX line, by which data of memory accesses are known.
pub(super) fn takes(instr: &Instr, target: NvptxTarget, line: &InstrCounters) -> Takes {
    let base = instr.base();
    if let Some(cycles) = tensor(instr, target) {
        return Takes::Pipe(Pipe::Tensor, cycles);
    }
    if let Some(row) = TABLE.iter().find(|row| has(row.opcodes, base)) {
        let cycles = 32.0 / row.lanes[column(target)];
        let data = if row.pipe == Pipe::Lsu { data_cycles(line) } else { 0.0 };
        return Takes::Pipe(row.pipe, cycles.max(data));
    }
    if has(ISSUE_ONLY, base) || base.starts_with('U') { Takes::Nothing } else { Takes::Unknown(0.5) }
}

/// Cycles that the data of one execution take: wavefronts of shared memory, sectors of global memory.
fn data_cycles(line: &InstrCounters) -> f64 {
    let wavefronts = line.wavefronts.max((line.sectors as f64 * 32.0 / LSU_BYTES).ceil() as u64);
    wavefronts as f64 / line.warp.max(1) as f64
}

/// Cycles of a product: `HMMA.16816.F32`, `IMMA.16832.U8.S8`, `HGMMA.64x64x16.F32`.
fn tensor(instr: &Instr, target: NvptxTarget) -> Option<f64> {
    let bytes = match instr.base() {
        "HMMA" | "HGMMA" => 2.0,
        "IMMA" | "IGMMA" | "QMMA" | "QGMMA" => 1.0,
        _ => return None,
    };
    let shape = instr.opcode.split('.').nth(1).unwrap_or_default();
    let products = match shape {
        "16816" => 2048.0,
        "16832" => 4096.0,
        "16864" => 8192.0,
        "1688" | "8816" => 1024.0,
        "884" => 256.0,
        // Of a group of four warps, each of which issues it.
        _ => shape.split('x').map(|n| n.parse::<f64>().ok()).product::<Option<f64>>()? / 4.0,
    };
    // tf32 is as wide as two halves.
    let width = if instr.opcode.contains("TF32") { 2.0 } else { 1.0 };
    Some(products * width * bytes / 2.0 / multiply_adds(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instr(opcode: &str) -> Instr {
        Instr { address: 0, guarded: false, opcode: opcode.to_owned(), operands: String::new(), line: 1 }
    }

    #[test]
    fn opcodes_are_in_one_row_and_take_what_the_guide_says() {
        let mut all: Vec<&str> = TABLE
            .iter()
            .flat_map(|row| row.opcodes.split_whitespace())
            .chain(ISSUE_ONLY.split_whitespace())
            .collect();
        let opcodes = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), opcodes, "no opcode has two rows");

        let (sm80, sm89, sm90) = (NvptxTarget::Sm80, NvptxTarget::Sm89, NvptxTarget::Sm90);
        let line = InstrCounters::default();
        for (opcode, target, expected) in [
            ("LOP3.LUT", sm90, Takes::Pipe(Pipe::Alu, 0.5)),
            ("FFMA", sm90, Takes::Pipe(Pipe::Fma, 0.25)),
            ("FFMA", sm80, Takes::Pipe(Pipe::Fma, 0.5)),
            ("IMAD.WIDE.U32", sm90, Takes::Pipe(Pipe::Fma, 0.5)),
            ("HFMA2.MMA", sm89, Takes::Pipe(Pipe::Fma, 0.5)),
            ("MUFU.EX2", sm80, Takes::Pipe(Pipe::Xu, 2.0)),
            ("SHFL.BFLY", sm90, Takes::Pipe(Pipe::Lsu, 1.0)),
            ("HMMA.16816.F32", sm80, Takes::Pipe(Pipe::Tensor, 2.0)),
            ("HMMA.16816.F32", sm90, Takes::Pipe(Pipe::Tensor, 1.0)),
            ("IMMA.16832.U8.S8", sm90, Takes::Pipe(Pipe::Tensor, 1.0)),
            ("HMMA.1688.F32.TF32", sm80, Takes::Pipe(Pipe::Tensor, 2.0)),
            ("HGMMA.64x64x16.F32", sm90, Takes::Pipe(Pipe::Tensor, 8.0)),
            ("UIADD3", sm90, Takes::Nothing),
            ("BAR.SYNC", sm90, Takes::Nothing),
            ("XYZZY.F32", sm90, Takes::Unknown(0.5)),
        ] {
            assert_eq!(takes(&instr(opcode), target, &line), expected, "{opcode} on {target}");
        }
    }

    #[test]
    fn accesses_take_as_long_as_their_data() {
        let takes = |opcode, counters| takes(&instr(opcode), NvptxTarget::Sm90, &counters);
        let counters =
            |wavefronts, sectors| InstrCounters { warp: 2, wavefronts, sectors, ..Default::default() };
        assert_eq!(takes("LDS.128", counters(8, 0)), Takes::Pipe(Pipe::Lsu, 4.0));
        assert_eq!(takes("LDG.E.128", counters(0, 32)), Takes::Pipe(Pipe::Lsu, 4.0));
        assert_eq!(takes("LDG.E", counters(0, 2)), Takes::Pipe(Pipe::Lsu, 1.0));
    }
}
