//! What is learned of a model's attention before it serves: means of keys and values, and which heads look far back.
//!
//! The *prior* of a KV head is the largest share of attention that one of its tokens gets from one query while the model reads the same text a second time (KVzip's
//! score, arXiv 2505.23416), in the mean over the tokens of a text: heads that copy have large ones, and heads that look at the last few tokens
//! small ones. It says how many tokens of a prompt a head will ask for again, which its own queries so far do not.

use std::path::{Path, PathBuf};

use leankv_runtime::kv::Means;
use leankv_runtime::{Compiler, Device};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::cache::{KvChoice, Recorded, Room, open, thresholds};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::math::log_softmax;
use crate::run::prefill_recording;
use crate::settings::replace;
use crate::{Model, RopePairs};

/// Tokens at the start of a text that no statistics are taken of: attention sinks are like no others.
pub const LEFT_OUT: usize = 4;

/// Means and priors of every layer and KV head.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Means of keys, after RoPE and without the rotated bias of their projection, and of values.
    pub means: Means,
    /// `[layers, kv_heads]`, from 0 to 1.
    pub priors: Vec<f32>,
}

/// Why a file of statistics cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}\n  correct it, or remove it and run `leankv calibrate`", path.display())]
pub struct StatisticsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// Where the statistics of a model are kept beside a file of settings.
#[must_use]
pub fn path_of(settings: &Path, model: &str) -> PathBuf {
    settings.with_file_name(format!("leankv.{model}.safetensors"))
}

impl Statistics {
    /// Measures them on texts, each of which the model reads twice. A text has more than 4 tokens, and two of them are no longer than the model's context.
    ///
    /// # Errors
    /// [`ModelError::Refused`] for no text and for one that is too short or too long, and what model and cache say.
    pub fn measure(
        compiler: &Compiler,
        device: &Device,
        model: &Model,
        texts: &[&[u32]],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Statistics, ModelError> {
        let config = model.config();
        let most = config.context / 2;
        if texts.is_empty() {
            return Err(ModelError::Refused("statistics are of at least one text".to_owned()));
        }
        if let Some(bad) = texts.iter().find(|text| text.len() <= LEFT_OUT || text.len() > most) {
            let (n, least) = (bad.len(), LEFT_OUT + 1);
            return Err(ModelError::Refused(format!(
                "a text of {n} tokens: statistics are of texts of {least} to {most} tokens"
            )));
        }
        let lists = config.layers * config.kv_heads;
        let mut sums = Sums::new(lists, config.head_dim);
        for (number, text) in texts.iter().enumerate() {
            progress(number, texts.len());
            let twice = [*text, *text].concat();
            let n = twice.len();
            let room = Room { requests: 1, tokens: n, prompt: n, chunk: n, bytes: None };
            let choice = KvChoice::fp16();
            let mut cache = open(compiler, device, model, &choice, &room)?;
            let request = cache.admit(n, &thresholds(&choice))?;
            let (_, recorded) = prefill_recording(model, device, &mut cache, request, &twice)?;
            sums.add(model, &recorded, text.len())?;
        }
        progress(texts.len(), texts.len());
        Ok(sums.mean())
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// [`StatisticsError`] for a file that cannot be read, or is of another model.
    pub fn read(path: &Path, config: &ModelConfig) -> Result<Option<Statistics>, StatisticsError> {
        let wrong = |why: String| StatisticsError { path: path.to_owned(), why };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let read = |name: &str, shape: &[usize]| {
            let tensor = tensors.tensor(name).map_err(|e| wrong(e.to_string()))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let (dtype, got) = (tensor.dtype(), tensor.shape());
                return Err(wrong(format!(
                    "`{name}` is {dtype:?} {got:?}, and this model's is F32 {shape:?}"
                )));
            }
            let numbers: Vec<f32> =
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            match numbers.iter().all(|x| x.is_finite()) {
                true => Ok(numbers),
                false => Err(wrong(format!("`{name}` holds what is no finite number"))),
            }
        };
        let ModelConfig { layers, kv_heads, head_dim, .. } = *config;
        let of_heads = [layers, kv_heads, head_dim];
        let statistics = Statistics {
            means: Means { keys: read("key_means", &of_heads)?, values: read("value_means", &of_heads)? },
            priors: read("priors", &of_heads[..2])?,
        };
        match statistics.priors.iter().all(|prior| (0.0..=1.0).contains(prior)) {
            true => Ok(Some(statistics)),
            false => Err(wrong("a prior is a share of attention, from 0 to 1".to_owned())),
        }
    }

    /// Writes a file, in one move.
    ///
    /// # Errors
    /// [`StatisticsError`] where it cannot be written.
    pub fn write(&self, path: &Path, config: &ModelConfig) -> Result<(), StatisticsError> {
        let wrong = |why: String| StatisticsError { path: path.to_owned(), why };
        let ModelConfig { layers, kv_heads, head_dim, .. } = *config;
        let tensors = [
            ("key_means", &self.means.keys, vec![layers, kv_heads, head_dim]),
            ("priors", &self.priors, vec![layers, kv_heads]),
            ("value_means", &self.means.values, vec![layers, kv_heads, head_dim]),
        ];
        let bytes = tensors.map(|(name, numbers, shape)| {
            (name, numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), shape)
        });
        let views = bytes.iter().map(|(name, bytes, shape)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (*name, view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
        let file = safetensors::serialize(views, None).map_err(|e| wrong(e.to_string()))?;
        replace(path, &file).map_err(|e| wrong(e.to_string()))
    }
}

/// Sums over tokens, head by head.
struct Sums {
    keys: Vec<f64>,
    values: Vec<f64>,
    priors: Vec<f64>,
    tokens: usize,
}

impl Sums {
    fn new(lists: usize, head_dim: usize) -> Sums {
        let zeros = vec![0.0; lists * head_dim];
        Sums { keys: zeros.clone(), values: zeros, priors: vec![0.0; lists], tokens: 0 }
    }

    /// Adds what the layers were given for a text of `n` tokens that was read twice.
    fn add(&mut self, model: &Model, recorded: &Recorded, n: usize) -> Result<(), ModelError> {
        let config = model.config();
        let (heads, d) = (config.kv_heads, config.head_dim);
        for (layer, [q, k, v]) in recorded.read()?.into_iter().enumerate() {
            let unbiased = without_bias(model, layer, &k);
            for (sums, rows) in [(&mut self.keys, &unbiased), (&mut self.values, &v)] {
                let sums = &mut sums[layer * heads * d..][..heads * d];
                for row in rows.chunks_exact(heads * d).take(n).skip(LEFT_OUT) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
            for head in 0..heads {
                let logs = largest_shares(config, (&q, &k), (layer, head), n);
                let share = |log: &f32| f64::from(log.exp());
                self.priors[layer * heads + head] += logs[LEFT_OUT..].iter().map(share).sum::<f64>();
            }
        }
        self.tokens += n - LEFT_OUT;
        Ok(())
    }

    fn mean(self) -> Statistics {
        let tokens = self.tokens as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / tokens) as f32).collect();
        let priors = self.priors.iter().map(|sum| ((sum / tokens) as f32).min(1.0)).collect();
        Statistics { means: Means { keys: mean(self.keys), values: mean(self.values) }, priors }
    }
}

/// Keys `[tokens, kv_heads, head_dim]`, after RoPE, without the rotated bias of their projection: what a cache takes out besides their mean.
fn without_bias(model: &Model, layer: usize, keys: &[f32]) -> Vec<f32> {
    let (mut keys, config) = (keys.to_vec(), model.config());
    let Some(bias) = model.key_bias(layer).filter(|_| model.rope(layer).pairs() == RopePairs::Halves) else {
        return keys;
    };
    for (position, row) in keys.chunks_exact_mut(bias.len()).enumerate() {
        let mut turned = bias.to_vec();
        model.rope(layer).rotate(&mut turned, config.kv_heads, &[position as u32]);
        row.iter_mut().zip(&turned).for_each(|(x, bias)| *x -= bias);
    }
    keys
}

/// The natural logarithm of the largest share of attention that each of the first `n` keys of a KV head gets from a query of the second `n`, of any query head of its group.
fn largest_shares(
    config: &ModelConfig,
    (q, k): (&[f32], &[f32]),
    (layer, head): (usize, usize),
    n: usize,
) -> Vec<f32> {
    let (heads, group, d) = (config.kv_heads, config.group(), config.head_dim);
    let scale = 1.0 / (d as f32).sqrt();
    let keys: Vec<f32> =
        k.chunks_exact(heads * d).flat_map(|row| row[head * d..][..d].iter().copied()).collect();
    let of_query = |query: usize| {
        let mut most = vec![f32::NEG_INFINITY; n];
        let end = n + query + 1;
        let first = config.window_of(layer).map_or(0, |window| end.saturating_sub(window));
        for member in 0..group {
            let q = &q[((n + query) * heads * group + head * group + member) * d..][..d];
            let seen = keys.chunks_exact(d).take(end).skip(first);
            let mut logs: Vec<f32> =
                seen.map(|k| scale * k.iter().zip(q).map(|(k, q)| k * q).sum::<f32>()).collect();
            log_softmax(&mut logs);
            let seen = most.iter_mut().skip(first);
            seen.zip(&logs).for_each(|(most, log)| *most = most.max(*log));
        }
        most
    };
    let larger = |mut a: Vec<f32>, b: Vec<f32>| {
        a.iter_mut().zip(&b).for_each(|(a, b)| *a = a.max(*b));
        a
    };
    (0..n).into_par_iter().map(of_query).reduce(|| vec![f32::NEG_INFINITY; n], larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{TextEval, evaluate};
    use crate::testing::{CONTEXT, KV_HEADS, LAYERS, TinyFile, compiler, tiny_model};
    use crate::variants::KeyOffsetTables;
    use crate::{WeightForm, cache};

    fn text(n: usize) -> Vec<u32> {
        (0..n as u32).map(|i| (i * i * 11 + 5 * i) % 256).collect()
    }

    fn measured(model: &Model) -> Statistics {
        let (a, b) = (text(60), text(90)[30..].to_vec());
        Statistics::measure(compiler(), &Device::host(), model, &[&a, &b], &mut |_, _| ()).unwrap()
    }

    #[test]
    fn what_is_measured_is_written_and_read() {
        let model = tiny_model(3, WeightForm::Dense);
        let statistics = measured(&model);
        assert_eq!(statistics.priors.len(), LAYERS * KV_HEADS);
        assert!(statistics.priors.iter().all(|prior| (0.0..=1.0).contains(prior)));
        assert!(statistics.means.keys.iter().any(|x| *x != 0.0));
        let folder = tempfile::tempdir().unwrap();
        let path = path_of(&folder.path().join("leankv.toml"), "a model");
        assert_eq!(Statistics::read(&path, model.config()).unwrap(), None);
        statistics.write(&path, model.config()).unwrap();
        assert_eq!(Statistics::read(&path, model.config()).unwrap(), Some(statistics));
    }

    /// A tiny model with a large bias on its keys.
    fn biased() -> TinyFile {
        let mut file = TinyFile::new("qwen2", 6);
        for (name, len, size) in [("attn_q", 128, 0.5), ("attn_k", 64, 40.0), ("attn_v", 64, 2.0)] {
            for layer in 0..LAYERS {
                let numbers = file.random(len, 0.0, size);
                file.vector(&format!("blk.{layer}.{name}.bias"), &numbers);
            }
        }
        file
    }

    /// From the definitions, in f64.
    #[test]
    fn means_and_priors_equal_f64() {
        let n = 40;
        let text = text(n);
        for model in [tiny_model(3, WeightForm::Dense), biased().model(WeightForm::Dense).unwrap()] {
            let got = Statistics::measure(compiler(), &Device::host(), &model, &[&text], &mut |_, _| ());
            let (got, config) = (got.unwrap(), model.config());
            let twice = [&text[..], &text].concat();
            let room = Room { requests: 1, tokens: 2 * n, prompt: 2 * n, chunk: 2 * n, bytes: None };
            let fp16 = KvChoice::fp16();
            let mut cache = open(compiler(), &Device::host(), &model, &fp16, &room).unwrap();
            let request = cache.admit(2 * n, &thresholds(&fp16)).unwrap();
            let (_, recorded) =
                prefill_recording(&model, &Device::host(), &mut cache, request, &twice).unwrap();
            let (d, heads) = (config.head_dim, config.heads);
            let tables = (0..LAYERS).map(|layer| model.key_bias(layer).map(<[f32]>::to_vec));
            let tables = tables.collect::<Option<Vec<_>>>().map(|biases| {
                KeyOffsetTables::new(&Device::host(), biases, [KV_HEADS, d], model.rope(0), n).unwrap()
            });
            // One KV head.
            for (layer, [q, k, v]) in recorded.read().unwrap().iter().enumerate() {
                let own = LEFT_OUT..n;
                for i in 0..d {
                    let offset = |t: usize| tables.as_ref().map_or(0.0, |of| of.offset(layer, 0, t)[i]);
                    let mean = |x: &dyn Fn(usize) -> f64| own.clone().map(x).sum::<f64>() / own.len() as f64;
                    let key = mean(&|t| f64::from(k[t * d + i]) - offset(t));
                    let value = mean(&|t| f64::from(v[t * d + i]));
                    let at = layer * d + i;
                    // The table of angles is of f16, times a bias of up to 40.
                    assert!((f64::from(got.means.keys[at]) - key).abs() < 0.03, "key {at}: {key}");
                    assert!((f64::from(got.means.values[at]) - value).abs() < 1e-4, "value {at}: {value}");
                }
                let mut most = vec![0.0f64; n];
                for query in n..2 * n {
                    for member in 0..heads {
                        let q = &q[(query * heads + member) * d..][..d];
                        let dot =
                            |t: usize| (0..d).map(|i| f64::from(q[i]) * f64::from(k[t * d + i])).sum::<f64>();
                        let logits: Vec<f64> = (0..=query).map(|t| dot(t) / (d as f64).sqrt()).collect();
                        let top = logits.iter().copied().fold(f64::MIN, f64::max);
                        let sum: f64 = logits.iter().map(|x| (x - top).exp()).sum();
                        for (most, logit) in most.iter_mut().zip(&logits) {
                            *most = most.max((logit - top).exp() / sum);
                        }
                    }
                }
                let prior = own.clone().map(|t| most[t]).sum::<f64>() / own.len() as f64;
                assert!((f64::from(got.priors[layer]) / prior - 1.0).abs() < 1e-3, "layer {layer}: {prior}");
            }
        }
    }

    #[test]
    fn files_of_another_kind_are_refused_and_say_what_to_do() {
        let model = tiny_model(3, WeightForm::Dense);
        let (statistics, config) = (measured(&model), model.config());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let fails = |config: &ModelConfig, part: &str| {
            let error = Statistics::read(&path, config).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("leankv calibrate"), "{error}");
        };
        statistics.write(&path, config).unwrap();
        fails(&ModelConfig { layers: 3, ..config.clone() }, "this model's is F32 [3, 1, 64]");
        for (bad, part) in [(f32::NAN, "no finite number"), (1.5, "from 0 to 1")] {
            let mut other = statistics.clone();
            other.priors[1] = bad;
            other.write(&path, config).unwrap();
            fails(config, part);
        }
        std::fs::write(&path, b"not such a file").unwrap();
        fails(config, "");
    }

    #[test]
    fn texts_that_are_too_short_or_too_long_are_refused() {
        let model = tiny_model(3, WeightForm::Dense);
        for texts in [vec![], vec![text(4)], vec![text(20), text(CONTEXT / 2 + 1)]] {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let error = Statistics::measure(compiler(), &Device::host(), &model, &texts, &mut |_, _| ());
            assert!(matches!(error, Err(ModelError::Refused(_))));
        }
    }

    /// The default formats on models with and without a bias on their keys, with what is known of them and without: near FP16, where plain 4-bit keys of a
    /// biased model are not.
    #[test]
    fn default_formats_suit_models_with_a_bias_and_without() {
        let biased = biased();
        for model in [tiny_model(5, WeightForm::Dense), biased.model(WeightForm::Dense).unwrap()] {
            let bias = model.key_bias(0).is_some();
            let statistics = measured(&model);
            for model in [model.with_statistics(statistics.clone()), biased_without(&biased, bias)] {
                let choices = ["K8mV8m/K4mV4m@0,0", "K4mV4m", "K4V4+plain"].map(|name| name.parse().unwrap());
                let eval = TextEval {
                    model: "tiny".to_owned(),
                    text: "numbers".to_owned(),
                    bos: None,
                    tokens: text(120),
                    ctx: 120,
                    chunks: 1,
                    choices: choices.to_vec(),
                    batch: 8,
                    journal: None,
                };
                let report = evaluate(compiler(), &Device::host(), &model, &eval, &mut |_, _| ()).unwrap();
                let kl: Vec<f64> =
                    report.configs.iter().skip(1).map(|c| c.figures.unwrap().kl.mean).collect();
                assert!(kl[0] < kl[1] && kl[1] < kl[2].max(1e-3), "bias {bias}: {kl:?}");
                assert!(!bias || kl[1] < kl[2] / 4.0, "{kl:?}");
            }
        }
        assert!(cache::KvChoice::DEFAULT.parse::<KvChoice>().is_ok());
    }

    /// A model of which nothing is known.
    fn biased_without(biased: &TinyFile, bias: bool) -> Model {
        if bias { biased.model(WeightForm::Dense).unwrap() } else { tiny_model(5, WeightForm::Dense) }
    }
}
