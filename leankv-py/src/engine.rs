//! The cache behind its lock: requests by handles of the caller's, and the step under way. There is no Python in it, so that it runs while other threads of Python do.

use std::collections::HashMap;

use half::{bf16, f16};
use leankv_dsl::lang::FloatType;
use leankv_model::cache::KvChoice;
use leankv_runtime::kv::{
    CacheConfig, InputElement, KvCache, KvError, LayerInput, PageManager, RequestId, Rows, RowsMut, StepId,
    StepPart, Thresholds,
};
use leankv_runtime::{Device, DeviceBuffer, DeviceError};

use crate::errors::Failure;
use crate::tensor::TensorRows;
use crate::totals::Totals;

/// A cache and who is in it.
pub(crate) struct Engine {
    cache: KvCache,
    requests: HashMap<i64, Held>,
    /// The step that was begun last, until it is ended.
    open: Option<Open>,
    begun: u64,
}

/// A request that is here.
#[derive(Clone, Copy)]
struct Held {
    id: RequestId,
    prompt: usize,
}

/// A step under way.
#[derive(Clone, Copy)]
struct Open {
    number: u64,
    id: StepId,
    rows: usize,
}

/// The tensors of a layer.
pub(crate) struct LayerRows {
    pub(crate) q: TensorRows,
    pub(crate) k: TensorRows,
    pub(crate) v: TensorRows,
    pub(crate) out: TensorRows,
}

impl Engine {
    pub(crate) fn new(cache: KvCache) -> Engine {
        Engine { cache, requests: HashMap::new(), open: None, begun: 0 }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Handles of the requests that are here, in order.
    pub(crate) fn handles(&self) -> Vec<i64> {
        let mut handles: Vec<i64> = self.requests.keys().copied().collect();
        handles.sort_unstable();
        handles
    }

    pub(crate) fn admit(
        &mut self,
        handle: i64,
        prompt: usize,
        choice: &KvChoice,
        thresholds: &Thresholds,
    ) -> Result<(), Failure> {
        let refused = |why: String| Err(Failure::Request { handle, why });
        let most = self.cache.config().max_tokens;
        if self.requests.contains_key(&handle) {
            return refused("its handle is in use; free it first".to_owned());
        }
        if prompt > most {
            return refused(format!("its prompt has {prompt} tokens, and the plan has max_tokens={most}"));
        }
        let unknown = || refused(format!("the cache was not made for `{choice}`; name it in more_kv"));
        if !choice.is_uniform() && self.keeps_all() {
            return unknown();
        }
        match self.cache.admit_as(&choice.formats, prompt, thresholds) {
            Ok(id) => {
                self.requests.insert(handle, Held { id, prompt });
                Ok(())
            }
            Err(KvError::NoFormats { .. }) => unknown(),
            Err(error @ KvError::OverBudget { .. }) => refused(error.to_string()),
            Err(error) => Err(self.blame(error)),
        }
    }

    fn keeps_all(&self) -> bool {
        let uniform = leankv_kernels::policy::PolicySpec::Uniform;
        self.cache.config().policy.stock() == Some(uniform)
    }

    /// Ends requests; handles that are not known are ignored.
    pub(crate) fn free(&mut self, handles: &[i64]) -> Result<(), Failure> {
        let ids: Vec<RequestId> =
            handles.iter().filter_map(|handle| self.requests.remove(handle)).map(|held| held.id).collect();
        self.cache.free(&ids).map_err(|error| self.blame(error))
    }

    pub(crate) fn begin(&mut self, parts: &[(i64, usize)]) -> Result<u64, Failure> {
        let mut asked = Vec::with_capacity(parts.len());
        for (number, &(handle, rows)) in parts.iter().enumerate() {
            let held = self.held(handle)?;
            let seen = self.cache.tokens(held.id).map_err(|error| self.blame(error))?;
            let left = held.prompt.saturating_sub(seen);
            let why = match (rows, left) {
                (0, _) => "a step gives it at least one row".to_owned(),
                (2.., 0) => format!("its prompt is there, so it takes one row a step, not {rows}"),
                (2.., _) if rows > left => {
                    format!("{left} tokens of its prompt are missing, and the step brings {rows}")
                }
                _ if parts[..number].iter().any(|(other, _)| *other == handle) => {
                    "it is named twice in one step".to_owned()
                }
                _ => {
                    asked.push(StepPart { request: held.id, rows });
                    continue;
                }
            };
            return Err(Failure::Request { handle, why });
        }
        self.open = None;
        let id = self.cache.begin(&asked).map_err(|error| self.blame(error))?;
        self.begun += 1;
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        self.open = Some(Open { number: self.begun, id, rows });
        Ok(self.begun)
    }

    pub(crate) fn layer(&mut self, step: u64, layer: usize, tensors: &LayerRows) -> Result<(), Failure> {
        let Open { id, rows, .. } = self.step(step)?;
        let CacheConfig { input, head_dim, kv_heads, group, layers, .. } = *self.cache.config();
        if layer >= layers {
            return Err(Failure::Argument(format!(
                "there is no layer {layer}; there are {layers}, numbered from 0"
            )));
        }
        let LayerRows { q, k, v, out } = tensors;
        for (what, tensor, heads) in [
            ("q", q, kv_heads * group),
            ("k", k, kv_heads),
            ("v", v, kv_heads),
            ("out", out, kv_heads * group),
        ] {
            tensor.check(what, input, [rows, heads, head_dim]).map_err(Failure::Argument)?;
        }
        if out.read_only {
            return Err(Failure::Argument("out is read-only; give an array that can be written".to_owned()));
        }
        let done = match input {
            FloatType::F16 => run::<f16>(&mut self.cache, id, layer, rows, tensors),
            FloatType::Bf16 => run::<bf16>(&mut self.cache, id, layer, rows, tensors),
            FloatType::F32 => run::<f32>(&mut self.cache, id, layer, rows, tensors),
        };
        done.map_err(|error| self.blame(error))
    }

    pub(crate) fn finish(&mut self, step: u64) -> Result<(), Failure> {
        let id = self.step(step)?.id;
        self.cache.finish(id).map_err(|error| self.blame(error))?;
        self.open = None;
        Ok(())
    }

    pub(crate) fn tokens(&self, handle: i64) -> Result<usize, Failure> {
        self.cache.tokens(self.held(handle)?.id).map_err(|error| self.blame(error))
    }

    pub(crate) fn stats(&self, handle: i64) -> Result<Totals, Failure> {
        let stats = self.cache.stats(self.held(handle)?.id).map_err(|error| self.blame(error))?;
        Ok(Totals::of(&stats, self.cache.config().page_bytes))
    }

    /// The stats of all requests together.
    pub(crate) fn totals(&self) -> Result<Totals, Failure> {
        let mut totals = Totals::default();
        for handle in self.handles() {
            totals.add(&self.stats(handle)?);
        }
        Ok(totals)
    }

    pub(crate) fn free_pages(&self) -> Result<usize, Failure> {
        self.cache.manager().free_pages().map_err(|error| self.blame(error))
    }

    /// Counts everything again.
    pub(crate) fn audit(&self) -> Result<Vec<String>, Failure> {
        let findings = self.cache.audit().map_err(|error| self.blame(error))?;
        Ok(findings.iter().map(ToString::to_string).collect())
    }

    fn held(&self, handle: i64) -> Result<Held, Failure> {
        let why = || "it is not here; admit it first".to_owned();
        self.requests.get(&handle).copied().ok_or_else(|| Failure::Request { handle, why: why() })
    }

    fn step(&self, number: u64) -> Result<Open, Failure> {
        self.open.filter(|open| open.number == number).ok_or_else(|| {
            let why = "this step is not under way any more: it was ended, or another one was begun";
            Failure::Argument(why.to_owned())
        })
    }

    /// What a cache says, by the caller's handle where it says it of one request.
    fn blame(&self, error: KvError) -> Failure {
        let (KvError::NoRequest { id }
        | KvError::Torn { id }
        | KvError::PromptPending { id, .. }
        | KvError::PromptDone { id }
        | KvError::Full { id, .. }) = &error
        else {
            return Failure::Cache(error);
        };
        match self.requests.iter().find(|(_, held)| held.id == *id) {
            // The cache's own name of a request means nothing to the caller.
            Some((handle, _)) => {
                Failure::Request { handle: *handle, why: error.to_string().replace(&id.to_string(), "it") }
            }
            None => Failure::Freed,
        }
    }
}

/// A layer of rows of one type, of tensors that were checked.
fn run<E: InputElement>(
    cache: &mut KvCache,
    step: StepId,
    layer: usize,
    rows: usize,
    LayerRows { q, k, v, out }: &LayerRows,
) -> Result<(), KvError> {
    let (d, heads) = (cache.config().head_dim, cache.config().kv_heads);
    let (q_row, kv_row) = (cache.config().query_heads() * d, heads * d);
    let wrap = |rows_of: &TensorRows, row: usize| -> Result<DeviceBuffer<E>, DeviceError> {
        let len = if rows > 0 { (rows - 1) * rows_of.stride + row } else { 0 };
        // SAFETY: the tensor has these rows, which was checked where it says how many it has and is the caller's promise elsewhere; it lives as long as this call,
        // in which nobody writes it. Where `out` lies over the others they were read before it is written.
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
