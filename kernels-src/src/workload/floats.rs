//! Random floats of any type.

use half::{bf16, f16};
use leankv_dsl::lang::launch::{FloatTensor, FloatTensorMut};
use leankv_dsl::lang::{Float, FloatType};
use leankv_dsl::workload::{Check, Generator, Item, given};

use super::filled;

/// A tensor of a kernel's input type, and its exact values.
pub(super) struct Floats<const R: usize> {
    pub(super) tensor: FloatTensor<'static, R>,
    pub(super) exact: Vec<f32>,
}

impl<const R: usize> Floats<R> {
    pub(super) fn random(input: FloatType, random: &mut Generator, extents: [usize; R]) -> Self {
        Self::given(input, &random.f32s(extents.iter().product(), -1.0, 1.0), extents)
    }

    pub(super) fn given(input: FloatType, x: &[f32], extents: [usize; R]) -> Self {
        match input {
            FloatType::F16 => Self::of::<f16>(x, extents),
            FloatType::Bf16 => Self::of::<bf16>(x, extents),
            FloatType::F32 => Self::of::<f32>(x, extents),
        }
    }

    fn of<E: Float + Item + Into<f32>>(x: &[f32], extents: [usize; R]) -> Self {
        let x: Vec<E> = x.iter().map(|&x| E::of(x.into())).collect();
        Floats { tensor: given(&x).tensor(extents).into(), exact: x.into_iter().map(Into::into).collect() }
    }
}

/// A tensor that must hold these numbers, rounded to its type, bit by bit.
pub(super) fn expected<const R: usize>(
    output: FloatType,
    x: &[f32],
    extents: [usize; R],
) -> FloatTensorMut<'static, R> {
    fn of<E: Float + Item, const R: usize>(x: &[f32], extents: [usize; R]) -> FloatTensorMut<'static, R> {
        let x: Vec<E> = x.iter().map(|&x| E::of(x.into())).collect();
        filled(E::of(f64::NAN), &x, Check::Bits).tensor_mut(extents).into()
    }
    match output {
        FloatType::F16 => of::<f16, R>(x, extents),
        FloatType::Bf16 => of::<bf16, R>(x, extents),
        FloatType::F32 => of::<f32, R>(x, extents),
    }
}

/// The nearest values of f16.
pub(super) fn halves(x: &[f32]) -> Vec<f16> {
    x.iter().map(|&x| f16::from_f32(x)).collect()
}

/// What f16 makes of numbers.
pub(super) fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
}
