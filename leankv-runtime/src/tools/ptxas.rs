//! `ptxas`: assembles PTX for one GPU and reports what the machine code takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{ToolError, find};

const TOOL: &str = "ptxas";

/// A usable `ptxas`.
#[derive(Clone, Debug)]
pub struct Ptxas {
    path: PathBuf,
}

/// Assembled machine code and the report on it.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The ELF image (cubin) that a driver loads and `nvdisasm` reads.
    pub cubin: Vec<u8>,
    /// One report per kernel, in the order of the PTX.
    pub entries: Vec<PtxasEntry>,
}

/// What one kernel takes, as `ptxas -v` reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtxasEntry {
    /// The kernel's name.
    pub name: String,
    /// 32-bit registers per thread.
    pub registers: u32,
    /// Bytes of local memory per thread for arrays and calls.
    pub stack_bytes: u32,
    /// Bytes written by register spills.
    pub spill_store_bytes: u32,
    /// Bytes read back by register spills.
    pub spill_load_bytes: u32,
    /// Bytes of statically declared shared memory per block.
    pub shared_bytes: u32,
    /// Barriers used.
    pub barriers: u32,
    /// Bytes of constant memory, kernel arguments included.
    pub constant_bytes: u32,
}

impl Ptxas {
    /// Finds `ptxas` (see the [module](crate::tools)).
    ///
    /// # Errors
    /// [`ToolError::NotFound`] or [`ToolError::BadPath`].
    pub fn find() -> Result<Ptxas, ToolError> {
        Ok(Ptxas { path: find(TOOL, "LEANKV_PTXAS")? })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Assembles `ptx` for `sm` (`"sm_90"`). Takes 0.1 s for an attention kernel, most of it process start.
    ///
    /// # Errors
    /// [`ToolError::Refused`] with the assembler's own messages when the PTX is not valid for `sm`.
    pub fn assemble(&self, ptx: &str, sm: &str) -> Result<Assembled, ToolError> {
        self.run(ptx, sm, &[])
    }

    /// As [`assemble`](Self::assemble), and the cubin says of each machine instruction which line of the PTX it comes from. The code is the same.
    ///
    /// # Errors
    /// As [`assemble`](Self::assemble).
    pub fn assemble_with_lines(&self, ptx: &str, sm: &str) -> Result<Assembled, ToolError> {
        self.run(ptx, sm, &["-lineinfo"])
    }

    fn run(&self, ptx: &str, sm: &str, options: &[&str]) -> Result<Assembled, ToolError> {
        let io = |source| ToolError::Io { path: self.path.clone(), source };
        let dir = tempfile::tempdir().map_err(io)?;
        // Through a file: a program that ends before it has read a pipe would send SIGPIPE, which ends a process that does
        // not ignore it.
        let (input, cubin) = (dir.path().join("in.ptx"), dir.path().join("out.cubin"));
        std::fs::write(&input, ptx).map_err(io)?;
        let output = Command::new(&self.path)
            .args(["-v", "-arch", sm])
            .args(options)
            .arg(&input)
            .arg("-o")
            .arg(&cubin)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .map_err(io)?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(ToolError::Refused { tool: TOOL, status: output.status, log });
        }
        Ok(Assembled { cubin: std::fs::read(&cubin).map_err(io)?, entries: parse_report(&log)? })
    }
}

/// Reads the report of `ptxas -v`.
fn parse_report(log: &str) -> Result<Vec<PtxasEntry>, ToolError> {
    let mut entries: Vec<PtxasEntry> = Vec::new();
    for line in log.lines() {
        let unreadable = || ToolError::Report { tool: TOOL, line: line.to_owned() };
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (name, _) = rest.split_once('\'').ok_or_else(unreadable)?;
            entries.push(PtxasEntry { name: name.to_owned(), ..PtxasEntry::default() });
        } else if line.contains("bytes stack frame") || line.contains(": Used ") {
            // Device functions, reported before the first kernel, have no entry of their own.
            let Some(entry) = entries.last_mut() else { continue };
            let items = line.rsplit_once(": Used ").map_or(line, |(_, used)| used);
            for item in items.split(',').map(str::trim) {
                entry.read(item).ok_or_else(unreadable)?;
            }
        }
    }
    Ok(entries)
}

impl PtxasEntry {
    /// Takes in one item such as `26 registers` or `512 bytes smem`.
    fn read(&mut self, item: &str) -> Option<()> {
        let item = item.strip_prefix("used ").unwrap_or(item);
        let (number, what) = item.split_once(' ')?;
        let number = number.parse().ok()?;
        match what {
            "registers" => self.registers = number,
            "barriers" => self.barriers = number,
            "bytes stack frame" | "bytes cumulative stack size" => {
                self.stack_bytes = self.stack_bytes.max(number)
            }
            "bytes spill stores" => self.spill_store_bytes = number,
            "bytes spill loads" => self.spill_load_bytes = number,
            "bytes smem" => self.shared_bytes = number,
            _ if what.starts_with("bytes cmem") => self.constant_bytes += number,
            // lmem repeats the stack frame; textures, surfaces and samplers are nothing we emit.
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "
        .version 8.0
        .target sm_80
        .address_size 64
        .visible .entry twice(.param .u64 p) {
            .reg .b64 %rd<3>; .reg .b32 %r<4>;
            .shared .align 4 .b8 s[512];
            ld.param.u64 %rd1, [p];
            mov.u32 %r1, %tid.x;
            mov.u32 %r2, s;
            st.shared.u32 [%r2], %r1;
            bar.sync 0;
            ld.shared.u32 %r3, [%r2];
            st.global.u32 [%rd1], %r3;
            ret;
        }";

    #[test]
    fn reports_of_different_ptxas_versions_are_read_whatever_their_order() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a' for 'sm_80'\n\
            ptxas info    : Function properties for a\n    \
            16 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads\n\
            ptxas info    : Used 26 registers, used 1 barriers, 380 bytes cmem[0], 8 bytes cmem[2], 512 bytes smem\n\
            ptxas info    : Compile time = 10.1 ms\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Used 8 registers, 64 bytes cumulative stack size, 360 bytes cmem[0]\n";
        let entries = parse_report(log).unwrap();
        let a = PtxasEntry {
            name: "a".into(),
            registers: 26,
            stack_bytes: 16,
            spill_store_bytes: 24,
            spill_load_bytes: 28,
            shared_bytes: 512,
            barriers: 1,
            constant_bytes: 388,
        };
        let b = PtxasEntry {
            name: "b".into(),
            registers: 8,
            stack_bytes: 64,
            constant_bytes: 360,
            ..PtxasEntry::default()
        };
        assert_eq!(entries, [a, b]);
        let odd = "x: Compiling entry function 'a' for 'sm_80'\nptxas info : Used many registers";
        assert!(matches!(parse_report(odd), Err(ToolError::Report { .. })));
    }

    #[test]
    fn valid_ptx_gives_machine_code_with_its_resources() {
        let assembled = Ptxas::find().unwrap().assemble(PTX, "sm_80").unwrap();
        assert!(assembled.cubin.starts_with(b"\x7fELF"));
        let [entry] = &assembled.entries[..] else { panic!("{:?}", assembled.entries) };
        assert_eq!((&entry.name[..], entry.shared_bytes, entry.barriers), ("twice", 512, 1));
        assert!((4..=32).contains(&entry.registers), "{entry:?}");
        let sass = crate::tools::Nvdisasm::find().unwrap().disassemble(&assembled.cubin).unwrap();
        assert!(sass.contains("BAR.SYNC") && sass.contains("STG.E"), "{sass}");
    }

    #[test]
    fn lines_of_the_ptx_stand_beside_the_same_machine_code() {
        let (ptxas, disassembler) = (Ptxas::find().unwrap(), crate::tools::Nvdisasm::find().unwrap());
        let plain = disassembler.disassemble(&ptxas.assemble(PTX, "sm_90").unwrap().cubin).unwrap();
        let lined = ptxas.assemble_with_lines(PTX, "sm_90").unwrap();
        let lined = disassembler.disassemble_with_lines(&lined.cubin).unwrap();
        let code = |sass: &str| -> Vec<String> {
            sass.lines().filter(|line| line.trim_start().starts_with("/*")).map(str::to_owned).collect()
        };
        assert_eq!(code(&plain), code(&lined));
        assert!(lined.contains(", line 12\n"), "{lined}");
    }

    #[test]
    fn wrong_ptx_and_an_unknown_gpu_are_errors_with_the_assemblers_words() {
        let ptxas = Ptxas::find().unwrap();
        let error = ptxas.assemble(&PTX.replace("st.global", "st.glbal"), "sm_80").unwrap_err().to_string();
        assert!(error.contains("Unknown modifier '.glbal'"), "{error}");
        let error = ptxas.assemble(PTX, "sm_8").unwrap_err().to_string();
        assert!(error.contains("sm_8"), "{error}");
        // Larger than a pipe's buffer, and refused at its first line.
        let long = format!("nonsense\n{}", "// filler\n".repeat(100_000));
        assert!(matches!(ptxas.assemble(&long, "sm_80"), Err(ToolError::Refused { .. })));
    }
}
