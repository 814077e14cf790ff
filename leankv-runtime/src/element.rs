//! Rust types that lie in device memory, and their tile IR element types.

use bytemuck::Pod;
use leankv_dsl::lang::Plain;

/// A plain type that device buffers hold and kernels read.
pub trait Element: Pod + Plain {}

impl<T: Pod + Plain> Element for T {}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn an_element_takes_the_bytes_its_dtype_says() {
        fn check<T: Element>() {
            assert_eq!(T::TYPE.bytes(), Some(size_of::<T>() as u32), "{}", T::TYPE);
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
