//! `nvdisasm`: machine code to SASS text.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ToolError, find};

const TOOL: &str = "nvdisasm";

/// A usable `nvdisasm`.
#[derive(Clone, Debug)]
pub struct Nvdisasm {
    path: PathBuf,
}

impl Nvdisasm {
    /// Finds `nvdisasm` (see the [module](crate::tools)).
    ///
    /// # Errors
    /// [`ToolError::NotFound`] or [`ToolError::BadPath`].
    pub fn find() -> Result<Nvdisasm, ToolError> {
        Ok(Nvdisasm { path: find(TOOL, "LEANKV_NVDISASM")? })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SASS of a cubin, as text.
    ///
    /// # Errors
    /// [`ToolError::Refused`] when the bytes are no cubin this tool knows.
    pub fn disassemble(&self, cubin: &[u8]) -> Result<String, ToolError> {
        self.run(cubin, &["-c"])
    }

    /// The same with the line of the PTX before each instruction, of a cubin
    /// [with lines](super::Ptxas::assemble_with_lines).
    ///
    /// # Errors
    /// As [`disassemble`](Self::disassemble).
    pub fn disassemble_with_lines(&self, cubin: &[u8]) -> Result<String, ToolError> {
        self.run(cubin, &["-c", "-gp"])
    }

    fn run(&self, cubin: &[u8], options: &[&str]) -> Result<String, ToolError> {
        let io = |source| ToolError::Io { path: self.path.clone(), source };
        let dir = tempfile::tempdir().map_err(io)?;
        let file = dir.path().join("in.cubin");
        std::fs::write(&file, cubin).map_err(io)?;
        let output = Command::new(&self.path).args(options).arg(&file).output().map_err(io)?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(ToolError::Refused { tool: TOOL, status: output.status, log });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
