//! `leankv.toml`: what was calibrated for which model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{BadChoice, KvChoice, Limit, Registry};
use crate::tune::{Measured, Tuned};

/// The file's name where none is given: in the current folder.
pub const FILE: &str = "leankv.toml";

/// The paper's thresholds for its smallest model, for models that were not calibrated (LeanKV, section on calibration: Llama3-8B).
pub const PAPER: [f32; 2] = [1.0, 0.02];

/// The version that is written; all up to it are read.
const SCHEMA: u32 = 2;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of this form.
    pub schema_version: u32,
    /// By model.
    #[serde(default)]
    pub models: BTreeMap<String, Vec<Calibration>>,
    /// What was [tuned](crate::tune), by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tuned: BTreeMap<String, Tuned>,
}

/// One model's thresholds for one cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The cache, without a limit: formats, variants, policy.
    #[serde(alias = "tiering")]
    pub cache: KvChoice,
    /// The high threshold, a multiple of `1 / tokens`.
    pub high: f32,
    /// The low threshold, a multiple of `1 / tokens`.
    pub low: f32,
    /// The text that they were found on.
    pub text: String,
    /// Scored tokens.
    pub tokens: usize,
    /// KL divergence from FP16's predictions, in nats a token.
    pub kl: f64,
    /// Perplexity over that with FP16.
    pub perplexity_ratio: f64,
    /// How many times fewer bytes than FP16.
    pub compression: f64,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no such file.
    #[error("{}: {why}\n  correct it, or remove it and run `leankv calibrate` and `leankv tune bits` again", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { schema_version: SCHEMA, models: BTreeMap::new(), tuned: BTreeMap::new() }
    }
}

impl Settings {
    /// Reads a file; one that is not there is empty.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(path: &Path) -> Result<Settings, SettingsError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
            Err(error) => return Err(SettingsError::Io { path: path.to_owned(), error }),
        };
        let form = |why: String| SettingsError::Form { path: path.to_owned(), why };
        let mut settings: Settings = toml::from_str(&text).map_err(|e| form(e.to_string()))?;
        if !(1..=SCHEMA).contains(&settings.schema_version) {
            let found = settings.schema_version;
            return Err(form(format!("schema_version is {found}, and this program reads 1 to {SCHEMA}")));
        }
        settings.schema_version = SCHEMA;
        settings.check().map_err(form)?;
        Ok(settings)
    }

    /// Writes it, in one move: a reader sees the old file or the new one.
    ///
    /// # Errors
    /// [`SettingsError::Io`], and [`SettingsError::Form`] for numbers that [`Settings::read`] would refuse; the old file then stays.
    pub fn write(&self, path: &Path) -> Result<(), SettingsError> {
        self.check().map_err(|why| SettingsError::Form { path: path.to_owned(), why })?;
        let io = |error| SettingsError::Io { path: path.to_owned(), error };
        let text = toml::to_string(self).map_err(|e| io(std::io::Error::other(e)))?;
        let text = format!(
            "# Thresholds found by `leankv calibrate` ([[models.NAME]]), and formats found by `leankv tune bits` ([tuned.NAME], `--kv tuned`).\n\
             # `leankv run`, `leankv eval` and `leankv serve-bench` read this file.\n{text}"
        );
        replace(path, text.as_bytes()).map_err(io)
    }

    /// Whether every number is one that can have been found.
    fn check(&self) -> Result<(), String> {
        for c in self.models.values().flatten() {
            let Calibration { high, low, kl, perplexity_ratio, compression, .. } = *c;
            if !(0.0 <= low && low <= high && high.is_finite()) {
                return Err(format!("thresholds {high} and {low} are not 0 <= low <= high"));
            }
            let found = [("kl", kl), ("perplexity_ratio", perplexity_ratio), ("compression", compression)];
            if let Some((name, x)) = found.into_iter().find(|(_, x)| !(x.is_finite() && *x >= 0.0)) {
                return Err(format!("{name} is {x}, which is no finite number of at least 0"));
            }
            if c.tokens == 0 {
                return Err("nothing is found on 0 tokens".to_owned());
            }
        }
        for tuned in self.tuned.values() {
            if !(tuned.max_kl.is_finite() && tuned.max_kl >= 0.0) {
                return Err(format!("max_kl is {}, which is no finite number of at least 0", tuned.max_kl));
            }
        }
        for point in self.tuned.values().flat_map(|tuned| &tuned.points) {
            for measured in [&point.on, &point.held, &point.default_held] {
                let Measured { kl, over_fp16, compression, .. } = measured;
                let found = [kl.mean, kl.se, over_fp16.mean, over_fp16.se, *compression];
                if let Some(x) = found.into_iter().find(|x| !(x.is_finite() && *x >= 0.0)) {
                    return Err(format!("{}: {x} is no finite number of at least 0", point.cache));
                }
            }
        }
        Ok(())
    }

    /// What is known of a model and a cache, whatever its limit: what was calibrated for it, or else for its formats alone.
    pub fn get(&self, model: &str, cache: &KvChoice) -> Option<&Calibration> {
        let known = self.models.get(model)?;
        let of = |cache: &KvChoice| known.iter().find(|c| c.cache == *cache);
        of(&cache.unlimited()).or_else(|| of(&KvChoice::calibrated(cache.formats.clone())))
    }

    /// Thresholds of a model and a cache; the paper's where it was not calibrated.
    pub fn thresholds(&self, model: &str, cache: &KvChoice) -> [f32; 2] {
        self.get(model, cache).map_or(PAPER, |c| [c.high, c.low])
    }

    /// A cache by its text, with what is known of a model: calibrated thresholds, and for `tuned` and `tuned@1/N` the formats that were
    /// [found](crate::tune) for it.
    ///
    /// # Errors
    /// [`BadChoice`], also where nothing was tuned.
    pub fn choice(&self, registry: &Registry, model: &str, text: &str) -> Result<KvChoice, BadChoice> {
        let bad = |why: String| BadChoice { text: text.to_owned(), why };
        match tuned_part(text).map_err(bad)? {
            None => Ok(registry.parse(text)?.resolved(self, model)),
            Some(part) => {
                let found = self.tuned.get(model).and_then(|tuned| tuned.choice(part));
                found.ok_or_else(|| {
                    bad(format!(
                        "nothing was tuned for {model}: `leankv tune bits --model {model}` does it once"
                    ))
                })
            }
        }
    }

    /// Keeps a calibration in place of an earlier one.
    pub fn set(&mut self, model: &str, calibration: Calibration) {
        let of = self.models.entry(model.to_owned()).or_default();
        of.retain(|c| c.cache != calibration.cache);
        of.push(calibration);
    }
}

/// Writes a file in one move: a reader sees the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = leankv_runtime::staged_in(folder)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

/// The part of FP16 of `tuned@1/N`, or none of `tuned` alone, where a text is one of these.
///
/// # Errors
/// What is wrong with a text that begins so.
pub fn tuned_part(text: &str) -> Result<Option<Option<f32>>, String> {
    const TUNED: &str = "tuned";
    let text = text.trim();
    let Some((name, rest)) =
        text.split_at_checked(TUNED.len()).filter(|(name, _)| name.eq_ignore_ascii_case(TUNED))
    else {
        return Ok(None);
    };
    if rest.is_empty() {
        return Ok(Some(None));
    }
    let wrong = || format!("`{name}` takes a part of FP16 and nothing else: tuned, or tuned@1/8");
    if !rest.starts_with('@') {
        return Err(wrong());
    }
    // The default formats take any part that there can be, and say what is wrong with others.
    let choice = rest.parse::<KvChoice>().map_err(|error| error.why)?;
    match choice.limit {
        Limit::Part(part) if choice == KvChoice::default_within(part) => Ok(Some(Some(part))),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(high: f32) -> Calibration {
        Calibration {
            cache: "K8V4/K4V2".parse().unwrap(),
            high,
            low: 0.02,
            text: "a text".to_owned(),
            tokens: 512,
            kl: 0.02,
            perplexity_ratio: 1.01,
            compression: 3.5,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut settings = Settings::read(&path).unwrap();
        assert_eq!(settings, Settings::default());
        settings.set("a model", calibration(3.0));
        settings.set("a model", calibration(2.0));
        settings.write(&path).unwrap();
        let read = Settings::read(&path).unwrap();
        assert_eq!(read, settings);
        assert_eq!(read.thresholds("a model", &"K8V4/K4V2".parse().unwrap()), [2.0, 0.02]);
        assert_eq!(read.thresholds("another", &"K8V4/K4V2".parse().unwrap()), PAPER);
    }

    #[test]
    fn a_cache_has_its_own_thresholds_or_those_of_its_formats() {
        let of = |settings: &Settings, cache: &str| settings.thresholds("m", &cache.parse().unwrap());
        let mut settings = Settings::default();
        settings.set("m", calibration(3.0));
        assert_eq!(of(&settings, "K8V4/K4V2+hadamard"), [3.0, 0.02]);
        let cache = "K8V4/K4V2+hadamard".parse().unwrap();
        settings.set("m", Calibration { cache, ..calibration(2.0) });
        assert_eq!(of(&settings, "K8V4/K4V2+hadamard"), [2.0, 0.02]);
        assert_eq!(of(&settings, "K8V4/K4V2+hadamard@1/5"), [2.0, 0.02]);
        assert_eq!(of(&settings, "K8V4/K4V2"), [3.0, 0.02]);
        assert_eq!(of(&settings, "K8V4/K4V2:leankv-paper"), [3.0, 0.02]);
        assert_eq!(of(&settings, "K4V4/K4V2+hadamard"), PAPER);
    }

    #[test]
    fn a_file_that_says_tiering_is_read() {
        let entry = "schema_version = 1\n[[models.m]]\ntiering = 'K8V4/K4V2'\nhigh = 2.0\nlow = 0.5\n\
                     text = ''\ntokens = 1\nkl = 0.1\nperplexity_ratio = 1.0\ncompression = 1.0";
        let settings: Settings = toml::from_str(entry).unwrap();
        assert_eq!(settings.thresholds("m", &"K8V4/K4V2".parse().unwrap()), [2.0, 0.5]);
    }

    #[test]
    fn a_file_of_another_form_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let entry = |numbers: &str| {
            format!(
                "schema_version = 1\n[[models.m]]\ntiering = 'K8V4'\ntext = ''\nperplexity_ratio = 1.0\ncompression = 1.0\n{numbers}"
            )
        };
        for (numbers, why) in [
            ("high = nan\nlow = 0.2\ntokens = 1\nkl = 0.1", "low <= high"),
            ("high = 0.5\nlow = nan\ntokens = 1\nkl = 0.1", "low <= high"),
            ("high = inf\nlow = 0.2\ntokens = 1\nkl = 0.1", "low <= high"),
            ("high = 0.5\nlow = -0.1\ntokens = 1\nkl = 0.1", "low <= high"),
            ("high = 0.5\nlow = 0.2\ntokens = 1\nkl = nan", "kl is NaN"),
            ("high = 0.5\nlow = 0.2\ntokens = 0\nkl = 0.1", "0 tokens"),
        ] {
            std::fs::write(&path, entry(numbers)).unwrap();
            let error = Settings::read(&path).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("leankv calibrate"), "{error}");
        }
        std::fs::write(&path, entry("high = 0.5\nlow = 0.2\ntokens = 1\nkl = 0.1")).unwrap();
        let mut settings = Settings::read(&path).unwrap();
        settings.set("m", calibration(f32::NAN));
        assert!(matches!(settings.write(&path), Err(SettingsError::Form { .. })));
        assert!(Settings::read(&path).is_ok(), "the old file stays");
        for (text, why) in [
            ("schema_version = 3", "reads 1 to 2"),
            ("nothing", "expected"),
            ("schema_version = 1\nmodel = 3", "unknown field"),
            (
                "schema_version = 1\n[[models.m]]\ntiering = 'K8V4'\nhigh = 0.1\nlow = 0.2\ntext = ''\ntokens = 1\nkl = 0.1\nperplexity_ratio = 1.0\ncompression = 1.0",
                "low <= high",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Settings::read(&path).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("leankv calibrate"), "{error}");
        }
    }
}
