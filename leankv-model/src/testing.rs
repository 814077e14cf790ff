//! A tiny model with random weights, for tests of what runs on models: it says nothing sensible, and what it says depends on all that
//! its attention sees.

use std::io::{Cursor, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::ModelError;
use crate::gguf::read_header;
use crate::{Model, WeightForm};

/// Decoder layers.
pub const LAYERS: usize = 2;
/// KV heads of a layer.
pub const KV_HEADS: usize = 1;
/// Longest sequence.
pub const CONTEXT: usize = 512;
const HEADS: usize = 2;
const HEAD_DIM: usize = 64;
/// Elements of a hidden state.
pub const DIM: usize = HEADS * HEAD_DIM;
const FFN: usize = 128;

/// A compiler whose kernels are compiled once a process, and left nowhere.
#[cfg(test)]
pub(crate) fn compiler() -> &'static leankv_runtime::Compiler {
    use leankv_runtime::Compiler;
    use leankv_runtime::cache::KernelCache;
    static COMPILER: std::sync::OnceLock<Compiler> = std::sync::OnceLock::new();
    COMPILER.get_or_init(|| Compiler::new(KernelCache::without_folder()))
}

/// Writes the model as a GGUF file. Its vocabulary is the 256 bytes, as GPT-2 writes them, and an end of text.
///
/// # Panics
/// When the file cannot be written.
pub fn write_tiny_gguf(path: &Path, seed: u64) {
    let mut file = std::fs::File::create(path).expect("the folder can be written to");
    file.write_all(&tiny_gguf(seed)).expect("the file can be written");
}

/// The model.
///
/// # Panics
/// Never, unless the loader is wrong.
pub fn tiny_model(seed: u64, form: WeightForm) -> Model {
    TinyFile::new("llama", seed).model(form).expect("it has all that a model has")
}

/// As [`tiny_model`] with quantised weights, which were changed.
///
/// # Panics
/// Never, unless the loader is wrong.
pub fn tiny_model_with(seed: u64, change: &mut Change<'_>) -> Model {
    let mut file = TinyFile::new("llama", seed);
    file.change(change);
    file.model(WeightForm::Quantised).expect("it has all that a model has")
}

/// As [`write_tiny_gguf`], the bytes.
///
/// # Panics
/// Never, unless candle is wrong.
pub fn tiny_gguf(seed: u64) -> Vec<u8> {
    tiny_gguf_with(seed, &mut |_, _| ())
}

/// Changes a tensor, which is told by its name. A matrix is coded in blocks of 32: an infinity in it makes all of its block NaN.
pub type Change<'a> = dyn FnMut(&str, &mut [f32]) + 'a;

/// As [`tiny_gguf`], with weights that were changed.
///
/// # Panics
/// Never, unless candle is wrong.
pub fn tiny_gguf_with(seed: u64, change: &mut Change<'_>) -> Vec<u8> {
    let mut file = TinyFile::new("llama", seed);
    file.change(change);
    file.bytes()
}

/// What a tiny model's file has in it, to be changed before it is written.
#[derive(Debug)]
pub struct TinyFile {
    /// Keys and their values.
    pub metadata: Vec<(String, Value)>,
    /// Tensors by name.
    pub tensors: Vec<(String, QTensor)>,
    rng: ChaCha8Rng,
}

impl TinyFile {
    /// A model of an architecture that this crate runs. One of `qwen3` has a head dim that is not its hidden states' length by its heads, and one of
    /// `gemma3` sees a window of 16 tokens at its first layer.
    ///
    /// # Panics
    /// Never, unless candle is wrong.
    pub fn new(architecture: &str, seed: u64) -> TinyFile {
        let vocabulary = vocabulary();
        let (vocab, rng) = (vocabulary.len(), ChaCha8Rng::seed_from_u64(seed));
        let mut file = TinyFile { metadata: metadata(architecture, vocabulary), tensors: Vec::new(), rng };
        let (gemma, qwen3) = (architecture == "gemma3", architecture == "qwen3");
        let heads = if qwen3 { 2 * HEADS } else { HEADS };
        file.matrix("token_embd.weight", vocab, DIM, 1.0);
        file.matrix("output.weight", vocab, DIM, 1.0);
        file.vector("output_norm.weight", &[1.0; DIM]);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            file.vector(&name("attn_norm"), &[1.0; DIM]);
            file.vector(&name("ffn_norm"), &[1.0; DIM]);
            // Sharp attention whose outputs outweigh the token's own embedding.
            file.matrix(&name("attn_q"), heads * HEAD_DIM, DIM, 1.5);
            file.matrix(&name("attn_k"), KV_HEADS * HEAD_DIM, DIM, 1.5);
            file.matrix(&name("attn_v"), KV_HEADS * HEAD_DIM, DIM, 2.0);
            file.matrix(&name("attn_output"), DIM, heads * HEAD_DIM, 2.0);
            file.matrix(&name("ffn_gate"), FFN, DIM, 1.0);
            file.matrix(&name("ffn_up"), FFN, DIM, 1.0);
            file.matrix(&name("ffn_down"), DIM, FFN, 1.0);
            if gemma || qwen3 {
                file.vector(&name("attn_q_norm"), &[1.0; HEAD_DIM]);
                file.vector(&name("attn_k_norm"), &[1.0; HEAD_DIM]);
            }
            if gemma {
                file.vector(&name("post_attention_norm"), &[1.0; DIM]);
                file.vector(&name("post_ffw_norm"), &[1.0; DIM]);
            }
        }
        file
    }

    /// Gives a key a value, which it may have another of already.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.metadata.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Gives the file a vector, or one of its vectors other numbers.
    ///
    /// # Panics
    /// Never, unless candle is wrong.
    pub fn vector(&mut self, name: &str, numbers: &[f32]) {
        self.push(name, numbers, &[numbers.len()], GgmlDType::F32);
    }

    /// Random numbers around `middle`, at most `reach` away from it.
    pub fn random(&mut self, len: usize, middle: f32, reach: f32) -> Vec<f32> {
        (0..len).map(|_| middle + (self.rng.random::<f32>() * 2.0 - 1.0) * reach).collect()
    }

    /// Changes its tensors.
    ///
    /// # Panics
    /// Never, unless candle is wrong.
    pub fn change(&mut self, change: &mut Change<'_>) {
        for (name, tensor) in &mut self.tensors {
            let numbers = tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
            let before = numbers.expect("what was coded can be decoded");
            let mut numbers = before.clone();
            change(name, &mut numbers);
            if numbers.iter().zip(&before).any(|(new, old)| new.to_bits() != old.to_bits()) {
                *tensor = coded(&numbers, tensor.shape().dims(), tensor.dtype());
            }
        }
    }

    /// The file's bytes.
    ///
    /// # Panics
    /// Never, unless candle is wrong.
    pub fn bytes(&self) -> Vec<u8> {
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> = self.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut file = Cursor::new(Vec::new());
        gguf_file::write(&mut file, &metadata, &tensors).expect("memory can be written to");
        file.into_inner()
    }

    /// The model that the file's bytes make.
    ///
    /// # Errors
    /// As [`Model::read`].
    pub fn model(&self, form: WeightForm) -> Result<Model, ModelError> {
        let mut file = Cursor::new(self.bytes());
        let content = read_header(&mut file)?;
        Model::read(&content, &mut file, form)
    }

    /// Uniform numbers whose products with unit inputs have about this size.
    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize, size: f32) {
        let most = size * (3.0 / inputs as f32).sqrt();
        let numbers = self.random(outputs * inputs, 0.0, most);
        self.push(name, &numbers, &[outputs, inputs], GgmlDType::Q8_0);
    }

    fn push(&mut self, name: &str, numbers: &[f32], shape: &[usize], format: GgmlDType) {
        let tensor = coded(numbers, shape, format);
        match self.tensors.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = tensor,
            None => self.tensors.push((name.to_owned(), tensor)),
        }
    }
}

fn coded(numbers: &[f32], shape: &[usize], format: GgmlDType) -> QTensor {
    let tensor = Tensor::from_slice(numbers, shape, &Device::Cpu).expect("there is a number for each place");
    QTensor::quantize(&tensor, format).expect("rows are whole blocks")
}

fn metadata(architecture: &str, vocabulary: Vec<String>) -> Vec<(String, Value)> {
    let number = |n: usize| Value::U32(n as u32);
    let text = |text: &str| Value::String(text.to_owned());
    let end = vocabulary.len() - 1;
    let kinds = (0..vocabulary.len()).map(|token| Value::I32(if token == end { 3 } else { 1 }));
    let mut own = vec![
        ("block_count", number(LAYERS)),
        ("embedding_length", number(DIM)),
        ("feed_forward_length", number(FFN)),
        ("attention.head_count", number(HEADS)),
        ("attention.head_count_kv", number(KV_HEADS)),
        ("context_length", number(CONTEXT)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    match architecture {
        "qwen3" => {
            own[3].1 = number(2 * HEADS);
            own.extend([
                ("attention.key_length", number(HEAD_DIM)),
                ("attention.value_length", number(HEAD_DIM)),
            ]);
        }
        "gemma3" => {
            own.extend([
                ("attention.sliding_window", number(16)),
                ("attention.sliding_window_pattern", number(2)),
            ]);
        }
        _ => {}
    }
    let own = own.into_iter().map(|(name, value)| (format!("{architecture}.{name}"), value));
    let general = [("general.architecture", text(architecture)), ("general.name", text("tiny"))];
    let tokenizer = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.token_type", Value::Array(kinds.collect())),
        ("tokenizer.ggml.tokens", Value::Array(vocabulary.into_iter().map(Value::String).collect())),
        // An empty list has no type that could be written, so there is one merge, of tokens that are there.
        ("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ("tokenizer.ggml.eos_token_id", number(end)),
    ];
    let named = |(name, value): (&str, Value)| (name.to_owned(), value);
    general.into_iter().map(named).chain(own).chain(tokenizer.into_iter().map(named)).collect()
}

/// Bytes as GPT-2's alphabet writes them, what the one merge makes, and the end of text.
fn vocabulary() -> Vec<String> {
    let visible = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u32> = (0..256).filter(|byte| !visible(byte)).collect();
    let letter = |byte: u32| match hidden.iter().position(|&h| h == byte) {
        Some(at) => 0x100 + at as u32,
        None => byte,
    };
    let letters = (0..256).filter_map(|byte| char::from_u32(letter(byte))).map(String::from);
    letters.chain(["ab".to_owned(), "<|endoftext|>".to_owned()]).collect()
}
