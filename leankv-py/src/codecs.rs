//! Rows through a codec, by the plain-Rust form that kernels are held to.

use leankv_dsl::format::{CodecSpec, decode_row, encode_row};
use leankv_dsl::lang::FloatType;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;
use crate::tensor::TensorRows;

fn codec(name: &str) -> PyResult<CodecSpec> {
    name.parse().map_err(errors::value)
}

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Codes and metadata of rows `[rows, head_dim]` of float32: two byte strings, of `rows * code_bytes` and `rows * meta_bytes`.
#[pyfunction]
pub(crate) fn quantize<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    rows: usize,
    head_dim: usize,
    codec: &str,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (tensor, spec) = (TensorRows::of("x", x)?, self::codec(codec)?);
    tensor.check("x", FloatType::F32, [rows, 1, head_dim]).map_err(errors::value)?;
    if !tensor.address.is_multiple_of(align_of::<f32>()) {
        return Err(PyValueError::new_err("x starts where no float32 can; copy it"));
    }
    let shape = spec.shape();
    shape.check(u32::try_from(head_dim).unwrap_or(u32::MAX)).map_err(errors::value)?;
    let (code, meta) = (shape.row_bytes(head_dim as u32) as usize, shape.meta_bytes() as usize / 2);
    let (mut codes, mut words) = (vec![0; rows * code], vec![0; rows * meta]);
    for row in 0..rows {
        let from = (tensor.address as *const f32).wrapping_add(row * tensor.stride);
        // SAFETY: the tensor has these rows, which was checked, and lives as long as this call.
        let x = unsafe { std::slice::from_raw_parts(from, head_dim) };
        encode_row(&spec, x, &mut codes[row * code..][..code], &mut words[row * meta..][..meta])
            .map_err(errors::value)?;
    }
    Ok((PyBytes::new(py, &codes), PyBytes::new(py, &bytes_of(&words))))
}

/// What codes and metadata stand for: the bytes of `[rows, head_dim]` of float32.
#[pyfunction]
pub(crate) fn dequantize<'py>(
    py: Python<'py>,
    codes: &[u8],
    meta: &[u8],
    rows: usize,
    head_dim: usize,
    codec: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let spec = self::codec(codec)?;
    let shape = spec.shape();
    shape.check(u32::try_from(head_dim).unwrap_or(u32::MAX)).map_err(errors::value)?;
    let (code, words) = (shape.row_bytes(head_dim as u32) as usize, shape.meta_bytes() as usize / 2);
    for (what, got, of_row) in [("codes", codes.len(), code), ("meta", meta.len(), words * 2)] {
        if rows.checked_mul(of_row) != Some(got) {
            return Err(PyValueError::new_err(format!(
                "{what}: {rows} rows of {codec} take {of_row} bytes each, and there are {got}"
            )));
        }
    }
    let meta: Vec<u16> = meta.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    let mut x = vec![0.0f32; rows * head_dim];
    for (row, x) in x.chunks_exact_mut(head_dim.max(1)).enumerate() {
        decode_row(&spec, &codes[row * code..][..code], &meta[row * words..][..words], x)
            .map_err(errors::value)?;
    }
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    Ok(PyBytes::new(py, &bytes))
}
