//! The interpreter as a device: slow, and every access is checked.

use std::slice;

use half::{bf16, f16};
use leankv_dsl::interp::{self, Arg, Memory, Options, ScalarValue};
use leankv_dsl::ir::{Access, Dtype, Func};

use crate::kernel::{HostArg, HostCode};

/// A kernel that the interpreter runs.
pub(crate) struct ReferenceCode {
    func: Func,
    options: Options,
}

impl ReferenceCode {
    pub(crate) fn new(func: Func) -> ReferenceCode {
        ReferenceCode { func, options: Options::default() }
    }
}

impl HostCode for ReferenceCode {
    unsafe fn run(&self, grid: [u32; 3], args: &[HostArg]) -> Result<(), String> {
        let mut memory = Memory::new();
        let mut bound = Vec::new();
        for (param, arg) in self.func.params.iter().zip(args) {
            bound.push(match *arg {
                HostArg::Pointer { start, bytes } => {
                    // SAFETY: a launch passes live, initialised buffers; nobody writes them while it borrows them.
                    let contents = unsafe { slice::from_raw_parts(start, bytes) };
                    Arg::Buffer(memory.alloc_bytes(contents), 0)
                }
                HostArg::Scalar(bits) => Arg::Scalar(scalar(param.ty.dtype(), bits)?),
            });
        }
        interp::launch(&self.func, grid, &bound, &mut memory, &self.options).map_err(|e| e.to_string())?;
        for ((param, arg), bound) in self.func.params.iter().zip(args).zip(&bound) {
            if let (&HostArg::Pointer { start, bytes }, Arg::Buffer(id, _)) = (arg, bound)
                && param.access != Access::Read
            {
                // SAFETY: a launch holds the buffers it writes exclusively, and they overlap no other.
                unsafe { start.copy_from_nonoverlapping(memory.bytes(*id).as_ptr(), bytes) };
            }
        }
        Ok(())
    }
}

/// The number in the low bytes.
fn scalar(dtype: Dtype, bits: u64) -> Result<ScalarValue, String> {
    Ok(match dtype {
        Dtype::I1 => ScalarValue::I1(bits & 1 == 1),
        Dtype::I8 => ScalarValue::I8(bits as i8),
        Dtype::I16 => ScalarValue::I16(bits as i16),
        Dtype::I32 => ScalarValue::I32(bits as i32),
        Dtype::I64 => ScalarValue::I64(bits as i64),
        Dtype::U8 => ScalarValue::U8(bits as u8),
        Dtype::U16 => ScalarValue::U16(bits as u16),
        Dtype::U32 => ScalarValue::U32(bits as u32),
        Dtype::U64 => ScalarValue::U64(bits),
        Dtype::F16 => ScalarValue::F16(f16::from_bits(bits as u16)),
        Dtype::BF16 => ScalarValue::BF16(bf16::from_bits(bits as u16)),
        Dtype::F32 => ScalarValue::F32(f32::from_bits(bits as u32)),
        Dtype::F64 => ScalarValue::F64(f64::from_bits(bits)),
        Dtype::Code(_) => return Err(format!("a parameter of type {dtype} cannot be given at a launch")),
    })
}
