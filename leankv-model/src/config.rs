//! What a model file says about its model.

use candle_core::quantized::gguf_file::{Content, Value};

use crate::error::ModelError;
use crate::metadata::{Metadata, number};
use crate::rope::{RopeConfig, RopeScaling};

/// The architectures that are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// LLaMA and its kin: Llama 2 and 3, Mistral, SmolLM2.
    Llama,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: norms on queries and keys.
    Qwen3,
    /// Gemma 3: norms on queries and keys, a sliding window on most layers.
    Gemma3,
}

impl Architecture {
    /// As GGUF writes it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Gemma3 => "gemma3",
        }
    }

    const ALL: [Architecture; 4] =
        [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3, Architecture::Gemma3];

    fn of(name: &str) -> Result<Architecture, ModelError> {
        let known = Architecture::ALL.into_iter().find(|a| a.name() == name);
        known.ok_or_else(|| ModelError::Architecture(name.to_owned()))
    }

    /// All of them, for messages.
    pub(crate) fn names() -> String {
        Architecture::ALL.map(Architecture::name).join(", ")
    }
}

/// A sliding window on some of a model's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlidingWindow {
    /// Tokens that a query sees, its own included.
    pub tokens: usize,
    /// Every `period`-th layer sees everything instead; with 0, none does.
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
    /// Rotary positions; where only some layers have a sliding window, of those without.
    pub rope: RopeConfig,
    /// Rotary positions of layers with a sliding window.
    pub rope_window: RopeConfig,
    /// Layers with a sliding window.
    pub window: Option<SlidingWindow>,
    /// What queries are multiplied by before products with keys, which are divided by the square root of `head_dim`: 1 in most models.
    pub query_scale: f64,
}

impl ModelConfig {
    /// Reads a file's metadata. Every key of the architecture that would change what is computed is used, or refused by its name.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for one that is not written here, [`ModelError::Metadata`] for what is missing, cannot be or is not computed here.
    pub fn from_gguf(content: &Content) -> Result<ModelConfig, ModelError> {
        let meta = Metadata::new(content);
        let architecture = Architecture::of(meta.text("general.architecture")?)?;
        check_whole_model(&meta)?;
        let key = |name: &str| format!("{}.{name}", architecture.name());
        let bad = |name: &str, why: String| ModelError::Metadata { key: key(name), why };
        let (heads, dim) = (meta.count(&key("attention.head_count"))?, meta.count(&key("embedding_length"))?);
        if heads > dim {
            return Err(bad(
                "attention.head_count",
                format!("is {heads}, and hidden states have {dim} elements"),
            ));
        }
        let head_dim = meta.count_or(&key("attention.key_length"), dim / heads)?;
        let layers = meta.count(&key("block_count"))?;
        let context = meta.count(&key("context_length"))?;
        let window = window(&meta, architecture, &key, [layers, context])?;
        let rope = rope(&meta, &key, context)?;
        let config = ModelConfig {
            architecture,
            name: meta.text("general.name").unwrap_or(architecture.name()).to_owned(),
            layers,
            dim,
            ffn: meta.count(&key("feed_forward_length"))?,
            heads,
            kv_heads: meta.count_or(&key("attention.head_count_kv"), heads)?,
            head_dim,
            context,
            vocab: match content.tensor_infos.get("token_embd.weight") {
                Some(info) => info.shape.dims().first().copied().unwrap_or(0),
                None => return Err(ModelError::MissingTensor("token_embd.weight".to_owned())),
            },
            eps: meta.number(&key("attention.layer_norm_rms_epsilon"))? as f32,
            rope_window: match architecture {
                // The scaling is of the layers that see everything.
                Architecture::Gemma3 => RopeConfig::plain(rope_base(&meta, &key("rope.freq_base_swa"))?),
                _ => rope,
            },
            rope,
            window,
            query_scale: match (meta.number_if(&key("attention.scale"))?, architecture, layers) {
                (Some(scale), ..) => scale * (head_dim as f64).sqrt(),
                // The 27B divides by another root than its kin, and its file does not say so.
                (None, Architecture::Gemma3, 62) => (head_dim as f64 * heads as f64 / dim as f64).sqrt(),
                (None, ..) => 1.0,
            },
        };
        config.check(&meta, &key, content.tensor_infos.len())?;
        meta.check_rest(architecture.name())?;
        Ok(config)
    }

    fn check(
        &self,
        meta: &Metadata<'_>,
        key: &dyn Fn(&str) -> String,
        tensors: usize,
    ) -> Result<(), ModelError> {
        let bad = |name: &str, why: String| Err(ModelError::Metadata { key: key(name), why });
        if self.layers > tensors {
            let why = format!("is {}, and the file has {tensors} tensors in all", self.layers);
            return bad("block_count", why);
        }
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
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return bad("attention.layer_norm_rms_epsilon", format!("is {}; it is a small number", self.eps));
        }
        if !(self.query_scale.is_finite() && self.query_scale > 0.0) {
            return bad("attention.scale", "is beyond all bounds".to_owned());
        }
        for name in ["attention.value_length", "attention.key_length_swa", "attention.value_length_swa"] {
            let length = meta.count_or(&key(name), self.head_dim)?;
            if length != self.head_dim {
                return bad(
                    name,
                    format!(
                        "is {length}, and keys have {} elements; lengths that differ are not computed here",
                        self.head_dim
                    ),
                );
            }
        }
        for name in ["rope.dimension_count", "rope.dimension_count_swa"] {
            let rotated = meta.count_or(&key(name), self.head_dim)?;
            if rotated != self.head_dim {
                return bad(
                    name,
                    format!("is {rotated}; vectors of {} are only rotated whole here", self.head_dim),
                );
            }
        }
        match meta.text_or(&key("tensor_data_layout"), "")? {
            "" | "Meta AI original pth" => Ok(()),
            other => bad("tensor_data_layout", format!("is `{other}`, which is not known here")),
        }
    }

    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The window of a layer, if it has one.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|w| !(layer + 1).is_multiple_of(w.period)).map(|w| w.tokens)
    }

    /// Bytes of one token's keys and values in FP16, all layers and KV heads.
    pub fn fp16_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head_dim * 4
    }
}

/// That the file is a whole model.
fn check_whole_model(meta: &Metadata<'_>) -> Result<(), ModelError> {
    let kind = meta.text_or("general.type", "model")?;
    if kind != "model" {
        let why =
            format!("is `{kind}`: the file goes with a model and is none itself; give the model's file");
        return Err(ModelError::Metadata { key: "general.type".to_owned(), why });
    }
    match meta.count_if("split.count")? {
        None | Some(1) => Ok(()),
        Some(parts) => {
            let why = format!(
                "is {parts}: the file is one of {parts} parts; join them with llama-gguf-split --merge"
            );
            Err(ModelError::Metadata { key: "split.count".to_owned(), why })
        }
    }
}

/// Which layers have a sliding window.
fn window(
    meta: &Metadata<'_>,
    architecture: Architecture,
    key: &dyn Fn(&str) -> String,
    [layers, context]: [usize; 2],
) -> Result<Option<SlidingWindow>, ModelError> {
    let name = key("attention.sliding_window");
    let window = match architecture {
        Architecture::Gemma3 => {
            let tokens = meta.count(&name)?;
            let pattern = key("attention.sliding_window_pattern");
            Some(SlidingWindow { tokens, period: period(meta, &pattern, layers)? })
        }
        // Mistral's: all layers have it.
        Architecture::Llama => meta.count_if(&name)?.map(|tokens| SlidingWindow { tokens, period: 0 }),
        Architecture::Qwen2 | Architecture::Qwen3 => match meta.count_if(&name)? {
            Some(tokens) if tokens < context => {
                let why = format!(
                    "is {tokens}; which of the layers have that window, {} files do not say",
                    architecture.name()
                );
                return Err(ModelError::Metadata { key: name, why });
            }
            _ => None,
        },
    };
    // Nobody sees the difference to no window. Gemma's layers with a window have a base of their own besides.
    Ok(window.filter(|w| w.tokens < context || architecture == Architecture::Gemma3))
}

/// Every how many layers one sees everything: a number, or a flag for each layer that has a window.
fn period(meta: &Metadata<'_>, key: &str, layers: usize) -> Result<usize, ModelError> {
    match meta.find(key) {
        Some(flags @ Value::Array(items)) => {
            let windowed: Option<Vec<bool>> =
                items.iter().map(|item| number(item).map(|flag| flag != 0.0)).collect();
            let windowed = windowed.unwrap_or_default();
            let period = windowed.iter().position(|&w| !w).map_or(0, |at| at + 1);
            let regular = (1..).zip(&windowed).all(|(n, &w)| w != (period > 0 && n % period == 0));
            match regular && windowed.len() == layers {
                true => Ok(period),
                false => Err(Metadata::wrong(key, "a flag for each layer, one in every so many off", flags)),
            }
        }
        _ => meta.count_or(key, 6),
    }
}

/// The base of rotary angles.
fn rope_base(meta: &Metadata<'_>, key: &str) -> Result<f64, ModelError> {
    let base = meta.number_or(key, 10_000.0)?;
    match base > 1.0 {
        true => Ok(base),
        false => {
            let why = format!("is {base}, and angles would grow from pair to pair; the file is damaged");
            Err(ModelError::Metadata { key: key.to_owned(), why })
        }
    }
}

/// Rotary positions, with the names and defaults of llama.cpp.
fn rope(meta: &Metadata<'_>, key: &dyn Fn(&str) -> String, context: usize) -> Result<RopeConfig, ModelError> {
    let base = rope_base(meta, &key("rope.freq_base"))?;
    // The second name is of files of 2023.
    let (new, old) =
        (meta.number_if(&key("rope.scaling.factor"))?, meta.number_if(&key("rope.scale_linear"))?);
    let factor = new.or(old).unwrap_or(1.0);
    let betas = [
        meta.number_or(&key("rope.scaling.yarn_beta_fast"), 32.0)?,
        meta.number_or(&key("rope.scaling.yarn_beta_slow"), 1.0)?,
    ];
    let scaling = match meta.text_or(&key("rope.scaling.type"), "linear")? {
        "none" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor },
        "yarn" => RopeScaling::Yarn {
            factor,
            original_context: meta.count_or(&key("rope.scaling.original_context_length"), context)?,
            beta_fast: betas[0],
            beta_slow: betas[1],
        },
        other => {
            let why = format!("is `{other}`; computed here are none, linear and yarn");
            return Err(ModelError::Metadata { key: key("rope.scaling.type"), why });
        }
    };
    let attention_factor = meta.number_if(&key("rope.scaling.attn_factor"))?.unwrap_or(1.0);
    Ok(RopeConfig { base, scaling, attention_factor })
}
