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
    /// Whether writing it is refused by who made it.
    pub(crate) read_only: bool,
    /// What the tensor says of itself; a tuple does not.
    extents: Option<Extents>,
}

#[derive(Clone, Copy, Debug)]
struct Extents {
    rows: usize,
    /// Elements of a row.
    row: usize,
    /// Of the last axis of three.
    head_dim: Option<usize>,
}

impl TensorRows {
    /// Of a torch tensor, a numpy array, or a tuple (address, elements from row to row, "bf16", "f16" or "f32").
    pub(crate) fn of(what: &str, tensor: &Bound<'_, PyAny>) -> PyResult<TensorRows> {
        if let Ok(tuple) = tensor.cast::<PyTuple>() {
            let Ok((address, stride, dtype)) = tuple.extract::<(usize, usize, String)>() else {
                return Err(PyTypeError::new_err(format!(
                    "{what}: a tuple is (address, elements from row to row, dtype)"
                )));
            };
            let dtype = float_type(&dtype)?;
            return Ok(TensorRows { address, stride, dtype, read_only: false, extents: None });
        }
        match tensor.hasattr(intern!(tensor.py(), "data_ptr"))? {
            true => of_torch(what, tensor),
            false => of_numpy(what, tensor),
        }
    }

    /// Checks that these are so many rows of so many heads of `head_dim` elements of a type, or says what is wrong.
    pub(crate) fn check(
        &self,
        what: &str,
        dtype: FloatType,
        [rows, heads, head_dim]: [usize; 3],
    ) -> Result<(), String> {
        if self.dtype != dtype {
            return Err(format!("{what} is of {}, and {dtype} is needed", self.dtype));
        }
        let row = heads * head_dim;
        if let Some(got) = self.extents {
            if (got.rows, got.row) != (rows, row) {
                let Extents { rows: got_rows, row: got, .. } = got;
                return Err(format!(
                    "{what}: {rows} rows of {row} elements are needed, not {got_rows} of {got}"
                ));
            }
            if let Some(got) = got.head_dim.filter(|got| *got != head_dim) {
                return Err(format!("{what}: heads have {head_dim} elements, not {got}"));
            }
        }
        if rows > 1 && self.stride < row {
            return Err(format!(
                "{what}: rows of {row} elements that are {} apart lie over one another",
                self.stride
            ));
        }
        let size = if dtype == FloatType::F32 { 4 } else { 2 };
        let end = rows.saturating_sub(1).checked_mul(self.stride).and_then(|last| last.checked_add(row));
        let end = end.and_then(|end| end.checked_mul(size)).and_then(|end| end.checked_add(self.address));
        match (end, self.address) {
            (Some(end), 1..) if isize::try_from(end).is_ok() => Ok(()),
            _ if rows == 0 => Ok(()),
            _ => Err(format!("{what}: there is no memory for {rows} rows at address {}", self.address)),
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
    if tensor.call_method0(intern!(py, "is_neg"))?.is_truthy()? {
        return Err(PyValueError::new_err(format!(
            "{what} is a view that negates what lies in memory; call resolve_neg()"
        )));
    }
    let shape: Vec<usize> = tensor.getattr(intern!(py, "shape"))?.extract()?;
    let strides: Vec<isize> = tensor.call_method0(intern!(py, "stride"))?.extract()?;
    let address = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
    rows(what, (address, false), dtype, &shape, &strides)
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
    let data: (usize, bool) = field("data")?.extract()?;
    let bytes: Option<Vec<isize>> =
        interface.get_item("strides")?.map(|strides| strides.extract()).transpose()?.flatten();
    let strides: Vec<isize> = match bytes {
        Some(bytes) => {
            // Fields of records may lie apart by bytes that are no elements.
            let whole = bytes.iter().zip(&shape).all(|(apart, n)| *n <= 1 || apart % size == 0);
            if !whole {
                return Err(PyValueError::new_err(format!(
                    "{what}: its elements lie apart by {bytes:?} bytes, which are no whole elements; make it contiguous"
                )));
            }
            bytes.into_iter().map(|apart| apart / size).collect()
        }
        None => (0..shape.len()).map(|axis| shape[axis + 1..].iter().product::<usize>() as isize).collect(),
    };
    rows(what, data, dtype, &shape, &strides)
}

fn unknown(what: &str, dtype: &str) -> PyErr {
    PyTypeError::new_err(format!("{what} is of {dtype}; a cache takes bfloat16, float16 and float32"))
}

fn rows(
    what: &str,
    (address, read_only): (usize, bool),
    dtype: FloatType,
    shape: &[usize],
    strides: &[isize],
) -> PyResult<TensorRows> {
    let (row, head_dim) = match shape {
        [_, row] => (*row, None),
        [_, heads, dim] => (heads * dim, Some(*dim)),
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
            "{what}: elements of a row lie apart, or rows lie backwards, with strides {strides:?}; make it contiguous"
        )));
    }
    let stride = if shape[0] <= 1 { row } else { strides[0] as usize };
    let extents = Some(Extents { rows: shape[0], row, head_dim });
    Ok(TensorRows { address, stride, dtype, read_only, extents })
}
