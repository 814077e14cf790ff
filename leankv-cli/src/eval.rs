//! `leankv eval`: what compression does to a model.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use leankv_model::cache::{KvChoice, Limit};
use leankv_model::calibrate::{Found, Grid};
use leankv_model::eval::{
    ConfigReport, Estimate, EvalError, JournalError, Question, Questions, Report, TextEval, evaluate,
    run_tasks,
};
use leankv_model::settings::Settings;
use leankv_model::tasks::passkey::Passkey;
use leankv_model::tasks::{Case, arithmetic, passkey};
use leankv_runtime::{Compiler, Device};
use sha2::{Digest, Sha256};

use crate::args;
use crate::failure::{Failure, at_path};
use crate::language::{self, Loaded, load, warn_beyond_f16};
use crate::learn;
use crate::{plot, table, terminal};

/// Caches that are compared when none is named.
pub(crate) const USUAL: [&str; 11] = [
    "K8V8",
    "K8V4",
    "K4V8",
    "K4V4",
    "K8V2",
    "K4V2",
    "K2V4",
    "K8V4/K4V2",
    "K8V4/K4V2@1/3",
    "K8V4/K4V2@1/5",
    "K8V4/K4V2@1/8",
];

/// Runs the command.
pub(crate) fn run(args: &args::Eval, compiler: &Compiler) -> Result<(), Failure> {
    let started = Instant::now();
    let report = measure(args, compiler)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::machine)?);
    } else {
        print(&report);
        println!("{:.0} s on {}", started.elapsed().as_secs_f64(), Device::host().name());
    }
    Ok(())
}

/// Measures, and writes what is to be written.
pub(crate) fn measure(args: &args::Eval, compiler: &Compiler) -> Result<Report, Failure> {
    let loaded = load(&args.on.model, args.on.weights.form(), &args.settings)?;
    let settings = language::settings(&args.settings)?;
    let device = Device::host();
    let choices = choices(&args.kv, &settings, &loaded.name)?;
    let eval = TextEval { choices, ..text_eval(&args.on, &loaded)? };
    warn_of_calibration_text(&eval, &settings, &loaded.name);
    language::note_statistics(&loaded, &eval.choices);
    if eval.chunks == 0 && args.task.is_empty() {
        return Err(Failure::usage("no chunks and no task: there is nothing to measure"));
    }
    let mut report = match eval.chunks {
        0 => eval.unscored(&loaded.model),
        _ => {
            let bar = bar("scored tokens", eval.chunks as u64);
            let progress = &mut |done, all| show(&bar, done, all);
            let report = evaluate(compiler, &device, &loaded.model, &eval, progress);
            bar.finish_and_clear();
            report.map_err(failure)?
        }
    };
    report.configs.iter().for_each(|config| warn_beyond_f16(&config.choice, &config.beyond_f16));
    for task in &args.task {
        ask(args, *task, compiler, &device, &loaded, &mut report)?;
    }
    if let Some(path) = &args.out {
        write(path, &report)?;
    }
    if let Some(folder) = &args.plots {
        plot::draw(&report, folder)?;
    }
    Ok(report)
}

/// Thresholds look better than they are on the text that they were found on.
fn warn_of_calibration_text(eval: &TextEval, settings: &Settings, model: &str) {
    let same = |choice: &&KvChoice| {
        let found = settings.get(model, choice);
        found.is_some_and(|found| {
            found.text == eval.text && choice.limit == Limit::Thresholds([found.high, found.low])
        })
    };
    if let Some(choice) = eval.choices.iter().find(same) {
        eprintln!(
            "warning: {choice}: these thresholds were found on the text that is scored here; score another one"
        );
    }
}

/// Caches by name, with what was calibrated.
pub(crate) fn choices(names: &[String], settings: &Settings, model: &str) -> Result<Vec<KvChoice>, Failure> {
    let usual = || USUAL.iter().map(|&name| name.to_owned()).collect();
    let names: Vec<String> = if names.is_empty() { usual() } else { names.to_vec() };
    names.iter().map(|name| language::choice_for(name, settings, model)).collect()
}

/// The text of an evaluation, without its caches.
pub(crate) fn text_eval(on: &args::On, loaded: &Loaded) -> Result<TextEval, Failure> {
    let bytes = std::fs::read(&on.text).map_err(at_path(&on.text))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut tokens = loaded.tokenizer.encode(&text, false).map_err(Failure::machine)?;
    // The tokenizer puts a begin-of-sequence token first where the model wants one: every chunk then starts with it.
    let bos = loaded.tokenizer.bos().filter(|bos| tokens.first() == Some(bos));
    if bos.is_some() {
        tokens.remove(0);
    }
    let longest = loaded.model.config().context;
    if on.ctx > longest {
        let what = format!("a context of {} tokens: the model was trained for {longest}", on.ctx);
        return Err(Failure::usage(what));
    }
    let (length, hash) = fingerprint(&loaded.path)?;
    Ok(TextEval {
        model: format!("{} ({length} bytes, SHA-256 {hash}, {} weights)", loaded.name, on.weights.name()),
        text: format!("{} ({} bytes)", on.text.display(), bytes.len()),
        bos,
        tokens: tokens.split_off(on.skip.min(tokens.len())),
        ctx: on.ctx,
        prompt_chunk: on.prompt_chunk,
        chunks: on.chunks,
        choices: Vec::new(),
        batch: on.batch,
        journal: on.journal.clone(),
    })
}

/// A file's length and the beginning of its SHA-256: another model of the same name and length is another run.
fn fingerprint(path: &Path) -> Result<(u64, String), Failure> {
    let mut file = File::open(path).map_err(at_path(path))?;
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(at_path(path))? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
    Ok((length, hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()))
}

/// Wrong requests are the command line's, the rest the model's or the machine's.
pub(crate) fn failure(error: EvalError) -> Failure {
    match error {
        EvalError::Model(error) => language::failure(error),
        EvalError::Journal(
            JournalError::Io { .. } | JournalError::Damaged { .. } | JournalError::InUse(_),
        ) => Failure::machine(error),
        EvalError::Journal(_)
        | EvalError::Short { .. }
        | EvalError::Context(_)
        | EvalError::Grid(_)
        | EvalError::Score(_) => Failure::usage(error),
    }
}

pub(crate) fn bar(what: &'static str, all: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {elapsed} of about {duration}");
    let bar = ProgressBar::new(all).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

pub(crate) fn show(bar: &ProgressBar, done: usize, all: usize) {
    bar.set_length(all as u64);
    bar.set_position(done as u64);
}

/// Keys at depths from the beginning to the end of the text.
fn passkeys(args: &args::Eval, loaded: &Loaded) -> Result<Vec<Case>, Failure> {
    let count = |text: &str| loaded.tokenizer.encode(text, false).map_or(0, |ids| ids.len());
    let one = |at: usize| {
        let depth = (at as f64 + 0.5) / args.questions as f64;
        passkey::case(Passkey { tokens: args.passkey_tokens, depth, seed: args.seed + at as u64 }, count)
    };
    (0..args.questions).map(one).collect::<Result<_, _>>().map_err(Failure::usage)
}

/// Puts one kind of question to every cache.
fn ask(
    args: &args::Eval,
    kind: args::Task,
    compiler: &Compiler,
    device: &Device,
    loaded: &Loaded,
    report: &mut Report,
) -> Result<(), Failure> {
    let cases = match kind {
        args::Task::Arithmetic => {
            let mut cases = arithmetic::cases(arithmetic::shots());
            cases.truncate(args.questions);
            cases
        }
        args::Task::Passkey => passkeys(args, loaded)?,
    };
    let question = |case: &Case| {
        let prompt = loaded.tokenizer.encode(&case.prompt, false).map_err(Failure::machine)?;
        Ok::<_, Failure>(Question { prompt, answer: case.answer.clone() })
    };
    let questions: Vec<Question> = cases.iter().map(question).collect::<Result<_, _>>()?;
    let task = Questions {
        name: kind.name(),
        questions: &questions,
        prompt_chunk: args.on.prompt_chunk,
        answer_tokens: kind.answer_tokens(),
        ends: loaded.tokenizer.eos(),
        decode: &|ids| loaded.tokenizer.decode(ids),
        complete: &|text| match kind {
            args::Task::Arithmetic => arithmetic::is_complete(text),
            args::Task::Passkey => text.trim_start().contains([' ', '\n', '.']),
        },
        right: &|text, answer| match kind {
            args::Task::Arithmetic => arithmetic::check(text, answer),
            args::Task::Passkey => passkey::check(text, answer),
        },
    };
    let choices: Vec<KvChoice> = report.configs.iter().map(|config| config.choice.clone()).collect();
    let together = (args.on.batch / choices.len()).max(1);
    let bar = bar("questions", questions.len() as u64);
    let progress = &mut |done, all| show(&bar, done, all);
    let scores = run_tasks(compiler, device, &loaded.model, &choices, &task, together, progress);
    bar.finish_and_clear();
    for (config, score) in report.configs.iter_mut().zip(scores.map_err(language::failure)?) {
        config.tasks.push(score);
    }
    Ok(())
}

fn write(path: &Path, report: &Report) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    }
    let text = serde_json::to_string_pretty(report).map_err(Failure::machine)?;
    std::fs::write(path, text + "\n").map_err(at_path(path))
}

/// The columns of scored text.
const TEXT: [&str; 8] =
    ["perplexity", "over FP16", "KL", "top-1", "high/low/pruned", "bytes/token", "smaller", "codes alone"];

/// Whether a text was scored; else there are tasks alone.
fn has_text(report: &Report) -> bool {
    report.configs.iter().any(|config| config.figures.is_some())
}

/// The head of a report's table.
pub(crate) fn head(report: &Report) -> Vec<String> {
    let mut head = vec!["cache".to_owned()];
    if has_text(report) {
        head.extend(TEXT.map(str::to_owned));
    }
    for task in report.configs.first().map(|config| &config.tasks[..]).unwrap_or_default() {
        head.extend([format!("{}: right", task.task), "smaller".to_owned()]);
    }
    head
}

/// What the columns of a report's table mean.
pub(crate) const COLUMNS: &str = "\
KL and top-1: against FP16's predictions. \u{b1}: one standard error over the scored tokens; that of the perplexity over FP16 is of the
tokens' differences, so it is much smaller than that of either perplexity. bytes/token: true bytes of one KV head's token over the whole sequence: codes, scales, zero
points, significance, positions, page waste and page tables, sampled along the scored tokens. codes alone: as published figures count.";

/// What a report is of.
pub(crate) fn heading(report: &Report) -> String {
    let Some(figures) = report.configs.first().and_then(|config| config.figures) else {
        return format!("{}: questions, each with the likeliest token at every step", report.model);
    };
    let scored = figures.tokens;
    let chunks = report.prompt_chunk.map_or(String::new(), |n| format!(", in chunks of {n} tokens"));
    format!(
        "{}: {scored} scored tokens of {}, chunks of {}: the first half a prompt{chunks}, the second token by token",
        report.model, report.text, report.ctx
    )
}

/// The table.
pub(crate) fn print(report: &Report) {
    terminal::print(&heading(report));
    println!();
    let mut table = table::table([""]);
    table.set_header(head(report));
    for config in &report.configs {
        table.add_row(row(config));
    }
    table::numbers_from(&mut table, 1);
    println!("{table}");
    terminal::print(COLUMNS);
    if let Some(note) = not_kept(report) {
        terminal::print(&note);
    }
}

/// Which caches hold more than the part of FP16 that was asked for, and why.
pub(crate) fn not_kept(report: &Report) -> Option<String> {
    let more = |config: &&ConfigReport| match config.choice.limit {
        // Page tables come on top of what budgets count.
        Limit::Part(part) => config.memory.compression() < 0.97 * f64::from(part),
        Limit::Calibrated | Limit::Thresholds(_) => false,
    };
    let scored = report.configs.iter().filter(|config| config.figures.is_some());
    let notes: Vec<String> = scored
        .filter(more)
        .map(|config| {
            let (choice, holds) = (&config.choice, config.memory.compression());
            format!("* Not kept: {choice} holds 1/{holds:.1} of FP16; {}.", choice.floor())
        })
        .collect();
    if notes.is_empty() { None } else { Some(notes.join("\n")) }
}

/// A mean with its standard error.
pub(crate) fn shown(Estimate { mean, se }: Estimate, digits: usize) -> String {
    format!("{mean:.digits$} \u{b1} {se:.digits$}")
}

/// A share in per cent.
fn percent(Estimate { mean, se }: Estimate) -> Estimate {
    Estimate { mean: 100.0 * mean, se: 100.0 * se }
}

/// How much more than one a ratio is.
pub(crate) fn over(ratio: Estimate) -> String {
    let Estimate { mean, se } = percent(ratio);
    format!("{:+.2} \u{b1} {se:.2} %", mean - 100.0)
}

/// One cache's row of a report's table.
pub(crate) fn row(config: &ConfigReport) -> Vec<String> {
    let mut row = vec![config.choice.to_string()];
    if let Some(figures) = &config.figures {
        let memory = &config.memory;
        let shares = memory.shares().map(|share| format!("{:.0}", 100.0 * share)).join("/");
        row.extend([
            shown(figures.perplexity, 3),
            over(figures.over_fp16),
            shown(figures.kl, 4),
            format!("{} %", shown(percent(figures.agreement), 1)),
            format!("{shares} %"),
            format!("{:.1}", memory.bytes_per_token()),
            format!("{:.2}x", memory.compression()),
            format!("{:.2}x", memory.payload_compression()),
        ]);
    }
    for task in &config.tasks {
        row.extend([format!("{}/{}", task.right, task.asked), format!("{:.2}x", task.memory.compression())]);
    }
    row
}

/// The cache that thresholds are looked for, and what is tried, if all of it can be.
fn check_thresholds(args: &args::Calibrate) -> Result<(KvChoice, Grid), Failure> {
    let cache = language::choice(&args.kv)?;
    if !cache.formats.has_low() {
        return Err(Failure::usage(format_args!("`{cache}` has one tier; thresholds are between two"))
            .help("such as K8V4/K4V2"));
    }
    if cache.limit != Limit::Calibrated {
        return Err(Failure::usage(format_args!(
            "`{cache}` has a limit, and thresholds are what is looked for"
        ))
        .help(format!("leave it out: `{}`", cache.unlimited())));
    }
    if args.on.chunks == 0 {
        return Err(Failure::usage("thresholds are found on at least one chunk"));
    }
    if args.max_kl.is_nan() || args.max_kl < 0.0 {
        return Err(Failure::usage("a divergence is at least 0"));
    }
    let default = Grid::default();
    let grid = Grid {
        high: if args.high.is_empty() { default.high } else { args.high.clone() },
        low: if args.low.is_empty() { default.low } else { args.low.clone() },
        max_kl: args.max_kl,
    };
    grid.check().map_err(failure)?;
    Ok((cache, grid))
}

/// Finds thresholds and keeps them.
pub(crate) fn find_thresholds(args: &args::Calibrate, compiler: &Compiler) -> Result<Found, Failure> {
    let loaded = load(&args.on.model, args.on.weights.form(), &args.settings)?;
    Settings::read(&args.settings).map_err(Failure::usage)?;
    let (cache, grid) = check_thresholds(args)?;
    let eval = text_eval(&args.on, &loaded)?;
    let bar = bar("scored tokens", eval.chunks as u64);
    let progress = &mut |done, all| show(&bar, done, all);
    let found = leankv_model::calibrate::calibrate(
        compiler,
        &Device::host(),
        &loaded.model,
        &eval,
        &cache,
        &grid,
        progress,
    );
    bar.finish_and_clear();
    let found = found.map_err(failure)?;
    // Read again: somebody else may have written to it meanwhile.
    let mut settings = Settings::read(&args.settings).map_err(Failure::usage)?;
    settings.set(&loaded.name, found.calibration.clone());
    settings.write(&args.settings).map_err(Failure::machine)?;
    Ok(found)
}

/// `leankv calibrate`.
pub(crate) fn calibrate(args: &args::Calibrate, compiler: &Compiler) -> Result<(), Failure> {
    if args.only != Some(args::Calibrated::Statistics) {
        check_thresholds(args)?;
    }
    if args.only != Some(args::Calibrated::Thresholds) {
        learn::statistics(args)?;
    }
    if args.only == Some(args::Calibrated::Statistics) {
        return Ok(());
    }
    let found = find_thresholds(args, compiler)?;
    for round in &found.rounds {
        print(round);
        println!();
    }
    let c = &found.calibration;
    let taken = found.rounds[1]
        .configs
        .iter()
        .find(|config| config.choice.limit == Limit::Thresholds([c.high, c.low]));
    let figures = taken.and_then(|config| config.figures);
    if !found.within {
        println!(
            "Nothing diverged by {} at most; the nearest was taken. Try other formats, or a larger --max-kl.",
            args.max_kl
        );
    }
    println!(
        "{}: {} with thresholds {} and {}: KL {}, perplexity {}, {:.2}x smaller, on {} tokens. Written to {}",
        args.on.model,
        c.cache,
        c.high,
        c.low,
        figures.map_or_else(String::new, |f| shown(f.kl, 4)),
        figures.map_or_else(String::new, |f| over(f.over_fp16)),
        c.compression,
        c.tokens,
        args.settings.display()
    );
    Ok(())
}
