//! Compiled kernels as values: what was compiled, for what, and the code, in a form that caches and bundles store.

use leankv_dsl::codegen::HostArtifact;
use serde::{Deserialize, Serialize};

use crate::ptx_stats::PtxStats;
use crate::signature::Signature;
use crate::target::Target;
use crate::tools::{Assembled, Ptxas, PtxasEntry, ToolError};

/// A kernel compiled for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledKernel {
    /// Everything but the texts and the code.
    pub info: KernelInfo,
    /// The tile IR that was lowered, after all passes.
    pub tile_ir: String,
    /// LLVM IR: after LLVM's passes for the host, before them for a GPU. Empty unless it was asked for.
    pub llvm_ir: String,
    /// The code.
    pub code: Code,
}

/// What is known of a compiled kernel besides its code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// What it takes.
    pub signature: Signature,
    /// The specialisation, for messages.
    pub spec: String,
    /// What it was compiled for.
    pub target: Target,
    /// The processor the code needs: `sm_90`, or the host's CPU and features.
    pub processor: String,
    /// Name of the entry point in the code.
    pub entry: String,
    /// Threads per program on a GPU; 1 on the host.
    pub threads: u32,
    /// Bytes of shared memory that the code declares, per program on a GPU; 0 on the host.
    pub static_shared_bytes: u32,
    /// Bytes of shared memory that a launch must ask for, per program on a GPU; 0 on the host.
    pub dynamic_shared_bytes: u32,
    /// What the compiler did that a reader of the resources should know (a `dot` without tensor cores, for one).
    pub notes: Vec<String>,
    /// Milliseconds from tile IR to code, when it was compiled.
    pub compile_ms: f64,
}

/// Code in the form its target loads.
#[derive(Clone, Debug, PartialEq)]
pub enum Code {
    /// PTX text.
    Ptx(String),
    /// A host object with what its loader needs.
    Host(HostArtifact),
}

/// What a kernel takes of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// The target.
    pub target: Target,
    /// Threads per program.
    pub threads: u32,
    /// Dynamic shared memory per program, in bytes.
    pub dynamic_shared_bytes: u32,
    /// Static counts of the PTX; `None` on the host.
    pub ptx: Option<PtxStats>,
    /// The assembler's report; `None` on the host.
    pub assembled: Option<PtxasEntry>,
    /// Size of the machine code in bytes (of the object file on the host).
    pub code_bytes: usize,
    /// Notes of the compiler.
    pub notes: Vec<String>,
    /// Milliseconds from tile IR to PTX or object code.
    pub compile_ms: f64,
}

impl CompiledKernel {
    /// The PTX, if it was compiled for a GPU.
    pub fn ptx(&self) -> Option<&str> {
        match &self.code {
            Code::Ptx(text) => Some(text),
            Code::Host(_) => None,
        }
    }

    /// Assembles the PTX with `ptxas`; `None` on the host.
    ///
    /// # Errors
    /// See [`Ptxas`].
    pub fn assemble(&self) -> Result<Option<Assembled>, ToolError> {
        match (self.ptx(), self.info.target) {
            (Some(ptx), Target::Gpu(sm)) => Ok(Some(Ptxas::find()?.assemble(ptx, &sm.to_string())?)),
            _ => Ok(None),
        }
    }

    /// What the kernel takes of the machine. Runs `ptxas` for a GPU, which takes about 0.1 s.
    ///
    /// # Errors
    /// See [`Ptxas`].
    pub fn resources(&self) -> Result<Resources, ToolError> {
        let assembled = self.assemble()?;
        let code_bytes = match (&self.code, &assembled) {
            (Code::Host(artifact), _) => artifact.object.len(),
            (Code::Ptx(_), Some(assembled)) => assembled.cubin.len(),
            (Code::Ptx(text), None) => text.len(),
        };
        let entry = assembled.and_then(|a| a.entries.into_iter().find(|e| e.name == self.info.entry));
        Ok(Resources {
            target: self.info.target,
            threads: self.info.threads,
            dynamic_shared_bytes: self.info.dynamic_shared_bytes,
            ptx: self.ptx().map(PtxStats::of),
            assembled: entry,
            code_bytes,
            notes: self.info.notes.clone(),
            compile_ms: self.info.compile_ms,
        })
    }

    /// The kernel as bytes, for a cache or a bundle.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, code) = match &self.code {
            Code::Ptx(text) => (CodeKind::Ptx, text.as_bytes()),
            // The object goes into a section of its own: as JSON it would be a list of numbers.
            Code::Host(artifact) => {
                let rest = HostArtifact { object: Vec::new(), ..artifact.clone() };
                (CodeKind::Host(rest), &artifact.object[..])
            }
        };
        let sections = [self.tile_ir.as_bytes(), self.llvm_ir.as_bytes(), code];
        let header = Header { info: self.info.clone(), kind, lengths: sections.map(<[u8]>::len) };
        // A struct of strings and numbers has a JSON form.
        let header = serde_json::to_vec(&header).expect("a kernel's header is plain data");
        let mut out = Vec::with_capacity(8 + header.len() + sections.iter().map(|s| s.len()).sum::<usize>());
        out.extend_from_slice(&(header.len() as u64).to_le_bytes());
        out.extend_from_slice(&header);
        sections.iter().for_each(|section| out.extend_from_slice(section));
        out
    }

    /// The kernel in `bytes`, if they hold one of this version of the format.
    pub fn from_bytes(bytes: &[u8]) -> Option<CompiledKernel> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (header, mut rest) = rest.split_at_checked(length)?;
        let header: Header = serde_json::from_slice(header).ok()?;
        let mut section = |length| {
            let (section, more) = rest.split_at_checked(length)?;
            rest = more;
            Some(section.to_vec())
        };
        let [tile, llvm, code] = header.lengths;
        let (tile, llvm, code) = (section(tile)?, section(llvm)?, section(code)?);
        if !rest.is_empty() {
            return None;
        }
        Some(CompiledKernel {
            info: header.info,
            tile_ir: String::from_utf8(tile).ok()?,
            llvm_ir: String::from_utf8(llvm).ok()?,
            code: match header.kind {
                CodeKind::Ptx => Code::Ptx(String::from_utf8(code).ok()?),
                CodeKind::Host(rest) => Code::Host(HostArtifact { object: code, ..rest }),
            },
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    info: KernelInfo,
    kind: CodeKind,
    lengths: [usize; 3],
}

#[derive(Serialize, Deserialize)]
enum CodeKind {
    Ptx,
    Host(HostArtifact),
}
