//! What a compiled kernel and its runner agree on.
//!
//! The entry is `extern "C" fn(args: *const u64, scratch: *mut u8, ids: *const [i32; 6], callbacks: *const Callbacks) -> i32` and
//! runs one program. It never unwinds; it returns 0, or 1 when an assertion failed.
//!
//! * `args`: one word of 8 bytes for each parameter: the address of a pointer, the low bytes of a scalar (as it
//!   lies in memory; `i1` is one byte).
//! * `scratch`: [`super::HostArtifact::scratch_bytes`] bytes, aligned to 64, zeroed once before the first program that uses it.
//! * `ids`: program ids x, y, z, then the grid's extents x, y, z.

use super::SiteOperand;
use crate::ir::{Dtype, Type};

/// The entry point of a compiled kernel.
pub(super) type Entry = unsafe extern "C" fn(
    args: *const u64,
    scratch: *mut u8,
    ids: *const [i32; 6],
    callbacks: *const Callbacks,
) -> i32;

/// What a kernel calls back. Neither function may unwind.
#[repr(C)]
pub(super) struct Callbacks {
    /// Takes operand `operand` of the print at `site`; `data` are its elements, 16-bit floats as `f32`, `i1` and codes as bytes.
    pub(super) print: unsafe extern "C" fn(*const Callbacks, site: u32, operand: u32, data: *const u8),
    /// Takes the failed assertion at `site`.
    pub(super) assert: unsafe extern "C" fn(*const Callbacks, site: u32),
}

/// Byte offset of [`Callbacks::print`] in words of 8 bytes.
pub(super) const PRINT_SLOT: u64 = 0;
/// Byte offset of [`Callbacks::assert`] in words of 8 bytes.
pub(super) const ASSERT_SLOT: u64 = 1;

impl SiteOperand {
    pub(super) fn of(ty: &Type) -> SiteOperand {
        let shape = ty.shape().map(|shape| shape.extents().to_vec()).unwrap_or_default();
        SiteOperand { dtype: ty.dtype().to_string(), shape }
    }

    /// The elements at `data` as text: one number, or a list in row-major order.
    ///
    /// # Safety
    /// `data` holds the operand's elements as [`Callbacks::print`] says.
    pub(super) unsafe fn render(&self, data: *const u8) -> String {
        let count = self.shape.iter().map(|&e| e as usize).product::<usize>();
        let dtype: Dtype = self.dtype.parse().expect("artifacts hold names of element types");
        let items: Vec<String> = (0..count)
            .map(|i| {
                // SAFETY: there are `count` elements at `data`, of the type that is read here.
                unsafe {
                    match dtype {
                        Dtype::I1 => (data.add(i).read() != 0).to_string(),
                        Dtype::Code(_) | Dtype::U8 => data.add(i).read().to_string(),
                        Dtype::I8 => data.cast::<i8>().add(i).read().to_string(),
                        Dtype::I16 => data.cast::<i16>().add(i).read_unaligned().to_string(),
                        Dtype::U16 => data.cast::<u16>().add(i).read_unaligned().to_string(),
                        Dtype::I32 => data.cast::<i32>().add(i).read_unaligned().to_string(),
                        Dtype::U32 => data.cast::<u32>().add(i).read_unaligned().to_string(),
                        Dtype::I64 => data.cast::<i64>().add(i).read_unaligned().to_string(),
                        Dtype::U64 => data.cast::<u64>().add(i).read_unaligned().to_string(),
                        Dtype::F64 => data.cast::<f64>().add(i).read_unaligned().to_string(),
                        Dtype::F16 | Dtype::BF16 | Dtype::F32 => {
                            data.cast::<f32>().add(i).read_unaligned().to_string()
                        }
                    }
                }
            })
            .collect();
        if self.shape.is_empty() { items.concat() } else { format!("[{}]", items.join(", ")) }
    }
}
