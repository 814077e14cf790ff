//! The host back end, on one thread and on all.

use leankv_dsl::codegen::host::{self, HostArg, HostKernel, HostOptions, LaunchError};
use leankv_dsl::codegen::llvm::CodegenError;
use leankv_dsl::interp::ScalarValue;
use leankv_dsl::pass::{Facts, standard};

use crate::conformance::{Case, CaseArg, Executor, Failure};

/// Native code.
pub struct Host;

/// Bytes before and after each buffer that nobody may touch.
const GUARD: usize = 128;
const PATTERN: u8 = 0xa5;

/// A buffer with guards, aligned to 128 bytes.
struct Guarded {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Guarded {
    fn new(bytes: &[u8]) -> Guarded {
        let mut memory = vec![PATTERN; bytes.len() + 3 * GUARD];
        let start = GUARD + memory.as_ptr().align_offset(GUARD);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        Guarded { memory, start, len: bytes.len() }
    }

    fn intact(&self) -> bool {
        let (before, rest) = self.memory.split_at(self.start);
        before.iter().chain(&rest[self.len..]).all(|&byte| byte == PATTERN)
    }
}

impl Executor for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, Failure> {
        let broken = |error: String| Failure::Broken(error);
        let mut func = case.func.clone();
        standard().run(&mut func, &mut Facts::new()).map_err(|e| broken(e.to_string()))?;
        let artifact = host::compile(&func, &HostOptions::default()).map_err(|error| match error {
            CodegenError::Unsupported { .. } => Failure::Unsupported(error.to_string()),
            other => Failure::Broken(other.to_string()),
        })?;
        let kernel = HostKernel::load(&artifact).map_err(|e| broken(e.to_string()))?;
        let mut buffers = Vec::new();
        for arg in &case.args {
            if let CaseArg::Buffer(slot) = arg {
                buffers.push(Guarded::new(&slot.bytes));
            }
        }
        let mut next = buffers.iter_mut();
        let mut args = Vec::new();
        for arg in &case.args {
            args.push(match arg {
                CaseArg::Scalar(value) => scalar(*value),
                CaseArg::Buffer(_) => {
                    let buffer = next.next().expect("one was made for each");
                    HostArg::Ptr(buffer.memory[buffer.start..].as_mut_ptr())
                }
            });
        }
        // SAFETY: the interpreter ran the case before with all its checks: types, bounds, alignment and races.
        let result = unsafe { kernel.launch(case.grid, &args, 0) };
        match result {
            Ok(()) => {}
            Err(LaunchError::Assertion { message, loc }) => {
                return Err(Failure::Fault(format!("{loc}: {message}")));
            }
            Err(other) => return Err(Failure::Broken(other.to_string())),
        }
        if let Some(at) = buffers.iter().position(|buffer| !buffer.intact()) {
            return Err(Failure::Broken(format!("buffer {at}: bytes outside it were written")));
        }
        Ok(buffers.iter().map(|b| b.memory[b.start..b.start + b.len].to_vec()).collect())
    }
}

fn scalar(value: ScalarValue) -> HostArg {
    match value {
        ScalarValue::I1(x) => x.into(),
        ScalarValue::I8(x) => x.into(),
        ScalarValue::I16(x) => x.into(),
        ScalarValue::I32(x) => x.into(),
        ScalarValue::I64(x) => x.into(),
        ScalarValue::U8(x) => x.into(),
        ScalarValue::U16(x) => x.into(),
        ScalarValue::U32(x) => x.into(),
        ScalarValue::U64(x) => x.into(),
        ScalarValue::F16(x) => x.into(),
        ScalarValue::BF16(x) => x.into(),
        ScalarValue::F32(x) => x.into(),
        ScalarValue::F64(x) => x.into(),
    }
}
