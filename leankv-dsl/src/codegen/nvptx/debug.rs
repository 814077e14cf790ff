//! Source lines for PTX `.loc` directives.

use std::collections::BTreeMap;

use inkwell::debug_info::{
    AsDIScope, DICompileUnit, DIFile, DIFlags, DIFlagsConstants, DILexicalBlock, DISubprogram,
    DWARFEmissionKind, DWARFSourceLanguage, DebugInfoBuilder,
};
use inkwell::module::FlagBehavior;
use inkwell::values::FunctionValue;

use crate::ir::Loc;

use super::ir::Ir;

/// Debug information of one kernel.
pub(super) struct DebugInfo<'c> {
    builder: DebugInfoBuilder<'c>,
    unit: DICompileUnit<'c>,
    subprogram: DISubprogram<'c>,
    /// One scope a file: inlined device functions lie in other files than the kernel.
    scopes: BTreeMap<&'static str, DILexicalBlock<'c>>,
}

impl<'c> DebugInfo<'c> {
    pub(super) fn new(ir: &Ir<'c>, function: FunctionValue<'c>, loc: Loc) -> DebugInfo<'c> {
        let version = ir.i32().const_int(u64::from(inkwell::debug_info::debug_metadata_version()), false);
        ir.module.add_basic_value_flag("Debug Info Version", FlagBehavior::Warning, version);
        let (builder, unit) = ir.module.create_debug_info_builder(
            true,
            DWARFSourceLanguage::Rust,
            loc.file(),
            "",
            "leankv",
            true,
            "",
            0,
            "",
            DWARFEmissionKind::LineTablesOnly,
            0,
            false,
            false,
            "",
            "",
        );
        let ty = builder.create_subroutine_type(unit.get_file(), None, &[], DIFlags::PUBLIC);
        let name = function.get_name().to_string_lossy().into_owned();
        let subprogram = builder.create_function(
            unit.as_debug_info_scope(),
            &name,
            None,
            unit.get_file(),
            loc.line(),
            ty,
            false,
            true,
            loc.line(),
            DIFlags::PUBLIC,
            true,
        );
        function.set_subprogram(subprogram);
        DebugInfo { builder, unit, subprogram, scopes: BTreeMap::new() }
    }

    /// What is emitted from now on comes from `loc`.
    pub(super) fn set(&mut self, ir: &Ir<'c>, loc: Loc) {
        if loc.is_unknown() {
            return;
        }
        let (builder, unit, subprogram) = (&self.builder, &self.unit, &self.subprogram);
        let scope = self.scopes.entry(loc.file()).or_insert_with(|| {
            let file: DIFile<'c> =
                if loc.file().is_empty() { unit.get_file() } else { builder.create_file(loc.file(), "") };
            builder.create_lexical_block(subprogram.as_debug_info_scope(), file, 0, 0)
        });
        let at =
            builder.create_debug_location(ir.cx, loc.line(), loc.col(), scope.as_debug_info_scope(), None);
        ir.b.set_current_debug_location(at);
    }

    /// Completes the information; call it once, when the body is emitted.
    pub(super) fn finish(&self) {
        self.builder.finalize();
    }
}
