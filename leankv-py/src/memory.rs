//! Memory of others that an arena lies in.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Bytes at an address, and what keeps them there.
pub(crate) struct Memory {
    address: usize,
    bytes: usize,
    /// None where the caller said an address.
    _owner: Option<Py<PyAny>>,
}

impl Memory {
    /// The first address that is a multiple of a power of two, and the bytes from there.
    pub(crate) fn aligned(&self, to: usize) -> (usize, usize) {
        let skipped = self.address.wrapping_neg() % to;
        (self.address.wrapping_add(skipped), self.bytes.saturating_sub(skipped))
    }
}

impl<'py> FromPyObject<'_, 'py> for Memory {
    type Error = PyErr;

    /// Of (address, bytes), or of a numpy array or torch tensor of the host that is contiguous and can be written.
    fn extract(from: Borrowed<'_, 'py, PyAny>) -> PyResult<Memory> {
        let py = from.py();
        if from.is_instance_of::<PyTuple>() {
            let (address, bytes): (usize, usize) = from.extract()?;
            if address == 0 || address.checked_add(bytes).is_none() {
                let why = format!("arena: there are no {bytes} bytes at address {address}");
                return Err(PyValueError::new_err(why));
            }
            return Ok(Memory { address, bytes, _owner: None });
        }
        let unfit = |why: &str| {
            Err(PyTypeError::new_err(format!(
                "arena {why}; give a contiguous numpy array or torch tensor of the host, or (address, bytes)"
            )))
        };
        let (address, bytes) = if from.hasattr(intern!(py, "data_ptr"))? {
            if !from.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
                return unfit("lies on another device");
            }
            if !from.call_method0(intern!(py, "is_contiguous"))?.is_truthy()? {
                return unfit("is not contiguous");
            }
            let address = from.call_method0(intern!(py, "data_ptr"))?.extract()?;
            (address, from.getattr(intern!(py, "nbytes"))?.extract()?)
        } else {
            let Ok(interface) = from.getattr(intern!(py, "__array_interface__")) else {
                return unfit("is no array");
            };
            let interface = interface.cast_into::<PyDict>()?;
            let strides = interface.get_item("strides")?;
            if strides.is_some_and(|strides| !strides.is_none()) {
                return unfit("is not contiguous");
            }
            let data = interface.get_item("data")?.ok_or_else(|| PyTypeError::new_err("arena has no data"))?;
            let (address, read_only): (usize, bool) = data.extract()?;
            if read_only {
                return unfit("is read-only");
            }
            (address, from.getattr(intern!(py, "nbytes"))?.extract()?)
        };
        Ok(Memory { address, bytes, _owner: Some(from.to_owned().unbind()) })
    }
}
