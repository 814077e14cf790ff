//! Logits of tiny models of every kind against the same in f64, written from the formulas of their papers and of llama.cpp; and what is refused.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::OnceLock;

use candle_core::Device as Cpu;
use candle_core::quantized::gguf_file::Value;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

use crate::cache::{KvChoice, Room, open, thresholds};
use crate::run::prefill_recording;
use crate::testing::{LAYERS, TinyFile};
use crate::{ModelError, WeightForm};

const HEAD_DIM: usize = 64;
const TOKENS: usize = 48;

/// What a model does that its tensors do not say.
#[derive(Clone)]
struct Expected {
    /// Neighbours of a vector are rotated together, instead of its halves.
    neighbours: bool,
    /// Radians a position of each pair, for each layer.
    frequencies: [Vec<f64>; LAYERS],
    /// What queries and keys are multiplied by.
    magnitude: f64,
    /// Tokens that each layer sees.
    windows: [usize; LAYERS],
    /// Gemma's scaled embeddings and GELU.
    gemma: bool,
}

/// `base^(-2i/d)`.
fn plain(base: f64) -> Vec<f64> {
    (0..HEAD_DIM / 2).map(|i| base.powf(-((2 * i) as f64) / HEAD_DIM as f64)).collect()
}

impl Expected {
    fn new(neighbours: bool, frequencies: Vec<f64>) -> Expected {
        let frequencies = [frequencies.clone(), frequencies];
        Expected { neighbours, frequencies, magnitude: 1.0, windows: [usize::MAX; LAYERS], gemma: false }
    }

    fn llama() -> Expected {
        Expected::new(true, plain(1e4))
    }

    fn qwen() -> Expected {
        Expected::new(false, plain(1e4))
    }
}

/// A file's tensors in f64.
struct Weights(HashMap<String, (Vec<f64>, usize)>);

impl Weights {
    fn of(file: &TinyFile) -> Weights {
        let numbers = |tensor: &candle_core::quantized::QTensor| {
            let numbers =
                tensor.dequantize(&Cpu::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let row = *tensor.shape().dims().last().unwrap();
            (numbers.into_iter().map(f64::from).collect(), row)
        };
        Weights(file.tensors.iter().map(|(name, tensor)| (name.clone(), numbers(tensor))).collect())
    }

    fn vector(&self, name: &str) -> Option<&[f64]> {
        self.0.get(name).map(|(numbers, _)| numbers.as_slice())
    }

    /// `W x + b`, without what is not there.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (weight, row) = &self.0[&format!("{name}.weight")];
        assert_eq!(*row, x.len());
        let mut y: Vec<f64> =
            weight.chunks(*row).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        if let Some(bias) = self.vector(&format!("{name}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    /// RMS norms of parts as long as the weight; unchanged where there is none.
    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let Some(weight) = self.vector(&format!("{name}.weight")) else { return x.to_vec() };
        let part = |x: &[f64]| {
            let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(1e-5f32)).sqrt();
            x.iter().zip(weight).map(|(x, w)| x / rms * w).collect::<Vec<f64>>()
        };
        x.chunks(weight.len()).flat_map(part).collect()
    }
}

fn rotate(expected: &Expected, layer: usize, position: usize, x: &mut [f64]) {
    for head in x.chunks_mut(HEAD_DIM) {
        for (i, frequency) in expected.frequencies[layer].iter().enumerate() {
            let (a, b) = if expected.neighbours { (2 * i, 2 * i + 1) } else { (i, i + HEAD_DIM / 2) };
            let (sin, cos) = (frequency * position as f64).sin_cos();
            let (x, y) = (head[a] * expected.magnitude, head[b] * expected.magnitude);
            (head[a], head[b]) = (x * cos - y * sin, x * sin + y * cos);
        }
    }
}

/// Logits of every position.
fn reference(file: &TinyFile, expected: &Expected, tokens: &[u32]) -> Vec<Vec<f64>> {
    let weights = Weights::of(file);
    let (table, dim) = &weights.0["token_embd.weight"];
    let scale = if expected.gemma { (*dim as f64).sqrt() } else { 1.0 };
    let mut hidden: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&token| table[token as usize * dim..][..*dim].iter().map(|x| x * scale).collect())
        .collect();
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in hidden.iter_mut().enumerate() {
            let normed = weights.norm(&name("attn_norm"), x);
            let mut q = weights.norm(&name("attn_q_norm"), &weights.linear(&name("attn_q"), &normed));
            let mut k = weights.norm(&name("attn_k_norm"), &weights.linear(&name("attn_k"), &normed));
            rotate(expected, layer, position, &mut q);
            rotate(expected, layer, position, &mut k);
            keys.push(k);
            values.push(weights.linear(&name("attn_v"), &normed));
            let first = (position + 1).saturating_sub(expected.windows[layer]);
            // One KV head.
            let head = |q: &[f64]| {
                let dot = |k: &Vec<f64>| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
                let scores: Vec<f64> =
                    keys[first..].iter().map(|k| dot(k) / (HEAD_DIM as f64).sqrt()).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let parts: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = parts.iter().sum();
                let at = |i: usize| parts.iter().zip(&values[first..]).map(|(p, v)| p / sum * v[i]).sum();
                (0..HEAD_DIM).map(at).collect::<Vec<f64>>()
            };
            let attended: Vec<f64> = q.chunks(HEAD_DIM).flat_map(head).collect();
            let y =
                weights.norm(&name("post_attention_norm"), &weights.linear(&name("attn_output"), &attended));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            let normed = weights.norm(&name("ffn_norm"), x);
            let mut gate = weights.linear(&name("ffn_gate"), &normed);
            for (g, u) in gate.iter_mut().zip(weights.linear(&name("ffn_up"), &normed)) {
                let cube = 0.044_715 * g.powi(3);
                let gelu = 0.5 * *g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (*g + cube)).tanh());
                *g = u * if expected.gemma { gelu } else { *g / (1.0 + (-*g).exp()) };
            }
            let y = weights.norm(&name("post_ffw_norm"), &weights.linear(&name("ffn_down"), &gate));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
    }
    let head = if weights.0.contains_key("output.weight") { "output" } else { "token_embd" };
    hidden.iter().map(|x| weights.linear(head, &weights.norm("output_norm", x))).collect()
}

/// The largest KL divergence of any position.
fn worst_kl(right: &[Vec<f64>], got: &[Vec<f64>]) -> f64 {
    let log_softmax = |x: &[f64]| -> Vec<f64> {
        let most = x.iter().copied().fold(f64::MIN, f64::max);
        let sum = x.iter().map(|x| (x - most).exp()).sum::<f64>().ln() + most;
        x.iter().map(|x| x - sum).collect()
    };
    let kl = |(p, q): (&Vec<f64>, &Vec<f64>)| {
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    };
    assert_eq!(right.len(), got.len());
    right.iter().zip(got).map(kl).fold(0.0, |most, kl| if kl.is_nan() { kl } else { most.max(kl) })
}

/// Logits of a prompt over an FP16 cache.
fn logits(file: &TinyFile, tokens: &[u32]) -> Vec<Vec<f64>> {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    let compiler = COMPILER.get_or_init(|| Compiler::new(KernelCache::without_folder()));
    let (model, device) = (file.model(WeightForm::Dense).unwrap(), Device::host());
    let n = tokens.len();
    let room = Room { requests: 1, tokens: n, prompt: n, chunk: n, bytes: None };
    let choice = KvChoice::fp16();
    let mut cache = open(compiler, &device, &model, &choice, &room).unwrap();
    let request = cache.admit(n, &thresholds(&choice)).unwrap();
    let (hidden, _) = prefill_recording(&model, &device, &mut cache, request, tokens, None).unwrap();
    let rows = model.logits(&hidden).unwrap();
    rows.chunks(model.config().vocab).map(|row| row.iter().copied().map(f64::from).collect()).collect()
}

/// That the model says what is expected, and that `without` it would say something else.
fn check(what: &str, file: &mut TinyFile, expected: &Expected, without: Option<&Expected>) {
    let norms: Vec<(String, usize)> = file
        .tensors
        .iter()
        .filter(|(name, _)| name.ends_with("norm.weight"))
        .map(|(name, tensor)| (name.clone(), tensor.shape().elem_count()))
        .collect();
    for (name, len) in norms {
        let numbers = file.random(len, 1.0, 0.2);
        file.vector(&name, &numbers);
    }
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| (i * i * 7 + 3 * i) % 256).collect();
    let right = reference(file, expected, &tokens);
    let kl = worst_kl(&right, &logits(file, &tokens));
    assert!(kl <= 1e-5, "{what}: KL {kl:.1e}");
    if let Some(without) = without {
        let kl = worst_kl(&right, &reference(file, without, &tokens));
        assert!(kl > 1e-3, "{what} makes no difference: KL {kl:.1e}");
    }
}

fn llama(keys: &[(&str, Value)]) -> TinyFile {
    let mut file = TinyFile::new("llama", 5);
    for (key, value) in keys {
        file.set(&format!("llama.{key}"), value.clone());
    }
    file
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// YaRN as its paper's code has it: a mask of the pairs that keep their angles.
fn yarn(base: f64, factor: f64, original: f64) -> Vec<f64> {
    let dim = HEAD_DIM as f64;
    let correction = |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * base.ln());
    let (low, high) = (correction(32.0).floor().max(0.0), correction(1.0).ceil().min(dim - 1.0));
    assert!(low < high && high > 4.0, "some pairs of each kind: {low}..{high}");
    let mask = |i: f64| 1.0 - ((i - low) / (high - low)).clamp(0.0, 1.0);
    let mix = |(i, f): (usize, f64)| f / factor * (1.0 - mask(i as f64)) + f * mask(i as f64);
    plain(base).into_iter().enumerate().map(mix).collect()
}

#[test]
fn llama_gives_its_logits() {
    check("plain", &mut llama(&[]), &Expected::llama(), None);
    let tied = &mut llama(&[]);
    tied.tensors.retain(|(name, _)| name != "output.weight");
    check("tied", tied, &Expected::llama(), None);
    let biased = &mut llama(&[
        ("attention.causal", Value::Bool(true)),
        ("rope.scaling.finetuned", Value::Bool(false)),
    ]);
    for (name, len) in
        [("output", 258), ("blk.0.attn_output", 128), ("blk.1.ffn_down", 128), ("blk.1.attn_q", 128)]
    {
        let numbers = biased.random(len, 0.0, 1.0);
        biased.vector(&format!("{name}.bias"), &numbers);
    }
    check("biases", biased, &Expected::llama(), None);
}

#[test]
fn llama_3_1_divides_angles_by_the_files_factors() {
    let mut file = llama(&[("rope.freq_base", Value::F32(500.0))]);
    let factors: Vec<f32> = (0..HEAD_DIM / 2).map(|i| [1.0, 1.0, 2.5, 8.0][i / 8]).collect();
    file.vector("rope_freqs.weight", &factors);
    let base = Expected::new(true, plain(500.0));
    let mut expected = base.clone();
    for of_layer in &mut expected.frequencies {
        of_layer.iter_mut().zip(&factors).for_each(|(f, factor)| *f /= f64::from(*factor));
    }
    check("rope_freqs", &mut file, &expected, Some(&base));
}

#[test]
fn linear_scaling_divides_all_angles() {
    let expected = Expected::new(true, plain(1e4).iter().map(|f| f / 4.0).collect());
    let factor = |key: &'static str| (key, Value::F32(4.0));
    for keys in [
        vec![factor("rope.scale_linear")],
        vec![factor("rope.scaling.factor")],
        vec![factor("rope.scaling.factor"), ("rope.scaling.type", text("linear"))],
    ] {
        check("linear", &mut llama(&keys), &expected, Some(&Expected::llama()));
    }
    let none = &mut llama(&[factor("rope.scaling.factor"), ("rope.scaling.type", text("none"))]);
    check("none", none, &Expected::llama(), None);
    let sharper = &mut llama(&[("rope.scaling.attn_factor", Value::F32(1.2))]);
    let expected = Expected { magnitude: f64::from(1.2f32), ..Expected::llama() };
    check("attention factor", sharper, &expected, Some(&Expected::llama()));
}

#[test]
fn products_are_scaled_as_the_file_says() {
    // An eighth is what the root of 64 elements makes; half of that is as if both sides were divided by the root of two.
    let file = &mut llama(&[("attention.scale", Value::F32(0.0625))]);
    let expected = Expected { magnitude: 0.5f64.sqrt(), ..Expected::llama() };
    check("attention.scale", file, &expected, Some(&Expected::llama()));
}

#[test]
fn yarn_divides_slow_angles_and_sharpens_attention() {
    let keys = |attention: f32| {
        vec![
            ("rope.scaling.type", text("yarn")),
            ("rope.scaling.factor", Value::F32(4.0)),
            ("rope.scaling.original_context_length", Value::U32(128)),
            ("rope.scaling.attn_factor", Value::F32(attention)),
        ]
    };
    let sharp = 0.1 * 4f64.ln() + 1.0;
    for attention in [1.0, 0.8] {
        let magnitude = sharp * f64::from(attention);
        let expected = Expected { magnitude, ..Expected::new(true, yarn(1e4, 4.0, 128.0)) };
        let flat = Expected { magnitude: 1.0, ..expected.clone() };
        let unscaled = Expected { magnitude, ..Expected::llama() };
        for without in [flat, unscaled] {
            check("yarn", &mut llama(&keys(attention)), &expected, Some(&without));
        }
    }
    // Qwen2.5's long contexts.
    let mut file = TinyFile::new("qwen2", 6);
    for (key, value) in keys(1.0) {
        file.set(&format!("qwen2.{key}"), value);
    }
    for (name, len) in [("attn_q", 128), ("attn_k", 64), ("attn_v", 64)] {
        for layer in 0..LAYERS {
            let numbers = file.random(len, 0.0, 1.0);
            file.vector(&format!("blk.{layer}.{name}.bias"), &numbers);
        }
    }
    let expected = Expected { magnitude: sharp, ..Expected::new(false, yarn(1e4, 4.0, 128.0)) };
    check("qwen2 with yarn", &mut file, &expected, Some(&Expected::qwen()));
}

#[test]
fn qwen3_norms_queries_and_keys_of_its_own_head_dim() {
    let mut file = TinyFile::new("qwen3", 7);
    check("qwen3", &mut file, &Expected::qwen(), Some(&Expected::llama()));
}

#[test]
fn mistral_has_its_window_on_all_layers_where_the_file_says_so() {
    let window = |tokens| ("attention.sliding_window", Value::U32(tokens));
    let all = Expected::llama();
    let windowed = Expected { windows: [16; LAYERS], ..all.clone() };
    check("a window", &mut llama(&[window(16)]), &windowed, Some(&all));
    // As long as the context, or 0: none.
    for tokens in [512, 0] {
        let file = &mut llama(&[window(tokens)]);
        check("no window", file, &all, Some(&windowed));
        assert_eq!(file.model(WeightForm::Dense).unwrap().config().window, None);
    }
}

#[test]
fn gemma3_has_a_window_and_another_base_on_some_layers_and_scales_the_others() {
    let mut file = TinyFile::new("gemma3", 8);
    file.set("gemma3.rope.freq_base", Value::F32(1e6));
    file.set("gemma3.rope.scaling.factor", Value::F32(8.0));
    file.set("gemma3.rope.scaling.type", text("linear"));
    let scaled: Vec<f64> = plain(1e6).iter().map(|f| f / 8.0).collect();
    let expected = Expected {
        frequencies: [plain(1e4), scaled],
        windows: [16, usize::MAX],
        gemma: true,
        ..Expected::qwen()
    };
    let unscaled = Expected { frequencies: [plain(1e4), plain(1e6)], ..expected.clone() };
    check("gemma3", &mut file, &expected, Some(&unscaled));
    // The same pattern as flags, as newer files have it.
    file.set(
        "gemma3.attention.sliding_window_pattern",
        Value::Array(vec![Value::Bool(true), Value::Bool(false)]),
    );
    check("gemma3 with flags", &mut file, &expected, Some(&unscaled));
}

#[test]
fn a_pattern_of_windows_is_regular_and_of_all_layers() {
    for flags in [vec![true], vec![true, false, true], vec![]] {
        let mut file = TinyFile::new("gemma3", 8);
        let items = flags.iter().map(|&flag| Value::Bool(flag)).collect();
        file.set("gemma3.attention.sliding_window_pattern", Value::Array(items));
        let said = refusal(&file);
        assert!(said.contains("`gemma3.attention.sliding_window_pattern`"), "{flags:?}: {said}");
    }
}

/// What is said of a file that is refused.
fn refusal(file: &TinyFile) -> String {
    file.model(WeightForm::Quantised).expect_err("it is refused").to_string()
}

#[test]
fn keys_that_would_change_the_answers_are_refused_by_name() {
    for (key, value) in [
        ("rope.scaling.type", text("longrope")),
        ("rope.scaling.alpha", Value::F32(1000.0)),
        ("rope.scaling.yarn_log_multiplier", Value::F32(0.1)),
        ("rope.dimension_count", Value::U32(32)),
        ("rope.dimension_sections", Value::Array(vec![Value::U32(16); 4])),
        ("rope.freq_base_swa", Value::F32(1e4)),
        ("rope.freq_base", Value::F32(f32::NAN)),
        ("rope.freq_base", Value::F32(1.0)),
        ("rope.scaling.factor", Value::F32(-2.0)),
        ("rope.something_new", Value::Bool(true)),
        ("attention.something_new", Value::U32(1)),
        ("attention.causal", Value::Bool(false)),
        ("attention.clamp_kqv", Value::F32(8.0)),
        ("attention.max_alibi_bias", Value::F32(8.0)),
        ("attention.value_length", Value::U32(32)),
        ("attention.head_count_kv", Value::Array(vec![Value::U32(1), Value::U32(2)])),
        ("attention.sliding_window_pattern", Value::U32(4)),
        ("attn_logit_softcapping", Value::F32(50.0)),
        ("final_logit_softcapping", Value::F32(30.0)),
        ("logit_scale", Value::F32(0.1)),
        ("embedding_scale", Value::F32(12.0)),
        ("expert_count", Value::U32(8)),
        ("tensor_data_layout", text("transposed")),
        ("block_count", Value::U32(1 << 30)),
        ("block_count", Value::U32(0)),
        ("attention.head_count", Value::U32(1 << 30)),
    ] {
        let said = refusal(&llama(&[(key, value)]));
        assert!(said.contains(&format!("`llama.{key}`")), "{key}: {said}");
    }
    for (key, value) in [
        ("general.type", text("adapter")),
        ("split.count", Value::U16(3)),
        ("general.alignment", Value::U32(0)),
    ] {
        let mut file = llama(&[]);
        file.set(key, value);
        let said = refusal(&file);
        assert!(said.contains(&format!("`{key}`")), "{key}: {said}");
    }
}

/// What conversions by llama.cpp have besides what is needed.
#[test]
fn keys_that_say_what_is_done_anyway_are_accepted() {
    let mut file = llama(&[
        ("vocab_size", Value::U32(258)),
        ("rope.dimension_count", Value::U32(64)),
        ("rope.freq_base", Value::F32(1e4)),
        ("rope.scaling.finetuned", Value::Bool(true)),
        ("rope.scaling.original_context_length", Value::U32(512)),
        ("attention.key_length", Value::U32(64)),
        ("attention.value_length", Value::U32(64)),
        ("attention.head_count_kv", Value::Array(vec![Value::U32(1), Value::U32(1)])),
        ("attention.causal", Value::Bool(true)),
        ("attention.scale", Value::F32(0.125)),
        ("attention.layer_norm_epsilon", Value::F32(1e-5)),
        ("expert_count", Value::U32(0)),
        ("tensor_data_layout", text("Meta AI original pth")),
        ("something_new", Value::U32(1)),
    ]);
    for (key, value) in [
        ("general.type", text("model")),
        ("general.quantization_version", Value::U32(2)),
        ("general.file_type", Value::U32(7)),
        ("general.alignment", Value::U32(32)),
        ("split.count", Value::U16(0)),
        ("quantize.imatrix.entries_count", Value::I32(224)),
    ] {
        file.set(key, value);
    }
    check("harmless keys", &mut file, &Expected::llama(), None);
}

#[test]
fn tensors_that_nothing_reads_and_those_that_are_missing_are_named() {
    for (architecture, name) in [
        ("llama", "blk.1.attn_q_norm.weight"),
        ("llama", "blk.2.attn_norm.weight"),
        ("llama", "v.patch_embd.weight"),
        ("qwen2", "rope_freqs.weight"),
        ("qwen3", "cls.output.weight"),
    ] {
        let mut file = TinyFile::new(architecture, 1);
        file.vector(name, &[1.0; 32]);
        let error = file.model(WeightForm::Quantised).unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, ModelError::UnreadTensors { .. }) && said.contains(&format!("`{name}`")),
            "{said}"
        );
    }
    for name in ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight"] {
        let mut file = TinyFile::new("llama", 1);
        file.tensors.retain(|(known, _)| known != name);
        let said = refusal(&file);
        assert!(said.contains(&format!("no tensor `{name}`")), "{said}");
    }
    let mut file = llama(&[]);
    file.vector("rope_freqs.weight", &[0.0; HEAD_DIM / 2]);
    assert!(refusal(&file).contains("rope_freqs.weight"));
    file.vector("rope_freqs.weight", &[1.0; HEAD_DIM]);
    assert!(refusal(&file).contains("rope_freqs.weight"));
}
