//! Language models by name or by file, and caches by their text.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use leankv_model::cache::{BadChoice, KvChoice, Registry};
use leankv_model::settings::{Settings, tuned_part};
use leankv_model::statistics::{self, Statistics};
use leankv_model::tokenizer::Tokenizer;
use leankv_model::{BeyondF16, Model, ModelError, WeightForm, fetch, gguf};
use leankv_runtime::kv::KvError;

use crate::failure::{Failure, at_path};

/// What `--kv` can name.
static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Takes what `--kv` can name, once.
pub(crate) fn take(registry: Registry) {
    // A process has one command line.
    let _ = REGISTRY.set(registry);
}

/// A cache by its text, of whatever model.
pub(crate) fn choice(text: &str) -> Result<KvChoice, Failure> {
    REGISTRY.get_or_init(Registry::builtin).parse(text).map_err(Failure::usage)
}

/// A cache by its text, with what is known of a model.
pub(crate) fn choice_for(text: &str, settings: &Settings, model: &str) -> Result<KvChoice, Failure> {
    settings.choice(REGISTRY.get_or_init(Registry::builtin), model, text).map_err(Failure::usage)
}

/// Whether a text names a cache, before a model is loaded.
pub(crate) fn check_choice(text: &str) -> Result<(), Failure> {
    match tuned_part(text).map_err(|why| BadChoice { text: text.to_owned(), why }).map_err(Failure::usage)? {
        Some(_) => Ok(()),
        None => choice(text).map(drop),
    }
}

/// A model, ready to run.
pub(crate) struct Loaded {
    /// Under which name settings know it.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// Weights.
    pub(crate) model: Model,
    /// Text to tokens and back.
    pub(crate) tokenizer: Tokenizer,
}

/// Loads a model: one that was fetched, by its name, or a GGUF file; with the statistics that stand beside `settings`, if there are any.
pub(crate) fn load(name: &str, form: WeightForm, settings: &Path) -> Result<Loaded, Failure> {
    let loaded = load_alone(name, form)?;
    let beside = statistics::path_of(settings, &loaded.name);
    let known = Statistics::read(&beside, loaded.model.config()).map_err(Failure::usage)?;
    Ok(match known {
        Some(statistics) => Loaded { model: loaded.model.with_statistics(statistics), ..loaded },
        None => loaded,
    })
}

/// Loads a model of which nothing is known.
pub(crate) fn load_alone(name: &str, form: WeightForm) -> Result<Loaded, Failure> {
    let path = find(name)?;
    // candle's errors bring a backtrace along where RUST_BACKTRACE asks for those of panics.
    let wrong = |error: &dyn std::fmt::Display| {
        let text = error.to_string();
        let message = text.split("\n   0: ").next().unwrap_or_default();
        Failure::usage(format_args!("{}: {message}", path.display()))
    };
    let mut reader = BufReader::new(File::open(&path).map_err(at_path(&path))?);
    let content = gguf::read_header(&mut reader).map_err(|e| wrong(&e))?;
    // First, since a model that is not run here mostly has a tokenizer that is not either.
    let model = Model::read(&content, &mut reader, form).map_err(|e| wrong(&e))?;
    let tokenizer = Tokenizer::from_gguf(&content).map_err(|e| wrong(&e))?;
    let name = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(Loaded { name, path, model, tokenizer })
}

/// What a model or its cache says: wrong requests are the command line's, numbers that are not finite the model's, the rest the machine's.
pub(crate) fn failure(error: ModelError) -> Failure {
    use KvError::{Budget, NoHead, NoLayer, Threshold};
    match error {
        ModelError::NonFinite(_) | ModelError::InCache { .. } => Failure::kernel(error),
        ModelError::Token { .. }
        | ModelError::Context { .. }
        | ModelError::Refused(_)
        | ModelError::Choice(_)
        | ModelError::Sampling(_)
        | ModelError::Kv(Threshold { .. } | NoHead { .. } | NoLayer { .. } | Budget { .. }) => {
            Failure::usage(error)
        }
        _ => Failure::machine(error),
    }
}

/// Says on standard error that caches would use what is learned of a model's attention, if nothing is.
pub(crate) fn note_statistics<'a>(loaded: &Loaded, choices: impl IntoIterator<Item = &'a KvChoice>) {
    let asked = choices.into_iter().any(KvChoice::asks_for_statistics);
    if asked && loaded.model.statistics().is_none() {
        let name = &loaded.name;
        eprintln!(
            "note: nothing is known of the attention of {name}, which costs much (SmolLM2-135M at an eighth of FP16: a KL of 0.12 in place of 0.02); `leankv calibrate --model {name} --only statistics` measures it once"
        );
    }
}

/// Says on standard error that numbers were beyond f16, if some were.
pub(crate) fn warn_beyond_f16(of: &dyn std::fmt::Display, beyond: &BeyondF16) {
    if let Some(warning) = beyond.warning() {
        eprintln!("warning: {of}: {warning}");
    }
}

/// What was calibrated. The usual file may not be there; one that was named has to be.
pub(crate) fn settings(path: &Path) -> Result<Settings, Failure> {
    if path != Path::new(leankv_model::settings::FILE) && !path.exists() {
        let what = format!("{}: there is no such file of settings", path.display());
        return Err(Failure::usage(what).help("`leankv calibrate --settings FILE` writes one"));
    }
    Settings::read(path).map_err(Failure::usage)
}

/// The file of a model.
fn find(name: &str) -> Result<PathBuf, Failure> {
    let as_path = Path::new(name);
    if as_path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) || as_path.is_file() {
        return Ok(as_path.to_owned());
    }
    if let Some(path) = fetch::path(name) {
        return Ok(path);
    }
    let names: Vec<&str> = fetch::KNOWN_MODELS.iter().map(|model| model.name).collect();
    Err(match names.contains(&name) {
        true => Failure::machine(format_args!("the model `{name}` is not here yet"))
            .help(format_args!("fetch it: leankv fetch-model {name}")),
        false => Failure::usage(format_args!("`{name}` is neither a known model nor a GGUF file"))
            .help(format_args!("known models: {}; or give the path of a .gguf file", names.join(", "))),
    })
}
