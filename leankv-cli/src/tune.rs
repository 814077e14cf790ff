//! `leankv tune`: formats of its own for every layer of a model, and specialisations of kernels.

mod kernel;
mod report;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use leankv_model::cache::KvChoice;
use leankv_model::eval::{Estimate, EvalError, JournalError, TextEval};
use leankv_model::settings::Settings;
use leankv_model::tune::{self, Measured, Point, Progress, Space, Stage, Tune, TuneError, TuneText, Tuned};
use leankv_runtime::kv::KvError;
use leankv_runtime::{Compiler, Device};

use crate::args::{self, Bits, TuneWhat};
use crate::eval::{bar, failure as eval_failure, over, shown, text_eval};
use crate::failure::Failure;
use crate::language::{self, Loaded, load};
use crate::{learn, table, terminal};

/// Runs the command.
pub(crate) fn run(args: &args::Tune, compiler: &Compiler) -> Result<(), Failure> {
    match &args.what {
        TuneWhat::Bits(args) => bits(args, compiler),
        TuneWhat::Kernel(args) => kernel::run(args, compiler),
        TuneWhat::Cache(args) => kernel::cache(args, compiler),
        TuneWhat::Show(args) => show(args),
        TuneWhat::Explain(args) => explain(args),
    }
}

/// Wrong requests are the command line's, the rest the model's or the machine's.
fn failure(error: TuneError) -> Failure {
    match error {
        TuneError::Space(_) => Failure::usage(error),
        TuneError::Eval(error) => eval_failure(error),
        TuneError::Journal(JournalError::OtherRun(path)) => Failure::usage(format_args!(
            "{} has the trials of another run: of another model, other texts, widths, codes, another effort, or other statistics of the model",
            path.display()
        ))
        .help("name another file with `--trials`, or remove it"),
        TuneError::Journal(error) => eval_failure(EvalError::Journal(error)),
    }
}

fn bits(args: &Bits, compiler: &Compiler) -> Result<(), Failure> {
    learn::check_writable(&args.settings)?;
    if !(args.max_kl.is_finite() && args.max_kl >= 0.0) {
        return Err(Failure::usage(format_args!(
            "a divergence of at most {}: give a number of at least 0",
            args.max_kl
        )));
    }
    Settings::read(&args.settings).map_err(Failure::usage)?;
    let loaded = load(&args.model, args.weights.form(), &args.settings)?;
    let tune = what(args, &loaded)?;
    if args.dry_run {
        return dry_run(&tune, &loaded, compiler);
    }
    let default: KvChoice = KvChoice::DEFAULT.parse().map_err(Failure::usage)?;
    language::note_statistics(&loaded, [&default]);
    let started = Instant::now();
    let mut watch = Watch::new();
    let found =
        tune::tune(compiler, &Device::host(), &loaded.model, &tune, &mut |progress| watch.see(progress));
    watch.end();
    let found = found.map_err(failure)?;
    print(&loaded.name, &found.tuned);
    if found.cut_short {
        println!("The time was over before the second round of sensitivities.");
    }
    // Read again: somebody else may have written to it meanwhile.
    let mut settings = Settings::read(&args.settings).map_err(Failure::usage)?;
    settings.tuned.insert(loaded.name.clone(), found.tuned.clone());
    settings.write(&args.settings).map_err(Failure::machine)?;
    println!("Written to {}: `--kv tuned`, `--kv tuned@1/8`", args.settings.display());
    println!("{:.0} s", started.elapsed().as_secs_f64());
    if let Some(path) = &args.report {
        report::write(path, &loaded.name, loaded.model.config().layers, &found)?;
        println!("report: {}", path.display());
    }
    Ok(())
}

/// What is tuned, on what.
fn what(args: &Bits, loaded: &Loaded) -> Result<Tune, Failure> {
    let mut bos = None;
    let mut read = |texts: &[PathBuf], skip: usize| {
        let one = |text: &PathBuf| {
            let on = args::On {
                model: args.model.clone(),
                text: text.clone(),
                ctx: loaded.model.config().context,
                prompt_chunk: usize::MAX,
                chunks: 1,
                skip,
                batch: 1,
                weights: args.weights,
                journal: None,
            };
            let TextEval { text, tokens, bos: begins, model, .. } = text_eval(&on, loaded)?;
            bos = begins;
            Ok::<_, Failure>((model, TuneText { name: format!("{text} from token {skip}"), tokens }))
        };
        texts.iter().map(one).collect::<Result<Vec<_>, Failure>>()
    };
    let on = read(&args.text, args.skip)?;
    let held = match args.held.is_empty() {
        true => read(&args.text, args.held_skip)?,
        false => read(&args.held, args.held_skip)?,
    };
    let model = on.first().map(|(model, _)| model.clone()).unwrap_or_default();
    let texts = |read: Vec<(String, TuneText)>| read.into_iter().map(|(_, text)| text).collect();
    let trials = || args.settings.with_file_name(format!("{}.trials.jsonl", loaded.name));
    let mut parts = args.parts.clone();
    parts.sort_by(f32::total_cmp);
    parts.dedup();
    let tune = Tune {
        model,
        bos,
        on: texts(on),
        held: texts(held),
        most_ctx: usize::MAX,
        space: Space { widths: args.widths.clone(), codes: args.codes.into(), ..Space::usual() },
        parts,
        effort: args.effort.into(),
        max_kl: args.max_kl,
        time: args.time,
        trials: Some(args.trials.clone().unwrap_or_else(trials)),
    };
    // What is held out must not have been looked at.
    let [used, _] = tune.tokens(&loaded.model);
    let same = args.held.is_empty() || args.held.iter().any(|held| args.text.contains(held));
    if same && args.held_skip < args.skip + used {
        let first = args.skip + used;
        return Err(Failure::usage(format_args!(
            "the held-out text begins at token {}, and choices are made on the tokens before {first} of the same file",
            args.held_skip
        ))
        .help(format_args!("`--held-skip {first}`, or other files with `--held`")));
    }
    Ok(tune)
}

/// Says what would be measured, and how long a few steps take.
fn dry_run(tune: &Tune, loaded: &Loaded, compiler: &Compiler) -> Result<(), Failure> {
    tune.check(&loaded.model).map_err(failure)?;
    let layers = loaded.model.config().layers;
    let plan = tune.plan(&loaded.model);
    let mut table = table::table(["stage", "caches", "scored tokens"]);
    for (stage, caches, tokens) in &plan {
        table.add_row([name(*stage).to_owned(), caches.to_string(), tokens.to_string()]);
    }
    table::numbers_from(&mut table, 1);
    println!("{table}");
    let widths = tune.space.widths.len() as f64;
    println!("{} layers: about 10^{:.0} ways to choose.", layers, 2.0 * layers as f64 * widths.log10());
    let speed = tune::speed(compiler, &Device::host(), &loaded.model, tune).map_err(failure)?;
    let seconds: f64 = plan.iter().map(|&(_, _, tokens)| tokens as f64 / speed).sum();
    println!(
        "About {:.0} minutes here, by the {speed:.0} tokens a second of a short trial.",
        (seconds / 60.0).ceil()
    );
    Ok(())
}

/// What is being measured, in words.
pub(crate) fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Sensitivity => "one side of one layer",
        Stage::Around => "the same, around what was found",
        Stage::Parts => "all layers, parts of FP16",
        Stage::Held => "the held-out text",
    }
}

/// Shows how far a run is: a bar, or a line a stage where there is no terminal.
struct Watch {
    bar: Option<indicatif::ProgressBar>,
    stage: Option<Stage>,
}

impl Watch {
    fn new() -> Watch {
        Watch { bar: None, stage: None }
    }

    fn see(&mut self, Progress { stage, done, all }: Progress) {
        if self.stage != Some(stage) {
            self.end();
            self.stage = Some(stage);
            match std::io::stderr().is_terminal() {
                true => self.bar = Some(bar(name(stage), all as u64)),
                false => eprintln!("{}: {all} scored tokens", name(stage)),
            }
        }
        if let Some(bar) = &self.bar {
            crate::eval::show(bar, done, all);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What `--kv` takes for a point.
pub(crate) fn call(point: &Point) -> String {
    format!("tuned@1/{}", point.part())
}

/// A mean with its standard error.
fn kl(estimate: Estimate) -> String {
    shown(estimate, 4)
}

fn print(model: &str, tuned: &Tuned) {
    terminal::print(&format!(
        "{model}: choices on {}, then measured on {}",
        tuned.texts.join(", "),
        tuned.held.join(", ")
    ));
    let columns = [
        "cache",
        "formats",
        "smaller",
        "KL",
        "KL, held out",
        "over FP16",
        "default: smaller",
        "KL, held out",
        "ratio",
    ];
    let mut table = table::table(columns);
    for point in &tuned.points {
        let Point { on, held, default_held, .. } = point;
        table.add_row([
            call(point),
            if point.is_by_layer() { "by layer" } else { "default" }.to_owned(),
            format!("{:.2}x", held.compression),
            kl(on.kl),
            kl(held.kl),
            over(held.over_fp16),
            format!("{:.2}x", default_held.compression),
            kl(default_held.kl),
            format!("{:.2}", held.kl.mean / default_held.kl.mean),
        ]);
    }
    table::numbers_from(&mut table, 2);
    println!("{table}");
    terminal::print(COLUMNS);
}

const COLUMNS: &str = "\
KL: on the texts that choices were made on; held out: on the others. default: the default formats, the same in all layers, for the same part of FP16; they are kept where nothing \
beats them by two standard errors on the held-out texts. \u{b1}: one standard error over the scored tokens. smaller: true bytes over the whole sequence.";

fn show(args: &args::ShowTuned) -> Result<(), Failure> {
    let mut known = language::settings(&args.settings)?.tuned;
    if let Some(only) = &args.model {
        known.retain(|model, _| model == only);
        if known.is_empty() {
            return Err(nothing(only));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&known).map_err(Failure::machine)?);
        return Ok(());
    }
    if known.is_empty() {
        println!("nothing was tuned yet: `leankv tune bits --model NAME`");
    }
    known.iter().for_each(|(model, tuned)| print(model, tuned));
    Ok(())
}

fn nothing(model: &str) -> Failure {
    Failure::usage(format_args!("nothing was tuned for {model}"))
        .help(format_args!("`leankv tune bits --model {model}` does it once"))
}

fn explain(args: &args::ExplainCache) -> Result<(), Failure> {
    language::check_choice(&args.cache)?;
    let settings = language::settings(&args.settings)?;
    let loaded = load(&args.model, args::Weights::Quantised.form(), &args.settings)?;
    let choice = language::choice_for(&args.cache, &settings, &loaded.name)?;
    let layers = loaded.model.config().layers;
    if let Some(layer) = choice.formats.last_named().filter(|&last| last >= layers) {
        return Err(language::failure(KvError::NoLayer { layer, layers }.into()));
    }
    terminal::print(&format!("{}: {choice}", loaded.name));
    let mut table = table::table(["layer", "high", "low"]);
    for layer in 0..layers {
        let tiering = choice.formats.of(layer);
        let low = tiering.low.map_or_else(String::new, |low| low.to_string());
        table.add_row([layer.to_string(), tiering.high.to_string(), low]);
    }
    println!("{table}");
    let point = settings
        .tuned
        .get(&loaded.name)
        .and_then(|tuned| tuned.points.iter().find(|point| point.cache == choice));
    if let Some(Point { held, default, default_held, .. }) = point {
        let of = |Measured { compression, kl: mean, over_fp16, .. }: &Measured| {
            format!("{compression:.2}x smaller, KL {}, perplexity {}", kl(*mean), over(*over_fp16))
        };
        terminal::print(&format!("On the held-out texts: {}; {default}: {}.", of(held), of(default_held)));
    }
    Ok(())
}
