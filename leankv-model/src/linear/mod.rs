//! Matrix products. A row's outputs are the same, to the bit, whichever rows it is computed with: what a request gets in a batch is what it
//! gets alone only if that holds.

mod matrix;
#[cfg(test)]
mod tests;
mod tiles;

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use crate::error::ModelError;
use matrix::Matrix;

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
    weight: Weight,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

#[derive(Debug)]
enum Weight {
    /// Multiplied by candle, each row by itself in a fixed order; how many there must be for that.
    Quantised(QMatMul, usize),
    Dense(Matrix),
}

impl Linear {
    pub(crate) fn new(
        weight: Arc<QTensor>,
        bias: Option<Vec<f32>>,
        form: WeightForm,
    ) -> Result<Linear, ModelError> {
        let (outputs, inputs) = weight.shape().dims2()?;
        let weight = match form {
            WeightForm::Quantised if has_vector_code(weight.dtype()) => {
                let least = least_rows(weight.dtype());
                Weight::Quantised(QMatMul::from_arc(weight)?, least)
            }
            WeightForm::Quantised | WeightForm::Dense => {
                let weight = weight.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
                Weight::Dense(Matrix::new(&weight, inputs))
            }
        };
        Ok(Linear { weight, bias, inputs, outputs })
    }

    /// Rows of outputs for rows of inputs.
    pub(crate) fn forward(&self, x: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut y = match &self.weight {
            Weight::Dense(matrix) => matrix.times(x),
            Weight::Quantised(weight, least) => {
                let rows = x.len() / self.inputs;
                let mut padded = x.to_vec();
                padded.resize(rows.max(*least) * self.inputs, 0.0);
                let x = Tensor::from_vec(padded, (rows.max(*least), self.inputs), &Device::Cpu)?;
                let mut y = weight.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
                y.truncate(rows * self.outputs);
                y
            }
        };
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

/// From how many rows on candle 0.11 adds up a row's products in one order: it has code of its own for a single row of Q6K.
fn least_rows(format: GgmlDType) -> usize {
    if format == GgmlDType::Q6K { 2 } else { 1 }
}
