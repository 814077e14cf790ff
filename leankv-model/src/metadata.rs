//! A file's metadata by key, and what of it nobody has asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::error::ModelError;

/// Keys of an architecture that change nothing that is computed here.
const INFORMATIVE: [&str; 5] = [
    "vocab_size",
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    // Of norms that are no RMS norms; none of these architectures has one.
    "attention.layer_norm_epsilon",
];

/// Keys that would change what is computed, with the values that say what is computed anyway.
const NEUTRAL: [(&str, &[f64]); 28] = [
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.temperature_length", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attention.shared_kv_layers", &[0.0]),
    ("attention.q_lora_rank", &[0.0]),
    ("attention.kv_lora_rank", &[0.0]),
    ("attention.relative_buckets_count", &[0.0]),
    ("rope.scaling.alpha", &[0.0, 1.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    ("rope.scaling.yarn_ext_factor", &[-1.0, 1.0]),
    ("rope.scaling.yarn_attn_factor", &[-1.0, 1.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("use_parallel_residual", &[0.0]),
    ("expert_count", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("nextn_predict_layers", &[0.0]),
    ("leading_dense_block_count", &[0.0]),
    ("rescale_every_n_layers", &[0.0]),
    ("swin_norm", &[0.0]),
    ("full_attention_interval", &[0.0, 1.0]),
    ("activation_sparsity_scale", &[0.0]),
];

/// Metadata by key, which remembers what was asked for.
pub(crate) struct Metadata<'a> {
    content: &'a Content,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(content: &'a Content) -> Metadata<'a> {
        Metadata { content, asked: RefCell::default() }
    }

    /// The value of a key, where the file has one.
    pub(crate) fn find(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.content.metadata.get(key)
    }

    fn get(&self, key: &str) -> Result<&'a Value, ModelError> {
        self.find(key)
            .ok_or_else(|| ModelError::Metadata { key: key.to_owned(), why: "is missing".to_owned() })
    }

    pub(crate) fn wrong(key: &str, expected: &str, got: &Value) -> ModelError {
        ModelError::Metadata { key: key.to_owned(), why: format!("is {} instead of {expected}", shown(got)) }
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, ModelError> {
        match self.get(key)? {
            Value::String(text) => Ok(text),
            value => Err(Metadata::wrong(key, "a text", value)),
        }
    }

    pub(crate) fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str, ModelError> {
        if self.find(key).is_some() { self.text(key) } else { Ok(default) }
    }

    /// A number of things: at least one. Where the file has a number for each layer, they are all the same.
    pub(crate) fn count(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.get(key)?;
        let one = match value {
            Value::Array(items) => match items.split_first() {
                Some((first, rest)) if rest.iter().all(|item| number(item) == number(first)) => first,
                _ => return Err(Metadata::wrong(key, "the same number for all layers", value)),
            },
            value => value,
        };
        number(one)
            .filter(|n| n.fract() == 0.0 && (1.0..f64::from(i32::MAX)).contains(n))
            .map(|n| n as usize)
            .ok_or_else(|| Metadata::wrong(key, "a number of at least 1", value))
    }

    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.find(key).is_some() { self.count(key) } else { Ok(default) }
    }

    /// A count whose 0 says that there is none.
    pub(crate) fn count_if(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.find(key).map(number) {
            None | Some(Some(0.0)) => Ok(None),
            Some(_) => self.count(key).map(Some),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64, ModelError> {
        let value = self.get(key)?;
        number(value)
            .filter(|n| n.is_finite() && *n > 0.0)
            .ok_or_else(|| Metadata::wrong(key, "a positive number", value))
    }

    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        if self.find(key).is_some() { self.number(key) } else { Ok(default) }
    }

    /// A number whose 0 says that there is none.
    pub(crate) fn number_if(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.find(key).map(number) {
            None | Some(Some(0.0)) => Ok(None),
            Some(_) => self.number(key).map(Some),
        }
    }

    /// That nothing is left of what changes an architecture's computation and that nobody has asked for.
    pub(crate) fn check_rest(&self, architecture: &str) -> Result<(), ModelError> {
        let (asked, prefix) = (self.asked.borrow(), format!("{architecture}."));
        let mut unknown = BTreeSet::new();
        for (key, value) in &self.content.metadata {
            let Some(name) = key.strip_prefix(&prefix).filter(|_| !asked.contains(key)) else { continue };
            if INFORMATIVE.contains(&name) {
                continue;
            }
            let neutral = NEUTRAL.iter().find(|(known, _)| *known == name).map(|(_, values)| *values);
            match neutral {
                Some(values) if number(value).is_some_and(|n| values.contains(&n)) => {}
                None if !name.starts_with("rope.") && !name.starts_with("attention.") => {
                    unknown.insert(key.as_str());
                }
                _ => {
                    let why = format!(
                        "is {}, which is not computed here and changes the answers; take a plain {architecture} file",
                        shown(value)
                    );
                    return Err(ModelError::Metadata { key: key.clone(), why });
                }
            }
        }
        if !unknown.is_empty() {
            tracing::warn!(keys = ?unknown, "the model file has keys that are not known here and have no effect");
        }
        Ok(())
    }
}

/// A number or a flag.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::I8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::I16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::I32(n) => Some(n.into()),
        Value::U64(n) => Some(n as f64),
        Value::I64(n) => Some(n as f64),
        Value::F32(n) => Some(n.into()),
        Value::F64(n) => Some(n),
        Value::Bool(flag) => Some(f64::from(u8::from(flag))),
        Value::String(_) | Value::Array(_) => None,
    }
}

/// A value for a message, cut where it is long.
fn shown(value: &Value) -> String {
    match (value, number(value)) {
        (Value::Bool(flag), _) => flag.to_string(),
        (_, Some(number)) => number.to_string(),
        (Value::Array(items), _) => format!("an array of {} items", items.len()),
        (Value::String(text), _) => match text.char_indices().nth(60) {
            Some((end, _)) => format!("`{}...`", &text[..end]),
            None => format!("`{text}`"),
        },
        _ => format!("{value:?}"),
    }
}
