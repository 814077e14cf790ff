//! The cache.

use std::collections::HashMap;

use half::{bf16, f16};
use leankv_dsl::format::LayerFormats;
use leankv_dsl::lang::FloatType;
use leankv_kernels::policy::PolicySpec;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{
    CacheConfig, EngineKernels, InputElement, KvCache, KvError, LayerInput, PageManager, RequestId,
    RequestStats, Rows, RowsMut, State, StepId, StepPart,
};
use leankv_runtime::{Compiler, Device, DeviceBuffer, DeviceError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;
use crate::plan::Plan;
use crate::tensor::TensorRows;

/// Keys and values of many requests, compressed, for tensors on the host.
///
/// A step is `begin`, then `layer` for every layer in order, then `finish`. Requests are named by handles of the caller's.
///
/// slots: requests at once. pages: pages of its own memory; or arena: (address, bytes) of memory that lives as long as the cache, of which
/// up to 127 bytes are skipped. more_kv: what else requests may ask
/// for. kernels: folder of compiled kernels; the usual one if not given.
#[pyclass(module = "leankv._native")]
pub(crate) struct Cache {
    cache: KvCache,
    plan: Py<Plan>,
    requests: HashMap<i64, RequestId>,
    /// The step that was begun last, until it is ended.
    open: Option<Open>,
    begun: u64,
}

/// A step under way.
#[derive(Clone, Copy)]
struct Open {
    number: u64,
    id: StepId,
    rows: usize,
}

impl Cache {
    fn handle(&self, id: RequestId) -> Option<i64> {
        self.requests.iter().find(|(_, known)| **known == id).map(|(handle, _)| *handle)
    }

    fn error(&self, py: Python<'_>, error: KvError) -> PyErr {
        errors::cache(py, error, |id| self.handle(id))
    }

    fn request(&self, py: Python<'_>, handle: i64) -> PyResult<RequestId> {
        self.requests
            .get(&handle)
            .copied()
            .ok_or_else(|| errors::of_request(py, handle, "it is not here; admit it first"))
    }

    fn step(&self, number: u64) -> PyResult<Open> {
        self.open.filter(|open| open.number == number).ok_or_else(|| {
            PyValueError::new_err(
                "this step is not under way any more: it was ended, or another one was begun",
            )
        })
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
        arena: Option<(usize, usize)>,
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
        let (pages, arena) = match (pages, arena) {
            (Some(pages), None) => (pages, None),
            (None, Some((address, bytes))) => {
                // torch aligns to less than kernels ask for.
                let start = address.next_multiple_of(State::ALIGNMENT as usize);
                (bytes.saturating_sub(start - address) / page_bytes, Some(start))
            }
            _ => {
                return Err(PyValueError::new_err(
                    "give either pages, for memory of the cache's own, or arena=(address, bytes)",
                ));
            }
        };
        let more_formats = formats.split_off(1);
        let config = CacheConfig { slots, pages, more_formats, policy, ..of_plan.config.clone() };
        let opened = py.detach(|| -> Result<KvCache, KvError> {
            let device = Device::host();
            let folder = match kernels {
                Some(folder) => KernelCache::at(folder),
                None => KernelCache::user(),
            };
            let kernels = EngineKernels::new(&Compiler::new(folder), &device, &config)?;
            match arena {
                None => KvCache::with_kernels(&device, config, kernels),
                Some(address) => {
                    // SAFETY: the caller says that the memory is there as long as the cache is, and nobody else's.
                    let arena = unsafe { device.wrap(address, config.pages * page_bytes) }?;
                    KvCache::with_arena(&device, config, kernels, arena)
                }
            }
        });
        let cache = opened.map_err(|error| errors::cache(py, error, |_| None))?;
        Ok(Cache { cache, plan, requests: HashMap::new(), open: None, begun: 0 })
    }

    /// What it was made for.
    #[getter]
    fn plan(&self, py: Python<'_>) -> Py<Plan> {
        self.plan.clone_ref(py)
    }

    /// Pages of the arena.
    #[getter]
    fn pages(&self) -> usize {
        self.cache.config().pages
    }

    /// Bytes of a page.
    #[getter]
    fn page_bytes(&self) -> usize {
        self.cache.config().page_bytes
    }

    /// Pages that no request holds.
    fn free_pages(&self, py: Python<'_>) -> PyResult<usize> {
        self.cache.manager().free_pages().map_err(|error| self.error(py, error))
    }

    /// Takes a request in whose prompt has `prompt` tokens, under a handle that is not in use, with what it asks for or what the plan says.
    #[pyo3(signature = (handle, prompt, kv = None))]
    fn admit(&mut self, py: Python<'_>, handle: i64, prompt: usize, kv: Option<&str>) -> PyResult<()> {
        if self.requests.contains_key(&handle) {
            return Err(errors::of_request(py, handle, "its handle is in use; free it first"));
        }
        let (choice, thresholds) = self.plan.get().request(kv)?;
        let unknown = || format!("the cache was not made for `{choice}`; name it in more_kv");
        if !choice.is_uniform() && self.cache.config().policy.stock() == Some(PolicySpec::Uniform) {
            return Err(errors::of_request(py, handle, &unknown()));
        }
        let admitted = self.cache.admit_as(&choice.formats, prompt, &thresholds);
        let id = admitted.map_err(|error| match error {
            KvError::NoFormats { .. } => errors::of_request(py, handle, &unknown()),
            error => self.error(py, error),
        })?;
        self.requests.insert(handle, id);
        Ok(())
    }

    /// Ends requests, also in the middle of a step. Handles that are not known are ignored, since who aborts a request may be late.
    fn free(&mut self, py: Python<'_>, handles: Vec<i64>) -> PyResult<()> {
        let mut ids = Vec::new();
        for handle in handles {
            ids.extend(self.requests.remove(&handle));
        }
        let freed = py.detach(|| self.cache.free(&ids));
        freed.map_err(|error| self.error(py, error))
    }

    /// Begins a step: `parts` are (handle, rows), in the order of the rows of all tensors. A request whose prompt is there has one row; one whose prompt is not has a
    /// piece of it, of any length. Takes the pages that are needed. A step that was begun before is given up.
    fn begin(&mut self, py: Python<'_>, parts: Vec<(i64, usize)>) -> PyResult<u64> {
        let mut asked = Vec::with_capacity(parts.len());
        for &(handle, rows) in &parts {
            asked.push(StepPart { request: self.request(py, handle)?, rows });
        }
        let begun = py.detach(|| self.cache.begin(&asked));
        let id = begun.map_err(|error| self.error(py, error))?;
        self.begun += 1;
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        self.open = Some(Open { number: self.begun, id, rows });
        Ok(self.begun)
    }

    /// Does a layer of a step: `q` is [rows, query_heads * head_dim], `k` and `v` are [rows, kv_heads * head_dim], or with heads and head_dim as axes, queries and keys after
    /// RoPE; what attention gives is written to `out`, shaped as `q`. Tensors of the host: torch, numpy, or (address, elements from row to row, dtype). Rows may lie apart.
    fn layer(
        &mut self,
        py: Python<'_>,
        step: u64,
        layer: usize,
        q: &Bound<'_, PyAny>,
        k: &Bound<'_, PyAny>,
        v: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let Open { id, rows, .. } = self.step(step)?;
        let CacheConfig { input, output, head_dim, kv_heads, .. } = *self.cache.config();
        let (q_row, kv_row) = (self.cache.config().query_heads() * head_dim, kv_heads * head_dim);
        let read = |what: &str, tensor: &Bound<'_, PyAny>, row: usize, dtype: FloatType| {
            let tensor = TensorRows::of(what, tensor)?;
            tensor.check(what, rows, row)?;
            match tensor.dtype == dtype {
                true => Ok(tensor),
                false => Err(PyValueError::new_err(format!(
                    "{what} is of {}, and the plan says {dtype}",
                    tensor.dtype
                ))),
            }
        };
        let tensors =
            [read("q", q, q_row, input)?, read("k", k, kv_row, input)?, read("v", v, kv_row, input)?];
        let out = read("out", out, q_row, output)?;
        let cache = &mut self.cache;
        let done = py.detach(|| match input {
            FloatType::F16 => run::<f16>(cache, id, layer, rows, tensors, out),
            FloatType::Bf16 => run::<bf16>(cache, id, layer, rows, tensors, out),
            FloatType::F32 => run::<f32>(cache, id, layer, rows, tensors, out),
        });
        done.map_err(|error| self.error(py, error))
    }

    /// Ends a step, after all its layers.
    fn finish(&mut self, py: Python<'_>, step: u64) -> PyResult<()> {
        let id = self.step(step)?.id;
        let done = py.detach(|| self.cache.finish(id));
        done.map_err(|error| self.error(py, error))?;
        self.open = None;
        Ok(())
    }

    /// Tokens of a request's sequence so far, kept or not.
    fn tokens(&self, py: Python<'_>, handle: i64) -> PyResult<usize> {
        let id = self.request(py, handle)?;
        self.cache.tokens(id).map_err(|error| self.error(py, error))
    }

    /// Handles of the requests that are here.
    fn handles(&self) -> Vec<i64> {
        let mut handles: Vec<i64> = self.requests.keys().copied().collect();
        handles.sort_unstable();
        handles
    }

    /// What a request holds: bytes of its pages, the same tokens in FP16, pages, and (token, layer, KV head) triples that are high, low and pruned.
    fn stats<'py>(&self, py: Python<'py>, handle: i64) -> PyResult<Bound<'py, PyDict>> {
        let id = self.request(py, handle)?;
        let stats = self.cache.stats(id).map_err(|error| self.error(py, error))?;
        Totals::of(&stats, self.page_bytes()).into_dict(py)
    }

    /// The same of all requests together, how many there are (`requests`), and pages that are not free (`pages_used`).
    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let mut totals = Totals::default();
        for id in self.requests.values() {
            let stats = self.cache.stats(*id).map_err(|error| self.error(py, error))?;
            totals.add(&Totals::of(&stats, self.page_bytes()));
        }
        let all = totals.into_dict(py)?;
        all.set_item("requests", self.requests.len())?;
        all.set_item("pages_used", self.pages() - self.free_pages(py)?)?;
        Ok(all)
    }

    /// Counts everything again; empty when all is well.
    fn audit(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let findings = py.detach(|| self.cache.audit()).map_err(|error| self.error(py, error))?;
        Ok(findings.iter().map(ToString::to_string).collect())
    }

    fn __repr__(&self) -> String {
        let config = self.cache.config();
        format!(
            "Cache({} requests of {}, {} pages of {} bytes)",
            self.requests.len(),
            config.slots,
            config.pages,
            config.page_bytes
        )
    }
}

/// What requests hold.
#[derive(Default)]
struct Totals {
    bytes: usize,
    fp16_bytes: usize,
    pages: usize,
    high: usize,
    low: usize,
    pruned: usize,
}

impl Totals {
    fn of(stats: &RequestStats, page_bytes: usize) -> Totals {
        let mut totals = Totals { fp16_bytes: stats.fp16_bytes, ..Totals::default() };
        for head in &stats.heads {
            totals.pages += head.pages;
            totals.high += head.high;
            totals.low += head.low;
            totals.pruned += head.pruned;
        }
        totals.bytes = totals.pages * page_bytes;
        totals
    }

    fn add(&mut self, other: &Totals) {
        self.bytes += other.bytes;
        self.fp16_bytes += other.fp16_bytes;
        self.pages += other.pages;
        self.high += other.high;
        self.low += other.low;
        self.pruned += other.pruned;
    }

    fn into_dict<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        let Totals { bytes, fp16_bytes, pages, high, low, pruned } = self;
        for (name, n) in [
            ("bytes", bytes),
            ("fp16_bytes", fp16_bytes),
            ("pages", pages),
            ("high", high),
            ("low", low),
            ("pruned", pruned),
        ] {
            all.set_item(name, n)?;
        }
        Ok(all)
    }
}

/// A layer of rows of one type.
fn run<E: InputElement>(
    cache: &mut KvCache,
    step: StepId,
    layer: usize,
    rows: usize,
    [q, k, v]: [TensorRows; 3],
    out: TensorRows,
) -> Result<(), KvError> {
    let (d, heads) = (cache.config().head_dim, cache.config().kv_heads);
    let (q_row, kv_row) = (cache.config().query_heads() * d, heads * d);
    let wrap = |rows_of: TensorRows, row: usize| -> Result<DeviceBuffer<E>, DeviceError> {
        let len = rows.saturating_sub(1) * rows_of.stride + if rows > 0 { row } else { 0 };
        // SAFETY: the tensor has these rows, which was checked where it says how many it has and is the caller's promise elsewhere; it lives as long as this call,
        // in which nobody writes it.
        unsafe { Device::host().wrap(rows_of.address, len) }
    };
    let (q_rows, k_rows, v_rows, mut out_rows) =
        (wrap(q, q_row)?, wrap(k, kv_row)?, wrap(v, kv_row)?, wrap(out, q_row)?);
    let input = LayerInput {
        q: Rows::from(&q_rows).strided(q.stride),
        k: Rows::from(&k_rows).strided(k.stride),
        v: Rows::from(&v_rows).strided(v.stride),
        priors: None,
    };
    cache.layer(step, layer, input, RowsMut::from(&mut out_rows).strided(out.stride))
}
