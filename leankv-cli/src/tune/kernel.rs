//! `leankv tune kernel` and `leankv tune cache`: the fastest specialisations of kernels on a device.

use std::path::PathBuf;
use std::time::Duration;

use leankv_dsl::lang::Settings;
use leankv_dsl::target::Product;
use leankv_kernels::workload::Size;
use leankv_model::WeightForm;
use leankv_model::cache::{Room, open};
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{CacheConfig, PageManager as _};
use leankv_runtime::text::{join, suggestion};
use leankv_runtime::tune::{
    Effort, Found, Outcome, Ratio, TABLE_VARIABLE, TableError, Trial, TuneError, TunedTable, Tuner, written,
};
use leankv_runtime::{Compiler, Device};

use crate::args::{HowKernels, KernelEffort, TuneCache, TuneKernel};
use crate::failure::Failure;
use crate::workload::Subject;
use crate::{language, registry, select, table, terminal};

/// Where candidates run, or of what a model is asked.
enum Place {
    Device(Device),
    Model(Product),
}

/// `leankv tune kernel`.
pub(super) fn run(args: &TuneKernel, compiler: &Compiler) -> Result<(), Failure> {
    let name = &args.which.kernel;
    let small = Subject::new(name, Size::Small, &[], args.how.seed)?;
    let timed = Subject::new(name, Size::Typical, &args.shapes, args.how.seed)?;
    let pairs = select::settings(&args.which.set)?;
    registry::build(timed.kernel, &pairs)?;
    let settings: Settings = pairs.into_iter().collect();
    let how = How::new(&args.how)?;
    if args.dry_run {
        return dry_run(&timed, &settings);
    }
    if timed.workload(&settings).map_err(Failure::usage)?.grid().contains(&0) {
        return Err(Failure::usage(format_args!("with these sizes `{name}` has no programs to time")));
    }
    let watch = |trial: &Trial| {
        if !args.json {
            eprintln!("{}: {}", written(&trial.set), outcome(&trial.outcome));
        }
    };
    let tuner = how.tuner(compiler).sizes(timed.sizes()).watch(watch);
    let found = find(&tuner, &small, &timed, &settings)?;
    if args.json {
        println!("{:#}", serde_json::json!(found));
    } else {
        print(&found);
    }
    let kept = how.keep(&found)?;
    if !args.json {
        terminal::print(&kept);
    }
    Ok(())
}

/// `leankv tune cache`.
pub(super) fn cache(args: &TuneCache, compiler: &Compiler) -> Result<(), Failure> {
    let how = How::new(&args.how)?;
    let Place::Device(device) = &how.place else {
        return Err(Failure::usage("times of a GPU by name are modelled, and kept for no cache")
            .help("`leankv tune kernel` models one kernel"));
    };
    language::check_choice(&args.kv)?;
    let settings = language::settings(&args.settings)?;
    let loaded = language::load_alone(&args.model, WeightForm::Quantised)?;
    let choice = language::choice_for(&args.kv, &settings, &loaded.name)?;
    if choice.variants.is_some() {
        return Err(Failure::usage(format_args!(
            "{choice} has codecs or hooks of its own, for which there are no workloads to time"
        ))
        .help("tune the kernels of such a cache by `leankv_runtime::tune`"));
    }
    let model = loaded.model.config();
    let chunk = CHUNK.min(args.ctx);
    let room = Room { requests: 1, tokens: args.ctx, prompt: args.ctx, chunk, bytes: None };
    // As they are without a table, so that gains are over that.
    let cache = open(&Compiler::new(KernelCache::user()), device, &loaded.model, &choice, &room)
        .map_err(Failure::usage)?;
    let (lists, pages) = (model.layers * model.kv_heads, cache.manager().shape().table_len);
    let sizes = [
        ("requests", 1),
        ("lists", lists),
        ("pages", pages),
        ("layers", model.layers),
        ("kv_heads", model.kv_heads),
    ];
    let shapes = shapes(cache.config(), args.ctx, chunk);
    let mut table = table::table(["kernel", "tuned", "times as fast", "us", "candidates"]);
    let mut kept = String::new();
    for (name, settings) in cache.kernels().specialisations() {
        eprintln!("{name} ..");
        let small = Subject::new(&name, Size::Small, &[], args.how.seed)?;
        let known: Vec<&str> = small.sizes().map(|(name, _)| name).collect();
        let own = shapes.iter().filter(|(name, _)| known.contains(name));
        let own: Vec<String> = own.map(|(name, size)| format!("{name}={size}")).collect();
        let timed = Subject::new(&name, Size::Typical, &own, args.how.seed)?;
        let found = find(&how.tuner(compiler).sizes(sizes), &small, &timed, &settings)?;
        kept = how.keep(&found)?;
        table.add_row(row(name, &found));
    }
    println!("{table}");
    terminal::print(&kept);
    Ok(())
}

/// Sizes of the workloads of a cache's kernels, for one request.
fn shapes(config: &CacheConfig, ctx: usize, chunk: usize) -> [(&'static str, usize); 8] {
    // A cache that drops tokens holds about this much of them in its two tiers.
    let [high, low] = if config.formats.usual().low.is_some() { [ctx / 8, ctx / 4] } else { [ctx, 0] };
    [
        ("requests", 1),
        ("layers", config.layers.min(4)),
        ("lists", config.layers * config.kv_heads),
        ("kv_heads", config.kv_heads),
        ("tokens", high),
        ("low_tokens", low),
        ("queries", chunk),
        ("chunk_tokens", chunk),
    ]
}

/// What was found for one of a cache's kernels.
fn row(name: String, found: &Found<Settings>) -> [String; 5] {
    let time = found.trials.iter().rev().find_map(|trial| match trial.outcome {
        Outcome::Timed { microseconds, .. } if trial.set == found.set => Some(microseconds),
        _ => None,
    });
    let [tuned, gain] = match found.gain.low > 1.0 {
        true => [written(&found.set), ratio(&found.gain, found.modelled)],
        false => ["as it is".to_owned(), "-".to_owned()],
    };
    let time = time.map_or("-".to_owned(), |us| format!("{us:.1}"));
    [name, tuned, gain, time, format!("{} of {}", found.timed(), found.candidates)]
}

/// Tokens of a chunk of a prompt, as `leankv run` has them.
const CHUNK: usize = 512;

/// Where and how much.
struct How {
    place: Place,
    effort: Effort,
    time: Option<Duration>,
    /// Where what is measured is kept.
    table: Option<PathBuf>,
}

impl How {
    fn new(args: &HowKernels) -> Result<How, Failure> {
        let table = args.table.clone().or_else(TunedTable::user_path);
        let effort = match args.effort {
            KernelEffort::Quick => Effort::Quick,
            KernelEffort::Full => Effort::Full,
        };
        let place = place(&args.device)?;
        if let (Place::Device(_), Some(path)) = (&place, &table) {
            // Before anything is measured.
            TunedTable::check_writable(path).map_err(of_table)?;
        }
        Ok(How { place, effort, time: args.time, table })
    }

    fn tuner<'a>(&'a self, compiler: &'a Compiler) -> Tuner<'a> {
        let tuner = match &self.place {
            Place::Device(device) => Tuner::new(compiler, device),
            Place::Model(product) => Tuner::modelled(compiler, *product),
        };
        let tuner = tuner.effort(self.effort);
        match self.time {
            Some(time) => tuner.time(time),
            None => tuner,
        }
    }

    /// Keeps what was measured, also where nothing is faster; says where.
    fn keep(&self, found: &Found<Settings>) -> Result<String, Failure> {
        Ok(match &self.table {
            _ if found.modelled => "Modelled times are kept in no table.".to_owned(),
            _ if found.cut_short => "The search was cut short: kept in no table.".to_owned(),
            None => format!(
                "Kept in no table: {TABLE_VARIABLE} is empty, or there is no home folder; `--table` names one."
            ),
            Some(path) => {
                TunedTable::keep(path, found).map_err(of_table)?;
                format!("Kept in {}, where caches and `Compiler::load_tuned` find it.", path.display())
            }
        })
    }
}

/// A file that cannot be read or written is the machine's, what stands in it the caller's.
fn of_table(error: TableError) -> Failure {
    match error {
        TableError::Io { .. } => Failure::machine(error),
        _ => Failure::usage(error),
    }
}

fn find(
    tuner: &Tuner<'_>,
    small: &Subject,
    timed: &Subject,
    settings: &Settings,
) -> Result<Found<Settings>, Failure> {
    let checked = |settings: &Settings| small.workload(settings).map_err(|e| e.to_string());
    let large = |settings: &Settings| timed.workload(settings).map_err(|e| e.to_string());
    // SAFETY: these kernels reach memory by tiles of views and by what page tables say, and a recipe's sizes change how many there are of them and nothing else.
    let found = unsafe { tuner.tune_settings(timed.kernel, settings, &checked, &large) };
    found.map_err(|error| match error {
        TuneError::Nothing(_) => {
            Failure::usage(error).help("`leankv list KERNEL` shows which settings of a kernel can be tuned")
        }
        TuneError::NoClock(_) => Failure::usage(error),
        TuneError::Given { .. } => Failure::kernel(error),
    })
}

/// `host`, `cuda:0`, or a GPU by name.
fn place(name: &str) -> Result<Place, Failure> {
    if name == "host" {
        return Ok(Place::Device(Device::host()));
    }
    if let Some(ordinal) = name.strip_prefix("cuda:") {
        let ordinal = ordinal.parse().map_err(|_| {
            Failure::usage(format_args!("`--device {name}`: `{ordinal}` is no number of a GPU"))
                .help("such as `cuda:0`")
        })?;
        return Ok(Place::Device(Device::cuda(ordinal).map_err(Failure::machine)?));
    }
    let names: Vec<&str> = Product::ALL.iter().map(|product| product.name).collect();
    let known: Vec<&str> = ["host", "cuda:0"].into_iter().chain(names).collect();
    Product::named(name).map(Place::Model).ok_or_else(|| {
        Failure::usage(format_args!("there is no device `{name}`{}", suggestion(name, &known)).to_string())
            .help(format_args!("the devices are {}; times of GPUs by name are modelled", join(&known)))
    })
}

fn dry_run(subject: &Subject, settings: &Settings) -> Result<(), Failure> {
    let axes = Tuner::space(&subject.kernel.fields(), settings);
    if axes.is_empty() {
        return Err(Failure::usage(TuneError::Nothing(subject.kernel.name().to_owned())));
    }
    for (name, values) in &axes {
        println!("{name}: {}", values.join(", "));
    }
    let candidates: usize = axes.iter().map(|(_, values)| values.len()).product();
    let quick = Tuner::most_of_quick(candidates).min(candidates);
    println!("{candidates} candidates, valid or not; quick measures at most {quick} of them");
    Ok(())
}

fn print(found: &Found<Settings>) {
    let time = if found.modelled { "us, modelled" } else { "us" };
    let mut table = table::table(["candidate", time, "beside the best until then", ""]);
    for trial in &found.trials {
        let (time, ratio, what) = match &trial.outcome {
            Outcome::Timed { microseconds, beside_best, best } => (
                format!("{microseconds:.2}"),
                ratio(beside_best, found.modelled),
                if *best { "best until now".to_owned() } else { String::new() },
            ),
            other => ("-".to_owned(), "-".to_owned(), outcome(other)),
        };
        table.add_row([written(&trial.set), time, ratio, what]);
    }
    println!("{table}\n");
    terminal::print(&found.to_string());
    if found.cut_short {
        println!("The time was over before the search.");
    }
    let all: Vec<String> = found.best.iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!("--set {}", all.join(","));
}

/// With its interval, where there is one.
fn ratio(ratio: &Ratio, modelled: bool) -> String {
    let Ratio { median, low, high } = ratio;
    if modelled { format!("{median:.3}") } else { format!("{median:.3} ({low:.3} to {high:.3})") }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Timed { microseconds, beside_best, .. } => {
            format!("{microseconds:.2} us, {:.3} x the best until then", beside_best.median)
        }
        Outcome::SameCode { like } => format!("the same code as {}", written(like)),
        Outcome::Failed { why } => format!("not possible: {}", why.lines().next().unwrap_or_default()),
    }
}
