//! Checks and passes on a whole module.

use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::TargetMachine;

use super::CodegenError;

/// Runs LLVM's verifier, so that a mistake of ours is an error value and not undefined behaviour in a pass.
///
/// # Errors
/// With LLVM's report when the module is malformed.
pub(crate) fn verify(module: &Module<'_>) -> Result<(), CodegenError> {
    module.verify().map_err(|report| CodegenError::llvm("verifying the module", report.to_string_lossy()))
}

/// Runs a textual pass pipeline such as `default<O3>`. Loops are unrolled only where the emitter says so when
/// `unroll` is false; loops are never vectorised, since the emitters choose the vectors.
///
/// # Errors
/// When LLVM does not know the pipeline.
pub(crate) fn optimise(
    module: &Module<'_>,
    machine: &TargetMachine,
    pipeline: &str,
    unroll: bool,
) -> Result<(), CodegenError> {
    let options = PassBuilderOptions::create();
    options.set_loop_vectorization(false);
    options.set_loop_slp_vectorization(false);
    options.set_loop_interleaving(false);
    options.set_loop_unrolling(unroll);
    module
        .run_passes(pipeline, machine, options)
        .map_err(|report| CodegenError::llvm("running passes", report.to_string_lossy()))
}
