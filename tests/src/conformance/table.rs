//! What executors cannot do, with the reason. Nothing else may be refused.

/// An executor (with a star: all whose names start so), a group, what a case's name ends with, and why.
struct Entry {
    executor: &'static str,
    group: &'static str,
    ends: &'static str,
    reason: &'static str,
}

const fn entry(
    executor: &'static str,
    group: &'static str,
    ends: &'static str,
    reason: &'static str,
) -> Entry {
    Entry { executor, group, ends, reason }
}

const F64_FUNCTION: &str = "GPUs have this function for f32 alone";
const FLOAT_REM: &str = "GPUs have no floating-point remainder";
const GPU_OP: &str = "this op is made by the GPU passes alone";

const SM_90: &str = "the first GPU with it is sm_90, and `ptx` runs code for sm_80";

const TABLE: &[Entry] = &[
    entry("ptx", "atomic_add", ".bf16", SM_90),
    entry("ptx", "atomic_add", ".bf16.shared", SM_90),
    entry("ptx*", "exp2", ".f64", F64_FUNCTION),
    entry("ptx*", "log2", ".f64", F64_FUNCTION),
    entry("ptx*", "sin", ".f64", F64_FUNCTION),
    entry("ptx*", "cos", ".f64", F64_FUNCTION),
    entry("ptx*", "tanh", ".f64", F64_FUNCTION),
    entry("ptx*", "erf", ".f64", F64_FUNCTION),
    entry("ptx*", "rem", ".f16", FLOAT_REM),
    entry("ptx*", "rem", ".bf16", FLOAT_REM),
    entry("ptx*", "rem", ".f32", FLOAT_REM),
    entry("ptx*", "rem", ".f64", FLOAT_REM),
    entry("ptx*", "print", "", "kernels print on the interpreter and the host"),
    entry("host*", "convert_layout", "", GPU_OP),
    entry("host*", "local_memory", "", GPU_OP),
    entry("host*", "async_copy", "", GPU_OP),
    entry("ptx*", "local_memory", "", GPU_OP),
    entry("ptx*", "async_copy", "", GPU_OP),
    entry("ptx*", "convert_layout", "", GPU_OP),
];

/// Why an executor cannot run a case; `None` when it can.
pub fn reason(executor: &str, group: &str, case: &str) -> Option<&'static str> {
    let named = |e: &Entry| match e.executor.strip_suffix('*') {
        Some(start) => executor.starts_with(start),
        None => executor == e.executor,
    };
    let fits = |e: &&Entry| named(e) && group == e.group && case.ends_with(e.ends);
    TABLE.iter().find(fits).map(|e| e.reason)
}
