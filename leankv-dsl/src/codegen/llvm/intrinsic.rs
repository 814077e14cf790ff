//! Strict intrinsic lookup.

use inkwell::intrinsics::Intrinsic;
use inkwell::module::Module;
use inkwell::types::BasicTypeEnum;
use inkwell::values::FunctionValue;

use super::CodegenError;

/// Declares the intrinsic `name` for `types` (empty when it is not overloaded).
///
/// LLVM finds overloaded names by prefix and silently emits calls to functions it does not know, so the name
/// that LLVM resolved is compared with the one asked for.
///
/// # Errors
/// When LLVM has no such intrinsic or the overload types do not fit.
pub(crate) fn intrinsic<'c>(
    module: &Module<'c>,
    name: &str,
    types: &[BasicTypeEnum<'c>],
) -> Result<FunctionValue<'c>, CodegenError> {
    let fail = |what: String| CodegenError::llvm("declaring an intrinsic", format!("{name}: {what}"));
    let found = Intrinsic::find(name).ok_or_else(|| fail("unknown".to_owned()))?;
    if found.is_overloaded() == types.is_empty() {
        return Err(fail("wrong number of overload types".to_owned()));
    }
    let function =
        found.get_declaration(module, types).ok_or_else(|| fail("overload types do not fit".to_owned()))?;
    let got = function.get_name().to_string_lossy().into_owned();
    if got == name || got.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
        Ok(function)
    } else {
        Err(fail(format!("resolved to {got}")))
    }
}
