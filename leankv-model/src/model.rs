//! A decoder-only transformer whose attention is somebody else's: the cache's.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::config::{Architecture, ModelConfig};
use crate::error::ModelError;
use crate::finite::{Hidden, Place, Watch, check_logits};
use crate::gguf::{bytes_of, read_header};
use crate::linear::{Linear, WeightForm};
use crate::math::{add, gelu_times, rms_norm, rms_norm_in_place, silu_times};
use crate::rope::{Rope, RopePairs};
use crate::statistics::Statistics;

/// One layer's queries, keys and values after rotary positions, one row a token.
#[derive(Clone, Copy, Debug)]
pub struct LayerRows<'a> {
    /// `[rows, query heads, head_dim]`.
    pub q: &'a [f16],
    /// `[rows, kv_heads, head_dim]`.
    pub k: &'a [f16],
    /// `[rows, kv_heads, head_dim]`.
    pub v: &'a [f16],
    /// The largest share of attention that each token is predicted to get from a later query, `[rows, kv_heads]`; none where no [`Probe`](crate::statistics::Probe) is known.
    pub priors: Option<&'a [f32]>,
}

/// Where queries meet keys and values: a cache, or several.
pub trait Attend {
    /// Stores a layer's keys and values and attends to all that is stored: fills `out`, `[rows, query heads, head_dim]`. Called once for every
    /// layer, in order.
    ///
    /// # Errors
    /// What the cache says.
    fn layer(&mut self, layer: usize, rows: LayerRows<'_>, out: &mut [f32]) -> Result<(), ModelError>;
}

/// A model: weights and numbers. It holds no state of any sequence.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    embedding: Arc<QTensor>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
    ropes: [Rope; 2],
    statistics: Option<Arc<Statistics>>,
}

#[derive(Debug)]
struct Layer {
    attn_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms of every head's query and key.
    qk_norms: Option<[Vec<f32>; 2]>,
    output: Linear,
    post_attn_norm: Option<Vec<f32>>,
    ffn_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    post_ffn_norm: Option<Vec<f32>>,
    /// The key projection's bias, `[kv_heads, head_dim]`.
    key_bias: Option<Vec<f32>>,
}

impl Model {
    /// Loads a GGUF file. Every tensor of it is used, and all of its metadata that changes what is computed.
    ///
    /// # Errors
    /// [`ModelError::File`] for one that cannot be opened, what [`read_header`] says of files that are damaged or of no format that is read, and
    /// [`ModelError::Metadata`], [`ModelError::Tensor`], [`ModelError::MissingTensor`] and [`ModelError::UnreadTensors`] for a model that is not
    /// computed here, or not whole.
    pub fn load(path: &Path, form: WeightForm) -> Result<Model, ModelError> {
        let file = |error: &dyn std::fmt::Display| ModelError::File {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let mut reader = BufReader::new(File::open(path).map_err(|e| file(&e))?);
        let content = read_header(&mut reader)?;
        Model::read(&content, &mut reader, form)
    }

    /// As [`Model::load`], from a file whose head was read already.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn read<R: Read + Seek>(
        content: &Content,
        reader: &mut R,
        form: WeightForm,
    ) -> Result<Model, ModelError> {
        let config = ModelConfig::from_gguf(content)?;
        let mut tensors = Tensors { content, reader, form, used: HashSet::new() };
        let embedding = Arc::new(tensors.quantised("token_embd.weight", &[config.vocab, config.dim])?);
        let head = match content.tensor_infos.contains_key("output.weight") {
            true => Arc::new(tensors.quantised("output.weight", &[config.vocab, config.dim])?),
            false => embedding.clone(),
        };
        let mut layers = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            layers.push(Layer::read(&mut tensors, &config, at)?);
        }
        let (pairs, factors) = match config.architecture {
            Architecture::Llama => (RopePairs::Neighbours, tensors.rope_factors(config.head_dim / 2)?),
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Gemma3 => (RopePairs::Halves, None),
        };
        let rope = |rope| Rope::new(rope, config.head_dim, pairs, factors.as_deref());
        let (norm, bias) =
            (tensors.vector("output_norm.weight", config.dim)?, tensors.bias("output", config.vocab)?);
        tensors.check_all_used(config.architecture)?;
        Ok(Model {
            norm,
            head: Linear::new(head, bias, form)?,
            ropes: [rope(&config.rope), rope(&config.rope_window)],
            embedding,
            layers,
            config,
            statistics: None,
        })
    }

    /// Its extents and numbers.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The same with what was learned of its attention, which caches that are opened for it then use.
    #[must_use]
    pub fn with_statistics(self, statistics: Statistics) -> Model {
        Model { statistics: Some(Arc::new(statistics)), ..self }
    }

    /// What was learned of its attention.
    pub fn statistics(&self) -> Option<&Statistics> {
        self.statistics.as_deref()
    }

    /// Rotary positions of a layer.
    pub fn rope(&self, layer: usize) -> &Rope {
        &self.ropes[usize::from(self.config.window_of(layer).is_some())]
    }

    /// The bias of a layer's key projection before rotary positions, `[kv_heads, head_dim]`; none in models without.
    pub fn key_bias(&self, layer: usize) -> Option<&[f32]> {
        self.layers.get(layer)?.key_bias.as_deref()
    }

    /// Runs tokens, one a row, at their positions; gives normalised hidden states `[rows, dim]`.
    ///
    /// # Errors
    /// As [`Model::forward_rows`], and [`ModelError::NonFinite`] when all is done and a row was not finite somewhere.
    pub fn forward(
        &self,
        tokens: &[u32],
        positions: &[u32],
        attend: &mut dyn Attend,
    ) -> Result<Vec<f32>, ModelError> {
        Ok(self.forward_rows(tokens, positions, attend)?.finite()?.into_states())
    }

    /// As [`Model::forward`], and says of each row by itself whether it is finite: rows may be of sequences that have nothing to do with each other.
    ///
    /// # Errors
    /// [`ModelError::Token`] and [`ModelError::Context`] before anything is done, and what `attend` says.
    pub fn forward_rows(
        &self,
        tokens: &[u32],
        positions: &[u32],
        attend: &mut dyn Attend,
    ) -> Result<Hidden, ModelError> {
        let config = &self.config;
        assert_eq!(tokens.len(), positions.len(), "internal error: a position for every token");
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= config.vocab) {
            return Err(ModelError::Token { token, vocab: config.vocab });
        }
        if let Some(&position) = positions.iter().find(|&&p| p as usize >= config.context) {
            return Err(ModelError::Context { position: position as usize, context: config.context });
        }
        if tokens.is_empty() {
            return Ok(Hidden::default());
        }
        let mut watch = Watch::new(positions);
        let mut hidden = self.embed(tokens)?;
        watch.look(Place::Embedding, &hidden);
        for (at, layer) in self.layers.iter().enumerate() {
            let attended = self.attention(at, layer, &hidden, positions, attend, &mut watch)?;
            add(&mut hidden, &attended);
            watch.look(Place::Attention(at), &hidden);
            let fed = self.feed_forward(at, layer, &hidden, &mut watch)?;
            add(&mut hidden, &fed);
            watch.look(Place::FeedForward(at), &hidden);
        }
        rms_norm_in_place(&mut hidden, &self.norm, config.eps);
        watch.look(Place::Norm, &hidden);
        Ok(watch.done(hidden))
    }

    /// Logits `[rows, vocab]` of normalised hidden states `[rows, dim]`.
    ///
    /// # Errors
    /// [`ModelError::Candle`], and [`ModelError::NonFinite`] with the first row of which a logit is not finite.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        if hidden.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.head.forward(hidden)?;
        check_logits(&logits, self.config.vocab)?;
        Ok(logits)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let ids = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        let mut hidden = self.embedding.embedding(&ids)?.flatten_all()?.to_vec1::<f32>()?;
        if self.config.architecture == Architecture::Gemma3 {
            let scale = (self.config.dim as f32).sqrt();
            hidden.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(hidden)
    }

    fn attention(
        &self,
        at: usize,
        layer: &Layer,
        hidden: &[f32],
        positions: &[u32],
        attend: &mut dyn Attend,
        watch: &mut Watch,
    ) -> Result<Vec<f32>, ModelError> {
        let config = &self.config;
        let x = rms_norm(hidden, &layer.attn_norm, config.eps);
        // Products with quantised weights round their inputs to 8 bits, which makes zero of NaN: so inputs are looked at, too.
        watch.look(Place::Projections(at), &x);
        let (mut q, mut k, v) = (layer.q.forward(&x)?, layer.k.forward(&x)?, layer.v.forward(&x)?);
        if let Some([q_norm, k_norm]) = &layer.qk_norms {
            rms_norm_in_place(&mut q, q_norm, config.eps);
            rms_norm_in_place(&mut k, k_norm, config.eps);
        }
        if config.query_scale != 1.0 {
            q.iter_mut().for_each(|x| *x *= config.query_scale as f32);
        }
        let priors = self.statistics.as_ref().map(|known| known.probe.priors(at, &k, &v, positions));
        let rope = self.rope(at);
        rope.rotate(&mut q, config.heads, positions);
        rope.rotate(&mut k, config.kv_heads, positions);

        let whole = [&q, &k, &v];
        whole.iter().for_each(|x| watch.look(Place::Projections(at), x));
        let mut out = vec![0.0; q.len()];
        let [q, k, v] = whole.map(|x| halves(x));
        watch.rounded([(whole[0], &q), (whole[1], &k), (whole[2], &v)]);
        attend.layer(at, LayerRows { q: &q, k: &k, v: &v, priors: priors.as_deref() }, &mut out)?;
        watch.look(Place::Attention(at), &out);
        let mut y = layer.output.forward(&out)?;
        if let Some(norm) = &layer.post_attn_norm {
            rms_norm_in_place(&mut y, norm, config.eps);
        }
        Ok(y)
    }

    fn feed_forward(
        &self,
        at: usize,
        layer: &Layer,
        hidden: &[f32],
        watch: &mut Watch,
    ) -> Result<Vec<f32>, ModelError> {
        let config = &self.config;
        let x = rms_norm(hidden, &layer.ffn_norm, config.eps);
        watch.look(Place::FeedForward(at), &x);
        let (mut gate, up) = (layer.gate.forward(&x)?, layer.up.forward(&x)?);
        match config.architecture {
            Architecture::Gemma3 => gelu_times(&mut gate, &up),
            Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => silu_times(&mut gate, &up),
        }
        watch.look(Place::FeedForward(at), &gate);
        let mut y = layer.down.forward(&gate)?;
        if let Some(norm) = &layer.post_ffn_norm {
            rms_norm_in_place(&mut y, norm, config.eps);
        }
        Ok(y)
    }
}

/// Rounded to f16, in which queries, keys and values meet the cache.
fn halves(x: &[f32]) -> Vec<f16> {
    let mut out = vec![f16::ZERO; x.len()];
    out.convert_from_f32_slice(x);
    out
}

impl Layer {
    fn read<R: Read + Seek>(
        tensors: &mut Tensors<'_, R>,
        config: &ModelConfig,
        at: usize,
    ) -> Result<Layer, ModelError> {
        let (dim, ffn) = (config.dim, config.ffn);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let name = |part: &str| format!("blk.{at}.{part}");
        let gemma = config.architecture == Architecture::Gemma3;
        Ok(Layer {
            attn_norm: tensors.vector(&name("attn_norm.weight"), dim)?,
            q: tensors.linear(&name("attn_q"), q, dim)?,
            k: tensors.linear(&name("attn_k"), kv, dim)?,
            v: tensors.linear(&name("attn_v"), kv, dim)?,
            qk_norms: match config.architecture {
                Architecture::Qwen3 | Architecture::Gemma3 => Some([
                    tensors.vector(&name("attn_q_norm.weight"), config.head_dim)?,
                    tensors.vector(&name("attn_k_norm.weight"), config.head_dim)?,
                ]),
                Architecture::Llama | Architecture::Qwen2 => None,
            },
            output: tensors.linear(&name("attn_output"), dim, q)?,
            post_attn_norm: tensors.vector_if(gemma, &name("post_attention_norm.weight"), dim)?,
            ffn_norm: tensors.vector(&name("ffn_norm.weight"), dim)?,
            gate: tensors.linear(&name("ffn_gate"), ffn, dim)?,
            up: tensors.linear(&name("ffn_up"), ffn, dim)?,
            down: tensors.linear(&name("ffn_down"), dim, ffn)?,
            post_ffn_norm: tensors.vector_if(gemma, &name("post_ffw_norm.weight"), dim)?,
            key_bias: tensors.bias(&name("attn_k"), kv)?,
        })
    }
}

/// A file's tensors by name.
struct Tensors<'a, R> {
    content: &'a Content,
    reader: &'a mut R,
    form: WeightForm,
    /// The names of those that were read.
    used: HashSet<String>,
}

impl<R: Read + Seek> Tensors<'_, R> {
    fn quantised(&mut self, name: &str, extents: &[usize]) -> Result<QTensor, ModelError> {
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        // Before anything is allocated for it.
        let got = info.shape.dims();
        if got != extents || bytes_of(info).is_none() {
            let (got, expected) = (got.to_vec(), extents.to_vec());
            return Err(ModelError::Tensor { name: name.to_owned(), got, expected });
        }
        self.used.insert(name.to_owned());
        Ok(self.content.tensor(self.reader, name, &Device::Cpu)?)
    }

    /// What angles of rotary positions are divided by, one for each pair: Llama 3.1's way to longer contexts.
    fn rope_factors(&mut self, pairs: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let name = "rope_freqs.weight";
        let factors = self.vector_if(self.content.tensor_infos.contains_key(name), name, pairs)?;
        match factors.iter().flatten().find(|f| !(f.is_finite() && **f > 0.0)) {
            Some(wrong) => {
                let why = format!(
                    "tensor `{name}` has {wrong}, and angles are divided by its numbers: the file is damaged"
                );
                Err(ModelError::Refused(why))
            }
            None => Ok(factors),
        }
    }

    fn check_all_used(&self, architecture: Architecture) -> Result<(), ModelError> {
        let unread = self.content.tensor_infos.keys().filter(|name| !self.used.contains(*name));
        let mut names: Vec<String> = unread.cloned().collect();
        names.sort_unstable();
        match names.is_empty() {
            true => Ok(()),
            false => Err(ModelError::UnreadTensors { architecture: architecture.name(), names }),
        }
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.quantised(name, &[len])?;
        Ok(tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>()?)
    }

    fn vector_if(&mut self, there: bool, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        if there { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    fn bias(&mut self, name: &str, outputs: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let name = format!("{name}.bias");
        self.vector_if(self.content.tensor_infos.contains_key(&name), &name, outputs)
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, ModelError> {
        let weight = Arc::new(self.quantised(&format!("{name}.weight"), &[outputs, inputs])?);
        let bias = self.bias(name, outputs)?;
        Linear::new(weight, bias, self.form)
    }
}

#[cfg(test)]
mod tests;
