//! What a cache of a model would be, and what requests would take of it, before there is one.

use leankv_dsl::lang::FloatType;
use leankv_model::cache::{KvChoice, Room, config_without_model, thresholds};
use leankv_runtime::kv::{CacheConfig, Thresholds};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;

/// A cache for a model of these extents: formats, rules and sizes. Cheap to make, and picklable; nothing is compiled.
///
/// kv: what keys and values are coded as and what stays, such as "fp16", "K8V4", "K8V4/K4V2@1/5" (a fifth of the bytes of FP16) or "@1/8" (the default formats).
/// chunk: tokens of a chunk of a prompt; its end is where tokens get their place. piece: the most tokens of a prompt that one step brings; any
/// number if not given, for which more pages are set aside.
/// input: type of queries, keys and values, "bf16", "f16" or "f32". max_tokens: longest sequence.
#[pyclass(frozen, module = "leankv._native")]
pub(crate) struct Plan {
    extents: [usize; 4],
    pub(crate) choice: KvChoice,
    chunk: usize,
    piece: usize,
    input: FloatType,
    max_tokens: usize,
    /// For one request, without pages.
    pub(crate) config: CacheConfig,
}

impl Plan {
    /// The formats and thresholds of a request that asks for `kv`, or for nothing.
    pub(crate) fn request(&self, kv: Option<&str>) -> PyResult<(KvChoice, Thresholds)> {
        let Some(text) = kv else { return Ok((self.choice.clone(), thresholds(&self.choice))) };
        let asked = parse(text)?;
        let whole = config_without_model(self.extents, &asked, &self.room()).map_err(errors::value)?;
        let differs = |what: &str| {
            let why = format!(
                "`{text}` has {what} other than `{}`; requests of one cache differ in formats and limits alone",
                self.choice
            );
            Err(PyValueError::new_err(why))
        };
        // What keeps all is the same under every rule.
        if !asked.is_uniform() {
            if !self.choice.is_uniform() && asked.policy != self.choice.policy {
                return differs("a policy");
            }
            if asked.always != self.choice.always {
                return differs("sinks, window, keep or peaks");
            }
        }
        if whole.basis.changes() && !self.config.basis.changes() {
            return differs("a basis");
        }
        let thresholds = thresholds(&asked);
        Ok((asked, thresholds))
    }

    fn room(&self) -> Room {
        room(self.max_tokens, self.chunk)
    }
}

fn room(max_tokens: usize, chunk: usize) -> Room {
    Room { requests: 1, tokens: max_tokens, prompt: max_tokens, chunk, bytes: None }
}

pub(crate) fn parse(text: &str) -> PyResult<KvChoice> {
    text.parse::<KvChoice>().map_err(errors::value)
}

pub(crate) fn float_type(text: &str) -> PyResult<FloatType> {
    text.parse::<FloatType>().map_err(errors::value)
}

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (*, layers, kv_heads, group, head_dim, kv, max_tokens, chunk = 512, input = "bf16", piece = None))]
    fn new(
        layers: usize,
        kv_heads: usize,
        group: usize,
        head_dim: usize,
        kv: &str,
        max_tokens: usize,
        chunk: usize,
        input: &str,
        piece: Option<usize>,
    ) -> PyResult<Plan> {
        let (choice, input) = (parse(kv)?, float_type(input)?);
        let extents = [layers, kv_heads, group, head_dim];
        let config =
            config_without_model(extents, &choice, &room(max_tokens, chunk)).map_err(errors::value)?;
        let config = CacheConfig { input, output: input, defer_demotion: true, ..config };
        // Everything is looked at now, so that nothing surprises later.
        config.shape().map_err(errors::value)?;
        if piece == Some(0) {
            return Err(errors::value("piece is 0; a step brings at least 1 token of a prompt"));
        }
        Ok(Plan { extents, choice, chunk, piece: piece.unwrap_or(max_tokens), input, max_tokens, config })
    }

    /// What keys and values are coded as and what stays, in full.
    #[getter]
    fn kv(&self) -> String {
        self.choice.to_string()
    }

    #[getter]
    fn layers(&self) -> usize {
        self.config.layers
    }

    #[getter]
    fn kv_heads(&self) -> usize {
        self.config.kv_heads
    }

    #[getter]
    fn group(&self) -> usize {
        self.config.group
    }

    #[getter]
    fn head_dim(&self) -> usize {
        self.config.head_dim
    }

    /// Tokens of a chunk of a prompt.
    #[getter]
    fn chunk(&self) -> usize {
        self.chunk
    }

    /// The most tokens of a prompt that one step brings.
    #[getter]
    fn piece(&self) -> usize {
        self.piece
    }

    /// Longest sequence, in tokens.
    #[getter]
    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Type of queries, keys and values.
    #[getter]
    fn input(&self) -> String {
        self.input.to_string()
    }

    /// Bytes of a page.
    #[getter]
    fn page_bytes(&self) -> usize {
        self.config.page_bytes
    }

    /// (layer, KV head) pairs: each has lists of pages of its own in every request.
    #[getter]
    fn lists(&self) -> usize {
        self.config.lists()
    }

    /// Bytes beside the arena of a request whose prompt has a chunk that has begun and not ended.
    #[getter]
    fn open_chunk_bytes(&self) -> usize {
        self.config.waiting_bytes()
    }

    /// Bytes of so many tokens in FP16, without any bookkeeping.
    fn fp16_bytes(&self, tokens: usize) -> PyResult<usize> {
        let bytes = self.config.fp16_bytes(1).checked_mul(tokens);
        bytes.ok_or_else(|| errors::value(format!("{tokens} tokens have more bytes than a number can say")))
    }

    /// The most pages that a request holds until the end of the step that brings it to `tokens` tokens, the first `prompt` of which come as its prompt, at most `piece` in
    /// a step (the plan's if not given). After its prompt it is that of decode steps alone.
    #[pyo3(signature = (tokens, prompt, kv = None, piece = None))]
    fn pages_at_most(
        &self,
        tokens: usize,
        prompt: usize,
        kv: Option<&str>,
        piece: Option<usize>,
    ) -> PyResult<usize> {
        let (choice, thresholds) = self.request(kv)?;
        if piece == Some(0) {
            return Err(errors::value("piece is 0; a step brings at least 1 token of a prompt"));
        }
        let pieces = [prompt, piece.unwrap_or(self.piece)];
        self.config.pages_at_most(&choice.formats, &thresholds, pieces, tokens).map_err(errors::value)
    }

    /// As `pages_at_most`, in bytes.
    #[pyo3(signature = (tokens, prompt, kv = None, piece = None))]
    fn bytes_at_most(
        &self,
        tokens: usize,
        prompt: usize,
        kv: Option<&str>,
        piece: Option<usize>,
    ) -> PyResult<usize> {
        Ok(self.pages_at_most(tokens, prompt, kv, piece)? * self.config.page_bytes)
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, pyo3::types::PyTuple>, Bound<'py, PyDict>)> {
        let names = PyDict::new(py);
        let [layers, kv_heads, group, head_dim] = self.extents;
        for (name, n) in
            [("layers", layers), ("kv_heads", kv_heads), ("group", group), ("head_dim", head_dim)]
        {
            names.set_item(name, n)?;
        }
        names.set_item("kv", self.kv())?;
        names.set_item("max_tokens", self.max_tokens)?;
        names.set_item("chunk", self.chunk)?;
        names.set_item("input", self.input())?;
        names.set_item("piece", self.piece)?;
        Ok((pyo3::types::PyTuple::empty(py), names))
    }

    fn __repr__(&self) -> String {
        let [layers, kv_heads, group, head_dim] = self.extents;
        format!(
            "Plan(layers={layers}, kv_heads={kv_heads}, group={group}, head_dim={head_dim}, kv={:?}, max_tokens={}, chunk={}, input={:?})",
            self.kv(),
            self.max_tokens,
            self.chunk,
            self.input()
        )
    }

    fn __eq__(&self, other: &Plan) -> bool {
        self.config == other.config && self.choice == other.choice && self.piece == other.piece
    }
}
