//! Rust types that lie in device memory, and their tile IR element types.

use bytemuck::Pod;
use half::{bf16, f16};
use leankv_dsl::ir::Dtype;

/// A plain type that device buffers hold and kernels read.
pub trait Element: Pod + Send + Sync {
    /// Its element type in tile IR.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; })*
    };
}

elements! {
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_takes_the_bytes_its_dtype_says() {
        fn check<T: Element>() {
            assert_eq!(T::DTYPE.bytes(), Some(size_of::<T>() as u32), "{}", T::DTYPE);
        }
        check::<i8>();
        check::<i16>();
        check::<i32>();
        check::<i64>();
        check::<u8>();
        check::<u16>();
        check::<u32>();
        check::<u64>();
        check::<f16>();
        check::<bf16>();
        check::<f32>();
        check::<f64>();
    }
}
