//! A language model that summarises a page of a novel, once with an FP16 cache and once with LeanKV's at a fifth of its bytes.

use std::path::Path;

use leankv_model::WeightForm;
use leankv_model::cache::KvChoice;
use leankv_model::generate::GenerateOptions;
use leankv_model::sample::Sampling;
use leankv_runtime::Compiler;

use crate::args;
use crate::failure::{Failure, at_path};
use crate::fetch_model;
use crate::language::{self, load};
use crate::run::{Took, continued};
use crate::table;
use crate::terminal;

const MODEL: &str = "smollm2-135m";
const CACHES: [&str; 2] = ["fp16", "@1/5"];
/// Bytes of the page, which ends with a paragraph: some 550 tokens.
const PAGE: usize = 2200;
const QUESTION: &str = "Summarise this text in three sentences.";
/// Tokens of a chunk of the prompt.
const CHUNK: usize = 512;
/// Most tokens of the answer.
const ANSWER: usize = 90;

/// What the model says with one cache.
pub(super) struct Answer {
    choice: KvChoice,
    text: String,
    took: Took,
    json: serde_json::Value,
}

/// Fetches the model, if it is not there yet, and asks it. No answers where it cannot be fetched: that is said, and is no failure.
pub(super) fn run(args: &args::Demo, compiler: &Compiler) -> Result<Vec<Answer>, Failure> {
    if let Err(error) = fetch_model::with_progress(MODEL) {
        eprintln!(
            "the language model {MODEL} is left out: {error}\nwhat follows was recorded from it before\n"
        );
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&args.text)
        .map_err(at_path(&args.text))
        .map_err(|f| f.help("run the demo in the project's folder, or name a text with `--text`"))?;
    let loaded = load(MODEL, WeightForm::Quantised, Path::new(leankv_model::settings::FILE))?;
    let page = page(&text);
    if page.is_empty() {
        return Err(Failure::usage(format_args!("{} is empty", args.text.display())));
    }
    let message = format!("{page}\n\n{QUESTION}");
    let prompt = loaded.tokenizer.encode_chat(&message).map_err(Failure::machine)?;
    if !args.json {
        println!(
            "{MODEL} is given the first page of {}, {} tokens, and asked: {QUESTION}\n",
            args.text.display(),
            prompt.len()
        );
    }
    let mut out = Vec::new();
    for name in CACHES {
        let choice = language::choice(name)?;
        let options = GenerateOptions {
            max_tokens: ANSWER,
            sampling: Sampling::GREEDY,
            stop: loaded.tokenizer.eos().to_vec(),
            reconstruct: choice.reconstruct,
        };
        let (generation, config) =
            continued(&loaded, compiler, &choice, &prompt, CHUNK, &options, &mut |_| true)?;
        let text = loaded.tokenizer.decode(&generation.tokens);
        let took = Took::new(&choice, &generation, &config, prompt.len());
        if !args.json {
            println!("{choice}:\n{}\n", indented(&text));
        }
        out.push(Answer { json: took.to_json(&choice, &text, &generation), choice, text, took });
    }
    Ok(out)
}

/// The table of bytes.
pub(super) fn print(answers: &[Answer]) {
    let Some(first) = answers.first() else { return };
    let mut table = table::table([
        "cache",
        "bytes",
        "smaller than FP16",
        "high",
        "low",
        "pruned",
        "tokens/s",
        "as the first",
    ]);
    for answer in answers {
        let took = &answer.took;
        let [high, low, pruned] = took.kept.map(|share| format!("{:.0}%", share * 100.0));
        table.add_row([
            answer.choice.to_string(),
            took.bytes.to_string(),
            format!("{:.2}x", took.compression()),
            high,
            low,
            pruned,
            format!("{:.1}", took.decode_rate),
            same_words(&first.text, &answer.text),
        ]);
    }
    table::numbers_from(&mut table, 1);
    println!("{table}");
    terminal::print(&format!(
        "bytes: whole pages and page table, after {} tokens; FP16 counts its payload alone. as the first: words from the beginning that are the same.",
        first.took.cached
    ));
    println!();
}

/// For the demo's JSON.
pub(super) fn to_json(answers: &[Answer]) -> serde_json::Value {
    answers.iter().map(|answer| answer.json.clone()).collect()
}

/// How many words two texts have in common at their beginnings.
fn same_words(a: &str, b: &str) -> String {
    let same = a.split_whitespace().zip(b.split_whitespace()).take_while(|(a, b)| a == b).count();
    format!("{same}/{}", a.split_whitespace().count())
}

/// The beginning of a text, up to a paragraph's end.
fn page(text: &str) -> &str {
    let from = text.floor_char_boundary(PAGE);
    let end = text[from..].find("\n\n").map_or(text.len(), |at| from + at);
    text[..end].trim()
}

fn indented(text: &str) -> String {
    let lines: Vec<String> =
        text.trim().lines().map(|line| format!("  {line}").trim_end().to_owned()).collect();
    lines.join("\n")
}
