use leankv_runtime::Device;

use super::reconstruct::Reader;
use super::*;
use crate::WeightForm;
use crate::cache::KvChoice;
use crate::eval::{TextEval, evaluate};
use crate::model::{Attend, LayerRows};
use crate::testing::{CONTEXT, KV_HEADS, LAYERS, TinyFile, compiler, tiny_model};
use crate::variants::KeyOffsetTables;

fn text(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 11 + 5 * i) % 256).collect()
}

fn measured(model: &Model) -> Statistics {
    let (a, b) = (text(60), text(90)[30..].to_vec());
    Statistics::measure(model, &[&a, &b], &mut |_, _| ()).unwrap()
}

#[test]
fn what_is_measured_is_written_and_read() {
    let model = tiny_model(3, WeightForm::Dense);
    let statistics = measured(&model);
    assert_eq!(statistics.probe.weights.len(), LAYERS * KV_HEADS * Probe::features(64));
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

/// What attention is given and gives, layer by layer: queries, keys, values, output.
struct Spy<A>(A, Vec<[Vec<f32>; 4]>);

impl<A: Attend> Attend for Spy<A> {
    fn layer(&mut self, at: usize, rows: LayerRows<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        self.0.layer(at, rows, out)?;
        let [q, k, v] = [rows.q, rows.k, rows.v].map(|x| x.iter().map(|x| x.to_f32()).collect());
        self.1.push([q, k, v, out.to_vec()]);
        Ok(())
    }
}

/// From the definitions, in f64.
#[test]
fn means_and_shares_equal_f64() {
    let n = 40;
    let text = text(n);
    for model in [tiny_model(3, WeightForm::Dense), biased().model(WeightForm::Dense).unwrap()] {
        let got = Statistics::measure(&model, &[&text], &mut |_, _| ());
        let (got, config) = (got.unwrap(), model.config());
        let twice = [&text[..], &text].concat();
        let priors = Priors::measure(&model, &text).unwrap();
        let reader = Reader { config, tokens: n, each: &mut |_, _| () };
        let mut spy = Spy(reader, Vec::new());
        let positions: Vec<u32> = (0..2 * n as u32).collect();
        model.forward(&twice, &positions, &mut spy).unwrap();
        let (d, heads) = (config.head_dim, config.heads);
        let tables = (0..LAYERS).map(|layer| model.key_bias(layer).map(<[f32]>::to_vec));
        let tables = tables.collect::<Option<Vec<_>>>().map(|biases| {
            KeyOffsetTables::new(&Device::host(), biases, [KV_HEADS, d], model.rope(0), n).unwrap()
        });
        // One KV head.
        for (layer, [q, k, v, out]) in spy.1.iter().enumerate() {
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
            for query in 0..2 * n {
                for member in 0..heads {
                    let q = &q[(query * heads + member) * d..][..d];
                    let dot =
                        |t: usize| (0..d).map(|i| f64::from(q[i]) * f64::from(k[t * d + i])).sum::<f64>();
                    let logits: Vec<f64> = (0..=query).map(|t| dot(t) / (d as f64).sqrt()).collect();
                    let top = logits.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = logits.iter().map(|x| (x - top).exp()).sum();
                    let shares: Vec<f64> = logits.iter().map(|x| (x - top).exp() / sum).collect();
                    for i in 0..d {
                        let seen = shares.iter().enumerate();
                        let right: f64 = seen.map(|(t, share)| share * f64::from(v[t * d + i])).sum();
                        let got = f64::from(out[(query * heads + member) * d + i]);
                        assert!(
                            (got - right).abs() < 1e-4 * (1.0 + right.abs()),
                            "query {query}: {got} {right}"
                        );
                    }
                    for (most, share) in most.iter_mut().zip(&shares).filter(|_| query >= n) {
                        *most = most.max(*share);
                    }
                }
            }
            for (token, (share, most)) in priors.of(layer, 0..n).iter().zip(&most).enumerate() {
                assert!(
                    (f64::from(*share) / most - 1.0).abs() < 1e-3,
                    "layer {layer}, token {token}: {most}"
                );
            }
            // What is predicted of the text itself is right in the mean.
            let mut plain = k[..n * d].to_vec();
            let positions: Vec<u32> = (0..n as u32).collect();
            model.rope(layer).unrotate(&mut plain, 1, &positions);
            let priors = got.probe.priors(layer, &plain, &v[..n * d], &positions);
            let mean = |log2: &dyn Fn(usize) -> f64| own.clone().map(log2).sum::<f64>() / own.len() as f64;
            let (found, right) = (mean(&|t| f64::from(priors[t].log2())), mean(&|t| most[t].log2()));
            assert!((found - right).abs() < 0.05, "layer {layer}: {found} {right}");
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
    fails(&ModelConfig { layers: 3, ..config.clone() }, "this model's is F32 [3, 1, 132]");
    let mut other = statistics.clone();
    other.probe.weights[1] = f32::NAN;
    other.write(&path, config).unwrap();
    fails(config, "no finite number");
    std::fs::write(&path, b"not such a file").unwrap();
    fails(config, "");
}

#[test]
fn texts_that_are_too_short_or_too_long_are_refused() {
    let model = tiny_model(3, WeightForm::Dense);
    for texts in [vec![], vec![text(4)], vec![text(20), text(CONTEXT / 2 + 1)]] {
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let error = Statistics::measure(&model, &texts, &mut |_, _| ());
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
                prompt_chunk: usize::MAX,
                chunks: 1,
                choices: choices.to_vec(),
                batch: 8,
                journal: None,
            };
            let report = evaluate(compiler(), &Device::host(), &model, &eval, &mut |_, _| ()).unwrap();
            let kl: Vec<f64> = report.configs.iter().skip(1).map(|c| c.figures.unwrap().kl.mean).collect();
            assert!(kl[0] < kl[1] && kl[1] < kl[2].max(1e-3), "bias {bias}: {kl:?}");
            assert!(!bias || kl[1] < kl[2] / 4.0, "{kl:?}");
        }
    }
    assert!(KvChoice::DEFAULT.parse::<KvChoice>().is_ok());
}

/// A model of which nothing is known.
fn biased_without(biased: &TinyFile, bias: bool) -> Model {
    if bias { biased.model(WeightForm::Dense).unwrap() } else { tiny_model(5, WeightForm::Dense) }
}
