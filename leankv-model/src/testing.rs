//! A tiny model with random weights, for tests of what runs on models: it says nothing sensible, and what it says depends on all that
//! its attention sees.

use std::io::{Cursor, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Model, WeightForm};

/// Decoder layers.
pub const LAYERS: usize = 2;
/// KV heads of a layer.
pub const KV_HEADS: usize = 1;
/// Longest sequence.
pub const CONTEXT: usize = 512;
const HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const DIM: usize = HEADS * HEAD_DIM;
const FFN: usize = 128;

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
    let mut file = Cursor::new(tiny_gguf(seed));
    let content = Content::read(&mut file).expect("it was written as GGUF");
    Model::read(&content, &mut file, form).expect("it has all that a model has")
}

/// As [`write_tiny_gguf`], the bytes.
///
/// # Panics
/// Never, unless candle is wrong.
pub fn tiny_gguf(seed: u64) -> Vec<u8> {
    let vocabulary = vocabulary();
    let vocab = vocabulary.len();
    let metadata = metadata(vocabulary);
    let mut weights = Weights { rng: ChaCha8Rng::seed_from_u64(seed), tensors: Vec::new() };
    weights.matrix("token_embd.weight", vocab, DIM, 1.0);
    weights.matrix("output.weight", vocab, DIM, 1.0);
    weights.ones("output_norm.weight", DIM);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        weights.ones(&name("attn_norm"), DIM);
        weights.ones(&name("ffn_norm"), DIM);
        // Sharp attention whose outputs outweigh the token's own embedding.
        weights.matrix(&name("attn_q"), HEADS * HEAD_DIM, DIM, 1.5);
        weights.matrix(&name("attn_k"), KV_HEADS * HEAD_DIM, DIM, 1.5);
        weights.matrix(&name("attn_v"), KV_HEADS * HEAD_DIM, DIM, 2.0);
        weights.matrix(&name("attn_output"), DIM, HEADS * HEAD_DIM, 2.0);
        weights.matrix(&name("ffn_gate"), FFN, DIM, 1.0);
        weights.matrix(&name("ffn_up"), FFN, DIM, 1.0);
        weights.matrix(&name("ffn_down"), DIM, FFN, 1.0);
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        weights.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).expect("memory can be written to");
    file.into_inner()
}

fn metadata(vocabulary: Vec<String>) -> Vec<(&'static str, Value)> {
    let number = |n: usize| Value::U32(n as u32);
    let text = |text: &str| Value::String(text.to_owned());
    let end = vocabulary.len() - 1;
    let kinds = (0..vocabulary.len()).map(|token| Value::I32(if token == end { 3 } else { 1 }));
    vec![
        ("general.architecture", text("llama")),
        ("general.name", text("tiny")),
        ("llama.block_count", number(LAYERS)),
        ("llama.embedding_length", number(DIM)),
        ("llama.feed_forward_length", number(FFN)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(KV_HEADS)),
        ("llama.context_length", number(CONTEXT)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.token_type", Value::Array(kinds.collect())),
        ("tokenizer.ggml.tokens", Value::Array(vocabulary.into_iter().map(Value::String).collect())),
        // An empty list has no type that could be written, so there is one merge, of tokens that are there.
        ("tokenizer.ggml.merges", Value::Array(vec![text("a b")])),
        ("tokenizer.ggml.eos_token_id", number(end)),
    ]
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

struct Weights {
    rng: ChaCha8Rng,
    tensors: Vec<(String, QTensor)>,
}

impl Weights {
    /// Uniform numbers whose products with unit inputs have about this size.
    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize, size: f32) {
        let most = size * (3.0 / inputs as f32).sqrt();
        let numbers: Vec<f32> =
            (0..outputs * inputs).map(|_| (self.rng.random::<f32>() * 2.0 - 1.0) * most).collect();
        self.push(name, &numbers, &[outputs, inputs], GgmlDType::Q8_0);
    }

    fn ones(&mut self, name: &str, len: usize) {
        self.push(name, &vec![1.0; len], &[len], GgmlDType::F32);
    }

    fn push(&mut self, name: &str, numbers: &[f32], shape: &[usize], format: GgmlDType) {
        let tensor =
            Tensor::from_slice(numbers, shape, &Device::Cpu).expect("there is a number for each place");
        let tensor = QTensor::quantize(&tensor, format).expect("rows are whole blocks");
        self.tensors.push((name.to_owned(), tensor));
    }
}
