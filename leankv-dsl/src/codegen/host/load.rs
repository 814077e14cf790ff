//! Objects to callable code, through LLVM's ORC: no compiler, no linker, no files.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use llvm_sys::core::LLVMCreateMemoryBufferWithMemoryRangeCopy;
use llvm_sys::error::{LLVMDisposeErrorMessage, LLVMErrorRef, LLVMGetErrorMessage};
use llvm_sys::orc2::lljit::*;
use llvm_sys::orc2::{LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess, LLVMOrcJITDylibAddGenerator};

use super::abi::Entry;
use super::launch::ScratchPool;
use super::{HostArtifact, HostTarget, LoadError};

/// Owns the code of one kernel.
struct Jit(LLVMOrcLLJITRef);

// SAFETY: after loading, the JIT is only kept alive and at last disposed of by whoever drops it.
unsafe impl Send for Jit {}
// SAFETY: as above; no method takes `&Jit`.
unsafe impl Sync for Jit {}

impl Drop for Jit {
    fn drop(&mut self) {
        // SAFETY: the instance is live and owned; nothing calls its code any more, since kernels own their `Jit`.
        unsafe {
            let error = LLVMOrcDisposeLLJIT(self.0);
            let _ = taken(error);
        }
    }
}

/// The text of an LLVM error, which it consumes; `None` for success.
///
/// # Safety
/// `error` is null or an error that nobody else consumes.
unsafe fn taken(error: LLVMErrorRef) -> Option<String> {
    if error.is_null() {
        return None;
    }
    // SAFETY: by contract the error is ours; the message is copied before it is freed.
    unsafe {
        let message = LLVMGetErrorMessage(error);
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        LLVMDisposeErrorMessage(message);
        Some(text)
    }
}

/// A kernel that can be launched.
pub struct HostKernel {
    /// Dropped last of all that refers to the code.
    _jit: Jit,
    pub(super) entry: Entry,
    pub(super) artifact: HostArtifact,
    pub(super) scratch: ScratchPool,
}

impl std::fmt::Debug for HostKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKernel").field("entry", &self.artifact.entry).finish_non_exhaustive()
    }
}

impl HostKernel {
    /// Makes a compiled kernel callable. Callers that keep artifacts on disk check a checksum before.
    ///
    /// # Errors
    /// When the object is not one that this machine can load.
    pub fn load(artifact: &HostArtifact) -> Result<HostKernel, LoadError> {
        let here = HostTarget::native()?;
        if !artifact.target.runs_on(&here) {
            return Err(LoadError::Machine {
                entry: artifact.entry.clone(),
                made_for: artifact.target.cpu.clone(),
                here: here.cpu,
            });
        }
        let fail = |message: String| LoadError::Object { entry: artifact.entry.clone(), message };
        let symbol = CString::new(artifact.entry.as_str())
            .map_err(|_| fail("its entry's name holds a zero byte".to_owned()))?;
        if !looks_like_object(&artifact.object) {
            return Err(fail("it is not an object file".to_owned()));
        }
        let mut jit = null_mut();
        // SAFETY: a null builder asks for the host's defaults; the error is consumed once.
        if let Some(message) = unsafe { taken(LLVMOrcCreateLLJIT(&mut jit, null_mut())) } {
            return Err(fail(message));
        }
        let jit = Jit(jit);
        let mut address = 0u64;
        // SAFETY: the instance is live; the generator and the buffer are handed over to it; the symbol's name ends with a zero.
        let failed = unsafe {
            let dylib = LLVMOrcLLJITGetMainJITDylib(jit.0);
            let mut generator = null_mut();
            let prefix = LLVMOrcLLJITGetGlobalPrefix(jit.0);
            let error = LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess(
                &mut generator,
                prefix,
                None,
                null_mut(),
            );
            taken(error).or_else(|| {
                LLVMOrcJITDylibAddGenerator(dylib, generator);
                let buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(
                    artifact.object.as_ptr().cast(),
                    artifact.object.len(),
                    c"kernel".as_ptr(),
                );
                taken(LLVMOrcLLJITAddObjectFile(jit.0, dylib, buffer))
                    .or_else(|| taken(LLVMOrcLLJITLookup(jit.0, &mut address, symbol.as_ptr())))
            })
        };
        if let Some(message) = failed {
            return Err(fail(message));
        }
        // SAFETY: the symbol is the entry that `compile` emitted with this signature.
        let entry: Entry = unsafe { std::mem::transmute::<usize, Entry>(address as usize) };
        Ok(HostKernel { _jit: jit, entry, artifact: artifact.clone(), scratch: ScratchPool::default() })
    }

    /// What it was loaded from.
    pub fn artifact(&self) -> &HostArtifact {
        &self.artifact
    }
}

/// A cheap look at the header, since LLVM reports some damage by printing.
fn looks_like_object(bytes: &[u8]) -> bool {
    let elf = bytes.starts_with(b"\x7fELF");
    let mach = bytes.starts_with(&[0xcf, 0xfa, 0xed, 0xfe]);
    bytes.len() > 64 && (elf || mach)
}
