//! The compiler, for kernels that are shipped.

use std::collections::BTreeMap;

use leankv_dsl::lang::Settings;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Target};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::{self, LeanKvError};

/// Names of the kernels that are shipped.
#[pyfunction]
pub(crate) fn kernels() -> Vec<&'static str> {
    let mut names: Vec<&str> = leankv_kernels::KERNELS.iter().map(|kernel| kernel.name()).collect();
    names.sort_unstable();
    names
}

/// The PTX of a kernel for a GPU ("sm_80", "sm_90", ...), specialised as `settings` say ({"tiering": "K8V4/K4V2", "head_dim": "64"}).
#[pyfunction]
#[pyo3(signature = (kernel, target, settings = BTreeMap::new()))]
pub(crate) fn compile(
    py: Python<'_>,
    kernel: &str,
    target: &str,
    settings: BTreeMap<String, String>,
) -> PyResult<String> {
    let Some(found) = leankv_kernels::find(kernel) else {
        return Err(PyValueError::new_err(format!(
            "there is no kernel `{kernel}`; there are {}",
            kernels().join(", ")
        )));
    };
    let target: Target = target.parse().map_err(errors::value)?;
    let fields: Vec<&str> = found.fields().iter().map(|field| field.name).collect();
    if let Some(key) = settings.keys().find(|key| !fields.contains(&key.as_str())) {
        return Err(PyValueError::new_err(format!(
            "`{kernel}` has no setting `{key}`; it has {}",
            fields.join(", ")
        )));
    }
    let settings: Settings = settings.into_iter().collect();
    py.detach(|| {
        let func = found.build(&settings).map_err(|e| LeanKvError::new_err(e.to_string()))?;
        let compiled = Compiler::new(KernelCache::user()).compile(&func, target);
        let compiled = compiled.map_err(|e| LeanKvError::new_err(e.to_string()))?;
        match compiled.kernel.ptx() {
            Some(ptx) => Ok(ptx.to_owned()),
            None => Err(PyValueError::new_err("the host has no PTX; name a GPU, such as sm_90")),
        }
    })
}
