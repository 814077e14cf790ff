//! Random keys and values.

use half::{bf16, f16};
use leankv_dsl::workload::{Generator, Item};

/// Vectors in the kernel's type, and their exact values.
pub(super) trait Vectors: Item {
    fn random(random: &mut Generator, len: usize) -> (Vec<Self>, Vec<f32>);
}

impl Vectors for f16 {
    fn random(random: &mut Generator, len: usize) -> (Vec<f16>, Vec<f32>) {
        random.f16s(len, -1.0, 1.0)
    }
}

impl Vectors for bf16 {
    fn random(random: &mut Generator, len: usize) -> (Vec<bf16>, Vec<f32>) {
        let x: Vec<bf16> = random.f32s(len, -1.0, 1.0).into_iter().map(bf16::from_f32).collect();
        let exact = x.iter().map(|x| x.to_f32()).collect();
        (x, exact)
    }
}

impl Vectors for f32 {
    fn random(random: &mut Generator, len: usize) -> (Vec<f32>, Vec<f32>) {
        let x = random.f32s(len, -1.0, 1.0);
        (x.clone(), x)
    }
}
