//! Tensors of others, by address and stride.

use leankv_dsl::lang::FloatType;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::plan::float_type;

/// Rows of a tensor on the host: `[rows, elements]`, or `[rows, heads, head_dim]` whose rows are dense.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorRows {
    pub(crate) address: usize,
    /// Elements from row to row.
    pub(crate) stride: usize,
    pub(crate) dtype: FloatType,
    /// Rows and elements of a row, where the tensor says; a tuple does not.
    extents: Option<[usize; 2]>,
}

impl TensorRows {
    /// Of a torch tensor, a numpy array, or a tuple (address, elements from row to row, "bf16", "f16" or "f32").
    pub(crate) fn of(what: &str, tensor: &Bound<'_, PyAny>) -> PyResult<TensorRows> {
        if let Ok(tuple) = tensor.cast::<PyTuple>() {
            let (address, stride, dtype): (usize, usize, String) = tuple.extract()?;
            return Ok(TensorRows { address, stride, dtype: float_type(&dtype)?, extents: None });
        }
        match tensor.hasattr(intern!(tensor.py(), "data_ptr"))? {
            true => of_torch(what, tensor),
            false => of_numpy(what, tensor),
        }
    }

    /// Checks that these are `rows` rows of `row` elements.
    pub(crate) fn check(&self, what: &str, rows: usize, row: usize) -> PyResult<()> {
        match self.extents {
            Some(extents) if extents != [rows, row] => {
                let [got_rows, got] = extents;
                Err(PyValueError::new_err(format!(
                    "{what}: {rows} rows of {row} elements are needed, not {got_rows} of {got}"
                )))
            }
            _ => Ok(()),
        }
    }
}

fn of_torch(what: &str, tensor: &Bound<'_, PyAny>) -> PyResult<TensorRows> {
    let py = tensor.py();
    if !tensor.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
        let device = tensor.getattr(intern!(py, "device"))?;
        return Err(PyTypeError::new_err(format!(
            "{what} lies on {device}; this cache takes tensors of the host alone: move it with .cpu()"
        )));
    }
    let dtype = tensor.getattr(intern!(py, "dtype"))?;
    let name = dtype.str()?;
    let dtype = match name.to_str()? {
        "torch.bfloat16" => FloatType::Bf16,
        "torch.float16" => FloatType::F16,
        "torch.float32" => FloatType::F32,
        other => return Err(unknown(what, other)),
    };
    let shape: Vec<usize> = tensor.getattr(intern!(py, "shape"))?.extract()?;
    let strides: Vec<isize> = tensor.call_method0(intern!(py, "stride"))?.extract()?;
    let address = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
    rows(what, address, dtype, &shape, &strides)
}

fn of_numpy(what: &str, array: &Bound<'_, PyAny>) -> PyResult<TensorRows> {
    let py = array.py();
    let Ok(interface) = array.getattr(intern!(py, "__array_interface__")) else {
        let kind = array.get_type();
        return Err(PyTypeError::new_err(format!(
            "{what} is no tensor but {kind}; give a torch tensor, a numpy array, or (address, stride, dtype)"
        )));
    };
    let interface = interface.cast_into::<PyDict>()?;
    let field = |name: &str| -> PyResult<Bound<'_, PyAny>> {
        interface
            .get_item(name)?
            .ok_or_else(|| PyTypeError::new_err(format!("{what}: its array interface has no {name}")))
    };
    let kind: String = field("typestr")?.extract()?;
    let (dtype, size) = match &*kind {
        "<f2" => (FloatType::F16, 2),
        "<f4" => (FloatType::F32, 4),
        other => return Err(unknown(what, other)),
    };
    let shape: Vec<usize> = field("shape")?.extract()?;
    let (address, _): (usize, bool) = field("data")?.extract()?;
    let bytes: Option<Vec<isize>> =
        interface.get_item("strides")?.map(|strides| strides.extract()).transpose()?.flatten();
    let strides: Vec<isize> = match bytes {
        Some(bytes) => bytes.into_iter().map(|apart| apart / size).collect(),
        None => (0..shape.len()).map(|axis| shape[axis + 1..].iter().product::<usize>() as isize).collect(),
    };
    rows(what, address, dtype, &shape, &strides)
}

fn unknown(what: &str, dtype: &str) -> PyErr {
    PyTypeError::new_err(format!("{what} is of {dtype}; a cache takes bfloat16, float16 and float32"))
}

fn rows(
    what: &str,
    address: usize,
    dtype: FloatType,
    shape: &[usize],
    strides: &[isize],
) -> PyResult<TensorRows> {
    let row = match shape {
        [_, row] => *row,
        [_, heads, dim] => heads * dim,
        _ => {
            return Err(PyValueError::new_err(format!(
                "{what} has {} axes; it is [rows, heads * head_dim] or [rows, heads, head_dim]",
                shape.len()
            )));
        }
    };
    // Of an axis with one place the stride says nothing.
    let mut within = 1;
    let dense = (1..shape.len()).rev().all(|axis| {
        let fits = shape[axis] <= 1 || strides[axis] == within;
        within *= shape[axis] as isize;
        fits
    });
    if !dense || strides[0] < 0 {
        return Err(PyValueError::new_err(format!(
            "{what}: the elements of a row lie apart ({strides:?}); make it contiguous"
        )));
    }
    let stride = if shape[0] <= 1 { row } else { strides[0] as usize };
    Ok(TensorRows { address, stride, dtype, extents: Some([shape[0], row]) })
}
