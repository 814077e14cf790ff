//! The cache, as Python sees it.

use std::sync::Mutex;

use leankv_dsl::format::LayerFormats;
use leankv_kernels::policy::PolicySpec;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{CacheConfig, EngineKernels, KvCache, KvError, State};
use leankv_runtime::{Compiler, Device};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::engine::{Engine, LayerRows};
use crate::errors::Failure;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::process;
use crate::tensor::TensorRows;

/// Keys and values of many requests, compressed, for tensors on the host.
///
/// A step is `begin`, then `layer` for every layer in order, then `finish`. Requests are named by handles of the caller's. Calls of several threads wait for one another.
///
/// slots: requests at once. pages: pages of its own memory; or arena: a numpy array or torch tensor that is kept, or (address, bytes) of memory that lives as long as the
/// cache; up to 127 bytes at its start are skipped. more_kv: what else requests may ask for. kernels: folder of compiled kernels; the usual one if not given.
#[pyclass(frozen, module = "leankv._native")]
pub(crate) struct Cache {
    plan: Py<Plan>,
    slots: usize,
    pages: usize,
    page_bytes: usize,
    /// Locked only where the GIL is not held, so that neither waits for the other.
    engine: Mutex<Engine>,
    /// What the arena lies in.
    _memory: Option<Memory>,
}

impl Cache {
    /// Does something with the cache, while other threads of Python run.
    fn locked<T: Send>(
        &self,
        py: Python<'_>,
        what: impl FnOnce(&mut Engine) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let engine = &self.engine;
        let done = py.detach(|| {
            process::check()?;
            what(&mut *engine.lock().map_err(|_| Failure::Broken)?)
        });
        done.map_err(|failure| failure.into_py(py))
    }
}

#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (plan, *, slots, pages = None, arena = None, more_kv = Vec::new(), kernels = None))]
    fn new(
        py: Python<'_>,
        plan: Py<Plan>,
        slots: usize,
        pages: Option<usize>,
        arena: Option<Memory>,
        more_kv: Vec<String>,
        kernels: Option<String>,
    ) -> PyResult<Cache> {
        let of_plan = plan.get();
        let mut formats: Vec<LayerFormats> = vec![of_plan.config.formats.clone()];
        let mut policy = of_plan.config.policy.clone();
        for text in &more_kv {
            let (asked, _) = of_plan.request(Some(text))?;
            if let Some(stock) = asked.policy.stock().filter(|_| policy.stock() == Some(PolicySpec::Uniform))
            {
                policy = stock.into();
            }
            if !formats.contains(&asked.formats) {
                formats.push(asked.formats);
            }
        }
        let page_bytes = of_plan.config.page_bytes;
        let (pages, start) = match (pages, &arena) {
            (Some(pages), None) => (pages, None),
            (None, Some(memory)) => {
                // torch aligns to less than kernels ask for.
                let (start, bytes) = memory.aligned(State::ALIGNMENT as usize);
                (bytes / page_bytes, Some(start))
            }
            _ => {
                return Err(PyValueError::new_err(
                    "give either pages, for memory of the cache's own, or arena, for memory that is there",
                ));
            }
        };
        let more_formats = formats.split_off(1);
        let config = CacheConfig { slots, pages, more_formats, policy, ..of_plan.config.clone() };
        let opened = py.detach(|| -> Result<KvCache, Failure> {
            process::check()?;
            open(config, start, kernels).map_err(Failure::Cache)
        });
        let cache = opened.map_err(|failure| failure.into_py(py))?;
        Ok(Cache { plan, slots, pages, page_bytes, engine: Mutex::new(Engine::new(cache)), _memory: arena })
    }

    /// What it was made for.
    #[getter]
    fn plan(&self, py: Python<'_>) -> Py<Plan> {
        self.plan.clone_ref(py)
    }

    /// Pages of the arena.
    #[getter]
    fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page.
    #[getter]
    fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Pages that no request holds.
    fn free_pages(&self, py: Python<'_>) -> PyResult<usize> {
        self.locked(py, |engine| engine.free_pages())
    }

    /// Takes a request in whose prompt has `prompt` tokens, under a handle that is not in use, with what it asks for or what the plan says.
    #[pyo3(signature = (handle, prompt, kv = None))]
    fn admit(&self, py: Python<'_>, handle: i64, prompt: usize, kv: Option<&str>) -> PyResult<()> {
        let (choice, thresholds) = self.plan.get().request(kv)?;
        self.locked(py, |engine| engine.admit(handle, prompt, &choice, &thresholds))
    }

    /// Ends requests, also in the middle of a step. Handles that are not known are ignored, since who aborts a request may be late.
    fn free(&self, py: Python<'_>, handles: Vec<i64>) -> PyResult<()> {
        self.locked(py, |engine| engine.free(&handles))
    }

    /// Begins a step: `parts` are (handle, rows), in the order of the rows of all tensors. A request whose prompt is there has one row; one whose prompt is not has a
    /// piece of it, of any length. Takes the pages that are needed. A step that was begun before is given up.
    fn begin(&self, py: Python<'_>, parts: Vec<(i64, usize)>) -> PyResult<u64> {
        self.locked(py, |engine| engine.begin(&parts))
    }

    /// Does a layer of a step: `q` is [rows, query_heads * head_dim], `k` and `v` are [rows, kv_heads * head_dim], or with heads and head_dim as axes, queries and keys after
    /// RoPE; what attention gives is written to `out`, shaped as `q`, which it may lie over. Tensors of the host: torch, numpy, or (address, elements from row to row,
    /// dtype). Rows may lie apart, and start at multiples of 16 bytes.
    fn layer(
        &self,
        py: Python<'_>,
        step: u64,
        layer: usize,
        q: &Bound<'_, PyAny>,
        k: &Bound<'_, PyAny>,
        v: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let tensors = LayerRows {
            q: TensorRows::of("q", q)?,
            k: TensorRows::of("k", k)?,
            v: TensorRows::of("v", v)?,
            out: TensorRows::of("out", out)?,
        };
        self.locked(py, |engine| engine.layer(step, layer, &tensors))
    }

    /// Ends a step, after all its layers.
    fn finish(&self, py: Python<'_>, step: u64) -> PyResult<()> {
        self.locked(py, |engine| engine.finish(step))
    }

    /// Tokens of a request's sequence so far, kept or not.
    fn tokens(&self, py: Python<'_>, handle: i64) -> PyResult<usize> {
        self.locked(py, |engine| engine.tokens(handle))
    }

    /// Handles of the requests that are here.
    fn handles(&self, py: Python<'_>) -> PyResult<Vec<i64>> {
        self.locked(py, |engine| Ok(engine.handles()))
    }

    /// What a request holds: bytes of its pages, the same tokens in FP16, pages, and (token, layer, KV head) triples that are high, low and pruned.
    fn stats<'py>(&self, py: Python<'py>, handle: i64) -> PyResult<Bound<'py, PyDict>> {
        self.locked(py, |engine| engine.stats(handle))?.into_dict(py)
    }

    /// The same of all requests together, how many there are (`requests`), and pages that are not free (`pages_used`).
    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (totals, requests, free) = self
            .locked(py, |engine| Ok((engine.totals()?, engine.requests(), engine.free_pages()?)))?;
        let all = totals.into_dict(py)?;
        all.set_item("requests", requests)?;
        all.set_item("pages_used", self.pages - free)?;
        Ok(all)
    }

    /// Counts everything again; empty when all is well.
    fn audit(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.locked(py, |engine| engine.audit())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let requests = self.locked(py, |engine| Ok(engine.requests()))?;
        let Cache { slots, pages, page_bytes, .. } = self;
        Ok(format!("Cache({requests} requests of {slots}, {pages} pages of {page_bytes} bytes)"))
    }
}

/// An empty cache, in memory of its own or at an address.
fn open(config: CacheConfig, start: Option<usize>, kernels: Option<String>) -> Result<KvCache, KvError> {
    let device = Device::host();
    let folder = match kernels {
        Some(folder) => KernelCache::at(folder),
        None => KernelCache::user(),
    };
    let kernels = EngineKernels::new(&Compiler::new(folder), &device, &config)?;
    match start {
        None => KvCache::with_kernels(&device, config, kernels),
        Some(address) => {
            // SAFETY: the memory is there as long as the cache is, and nobody else's: it is kept, or the caller says so.
            let arena = unsafe { device.wrap(address, config.pages * config.page_bytes) }?;
            KvCache::with_arena(&device, config, kernels, arena)
        }
    }
}
