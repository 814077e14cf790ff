//! Matrix products through candle.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use crate::error::ModelError;

/// In which form weights are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightForm {
    /// As they lie in the file where candle multiplies that format with vector instructions, else dequantised: little memory, and fastest
    /// for few rows. Activations are rounded to 8 bits on the way to quantised weights, as llama.cpp does.
    #[default]
    Quantised,
    /// Dequantised to f32 when the model is loaded: fastest for many rows of most formats, exact products.
    Dense,
}

/// `y = x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: QMatMul,
    bias: Option<Vec<f32>>,
    outputs: usize,
}

impl Linear {
    pub(crate) fn new(
        weight: Arc<QTensor>,
        bias: Option<Vec<f32>>,
        form: WeightForm,
    ) -> Result<Linear, ModelError> {
        let (outputs, _) = weight.shape().dims2()?;
        let weight = match form {
            WeightForm::Quantised if has_vector_code(weight.dtype()) => QMatMul::from_arc(weight)?,
            WeightForm::Quantised | WeightForm::Dense => QMatMul::Tensor(weight.dequantize(&Device::Cpu)?),
        };
        Ok(Linear { weight, bias, outputs })
    }

    /// Rows of outputs for rows of inputs.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Vec<f32>, ModelError> {
        let y = self.weight.forward(x)?;
        let mut y = y.flatten_all()?.to_vec1::<f32>()?;
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(y)
    }
}

/// Formats whose products candle 0.11 computes with vector instructions on x86-64. Others take it fifty times as long as f32 does.
fn has_vector_code(format: GgmlDType) -> bool {
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4K, Q5K, Q6K, Q8_0, Q8K};
    matches!(format, Q4_0 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K | Q8K)
}

/// `[rows, dim]` as candle takes it.
pub(crate) fn rows(x: &[f32], dim: usize) -> Result<Tensor, ModelError> {
    Ok(Tensor::from_slice(x, (x.len() / dim, dim), &Device::Cpu)?)
}
