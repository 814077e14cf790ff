//! What a model file says about its model.

use candle_core::quantized::gguf_file::{Content, Value};

use crate::error::ModelError;

/// The architectures that are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// LLaMA and its kin: SmolLM2.
    Llama,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Gemma 3: norms on queries and keys, a sliding window on most layers.
    Gemma3,
}

impl Architecture {
    /// As GGUF writes it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Gemma3 => "gemma3",
        }
    }

    fn of(name: &str) -> Result<Architecture, ModelError> {
        [Architecture::Llama, Architecture::Qwen2, Architecture::Gemma3]
            .into_iter()
            .find(|a| a.name() == name)
            .ok_or_else(|| ModelError::Architecture(name.to_owned()))
    }
}

/// A sliding window on some of a model's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlidingWindow {
    /// Tokens that a query sees, its own included.
    pub tokens: usize,
    /// Every `period`-th layer sees everything instead.
    pub period: usize,
}

/// Extents and numbers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// The model's own name, where the file has one.
    pub name: String,
    /// Decoder layers.
    pub layers: usize,
    /// Elements of a hidden state.
    pub dim: usize,
    /// Elements inside the feed-forward part.
    pub ffn: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of a query, key or value vector.
    pub head_dim: usize,
    /// Longest sequence that the model was trained for.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// What RMS norms add to the mean square.
    pub eps: f32,
    /// Base of the rotary angles; where there is a sliding window, of the layers without it.
    pub rope_base: f64,
    /// Base of the rotary angles of layers with a sliding window.
    pub rope_base_window: f64,
    /// Layers with a sliding window.
    pub window: Option<SlidingWindow>,
}

impl ModelConfig {
    /// Reads a file's metadata.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for one that is not written here, [`ModelError::Metadata`] for what is missing or cannot be.
    pub fn from_gguf(content: &Content) -> Result<ModelConfig, ModelError> {
        let meta = Metadata { content };
        let architecture = Architecture::of(&meta.text("general.architecture")?)?;
        let key = |name: &str| format!("{}.{name}", architecture.name());
        let (heads, dim) = (meta.count(&key("attention.head_count"))?, meta.count(&key("embedding_length"))?);
        let config = ModelConfig {
            architecture,
            name: meta.text("general.name").unwrap_or_else(|_| architecture.name().to_owned()),
            layers: meta.count(&key("block_count"))?,
            dim,
            ffn: meta.count(&key("feed_forward_length"))?,
            heads,
            kv_heads: meta.count_or(&key("attention.head_count_kv"), heads)?,
            head_dim: meta.count_or(&key("attention.key_length"), dim / heads)?,
            context: meta.count(&key("context_length"))?,
            vocab: match content.tensor_infos.get("token_embd.weight") {
                Some(info) => info.shape.dims().first().copied().unwrap_or(0),
                None => 0,
            },
            eps: meta.number(&key("attention.layer_norm_rms_epsilon"))? as f32,
            rope_base: meta.number_or(&key("rope.freq_base"), 10_000.0)?,
            rope_base_window: meta.number_or(&key("rope.freq_base_swa"), 10_000.0)?,
            window: match architecture {
                Architecture::Gemma3 => Some(SlidingWindow {
                    tokens: meta.count(&key("attention.sliding_window"))?,
                    period: meta.count_or(&key("attention.sliding_window_pattern"), 6)?,
                }),
                _ => None,
            },
        };
        config.check(&meta, &key)?;
        Ok(config)
    }

    fn check(&self, meta: &Metadata<'_>, key: &dyn Fn(&str) -> String) -> Result<(), ModelError> {
        let bad = |name: &str, why: String| Err(ModelError::Metadata { key: key(name), why });
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad(
                "attention.head_count_kv",
                format!("is {}, which does not divide {} heads", self.kv_heads, self.heads),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad(
                "attention.key_length",
                format!("is {}, and rotary angles need pairs", self.head_dim),
            );
        }
        let value = meta.count_or(&key("attention.value_length"), self.head_dim)?;
        if value != self.head_dim {
            return bad("attention.value_length", format!("is {value}, and keys have {}", self.head_dim));
        }
        let rotated = meta.count_or(&key("rope.dimension_count"), self.head_dim)?;
        if rotated != self.head_dim {
            return bad("rope.dimension_count", format!("is {rotated} of {}", self.head_dim));
        }
        let scaling = meta.text(&key("rope.scaling.type")).unwrap_or_else(|_| "none".to_owned());
        if scaling != "none" && meta.number_or(&key("rope.scaling.factor"), 1.0)? != 1.0 {
            return bad(
                "rope.scaling.type",
                format!("is `{scaling}`; scaled rotary angles are not written here"),
            );
        }
        Ok(())
    }

    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The window of a layer, if it has one.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|w| !(layer + 1).is_multiple_of(w.period)).map(|w| w.tokens)
    }

    /// The base of a layer's rotary angles.
    pub fn rope_base_of(&self, layer: usize) -> f64 {
        match self.window_of(layer) {
            Some(_) => self.rope_base_window,
            None => self.rope_base,
        }
    }

    /// Bytes of one token's keys and values in FP16, all layers and KV heads.
    pub fn fp16_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head_dim * 4
    }
}

/// Metadata by key.
struct Metadata<'a> {
    content: &'a Content,
}

impl Metadata<'_> {
    fn get(&self, key: &str) -> Result<&Value, ModelError> {
        self.content
            .metadata
            .get(key)
            .ok_or_else(|| ModelError::Metadata { key: key.to_owned(), why: "is missing".to_owned() })
    }

    fn wrong(key: &str, expected: &str, got: &Value) -> ModelError {
        ModelError::Metadata { key: key.to_owned(), why: format!("is {got:?} instead of {expected}") }
    }

    fn text(&self, key: &str) -> Result<String, ModelError> {
        let value = self.get(key)?;
        value.to_string().cloned().map_err(|_| Metadata::wrong(key, "a text", value))
    }

    /// A number of things: at least one.
    fn count(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.get(key)?;
        let number = value.to_u64().ok().or_else(|| value.to_u32().ok().map(u64::from));
        let number = number.or_else(|| value.to_i32().ok().and_then(|n| u64::try_from(n).ok()));
        number
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..1 << 31).contains(n))
            .ok_or_else(|| Metadata::wrong(key, "a number of at least 1", value))
    }

    fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.content.metadata.contains_key(key) { self.count(key) } else { Ok(default) }
    }

    fn number(&self, key: &str) -> Result<f64, ModelError> {
        let value = self.get(key)?;
        let number = value.to_f32().map(f64::from).or_else(|_| value.to_f64());
        number
            .ok()
            .filter(|n| n.is_finite() && *n > 0.0)
            .ok_or_else(|| Metadata::wrong(key, "a positive number", value))
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        if self.content.metadata.contains_key(key) { self.number(key) } else { Ok(default) }
    }
}
