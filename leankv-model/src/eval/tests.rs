//! What evaluation promises, on a tiny model.

use std::path::PathBuf;

use leankv_runtime::Device;

use super::{EvalError, JournalError, Report, TextEval, evaluate};
use crate::cache::{KvChoice, Limit};
use crate::calibrate::{Grid, calibrate};
use crate::statistics::Statistics;
use crate::testing::{LAYERS, TinyFile, compiler, tiny_model, tiny_model_with};
use crate::{Model, ModelError, Place, WeightForm};

const CTX: usize = 48;

fn eval(journal: Option<PathBuf>) -> TextEval {
    TextEval {
        model: "tiny".to_owned(),
        text: "squares".to_owned(),
        bos: None,
        tokens: (0..500u32).map(|i| i * i % 251).collect(),
        ctx: CTX,
        prompt_chunk: usize::MAX,
        chunks: 3,
        choices: vec!["K8V4/K4V2@1/3".parse().unwrap()],
        // One chunk at a time.
        batch: 1,
        journal,
    }
}

fn run(model: &Model, eval: &TextEval) -> Result<Report, EvalError> {
    evaluate(compiler(), &Device::host(), model, eval, &mut |_, _| ())
}

/// NaN from layer 1 on.
fn broken() -> Model {
    tiny_model_with(1, &mut |name, numbers| {
        if name == "blk.1.attn_norm.weight" {
            numbers[7] = f32::NAN;
        }
    })
}

#[test]
fn prompts_of_several_chunks_see_what_is_cached() {
    let model = tiny_model(1, WeightForm::Dense);
    let folder = tempfile::tempdir().unwrap();
    let choices = vec!["K2V2".parse().unwrap(), "K8V4/K4V2@1/3:peaks=100:reconstruct".parse().unwrap()];
    let whole = TextEval { choices, ..eval(Some(folder.path().join("run.jsonl"))) };
    let chunked = TextEval { prompt_chunk: 7, journal: None, ..whole.clone() };
    let [one, several] = [&whole, &chunked].map(|eval| run(&model, eval).unwrap());
    let of = |report: &Report, at: usize| report.configs[at].figures.unwrap().nll.mean;
    // FP16 is cached as it is; codes are not.
    assert!((of(&one, 0) - of(&several, 0)).abs() < 1e-3);
    assert!((of(&one, 1) - of(&several, 1)).abs() > 1e-3, "{} {}", of(&one, 1), of(&several, 1));
    assert!(several.configs[1].figures.unwrap().kl.mean > several.configs[2].figures.unwrap().kl.mean);
    let other = run(&model, &TextEval { journal: whole.journal.clone(), ..chunked.clone() });
    assert!(matches!(other, Err(EvalError::Journal(JournalError::OtherRun(_)))));
    assert_eq!((one.prompt_chunk, several.prompt_chunk), (None, Some(7)));
    // Nor are results taken for those with statistics of the model.
    let text: Vec<u32> = whole.tokens[..100].to_vec();
    let known = Statistics::measure(&model, &[&text], &mut |_, _| ()).unwrap();
    let (fingerprint, model) = (known.fingerprint(), model.with_statistics(known));
    assert!(matches!(run(&model, &whole), Err(EvalError::Journal(JournalError::OtherRun(_)))));
    assert_eq!(run(&model, &chunked).unwrap().statistics, Some(fingerprint));
}

/// In formats that take no means out.
#[test]
fn priors_that_are_predicted_or_measured_decide_what_stays() {
    let model = tiny_model(1, WeightForm::Dense);
    let names = ["K8V4@1/3:keep=0:window=4:peaks=1000", "K8V4@1/3:keep=0:window=4:peaks=1000:reconstruct"];
    let eval = TextEval { choices: names.map(|name| name.parse().unwrap()).to_vec(), ..eval(None) };
    let scores =
        |model: &Model| run(model, &eval).unwrap().configs.into_iter().map(|c| c.score).collect::<Vec<_>>();
    let plain = scores(&model);
    let text: Vec<u32> = eval.tokens[..100].to_vec();
    let known = Statistics::measure(&model, &[&text], &mut |_, _| ()).unwrap();
    let probed = scores(&model.with_statistics(known));
    assert_ne!(plain[1], plain[2], "a prompt that was read twice");
    assert_ne!(plain[1], probed[1], "a probe");
    assert_ne!(probed[1], probed[2], "measured in place of predicted");
    assert_eq!(plain[0], probed[0], "FP16 has no use for them");
}

#[test]
fn every_token_is_reported_and_the_means_are_theirs() {
    let report = run(&tiny_model(1, WeightForm::Quantised), &eval(None)).unwrap();
    for config in &report.configs {
        let (figures, score) = (config.figures.unwrap(), &config.score);
        assert_eq!([figures.tokens, score.nll.len(), score.kl.len()], [3 * CTX / 2; 3]);
        assert!(figures.nll.se > 0.0 && figures.perplexity.se > 0.0);
        let mean = score.nll.iter().map(|&x| f64::from(x)).sum::<f64>() / figures.tokens as f64;
        assert!((figures.perplexity.mean - mean.exp()).abs() < 1e-9);
        let fp16 = config.choice == KvChoice::fp16();
        assert_eq!([figures.kl.se, figures.over_fp16.se].map(|se| se > 0.0), [!fp16; 2], "{}", config.choice);
        assert!(!config.beyond_f16.any());
    }
    // As JSON, for whoever computes more of it.
    let text = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    for (read, config) in read.configs.iter().zip(&report.configs) {
        assert_eq!((&read.score, &read.memory), (&config.score, &config.memory));
        assert_eq!(read.score.figures(&read.score).unwrap().nll, config.figures.unwrap().nll);
    }
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["configs"][1]["score"]["kl"].as_array().unwrap().len(), 3 * CTX / 2);
}

#[test]
fn a_run_goes_on_from_its_journal_and_counts_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let (model, eval) = (tiny_model(1, WeightForm::Quantised), eval(Some(path.clone())));
    let report = run(&model, &eval).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 4);
    // Per token, here too.
    let line: serde_json::Value = serde_json::from_str(text.lines().nth(2).unwrap()).unwrap();
    let chunk = &line["of"]["caches"][1]["score"];
    let expected = &report.configs[1].score.nll[CTX / 2..CTX];
    let nll: Vec<f32> = serde_json::from_value(chunk["nll"].clone()).unwrap();
    assert_eq!(nll, expected);

    assert_eq!(run(&model, &eval).unwrap(), report, "nothing is left to measure");
    std::fs::write(&path, &text[..text.len() - 100]).unwrap();
    assert_eq!(run(&model, &eval).unwrap(), report, "the last chunk alone is measured again");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let fewer = TextEval { chunks: 2, ..eval.clone() };
    assert_eq!(run(&model, &fewer).unwrap().configs[0].score.nll, report.configs[0].score.nll[..CTX]);

    // The same name, and another text.
    let mut other = eval.clone();
    other.tokens.remove(0);
    let error = run(&model, &other).unwrap_err();
    assert!(matches!(error, EvalError::Journal(JournalError::OtherRun(_))), "{error}");
    let last = text.lines().last().unwrap();
    std::fs::write(&path, format!("{text}{last}\n")).unwrap();
    let error = run(&model, &eval).unwrap_err();
    assert!(matches!(error, EvalError::Journal(JournalError::Damaged { line: 5, .. })), "{error}");
}

#[test]
fn there_is_no_score_and_there_are_no_thresholds_of_what_is_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let model = broken();
    let first = |error: EvalError| match error {
        EvalError::Model(ModelError::NonFinite(error)) => error.place,
        other => panic!("{other}"),
    };
    let error = run(&model, &eval(Some(path.clone()))).unwrap_err();
    assert_eq!(first(error), Place::Projections(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1, "no piece is kept");

    let cache = "K8V4/K4V2".parse().unwrap();
    let grid = Grid { high: vec![0.0, 5.0], low: vec![0.0], max_kl: 0.03 };
    let found = |grid: &Grid, model: &Model| {
        calibrate(compiler(), &Device::host(), model, &eval(None), &cache, grid, &mut |_, _| ())
    };
    assert_eq!(first(found(&grid, &model).unwrap_err()), Place::Projections(1));
    let grid = Grid { max_kl: f64::NAN, ..grid };
    assert!(matches!(found(&grid, &tiny_model(1, WeightForm::Quantised)), Err(EvalError::Grid(_))));
}

#[test]
fn the_cache_that_breaks_is_named() {
    // Only tokens of the second half break, after the prompt that all caches share.
    let model = tiny_model_with(1, &mut |name, numbers| {
        if name == "token_embd.weight" {
            numbers[255 * crate::testing::DIM] = f32::INFINITY;
        }
    });
    let mut eval = eval(None);
    eval.tokens[CTX / 2 + 3] = 255;
    match run(&model, &eval).unwrap_err() {
        EvalError::Model(ModelError::InCache { cache, error }) => {
            assert_eq!((cache.as_str(), error.place), ("fp16", Place::Embedding));
            assert_eq!(error.position, Some((CTX / 2 + 3) as u32));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn choices_that_mean_nothing_are_refused_before_anything_runs() {
    for limit in [Limit::Part(f32::NAN), Limit::Part(0.0), Limit::Thresholds([f32::INFINITY, 0.0])] {
        for name in ["K8V4/K4V2", "K8V4@1/5:sink-window"] {
            let bad = KvChoice { limit, ..name.parse().unwrap() };
            let error =
                run(&tiny_model(1, WeightForm::Quantised), &TextEval { choices: vec![bad], ..eval(None) })
                    .unwrap_err();
            assert!(matches!(error, EvalError::Model(ModelError::Choice(_))), "{error}");
        }
    }
}

#[test]
fn a_bias_of_keys_is_taken_out_unless_the_choice_says_otherwise() {
    let mut file = TinyFile::new("qwen2", 3);
    for layer in 0..LAYERS {
        for (part, len, reach) in [("q", 128, 0.1), ("k", 64, 40.0), ("v", 64, 0.1)] {
            let bias = file.random(len, 0.0, reach);
            file.vector(&format!("blk.{layer}.attn_{part}.bias"), &bias);
        }
    }
    let model = file.model(WeightForm::Quantised).unwrap();
    let choices = ["K4V4", "K4V4+offset", "K4V4+plain"].map(|name| name.parse::<KvChoice>().unwrap());
    let report = run(&model, &TextEval { choices: choices.to_vec(), ..eval(None) }).unwrap();
    let kl: Vec<f64> = report.configs.iter().map(|config| config.figures.unwrap().kl.mean).collect();
    assert_eq!(kl[1], kl[2], "what suits the model");
    assert!(kl[3] > 2.0 * kl[1], "{kl:?}");
}
