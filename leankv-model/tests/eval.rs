//! Evaluation with a real model, SmolLM2-135M: `make test` fetches it.

use std::path::PathBuf;

use leankv_model::cache::KvChoice;
use leankv_model::eval::{
    EvalError, JournalError, Question, Questions, Report, ScoreError, TextEval, evaluate, run_tasks,
};
use leankv_model::tokenizer::Tokenizer;
use leankv_model::{Model, WeightForm, fetch};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::{Compiler, Device};

fn file() -> PathBuf {
    fetch::path("smollm2-135m").expect("fetch it: leankv fetch-model smollm2-135m")
}

fn tokenizer() -> Tokenizer {
    let mut file = std::io::BufReader::new(std::fs::File::open(file()).unwrap());
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
    Tokenizer::from_gguf(&content).unwrap()
}

fn choices(names: &[&str]) -> Vec<KvChoice> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn text_eval(names: &[&str]) -> TextEval {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/emma.txt")).unwrap();
    let text: String = text.chars().take(6000).collect();
    TextEval {
        model: "smollm2-135m".to_owned(),
        text: "emma".to_owned(),
        bos: None,
        tokens: tokenizer().encode(&text, false).unwrap(),
        ctx: 256,
        prompt_chunk: usize::MAX,
        chunks: 2,
        choices: choices(names),
        batch: 64,
        journal: None,
    }
}

fn run(model: &Model, eval: &TextEval) -> Result<Report, EvalError> {
    let compiler = Compiler::new(KernelCache::user());
    evaluate(&compiler, &Device::host(), model, eval, &mut |_, _| ())
}

#[test]
fn keys_matter_more_than_values_and_a_run_goes_on_where_it_was_cut_off() {
    let model = Model::load(&file(), WeightForm::Dense).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let journal = Some(folder.path().join("run.jsonl"));
    let eval = TextEval { journal, ..text_eval(&["K8V4", "K4V8", "K8V4/K4V2@1,0.02"]) };
    let report = run(&model, &eval).unwrap();

    let [fp16, k8v4, k4v8, two] = &report.configs[..] else { panic!("four caches") };
    let [of_fp16, of_k8v4, of_k4v8] = [fp16, k8v4, k4v8].map(|config| config.figures.unwrap());
    assert_eq!((of_fp16.tokens, fp16.score.tokens()), (256, 256));
    assert_eq!(fp16.score.kl, [0.0; 256]);
    assert_eq!((of_fp16.agreement.mean, of_fp16.over_fp16.mean), (1.0, 1.0));
    assert!((20.0..60.0).contains(&of_fp16.perplexity.mean), "{of_fp16:?}");
    assert_eq!(k8v4.memory.bytes, k4v8.memory.bytes);
    assert!(of_k8v4.kl.mean < 0.03, "{of_k8v4:?}");
    assert!(of_k8v4.kl.mean * 3.0 < of_k4v8.kl.mean, "{of_k8v4:?} {of_k4v8:?}");
    let sure = of_k4v8.kl.mean - of_k8v4.kl.mean;
    assert!(sure > 2.0 * of_k4v8.kl.se, "beyond what chance explains: {of_k8v4:?} {of_k4v8:?}");
    assert!(two.memory.bytes < k8v4.memory.bytes);
    let [high, low, pruned] = two.memory.shares();
    assert!((high + low + pruned - 1.0).abs() < 1e-9 && low > 0.0, "{high} {low} {pruned}");
    assert!(two.memory.compression() < two.memory.payload_compression());

    // The second chunk's line is torn: it alone is measured again, and alone it gives what it gave beside the first.
    let path = eval.journal.clone().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3);
    std::fs::write(&path, &text[..text.len() - 40]).unwrap();
    let mut told = Vec::new();
    let compiler = Compiler::new(KernelCache::user());
    let again = evaluate(&compiler, &Device::host(), &model, &eval, &mut |done, _| told.push(done)).unwrap();
    assert_eq!(told.first(), Some(&128), "the first chunk is not measured again");
    for (a, b) in report.configs.iter().zip(&again.configs) {
        assert_eq!(a.figures, b.figures, "{}", a.choice);
    }

    let other = TextEval { choices: choices(&["K8V8"]), ..eval };
    let error = run(&model, &other).unwrap_err();
    assert!(matches!(error, EvalError::Journal(JournalError::OtherRun(_))), "{error}");
}

#[test]
fn what_cannot_be_scored_is_said_before_anything_runs() {
    let model = Model::load(&file(), WeightForm::Quantised).unwrap();
    let eval = TextEval { chunks: 1000, ..text_eval(&[]) };
    assert!(matches!(run(&model, &eval), Err(EvalError::Short { chunks: 1000, .. })));
    assert!(matches!(run(&model, &TextEval { ctx: 8, ..eval }), Err(EvalError::Context(8))));
    let nothing = TextEval { chunks: 0, ..text_eval(&[]) };
    assert!(matches!(run(&model, &nothing), Err(EvalError::Score(ScoreError::Few(0)))));
    // It has no bias on its keys.
    let error = run(&model, &text_eval(&["K4V4+offset"])).unwrap_err().to_string();
    assert!(error.contains("leave +offset out"), "{error}");
}

#[test]
fn questions_are_answered_from_every_cache() {
    let model = Model::load(&file(), WeightForm::Dense).unwrap();
    let tokenizer = tokenizer();
    let ask = |text: &str, answer: &str| Question {
        prompt: tokenizer.encode(text, false).unwrap(),
        answer: answer.to_owned(),
    };
    let count = |from: u32, to: u32| {
        let numbers: Vec<String> = (from..to).map(|n| n.to_string()).collect();
        ask(&format!("{},", numbers.join(", ")), &to.to_string())
    };
    let questions = [count(1, 60), count(20, 91)];
    let task = Questions {
        name: "sequences",
        questions: &questions,
        prompt_chunk: usize::MAX,
        answer_tokens: 8,
        ends: tokenizer.eos(),
        decode: &|ids| tokenizer.decode(ids),
        complete: &|_| false,
        right: &|text, answer| text.trim_start().starts_with(answer),
    };
    let compiler = Compiler::new(KernelCache::user());
    let choices = choices(&["fp16", "K8V4", "K2V2"]);
    let scores = run_tasks(&compiler, &Device::host(), &model, &choices, &task, 2, &mut |_, _| ()).unwrap();
    assert!(scores.iter().all(|score| score.asked == 2), "{scores:?}");
    assert_eq!([scores[0].right, scores[1].right], [2, 2]);
    assert!(scores[2].memory.compression() > scores[1].memory.compression());
}
