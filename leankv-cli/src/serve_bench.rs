//! `leankv serve-bench`: the same requests over one KV budget, with each of several caches.

use indicatif::{ProgressBar, ProgressStyle};
use leankv_model::WeightForm;
use leankv_model::cache::{KvChoice, Limit, Room, open, page_bytes};
use leankv_model::serve::{Failed, Report, Request, Scheduler, ServeError, ServeOptions};
use leankv_runtime::{Compiler, Device};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::args::{self, Span};
use crate::failure::{Failure, at_path};
use crate::interrupt;
use crate::language::{self, Loaded, load, warn_beyond_f16};
use crate::table;
use crate::terminal;

/// Caches that are compared when none is named.
const USUAL: [&str; 3] = ["fp16", "K8V4", "@1/5"];

/// What was served, and how.
pub(crate) struct Served {
    model: String,
    requests: Vec<Request>,
    reports: Vec<(KvChoice, Report)>,
    /// The first request of which something was not finite, with the cache that it had.
    broken: Option<String>,
}

impl Served {
    /// Whether what the model computed for every request was finite.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.broken.as_ref().map_or(Ok(()), |broken| Err(Failure::kernel(broken)))
    }
}

/// What serving with one cache gave.
struct One {
    report: Report,
    broken: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &args::ServeBench, compiler: &Compiler) -> Result<(), Failure> {
    let served = measure(args, compiler)?;
    if args.json {
        print_json(args, &served.requests, &served.reports);
    } else {
        print(args, &served);
    }
    if interrupt::interrupted() {
        eprintln!("interrupted: caches that were not done are left out");
    }
    served.check()
}

/// Serves the same requests with each cache.
pub(crate) fn measure(args: &args::ServeBench, compiler: &Compiler) -> Result<Served, Failure> {
    let usual: Vec<String> = USUAL.map(str::to_owned).to_vec();
    let names = if args.kv.is_empty() { &usual } else { &args.kv };
    names.iter().try_for_each(|name| language::check_choice(name))?;
    let settings = language::settings(&args.settings)?;
    let text = std::fs::read_to_string(&args.text)
        .map_err(at_path(&args.text))
        .map_err(|f| f.help("prompts are pieces of a text: name one with `--text`"))?;
    let loaded = load(&args.model, WeightForm::Quantised, &args.settings)?;
    let known = |name: &String| language::choice_for(name, &settings, &loaded.name);
    let choices = names.iter().map(known).collect::<Result<Vec<_>, _>>()?;
    language::note_statistics(&loaded, &choices);
    let requests = requests(args, &loaded, &text)?;
    interrupt::watch();
    let mut reports: Vec<(KvChoice, Report)> = Vec::new();
    let mut broken = None;
    for choice in choices {
        let Some(one) = serve(args, &loaded, compiler, &choice, &requests)? else { break };
        warn_beyond_f16(&choice, &one.report.beyond_f16);
        broken = broken.or(one.broken);
        reports.push((choice, one.report));
    }
    Ok(Served { model: loaded.name, requests, reports, broken })
}

/// Pieces of a text, with lengths and places that the seed says.
fn requests(args: &args::ServeBench, loaded: &Loaded, text: &str) -> Result<Vec<Request>, Failure> {
    let tokens = loaded.tokenizer.encode(text, false).map_err(Failure::machine)?;
    let (Span { least, most }, output) = (args.prompt_tokens, args.output_tokens);
    if tokens.len() < most {
        let (path, len) = (args.text.display(), tokens.len());
        return Err(Failure::usage(format_args!("{path} has {len} tokens, and prompts have up to {most}"))
            .help("give a longer text with `--text`, or shorter prompts with `--prompt-tokens`"));
    }
    let context = loaded.model.config().context;
    if most.saturating_add(output.most) > context {
        return Err(Failure::usage(format_args!(
            "prompts of {most} and outputs of {} tokens are longer than the model's context of {context}",
            output.most
        )));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let mut one = || {
        let prompt = rng.random_range(least..=most);
        let at = rng.random_range(0..=tokens.len() - prompt);
        let output = rng.random_range(output.least..=output.most);
        Request { prompt: tokens[at..at + prompt].to_vec(), output }
    };
    Ok((0..args.requests).map(|_| one()).collect())
}

/// Serves the requests over one cache; none when that was interrupted.
fn serve(
    args: &args::ServeBench,
    loaded: &Loaded,
    compiler: &Compiler,
    choice: &KvChoice,
    requests: &[Request],
) -> Result<Option<One>, Failure> {
    let (model, device) = (&loaded.model, Device::host());
    let page = page_bytes(&choice.formats, model.config().head_dim).map_err(Failure::usage)?;
    if args.kv_memory < page {
        let bytes = args.kv_memory;
        return Err(Failure::usage(format_args!(
            "{bytes} bytes of KV memory are less than a page of {choice}, {page}"
        )));
    }
    let room = Room {
        requests: args.batch.min(requests.len()),
        tokens: args.prompt_tokens.most + args.output_tokens.most,
        prompt: args.prompt_tokens.most,
        chunk: args.chunk,
        bytes: Some(args.kv_memory),
    };
    let cache = open(compiler, &device, model, choice, &room).map_err(Failure::usage)?;
    let mut scheduler = Scheduler::new(model, &device, cache, choice, ServeOptions::default());
    let failure = |error: ServeError| match error {
        ServeError::Model(error) => language::failure(error),
        _ => Failure::usage(format_args!("{choice}: {error}")),
    };
    for request in requests {
        scheduler.submit(request.clone()).map_err(failure)?;
    }
    let bar = ProgressBar::new(requests.iter().map(|r| r.output as u64).sum());
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} tokens, {eta} left")
            .expect("internal error: the template is one"),
    );
    bar.set_message(choice.to_string());
    while scheduler.tick().map_err(failure)? {
        bar.set_position(scheduler.generated() as u64);
        if interrupt::interrupted() {
            bar.finish_and_clear();
            return Ok(None);
        }
    }
    bar.finish_and_clear();
    let findings = scheduler.cache().audit().map_err(Failure::machine)?;
    if let Some(finding) = findings.first() {
        return Err(Failure::kernel(format_args!("{choice}: the cache does not add up: {finding}")));
    }
    let mut done = scheduler.completions().iter();
    let broken = done.find_map(|done| match done.failed {
        Some(Failed::NonFinite(error)) => Some(format!("{choice}, request {}: {error}", done.number)),
        _ => None,
    });
    Ok(Some(One { report: scheduler.report(), broken }))
}

/// Tokens a second as a multiple of FP16's.
fn against_fp16(reports: &[(KvChoice, Report)], of: &Report) -> Option<f64> {
    let fp16 = reports.iter().find(|(choice, _)| *choice == KvChoice::fp16())?;
    Some(of.tokens_per_second / fp16.1.tokens_per_second)
}

/// What was asked for.
pub(crate) fn heading(args: &args::ServeBench, served: &Served) -> String {
    let sum = |of: fn(&Request) -> usize| served.requests.iter().map(of).sum::<usize>();
    format!(
        "{}: {} requests, {} tokens of prompts, {} to generate; {} bytes of KV memory; at most {} at once; chunks of {}",
        served.model,
        served.requests.len(),
        sum(|r| r.prompt.len()),
        sum(|r| r.output),
        args.kv_memory,
        args.batch.min(served.requests.len()),
        args.chunk,
    )
}

/// The columns of [`brief`].
pub(crate) const BRIEF: [&str; 11] = [
    "cache",
    "tokens/s",
    "to FP16",
    "mean batch",
    "peak",
    "preempted",
    "latency p50, p99",
    "model",
    "attention",
    "pages",
    "other",
];

/// One row a cache, for documents.
pub(crate) fn brief(served: &Served) -> Vec<Vec<String>> {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let row = |(choice, report): &(KvChoice, Report)| {
        vec![
            choice.to_string(),
            format!("{:.1}", report.tokens_per_second),
            against_fp16(&served.reports, report).map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            format!("{:.1}", report.mean_batch),
            report.peak_batch.to_string(),
            report.preemptions.to_string(),
            format!("{:.0} s, {:.0} s", report.latency.p50, report.latency.p99),
            percent(report.model_share),
            percent(report.attention_share),
            percent(report.pages_share),
            percent(report.other_share),
        ]
    };
    served.reports.iter().map(row).collect()
}

fn print(args: &args::ServeBench, served: &Served) {
    let Served { requests, reports, .. } = served;
    terminal::print(&heading(args, served));
    let mut table = table::table([
        "cache",
        "tokens/s",
        "to FP16",
        "with prompts",
        "mean batch",
        "peak",
        "preempted",
        "recomputed",
        "completed",
        "seconds",
    ]);
    for (choice, report) in reports {
        table.add_row([
            choice.to_string(),
            format!("{:.1}", report.tokens_per_second),
            against_fp16(reports, report).map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            format!("{:.1}", report.all_tokens_per_second),
            format!("{:.1}", report.mean_batch),
            report.peak_batch.to_string(),
            report.preemptions.to_string(),
            report.recomputed_tokens.to_string(),
            format!("{}/{}", report.completed, requests.len()),
            format!("{:.1}", report.seconds),
        ]);
    }
    table::numbers_from(&mut table, 1);
    println!("{table}\n");
    let mut table = table::table([
        "cache",
        "latency s",
        "first token s",
        "model",
        "attention",
        "pages",
        "other",
        "KV peak",
    ]);
    for (choice, report) in reports {
        let seconds = |l: &leankv_model::serve::Latencies| format!("{:.1} {:.1} {:.1}", l.p50, l.p90, l.p99);
        let percent = |share: f64| format!("{:.1}%", share * 100.0);
        table.add_row([
            choice.to_string(),
            seconds(&report.latency),
            seconds(&report.first_token),
            percent(report.model_share),
            percent(report.attention_share),
            percent(report.pages_share),
            percent(report.other_share),
            percent(report.peak_bytes as f64 / report.arena_bytes as f64),
        ]);
    }
    table::numbers_from(&mut table, 1);
    println!("{table}");
    terminal::print(
        "tokens/s: generated ones over wall time; with prompts: theirs too. recomputed: tokens of requests that were given up for lack of pages. \
         latency and first token: 50, 90 and 99 % of the requests, all of which come at once. model: matrix products and what is between them; \
         attention: the kernels that quantise, store and attend; pages: admission, plans, page management; KV peak: pages held after a step.",
    );
    if let Some(note) = not_kept(args, reports.iter().map(|(choice, _)| choice)) {
        terminal::print(&note);
    }
}

/// Which caches cannot keep to the part of FP16 that was asked for, since all sequences are short.
fn not_kept<'a>(args: &args::ServeBench, choices: impl Iterator<Item = &'a KvChoice>) -> Option<String> {
    let longest = args.prompt_tokens.most + args.output_tokens.most;
    let short = |choice: &&KvChoice| matches!(choice.limit, Limit::Part(_)) && longest <= choice.always.keep;
    let note = |choice: &KvChoice| {
        format!("* Not kept: {choice} drops no token of sequences of up to {longest}; {}.", choice.floor())
    };
    let notes: Vec<String> = choices.filter(short).map(note).collect();
    if notes.is_empty() { None } else { Some(notes.join("\n")) }
}

fn print_json(args: &args::ServeBench, requests: &[Request], reports: &[(KvChoice, Report)]) {
    let reports: Vec<_> = reports
        .iter()
        .map(|(choice, report)| {
            json!({ "kv": choice.to_string(), "to_fp16": against_fp16(reports, report), "report": report })
        })
        .collect();
    println!(
        "{:#}",
        json!({
            "model": args.model,
            "kv_memory": args.kv_memory,
            "requests": requests.len(),
            "seed": args.seed,
            "chunk": args.chunk,
            "batch": args.batch,
            "caches": reports,
        })
    );
}
