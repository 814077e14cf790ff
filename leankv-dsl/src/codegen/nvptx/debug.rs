//! Source lines for PTX `.loc` directives.
//!
//! LLVM calls the wanted kind of debug information "debug directives only". inkwell and llvm-sys have no name for it, and their next
//! best marks the PTX for the debugger, which makes the assembler give up optimising. So this file speaks to LLVM's C interface.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_uint};

use inkwell::module::FlagBehavior;
use inkwell::values::{AsValueRef, FunctionValue};
use llvm_sys::debuginfo as di;
use llvm_sys::prelude::{LLVMBool, LLVMDIBuilderRef, LLVMMetadataRef};

use crate::ir::Loc;

use super::ir::Ir;

/// `DICompileUnit::DebugDirectivesOnly`.
const DIRECTIVES_ONLY: c_uint = 3;

#[allow(clashing_extern_declarations)] // The same function with the kind as the number that it is in C.
unsafe extern "C" {
    fn LLVMDIBuilderCreateCompileUnit(
        builder: LLVMDIBuilderRef,
        language: c_uint,
        file: LLVMMetadataRef,
        producer: *const c_char,
        producer_len: usize,
        is_optimized: LLVMBool,
        flags: *const c_char,
        flags_len: usize,
        runtime_version: c_uint,
        split_name: *const c_char,
        split_name_len: usize,
        kind: c_uint,
        dwo_id: c_uint,
        split_debug_inlining: LLVMBool,
        debug_info_for_profiling: LLVMBool,
        sys_root: *const c_char,
        sys_root_len: usize,
        sdk: *const c_char,
        sdk_len: usize,
    ) -> LLVMMetadataRef;
}

/// Debug information of one kernel. It lives no longer than the module it was made for, which the lifetime of `Ir` ensures.
pub(super) struct DebugInfo {
    builder: LLVMDIBuilderRef,
    subprogram: LLVMMetadataRef,
    /// One scope a file: inlined device functions lie in other files than the kernel.
    scopes: BTreeMap<&'static str, LLVMMetadataRef>,
}

impl DebugInfo {
    pub(super) fn new(ir: &Ir<'_>, function: FunctionValue<'_>, loc: Loc) -> DebugInfo {
        let version = ir.i32().const_int(u64::from(inkwell::debug_info::debug_metadata_version()), false);
        ir.module.add_basic_value_flag("Debug Info Version", FlagBehavior::Warning, version);
        let name = function.get_name().to_string_lossy().into_owned();
        let (producer, none) = ("leankv", c"");
        // SAFETY: the module and the function are alive; strings are passed with their lengths and copied by LLVM; the language is
        // the number of Rust in the C enumeration and the kind a value of LLVM's enumeration.
        unsafe {
            let builder = di::LLVMCreateDIBuilder(ir.module.as_mut_ptr());
            let file = create_file(builder, loc.file());
            LLVMDIBuilderCreateCompileUnit(
                builder,
                di::LLVMDWARFSourceLanguage::LLVMDWARFSourceLanguageRust as c_uint,
                file,
                producer.as_ptr().cast(),
                producer.len(),
                1,
                none.as_ptr(),
                0,
                0,
                none.as_ptr(),
                0,
                DIRECTIVES_ONLY,
                0,
                0,
                0,
                none.as_ptr(),
                0,
                none.as_ptr(),
                0,
            );
            let ty = di::LLVMDIBuilderCreateSubroutineType(builder, file, std::ptr::null_mut(), 0, 0);
            let subprogram = di::LLVMDIBuilderCreateFunction(
                builder,
                file,
                name.as_ptr().cast(),
                name.len(),
                none.as_ptr(),
                0,
                file,
                loc.line(),
                ty,
                0,
                1,
                loc.line(),
                0,
                1,
            );
            di::LLVMSetSubprogram(function.as_value_ref(), subprogram);
            DebugInfo { builder, subprogram, scopes: BTreeMap::new() }
        }
    }

    /// What is emitted from now on comes from `loc`.
    pub(super) fn set(&mut self, ir: &Ir<'_>, loc: Loc) {
        if loc.is_unknown() {
            return;
        }
        let (builder, subprogram) = (self.builder, self.subprogram);
        // SAFETY: the builder, its scopes and the instruction builder belong to the one module that is being built.
        unsafe {
            let scope = *self.scopes.entry(loc.file()).or_insert_with(|| {
                let file = create_file(builder, loc.file());
                di::LLVMDIBuilderCreateLexicalBlock(builder, subprogram, file, 0, 0)
            });
            let context = ir.cx.raw();
            let at = di::LLVMDIBuilderCreateDebugLocation(
                context,
                loc.line(),
                loc.col(),
                scope,
                std::ptr::null_mut(),
            );
            llvm_sys::core::LLVMSetCurrentDebugLocation2(ir.b.as_mut_ptr(), at);
        }
    }

    /// Completes the information; call it once, when the body is emitted.
    pub(super) fn finish(&self) {
        // SAFETY: the module is still alive.
        unsafe { di::LLVMDIBuilderFinalize(self.builder) }
    }
}

impl Drop for DebugInfo {
    fn drop(&mut self) {
        // SAFETY: the builder was made by this type and is disposed of once.
        unsafe { di::LLVMDisposeDIBuilder(self.builder) }
    }
}

/// # Safety
/// The builder must be alive.
unsafe fn create_file(builder: LLVMDIBuilderRef, name: &str) -> LLVMMetadataRef {
    // SAFETY: strings are passed with their lengths and copied by LLVM.
    unsafe { di::LLVMDIBuilderCreateFile(builder, name.as_ptr().cast(), name.len(), c"".as_ptr(), 0) }
}
