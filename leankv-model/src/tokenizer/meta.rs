//! The tokenizer's fields of a GGUF header, with their types checked.

use candle_core::quantized::gguf_file::{Content, Value};

use super::{Kind, TokenizerError};

/// Reads the metadata of one file.
pub(super) struct Meta<'a>(&'a Content);

fn malformed(key: &'static str, expected: &'static str, found: impl Into<String>) -> TokenizerError {
    TokenizerError::Malformed { key, expected, found: found.into() }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {} items", items.len()),
        Value::String(_) => "a string".to_owned(),
        other => format!("{other:?}"),
    }
}

/// An integer of whatever width the exporter chose.
fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::I8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::I16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::I32(v) => Some(v.into()),
        Value::U64(v) => v.try_into().ok(),
        Value::I64(v) => Some(v),
        _ => None,
    }
}

impl<'a> Meta<'a> {
    pub(super) fn new(content: &'a Content) -> Meta<'a> {
        Meta(content)
    }

    fn get(&self, key: &'static str) -> Result<&'a Value, TokenizerError> {
        self.0.metadata.get(key).ok_or(TokenizerError::Missing { key })
    }

    fn array(&self, key: &'static str, expected: &'static str) -> Result<&'a [Value], TokenizerError> {
        match self.get(key)? {
            Value::Array(items) => Ok(items),
            other => Err(malformed(key, expected, describe(other))),
        }
    }

    /// An array with one item a token.
    fn per_token(&self, key: &'static str, tokens: usize) -> Result<&'a [Value], TokenizerError> {
        let items = self.array(key, "an array of one number a token")?;
        if items.len() != tokens {
            let found = format!("an array of {} for {tokens} tokens", items.len());
            return Err(malformed(key, "an array of one number a token", found));
        }
        Ok(items)
    }

    pub(super) fn string(&self, key: &'static str) -> Result<&'a str, TokenizerError> {
        self.optional_string(key)?.ok_or(TokenizerError::Missing { key })
    }

    pub(super) fn optional_string(&self, key: &'static str) -> Result<Option<&'a str>, TokenizerError> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(malformed(key, "a string", describe(other))),
        }
    }

    pub(super) fn bool(&self, key: &'static str) -> Result<Option<bool>, TokenizerError> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(malformed(key, "a boolean", describe(other))),
        }
    }

    /// An id within the vocabulary, if the file names one.
    pub(super) fn id(&self, key: &'static str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
        let Some(value) = self.0.metadata.get(key) else { return Ok(None) };
        let id = integer(value).and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < tokens);
        id.map(Some).ok_or_else(|| malformed(key, "the number of a token", describe(value)))
    }

    pub(super) fn strings(&self, key: &'static str) -> Result<Vec<&'a str>, TokenizerError> {
        let expected = "an array of strings";
        self.array(key, expected)?
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.as_str()),
                other => Err(malformed(key, expected, format!("an array with {}", describe(other)))),
            })
            .collect()
    }

    pub(super) fn merges(&self) -> Result<Vec<(&'a str, &'a str)>, TokenizerError> {
        let key = "tokenizer.ggml.merges";
        self.strings(key)?
            .into_iter()
            .map(|merge| {
                merge
                    .split_once(' ')
                    .ok_or_else(|| malformed(key, "an array of pairs", format!("an array with `{merge}`")))
            })
            .collect()
    }

    pub(super) fn scores(&self, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
        let key = "tokenizer.ggml.scores";
        self.per_token(key, tokens)?
            .iter()
            .map(|item| match item {
                Value::F32(score) => Ok(*score),
                other => Err(malformed(key, "an array of f32", format!("an array with {}", describe(other)))),
            })
            .collect()
    }

    pub(super) fn kinds(&self, tokens: usize) -> Result<Vec<Kind>, TokenizerError> {
        let key = "tokenizer.ggml.token_type";
        self.per_token(key, tokens)?
            .iter()
            .map(|item| {
                Ok(match integer(item) {
                    Some(1) => Kind::Normal,
                    Some(2) => Kind::Unknown,
                    Some(3) => Kind::Control,
                    Some(4) => Kind::UserDefined,
                    Some(5) => Kind::Unused,
                    Some(6) => Kind::Byte,
                    _ => {
                        let found = format!("an array with {}", describe(item));
                        return Err(malformed(key, "an array of numbers from 1 to 6", found));
                    }
                })
            })
            .collect()
    }
}
