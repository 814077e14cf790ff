//! The native part of the Python package `leankv`: a cache for tensors on the host, what it costs before it is made, codecs, and the compiler of kernels.

mod cache;
mod codecs;
mod compile;
mod engine;
mod errors;
mod memory;
mod plan;
mod process;
mod tensor;
mod totals;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<plan::Plan>()?;
    module.add_class::<cache::Cache>()?;
    module.add("LeanKvError", py.get_type::<errors::LeanKvError>())?;
    module.add("OutOfPages", py.get_type::<errors::OutOfPages>())?;
    module.add("RequestError", py.get_type::<errors::RequestError>())?;
    module.add_function(wrap_pyfunction!(codecs::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(codecs::dequantize, module)?)?;
    module.add_function(wrap_pyfunction!(compile::compile, module)?)?;
    module.add_function(wrap_pyfunction!(compile::kernels, module)?)?;
    Ok(())
}
